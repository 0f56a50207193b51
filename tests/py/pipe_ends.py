"""Both ends of everything that a pipe transport can be on, for the tests of pipes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loops import Recorder

#: What a read transport and a write transport are tried on.
KINDS = ("pipe", "fifo", "socket", "pty")


class End:
    """A file descriptor under test as a pipe object, and how often it was closed."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closes = 0

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        self.closes += 1
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def make(kind: str, directory: Path) -> tuple[int, int]:
    """Descriptors to read from and to write to; blocking, as programs get them."""
    if kind == "pipe":
        return os.pipe()
    if kind == "fifo":
        path = directory / f"fifo{len(list(directory.iterdir()))}"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY)
        os.set_blocking(reader, True)
        return reader, writer
    if kind == "socket":
        one, two = socket.socketpair()
        return one.detach(), two.detach()
    master, slave = os.openpty()
    tty.setraw(slave)
    return master, slave


@contextlib.contextmanager
def ends(kind: str, directory: Path) -> Iterator[tuple[End, End]]:
    """The reading and the writing end, closed afterwards unless a transport has done so."""
    reader, writer = (End(fd) for fd in make(kind, directory))
    try:
        yield reader, writer
    finally:
        for end in (reader, writer):
            if end.fd >= 0:
                end.close()


def is_blocking(fd: int) -> bool:
    """Whether O_NONBLOCK is off."""
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


def drain(fd: int, size: int = 1 << 20) -> bytes:
    """What can be read now without waiting."""
    data = bytearray()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        while len(data) < size:
            chunk = os.read(fd, size - len(data))
            if not chunk:
                break
            data += chunk
    except (BlockingIOError, OSError):
        pass
    finally:
        os.set_blocking(fd, blocking)
    return bytes(data)


async def reading(pipe: Any, protocol: asyncio.BaseProtocol | None = None) -> tuple[Any, Any]:
    """A read transport and its protocol."""
    loop = asyncio.get_running_loop()
    return await loop.connect_read_pipe(lambda: protocol or Recorder(), pipe)


async def writing(pipe: Any, protocol: asyncio.BaseProtocol | None = None) -> tuple[Any, Any]:
    """A write transport and its protocol."""
    loop = asyncio.get_running_loop()
    return await loop.connect_write_pipe(lambda: protocol or Recorder(), pipe)


Connect = Callable[..., Any]
