"""Findings about tasks that failed, were lost or were made where they must not be."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import sys
import warnings
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
import taut
from doctoring import blamed, empty_table, found, line_of  # noqa: F401
from loops import Faults, run, until
from taut import _core, doctor
from taut.doctor import _hooks

pytestmark = [
    pytest.mark.skipif(not _core.tasks_known(), reason="this Python's tasks are not known"),
    pytest.mark.usefixtures("empty_table"),
]


def make() -> asyncio.AbstractEventLoop:
    return taut.new_event_loop(tasks="own")


def play(coro: Coroutine[Any, Any, None]) -> None:
    run(make, coro)


async def fail() -> None:
    raise ValueError("of the test")  # raises


async def settle() -> None:
    """Longer than anything is waited for before it is told."""
    for _ in range(5):
        await asyncio.sleep(0.03)


# ---- exceptions that nobody asks for --------------------------------------------------------


def test_exception_lost_with_its_task() -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        asyncio.create_task(fail(), name="failing")  # noqa: RUF006  # made
        await until(lambda: faults.contexts)
        finding = await found("task-exception-lost")
        assert blamed(finding, "noqa: RUF006  # made")
        assert finding.cause.startswith("Task 'failing' failed with ValueError")
        assert "TaskGroup" in finding.remedy
        assert "exception: ValueError('of the test')" in finding.evidence
        assert any(line.startswith("raised at ") and line.endswith(" in fail")
                   for line in finding.evidence)  # fmt: skip
        (context,) = faults.contexts
        assert set(context) == {"message", "exception", "future"}
        assert context["message"] == "Task exception was never retrieved"

    play(main())


def test_exception_lost_although_somebody_keeps_the_task() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        kept = [loop.create_task(fail())]  # kept
        finding = await found("task-exception-lost")
        assert blamed(finding, "kept")
        assert any("somebody keeps the task" in line for line in finding.evidence)
        assert faults.contexts == []  # asyncio's own report comes when it always did
        assert finding.state == "ongoing"
        kept.clear()
        gc.collect()
        await until(lambda: faults.contexts)
        finding = await found("task-exception-lost")
        assert (finding.count, finding.state) == (1, "seen")

    play(main())


def test_exception_kept_in_a_set_and_asked_for_late() -> None:
    async def main() -> None:
        kept: set[Any] = set()
        task = asyncio.create_task(fail())  # in a set
        kept.add(task)
        task.add_done_callback(kept.discard)
        assert blamed(await found("task-exception-lost"), "in a set")
        with pytest.raises(ValueError):
            await task
        del task
        gc.collect()
        assert (await found("task-exception-lost")).state == "over"

    play(main())


def test_exceptions_that_are_asked_for() -> None:
    async def main() -> None:
        kept = [asyncio.create_task(fail()) for _ in range(600)]  # more than are remembered
        await asyncio.gather(*kept, return_exceptions=True)
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                kept.append(group.create_task(fail()))
        late = asyncio.create_task(fail())
        with pytest.raises(ValueError):
            await late
        # Asked for at the end, after the others.
        slow = asyncio.create_task(settle())
        done, _ = await asyncio.wait([asyncio.create_task(fail()), slow])
        assert {type(task.exception()) for task in done} == {ValueError, type(None)}
        called = asyncio.create_task(fail())
        called.add_done_callback(lambda task: task.exception())
        await settle()
        assert doctor.findings() == []

    play(main())


def test_a_future_of_its_own() -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        try:
            raise LookupError  # for a future
        except LookupError as exc:
            asyncio.get_running_loop().create_future().set_exception(exc)
        await until(lambda: faults.contexts)
        finding = await found("task-exception-lost")
        assert blamed(finding, "for a future")
        assert finding.cause.startswith("Future failed with LookupError")

    play(main())


# ---- collected while they wait ----------------------------------------------------------------


class Partner:
    def __init__(self, future: Any) -> None:
        self.future = future


async def wait_for_partner(partner: Partner) -> None:
    await partner.future  # waits here


async def drop_a_waiting_task() -> None:
    partner = Partner(asyncio.get_running_loop().create_future())
    task = asyncio.create_task(wait_for_partner(partner), name="dropped")  # dropped
    await asyncio.sleep(0)
    del task, partner
    gc.collect()


def test_destroyed_while_pending() -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        await drop_a_waiting_task()
        finding = await found("task-destroyed-pending")
        assert blamed(finding, "dropped")
        assert finding.cause.startswith("Task 'dropped' was collected before it was done")
        assert len(faults.contexts) == 1

    play(main())


def test_a_name_begins_a_sentence_as_it_is() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(0), name=name) for name in (None, "aB c", "Ä")]
        for task in tasks:
            assert _hooks.subject_of(task) == f"Task '{task.get_name()}'"
            assert _hooks.name_of(task) == f"task '{task.get_name()}'"
        assert tasks[0].get_name().startswith("Task-")
        asyncio.create_task(fail())
        finding = await found("task-exception-lost")
        assert re.match(r"Task 'Task-\d+' failed with ValueError", finding.cause)
        await asyncio.gather(*tasks)

    play(main())


def test_tasks_that_are_kept_or_done() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait_for_partner(Partner(future)))
        await asyncio.sleep(0)
        gc.collect()
        future.set_result(None)
        await task
        cancelled = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        cancelled.cancel()
        del cancelled
        await settle()
        gc.collect()
        assert doctor.findings() == []

    play(main())


# ---- in finalizers ------------------------------------------------------------------------------

closed: list[asyncio.Task[None]] = []


async def close() -> None:
    pass


def spawn_close() -> None:
    closed.append(asyncio.get_running_loop().create_task(close()))  # in a helper


class Spawns:
    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        closed.append(asyncio.create_task(close()))  # in __del__


class SpawnsDeeper(Spawns):
    def __del__(self) -> None:
        spawn_close()


@pytest.mark.parametrize("cyclic", [False, True])
def test_a_task_made_in_del(cyclic: bool) -> None:
    async def main() -> None:
        for kind, mark in (Spawns, "in __del__"), (SpawnsDeeper, "in a helper"):
            _core.findings_clear()
            one = kind()
            if not cyclic:
                del one.itself
            del one
            gc.collect()
            finding = await found("task-in-finalizer")
            assert blamed(finding, mark)
            assert "create_task()" in finding.cause
            assert finding.count == 1
        await asyncio.gather(*closed)
        closed.clear()

    play(main())


def test_a_task_made_by_weakref_finalize() -> None:
    class Thing:
        pass

    async def main() -> None:
        thing: Any = Thing()
        thing.itself = thing
        weakref.finalize(thing, spawn_close)
        del thing
        gc.collect()
        assert blamed(await found("task-in-finalizer"), "in a helper")
        await asyncio.gather(*closed)
        closed.clear()

    play(main())


class Calls:
    def __init__(self, threadsafe: bool) -> None:
        self.itself = self
        self.loop = asyncio.get_running_loop()
        self.threadsafe = threadsafe

    def __del__(self) -> None:
        if self.threadsafe:
            asyncio.run_coroutine_threadsafe(close(), self.loop)  # threadsafe
        else:
            self.loop.call_soon(int)  # soon


@pytest.mark.parametrize("threadsafe", [False, True])
def test_callbacks_made_by_the_collector(threadsafe: bool) -> None:
    async def main() -> None:
        one = Calls(threadsafe)
        del one
        gc.collect()
        finding = await found("task-in-finalizer")
        assert blamed(finding, "threadsafe" if threadsafe else "soon")

    play(main())


def test_finalizers_that_may() -> None:
    class Speaks:
        def __init__(self) -> None:
            self.itself, self.loop = self, asyncio.get_running_loop()

        def __del__(self) -> None:
            self.loop.call_soon_threadsafe(int)

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    async def main() -> None:
        Speaks()
        generator = numbers()
        await anext(generator)
        del generator
        gc.collect()
        asyncio.create_task(close())  # noqa: RUF006
        await settle()
        assert doctor.findings() == []

    play(main())


# ---- coroutines that are not awaited, and runs within runs ------------------------------------


async def forget_await() -> None:
    close()  # type: ignore[unused-coroutine]  # forgot


def test_coroutine_never_awaited() -> None:
    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await forget_await()
        assert [one.category for one in caught] == [RuntimeWarning]
        finding = await found("coroutine-never-awaited")
        assert blamed(finding, "type: ignore[unused-coroutine]  # forgot")
        assert (caught[0].filename, caught[0].lineno) == (finding.file, finding.line)
        assert "close() was called but never awaited" in finding.cause

    play(main())


def test_coroutine_never_awaited_with_warnings_as_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(sys, "unraisablehook", lambda info: raised.append(info.exc_value))
        close()  # type: ignore[unused-coroutine]
    assert [type(exc) for exc in raised] == [RuntimeWarning]
    assert [f.code for f in doctor.findings()] == ["coroutine-never-awaited"]


def test_coroutines_that_are_closed_or_awaited() -> None:
    async def main() -> None:
        close().close()
        await close()
        await asyncio.create_task(close())
        assert doctor.findings() == []

    play(main())


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("way", ["asyncio.run", "Runner", "taut.run", "same", "other"])
def test_nested_run(way: str) -> None:
    other = make()

    async def main() -> None:
        coro = close()
        with pytest.raises(RuntimeError) as caught:
            if way == "asyncio.run":
                asyncio.run(coro)  # nested asyncio
            elif way == "Runner":
                with asyncio.Runner() as runner:
                    runner.run(coro)  # nested Runner
            elif way == "taut.run":
                taut.run(coro)  # nested taut
            elif way == "same":
                asyncio.get_running_loop().run_until_complete(coro)  # nested same
            else:
                other.run_until_complete(coro)  # nested other
        assert type(caught.value) is RuntimeError
        coro.close()
        mark = {"asyncio.run": "asyncio", "taut.run": "taut"}.get(way, way)
        finding = await found("nested-run")
        assert (finding.file, finding.line) == (__file__, line_of(f"nested {mark}"))

    play(main())
    other.close()


def test_runs_one_after_the_other() -> None:
    async def in_thread() -> None:
        await asyncio.to_thread(asyncio.run, close())

    play(in_thread())
    play(close())
    with asyncio.Runner() as runner:
        runner.run(close())
        runner.run(close())
    assert doctor.findings() == []
