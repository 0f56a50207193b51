"""add_reader and friends: arguments, replacing, removing, reuse of numbers, foreign modes."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import socket
import weakref
from typing import Any

import pytest
from loops import Factory, cpu_seconds, run, socketpair, until

Loop = asyncio.AbstractEventLoop


def test_readers_and_writers(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            seen: list[object] = []
            result: object = loop.add_reader(
                one, lambda *args: seen.append((args, one.recv(9))), 1, "x"
            )
            assert result is None
            two.send(b"data")
            await until(lambda: seen, "readable")
            assert seen == [((1, "x"), b"data")]
            writable: list[int] = []
            loop.add_writer(one.fileno(), writable.append, 5)
            await until(lambda: len(writable) >= 3, "writable, again and again")
            assert loop.remove_writer(one) is True
            assert loop.remove_writer(one) is False
            count = len(writable)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(writable) == count
            two.send(b"more")
            await until(lambda: len(seen) == 2, "readable again")
            assert loop.remove_reader(one.fileno()) is True
            assert loop.remove_reader(one) is False

    run(factory, main())


def test_a_socket_that_was_closed_first_is_removed_all_the_same(factory: Factory) -> None:
    """AnyIO closes a socket and then takes its reader away."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socketpair() as (one, two):
            reader = loop._add_reader(one, print)
            writer = loop._add_writer(two, print)
            one.close()
            two.close()
            assert loop.remove_reader(one) is True
            assert loop.remove_writer(two) is True
            assert reader.cancelled() and writer.cancelled()
            for remove in loop.remove_reader, loop.remove_writer:
                with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
                    remove(one)

    run(factory, main())


def test_the_file_of_a_reader_lives_until_it_is_removed(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, _):
            copy: Any = one.dup()
            number, alive = copy.fileno(), weakref.ref(copy)
            loop.add_reader(copy, print)
            loop.add_writer(number, print)
            del copy
            gc.collect()
            assert loop.remove_reader(number) is True
            copy = alive()
            copy.close()
            assert loop.remove_writer(copy) is True
            del copy
            gc.collect()
            assert alive() is None

    run(factory, main())


def test_a_new_callback_replaces_and_cancels_the_old(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socketpair() as (one, two):
            seen: list[str] = []
            old = loop._add_reader(one.fileno(), seen.append, "old")
            new = loop._add_reader(one.fileno(), seen.append, "new")
            assert old.cancelled() and not new.cancelled()
            two.send(b"x")
            await until(lambda: "new" in seen, "the new one")
            loop.remove_reader(one)
            assert new.cancelled()
            assert "old" not in seen

    run(factory, main())


def test_removing_in_the_callback_of_another_fd_of_the_same_turn(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two), socketpair() as (three, four):
            seen: list[int] = []

            def first(mine: socket.socket, other: socket.socket) -> None:
                seen.append(mine.fileno())
                loop.remove_reader(mine)
                loop.remove_reader(other)

            loop.add_reader(one, first, one, three)
            loop.add_reader(three, first, three, one)
            two.send(b"x")
            four.send(b"x")
            await until(lambda: seen, "one of the two")
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(seen) == 1

    run(factory, main())


def test_wrong_arguments(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for wrong in (-1, "text", None, 1.5):
            with pytest.raises((ValueError, TypeError)):
                loop.add_reader(wrong, print)
            with pytest.raises((ValueError, TypeError)):
                loop.remove_writer(wrong)
        with pytest.raises(TypeError):
            loop.add_reader(0)
        read, write = os.pipe()
        os.close(write)
        os.close(read)
        with pytest.raises(OSError):
            loop.add_reader(read, print)
        with open(__file__, "rb") as regular, pytest.raises(PermissionError):
            loop.add_reader(regular, print)
        assert loop.remove_reader(regular_number()) is False

    def regular_number() -> int:
        return 50_000

    run(factory, main())


def test_after_close(factory: Factory) -> None:
    loop = factory()
    with socketpair() as (one, _):
        loop.add_reader(one, print)
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.add_reader(one, print)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.add_writer(one, print)
        assert loop.remove_reader(one) is False
        assert loop.remove_writer(one) is False


def test_a_number_closed_and_reused_behind_the_loops_back() -> None:
    # asyncio's selector keeps the stale key, and modifying it fails with ENOENT there.
    import taut

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            one, two = socket.socketpair()
            loop.add_reader(one, print)
            fd = one.fileno()
            one.close()
            two.close()
            three, four = socket.socketpair()
            ours, theirs = (three, four) if three.fileno() == fd else (four, three)
            assert ours.fileno() == fd
            seen: list[bytes] = []
            loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
            theirs.send(b"new")
            await until(lambda: seen == [b"new"], "the new socket")
            assert loop.remove_reader(ours) is True
            three.close()
            four.close()

    run(taut.new_event_loop, main())


def test_a_duplicate_of_a_watched_fd_stays_registered_without_spinning(factory: Factory) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        with socketpair() as (one, two):
            seen: list[int] = []
            loop.add_reader(one, seen.append, 1)
            copy = os.dup(one.fileno())
            loop.add_reader(copy, seen.append, 2)
            two.send(b"x")
            await until(lambda: {1, 2} <= set(seen), "both")
            loop.remove_reader(one)
            loop.remove_reader(copy)
            cpu = cpu_seconds()
            await asyncio.sleep(0.2)
            cpu = cpu_seconds() - cpu
            os.close(copy)
            return cpu

    assert run(factory, main()) < 0.1


def test_modes_of_foreign_descriptors_are_left_alone(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        try:
            flags = fcntl.fcntl(read, fcntl.F_GETFL)
            loop.add_reader(read, os.read, read, 1)
            loop.add_writer(write, print)
            loop.remove_writer(write)
            os.write(write, b"x")
            await asyncio.sleep(0)
            loop.remove_reader(read)
            assert fcntl.fcntl(read, fcntl.F_GETFL) == flags
            assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK
        finally:
            os.close(read)
            os.close(write)

    run(factory, main())
