"""What ``taut run`` changes in a process, and how the Python processes it starts inherit that."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from asyncio import events

from . import _runner, _servers, _uvicorn
from ._policy import install
from ._portable import NATIVE, Loop, say
from ._version import __version__

__all__ = ["activate", "export"]

# Children read this in _site/sitecustomize.py, which PYTHONPATH makes them find.
ENV_RUN = "TAUT_RUN"
_SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_site")

# What has been announced: by process too, since forked workers inherit this.
_said: set[tuple[int, type]] = set()


def activate(inherited: bool = False) -> None:
    """Switch this process over: the default loops of asyncio and of servers become taut's.

    The first run of each kind of loop is announced by one line on stderr, so that what is claimed
    is what runs. The line of a process other than the first one carries its id. `inherited`: this
    process was started by one under ``taut run``; forked ones are recognised.
    """
    install()
    sys.modules["uvicorn.loops.auto"] = _uvicorn
    _servers.adapt_when_imported()
    first = None if inherited else os.getpid()

    def announce(loop: asyncio.AbstractEventLoop) -> None:
        kind, process = type(loop), os.getpid()
        if (process, kind) in _said:
            return
        _said.add((process, kind))
        suffix = "" if process == first else f", process {process}"
        python = f"(Python {platform.python_version()})"
        if not isinstance(loop, Loop):
            say(f"running on {kind.__module__}.{kind.__qualname__}, not on taut {python}{suffix}")
        elif NATIVE:
            say(f"running on taut {__version__} {python}{suffix}")

    # A taut loop enters asyncio's running-loop slot from C, so it announces itself by its first
    # callback; every other loop passes through the function replaced here.
    def announce_when_run(loop: asyncio.AbstractEventLoop) -> None:
        if (os.getpid(), type(loop)) not in _said:
            loop.call_soon(announce, loop)

    set_running_loop = events._set_running_loop

    def announce_and_set(loop: asyncio.AbstractEventLoop | None, /) -> None:
        if loop is not None:
            announce(loop)
        set_running_loop(loop)

    _runner.on_new_loop = announce_when_run
    events._set_running_loop = announce_and_set
    asyncio._set_running_loop = announce_and_set


def export(args: list[str]) -> None:
    """Set up the environment for the Python processes that the program starts, and for uvicorn.

    `args`: the program's arguments; a ``--loop`` among them is an explicit choice of uvicorn's
    loop, and UVICORN_LOOP is then left alone.
    """
    os.environ[ENV_RUN] = "1"
    path = os.environ.get("PYTHONPATH")
    # An empty entry would mean the current directory.
    os.environ["PYTHONPATH"] = f"{_SITE}{os.pathsep}{path}" if path else _SITE
    if not any(arg == "--loop" or arg.startswith("--loop=") for arg in args):
        os.environ["UVICORN_LOOP"] = _uvicorn_loop()


def _uvicorn_loop() -> str:
    # uvicorn before 0.36 refuses names that it does not know; its "auto" is taut too (_uvicorn.py).
    from importlib import metadata

    try:
        major, minor = (int(n) for n in metadata.version("uvicorn").split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return "taut:new_event_loop"
    return "taut:new_event_loop" if (major, minor) >= (0, 36) else "auto"
