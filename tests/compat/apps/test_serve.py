"""Web servers serve on taut under load, and SIGTERM stops them: in time, with the status that they
end with on asyncio, no traceback, the requests in work answered and the application shut down."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from load import Load, get
from programs import Service, free_port
from sites import SITES
from tls_certs import Certs

import loops

TAUT = "taut.loop.Loop"
ASYNCIO = "asyncio.unix_events._UnixSelectorEventLoop"
STOP_S = 10.0


@dataclass(frozen=True)
class Server:
    """How a server is started; {port} is filled in."""

    command: str
    #: How it ends after SIGTERM. uvicorn ends by the signal itself.
    status: int = 0
    workers: int = 1
    #: Whether it closes WebSockets when it stops; else it waits for the clients to leave.
    closes_ws: bool = True
    #: Whether it closes connections that stay open and are in use, with the next answer.
    hangs_up: bool = True


BY_SIGNAL = -signal.SIGTERM
SERVERS = {
    "uvicorn-h11": Server("-m uvicorn asgi:app --http h11 --port {port}", status=BY_SIGNAL),
    "uvicorn-httptools": Server(
        "-m uvicorn asgi:app --http httptools --port {port}", status=BY_SIGNAL
    ),
    "uvicorn-workers": Server("-m uvicorn asgi:app --workers 2 --port {port}", workers=2),
    "fastapi": Server("-m uvicorn fast:app --port {port}", status=BY_SIGNAL),
    "litestar": Server("-m litestar --app star:app run --port {port}", status=BY_SIGNAL),
    "hypercorn": Server(
        "-m hypercorn asgi:app -b 127.0.0.1:{port}", closes_ws=False, hangs_up=False
    ),
    "granian": Server("-m granian --interface asgi asgi:app --port {port}"),
    "granian-workers": Server(
        "-m granian --interface asgi asgi:app --workers 2 --port {port}",
        workers=2,
    ),
    "aiohttp": Server("aio.py {port}", closes_ws=False),
    "sanic": Server("-m sanic sane:app --port {port}"),
    "sanic-workers": Server("-m sanic sane:app --port {port} --workers 2", workers=2),
    "gunicorn-uvicorn": Server(
        "-m gunicorn -k uvicorn_worker.UvicornWorker asgi:app -w 2 -b 127.0.0.1:{port}", workers=2
    ),
    "gunicorn-asgi": Server("-m gunicorn -k asgi asgi:app -b 127.0.0.1:{port}", closes_ws=False),
    "gunicorn-aiohttp": Server(
        "-m gunicorn -k aiohttp.GunicornWebWorker aio:app -b 127.0.0.1:{port}", closes_ws=False
    ),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, source in SITES.items():
        (tmp_path / name).write_text(source)
    return tmp_path


async def up(service: Service, port: int, workers: int) -> None:
    """Until every worker has started and the server answers."""

    def started() -> bool:
        assert service.process.poll() is None, service.text
        return service.text.count("site: up") >= workers

    await loops.until(started, "the site is up")
    end = time.monotonic() + loops.DEADLINE_S
    while True:
        try:
            await get(port)
            return
        except OSError:
            assert time.monotonic() < end, service.text
            await asyncio.sleep(0.01)


async def load_and_stop(service: Service, port: int, server: Server) -> Load:
    """Load, then SIGTERM in the middle of it with requests in work."""
    await up(service, port, server.workers)
    load = Load(port)
    clients = [asyncio.create_task(load.browse()) for _ in range(20)]
    chats = [asyncio.create_task(load.chat()) for _ in range(5)]

    def busy() -> bool:
        assert load.broken == []
        enough = load.answers > 500 and load.messages > 150
        return enough and len(load.pids) >= server.workers

    await loops.until(busy, "five hundred answers")
    if not server.closes_ws:
        load.stop_chatting = True
        await asyncio.gather(*chats)
    began = service.text.count("slow began")
    slow = [asyncio.create_task(get(port, "/slow")) for _ in range(5)]
    await loops.until(lambda: service.text.count("slow began") == began + 5, "requests in work")
    service.process.send_signal(signal.SIGTERM)
    load.stop_browsing = not server.hangs_up
    stopped = asyncio.create_task(asyncio.to_thread(service.process.wait, STOP_S))
    async with asyncio.timeout(STOP_S):
        answers = await asyncio.gather(*slow)
        await asyncio.gather(*clients, *chats)
        await stopped
    assert answers == [{"slow": True}] * 5
    return load


def serve(site: Path, command: list[str], server: Server, port: int) -> tuple[Load, Service]:
    with Service(*command, cwd=site, HOME=str(site)) as service:
        load = asyncio.run(load_and_stop(service, port, server))
    assert load.broken == []
    assert service.process.returncode == server.status, service.text
    assert "Traceback" not in service.text and "never awaited" not in service.text, service.text
    assert service.text.count("site: down") == server.workers
    return load, service


@pytest.mark.parametrize("loop", [ASYNCIO, TAUT])
@pytest.mark.parametrize("name", SERVERS)
def test_serves_under_load_and_stops(site: Path, name: str, loop: str) -> None:
    server, port = SERVERS[name], free_port()
    text = server.command.format(port=port)
    run = ["-m", "taut", "run"] if loop == TAUT else []
    if loop == ASYNCIO:  # what it takes where uvloop is not installed
        (site / "uvloop.py").write_text("raise ImportError('hidden by the test')\n")
    load, service = serve(site, [*run, *text.split()], server, port)
    assert load.loops == {loop}
    if loop == TAUT:
        assert "not on taut" not in service.text
        assert service.text.count("taut: running on taut") >= server.workers


IN_PROGRAMS = {
    "hypercorn": """\
