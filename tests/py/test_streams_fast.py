"""asyncio's streams, whose data taut hands over without a Python call: everything that others patch
or rebind in the standard classes must matter as it does on asyncio's loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import taut
from tls_certs import Certs

from loops import Factory, Faults, factory as factory_of, run, socketpair, until

READER, PROTOCOL = asyncio.StreamReader, asyncio.StreamReaderProtocol
METHODS = {"data_received", "feed_data", "_wakeup_waiter"}


class Stream:
    """A reader and a writer over one end of a socket pair, and the other end."""

    def __init__(self, reader: Any, writer: Any, peer: socket.socket) -> None:
        self.reader, self.writer, self.peer = reader, writer, peer
        self.transport: Any = writer.transport
        self.protocol: Any = self.transport.get_protocol()

    async def arrives(self, data: bytes) -> None:
        """Sends, and waits until the reader's buffer ends with it."""
        self.peer.send(data)
        await until(lambda: bytes(self.reader._buffer).endswith(data), f"{data!r} in the buffer")


@contextlib.asynccontextmanager
async def stream(**options: Any) -> AsyncIterator[Stream]:
    with socketpair() as (one, two):
        reader, writer = await asyncio.open_connection(sock=one, **options)
        try:
            yield Stream(reader, writer, two)
        finally:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()


@contextlib.contextmanager
def calls() -> Iterator[list[str]]:
    """The methods of asyncio's streams that are called as Python functions, while it lasts."""
    seen: list[str] = []

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_name in METHODS:
            seen.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def nothing_to_read(transport: Any) -> bool:
    """Whether the loop has taken what was sent."""
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    with sock, contextlib.suppress(BlockingIOError):
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return True


# ---- the way is taken, and left ------------------------------------------------------------


@pytest.fixture
def taut_loop() -> Factory:
    return factory_of("taut")


def test_no_python_function_is_called(taut_loop: Factory) -> None:
    async def main() -> None:
        async with stream() as s:
            with calls() as seen:
                for size in (1, 64, 5000, 40000):
                    s.peer.send(bytes(size))
                    assert await s.reader.readexactly(size) == bytes(size)
            assert seen == []

    run(taut_loop, main())


def test_of_a_server_neither(taut_loop: Factory) -> None:
    async def main() -> None:
        async def echo(reader: Any, writer: Any) -> None:
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        with calls() as seen:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
        assert "feed_data" not in seen and "data_received" not in seen
        writer.close()
        server.close()

    run(taut_loop, main())


async def _debug_on(s: Stream, patch: pytest.MonkeyPatch) -> None:
    asyncio.get_running_loop().set_debug(True)


async def _dict_of_reader(s: Stream, patch: pytest.MonkeyPatch) -> None:
    assert "_buffer" in vars(s.reader)


async def _dict_of_protocol(s: Stream, patch: pytest.MonkeyPatch) -> None:
    assert "_stream_reader_wr" in vars(s.protocol)


