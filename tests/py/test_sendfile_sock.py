"""loop.sock_sendfile(): over plain sockets, by the kernel and by reading and sending."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, reset, run, socketpair, until
from test_sendfile_transport import BIG, DATA, LOOP, tcp_pair
from test_sendfile_transport import path as path  # a fixture

import taut


async def read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        block = await LOOP().sock_recv(sock, min(1 << 20, size - len(data)))
        if not block:
            break
        data += block
    return bytes(data)


@pytest.mark.parametrize("kind", ["native", "fallback"])
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (1000, 2000), (5, 10 * 2**20), (BIG - 10, 20), (BIG, 5)]
)
def test_bytes_result_and_position(
    factory: Factory, path: Path, kind: str, offset: int, count: int | None
) -> None:
    async def main() -> None:
        file: Any = open(path, "rb") if kind == "native" else io.BytesIO(DATA)
        expected = DATA[offset : None if count is None else offset + count]
        with file, socketpair() as (ours, theirs):
            task = asyncio.create_task(LOOP().sock_sendfile(ours, file, offset, count))
            assert await read(theirs, len(expected)) == expected
            assert await task == len(expected)
            if expected:
                assert file.tell() == offset + len(expected)
            await LOOP().sock_sendall(ours, b"after")
            assert await read(theirs, 5) == b"after"

    run(factory, main())


def test_without_fallback(factory: Factory) -> None:
    async def main() -> None:
        with socketpair() as (ours, _theirs):
            for file in (io.BytesIO(DATA), object()):
                with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
                    await LOOP().sock_sendfile(ours, file, fallback=False)  # type: ignore[arg-type]

    run(factory, main())


def test_fallback_is_the_default(factory: Factory) -> None:
    async def main() -> None:
        with socketpair() as (ours, theirs):
            assert await LOOP().sock_sendfile(ours, io.BytesIO(b"text")) == 4
            assert await read(theirs, 4) == b"text"

    run(factory, main())


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((-1,), ValueError, "offset must be a non-negative integer .got -1"),
        (("0",), TypeError, "offset must be a non-negative integer .got '0'"),
        ((0, 0), ValueError, "count must be a positive integer .got 0"),
        ((0, "1"), TypeError, "count must be a positive integer .got '1'"),
    ],
)
def test_bad_numbers(factory: Factory, path: Path, args: Any, error: Any, match: str) -> None:
    async def main() -> None:
        with open(path, "rb") as file, socketpair() as (ours, _theirs):
            with pytest.raises(error, match=match):
                await LOOP().sock_sendfile(ours, file, *args)

    run(factory, main())


def test_bad_sockets_and_files(factory: Factory, path: Path) -> None:
    async def main() -> None:
        with open(path, "rb") as file, open(path, encoding="latin-1") as text:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                with pytest.raises(ValueError, match="only SOCK_STREAM type sockets"):
                    await LOOP().sock_sendfile(datagrams, file)
            with socketpair() as (ours, _theirs):
                with pytest.raises(ValueError, match="binary mode"):
                    await LOOP().sock_sendfile(ours, text)  # type: ignore[arg-type]
                ours.close()
                with pytest.raises((OSError, ValueError)):
                    await LOOP().sock_sendfile(ours, file)
            with socket.socket() as unconnected:
                unconnected.setblocking(False)
                with pytest.raises(asyncio.SendfileNotAvailableError, match="call failed"):
                    await LOOP().sock_sendfile(unconnected, file, fallback=False)
                with pytest.raises(OSError):
                    await LOOP().sock_sendfile(unconnected, file)

    run(factory, main())


def test_blocking_socket_in_debug_mode(factory: Factory, path: Path) -> None:
    async def main() -> None:
        with open(path, "rb") as file, socketpair() as (ours, _theirs):
            ours.setblocking(True)
            with pytest.raises(ValueError, match="must be non-blocking"):
                await LOOP().sock_sendfile(ours, file)

    run(factory, main(), debug=True)


def test_cancelled(factory: Factory, loop_name: str, path: Path) -> None:
    async def main() -> None:
        with open(path, "rb") as file, socketpair() as (ours, theirs):
            task = asyncio.create_task(LOOP().sock_sendfile(ours, file))
            assert len(await read(theirs, 1000)) == 1000
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            position = file.tell()
            assert LOOP().remove_writer(ours) is False
            ours.shutdown(socket.SHUT_WR)
            got = 1000 + len(await read(theirs, BIG))
            assert got < BIG
            if loop_name == "taut":  # asyncio mostly leaves it as it was
                assert position == got

    run(factory, main())


def test_peer_goes(factory: Factory, path: Path) -> None:
    async def main() -> None:
        ours, theirs = tcp_pair()
        with open(path, "rb") as file, ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            task = asyncio.create_task(LOOP().sock_sendfile(ours, file))
            assert len(await read(theirs, 1000)) == 1000
            reset(theirs)
            with pytest.raises(ConnectionError):
                await task
            assert 1000 <= file.tell() < BIG

    run(factory, main())


def test_others_get_their_turn(factory: Factory, path: Path) -> None:
    async def main() -> None:
        turns = 0

        def tick() -> None:
            nonlocal turns
            turns += 1
            if not task.done():
                LOOP().call_soon(tick)

        with open(path, "rb") as file, socketpair() as (ours, theirs):
            theirs.setblocking(True)

            def drain() -> None:
                left = BIG
                while left:
                    left -= len(theirs.recv(min(left, 1 << 20)))

            reader = asyncio.create_task(asyncio.to_thread(drain))
            task = asyncio.create_task(LOOP().sock_sendfile(ours, file))
            LOOP().call_soon(tick)
            assert await task == BIG
            await reader
            # asyncio's turn is as long as the socket takes something, so that it promises nothing.
            if isinstance(LOOP(), taut.Loop):
                assert turns >= BIG // (4 * 2**20)

    run(factory, main())


def test_nothing_leaks(path: Path) -> None:
    import taut
    from taut import _core

    async def once(cancel: bool) -> None:
        with open(path, "rb") as file, socketpair() as (ours, theirs):
            task = asyncio.create_task(LOOP().sock_sendfile(ours, file))
            await read(theirs, 1000)
            if cancel:
                task.cancel()
            else:
                await read(theirs, BIG - 1000)
            await asyncio.gather(task, return_exceptions=True)

    async def main() -> None:
        for cancel in (False, True):
            await once(cancel)
        gc.collect()
        before = _core.mem_stats()["live_blocks"], len(gc.get_objects())
        for cancel in (False, True) * 4:
            await once(cancel)
        gc.collect()
        assert _core.mem_stats()["live_blocks"] <= before[0] + 1  # an examination
        assert len(gc.get_objects()) < before[1] + 50

    run(taut.new_event_loop, main())


def test_file_that_shows_no_size(factory: Factory) -> None:
    """As asyncio has it: without `count`, a size of 0 is an empty file."""
    async def main() -> None:
        with open("/proc/self/status", "rb") as file, socketpair() as (ours, _theirs):
            assert await LOOP().sock_sendfile(ours, file) == 0
            assert os.fstat(file.fileno()).st_size == 0

    run(factory, main())


def test_task_that_nobody_holds(factory: Factory, path: Path) -> None:
    async def main() -> None:
        done: list[int] = []

        async def send() -> None:
            with open(path, "rb") as file:
                done.append(await LOOP().sock_sendfile(ours, file))

        with socketpair() as (ours, theirs):
            asyncio.create_task(send())
            await read(theirs, 1000)
            gc.collect()
            assert await read(theirs, BIG - 1000) == DATA[1000:]
            await until(lambda: done == [BIG])

    run(factory, main())
