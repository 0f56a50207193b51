"""Transports: callbacks and their order, writing, flow control, closing, errors, lifetime."""

from __future__ import annotations

import array
import asyncio
import contextvars
import gc
import logging
import mmap
import os
import socket
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, Faults, Recorder, connected, reset, run, serve, socketpair, until

Loop = asyncio.AbstractEventLoop


async def pair(protocol: Any) -> tuple[Any, socket.socket]:
    """A transport for the protocol, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return await connected(asyncio.get_running_loop(), ours, protocol), theirs


async def read_all(sock: socket.socket) -> bytes:
    """Everything that comes until EOF."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while chunk := await loop.sock_recv(sock, 1 << 20):
        data += chunk
    return bytes(data)


# ---- the life of a connection ---------------------------------------------------------------


def test_echo_over_tcp_and_unix(factory: Factory, tmp_path: Path) -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert type(data) is bytes
            self.transport.write(data)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for size in (1, 1000, 300_000):
            payload = os.urandom(size)
            writer.write(payload)
            assert await reader.readexactly(size) == payload
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, address = await serve(Echo)
        path = str(tmp_path / "sock")
        unix = await loop.create_unix_server(Echo, path)
        await talk(*await asyncio.open_connection(*address))
        await talk(*await asyncio.open_unix_connection(path))
        server.close()
        unix.close()
        await server.wait_closed()
        await unix.wait_closed()

    run(factory, main())


def test_order_of_callbacks(factory: Factory) -> None:
    async def main() -> list[str]:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        assert protocol.calls == ["connection_made"]
        theirs.send(b"one")
        await until(lambda: protocol.data == b"one", "the data")
        theirs.close()
        await until(lambda: protocol.lost, "the end")
        assert transport.is_closing()
        transport.close()
        transport.abort()
        await asyncio.sleep(0)
        return protocol.calls

    expected = ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert run(factory, main()) == expected


