"""loop.sendfile() over TCP and Unix sockets: what arrives, what is left behind, how it ends."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, Recorder, connected, ok, reset, run, script, until

import taut

BIG = 12 * 2**20  # more than the sockets of a connection hold
DATA = os.urandom(BIG)
LOOP = asyncio.get_running_loop


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sendfile") / "file"
    made.write_bytes(DATA)
    return made


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


class Connection:
    """A transport of the running loop and its peer, a plain socket."""

    def __init__(self, pair: Callable[[], Any] = tcp_pair) -> None:
        self.pair = pair
        self.protocol = Recorder()

    async def __aenter__(self) -> Connection:
        ours, self.peer = self.pair()
        ours.setblocking(False)
        self.peer.setblocking(False)
        self.transport = await connected(LOOP(), ours, self.protocol)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.transport.abort()
        self.peer.close()
        await until(lambda: self.protocol.lost, "connection_lost")

    async def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            block = await LOOP().sock_recv(self.peer, min(1 << 20, size - len(data)))
            if not block:
                break
            data += block
        return bytes(data)

    def start(self, file: Any, *args: Any, **options: Any) -> asyncio.Task[int]:
        return asyncio.create_task(LOOP().sendfile(self.transport, file, *args, **options))


async def begun(connection: Connection) -> None:
    """The peer has something of the file, which the sockets do not hold as a whole."""
    assert len(await connection.read(1000)) == 1000


# ---- what arrives -----------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])
@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (0, 1), (1000, 2000), (BIG - 10, None), (5, 10 * 2**20), (BIG - 10, 20)],
)
def test_bytes_result_and_position(
    factory: Factory, path: Path, pair: Any, buffering: int, offset: int, count: int | None
) -> None:
    async def main() -> None:
        async with Connection(pair) as c:
            with open(path, "rb", buffering=buffering) as file:
                task = c.start(file, offset, count)
                expected = DATA[offset : None if count is None else offset + count]
                assert await c.read(len(expected)) == expected
                assert await task == len(expected)
                assert file.tell() == offset + len(expected)
            c.transport.write(b"after")
            assert await c.read(5) == b"after"

    run(factory, main())


def test_nothing_to_send(factory: Factory, path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    async def main() -> None:
        async with Connection() as c:
            with open(tmp_path / "empty", "rb") as empty, open(path, "rb") as file:
                assert await LOOP().sendfile(c.transport, empty) == 0
                file.seek(7)
                assert await LOOP().sendfile(c.transport, file, BIG) == 0
                assert await LOOP().sendfile(c.transport, file, BIG + 5, 10) == 0
                # From 3.14 on the position is the offset, whatever was sent.
                assert file.tell() == (7 if sys.version_info < (3, 14) else BIG + 5)
            c.transport.write(b"x")
            assert await c.read(1) == b"x"

    run(factory, main())


def test_order_of_writes_and_files(factory: Factory, path: Path) -> None:
    before = os.urandom(8 * 2**20)

    async def main() -> None:
        async with Connection() as c:
            async def send() -> None:
                c.transport.write(before)
                with open(path, "rb") as file:
                    await LOOP().sendfile(c.transport, file, 0, 100)
                    c.transport.write(b"between")
                    await LOOP().sendfile(c.transport, file)
                    c.transport.write(b"after")

            task = asyncio.create_task(send())
            expected = before + DATA[:100] + b"between" + DATA + b"after"
            assert await c.read(len(expected)) == expected
            await task

    run(factory, main())


def test_a_file_that_grows(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        async with Connection() as c:
            with open(tmp_path / "grows", "w+b", buffering=0) as file:
                file.write(DATA)
                task = c.start(file)
                await begun(c)
                with open(tmp_path / "grows", "ab") as more:
                    more.write(b"more")
                rest = await c.read(BIG + 4 - 1000)
                assert rest == DATA[1000:] + b"more"
                assert await task == BIG + 4

    run(factory, main())


# ---- meanwhile --------------------------------------------------------------------------------


def test_writes_are_refused_meanwhile(factory: Factory, path: Path) -> None:
    async def main() -> None:
        async with Connection() as c:
            with open(path, "rb") as file:
                task = c.start(file)
                await begun(c)
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    c.transport.write(b"no")
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    c.transport.writelines([b"n", b"o"])
                assert c.transport.get_write_buffer_size() == 0
                # asyncio finds out by a KeyError
                with pytest.raises((RuntimeError, KeyError)):
                    await LOOP().sendfile(c.transport, file)
                assert await c.read(BIG - 1000) == DATA[1000:]
                assert await task == BIG
            c.transport.write(b"yes")
            assert await c.read(3) == b"yes"

    run(factory, main())


@pytest.mark.parametrize("paused", [False, True])
def test_reading_pauses(factory: Factory, path: Path, paused: bool) -> None:
    async def main() -> None:
        async with Connection() as c:
            if paused:
                c.transport.pause_reading()
            with open(path, "rb") as file:
                task = c.start(file)
                await begun(c)
                assert not c.transport.is_reading()
                c.peer.send(b"question")
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not c.protocol.data
                await c.read(BIG - 1000)
                await task
            assert c.transport.is_reading() is not paused
            if not paused:
                await until(lambda: c.protocol.data == b"question")

    run(factory, main())


def test_others_get_their_turn(factory: Factory, path: Path) -> None:
    """A peer that reads as fast as the loop sends does not get all of it in one turn."""
    async def main() -> None:
        turns = 0

        def tick() -> None:
            nonlocal turns
            turns += 1
            if not task.done():
                LOOP().call_soon(tick)

        async with Connection() as c:
            c.peer.setblocking(True)

            def drain() -> None:
                left = BIG
                while left:
                    left -= len(c.peer.recv(min(left, 1 << 20)))

            reader = asyncio.create_task(asyncio.to_thread(drain))
            with open(path, "rb") as file:
                task = c.start(file)
                LOOP().call_soon(tick)
                await task
            await reader
            # asyncio's turn is as long as the sockets take something, so that it promises nothing.
            if isinstance(LOOP(), taut.Loop):
                assert turns >= BIG // (4 * 2**20)

    run(factory, main())


def test_task_that_nobody_holds(factory: Factory, path: Path) -> None:
    async def main() -> None:
        done: list[int] = []

        async def send() -> None:
            with open(path, "rb") as file:
                done.append(await LOOP().sendfile(c.transport, file))

        async with Connection() as c:
            asyncio.create_task(send())
            await begun(c)
            gc.collect()
            assert await c.read(BIG - 1000) == DATA[1000:]
            await until(lambda: done == [BIG])

    run(factory, main())


# ---- files that sendfile(2) does not take -------------------------------------------------------


def without_descriptor(path: Path) -> Any:
    return io.BytesIO(DATA)


def not_what_its_descriptor_has(path: Path) -> Any:
    """A wrapper that hands out no descriptor, as many libraries' file objects."""
    class Wrapper:
        def __init__(self) -> None:
            self.file = open(path, "rb")
            self.readinto = self.file.readinto
            self.seek, self.tell, self.close = self.file.seek, self.file.tell, self.file.close

    return Wrapper()


