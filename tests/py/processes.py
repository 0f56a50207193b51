"""What the tests of child processes share."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import loops

SH = "/bin/sh"


async def output(*command: Any, **options: Any) -> tuple[int, bytes]:
    """Exit code and standard output of a program."""
    options.setdefault("stdout", asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(*command, **options)
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out


async def sh(script: str, **options: Any) -> bytes:
    """Standard output of a shell script that must end well."""
    code, out = await output(SH, "-c", script, **options)
    assert code == 0, (code, out)
    return out


async def python(code: str, **options: Any) -> bytes:
    """Standard output of Python code that must end well."""
    exit_code, out = await output(sys.executable, "-S", "-c", code, **options)
    assert exit_code == 0, (exit_code, out)
    return out


def state(pid: int) -> str:
    """The state letter of a process, Z for a zombie; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1].decode()
    except FileNotFoundError:
        return ""


def end(pid: int) -> None:
    """Kills a process of the test, if it still runs."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Recorder(asyncio.SubprocessProtocol):
    """Notes every callback in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.data = {1: bytearray(), 2: bytearray()}
        self.done = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.calls.append("connection_made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.data[fd] += data
        self.calls.append(("pipe_data_received", fd))

    def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self.calls.append(("pipe_connection_lost", fd, exc))

    def process_exited(self) -> None:
        self.calls.append("process_exited")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append(("connection_lost", exc))
        self.done.set_result(None)


async def recorded(*command: str, **options: Any) -> tuple[Any, Recorder]:
    """Transport and protocol of a program under way."""
    loop = asyncio.get_running_loop()
    return await loop.subprocess_exec(Recorder, *command, **options)


async def gone(pid: int) -> None:
    """Waits until a process is no more, not even as a zombie."""
    await loops.until(lambda: not state(pid), f"process {pid} is gone")
