"""Findings about cancelled tasks that go on, and the many that rightly take their time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import taut
from doctoring import blamed, empty_table, found  # noqa: F401
from loops import run, until
from taut import _core, doctor

pytestmark = [
    pytest.mark.skipif(not _core.tasks_known(), reason="this Python's tasks are not known"),
    pytest.mark.usefixtures("empty_table"),
]


def play(coro: Coroutine[Any, Any, None]) -> None:
    run(lambda: taut.new_event_loop(tasks="own"), coro)


class Stop(Exception):
    """Ends a worker that does not hear of its cancellation."""


async def settle() -> None:
    """Longer than anything is waited for before it is told."""
    for _ in range(6):
        await asyncio.sleep(0.03)


async def nap() -> None:
    await asyncio.sleep(0.01)


# ---- swallowed -----------------------------------------------------------------------------------


async def swallow_all(turns: list[int]) -> None:
    while turns:
        try:
            await nap()  # swallow_all
        except BaseException:
            pass


async def swallow_and_continue(turns: list[int]) -> None:
    while turns:
        try:
            await asyncio.sleep(0.01)  # swallow_and_continue
        except asyncio.CancelledError:
            continue


async def swallow_inside(turns: list[int]) -> None:
    await swallow_all(turns)


async def swallow_then_wait(turns: list[int]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await nap()
    while turns:
        await nap()  # swallow_then_wait


@pytest.mark.parametrize(
    "worker", [swallow_all, swallow_and_continue, swallow_inside, swallow_then_wait]
)
def test_swallowed(worker: Callable[[list[int]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        turns = [1]
        task = asyncio.create_task(worker(turns), name="Deaf")
        await asyncio.sleep(0)
        task.cancel()
        finding = await found("cancellation-swallowed")
        mark = worker.__name__ if worker is not swallow_inside else "swallow_all"
        assert blamed(finding, mark)
        assert finding.function == mark
        assert finding.cause.startswith("Task 'Deaf' was cancelled, caught the CancelledError")
        assert any("cancelling() is 1" in line for line in finding.evidence)
        turns.clear()
        await task
        await settle()
        assert [f.code for f in doctor.findings()] == ["cancellation-swallowed"]

    play(main())


# ---- and what is none ----------------------------------------------------------------------------


async def clean_up_in_finally() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        for _ in range(5):
            await nap()


async def clean_up_and_raise() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        for _ in range(5):
            await nap()
        raise


async def clean_up_in_with() -> None:
    class Scope:
        async def __aenter__(self) -> None:
            await nap()

        async def __aexit__(self, *exc: object) -> None:
            for _ in range(5):
                await nap()

    async with Scope():
        await asyncio.sleep(60)


async def clean_up_in_a_helper() -> None:
    async def helper() -> None:
        try:
            await nap()
        except asyncio.CancelledError:
            raise

    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as exc:
        await asyncio.gather(helper(), helper())
        raise exc from None


async def end_another_one() -> None:
    other = asyncio.create_task(asyncio.sleep(60))
    try:
        await asyncio.sleep(60)
    finally:
        other.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await other
        for _ in range(5):
            await nap()


async def return_soon_after() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass
    await asyncio.sleep(0)


async def shielded() -> None:
    inner = asyncio.ensure_future(nap())
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        await inner
        raise


async def abort_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(clean_up_in_finally())


@pytest.mark.parametrize(
    "worker",
    [
        clean_up_in_finally, clean_up_and_raise, clean_up_in_with, clean_up_in_a_helper,
        end_another_one, return_soon_after, shielded, abort_a_group,
    ],
)  # fmt: skip
def test_cancelled_and_cleaning_up(worker: Callable[[], Coroutine[Any, Any, None]]) -> None:
    _core.task_note_delays(0.05, 0.05, 5)

    async def main() -> None:
        task = asyncio.create_task(worker())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await settle()
        assert doctor.findings() == []

    play(main())


async def timed_out() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)


async def timed_out_wait_for() -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(60), 0.01)


async def nested_timeouts() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await clean_up_in_finally()
            await asyncio.sleep(60)


async def fails() -> None:
    await nap()
    raise ValueError


async def group_with_a_failure() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await asyncio.sleep(60)


async def group_with_a_failure_at_its_end() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(clean_up_in_finally())


async def anyio_scope() -> None:
    with anyio.move_on_after(0.01):
        await anyio.sleep(60)
    with contextlib.suppress(TimeoutError), anyio.fail_after(0.01):
        await anyio.sleep(60)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(60)


async def anyio_shield() -> None:
    with anyio.move_on_after(0.01):
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)


async def anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 60)
        group.start_soon(anyio.sleep, 60)
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "scope",
    [
        timed_out, timed_out_wait_for, nested_timeouts, group_with_a_failure,
        group_with_a_failure_at_its_end, anyio_scope, anyio_shield, anyio_group,
    ],
)  # fmt: skip
def test_cancelled_for_a_purpose(scope: Callable[[], Coroutine[Any, Any, None]]) -> None:
    _core.task_note_delays(0.05, 0.05, 5)

    async def goes_on() -> None:
        await scope()
        await settle()

    async def main() -> None:
        await asyncio.create_task(goes_on())
        assert doctor.findings() == []

    play(main())


def test_many_that_are_cancelled_at_once() -> None:
    _core.task_note_delays(0.05, 0.05, 5)

    async def main() -> None:
        tasks = [asyncio.create_task(clean_up_in_finally()) for _ in range(1000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await settle()
        assert doctor.findings() == []

    play(main())


# ---- slow ----------------------------------------------------------------------------------------


async def clean_up_for_long(release: asyncio.Event) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await release.wait()  # slow


def test_a_cancellation_that_takes_long() -> None:
    async def main() -> None:
        release = asyncio.Event()
        task = asyncio.create_task(clean_up_for_long(release), name="slow")
        await asyncio.sleep(0)
        task.cancel()
        finding = await found("cancellation-slow")
        assert blamed(finding, "slow")
        assert finding.state == "ongoing"
        assert finding.cause.startswith("Task 'slow' was cancelled 0.")
        task.cancel()  # again: it is thrown in where it cleans up
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: doctor.findings("cancellation-slow")[0].state == "over")
        assert len(doctor.findings()) == 1

    play(main())


def test_a_cancellation_that_takes_long_and_ends_in_an_error() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def fail_after() -> None:
            try:
                await clean_up_for_long(release)
            finally:
                raise ValueError

        task = asyncio.create_task(fail_after())
        await asyncio.sleep(0)
        task.cancel()
        await found("cancellation-slow")
        release.set()
        with pytest.raises(ValueError):
            await task
        await until(lambda: doctor.findings("cancellation-slow")[0].state == "over")

    play(main())


def test_a_cancellation_that_was_taken_back_leaves_nothing_behind() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        caught: BaseException | None = None
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as exc:
            caught = exc
        assert task.uncancel() == 0
        await asyncio.sleep(0)
        task.cancel()
        task.cancel()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as exc:
            caught = exc
        assert (task.uncancel(), task.uncancel(), task.uncancel()) == (1, 0, 0)
        assert task not in gc.get_referrers(caught)

    taut.run(main())
