"""What was written before something else happened in the same turn: found by the stateful tests."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest
from loops import Factory, Faults, Recorder, connected, run, until
from tls_certs import Certs
from tls_peers import recv_exactly, tls_pair

BIG = 1 << 20
#: asyncio's writelines() never pauses the protocol (CVE-2024-12254).
NO_PAUSE = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)


async def pair(protocol: Any) -> tuple[Any, socket.socket]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    return await connected(asyncio.get_running_loop(), ours, protocol), theirs


async def received(sock: socket.socket, size: int) -> bytes:
    """That many bytes, or what comes before the end."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < size and (chunk := await loop.sock_recv(sock, size - len(data))):
        data += chunk
    return bytes(data)


class WritesWhenPaused(Recorder):
    """Writes once in pause_writing()."""

    def pause_writing(self) -> None:
        if "pause_writing" not in self.calls:
            self.calls.append("pause_writing")
            self.transport.write(b"b" * BIG)


def test_nothing_comes_between_lines(factory: Factory, loop_name: str) -> None:
    if loop_name == "asyncio" and NO_PAUSE:
        pytest.skip("asyncio's writelines() does not pause the protocol in this version")

    async def main() -> None:
        protocol = WritesWhenPaused()
        transport, theirs = await pair(protocol)
        transport.writelines([b"a" * BIG, b"a"])
        data = await received(theirs, 2 * BIG + 1)
        assert data == b"a" * (BIG + 1) + b"b" * BIG
        assert protocol.calls[:2] == ["connection_made", "pause_writing"]
        transport.abort()
        theirs.close()

    run(factory, main())


def test_nothing_comes_between_lines_over_tls(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        protocol = WritesWhenPaused()
        transport, peer = await tls_pair("client", protocol, certs)
        transport.set_write_buffer_limits(1000)
        many = [b"a" * BIG] * 8
        transport.writelines([*many, b"a"])
        size = 8 * BIG + 1
        assert await asyncio.to_thread(recv_exactly, peer, size) == b"a" * size
        transport.abort()
        await until(lambda: protocol.lost, "the end")
        peer.close()

    run(factory, main())


def test_what_was_written_before_an_exception_is_sent(factory: Factory) -> None:
    class Fails(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"one")
            self.transport.writelines([b"two", b"three"])
            raise ZeroDivisionError

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Fails()
        _, theirs = await pair(protocol)
        theirs.send(b"x")
        await until(lambda: protocol.lost, "the end")
        assert await received(theirs, 100) == b"onetwothree"
        assert faults.exceptions() == [ZeroDivisionError]
        theirs.close()

    run(factory, main())


def test_nothing_is_written_after_close_has_sent_all(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.write(b"one")
        transport.write(b"two")
        transport.close()
        transport.write(b"three")
        assert await received(theirs, 100) == b"onetwo"
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())


def test_limits_count_only_what_the_kernel_did_not_take(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.write(b"one")
        transport.write(b"two")
        transport.set_write_buffer_limits(0)
        assert await received(theirs, 6) == b"onetwo"
        assert protocol.calls == ["connection_made"]
        transport.abort()
        theirs.close()

    run(factory, main())


def test_higher_limits_resume_when_bytes_leave(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.write(bytes(BIG))
        assert protocol.calls[-1] == "pause_writing"
        transport.set_write_buffer_limits(10 * BIG, 5 * BIG)
        assert protocol.calls[-1] == "pause_writing"
        await received(theirs, BIG)
        assert protocol.calls[-1] == "resume_writing"
        transport.abort()
        theirs.close()

    run(factory, main())


def test_dropped_lines_count_as_one_write(
    factory: Factory, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if loop_name == "asyncio" and NO_PAUSE:
        pytest.skip("asyncio's writelines() fails after the connection was lost in this version")

    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.abort()
        await until(lambda: protocol.lost, "the end")
        for _ in range(4):
            transport.writelines([b"one", b"two", b"three"])
        assert caplog.messages == []
        transport.writelines([b"", b"one"])
        assert caplog.messages == ["socket.send() raised exception."]
        transport.writelines([b"", b""])
        assert len(caplog.messages) == (1 if sys.version_info < (3, 14) else 2)
        transport.writelines([])
        assert len(caplog.messages) == (1 if sys.version_info < (3, 14) else 2)
        theirs.close()

    run(factory, main())


def test_dropped_lines_count_as_one_write_over_tls(
    factory: Factory, certs: Certs, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tls_pair("client", protocol, certs)
        transport.abort()
        await until(lambda: protocol.lost, "the end")
        for _ in range(4):
            transport.writelines([b"one", b"", b"three"])
        assert caplog.messages == []
        transport.writelines([b"one"])
        assert caplog.messages == ["SSL connection is closed"]
        peer.close()

    run(factory, main())


def test_lines_that_break_the_connection_count_as_one_write(
    factory: Factory, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.pause_reading()
        theirs.close()
        transport.writelines([bytes(BIG), *[b"x"] * 10])
        await until(lambda: protocol.lost, "the end")
        assert type(protocol.lost[0]) is BrokenPipeError
        assert caplog.messages == []

    run(factory, main())


def test_lines_after_eof(factory: Factory) -> None:
    name = "write" if sys.version_info < (3, 12) else "writelines"

    async def main() -> None:
        transport, theirs = await pair(Recorder())
        transport.write_eof()
        with pytest.raises(RuntimeError, match=rf"Cannot call {name}\(\) after write_eof\(\)"):
            transport.writelines([b"one"])
        transport.abort()
        theirs.close()

    run(factory, main())


def test_eof_comes_once(factory: Factory, loop_name: str) -> None:
    if loop_name == "asyncio":
        pytest.skip("asyncio reads the EOF again after pause_reading() and resume_reading()")

    class Stays(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def main() -> None:
        protocol = Stays()
        transport, theirs = await pair(protocol)
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: "eof_received" in protocol.calls, "the EOF")
        transport.pause_reading()
        transport.resume_reading()
        await asyncio.sleep(0)
        transport.write(b"still here")
        assert await received(theirs, 10) == b"still here"
        assert protocol.calls == ["connection_made", "eof_received"]
        transport.close()
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_ended_by_resume_writing(factory: Factory, loop_name: str, how: str) -> None:
    if loop_name == "asyncio":
        pytest.skip(
            "asyncio ends such a connection twice, and reports an AttributeError of its own"
        )

    class Ends(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            getattr(self.transport, how)()

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Ends()
        transport, theirs = await pair(protocol)
        transport.set_write_buffer_limits(0)
        transport.write(bytes(BIG))
        assert await received(theirs, BIG) == bytes(BIG)
        await until(lambda: protocol.lost, "the end")
        transport.write(b"nothing")
        transport.abort()
        expected = ["connection_made", "pause_writing", "resume_writing", "connection_lost"]
        assert protocol.calls == expected
        assert faults.contexts == []
        theirs.close()

    run(factory, main())
