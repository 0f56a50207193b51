"""Pipe transports and file descriptors: blocking modes, ownership, lifetime."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import socket
import time
import tty
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, Faults, Recorder, fd_count, ok, run, script, socketpair, until
from pipe_ends import KINDS, End, drain, ends, is_blocking, reading, writing


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[reading, writing], ids=["reading", "writing"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def taut_loop() -> Iterator[Any]:
    import taut

    loop = taut.new_event_loop()
    yield loop
    loop.close()


# ---- blocking modes: what asyncio leaves switched, taut gives back -----------------------------


@pytest.mark.parametrize("how", ["close", "peer", "abandoned", "loop"])
def test_the_blocking_mode_comes_back(
    taut_loop: Any, kind: str, connect: Any, how: str, tmp_path: Path
) -> None:
    """A duplicate stands for whoever else has the open file: the shell, a child, a parent."""
    with ends(kind, tmp_path) as (reader, writer):
        end, other = (reader, writer) if connect is reading else (writer, reader)
        duplicate = End(os.dup(end.fd))

        async def main() -> None:
            transport, protocol = await connect(end)
            assert is_blocking(duplicate.fd) is (kind == "socket")
            assert is_blocking(other.fd)
            if how == "close":
                transport.close()
                await until(lambda: protocol.lost, "the end")
            elif how == "peer":
                other.close()
                if connect is writing:
                    transport.write(b"x")
                await until(lambda: protocol.lost, "the end")
            elif how == "abandoned":
                if connect is reading:
                    transport.pause_reading()
                elif kind != "pty":
                    return  # the loop keeps it while it watches for the reader
                gone = weakref.ref(transport)
                protocol.transport = transport = None
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    await until(lambda: gc.collect() and False or gone() is None, "its end")
            else:
                protocol.transport = None

        if how == "peer" and kind == "pty" and connect is reading:
            pytest.skip("the master's duplicate keeps the terminal open")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            taut_loop.run_until_complete(main())
            taut_loop.close()
            assert is_blocking(duplicate.fd)
            gc.collect()
        assert end.closes == 1 or how == "loop" or (how, connect) == ("abandoned", writing)
        assert is_blocking(duplicate.fd)
        duplicate.close()


def test_a_mode_that_was_non_blocking_stays(taut_loop: Any, connect: Any) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            end = reader if connect is reading else writer
            os.set_blocking(end.fd, False)
            duplicate = os.dup(end.fd)
            transport, protocol = await connect(end)
            transport.close()
            await until(lambda: protocol.lost, "the end")
            assert not is_blocking(duplicate)
            os.close(duplicate)

    taut_loop.run_until_complete(main())


def test_two_transports_of_one_open_file(taut_loop: Any, tmp_path: Path) -> None:
    """It blocks again when the last one lets go, not before: that would hang the loop."""

    async def main() -> None:
        for first in (0, 1):
            with ends("pty", tmp_path) as (master, slave):
                again = End(os.dup(slave.fd))
                third = os.dup(slave.fd)
                read = await reading(slave)
                write = await writing(again)
                one, other = (read, write) if first == 0 else (write, read)
                one[0].close()
                await until(lambda one=one: one[1].lost, "the first")
                assert not is_blocking(third)
                if other is read:
                    os.write(master.fd, b"x")
                    await until(lambda: read[1].data == b"x", "input")
                else:
                    write[0].write(b"y")
                    assert drain(master.fd) == b"y"
                other[0].close()
                await until(lambda other=other: other[1].lost, "the second")
                assert is_blocking(third)
                os.close(third)

    taut_loop.run_until_complete(main())


def test_readers_and_sockets_change_no_mode(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        source, sink = os.pipe()
        one, two = socket.socketpair()
        fds = (source, sink, one.fileno(), two.fileno())
        seen: list[str] = []
        loop.add_reader(source, seen.append, "reader")
        loop.add_writer(sink, seen.append, "writer")
        loop.add_reader(one, seen.append, "reader of a socket")
        await until(lambda: "writer" in seen, "writability")
        assert all(is_blocking(fd) for fd in fds)
        os.write(sink, b"x")
        await until(lambda: "reader" in seen, "readability")
        for remove, fd in ((loop.remove_reader, source), (loop.remove_writer, sink)):
            remove(fd)
        loop.remove_reader(one)
        assert all(is_blocking(fd) for fd in fds)
        os.close(source)
        os.close(sink)
        one.close()
        two.close()
        with socketpair() as (left, right):  # non-blocking, as sock_* demands, and so they stay
            await loop.sock_sendall(left, b"x")
            assert await loop.sock_recv(right, 1) == b"x"
            assert not left.getblocking() and not right.getblocking()

    run(factory, main())


STDIO = """
    import fcntl, tty
    master, slave = os.openpty()
    tty.setraw(slave)
    if sys.argv[1] == "terminal":
        os.dup2(slave, 0); os.dup2(slave, 1); os.dup2(slave, 2)
        peer_in = peer_out = master
    else:
        source, peer_in = os.pipe()
        peer_out, sink = os.pipe()
        os.dup2(source, 0); os.dup2(sink, 1)
    os.set_blocking(peer_out, False)
    def blocking():
        return [not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in (0, 1)]
    assert blocking() == [True, True]
    async def main():
        loop = asyncio.get_running_loop()
        read = loops.Recorder()
        write = loops.Recorder()
        source, _ = await loop.connect_read_pipe(lambda: read, sys.stdin)
        sink, _ = await loop.connect_write_pipe(lambda: write, sys.stdout)
        assert blocking() == [True, True], blocking()
        assert source.get_extra_info("pipe") is sys.stdin and " fd=0 " in repr(source)
        os.write(peer_in, b"hello")
        await loops.until(lambda: read.data == b"hello", "input")
        sink.write(bytes(300_000))
        assert sink.get_write_buffer_size() > 0
        got = bytearray()
        loop.add_reader(peer_out, lambda: got.extend(os.read(peer_out, 1 << 16)))
        await loops.until(lambda: len(got) == 300_000, "output")
        loop.remove_reader(peer_out)
        duplicates = os.dup(0), os.dup(1)
        before = loops.fd_count()
        source.close()
        sink.close()
        await loops.until(lambda: read.lost and write.lost, "the end")
        assert sys.stdin.closed and sys.stdout.closed  # Python objects that leave 0 and 1 open
        assert loops.fd_count() == before - 2, (before, loops.fd_count())
        assert blocking() == [True, True]
        for fd in duplicates:
            assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    loops.run(new_loop, main())
    os.write(int(os.environ["SAY"]), b"fine")
