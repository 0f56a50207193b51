"""Helpers of the datagram tests: a protocol that notes everything, endpoints, plain peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import loops


class Notes(asyncio.DatagramProtocol):
    """Notes every callback in order; `raises` names the callbacks that raise."""

    def __init__(self, echo: bytes | None = None, raises: tuple[str, ...] = ()) -> None:
        self.echo = echo
        self.raises = raises
        self.calls: list[str] = []
        self.got: list[tuple[bytes, Any]] = []
        self.errors: list[BaseException] = []
        self.lost: list[BaseException | None] = []
        self.transport: Any = None

    def note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.raises:
            raise ZeroDivisionError(name)

    def data(self) -> list[bytes]:
        """What came, without the senders."""
        return [data for data, _ in self.got]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("connection_made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))
        if self.echo is not None:
            self.transport.sendto(self.echo + data, addr)
        self.note("datagram_received")

    def error_received(self, exc: BaseException) -> None:
        self.errors.append(exc)
        self.note("error_received")

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)
        self.note("connection_lost")


async def endpoint(protocol: Notes | None = None, **options: Any) -> tuple[Any, Notes]:
    """A datagram endpoint, on a free port of 127.0.0.1 unless told otherwise."""
    if not options:
        options["local_addr"] = ("127.0.0.1", 0)
    made = protocol if protocol is not None else Notes()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: made, **options
    )
    return transport, made


def address(transport: Any) -> Any:
    """Where an endpoint listens."""
    return transport.get_extra_info("sockname")


async def closed(transport: Any, protocol: Notes) -> None:
    """Closes the endpoint and waits for connection_lost()."""
    transport.close()
    await loops.until(lambda: protocol.lost, "connection_lost")


@contextlib.contextmanager
def plain(family: int = socket.AF_INET, bind: Any = ("127.0.0.1", 0)) -> Iterator[socket.socket]:
    """A plain non-blocking datagram socket, bound."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if bind is not None:
            sock.bind(bind)
        yield sock


def drain(sock: socket.socket) -> list[bytes]:
    """Every datagram that waits at a plain socket."""
    found = []
    while True:
        try:
            found.append(sock.recv(1 << 18))
        except BlockingIOError:
            return found


def refused_port() -> tuple[str, int]:
    """An address of 127.0.0.1 where nobody listens."""
    with plain() as sock:
        name: tuple[str, int] = sock.getsockname()
        return name
