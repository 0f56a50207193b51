"""Helpers of the loop tests. None of them sleeps: they wait on a state with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Factory = Callable[[], asyncio.AbstractEventLoop]
DEADLINE_S = 20.0

SPECS = {
    "asyncio": "asyncio:SelectorEventLoop",
    "uvloop": "uvloop:new_event_loop",
    "rloop": "rloop:new_event_loop",
    "rsloop": "rsloop:new_event_loop",
    "taut": "taut:new_event_loop",
}


def factory(name: str) -> Factory:
    """The loop factory of that name."""
    module, _, attribute = SPECS[name].partition(":")
    made: Factory = getattr(importlib.import_module(module), attribute)
    return made


def run(make: Factory, coro: Coroutine[Any, Any, T], debug: bool | None = None) -> T:
    """Runs a coroutine on a new loop, at most DEADLINE_S."""

    async def bounded() -> T:
        return await asyncio.wait_for(coro, DEADLINE_S)

    with asyncio.Runner(loop_factory=make, debug=debug) as runner:
        return runner.run(bounded())


async def until(condition: Callable[[], object], what: str = "condition") -> None:
    """Lets the loop turn until the condition holds. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not reached in {DEADLINE_S:g} s: {what}")
        await asyncio.sleep(0.001)


def script(name: str, code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a new process. `new_loop` and `loops` are there for it."""
    options.setdefault("timeout", DEADLINE_S * 2)
    options.setdefault("capture_output", True)
    return subprocess.run(command(name, code, *args), text=True, **options)


def command(name: str, code: str, *args: str) -> list[str]:
    """The command that runs Python code with `new_loop` of that implementation."""
    here = str(Path(__file__).parent)
    prelude = (
        f"import sys; sys.path.insert(0, {here!r})\n"
        "import asyncio, os, signal, socket, time, threading, gc, loops\n"
        f"new_loop = loops.factory({name!r})\n"
    )
    return [sys.executable, "-X", "faulthandler", "-c", prelude + textwrap.dedent(code), *args]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a script that must have ended well."""
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fd_count() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def thread_count() -> int:
    """Threads of this process, native ones included."""
    return len(os.listdir("/proc/self/task"))


def cpu_seconds() -> float:
    """CPU time of this process, user and system."""
    usage = os.times()
    return usage.user + usage.system


def reset(sock: socket.socket) -> None:
    """Closes a TCP socket so that the peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected non-blocking sockets, closed at the end."""
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    try:
        yield one, two
    finally:
        one.close()
        two.close()


class Recorder(asyncio.Protocol):
    """Notes every callback in order; `raises` names the callbacks that raise."""

    def __init__(self, raises: tuple[str, ...] = ()) -> None:
        self.calls: list[str] = []
        self.data = bytearray()
        self.raises = raises
        self.lost: list[BaseException | None] = []
        self.transport: Any = None

    def note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.raises:
            raise ZeroDivisionError(name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data_received")

    def eof_received(self) -> bool | None:
        self.note("eof_received")
        return None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)
        self.note("connection_lost")

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")


class Faults:
    """Collects what a loop gives to its exception handler."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.contexts: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: self.contexts.append(context))

    def exceptions(self) -> list[type[BaseException]]:
        return [type(context["exception"]) for context in self.contexts if "exception" in context]


async def serve(
    protocol: Callable[[], asyncio.BaseProtocol], **options: Any
) -> tuple[asyncio.Server, tuple[str, int]]:
    """A TCP server on a free port of 127.0.0.1 and its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname()


async def connected(loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Any) -> Any:
    """A transport over an already connected socket."""
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    return transport
