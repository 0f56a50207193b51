"""Field note 6: timers never early, to the nanosecond; call_later(0) is a timer."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from loops import Factory, run

Loop = asyncio.AbstractEventLoop


def test_call_later_zero_is_a_timer(loop: Loop) -> None:
    ran: list[int] = []
    before = loop.time()
    handle = loop.call_later(0, ran.append, 1)
    assert isinstance(handle, asyncio.TimerHandle)
    assert handle.when() >= before
    handle.cancel()
    assert handle.cancelled()
    loop.call_later(0, ran.append, 2)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == [2]


def test_never_early(loop: Loop, loop_name: str) -> None:
    """Not by a microsecond, whatever fraction of the clock's unit the delay is."""
    if loop_name != "taut":
        pytest.skip("asyncio runs timers up to one clock resolution early")
    source = random.Random(1)
    early: list[float] = []
    left = 300

    def fired(when: float) -> None:
        nonlocal left
        if loop.time() < when:
            early.append(when - loop.time())
        left -= 1
        if not left:
            loop.stop()

    for _ in range(left):
        when = loop.time() + source.random() * 0.05
        loop.call_at(when, fired, when)
    loop.run_forever()
    assert early == []


def test_never_early_one_by_one(loop: Loop, loop_name: str) -> None:
    """One timer at a time: the wait itself must not round down."""
    early: list[float] = []
    resolution = 0.0 if loop_name == "taut" else time.get_clock_info("monotonic").resolution
    for index in range(60):
        when = loop.time() + 0.0001 + index * 0.0000337
        loop.call_at(when, loop.stop)
        loop.run_forever()
        if loop.time() + resolution < when:
            early.append(when - loop.time())
    assert early == []


def test_order(loop: Loop) -> None:
    """By time; what falls due at the same moment, in the order of the calls."""
    ran: list[int] = []
    base = loop.time() + 0.005
    for index in random.Random(2).sample(range(1000), 1000):
        loop.call_at(base + index * 1e-6, ran.append, index)
    loop.call_at(base + 0.002, loop.stop)
    loop.run_forever()
    assert ran == list(range(1000))


def test_finer_than_a_millisecond(factory: Factory, loop_name: str) -> None:
    """A chain of 100 us timers is not stretched to one millisecond each."""
    if loop_name != "taut":
        pytest.skip("asyncio's wait counts in milliseconds")

    async def main() -> float:
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(20):
                await asyncio.sleep(0.0001)
            best = min(best, (time.perf_counter() - began) / 20)
        return best

    assert 0.0001 <= run(factory, main()) < 0.001


def test_cancelled_timers_hold_nothing(loop: Loop) -> None:
    """100,000 cancelled timers far away do not stay until they would have fallen due."""
    import gc
    import weakref

    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    handles = [loop.call_later(3600, lambda _thing: None, thing) for _ in range(1000)]
    for handle in handles:
        handle.cancel()
    del thing, handle, handles
    gc.collect()
    assert gone() is None


def test_cancel_inside_the_same_burst(loop: Loop) -> None:
    """A timer that is due may still be cancelled by one that is due before it."""
    ran: list[str] = []
    when = loop.time()
    second: list[asyncio.TimerHandle] = []

    def first() -> None:
        ran.append("first")
        second[0].cancel()

    loop.call_at(when, first)
    second.append(loop.call_at(when, ran.append, "second"))
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert ran == ["first"]


def test_call_at_in_the_past(loop: Loop) -> None:
    ran: list[int] = []
    for when in (0.0, -5.0, loop.time() - 100, float("-inf")):
        loop.call_at(when, ran.append, 1)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert len(ran) == 4


def test_when_is_what_was_asked(loop: Loop) -> None:
    asked = loop.time() + 123.456789
    handle = loop.call_at(asked, print)
    assert handle.when() == asked
    handle.cancel()
    assert handle.when() == asked


def test_timers_compare_and_hash(loop: Loop) -> None:
    one, two = loop.call_at(1e9, print), loop.call_at(2e9, print)
    assert one < two and two > one and one <= two and one != two
    assert len({one, two, one}) == 2
    one.cancel()
    two.cancel()


def test_sleep_rounds_up(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in (0.001, 0.0005, 0.00025):
            began = loop.time()
            await asyncio.sleep(delay)
            assert loop.time() - began >= delay * 0.999

    run(factory, main())
