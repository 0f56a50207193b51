"""uvicorn under `taut run`, with uvloop installed: every way to start it serves on taut's loop."""

from __future__ import annotations

import http.client
import os
import platform
import re
import signal
from pathlib import Path

import pytest
from programs import Service, free_port, wait_until

import taut

pytest.importorskip("uvicorn", reason="needs tests/requirements.txt")
pytest.importorskip("uvloop", reason="needs tests/requirements.txt: uvicorn prefers it when there")

ON_TAUT = f"taut: running on taut {taut.__version__} (Python {platform.python_version()})"
APP = """\
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = f"{type(asyncio.get_running_loop()).__module__} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def ask(port: int) -> tuple[str, int]:
    """The module of the loop that answers, and its process id."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        module, pid = connection.getresponse().read().decode().split()
        return module, int(pid)
    finally:
        connection.close()


def serving(service: Service, port: int, times: int = 1) -> None:
    service.wait_for(
        lambda text: text.count("Application startup complete") >= times and f":{port}" in text,
        "uvicorn is up",
    )
    wait_until(lambda: answers(port), "an answer")


def answers(port: int) -> bool:
    try:
        ask(port)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_taut_run_m_uvicorn(site: Path, http: str) -> None:
    port = free_port()
    run = ["-m", "taut", "run", "-m", "uvicorn", "app:app", "--port", str(port), "--http", http]
    with Service(*run, cwd=site) as service:
        serving(service, port)
        assert ask(port) == ("taut.loop", service.process.pid)
        assert service.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert service.text.count(ON_TAUT + "\n") == 1
    assert service.text.count("taut: running") == 1
    assert "Application shutdown complete" in service.text
    assert "Traceback" not in service.text


def test_ctrl_c(site: Path) -> None:
    port = free_port()
    with Service(
        "-m", "taut", "run", "-m", "uvicorn", "app:app", "--port", str(port), cwd=site
    ) as service:
        serving(service, port)
        assert service.stop(signal.SIGINT) in (0, 1, -signal.SIGINT, 130)
    assert "Application shutdown complete" in service.text
    assert "Traceback" not in service.text


def test_a_loop_named_by_the_user_is_used_and_said(site: Path) -> None:
    port = free_port()
    run = ["-m", "taut", "run", "-m", "uvicorn", "app:app", "--port", str(port)]
    with Service(*run, "--loop", "uvloop", cwd=site) as service:
        serving(service, port)
        assert ask(port)[0] == "uvloop"
    assert "taut: running on uvloop.Loop, not on taut " in service.text
    assert service.text.count("taut: running") == 1


def test_without_taut_run_the_loop_can_be_named(site: Path) -> None:
    port = free_port()
    run = ["-m", "uvicorn", "app:app", "--port", str(port), "--loop", "taut:new_event_loop"]
    with Service(*run, cwd=site) as service:
        serving(service, port)
        assert ask(port)[0] == "taut.loop"
    assert "taut: running" not in service.text


def test_a_script_that_calls_uvicorn(site: Path) -> None:
    port = free_port()
    (site / "serve.py").write_text(f"import uvicorn\nuvicorn.run('app:app', port={port})\n")
    with Service("-m", "taut", "run", "serve.py", cwd=site) as service:
        serving(service, port)
        assert ask(port)[0] == "taut.loop"
    assert service.text.count("taut: running") == service.text.count(ON_TAUT + "\n") == 1


def test_a_script_that_names_another_loop(site: Path) -> None:
    port = free_port()
    (site / "serve.py").write_text(
        f"import uvicorn\nuvicorn.run('app:app', port={port}, loop='asyncio')\n"
    )
    with Service("-m", "taut", "run", "serve.py", cwd=site) as service:
        serving(service, port)
        assert ask(port)[0] == "asyncio.unix_events"
    assert re.findall("taut: .*", service.text) == [
        "taut: running on asyncio.unix_events._UnixSelectorEventLoop, not on taut "
        f"(Python {platform.python_version()})"
    ]


def test_a_coroutine_function_that_serves(site: Path) -> None:
    port = free_port()
    (site / "serve.py").write_text(
        "import uvicorn\n"
        "async def main():\n"
        f"    await uvicorn.Server(uvicorn.Config('app:app', port={port})).serve()\n"
    )
    with Service("-m", "taut", "run", "serve:main", cwd=site) as service:
        serving(service, port)
        assert ask(port) == ("taut.loop", service.process.pid)


@pytest.mark.parametrize("how", ["command", "script"])
def test_workers(site: Path, how: str) -> None:
    port = free_port()
    run = ["-m", "uvicorn", "app:app", "--port", str(port), "--workers", "2"]
    if how == "script":
        (site / "serve.py").write_text(
            "import uvicorn\n"
            "if __name__ == '__main__':\n"
            f"    uvicorn.run('app:app', port={port}, workers=2)\n"
        )
        run = ["serve.py"]
    with Service("-m", "taut", "run", *run, cwd=site) as service:
        serving(service, port, times=2)
        seen: dict[int, str] = {}

        def both() -> bool:
            module, pid = ask(port)
            seen[pid] = module
            return len(seen) == 2

        wait_until(both, "an answer of each worker")
        assert set(seen.values()) == {"taut.loop"}
        assert service.process.pid not in seen
        assert service.stop() in (0, -signal.SIGTERM)
    lines = re.findall("taut: .*", service.text)
    assert sorted(lines) == sorted(f"{ON_TAUT}, process {pid}" for pid in seen)


def test_reload(site: Path) -> None:
    port = free_port()
    run = ["-m", "uvicorn", "app:app", "--port", str(port), "--reload", "--reload-delay", "0.05"]
    with Service("-m", "taut", "run", *run, cwd=site) as service:
        serving(service, port)
        module, first = ask(port)
        assert module == "taut.loop" and first != service.process.pid
        app = site / "app.py"
        app.write_text(APP + "\n")
        os.utime(app, (2**31, 2**31))
        serving(service, port, times=2)
        module, second = ask(port)
        assert module == "taut.loop" and second != first
    assert service.text.count(ON_TAUT) == 2


def test_the_stall_of_an_endpoint_is_reported(site: Path) -> None:
    (site / "slow.py").write_text(
        "import time\n"
        "from app import app as quick\n\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        time.sleep(0.3)  # the culprit\n"
        "    await quick(scope, receive, send)\n"
    )
    port = free_port()
    run = ["run", "--stall", "20ms", "-m", "uvicorn", "slow:app", "--port", str(port)]
    with Service("-m", "taut", *run, cwd=site) as service:
        serving(service, port)
        service.wait_for(lambda text: re.search(r"slow\.py\D+6\b", text), "a stall report")