def test_waiter_runs_after_connection_made_and_reading(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        protocol = Recorder()
        waiter = loop.create_future()
        waiter.add_done_callback(lambda _: protocol.note("waiter"))
        transport = loop._make_socket_transport(ours, protocol, waiter, extra={"colour": "red"})
        assert protocol.calls == []
        await waiter
        await asyncio.sleep(0)
        assert protocol.calls == ["connection_made", "waiter"]
        assert transport.get_extra_info("colour") == "red"
        transport.close()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_closing_in_connection_made(factory: Factory) -> None:
    class Refuses(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"no")
            transport.close()

    async def main() -> None:
        protocol = Refuses()
        _, theirs = await pair(protocol)
        assert await read_all(theirs) == b"no"
        await until(lambda: protocol.lost, "the end")
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert protocol.lost == [None]
        theirs.close()

    run(factory, main())


def test_pausing_in_connection_made_keeps_data_back(factory: Factory, loop_name: str) -> None:
    if loop_name == "asyncio" and sys.version_info < (3, 11, 7):
        pytest.skip("asyncio reads all the same before 3.11.7")

    class Paused(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        protocol = Paused()
        transport, theirs = await pair(protocol)
        theirs.send(b"later")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not transport.is_reading()
        assert protocol.data == b""
        transport.pause_reading()
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await until(lambda: protocol.data == b"later", "the data")
        transport.close()
        assert not transport.is_reading()
        transport.resume_reading()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_no_data_after_close_or_abort_from_data_received(factory: Factory) -> None:
    async def main(how: str) -> None:
        class Ends(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                getattr(self.transport, how)()

        protocol = Ends()
        _, theirs = await pair(protocol)
        theirs.send(b"x" * 100)
        await until(lambda: protocol.lost, "the end")
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]
        assert protocol.lost == [None]
        theirs.close()

    run(factory, main("close"))
    run(factory, main("abort"))


def test_reset_by_the_peer(factory: Factory) -> None:
    async def main() -> None:
        made: list[Recorder] = []

        def make() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server, address = await serve(make)
        client = socket.create_connection(address)
        await until(lambda: made and made[0].calls, "the connection")
        client.sendall(b"bye")
        reset(client)
        await until(lambda: made[0].lost, "the end")
        assert isinstance(made[0].lost[0], ConnectionResetError)
        assert made[0].transport.get_extra_info("peername")[0] == "127.0.0.1"
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_half_close_kept_open(factory: Factory) -> None:
    class KeepsOpen(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def main() -> None:
        protocol = KeepsOpen()
        transport, theirs = await pair(protocol)
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: "eof_received" in protocol.calls, "the EOF")
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.calls.count("eof_received") == 1
        assert not transport.is_closing()
        transport.write(b"still here")
        transport.close()
        assert await read_all(theirs) == b"still here"
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())


def test_reads_of_every_size(factory: Factory) -> None:
    class Sizes(Recorder):
        def data_received(self, data: bytes) -> None:
            assert type(data) is bytes
            self.data += data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = Sizes()
        transport, theirs = await pair(protocol)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for size in (10, 40_000, 100_000, 140_000, 40_000, 300_000, 900_000, 5, 17_000, 33_000):
            payload = os.urandom(size)
            del protocol.data[:]
            await loop.sock_sendall(theirs, payload)
            await until(lambda: len(protocol.data) >= size, "the data")
            assert protocol.data == payload
        buffered = Buffered(lambda _: bytearray(5000))
        transport.set_protocol(buffered)
        await loop.sock_sendall(theirs, payload)
        await until(lambda: buffered.data == payload, "the data")
        transport.set_protocol(protocol)
        await loop.sock_sendall(theirs, bytes(200_000))
        theirs.close()
        await until(lambda: protocol.lost, "the end")
        assert len(protocol.data) == 33_000 + 200_000

    run(factory, main())


# ---- writing --------------------------------------------------------------------------------


def test_bytes_like_of_every_kind(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        numbers = array.array("i", range(100))
        mapped = mmap.mmap(-1, 4096)
        mapped[:5] = b"mmap!"
        volatile = bytearray(b"bytearray")
        transport.write(b"")
        transport.write(volatile)
        volatile[:] = b"!" * len(volatile)
        transport.write(memoryview(b"memoryview"))
        transport.write(memoryview(numbers))
        transport.write(memoryview(mapped)[:5])
        transport.write(type("Bytes", (bytes,), {})(b"subclass"))
        transport.writelines([b"one", bytearray(b"two"), memoryview(b"three"), b""])
        transport.writelines(piece for piece in (b"4", b"5"))
        transport.writelines([])
        transport.close()
        expected = b"bytearraymemoryview" + numbers.tobytes() + b"mmap!subclassonetwothree45"
        assert await read_all(theirs) == expected
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_strided_memoryview_is_sent_as_its_bytes() -> None:
    # asyncio breaks the connection with a BufferError here.
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.write(memoryview(b"a-b-c-")[::2])
        transport.writelines([memoryview(b"321")[::-1]])
        transport.close()
        assert await read_all(theirs) == b"abc123"
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(taut_factory(), main())


def taut_factory() -> Factory:
    import taut

    return taut.new_event_loop


def test_what_cannot_be_written(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        wrong: list[Any] = ["text", None, 5, array.array("b", b"x"), mmap.mmap(-1, 16)]
        for data in wrong:
            with pytest.raises(TypeError, match="data argument must be a bytes.* object, not"):
                transport.write(data)
        with pytest.raises(TypeError):
            transport.writelines([b"fine", "text"])
        with pytest.raises(TypeError):
            transport.writelines(5)
        assert transport.get_write_buffer_size() == 0
        assert not transport.is_closing()
        transport.abort()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_write_eof(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        assert transport.can_write_eof()
        payload = os.urandom(3_000_000)
        transport.write(payload)
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="Cannot call write"):
            transport.write(b"more")
        with pytest.raises(TypeError):
            transport.write("text")
        assert await read_all(theirs) == payload
        theirs.send(b"answer")
        await until(lambda: protocol.data == b"answer", "the answer")
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_dropped_writes_warn_from_the_fifth_on(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        theirs.close()
        transport.abort()
        for _ in range(7):
            transport.write(b"into the void")
        await until(lambda: protocol.lost, "the end")
        transport.write(b"into the void")

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(factory, main())
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["socket.send() raised exception."] * 4


def test_abort_loses_only_what_the_kernel_would_not_take(factory: Factory) -> None:
    async def main() -> None:
        for turns in range(3):
            protocol = Recorder()
            transport, theirs = await pair(protocol)
            for _ in range(turns):
                for _ in range(3):
                    transport.write(b"x")
                await asyncio.sleep(0)
            transport.write(b"a")
            transport.write(b"b")
            transport.abort()
            assert await read_all(theirs) == b"xxx" * turns + b"ab"
            theirs.close()
            await until(lambda p=protocol: p.lost, "the end")  # type: ignore[misc]

    run(factory, main())


def test_many_small_and_large_writes_stay_in_order(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        sent = bytearray()
        reader = asyncio.ensure_future(read_all(theirs))
        for i in range(300):
            piece = bytes([i % 256]) * (i * 37 % 5000)
            if i % 50 == 0:
                piece *= 100
            if i % 3 == 0:
                transport.writelines([piece[:10], piece[10:]])
            else:
                transport.write(piece if i % 2 else bytearray(piece))
            sent += piece
            if i % 7 == 0:
                await asyncio.sleep(0)
        transport.close()
        assert await reader == sent
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- flow control ---------------------------------------------------------------------------


def test_water_marks_pause_and_resume_the_protocol(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=1000, low=100)
        payload = bytes(4_000_000)
        transport.write(payload)
        assert protocol.calls[-1] == "pause_writing"
        assert 1000 < transport.get_write_buffer_size() < len(payload)
        left = len(payload)
        while left:
            left -= len(await asyncio.get_running_loop().sock_recv(theirs, left))
        await until(lambda: protocol.calls[-1] == "resume_writing", "resume_writing")
        assert transport.get_write_buffer_size() <= 100
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
        transport.close()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_limits(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        for options, expected in (
            ({"high": 1024}, (256, 1024)),
            ({"low": 10}, (10, 40)),
            ({"high": 0}, (0, 0)),
            ({"high": 5, "low": 5}, (5, 5)),
            ({}, (16384, 65536)),
        ):
            transport.set_write_buffer_limits(**options)
            assert transport.get_write_buffer_limits() == expected
        transport.set_write_buffer_limits(8, 4)
        assert transport.get_write_buffer_limits() == (4, 8)
        for options in ({"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 5, "low": -1}):
            with pytest.raises(ValueError, match=r"high \(.*\) must be >= low"):
                transport.set_write_buffer_limits(**options)
        assert transport.get_write_buffer_limits() == (4, 8)
        transport.set_write_buffer_limits(high=10**30)
        transport.write(bytes(1_000_000))
        assert protocol.calls == ["connection_made"]
        transport.set_write_buffer_limits(high=10)
        assert protocol.calls == ["connection_made", "pause_writing"]
        transport.abort()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


@pytest.mark.parametrize("which", ["pause_writing", "resume_writing"])
def test_exceptions_of_flow_control_are_reported_only(factory: Factory, which: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder(raises=(which,))
        transport, theirs = await pair(protocol)
        transport.write(bytes(4_000_000))
        transport.write_eof()
        assert len(await read_all(theirs)) == 4_000_000
        await until(lambda: "resume_writing" in protocol.calls, "resume_writing")
        assert faults.exceptions() == [ZeroDivisionError]
        context = faults.contexts[0]
        assert context["message"] == f"protocol.{which}() failed"
        assert context["transport"] is transport and context["protocol"] is protocol
        assert not transport.is_closing()
        transport.close()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- errors of protocols ----------------------------------------------------------------------


@pytest.mark.parametrize("which", ["data_received", "eof_received"])
def test_fatal_errors_of_protocols(factory: Factory, which: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder(raises=(which,))
        transport, theirs = await pair(protocol)
        theirs.send(b"data")
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: protocol.lost, "the end")
        assert isinstance(protocol.lost[0], ZeroDivisionError)
        (context,) = faults.contexts
        assert context["message"] == f"Fatal error: protocol.{which}() call failed."
        assert context["exception"] is protocol.lost[0]
        assert context["transport"] is transport and context["protocol"] is protocol
        theirs.close()

    run(factory, main())


def test_exception_in_connection_made_is_reported_and_reading_goes_on(factory: Factory) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder(raises=("connection_made",))
        transport, theirs = await pair(protocol)
        assert faults.exceptions() == [ZeroDivisionError]
        theirs.send(b"x")
        await until(lambda: protocol.data == b"x", "the data")
        transport.close()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_exception_in_connection_lost_is_reported_and_the_fd_closed(factory: Factory) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Recorder(raises=("connection_lost",))
        transport, theirs = await pair(protocol)
        sock = transport.get_extra_info("socket")
        transport.abort()
        await until(lambda: sock.fileno() == -1, "the end")
        assert faults.exceptions() == [ZeroDivisionError]
        theirs.close()

    run(factory, main())


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_exit_exceptions_leave_run_forever(
    loop: Loop, exception: type[BaseException]
) -> None:
    class Exits(Recorder):
        def data_received(self, data: bytes) -> None:
            raise exception

    protocol = Exits()
    transport, theirs = loop.run_until_complete(pair(protocol))
    theirs.send(b"x")
    with pytest.raises(exception):
        loop.run_forever()
    transport.abort()
    loop.run_until_complete(until(lambda: protocol.lost, "the end"))
    theirs.close()


# ---- buffered protocols -----------------------------------------------------------------------


class Buffered(asyncio.BufferedProtocol):
    """Collects what comes through a buffer of its own making."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make
        self.buffer: Any = None
        self.data = bytearray()
        self.lost: list[BaseException | None] = []

    def get_buffer(self, sizehint: int) -> Any:
        self.buffer = self.make(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += memoryview(self.buffer).cast("B")[:nbytes]
        if isinstance(self.buffer, bytearray):
            self.buffer.append(0)  # not exported any more: it can grow

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)


@pytest.mark.parametrize(
    "make",
    [
        lambda _: bytearray(7),
        lambda _: memoryview(bytearray(100))[10:90],
        lambda _: array.array("i", range(20)),
        lambda _: mmap.mmap(-1, 4096),
    ],
    ids=["bytearray", "memoryview", "array", "mmap"],
)
def test_buffered_protocol(factory: Factory, make: Callable[[int], Any]) -> None:
    async def main() -> None:
        protocol = Buffered(make)
        transport, theirs = await pair(protocol)
        payload = os.urandom(1000)
        theirs.send(payload)
        await until(lambda: protocol.data == payload, "the data")
        theirs.close()
        await until(lambda: protocol.lost, "the end")
        assert protocol.lost == [None]

    run(factory, main())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: bytearray(), "Fatal error: protocol.get_buffer() call failed."),
        (lambda _: 1 // 0, "Fatal error: protocol.get_buffer() call failed."),
        (lambda _: b"read-only", "Fatal read error on socket transport"),
    ],
    ids=["empty", "raises", "read-only"],
)
def test_bad_buffers(factory: Factory, make: Callable[[int], Any], message: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        protocol = Buffered(make)
        _, theirs = await pair(protocol)
        theirs.send(b"data")
        await until(lambda: protocol.lost, "the end")
        assert [context["message"] for context in faults.contexts] == [message]
        assert protocol.lost == [faults.contexts[0]["exception"]]
        theirs.close()

    run(factory, main())


def test_set_protocol_switches_between_kinds(factory: Factory) -> None:
    async def main() -> None:
        plain, buffered = Recorder(), Buffered(lambda _: bytearray(100))
        transport, theirs = await pair(plain)
        theirs.send(b"1")
        await until(lambda: plain.data == b"1", "the first")
        transport.set_protocol(buffered)
        assert transport.get_protocol() is buffered
        theirs.send(b"2")
        await until(lambda: buffered.data == b"2", "the second")
        transport.set_protocol(plain)
        theirs.send(b"3")
        await until(lambda: plain.data == b"13", "the third")
        transport.close()
        theirs.close()
        await until(lambda: plain.lost, "the end")
        assert buffered.lost == []
        assert transport.get_protocol() is None

    run(factory, main())


def test_rebound_data_received_is_seen(factory: Factory) -> None:
    async def main() -> None:
        protocol: Any = Recorder()
        transport, theirs = await pair(protocol)
        seen: list[bytes] = []
        theirs.send(b"1")
        await until(lambda: protocol.data == b"1", "the first")
        protocol.data_received = seen.append
        theirs.send(b"2")
        await until(lambda: seen == [b"2"], "the second")
        transport.close()
        theirs.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- what a transport says about itself --------------------------------------------------------


def test_extra_info(factory: Factory) -> None:
    async def main() -> None:
        accepted: list[Recorder] = []

        def make() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        loop = asyncio.get_running_loop()
        server, address = await serve(make)
        client: Any = Recorder()
        transport, _ = await loop.create_connection(lambda: client, *address)
        await until(lambda: accepted and accepted[0].transport, "the connection")
        other = accepted[0].transport
        assert transport.get_extra_info("peername") == other.get_extra_info("sockname") == address
        assert transport.get_extra_info("sockname") == other.get_extra_info("peername")
        sock = other.get_extra_info("socket")
        assert type(sock).__name__ == "TransportSocket"
        assert other.get_extra_info("socket") is sock
        assert sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()
        assert other.get_extra_info("nothing") is None
        assert other.get_extra_info("nothing", 5) == 5
        assert other.get_extra_info(name="nothing", default=6) == 6
        other.close()
        await until(lambda: accepted[0].lost and client.lost, "the end")
        assert other.get_extra_info("peername") == transport.get_extra_info("sockname")
        assert sock.fileno() == -1
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_a_transport_is_an_object_like_asyncios(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        assert isinstance(transport, asyncio.Transport)
        assert "fd=" in repr(transport) and "read=polling" in repr(transport)
        assert "bufsize=0" in repr(transport)
        transport.note = "attributes can be set"
        sent: list[bytes] = []
        transport.write = sent.append
        transport.write(b"not really")
        assert sent == [b"not really"]
        del transport.write
        assert weakref.ref(transport)() is transport
        hash(transport)
        transport.close()
        assert "closing" in repr(transport)
        await until(lambda: protocol.lost, "the end")
        assert "closed" in repr(transport)
        theirs.close()

    run(factory, main())


def test_callbacks_run_in_the_context_of_creation(factory: Factory) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    class Notes(Recorder):
        seen: list[str] = []

        def note(self, name: str) -> None:
            super().note(name)
            self.seen.append(var.get())

    async def main() -> None:
        var.set("creation")
        protocol = Notes()
        transport, theirs = await pair(protocol)
        var.set("later")
        theirs.send(b"x")
        await until(lambda: protocol.data == b"x", "the data")
        theirs.close()
        await until(lambda: "eof_received" in protocol.calls, "the end")
        assert set(protocol.seen[:3]) == {"creation"}
        transport.close()
        await until(lambda: protocol.lost, "the end")

    run(factory, main())


# ---- lifetime ----------------------------------------------------------------------------------


def test_a_reading_transport_is_kept_alive(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        ref = weakref.ref(transport)
        del transport
        protocol.transport = None
        gc.collect()
        assert ref() is not None
        theirs.send(b"x")
        await until(lambda: protocol.data == b"x", "the data")
        theirs.close()
        await until(lambda: protocol.lost, "the end")
        await until(lambda: gc.collect() + 1 and ref() is None, "its collection")

    run(factory, main())


def test_an_abandoned_transport_warns_and_closes(factory: Factory) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        transport.pause_reading()
        await asyncio.sleep(0)
        protocol.transport = None
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del transport
            await until(lambda: gc.collect() + 1 and is_eof(theirs), "the EOF")
        assert protocol.lost == []
        theirs.close()

    run(factory, main())


def is_eof(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize("size", [0, 2_000_000])
def test_closing_the_loop_under_open_transports(factory: Factory, size: int) -> None:
    loop = factory()
    protocol = Recorder()
    transport, theirs = loop.run_until_complete(pair(protocol))
    transport.write(bytes(size))
    loop.close()
    if size == 0:
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.close()
    else:
        transport.close()  # would go on once the rest is sent
    transport.pause_reading()
    repr(transport)
    protocol.transport = None
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, loop
        gc.collect()
    assert protocol.lost == []
    theirs.setblocking(True)
    while chunk := theirs.recv(1 << 20):
        assert not any(chunk)
    theirs.close()


def test_the_socket_object_owns_the_fd_once_asked_for() -> None:
    async def main() -> None:
        made: list[Recorder] = []

        def make() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server, address = await serve(make)
        closed: list[int] = []
        for ask in (False, True):
            client = socket.create_connection(address)
            await until(lambda: made and made[-1].calls, "the connection")
            transport = made[-1].transport
            fd = transport._sock_fd
            if ask:
                transport.get_extra_info("socket")
            transport.abort()
            await until(lambda: made[-1].lost, "the end")
            await asyncio.sleep(0)
            # The number is free; were it closed twice, the second close would hit this one.
            with socketpair() as (one, two):
                gc.collect()
                closed.append(fd)
                del transport
                made[-1].transport = None
                gc.collect()
                one.send(b"x")
                assert two.recv(1) == b"x"
            client.close()
            made.clear()
        assert len(closed) == 2
        server.close()
        await server.wait_closed()

    run(taut_factory(), main())


def test_two_transports_cannot_share_an_fd(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        protocol = Recorder()
        transport, theirs = await pair(protocol)
        fd = transport.get_extra_info("socket").fileno()
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(fd, print)
        for method in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(fd)
        transport.abort()
        assert loop.remove_reader(fd) is False
        await until(lambda: protocol.lost, "the end")
        theirs.close()

    run(factory, main())
