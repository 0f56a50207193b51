"""Datagrams that were sent before something else happened in the same turn: found by the stateful
tests. What test_regress_written.py is for streams."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from loops import Factory, run, until


class Recorder(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("connection_lost")

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")


async def pair(protocol: Any, directory: Path) -> tuple[Any, socket.socket]:
    """An endpoint with a remote address, and the socket there: one that can be full."""
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    theirs.bind(str(directory / "theirs"))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: protocol,
        local_addr=str(directory / "ours"),
        remote_addr=str(directory / "theirs"),
        family=socket.AF_UNIX,
    )
    return transport, theirs


def received(sock: socket.socket) -> list[bytes]:
    """All that is there."""
    found = []
    while True:
        try:
            found.append(sock.recv(1 << 16))
        except BlockingIOError:
            return found


def test_nothing_is_sent_after_close_has_sent_all(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol, tmp_path)
        transport.sendto(b"one")
        transport.sendto(b"two")
        transport.close()
        transport.sendto(b"three")
        await until(lambda: protocol.calls, "the end")
        assert protocol.calls == ["connection_lost"]
        assert received(theirs) == [b"one", b"two"]
        theirs.close()

    run(factory, main())


def test_limits_count_only_what_the_kernel_did_not_take(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol, tmp_path)
        transport.sendto(b"one")
        transport.sendto(b"two")
        transport.set_write_buffer_limits(0)
        await asyncio.sleep(0)
        assert protocol.calls == []
        assert received(theirs) == [b"one", b"two"]
        transport.close()
        theirs.close()
        await until(lambda: protocol.calls, "the end")

    run(factory, main())


def test_higher_limits_resume_when_datagrams_leave(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol, tmp_path)
        transport.set_write_buffer_limits(1000)
        sent = 0
        while not protocol.calls:
            transport.sendto(bytes(400))
            sent += 1
        transport.set_write_buffer_limits(1 << 20)
        assert protocol.calls == ["pause_writing"]
        got = received(theirs)
        await until(lambda: protocol.calls[-1] == "resume_writing", "resume_writing()")
        while len(got) < sent:
            await asyncio.sleep(0)
            got += received(theirs)
        assert got == [bytes(400)] * sent
        transport.abort()
        theirs.close()
        await until(lambda: len(protocol.calls) > 2, "the end")

    run(factory, main())
