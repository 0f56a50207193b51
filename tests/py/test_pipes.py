"""connect_read_pipe and connect_write_pipe: callbacks, flow control, ends, errors."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, Faults, Recorder, reset, run, until
from pipe_ends import KINDS, End, drain, ends, reading, writing


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# ---- reading ---------------------------------------------------------------------------------


def test_read_until_the_writer_has_gone(factory: Factory, kind: str, tmp_path: Path) -> None:
    async def main() -> tuple[list[str], list[Any]]:
        with ends(kind, tmp_path) as (reader, writer):
            transport, protocol = await reading(reader)
            assert protocol.calls == ["connection_made"]
            assert protocol.transport is transport
            assert isinstance(transport, asyncio.ReadTransport)
            assert transport.get_extra_info("pipe") is reader
            assert transport.get_extra_info("colour", "none") == "none"
            assert not transport.is_closing()
            os.write(writer.fd, b"one")
            await until(lambda: protocol.data == b"one", "the data")
            os.write(writer.fd, b"two")
            await until(lambda: protocol.data == b"onetwo", "more data")
            writer.close()
            await until(lambda: protocol.lost, "the end")
            await until(lambda: reader.closes, "the pipe's close()")
            assert transport.is_closing()
            assert reader.closes == 1
            assert transport.get_protocol() is None
            transport.close()
            await asyncio.sleep(0)
            return protocol.calls, [type(exc) for exc in protocol.lost]

    calls, lost = run(factory, main())
    start = ["connection_made", "data_received", "data_received"]
    if kind == "pty":  # the master's read fails with EIO
        assert (calls, lost) == ([*start, "connection_lost"], [OSError])
    else:
        assert (calls, lost) == ([*start, "eof_received", "connection_lost"], [type(None)])


def test_closing_when_eof_is_told(factory: Factory) -> None:
    class Says(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            self.closing = self.transport.is_closing()
            self.transport.close()
            return True  # has no meaning here

    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            protocol = Says()
            await reading(reader, protocol)
            writer.close()
            await until(lambda: reader.closes, "the end")
            assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
            assert protocol.closing is True
            assert protocol.lost == [None]

    run(factory, main())


def test_eof_goes_to_the_protocol_that_was_there(factory: Factory) -> None:
    """set_protocol() in data_received(), with the EOF right behind the data."""

    async def main() -> tuple[list[str], list[str]]:
        with ends("pipe", Path()) as (reader, writer):
            second = Recorder()

            class First(Recorder):
                def data_received(self, data: bytes) -> None:
                    super().data_received(data)
                    self.transport.set_protocol(second)
                    assert self.transport.get_protocol() is second

            _, first = await reading(reader, First())
            os.write(writer.fd, b"x")
            writer.close()
            await until(lambda: reader.closes, "the end")
            return first.calls, second.calls

    assert run(factory, main()) == (
        ["connection_made", "data_received"],
        ["eof_received", "connection_lost"],
    )


def test_a_megabyte_arrives(factory: Factory, kind: str, tmp_path: Path) -> None:
    payload = os.urandom(1 << 20)

    async def main() -> None:
        with ends(kind, tmp_path) as (reader, writer):
            source, wrote = await writing(writer)
            _, read = await reading(reader)
            source.write(payload[:100])
            source.write(bytearray(payload[100:5000]))
            source.writelines([payload[5000:5001], memoryview(payload)[5001:9000]])
            source.write(memoryview(payload)[9000:])
            assert source.get_write_buffer_size() > 0
            await until(lambda: len(read.data) == len(payload), "all of it")
            assert read.data == payload
            assert "pause_writing" in wrote.calls
            await until(lambda: wrote.calls[-1] == "resume_writing", "resume_writing")
            assert source.get_write_buffer_size() == 0
            source.write_eof()
            await until(lambda: read.lost and wrote.lost, "the end")
            assert wrote.calls[-1] == "connection_lost"
            assert wrote.calls.count("connection_lost") == 1

    run(factory, main())


def test_pause_and_resume_reading(factory: Factory, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        with ends(kind, tmp_path) as (reader, writer):
            transport, protocol = await reading(reader)
            transport.pause_reading()
            transport.pause_reading()
            os.write(writer.fd, b"kept")
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.calls == ["connection_made"]
            transport.resume_reading()
            transport.resume_reading()
            await until(lambda: protocol.data == b"kept", "the data")
            transport.close()
            transport.pause_reading()
            transport.resume_reading()
            await until(lambda: reader.closes, "the end")
            transport.pause_reading()
            transport.resume_reading()

    run(factory, main())


def test_paused_in_data_received(factory: Factory) -> None:
    class OneByOne(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await reading(reader, OneByOne())
            os.write(writer.fd, b"a")
            await until(lambda: protocol.data == b"a", "the first")
            os.write(writer.fd, b"b")
            writer.close()
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.data == b"a"
            assert "eof_received" not in protocol.calls
            transport.resume_reading()
            await until(lambda: protocol.data == b"ab", "the second")
            assert protocol.calls[-1] == "data_received"
            transport.resume_reading()
            await until(lambda: protocol.lost, "the end")
            assert protocol.calls[-2:] == ["eof_received", "connection_lost"]

    run(factory, main())


def test_paused_in_connection_made_is_honoured() -> None:
    """asyncio of 3.11.2 forgets it, so this is held against taut alone."""

    class Waits(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            os.write(writer.fd, b"data")
            transport, protocol = await reading(reader, Waits())
            assert not transport.is_reading()
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.data == b""
            transport.resume_reading()
            assert transport.is_reading()
            await until(lambda: protocol.data == b"data", "the data")
            transport.close()

    import taut

    run(taut.new_event_loop, main())


def test_stream_reader_and_writer(factory: Factory, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ends(kind, tmp_path) as (reader, writer):
            stream = asyncio.StreamReader(limit=1000)
            await reading(reader, asyncio.StreamReaderProtocol(stream))
            transport, protocol = await loop.connect_write_pipe(
                asyncio.streams.FlowControlMixin, writer
            )
            out = asyncio.StreamWriter(transport, protocol, None, loop)
            payload = os.urandom(200_000)

            async def send() -> None:
                for at in range(0, len(payload), 10_000):
                    out.write(payload[at : at + 10_000])
                    await out.drain()

            sender = loop.create_task(send())
            assert await stream.readexactly(len(payload)) == payload
            await sender
            out.close()
            if kind != "pty":
                assert await stream.read() == b""
            await until(lambda: writer.closes, "the end")

    run(factory, main())


@pytest.mark.parametrize("name", ["data_received", "eof_received", "connection_lost"])
def test_a_callback_that_raises_is_reported(factory: Factory, name: str) -> None:
    async def main() -> tuple[list[str], list[type[BaseException]]]:
        faults = Faults(asyncio.get_running_loop())
        with ends("pipe", Path()) as (reader, writer):
            _, protocol = await reading(reader, Recorder(raises=(name,)))
            os.write(writer.fd, b"one")
            await until(lambda: protocol.data == b"one", "the data")
            os.write(writer.fd, b"two")
            await until(lambda: protocol.data == b"onetwo", "the data after the failure")
            writer.close()
            await until(lambda: reader.closes, "the end")
            return protocol.calls, faults.exceptions()

    calls, failed = run(factory, main())
    assert calls[-2:] == ["eof_received", "connection_lost"]
    assert failed == [ZeroDivisionError] * calls.count(name)


def test_a_read_error_is_reported(factory: Factory, tmp_path: Path) -> None:
    """A socket that was reset: reading fails with something else than EIO."""

    async def main() -> tuple[list[type[BaseException]], str, list[type[Any]]]:
        faults = Faults(asyncio.get_running_loop())
        server = socket.create_server(("127.0.0.1", 0))
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        server.close()
        _, protocol = await reading(ours)
        reset(theirs)
        await until(lambda: protocol.lost, "the end")
        assert ours.fileno() == -1
        return faults.exceptions(), faults.contexts[0]["message"], [type(protocol.lost[0])]

    assert run(factory, main()) == (
        [ConnectionResetError],
        "Fatal read error on pipe transport",
        [ConnectionResetError],
    )


# ---- writing ---------------------------------------------------------------------------------


def test_write_transport(factory: Factory, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        with ends(kind, tmp_path) as (reader, writer):
            transport, protocol = await writing(writer)
            assert protocol.calls == ["connection_made"]
            assert isinstance(transport, asyncio.WriteTransport)
            assert transport.get_extra_info("pipe") is writer
            assert transport.can_write_eof() is True
            assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
            transport.write(b"")
            transport.write(b"1")
            assert drain(reader.fd) == b"1"  # at once
            transport.write(bytearray(b"23"))
            transport.write(memoryview(b"_456")[1:])
            assert drain(reader.fd) == b"23456"
            transport.writelines([b"7", bytearray(b"8"), memoryview(b"9")])
            assert drain(reader.fd) == b"789"
            transport.close()
            assert transport.is_closing()
            assert writer.closes == 0
            await until(lambda: writer.closes, "the end")
            assert protocol.calls == ["connection_made", "connection_lost"]
            assert protocol.lost == [None]
            assert transport.get_protocol() is None
            transport.close()
            transport.write_eof()

    run(factory, main())


@pytest.mark.parametrize("how", ["close", "write_eof", "abort"])
def test_ending_with_bytes_in_the_buffer(factory: Factory, how: str) -> None:
    payload = os.urandom(300_000)

    async def main() -> bytes:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await writing(writer)
            transport.write(payload)
            left = transport.get_write_buffer_size()
            assert 0 < left < len(payload)
            getattr(transport, how)()
            assert transport.is_closing()
            transport.write(b"dropped")
            got = bytearray()
            if how == "abort":
                assert transport.get_write_buffer_size() == 0
                await until(lambda: writer.closes, "the end")
                return drain(reader.fd)
            assert transport.get_write_buffer_size() == left

            def more() -> bool:
                got.extend(drain(reader.fd))
                return bool(writer.closes)

            await until(more, "all of it")
            assert protocol.lost == [None]
            got += drain(reader.fd)
            return bytes(got)

    got = run(factory, main())
    assert got == (payload[: len(got)] if how == "abort" else payload)
    assert len(got) > 0


def test_abort_after_close_cuts_it_short(factory: Factory) -> None:
    async def main() -> None:
        Faults(asyncio.get_running_loop())  # asyncio stumbles over its second connection_lost
        with ends("pipe", Path()) as (_, writer):
            transport, protocol = await writing(writer)
            transport.write(bytes(300_000))
            transport.close()
            transport.abort()
            await until(lambda: writer.closes, "the end")
            transport.close()
            assert protocol.lost == [None]

    run(factory, main())


def test_water_marks(factory: Factory) -> None:
    async def main() -> tuple[list[str], list[int]]:
        with ends("pipe", Path()) as (reader, writer):
            sizes: list[int] = []

            class Sizes(Recorder):
                def resume_writing(self) -> None:
                    super().resume_writing()
                    sizes.append(self.transport.get_write_buffer_size())

            transport, protocol = await writing(writer, Sizes())
            transport.set_write_buffer_limits(high=1000, low=100)
            assert transport.get_write_buffer_limits() == (100, 1000)
            with pytest.raises(ValueError):
                transport.set_write_buffer_limits(high=1, low=2)
            transport.write(bytes(os.stat(reader.fd).st_blksize))
            while transport.get_write_buffer_size() == 0:
                transport.write(bytes(4096))
            transport.write(bytes(1000))
            assert protocol.calls == ["connection_made", "pause_writing"]
            transport.write(bytes(1000))
            assert protocol.calls == ["connection_made", "pause_writing"]
            drain(reader.fd)
            await until(lambda: protocol.calls[-1] == "resume_writing", "resume_writing")
            transport.set_write_buffer_limits(high=0)
            transport.close()
            await until(lambda: protocol.lost, "the end")
            return protocol.calls, sizes

    assert run(factory, main()) == (
        ["connection_made", "pause_writing", "resume_writing", "connection_lost"],
        [0],
    )


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_flow_control_that_raises_is_reported(factory: Factory, name: str) -> None:
    async def main() -> list[Any]:
        faults = Faults(asyncio.get_running_loop())
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await writing(writer, Recorder(raises=(name,)))
            transport.write(bytes(300_000))

            def flushed() -> bool:
                drain(reader.fd)
                return "resume_writing" in protocol.calls

            await until(flushed, "resume_writing")
            transport.close()
            await until(lambda: protocol.lost, "the end")
            return [(c["message"], type(c["exception"])) for c in faults.contexts]

    assert run(factory, main()) == [(f"protocol.{name}() failed", ZeroDivisionError)]


@pytest.mark.parametrize("pending", [False, True])
def test_the_reader_goes_away(
    factory: Factory, kind: str, pending: bool, tmp_path: Path
) -> None:
    """A pipe's and a socket's write end notices by itself; a terminal's with the next write."""

    async def main() -> list[Any]:
        faults = Faults(asyncio.get_running_loop())
        with ends(kind, tmp_path) as (reader, writer):
            transport, protocol = await writing(writer)
            if pending:
                transport.write(bytes(1 << 20))
                assert transport.get_write_buffer_size() > 0
            reader.close()
            if kind == "pty" and not pending:
                for _ in range(3):
                    await asyncio.sleep(0)
                assert not transport.is_closing()
                transport.write(b"x")
            await until(lambda: protocol.lost, "the end")
            assert writer.closes == 1
            assert faults.contexts == []
            return [type(exc) for exc in protocol.lost]

    if kind == "pty":
        assert run(factory, main()) == [OSError]
    else:
        assert run(factory, main()) == [BrokenPipeError if pending else type(None)]