"""


@pytest.mark.parametrize("what", ["terminal", "pipes"])
def test_standard_streams_never_stop_blocking(what: str) -> None:
    """uvloop #712, #460: print() raised BlockingIOError, and the shell found its terminal so."""
    source, sink = os.pipe()
    env = {**os.environ, "SAY": str(sink)}
    done = script("taut", STDIO, what, pass_fds=(sink,), env=env, stdin=-1)
    os.close(sink)
    assert done.returncode == 0, done.stderr
    assert os.read(source, 100) == b"fine"
    os.close(source)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_mode_alone(taut_loop: Any) -> None:
    """The child's copy of the transport ends with the child; the parent's goes on."""

    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await reading(reader)
            transport.pause_reading()
            await asyncio.sleep(0)  # the loop lets go of it
            pid = os.fork()
            if pid == 0:
                warnings.simplefilter("ignore")
                protocol.transport = transport = None
                gc.collect()
                os._exit(0 if reader.closes else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert not is_blocking(reader.fd)
            os.write(writer.fd, b"x")
            transport.resume_reading()
            await until(lambda: protocol.data == b"x", "the data")
            transport.close()
            await until(lambda: reader.closes, "the end")

    taut_loop.run_until_complete(main())


# ---- who closes what ---------------------------------------------------------------------------


def test_each_fd_is_closed_once(factory: Factory, kind: str, tmp_path: Path) -> None:
    """uvloop #763: a pipe's fd was closed twice, the second time as somebody else's."""

    async def main() -> None:
        before = fd_count()
        for how in ("close", "abort", "peer"):
            for connect in (reading, writing):
                with ends(kind, tmp_path) as (reader, writer):
                    end, other = (reader, writer) if connect is reading else (writer, reader)
                    transport, protocol = await connect(end)
                    number = end.fd
                    if how == "peer":
                        other.close()
                        if connect is writing:
                            transport.write(b"x")
                    else:
                        getattr(transport, "close" if connect is reading else how)()
                    await until(lambda: end.closes, "the end")
                    taken = os.open(os.devnull, os.O_RDONLY)
                    os.dup2(taken, number)
                    transport.close()
                    for _ in range(3):
                        await asyncio.sleep(0)
                    del transport, protocol
                    gc.collect()
                    os.fstat(number)
                    os.close(number)
                    if taken != number:
                        os.close(taken)
                    assert end.closes == 1
        assert fd_count() == before

    run(factory, main())


def test_a_number_that_changed_hands(taut_loop: Any, connect: Any) -> None:
    """The user has closed the pipe, and its number is another transport's now."""

    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            end, other = (reader, writer) if connect is reading else (writer, reader)
            transport, protocol = await connect(end)
            number = end.fd
            one, two = socket.socketpair()
            one.setblocking(False)
            end.close()
            moved = socket.socket(fileno=os.dup2(one.fileno(), number))
            one.close()
            echo = Recorder()
            loop = asyncio.get_running_loop()
            other_transport, _ = await loop.create_connection(lambda: echo, sock=moved)
            transport.close()
            await until(lambda: protocol.lost, "the end")
            two.send(b"still here")
            await until(lambda: echo.data == b"still here", "the other transport's data")
            assert not moved.getblocking()
            other_transport.close()
            await until(lambda: echo.lost, "its end")
            two.close()
            assert other.closes == 0

    taut_loop.run_until_complete(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's __del__
def test_a_pipe_whose_close_raises(factory: Factory) -> None:
    class Stubborn(End):
        def close(self) -> None:
            super().close()
            raise ZeroDivisionError

    async def main() -> list[type[BaseException]]:
        faults = Faults(asyncio.get_running_loop())
        source, sink = os.pipe()
        transport, protocol = await reading(Stubborn(source))
        transport.close()
        await until(lambda: faults.contexts, "the report")
        os.close(sink)
        assert protocol.lost == [None]
        return faults.exceptions()

    assert run(factory, main()) == [ZeroDivisionError]
    gc.collect()


def test_abandoned_transports_warn_and_close(factory: Factory) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, _):
            transport, protocol = await reading(reader)
            transport.pause_reading()
            protocol.transport = None
            with pytest.warns(ResourceWarning, match="unclosed transport <.*ReadPipeTransport fd="):
                del transport
                await until(lambda: gc.collect() and False or reader.closes, "its end")
            assert protocol.lost == []

    run(factory, main())


def test_transports_at_work_are_kept(factory: Factory) -> None:
    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            _, read = await reading(reader)
            _, wrote = await writing(writer)
            read.transport = None
            wrote.transport.write(bytes(200_000))
            wrote.transport.close()
            wrote.transport = None
            gc.collect()
            await until(lambda: len(read.data) == 200_000, "the data")
            await until(lambda: read.lost and wrote.lost, "the end")

    run(factory, main())


def test_a_loop_that_closes_under_them(factory: Factory, connect: Any) -> None:
    loop = factory()
    with ends("pipe", Path()) as (reader, writer):
        end = reader if connect is reading else writer
        transport, protocol = loop.run_until_complete(connect(end))
        if connect is writing:
            transport.write(bytes(1 << 20))
        loop.close()
        assert end.closes == 0
        assert not transport.is_closing()
        assert f"PipeTransport fd={end.fd} open>" in repr(transport)
        if connect is reading:
            transport.pause_reading()
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                transport.close()
            transport.close()
        else:
            transport.close()  # it would, after the buffer
            transport.write(b"dropped")
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                transport.abort()
        assert transport.is_closing()
        protocol.transport = None
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del transport
            gc.collect()
        assert end.closes == 1
        assert protocol.lost == []


def test_closing_from_another_thread_in_debug_mode(factory: Factory, connect: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await connect(reader if connect is reading else writer)
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                await loop.run_in_executor(None, transport.close)
            if loop.__class__.__module__.startswith("asyncio"):
                loop.call_soon(transport._call_connection_lost, None)  # asyncio thinks it closes
            transport.close()
            await until(lambda: protocol.lost, "the end")

    run(factory, main(), debug=True)


def test_the_creation_is_told_in_debug_mode(taut_loop: Any, connect: Any) -> None:
    async def main() -> None:
        with ends("pty", Path()) as (reader, writer):
            taut_loop.set_debug(True)
            end = reader if connect is reading else writer
            transport, protocol = await connect(end)
            if connect is reading:
                transport.pause_reading()
            protocol.transport = None
            with pytest.warns(ResourceWarning, match="unclosed transport") as caught:
                del transport
                await until(lambda: gc.collect() and False or end.closes, "its end")
            assert "pipe_ends.py" in str(caught[0].message)

    taut_loop.run_until_complete(main())


def test_slow_callbacks_are_told_in_debug_mode(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            time.sleep(0.06)  # blocks: the slow callback under test

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.05
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await reading(reader, Slow())
            os.write(writer.fd, b"x")
            await until(lambda: protocol.data, "the data")
            transport.close()
            await until(lambda: protocol.lost, "the end")

    with caplog.at_level("WARNING", "asyncio"):
        run(factory, main(), debug=True)
    assert any("PipeTransport" in r.getMessage() and " took " in r.getMessage()
               for r in caplog.records)


def test_a_closed_loop_takes_no_pipe(factory: Factory, connect: Any) -> None:
    loop: Any = factory()
    loop.close()
    make = loop._make_read_pipe_transport if connect is reading else loop._make_write_pipe_transport
    with ends("pipe", Path()) as (reader, writer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        end = reader if connect is reading else writer
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            make(end, Recorder())
        gc.collect()


def test_waiter_and_extra(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        made: list[Any] = []
        with ends("pipe", Path()) as (reader, writer):
            for make, end in (
                (loop._make_read_pipe_transport, reader),
                (loop._make_write_pipe_transport, writer),
            ):
                waiter = loop.create_future()
                protocol = Recorder()
                waiter.add_done_callback(lambda _, p=protocol: p.note("waiter"))
                transport = make(end, protocol, waiter=waiter, extra={"colour": "red"})
                assert protocol.calls == []
                await waiter
                await asyncio.sleep(0)
                assert protocol.calls == ["connection_made", "waiter"]
                assert transport.get_extra_info("colour") == "red"
                assert transport.get_extra_info("pipe") is end
                made.append(transport)
            for transport in made:
                transport.close()
            await until(lambda: reader.closes and writer.closes, "the end")

    run(factory, main())


def test_closed_from_connection_made(factory: Factory, connect: Any) -> None:
    class Refuses(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.close()

    async def main() -> list[str]:
        Faults(asyncio.get_running_loop())  # asyncio on 3.11.2 watches the closed fd
        with ends("pipe", Path()) as (reader, writer):
            end = reader if connect is reading else writer
            transport, protocol = await connect(end, Refuses())
            assert transport.is_closing()
            await until(lambda: end.closes, "the end")
            return protocol.calls

    assert run(factory, main()) == ["connection_made", "connection_lost"]


def test_add_reader_beside_a_transport(taut_loop: Any, tmp_path: Path) -> None:
    """The user watches the number already: the transport gets a registration of its own."""

    async def main() -> None:
        with ends("pty", tmp_path) as (master, slave):
            seen: list[str] = []
            taut_loop.add_writer(slave.fd, seen.append, "writable")
            transport, protocol = await reading(slave)
            await until(lambda: seen, "writability")
            os.write(master.fd, b"x")
            await until(lambda: protocol.data == b"x", "the data")
            assert taut_loop.remove_writer(slave.fd)
            os.write(master.fd, b"y")
            await until(lambda: protocol.data == b"xy", "more data")
            transport.close()
            await until(lambda: slave.closes, "the end")

    before = fd_count()
    taut_loop.run_until_complete(main())
    assert fd_count() == before


def test_a_transport_steps_aside(taut_loop: Any, tmp_path: Path) -> None:
    """Somebody else wants the number of a transport at work: both get their events."""

    async def main() -> None:
        with ends("pty", tmp_path) as (master, slave):
            transport, protocol = await reading(slave)
            seen: list[str] = []
            taut_loop.add_writer(slave.fd, seen.append, "writable")
            await until(lambda: seen, "writability")
            os.write(master.fd, b"x")
            await until(lambda: protocol.data == b"x", "the data")
            taut_loop.remove_writer(slave.fd)
            os.write(master.fd, b"y")
            await until(lambda: protocol.data == b"xy", "more data")
            transport.close()
            await until(lambda: slave.closes, "the end")
        one, two = socket.socketpair()
        transport, protocol = await reading(one)
        one.setblocking(False)
        payload = bytes(1 << 20)
        sent = asyncio.ensure_future(taut_loop.sock_sendall(one, payload))
        two.setblocking(False)
        await asyncio.sleep(0)
        two.send(b"meanwhile")
        await until(lambda: protocol.data == b"meanwhile", "the data")
        got = 0
        while got < len(payload):
            got += len(await taut_loop.sock_recv(two, 1 << 16))
        await sent
        two.close()
        await until(lambda: protocol.lost, "the end")
        assert one.fileno() == -1

    before = fd_count()
    taut_loop.run_until_complete(main())
    assert fd_count() == before


def test_no_room_to_step_aside(taut_loop: Any) -> None:
    """Out of descriptors, add_reader fails and the transport goes on."""

    async def main() -> None:
        with ends("pipe", Path()) as (reader, writer):
            transport, protocol = await reading(reader)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(OSError) as caught:
                    taut_loop.add_reader(reader.fd, print)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert caught.value.errno in (errno.EMFILE, errno.EINVAL)
            os.write(writer.fd, b"x")
            await until(lambda: protocol.data == b"x", "the data")
            assert not taut_loop.remove_reader(reader.fd)
            transport.close()
            await until(lambda: reader.closes, "the end")

    taut_loop.run_until_complete(main())


def test_garbage_is_collected(taut_loop: Any) -> None:
    """Protocol and transport refer to each other, as they mostly do."""

    async def main() -> weakref.ref[Any]:
        with ends("pipe", Path()) as (reader, _):
            transport, protocol = await reading(reader)
            transport.note = [transport]
            transport.close()
            await until(lambda: protocol.lost, "the end")
            return weakref.ref(transport)

    gone = taut_loop.run_until_complete(main())
    gc.collect()
    assert gone() is None


def test_sigpipe_with_its_default_action(loop_name: str) -> None:
    """A program that has restored the signal's action is not ended by a pipe without a reader."""
    if loop_name != "taut":
        pytest.skip("asyncio's process dies of it")
    code = """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        async def main():
            loop = asyncio.get_running_loop()
            source, sink = os.pipe()
            lost = loops.Recorder()
            transport, _ = await loop.connect_write_pipe(lambda: lost, os.fdopen(sink, "wb", 0))
            os.close(source)
            transport.write(b"x")
            await loops.until(lambda: lost.lost, "the end")
            print(type(lost.lost[0]).__name__)
        loops.run(new_loop, main())
    """
    assert ok(script(loop_name, code)).strip() == "BrokenPipeError"


def test_raw_terminal_reads_what_is_typed(factory: Factory) -> None:
    """A terminal in its line mode: lines arrive as they are ended, ^D is the end of the input."""

    async def main() -> bytes:
        master, slave = os.openpty()
        attributes = tty.tcgetattr(slave)
        attributes[3] &= ~tty.ECHO
        tty.tcsetattr(slave, tty.TCSANOW, attributes)
        end = End(slave)
        _, protocol = await reading(end)
        os.write(master, b"half")
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.data == b""
        os.write(master, b" a line\n")
        await until(lambda: protocol.data == b"half a line\n", "the line")
        os.write(master, b"\x04")
        await until(lambda: end.closes, "the end")
        os.close(master)
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        return bytes(protocol.data)

    assert run(factory, main()) == b"half a line\n"
