"""Profilers hear of a wait as they do on asyncio: as something that no task is doing.

A profiler that follows contexts, such as pyinstrument's asynchronous mode, learns from the calls
between two callbacks that a task was left, and whose await the time belongs to.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from itertools import pairwise
from types import FrameType

import pytest

import loops
from loops import Factory

TASK = contextvars.ContextVar("TASK", default="none")


def test_a_profiler_sees_that_no_task_runs_during_a_wait(factory: Factory) -> None:
    seen: list[tuple[float, str]] = []

    def profile(frame: FrameType, event: str, arg: object) -> None:
        seen.append((time.perf_counter(), TASK.get()))

    async def main() -> None:
        TASK.set("main")
        sys.setprofile(profile)
        try:
            await asyncio.sleep(0.2)
        finally:
            sys.setprofile(None)

    loops.run(factory, main())
    gaps = [(after[0] - before[0], before[1], after[1]) for before, after in pairwise(seen)]
    wait, before, after = max(gaps)
    assert wait > 0.1 and (before, after) == ("none", "none")


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("which", [1, 2])
def test_what_a_profiler_raises_between_callbacks_leaves_the_loop(
    factory: Factory, kind: type[BaseException], which: int
) -> None:
    calls = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        if event == "call" and frame.f_code.co_name in ("select", "_profiled"):
            calls += 1
            if calls == which:
                raise kind

    loop = factory()
    try:
        loop.call_later(0.005, int)
        loop.call_later(0.01, loop.stop)
        sys.setprofile(profile)
        with pytest.raises(kind):
            loop.run_forever()
        sys.setprofile(None)
        loop.call_soon(loop.stop)
        loop.run_forever()  # it runs on
    finally:
        sys.setprofile(None)
        loop.close()


def test_a_profiler_may_queue_calls(factory: Factory) -> None:
    ran: list[int] = []
    asked = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal asked
        if event == "call" and frame.f_code.co_name in ("select", "_profiled") and asked < 10:
            asked += 1
            loop.call_soon(ran.append, asked)

    loop = factory()
    try:
        loop.call_later(0.05, loop.stop)
        sys.setprofile(profile)
        loop.run_forever()
    finally:
        sys.setprofile(None)
        loop.close()
    assert ran == list(range(1, asked + 1)) and ran