@pytest.mark.parametrize("make", [without_descriptor, not_what_its_descriptor_has])
@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, 2 * 2**20), (BIG - 10, 20)])
def test_fallback(
    factory: Factory, path: Path, make: Any, offset: int, count: int | None
) -> None:
    async def main() -> None:
        async with Connection() as c:
            file = make(path)
            expected = DATA[offset : None if count is None else offset + count]
            with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
                await LOOP().sendfile(c.transport, file, offset, count, fallback=False)
            task = c.start(file, offset, count)
            assert await c.read(len(expected)) == expected
            assert await task == len(expected)
            assert file.tell() == offset + len(expected)
            assert c.transport.get_protocol() is c.protocol and c.transport.is_reading()
            file.close()

    run(factory, main())


def test_descriptor_that_the_kernel_refuses(factory: Factory, loop_name: str) -> None:
    """A pipe: with `count` sendfile(2) is tried, and says no."""
    since_314 = sys.version_info >= (3, 14)
    refused: Any = asyncio.SendfileNotAvailableError, "call failed"
    if since_314 and loop_name == "asyncio":  # it stumbles over its own seek()
        refused = OSError, "seek"

    async def main() -> None:
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as file, open(writing, "wb") as feed:
            feed.write(b"hello")
            feed.close()
            async with Connection() as c:
                with pytest.raises(refused[0], match=refused[1]):
                    await LOOP().sendfile(c.transport, file, 0, 5, fallback=False)
                # And so says asyncio's seek(), which is after it or, from 3.14 on, before it.
                with pytest.raises(OSError, match="seek"):
                    await LOOP().sendfile(c.transport, file, 0, 5)
                if not since_314:
                    assert await c.read(5) == b"hello"

    run(factory, main())


