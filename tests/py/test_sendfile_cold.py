"""Files that are not in the page cache: read in the executor, while the loop goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import run, socketpair, until
from test_sendfile_transport import LOOP, Connection

import taut

SIZE = 5 * 2**20 + 17
DATA = os.urandom(SIZE)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file that the kernel says it would have to read from the disk."""
    path = tmp_path / "file"
    with open(path, "w+b") as file:
        file.write(DATA)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 2**20, os.RWF_NOWAIT)
        except BlockingIOError:
            return path
        except OSError:
            pass
    pytest.skip("this file system keeps the file in memory, or cannot tell")


class Reads:
    """Stands in for run_in_executor(): the reads are done when the test says so."""

    def __init__(self, hold: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.hold = hold
        self.futures: list[asyncio.Future[Any]] = []
        loop: Any = LOOP()
        loop.run_in_executor = self

    def __call__(self, executor: Any, function: Callable[..., Any], *args: Any) -> Any:
        assert executor is None and function is os.pread
        self.calls.append(args)
        future = LOOP().create_future()
        self.futures.append(future)
        if not self.hold:
            LOOP().call_soon(self.read)
        return future

    def read(self) -> None:
        future = self.futures[-1]
        if not future.done():
            future.set_result(os.pread(*self.calls[-1]))


@pytest.mark.parametrize("count", [None, SIZE - 100])
def test_transport(cold: Path, count: int | None) -> None:
    async def main() -> None:
        reads = Reads()
        async with Connection() as c:
            with open(cold, "rb") as file:
                task = c.start(file, 0, count)
                assert await c.read(count or SIZE) == DATA[:count]
                assert await task == (count or SIZE)
                assert file.tell() == (count or SIZE)
                assert reads.calls and reads.calls[0] == (file.fileno(), 2**20, 0)

    run(taut.new_event_loop, main())


def test_socket(cold: Path) -> None:
    async def main() -> None:
        reads = Reads()
        with open(cold, "rb") as file, socketpair() as (ours, theirs):
            task = asyncio.create_task(LOOP().sock_sendfile(ours, file, 10))
            data = bytearray()
            while len(data) < SIZE - 10:
                data += await LOOP().sock_recv(theirs, 1 << 20)
            assert data == DATA[10:]
            assert await task == SIZE - 10
            assert reads.calls and reads.calls[0] == (file.fileno(), 2**20, 10)

    run(taut.new_event_loop, main())


def test_by_the_executor_itself(cold: Path) -> None:
    async def main() -> None:
        async with Connection() as c:
            with open(cold, "rb") as file:
                task = c.start(file)
                assert await c.read(SIZE) == DATA
                assert await task == SIZE

    run(taut.new_event_loop, main())


def test_half_close_while_reading(cold: Path) -> None:
    async def main() -> None:
        reads = Reads(hold=True)
        async with Connection() as c:
            with open(cold, "rb") as file:
                task = c.start(file)
                await until(lambda: reads.calls)
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    c.transport.write(b"no")
                c.transport.write_eof()
                reads.hold = False
                reads.read()
                assert await c.read(SIZE + 1) == DATA
                assert await task == SIZE

    run(taut.new_event_loop, main())


@pytest.mark.parametrize("name", ["close", "abort"])
def test_closed_while_reading(cold: Path, name: str) -> None:
    async def main() -> None:
        reads = Reads(hold=True)
        async with Connection() as c:
            with open(cold, "rb") as file:
                task = c.start(file)
                await until(lambda: reads.calls)
                getattr(c.transport, name)()
                await until(lambda: c.protocol.lost)
                reads.read()
                with pytest.raises(ConnectionError, match="closed during sendfile"):
                    await task

    run(taut.new_event_loop, main())


def test_cancelled_while_reading(cold: Path) -> None:
    async def main() -> None:
        reads = Reads(hold=True)
        async with Connection() as c:
            with open(cold, "rb") as file:
                task = c.start(file)
                await until(lambda: reads.calls)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert reads.futures[0].cancelled() and file.tell() == 0
            assert c.transport.is_reading()
            c.transport.write(b"after")
            assert await c.read(5) == b"after"

    run(taut.new_event_loop, main())


def test_read_error(cold: Path) -> None:
    async def main() -> None:
        reads = Reads(hold=True)
        async with Connection() as c:
            with open(cold, "rb") as file:
                task = c.start(file)
                await until(lambda: reads.calls)
                reads.futures[0].set_exception(OSError(5, "Input/output error"))
                with pytest.raises(OSError, match="Input/output error"):
                    await task
            c.transport.write(b"after")
            assert await c.read(5) == b"after"

    run(taut.new_event_loop, main())