import hypercorn.asyncio, hypercorn.config, signal, asyncio, taut
from asgi import app
async def main():
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:{port}"]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)
taut.run(main())
""",
    "uvicorn": """\
import uvicorn
uvicorn.run("asgi:app", port={port}, loop="taut:new_event_loop")
""",
    "aiohttp": """\
from aiohttp import web
import aio, taut
web.run_app(aio.app(), host="127.0.0.1", port={port}, loop=taut.new_event_loop())
""",
    "sanic": """\
import taut
from sane import app
taut.install()
app.config.USE_UVLOOP = False
if __name__ == "__main__":
    app.run(port={port})
""",
    "granian": """\
from granian import Granian, loops
import taut
@loops.register("auto")
def taut_loop():
    return taut.new_event_loop()
if __name__ == "__main__":
    Granian("asgi:app", port={port}, interface="asgi").serve()
""",
}


@pytest.mark.parametrize("name", IN_PROGRAMS)
def test_a_program_names_the_loop(site: Path, name: str) -> None:
    port = free_port()
    (site / "main.py").write_text(IN_PROGRAMS[name].replace("{port}", str(port)))
    server = Server(
        "",
        status=BY_SIGNAL if name == "uvicorn" else 0,
        closes_ws=name not in ("aiohttp", "hypercorn"),
        hangs_up=name != "hypercorn",
    )
    load, service = serve(site, ["main.py"], server, port)
    assert load.loops == {TAUT}
    assert "taut: running" not in service.text


def test_a_gunicorn_worker_names_the_loop(site: Path) -> None:
    port = free_port()
    (site / "worker.py").write_text(
        "from uvicorn_worker import UvicornWorker\n\n"
        "class TautWorker(UvicornWorker):\n"
        '    CONFIG_KWARGS = {"loop": "taut:new_event_loop"}\n'
    )
    command = f"-m gunicorn -k worker.TautWorker asgi:app -b 127.0.0.1:{port}"
    load, service = serve(site, command.split(), Server(""), port)
    assert load.loops == {TAUT}
    assert "taut: running" not in service.text


TLS = {
    "hypercorn": "-m hypercorn asgi:app -b 127.0.0.1:{port} --keyfile key.pem --certfile cert.pem",
    "granian": "-m granian --interface asgi asgi:app --port {port} "
    "--ssl-keyfile key.pem --ssl-certificate cert.pem",
    "uvicorn": "-m uvicorn asgi:app --port {port} --ssl-keyfile key.pem --ssl-certfile cert.pem",
}


async def ask_over_tls(service: Service, port: int, certs: Certs) -> str:
    """The protocol of the answers to httpx, once the server is up and all are right."""

    def listens() -> bool:
        assert service.process.poll() is None, service.text
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    await loops.until(listens, "the port is open")
    bodies = [os.urandom(n * 5001) for n in range(40)]
    url = f"https://localhost:{port}/"
    async with httpx.AsyncClient(
        http2=True, verify=certs.client(), trust_env=False, timeout=loops.DEADLINE_S
    ) as client:
        answers = await asyncio.gather(*(client.post(url, content=body) for body in bodies))
        assert [answer.content for answer in answers] == bodies
        about = await client.get(url)
        assert about.json()["loop"] == TAUT
        return str(about.http_version)


@pytest.mark.parametrize("name", TLS)
def test_serves_over_tls(site: Path, certs: Certs, name: str) -> None:
    port = free_port()
    shutil.copy(certs.path("localhost", "key"), site / "key.pem")
    shutil.copy(certs.path("localhost"), site / "cert.pem")
    command = TLS[name].format(port=port)
    with Service("-m", "taut", "run", *command.split(), cwd=site) as service:
        spoken = asyncio.run(asyncio.wait_for(ask_over_tls(service, port, certs), 60))
        assert service.stop() == (BY_SIGNAL if name == "uvicorn" else 0), service.text
    assert spoken == ("HTTP/1.1" if name == "uvicorn" else "HTTP/2")
    assert "Traceback" not in service.text