async def _reader_class(s: Stream, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(READER, "feed_data", lambda self, data: FEED_DATA(self, data))


async def _attribute_of_class(s: Stream, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(READER, "_limit", property(lambda self: 7), raising=False)


async def _getattribute(s: Stream, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        READER, "__getattribute__", lambda self, name: object.__getattribute__(self, name)
    )


async def _base_class(s: Stream, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PROTOCOL, "_stream_reader", property(lambda self: self._stream_reader_wr()))


async def _other_class(s: Stream, patch: pytest.MonkeyPatch) -> None:
    s.reader.__class__ = type("Reader", (READER,), {})


async def _other_protocol_class(s: Stream, patch: pytest.MonkeyPatch) -> None:
    s.protocol.__class__ = type("Protocol", (PROTOCOL,), {})


FEED_DATA = READER.feed_data


@pytest.mark.parametrize(
    "change",
    [
        _debug_on,
        _dict_of_reader,
        _dict_of_protocol,
        _reader_class,
        _attribute_of_class,
        _getattribute,
        _base_class,
        _other_class,
        _other_protocol_class,
    ],
)
def test_what_is_not_plain_is_called(
    taut_loop: Factory, change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with stream() as s, stream() as other:
            await s.arrives(b"before")
            with monkeypatch.context() as patch:
                await change(s, patch)
                with calls() as seen:
                    await s.arrives(b"data")
                assert "feed_data" in seen
            asyncio.get_running_loop().set_debug(False)
            with calls() as seen:
                await other.arrives(b"plain")
            assert seen == []

    run(taut_loop, main())


# ---- patched classes and instances ------------------------------------------------------------


@pytest.mark.parametrize("name", ["feed_data", "_wakeup_waiter"])
@pytest.mark.parametrize("whose", ["class", "instance"])
def test_reader_method_replaced(
    factory: Factory, whose: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with stream() as s, stream() as other:
            await s.arrives(b"1")
            seen: list[Any] = []
            if whose == "class":
                original = getattr(READER, name)
                monkeypatch.setattr(
                    READER, name, lambda *args: seen.append(args[1:]) or original(*args)
                )
            else:
                bound = getattr(s.reader, name)
                setattr(s.reader, name, lambda *args: seen.append(args) or bound(*args))
            await s.arrives(b"23")
            await s.arrives(b"4")
            await other.arrives(b"5")
            mine = [(b"23",), (b"4",)] if name == "feed_data" else [(), ()]
            more = [] if whose == "instance" else [(b"5",)] if name == "feed_data" else [()]
            assert seen == mine + more
            monkeypatch.undo()
            if whose == "instance":
                delattr(s.reader, name)
            await s.arrives(b"6")
            assert len(seen) == len(mine + more)
            assert await s.reader.readexactly(5) == b"12346"

    run(factory, main())


@pytest.mark.parametrize("whose", ["class", "instance"])
def test_data_received_replaced(
    factory: Factory, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with stream() as s:
            await s.arrives(b"1")
            seen: list[bytes] = []
            if whose == "class":
                monkeypatch.setattr(PROTOCOL, "data_received", lambda self, data: seen.append(data))
            else:
                s.protocol.data_received = seen.append
            s.peer.send(b"2")
            await until(lambda: seen)
            assert seen == [b"2"] and type(seen[0]) is bytes
            assert s.reader._buffer == b"1"
            monkeypatch.undo()
            s.protocol.__dict__.pop("data_received", None)
            await s.arrives(b"3")
            assert s.reader._buffer == b"13"

    run(factory, main())


def test_other_code_of_a_function(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(self: Any, data: bytes) -> None:
        self._buffer.extend(data.upper())

    async def main() -> None:
        async with stream() as s:
            await s.arrives(b"a")
            with monkeypatch.context() as patch:
                patch.setattr(READER.feed_data, "__code__", other.__code__)
                s.peer.send(b"b")
                await until(lambda: len(s.reader._buffer) == 2)
            await s.arrives(b"c")
            assert s.reader._buffer == b"aBc"

    run(factory, main())


def test_subclasses(factory: Factory) -> None:
    class Reader(asyncio.StreamReader):
        def feed_data(self, data: bytes) -> None:
            super().feed_data(data[::-1])

    class Protocol(asyncio.StreamReaderProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(b"<" + data)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            reader = Reader(loop=loop)
            transport, _ = await loop.create_connection(lambda: Protocol(reader), sock=one)
            two.send(b"abc")
            data = await reader.readexactly(4)
            transport.close()
            return data

    assert run(factory, main()) == b"cba<"


def test_protocol_away_and_back(factory: Factory) -> None:
    class Other(asyncio.Protocol):
        data = b""

        def data_received(self, data: bytes) -> None:
            self.data += data

    async def main() -> None:
        async with stream() as s:
            await s.arrives(b"1")
            other = Other()
            s.transport.set_protocol(other)
            s.peer.send(b"2")
            await until(lambda: other.data)
            s.transport.set_protocol(s.protocol)
            await s.arrives(b"3")
            assert s.reader._buffer == b"13" and other.data == b"2"

    run(factory, main())


# ---- attributes that others rebind ------------------------------------------------------------


class Loud(bytearray):
    """Notes what extends it."""

    extended: tuple[Any, ...] = ()

    def extend(self, data: Any) -> None:
        self.extended += (bytes(data),)
        super().extend(data)


def test_other_buffers(factory: Factory) -> None:
    async def main() -> None:
        async with stream() as s:
            await s.arrives(b"1")
            first, s.reader._buffer = s.reader._buffer, bytearray(b"new")
            await s.arrives(b"2")
            assert first == b"1" and s.reader._buffer == b"new2"
            s.reader._buffer = loud = Loud()
            await s.arrives(b"3")
            assert loud.extended == (b"3",)
            s.reader._buffer = bytearray()
            await s.arrives(b"4")
            assert await s.reader.read(9) == b"4"

    run(factory, main())


@pytest.mark.parametrize("what", ["export", "eof", "buffer", "waiter", "limit"])
def test_what_raises_is_reported_and_closes(factory: Factory, what: str) -> None:
    async def main() -> tuple[Any, ...]:
        faults = Faults(asyncio.get_running_loop())
        async with stream() as s:
            await s.arrives(b"1")
            view = None
            if what == "export":
                view = memoryview(s.reader._buffer)
            elif what == "eof":
                s.reader.feed_eof()
            elif what == "buffer":
                del s.reader._buffer
            elif what == "waiter":
                s.reader._waiter = asyncio.get_running_loop().create_future()
                s.reader._waiter.set_result(None)
            else:
                s.reader._limit = "many"
            s.peer.send(b"2")
            await until(lambda: faults.contexts, "the report")
            await until(lambda: s.reader.exception(), "the end")
            [context] = faults.contexts
            assert context["transport"] is s.transport and context["protocol"] is s.protocol
            del view
            exc = context["exception"]
            return context["message"], type(exc), str(exc), s.reader.exception() is exc

    message, kind, text, same = run(factory, main())
    assert message == "Fatal error: protocol.data_received() call failed." and same
    wanted = {
        "export": (BufferError, "Existing exports of data: object cannot be re-sized"),
        "eof": (AssertionError, "feed_data after feed_eof"),
        "buffer": (AttributeError, "'StreamReader' object has no attribute '_buffer'"),
        "waiter": (asyncio.InvalidStateError, "invalid state"),
        "limit": (TypeError, None),
    }[what]
    assert kind is wanted[0] and (wanted[1] is None or text == wanted[1])


def test_other_waiters(factory: Factory) -> None:
    class Waiter:
        def __init__(self, is_cancelled: bool) -> None:
            self.is_cancelled, self.results = is_cancelled, []

        def cancelled(self) -> bool:
            return self.is_cancelled

        def set_result(self, result: Any) -> None:
            self.results.append(result)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with stream() as s:
            for count, waiter in enumerate([loop.create_future(), asyncio.Future()]):
                s.reader._waiter = waiter
                await s.arrives(b"%d" % count)
                assert s.reader._waiter is None and waiter.result() is None
            s.reader._waiter = cancelled = loop.create_future()
            cancelled.cancel()
            await s.arrives(b"2")
            assert s.reader._waiter is None and cancelled.cancelled()
            for is_cancelled, results in ((False, [None]), (True, [])):
                s.reader._waiter = odd = Waiter(is_cancelled)
                await s.arrives(b"odd%d" % is_cancelled)
                assert s.reader._waiter is None and odd.results == results
            assert not s.transport.is_closing()

    run(factory, main())


def test_callbacks_of_the_waiter(factory: Factory) -> None:
    async def main() -> None:
        async with stream() as s:
            task = asyncio.ensure_future(s.reader.readexactly(3))
            await until(lambda: s.reader._waiter is not None)
            order: list[str] = []
            s.reader._waiter.add_done_callback(lambda future: order.append("waiter"))
            task.add_done_callback(lambda future: order.append("task"))
            s.peer.send(b"abc")
            assert await task == b"abc"
            await until(lambda: len(order) == 2)
            assert order == ["waiter", "task"]

    run(factory, main())


def test_limits(factory: Factory) -> None:
    async def main() -> None:
        async with stream(limit=4) as s:
            await s.arrives(b"12345678")
            assert not s.reader._paused and s.transport.is_reading()
            await s.arrives(b"9")
            assert s.reader._paused is True and not s.transport.is_reading()
            s.peer.send(b"later")
            assert await s.reader.readexactly(5) == b"12345"
            assert s.reader._paused is False and s.transport.is_reading()
            assert await s.reader.readexactly(9) == b"6789later"
            s.reader._limit = 1000
            await s.arrives(bytes(range(1, 200)))
            assert not s.reader._paused
            s.reader._limit = 2.5
            await s.arrives(b"pause")
            assert s.reader._paused is True

    run(factory, main())


@pytest.mark.parametrize("attribute", ["_transport", "_paused"])
def test_never_paused(factory: Factory, attribute: str) -> None:
    async def main() -> None:
        async with stream(limit=1) as s:
            setattr(s.reader, attribute, None if attribute == "_transport" else True)
            await s.arrives(b"many bytes")
            assert s.transport.is_reading()
            s.reader._paused = False
            s.reader._transport = s.transport
            await s.arrives(b"!")
            assert s.reader._paused is True and not s.transport.is_reading()

    run(factory, main())


@pytest.mark.parametrize("outcome", [None, NotImplementedError, ZeroDivisionError])
def test_other_transport_to_pause(factory: Factory, outcome: Any) -> None:
    class Transport:
        pauses = 0

        def pause_reading(self) -> None:
            self.pauses += 1
            if outcome is not None:
                raise outcome

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        async with stream(limit=2) as s:
            s.reader._transport = other = Transport()
            await s.arrives(b"1234")
            assert other.pauses == 0
            await s.arrives(b"5")
            assert other.pauses == 1 and s.transport.is_reading() is (
                outcome is not ZeroDivisionError
            )
            assert s.reader._paused is (outcome is None)
            if outcome is NotImplementedError:
                assert s.reader._transport is None
                await s.arrives(b"6")
                assert other.pauses == 1
            else:
                assert s.reader._transport is other
            assert faults.exceptions() == ([outcome] if outcome is ZeroDivisionError else [])

    run(factory, main())


def test_pause_reading_of_the_instance(factory: Factory) -> None:
    async def main() -> None:
        async with stream(limit=2) as s:
            seen: list[int] = []
            s.transport.pause_reading = lambda: seen.append(1)
            await s.arrives(b"12345")
            assert seen == [1] and s.reader._paused is True and s.transport.is_reading()
            del s.transport.pause_reading

    run(factory, main())


def test_attributes_of_ones_own(factory: Factory) -> None:
    async def main() -> None:
        async with stream() as s, stream() as other:
            for count in range(40):
                setattr(s.reader, f"own_{count}", count)
                setattr(s.protocol, f"own_{count}", count)
                await s.arrives(b"%d." % count)
            await other.arrives(b"other")
            assert s.reader.own_39 == 39 and await other.reader.read(9) == b"other"
            assert await s.reader.readuntil(b"39.") == b"".join(b"%d." % n for n in range(40))

    run(factory, main())


# ---- readers that are gone ------------------------------------------------------------


def test_collected_reader(factory: Factory) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            reader = asyncio.StreamReader(loop=loop)
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            transport, _ = await loop.create_connection(lambda: protocol, sock=one)
            two.send(b"x")
            assert await reader.read(9) == b"x"
            del reader
            gc.collect()
            assert protocol._stream_reader_wr() is None  # type: ignore[attr-defined]
            two.send(b"ignored")
            await until(lambda: nothing_to_read(transport))
            transport.close()
            await protocol._get_close_waiter(None)  # type: ignore[attr-defined]
            assert not faults.contexts

    run(factory, main())


def test_no_reader(factory: Factory) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        async with stream() as s:
            kept = s.protocol._stream_reader_wr
            s.protocol._stream_reader_wr = None
            s.peer.send(b"nobody's")
            await until(lambda: nothing_to_read(s.transport))
            asked: list[int] = []
            s.protocol._stream_reader_wr = lambda: asked.append(1)
            s.peer.send(b"nobody's either")
            await until(lambda: asked)
            s.protocol._stream_reader_wr = kept
            await s.arrives(b"mine")
            assert s.reader._buffer == b"mine" and not faults.contexts

    run(factory, main())


def test_rejected_connection(factory: Factory) -> None:
    """connection_made() of a protocol whose reader was collected before."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        with socketpair() as (one, two):
            reader = asyncio.StreamReader(loop=loop)
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            protocol._reject_connection = True  # type: ignore[attr-defined]
            two.send(b"data")
            transport, _ = await loop.create_connection(lambda: protocol, sock=one)
            await until(transport.is_closing)
            del reader
            return [context["message"] for context in faults.contexts]

    [message] = run(factory, main())
    assert message.startswith("An open stream was garbage collected")


# ---- tasks that wait ------------------------------------------------------------


@pytest.mark.parametrize("turns", range(5))
def test_cancelled_while_data_arrives(factory: Factory, turns: int) -> None:
    async def main() -> None:
        async with stream() as s:
            for count in range(20):
                task = asyncio.ensure_future(s.reader.readexactly(4))
                await until(lambda: s.reader._waiter is not None)
                s.peer.send(b"%04d" % count)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    got = await task
                except asyncio.CancelledError:
                    assert s.reader._waiter is None
                    got = await s.reader.readexactly(4)
                assert got == b"%04d" % count
            assert not s.reader._buffer

    run(factory, main())


def test_debug_mode(factory: Factory) -> None:
    async def main() -> None:
        async with stream() as s:
            assert s.reader._source_traceback
            await s.arrives(b"data")
            asyncio.get_running_loop().set_debug(False)
            await s.arrives(b"more")
            assert await s.reader.readexactly(8) == b"datamore"

    run(factory, main(), debug=True)


def test_tasks_of_asyncio() -> None:
    async def main() -> None:
        async with stream() as s:
            task = asyncio.ensure_future(s.reader.readline())
            assert type(task) is asyncio.Task
            await asyncio.sleep(0)
            s.peer.send(b"line\n")
            assert await task == b"line\n"

    run(lambda: taut.new_event_loop(tasks="stdlib"), main())


def test_large_amounts(factory: Factory) -> None:
    payload = os.urandom(3_000_000)

    async def send(s: Stream) -> None:
        await asyncio.get_running_loop().sock_sendall(s.peer, payload)

    async def main() -> None:
        async with stream() as s:
            sending = asyncio.ensure_future(send(s))
            assert await s.reader.readexactly(1_000_000) == payload[:1_000_000]
            parts = []
            while sum(map(len, parts)) < 2_000_000:
                parts.append(await s.reader.read(70_000))
            assert b"".join(parts) == payload[1_000_000:]
            await sending

    run(factory, main())


def test_nothing_is_kept(taut_loop: Factory) -> None:
    async def main() -> None:
        async with stream() as s:

            def counts() -> list[int]:
                parts = (s.reader, s.protocol, s.reader._buffer, None)
                return [sys.getrefcount(part) for part in parts]

            async def rounds(count: int) -> None:
                for _ in range(count):
                    s.peer.send(b"some data")
                    assert await s.reader.readexactly(9) == b"some data"

            await rounds(10)
            before = counts()
            await rounds(1000)
            assert all(abs(a - b) < 100 for a, b in zip(before, counts(), strict=True))

    run(taut_loop, main())


# ---- over other transports ------------------------------------------------------------


def test_pipe(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        reader = asyncio.StreamReader(limit=8, loop=loop)
        transport, protocol = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        os.write(writing, b"line\n")
        assert await reader.readline() == b"line\n"
        os.write(writing, bytes(17))
        await until(lambda: reader._paused)  # type: ignore[attr-defined]
        assert transport._paused  # type: ignore[attr-defined]
        assert await reader.readexactly(17) == bytes(17)
        seen: list[bytes] = []
        protocol.data_received = seen.append  # type: ignore[method-assign]
        os.write(writing, b"patched")
        await until(lambda: seen)
        del protocol.data_received
        reader.feed_eof()
        faults = Faults(loop)
        os.write(writing, b"too late")
        await until(lambda: faults.contexts)
        assert faults.exceptions() == [AssertionError]
        os.close(writing)
        transport.close()
        await asyncio.sleep(0)

    run(factory, main())


def test_pipe_takes_the_short_way(taut_loop: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        reader = asyncio.StreamReader(loop=loop)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        with calls() as seen:
            os.write(writing, b"line\n")
            assert await reader.readline() == b"line\n"
        assert seen == []
        os.close(writing)
        transport.close()
        await asyncio.sleep(0)

    run(taut_loop, main())


@pytest.mark.parametrize("patched", [False, True])
def test_tls(
    factory: Factory, certs: Certs, patched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    if patched:
        original = READER.feed_data
        monkeypatch.setattr(
            READER, "feed_data", lambda self, data: seen.append(len(data)) or original(self, data)
        )

    async def echo(reader: Any, writer: Any) -> None:
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certs.server(), limit=5000)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=certs.client(), server_hostname="localhost"
        )
        for size in (1, 1000, 16384, 16385, 300_000):
            payload = os.urandom(size)
            writer.write(payload)
            assert await reader.readexactly(size) == payload
        assert (sum(seen) == 2 * (1 + 1000 + 16384 + 16385 + 300_000)) is patched
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_tls_takes_the_short_way(taut_loop: Factory, certs: Certs) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        writer.write(bytes(50_000))
        writer.write(await reader.readexactly(3))

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certs.server())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=certs.client(), server_hostname="localhost"
        )
        with calls() as seen:
            writer.write(b"abc")
            assert (await reader.readexactly(50_003))[50_000:] == b"abc"
        assert "feed_data" not in seen and "data_received" not in seen
        writer.close()
        server.close()

    run(taut_loop, main())
