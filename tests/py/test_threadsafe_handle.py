"""The handle of call_soon_threadsafe(): from Python 3.14 on, cancel() and cancelled() of another
thread wait until its callback is over."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from loops import DEADLINE_S, Factory, run, until

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio has it from 3.14 on")


class Other(threading.Thread):
    """Asks something of a handle in a thread of its own."""

    def __init__(self, ask: Any) -> None:
        super().__init__(daemon=True)
        self.ask, self.asking, self.answers = ask, threading.Event(), list[Any]()

    def run(self) -> None:
        self.asking.set()
        self.answers.append(self.ask())


@pytest.mark.parametrize("method", ["cancel", "cancelled"])
@pytest.mark.parametrize("debug", [False, True])
def test_others_wait_for_the_callback(factory: Factory, method: str, debug: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        loop.slow_callback_duration = 100
        seen: list[Any] = []

        def callback(fails: bool) -> None:
            other = Other(getattr(handle, method))
            seen.append(other)
            other.start()
            assert other.asking.wait(DEADLINE_S)
            other.join(0.05)  # a look at it: nothing depends on how long this takes
            seen.append(other.answers[:])
            if fails:
                raise LookupError

        loop.set_exception_handler(lambda loop, context: None)
        for fails in (False, True):
            handle = loop.call_soon_threadsafe(callback, fails)
            assert isinstance(handle, asyncio.Handle)
            await until(lambda: len(seen) == 2, "the callback")
            await until(lambda: seen[0].answers, "the answer")  # noqa: B023
            assert seen[1] == [] and seen[0].answers == [None if method == "cancel" else False]
            assert handle.cancelled() == (method == "cancel")
            seen.clear()

    run(factory, main())


def test_the_callback_itself_does_not_wait(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[bool] = []

        def callback() -> None:
            seen.append(handle.cancelled())
            handle.cancel()
            seen.append(handle.cancelled())

        handle = loop.call_soon_threadsafe(callback)
        await until(lambda: len(seen) == 2, "the callback")
        assert seen == [False, True] and handle.cancelled()

    run(factory, main())


def test_before_and_after_nobody_waits(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[str] = []
        first = loop.call_soon_threadsafe(calls.append, "first")
        second = loop.call_soon_threadsafe(calls.append, "second")
        other = Other(first.cancel)
        other.start()
        other.join(DEADLINE_S)
        assert other.answers == [None] and first.cancelled() and not second.cancelled()
        await until(lambda: calls, "the other one")
        second.cancel()
        assert calls == ["second"] and second.cancelled()
        third = loop.call_soon_threadsafe(calls.append, "third")
        assert type(third).__name__ in repr(third)
        third._run()  # as tests do
        third.cancel()
        third._run()
        assert calls == ["second", "third"]

    run(factory, main())