def test_the_reader_goes_while_closing(factory: Factory) -> None:
    async def main() -> list[Any]:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await writing(writer)
            transport.write(bytes(1 << 20))
            transport.close()
            reader.close()
            await until(lambda: protocol.lost, "the end")
            return [type(exc) for exc in protocol.lost]

    assert run(factory, main()) == [BrokenPipeError]


def test_a_write_that_fails(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    """The reader has gone before the loop could notice; what follows is dropped, then warned of."""

    async def main() -> list[Any]:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await writing(writer)
            reader.close()
            transport.write(b"x")
            assert transport.is_closing()
            for _ in range(4):
                transport.write(b"dropped")
            assert not caplog.records
            transport.write(b"dropped")
            transport.write(b"")
            transport.writelines([b"dropped"])
            await until(lambda: protocol.lost, "the end")
            return [type(exc) for exc in protocol.lost]

    with caplog.at_level(logging.WARNING, "asyncio"):
        assert run(factory, main()) == [BrokenPipeError]
    message = "pipe closed by peer or os.write(pipe, data) raised exception."
    assert [r.getMessage() for r in caplog.records] == [message] * 2


def test_writes_after_close(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (_, writer):
            transport, protocol = await writing(writer)
            transport.close()
            for _ in range(5):
                transport.write(b"dropped")
            assert not caplog.records
            transport.write(b"dropped")
            await until(lambda: protocol.lost, "the end")
            transport.write(b"dropped")

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(factory, main())
    assert len(caplog.records) == 2


def test_write_wants_bytes(factory: Factory) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await writing(writer)
            for bad in ("text", 1, None, [1]):
                with pytest.raises((AssertionError, TypeError)):
                    transport.write(bad)
            with pytest.raises(TypeError):
                transport.writelines([b"fine", "text"])
            with pytest.raises(TypeError):
                transport.writelines(1)
            assert drain(reader.fd) == b""
            transport.close()
            await until(lambda: protocol.lost, "the end")

    run(factory, main())


def test_both_ways_over_one_terminal(loop_name: str, factory: Factory, tmp_path: Path) -> None:
    """A terminal is read and written through one number, of which epoll knows only one watch."""

    async def main() -> None:
        with ends("pty", tmp_path) as (master, slave):
            loop = asyncio.get_running_loop()
            read, got = await reading(slave)
            again = End(slave.fd)
            again.close = lambda: None  # type: ignore[method-assign]
            write, wrote = await writing(again)
            os.write(master.fd, b"ping")
            await until(lambda: got.data == b"ping", "input")
            write.write(bytes(100_000))
            seen = bytearray()
            loop.add_reader(master.fd, lambda: seen.extend(drain(master.fd)))
            await until(lambda: len(seen) == 100_000, "output")
            loop.remove_reader(master.fd)
            write.close()
            await until(lambda: wrote.lost, "the end of writing")
            if loop_name != "asyncio":  # there it has taken the reader away, too
                os.write(master.fd, b"pong")
                await until(lambda: got.data == b"pingpong", "input after that")
            read.close()
            await until(lambda: slave.closes, "the end of reading")

    run(factory, main())


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("connect", [reading, writing])
def test_regular_files_are_refused(factory: Factory, connect: Any) -> None:
    async def main() -> str:
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError) as caught:
                await connect(file)
            gc.collect()
            assert not file.closed
            os.fstat(file.fileno())
            return str(caught.value)

    assert run(factory, main()) == (
        "Pipe transport is for pipes/sockets only."
        if connect is reading
        else "Pipe transport is only for pipes, sockets and character devices"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's __del__
@pytest.mark.parametrize("connect", [reading, writing])
def test_what_is_no_pipe_is_refused(factory: Factory, connect: Any) -> None:
    async def main() -> None:
        with pytest.raises(AttributeError):
            await connect(1)
        with pytest.raises(OSError) as caught:
            await connect(End(10_000))
        assert caught.value.errno == 9
        sock = socket.socket()
        sock.close()
        with pytest.raises(OSError):
            await connect(sock)
        gc.collect()

    run(factory, main())


@pytest.mark.parametrize("connect", [reading, writing])
def test_cancelled_while_connecting(factory: Factory, connect: Any) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            end = reader if connect is reading else writer
            protocol = Recorder()
            task = asyncio.ensure_future(connect(end, protocol))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: end.closes, "the end")
            assert protocol.calls == ["connection_made", "connection_lost"]

    run(factory, main())


def test_devices_without_readiness(factory: Factory) -> None:
    """/dev/null cannot be polled: reading is reported as impossible, writing needs no poll."""

    async def main() -> list[type[BaseException]]:
        faults = Faults(asyncio.get_running_loop())
        source = End(os.open(os.devnull, os.O_RDONLY))
        sink = End(os.open(os.devnull, os.O_WRONLY))
        read, _ = await reading(source)
        write, _ = await writing(sink)
        write.write(bytes(1 << 20))
        assert write.get_write_buffer_size() == 0
        assert not read.is_closing()
        read.close()
        write.close()
        await until(lambda: source.closes and sink.closes, "the end")
        return faults.exceptions()

    assert run(factory, main()) == [PermissionError]


# ---- debugging ---------------------------------------------------------------------------------


def test_repr(factory: Factory) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            number_in, number_out = reader.fd, writer.fd
            read, _ = await reading(reader)
            write, _ = await writing(writer)
            assert repr(read).endswith(f"ReadPipeTransport fd={number_in} polling>")
            assert repr(write).endswith(f"WritePipeTransport fd={number_out} idle bufsize=0>")
            read.pause_reading()
            assert repr(read).endswith(f"ReadPipeTransport fd={number_in} idle>")
            write.write(bytes(1 << 20))
            assert "polling bufsize=" in repr(write)
            write.abort()
            read.close()
            assert "PipeTransport closing fd=" in repr(read)
            assert "PipeTransport closing fd=" in repr(write)
            await until(lambda: reader.closes and writer.closes, "the end")
            assert f"ReadPipeTransport closed fd={number_in}" in repr(read)
            assert f"WritePipeTransport closed fd={number_out}" in repr(write)

    run(factory, main())


def test_debug_log(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            read, got = await reading(reader)
            write, wrote = await writing(writer)
            read.pause_reading()
            read.resume_reading()
            writer.close()
            await until(lambda: got.lost, "the end")
            write.write(b"x")
            await until(lambda: wrote.lost, "the other end")

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(factory, main(), debug=True)
    texts = [(r.levelname, r.getMessage()) for r in caplog.records]
    expected = [
        ("DEBUG", "Read pipe "),
        ("DEBUG", "Write pipe "),
        ("DEBUG", " pauses reading"),
        ("DEBUG", " resumes reading"),
        ("INFO", " was closed by peer"),
        ("DEBUG", ": Fatal write error on pipe transport"),
    ]
    for level, part in expected:
        assert any(level == one and part in text for one, text in texts), (level, part, texts)
    failed = [r for r in caplog.records if "Fatal write" in r.getMessage()]
    assert failed[0].exc_info