def test_refused_before_anything(factory: Factory, path: Path) -> None:
    class Unknown:
        def is_closing(self) -> bool:
            return False

    async def main() -> None:
        async with Connection() as c:
            with open(path, "rb") as file:
                with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
                    await LOOP().sendfile(Unknown(), file)  # type: ignore[arg-type]
                c.transport.write_eof()
                with pytest.raises(asyncio.SendfileNotAvailableError):
                    await LOOP().sendfile(c.transport, file, fallback=False)
                with pytest.raises(RuntimeError, match="write_eof"):
                    await LOOP().sendfile(c.transport, file)
                c.transport.close()
                with pytest.raises(RuntimeError, match="Transport is closing"):
                    await LOOP().sendfile(c.transport, file)

    run(factory, main())


@pytest.mark.parametrize(
    ("offset", "count", "error"),
    [
        (-1, None, ValueError),
        ("1", None, TypeError),
        (1.5, None, TypeError),
        (None, None, TypeError),
        (0, 0, ValueError),
        (0, -5, ValueError),
        (0, "5", TypeError),
        (0, 2.0, TypeError),
        (2**70, None, OverflowError),
    ],
)
def test_bad_numbers(factory: Factory, path: Path, offset: Any, count: Any, error: Any) -> None:
    async def main() -> None:
        async with Connection() as c:
            with open(path, "rb") as file:
                with pytest.raises(error) as caught:
                    await LOOP().sendfile(c.transport, file, offset, count)
                if error is not OverflowError:
                    name, value = ("offset", offset) if count is None else ("count", count)
                    assert str(caught.value).startswith(name) and repr(value) in str(caught.value)
                assert c.transport.is_reading()
                c.transport.write(b"x")
                assert await c.read(1) == b"x"

    run(factory, main())


def test_more_than_any_file_has(path: Path) -> None:
    import taut

    async def main() -> None:
        async with Connection() as c:
            with open(path, "rb") as file:
                assert await LOOP().sendfile(c.transport, file, BIG - 10, 2**70) == 10
            assert await c.read(10) == DATA[-10:]

    run(taut.new_event_loop, main())


def test_bad_files(factory: Factory, path: Path) -> None:
    async def main() -> None:
        async with Connection() as c:
            with open(path, encoding="latin-1") as text:
                with pytest.raises(ValueError, match="binary mode"):
                    await LOOP().sendfile(c.transport, text)  # type: ignore[arg-type]
            with open(path, "rb") as closed:
                pass
            with pytest.raises(ValueError, match="closed file"):
                await LOOP().sendfile(c.transport, closed)
            with pytest.raises(AttributeError):
                await LOOP().sendfile(c.transport, object())  # type: ignore[arg-type]
            assert c.transport.is_reading() and c.transport.get_protocol() is c.protocol

    run(factory, main())


# ---- how it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["under way", "behind a full buffer"])
def test_cancelled(factory: Factory, loop_name: str, path: Path, when: str) -> None:
    if loop_name == "asyncio" and when != "under way":
        pytest.skip("asyncio's transport refuses every later write, and does not read again")

    async def main() -> None:
        async with Connection() as c:
            junk = bytes(BIG) if when != "under way" else b""
            c.transport.write(junk)
            with open(path, "rb") as file:
                task = c.start(file)
                await until(lambda: not c.transport.is_reading())
                if not junk:
                    await begun(c)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                position = file.tell()
            assert c.transport.is_reading()
            c.transport.write(b"after")
            c.transport.write_eof()
            rest = await c.read(3 * BIG)
            sent = len(rest) - 5 - len(junk) + (0 if junk else 1000)
            assert rest.endswith(b"after")
            if loop_name == "taut":  # asyncio mostly leaves it as it was
                assert position == sent
            assert 0 <= sent < BIG

    run(factory, main())


def test_cancelled_fallback(factory: Factory) -> None:
    async def main() -> None:
        async with Connection() as c:
            file = io.BytesIO(DATA)
            task = c.start(file)
            await begun(c)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 1000 <= file.tell() < BIG
            assert c.transport.get_protocol() is c.protocol and c.transport.is_reading()
            c.transport.write(b"after")
            c.transport.write_eof()
            assert (await c.read(BIG)).endswith(b"after")

    run(factory, main())


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("name", ["close", "abort"])
def test_closed_meanwhile(path: Path, name: str, queued: bool) -> None:
    """asyncio's never ends then."""
    import taut

    async def main() -> None:
        async with Connection() as c:
            junk = bytes(BIG) if queued else b""
            c.transport.write(junk)
            with open(path, "rb") as file:
                task = c.start(file)
                await until(lambda: not c.transport.is_reading())
                await begun(c)
                getattr(c.transport, name)()
                with pytest.raises(ConnectionError, match="closed during sendfile"):
                    await task
                position = file.tell()
            rest = await c.read(2 * BIG)
            if name == "close":
                assert len(rest) + 1000 == position + len(junk)
            await until(lambda: c.protocol.lost)
            assert c.protocol.lost == [None]

    run(taut.new_event_loop, main())


