"""Servers that take uvloop by themselves run on taut under `taut run`.

Stand-ins with the shape of granian, gunicorn and Sanic, each preferring another loop; the servers
themselves run in tests/compat/apps.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import pytest
from programs import Python, python  # noqa: F401

ON_ASYNCIO = "taut: running on asyncio.unix_events._UnixSelectorEventLoop, not on taut"
KIND = """\
import asyncio
async def kind():
    print(type(asyncio.get_running_loop()).__module__)
"""
OTHER = """\
import asyncio
class Other(asyncio.DefaultEventLoopPolicy):
    "Stands in for uvloop's policy."
def other_loop():
    return asyncio.SelectorEventLoop()
"""
GRANIAN = """\
from other import other_loop
class Registry(dict):
    def register(self, key):
        return lambda builder: self.update({key: builder})
loops = Registry(auto=other_loop, other=other_loop)
"""
GUNICORN = """\
from other import other_loop
class Settings:
    def __init__(self, asgi_loop):
        self.asgi_loop = asgi_loop
class ASGIWorker:
    def __init__(self, choice):
        self.cfg = Settings(choice)
        self._setup_event_loop()
    def _setup_event_loop(self):
        self.loop = other_loop()
"""
SANIC = """\
import asyncio
from types import SimpleNamespace
from other import Other
class StartupMixin:
    def __init__(self, choice):
        self.config = SimpleNamespace(USE_UVLOOP=choice)
        self.setup_loop()
        self.loop = asyncio.new_event_loop()
    def setup_loop(self):
        if self.config.USE_UVLOOP is not False:
            asyncio.set_event_loop_policy(Other())
"""
SERVERS = {
    "granian": ("granian/_loops.py", GRANIAN),
    "gunicorn": ("gunicorn/workers/gasgi.py", GUNICORN),
    "sanic": ("sanic/mixins/startup.py", SANIC),
}
PROGRAMS = {
    "granian": "from granian._loops import loops\nloop = loops[{choice!r}]()\n",
    "gunicorn": (
        "from gunicorn.workers.gasgi import ASGIWorker\nloop = ASGIWorker({choice!r}).loop\n"
    ),
    "sanic": (
        "from sanic.mixins.startup import StartupMixin\nloop = StartupMixin({choice!r}).loop\n"
    ),
}
NOT_NAMED = {"granian": "auto", "gunicorn": "auto", "sanic": None}
NAMED = {"granian": "other", "gunicorn": "uvloop", "sanic": True}


def site(directory: Path, server: str, choice: object, source: str | None = None) -> None:
    """A stand-in for the server, and app.py, which runs a coroutine on the loop that it chose."""
    path, usual = SERVERS[server]
    module = directory / path
    module.parent.mkdir(parents=True)
    for package in Path(path).parents[:-1]:  # in front of the real one, should it be installed
        (directory / package / "__init__.py").touch()
    module.write_text(usual if source is None else source)
    (directory / "other.py").write_text(OTHER)
    program = PROGRAMS[server].format(choice=choice)
    (directory / "app.py").write_text(KIND + program + "loop.run_until_complete(kind())\n")


policies = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="the stand-in for uvloop's policy warns"
)


@policies
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_left_to_choose_runs_on_taut(python: Python, tmp_path: Path, server: str) -> None:
    site(tmp_path, server, NOT_NAMED[server])
    assert python("app.py").out == "asyncio.unix_events\n"
    done = python("-m", "taut", "run", "app.py")
    assert (done.status, done.out) == (0, "taut.loop\n"), done


@policies
@pytest.mark.parametrize("server", SERVERS)
def test_a_loop_named_to_a_server_is_used(python: Python, tmp_path: Path, server: str) -> None:
    site(tmp_path, server, NAMED[server])
    done = python("-m", "taut", "run", "app.py")
    assert (done.status, done.out) == (0, "asyncio.unix_events\n"), done
    assert done.err == f"{ON_ASYNCIO} (Python {platform.python_version()})\n"


@policies
def test_the_processes_that_a_server_starts_are_adapted_too(python: Python, tmp_path: Path) -> None:
    site(tmp_path, "granian", "auto")
    (tmp_path / "main.py").write_text(
        "import subprocess, sys\nsys.exit(subprocess.call([sys.executable, 'app.py']))\n"
    )
    done = python("-m", "taut", "run", "main.py")
    assert (done.status, done.out) == (0, "taut.loop\n"), done


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_of_another_shape_is_left_alone(
    python: Python, tmp_path: Path, server: str
) -> None:
    site(tmp_path, server, None, "value = 1\n")
    module = SERVERS[server][0].removesuffix(".py").replace("/", ".")
    (tmp_path / "app.py").write_text(f"import importlib\nimportlib.import_module({module!r})\n")
    done = python("-m", "taut", "run", "app.py")
    assert (done.status, done.err) == (0, "")


def test_a_missing_server_is_missing(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import granian._loops\n")
    (tmp_path / "granian").mkdir()
    (tmp_path / "granian" / "__init__.py").touch()
    done = python("-m", "taut", "run", "app.py")
    assert done.status == 1
    assert "No module named 'granian._loops'" in done.err


def test_forked_processes_say_their_own_loop(python: Python, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        KIND + "import os, sys\n"
        "asyncio.run(kind())\n"
        "for _ in range(2):\n"
        "    sys.stdout.flush()\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        asyncio.run(kind())\n"
        "        asyncio.run(kind())\n"
        "        sys.exit()\n"
        "    os.waitpid(child, 0)\n"
        "    print(child)\n"
    )
    # From 3.12 on fork() may warn of other threads, and the watchdog is one.
    done = python("-m", "taut", "run", "app.py", PYTHONWARNINGS="ignore::DeprecationWarning")
    children = re.findall(r"^\d+$", done.out, re.MULTILINE)
    assert len(children) == 2 and done.status == 0
    said = [line.rpartition(", process ")[2] for line in done.err.splitlines()]
    assert said[1:] == children and "process" not in said[0]
