"""loop.sendfile() over TLS: read and encrypted, from the page cache without a thread."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, Recorder, reset, run, until
from tls_certs import Certs
from tls_peers import recv_all, recv_exactly, tls_pair

import taut
from taut import _core

SIZE = 9 * 2**20 + 1
DATA = os.urandom(SIZE)
LOOP = asyncio.get_running_loop


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sendfile") / "file"
    made.write_bytes(DATA)
    return made


class Connection:
    """A TLS transport of the running loop and its blocking peer."""

    def __init__(self, certs: Certs, version: str | None = None) -> None:
        self.certs, self.version = certs, version
        self.protocol = Recorder()

    async def __aenter__(self) -> Connection:
        self.transport, self.peer = await tls_pair(
            "server", self.protocol, self.certs, self.version
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.transport.abort()
        self.peer.close()
        await until(lambda: self.protocol.lost, "connection_lost")

    async def read(self, size: int) -> bytes:
        return await asyncio.to_thread(recv_exactly, self.peer, size)

    def start(self, file: Any, *args: Any) -> asyncio.Task[int]:
        return asyncio.create_task(LOOP().sendfile(self.transport, file, *args))


def buffered(path: Path) -> Any:
    return open(path, "rb")


def read_from_already(path: Path) -> Any:
    """What the object has read ahead is not what its descriptor is at."""
    file = open(path, "rb")
    file.read(10)
    file.seek(0)
    return file


def unbuffered(path: Path) -> Any:
    return open(path, "rb", buffering=0)


def for_update(path: Path) -> Any:
    """With bytes that have not reached the file."""
    file = open(path, "r+b")
    file.write(DATA[:100])
    file.seek(0)
    return file


def in_memory(path: Path) -> Any:
    return io.BytesIO(DATA)


FILES = [buffered, read_from_already, unbuffered, for_update, in_memory]


@pytest.mark.parametrize("make", FILES)
@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1000, 2000), (5, 8 * 2**20), (SIZE - 10, 20), (SIZE - 10, None), (SIZE, 5)],
)
def test_bytes_result_and_position(
    factory: Factory, path: Path, certs: Certs, make: Any, offset: int, count: int | None
) -> None:
    async def main() -> None:
        async with Connection(certs) as c:
            with make(path) as file:
                expected = DATA[offset : None if count is None else offset + count]
                task = c.start(file, offset, count)
                assert await c.read(len(expected)) == expected
                assert await task == len(expected)
                assert file.tell() == offset + len(expected)
            assert c.transport.get_protocol() is c.protocol
            c.transport.write(b"after")
            assert await c.read(5) == b"after"

    run(factory, main())


def test_both_versions(factory: Factory, path: Path, certs: Certs, version: str) -> None:
    async def main() -> None:
        async with Connection(certs, version) as c:
            with open(path, "rb") as file:
                task = c.start(file)
                assert await c.read(SIZE) == DATA
                assert await task == SIZE

    run(factory, main())


def test_without_offset_from_where_the_file_is(factory: Factory, path: Path, certs: Certs) -> None:
    """As asyncio has it: up to 3.13, 0 stands for the current position when the file is read."""
    start = SIZE - 100 if sys.version_info < (3, 14) else 0

    async def main() -> None:
        async with Connection(certs) as c:
            with open(path, "rb") as file:
                file.seek(SIZE - 100)
                task = c.start(file)
                assert await c.read(SIZE - start) == DATA[start:]
                assert await task == SIZE - start
                assert file.tell() == SIZE - start

    run(factory, main())


def test_order_of_writes_and_files(factory: Factory, path: Path, certs: Certs) -> None:
    before = os.urandom(6 * 2**20)

    async def main() -> None:
        async with Connection(certs) as c:

            async def send() -> None:
                c.transport.write(before)
                with open(path, "rb") as file:
                    await LOOP().sendfile(c.transport, file, 0, 100)
                    c.transport.write(b"between")
                    file.seek(0)
                    await LOOP().sendfile(c.transport, file)
                    c.transport.write(b"after")

            task = asyncio.create_task(send())
            expected = before + DATA[:100] + b"between" + DATA + b"after"
            assert await c.read(len(expected)) == expected
            await task

    run(factory, main())


def test_meanwhile(factory: Factory, path: Path, certs: Certs) -> None:
    """Reading pauses; a write goes in between, as does a second file."""
    async def main() -> None:
        async with Connection(certs) as c:
            with open(path, "rb") as file, open(path, "rb") as other:
                task = c.start(file)
                assert len(await c.read(1000)) == 1000
                assert not c.transport.is_reading()
                c.transport.write(b"x" * 100)
                second = c.start(other)
                rest = await c.read(2 * SIZE + 100 - 1000)
                assert len(rest) == 2 * SIZE + 100 - 1000 and b"x" * 100 in rest
                assert await task == SIZE and await second == SIZE
            await until(c.transport.is_reading)

    run(factory, main())


def test_no_thread_for_what_is_in_memory(path: Path, certs: Certs) -> None:
    async def main() -> None:
        async with Connection(certs) as c:
            path.read_bytes()

            def refuse(*args: Any) -> Any:
                raise AssertionError("run_in_executor")

            task = c.start(open(path, "rb"))
            reading = asyncio.create_task(c.read(SIZE))  # has its thread already
            await asyncio.sleep(0)
            loop: Any = LOOP()
            loop.run_in_executor = refuse
            assert await reading == DATA
            assert await task == SIZE

    with open(path, "rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError:
            pytest.skip("this file system cannot tell what is in memory")
    run(taut.new_event_loop, main())


def test_what_is_not_in_memory(tmp_path: Path, certs: Certs) -> None:
    with open(tmp_path / "cold", "w+b") as file:
        file.write(DATA)
        file.flush()
        os.fsync(file.fileno())

    async def main() -> None:
        async with Connection(certs) as c:
            with open(tmp_path / "cold", "rb") as file:
                for offset in (0, 5 * 2**20):  # the first time nothing, then a part
                    os.posix_fadvise(file.fileno(), offset, 0, os.POSIX_FADV_DONTNEED)
                    task = c.start(file, 1)
                    assert await c.read(SIZE - 1) == DATA[1:]
                    assert await task == SIZE - 1

    run(taut.new_event_loop, main())


def test_refused(factory: Factory, path: Path, certs: Certs) -> None:
    async def main() -> None:
        async with Connection(certs) as c:
            with open(path, "rb") as file, open(os.devnull, "wb") as out:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await LOOP().sendfile(c.transport, file, fallback=False)
                for count in (-5, "5"):
                    with pytest.raises((TypeError, ValueError)):
                        await LOOP().sendfile(c.transport, file, 0, count)  # type: ignore[arg-type]
                with pytest.raises((OSError, AttributeError)):
                    await LOOP().sendfile(c.transport, out)
                assert c.transport.get_protocol() is c.protocol and c.transport.is_reading()
                c.transport.close()
                with pytest.raises(RuntimeError, match="Transport is closing"):
                    await LOOP().sendfile(c.transport, file)

    run(factory, main())


def test_cancelled(factory: Factory, path: Path, certs: Certs) -> None:
    async def main() -> None:
        async with Connection(certs) as c:
            with open(path, "rb") as file:
                task = c.start(file)
                assert len(await c.read(1000)) == 1000
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                position = file.tell()
            assert c.transport.get_protocol() is c.protocol and c.transport.is_reading()
            c.transport.write(b"after")
            rest = asyncio.create_task(asyncio.to_thread(recv_all, c.peer))
            c.transport.close()
            got = await rest
            assert got.endswith(b"after") and len(got) + 1000 - 5 == position < SIZE
            c.peer.close()

    run(factory, main())


@pytest.mark.parametrize("how", ["close", "abort", "reset"])
def test_cut_off(factory: Factory, path: Path, certs: Certs, how: str) -> None:
    async def main() -> None:
        async with Connection(certs) as c:
            with open(path, "rb") as file:
                task = c.start(file)
                assert len(await c.read(1000)) == 1000
                if how == "reset":
                    reset(c.peer)
                else:
                    getattr(c.transport, how)()
                    if how == "close":
                        await asyncio.to_thread(drain, c.peer)
                with pytest.raises(ConnectionError):
                    await task
                assert 1000 <= file.tell() < SIZE
            await until(lambda: c.protocol.lost, "connection_lost")

    run(factory, main())


def drain(peer: ssl.SSLSocket) -> None:
    """To the end, whatever that is like."""
    try:
        while peer.recv(1 << 18):
            pass
        peer.unwrap()
    except OSError:
        pass
    peer.close()


def test_task_that_nobody_holds(factory: Factory, path: Path, certs: Certs) -> None:
    async def main() -> None:
        done: list[int] = []

        async def send() -> None:
            with open(path, "rb") as file:
                done.append(await LOOP().sendfile(c.transport, file))

        async with Connection(certs) as c:
            asyncio.create_task(send())
            await c.read(1000)
            gc.collect()
            assert await c.read(SIZE - 1000) == DATA[1000:]
            await until(lambda: done == [SIZE])

    run(factory, main())


def test_others_get_their_turn(path: Path, certs: Certs) -> None:
    async def main() -> None:
        turns = 0

        def tick() -> None:
            nonlocal turns
            turns += 1
            if not task.done():
                LOOP().call_soon(tick)

        async with Connection(certs) as c:
            with open(path, "rb") as file:
                reading = asyncio.create_task(c.read(SIZE))
                task = c.start(file)
                LOOP().call_soon(tick)
                assert await task == SIZE
                await reading
            assert turns >= SIZE // 2**20

    run(taut.new_event_loop, main())


def test_nothing_leaks(path: Path, certs: Certs) -> None:
    async def once(end: str) -> None:
        async with Connection(certs) as c:
            with open(path, "rb") as file:
                task = c.start(file)
                await c.read(1000)
                if end == "cancel":
                    task.cancel()
                elif end == "abort":
                    c.transport.abort()
                else:
                    await c.read(SIZE - 1000)
                await asyncio.gather(task, return_exceptions=True)

    async def main() -> None:
        for end in ("cancel", "abort", "done"):
            await once(end)
        gc.collect()
        before = _core.mem_stats()["live_blocks"], len(gc.get_objects())
        for end in ("cancel", "abort", "done") * 3:
            await once(end)
        gc.collect()
        assert _core.mem_stats()["live_blocks"] <= before[0] + 2
        assert len(gc.get_objects()) < before[1] + 100

    run(taut.new_event_loop, main())