def test_half_close_waits(path: Path) -> None:
    """asyncio's cuts the file off."""
    import taut

    async def main() -> None:
        async with Connection() as c:
            with open(path, "rb") as file:
                task = c.start(file)
                await begun(c)
                c.transport.write_eof()
                assert await c.read(2 * BIG) == DATA[1000:]
                assert await task == BIG

    run(taut.new_event_loop, main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_peer_goes(factory: Factory, path: Path, how: str) -> None:
    async def main() -> None:
        async with Connection() as c:
            file = open(path, "rb") if how == "native" else io.BytesIO(DATA)
            task = c.start(file)
            await begun(c)
            reset(c.peer)
            with pytest.raises(ConnectionError):
                await task
            assert 1000 <= file.tell() < BIG
            file.close()
            await until(lambda: c.protocol.lost, "connection_lost")

    run(factory, main())


def test_file_closed_meanwhile(path: Path) -> None:
    """asyncio's never ends then."""
    import taut

    async def main() -> None:
        async with Connection() as c:
            file = open(path, "rb")
            task = c.start(file)
            await begun(c)
            file.close()
            reader = asyncio.create_task(c.read(BIG))
            with pytest.raises(OSError, match="Bad file descriptor"):
                await task
            assert c.transport.is_reading()
            c.transport.write_eof()
            assert len(await reader) < BIG - 1000

    run(taut.new_event_loop, main())


def test_loop_closed_meanwhile(loop_name: str) -> None:
    """Nothing is left of it, and nothing crashes."""
    ok(script(loop_name, """
        import tempfile
        async def main():
            global transport, task, ours, theirs, file
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, sock=ours)
            file = tempfile.TemporaryFile()
            file.write(bytes(10 << 20))
            task = asyncio.get_running_loop().create_task(
                asyncio.get_running_loop().sendfile(transport, file))
            await asyncio.sleep(0)
        loop = new_loop()
        loop.run_until_complete(main())
        loop.close()
        task._log_destroy_pending = False
        del task, transport
        gc.collect()
        file.close()
        theirs.close()
    """))


def test_no_sigpipe(loop_name: str) -> None:
    """sendfile(2) raises it where send() is told not to; a program may have it on."""
    if loop_name == "asyncio":
        pytest.skip("it kills the process")
    out = ok(script(loop_name, """
        import tempfile
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        async def main():
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            theirs.close()
            with tempfile.TemporaryFile() as file:
                file.write(bytes(1 << 20))
                try:
                    await loop.sendfile(transport, file, fallback=False)
                except asyncio.SendfileNotAvailableError as exc:
                    print("survived", exc.__cause__)
        asyncio.Runner(loop_factory=new_loop).run(main())
    """))
    assert out == "survived [Errno 32] Broken pipe\n"


def test_nothing_leaks(path: Path) -> None:
    import taut
    from taut import _core

    async def once(end: str) -> None:
        async with Connection() as c:
            with open(path, "rb") as file:
                task = c.start(file)
                await begun(c)
                if end == "cancel":
                    task.cancel()
                elif end == "abort":
                    c.transport.abort()
                else:
                    await c.read(BIG - 1000)
                await asyncio.gather(task, return_exceptions=True)

    async def main() -> None:
        for end in ("cancel", "abort", "done"):
            await once(end)
        gc.collect()
        before = _core.mem_stats()["live_blocks"], len(gc.get_objects())
        for end in ("cancel", "abort", "done") * 3:
            await once(end)
        gc.collect()
        assert _core.mem_stats()["live_blocks"] <= before[0] + 1  # an examination
        assert len(gc.get_objects()) < before[1] + 50

    run(taut.new_event_loop, main())


def test_anonymous_files(factory: Factory) -> None:
    async def main() -> None:
        async with Connection(socket.socketpair) as c:
            with tempfile.TemporaryFile() as file:
                file.write(b"x" * 5000)
                file.flush()
                assert await LOOP().sendfile(c.transport, file, 10) == 4990
                assert await c.read(4990) == b"x" * 4990

    run(factory, main())
