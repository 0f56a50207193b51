"""Rules about what tasks wait for, each with a program that is well and must not be accused."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from taut import _core, doctor
from taut.doctor import _rules, _rules_waits

import taut

LIMIT_S = 30


#: Of these rules; a machine that is busy, and what earlier tests have left behind, give others.
CODES = {"pool-exhausted", "unbounded-fanout", "executor-saturated", "resolver-queue"}


def own_findings():
    return [finding for finding in doctor.findings() if finding.code in CODES]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    _core.findings_clear()
    monkeypatch.setattr(_rules_waits, "EVENT_S", 0.5)
    for lasting in ("_pool", "_fanout", "_executor", "_resolver"):
        code = getattr(_rules_waits, lasting).code
        monkeypatch.setattr(_rules_waits, lasting, _rules.Lasting(code))


async def found(code):
    """The first finding of this code."""
    end = time.monotonic() + LIMIT_S
    while not doctor.findings(code):
        assert time.monotonic() < end, doctor.findings()
        await asyncio.sleep(0.01)
    return doctor.findings(code)[0]


async def examined(count=3):
    """So many examinations have passed."""
    seen = []

    def see(record):
        seen.append(record)

    _rules.rule(see)
    try:
        end = time.monotonic() + LIMIT_S
        while len(seen) < count:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
    finally:
        _rules._rules.remove(see)


def line_of(text):
    with open(__file__, encoding="utf-8") as file:
        return next(n for n, line in enumerate(file, 1) if text in line and "line_of" not in line)


# ---- pools ----


class Pool:
    def __init__(self, size):
        self.free = asyncio.Queue()
        for number in range(size):
            self.free.put_nowait(number)

    async def acquire(self):
        return await self.free.get()

    @property
    def _free(self):
        return list(self.free._queue)

    def release(self, connection):
        self.free.put_nowait(connection)


async def uses(pool, event):
    connection = await pool.acquire()  # asks for one
    try:
        await event.wait()
    finally:
        pool.release(connection)


def test_a_pool_that_is_exhausted():
    async def main():
        pool, event = Pool(2), asyncio.Event()
        end = doctor.watch(pool, "the test's pool")
        tasks = [asyncio.create_task(uses(pool, event)) for _ in range(7)]
        finding = await found("pool-exhausted")
        assert (finding.file, finding.line) == (__file__, line_of("# asks for one"))
        assert finding.function == "uses"
        assert "5 tasks wait for a connection of the pool of Pool" in finding.cause
        assert any("meanwhile 2 of the same kind stand at" in line for line in finding.evidence)
        assert any(line.startswith("the test's pool: free 0") for line in finding.evidence), (
            finding.evidence
        )
        event.set()
        await asyncio.gather(*tasks)
        end()
        while doctor.findings("pool-exhausted")[0].state != "over":
            await asyncio.sleep(0.01)

    taut.run(main())


def test_a_pool_that_is_busy_but_serves_everybody():
    async def main():
        pool, stop = Pool(2), False

        async def client():
            while not stop:
                connection = await pool.acquire()
                await asyncio.sleep(0.001)
                pool.release(connection)

        tasks = [asyncio.create_task(client()) for _ in range(10)]
        await examined()
        stop = True
        await asyncio.gather(*tasks)
        assert doctor.findings("pool-exhausted") == []

    taut.run(main())


class RateLimiter:
    def __init__(self):
        self.lock = asyncio.Lock()

    async def acquire(self):
        async with self.lock:
            await asyncio.sleep(LIMIT_S)


def test_locks_queues_and_limiters_are_no_pools():
    async def main():
        limiter, queue, semaphore = RateLimiter(), asyncio.Queue(), asyncio.Semaphore(1)

        async def holds():
            async with semaphore:
                await asyncio.sleep(LIMIT_S)

        async def consumes():
            await queue.get()

        waiting = [asyncio.create_task(what()) for what in (limiter.acquire, holds, consumes) * 3]
        await examined()
        assert own_findings() == []
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    taut.run(main())


# ---- too many at once ----


async def calls(event):
    await remote(event)


async def remote(event):
    future = asyncio.get_running_loop().create_future()
    event.append(future)
    await future


def test_thousands_made_in_one_go_that_wait():
    async def main():
        futures = []
        crowd = asyncio.gather(*(calls(futures) for _ in range(1500)))  # made in one go
        finding = await found("unbounded-fanout")
        assert (finding.file, finding.line) == (__file__, line_of("# made in one go"))
        assert "1500 tasks were made in one go" in finding.cause
        for future in futures:
            future.set_result(None)
        await crowd

    taut.run(main())


def test_a_crowd_that_somebody_bounds_or_that_came_one_by_one():
    async def main():
        futures, limit = [], asyncio.Semaphore(5)

        async def bounded():
            async with limit:
                await calls(futures)

        crowd = [asyncio.create_task(bounded()) for _ in range(1500)]
        for _ in range(1500):
            crowd.append(asyncio.create_task(calls(futures)))
            await asyncio.sleep(0)
        await examined()
        assert doctor.findings("unbounded-fanout") == []
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)

    taut.run(main())


# ---- threads ----


def test_a_pool_of_one_thread():
    async def main():
        loop = asyncio.get_running_loop()
        gate = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as pool:

            async def job():
                await loop.run_in_executor(pool, gate.wait)  # fills the pool

            tasks = [asyncio.create_task(job()) for _ in range(5)]
            finding = await found("executor-saturated")
            gate.set()
            await asyncio.gather(*tasks)
        assert (finding.file, finding.line) == (__file__, line_of("# fills the pool"))
        assert finding.cause.startswith(
            "4 calls of run_in_executor() or to_thread() wait for a free thread in a pool of 1 "
            "worker, the oldest for"
        )

    taut.run(main())


def test_to_thread_in_a_default_pool_that_is_too_small():
    async def main():
        loop = asyncio.get_running_loop()
        gate = threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
        tasks = [asyncio.create_task(asyncio.to_thread(gate.wait)) for _ in range(4)]
        finding = await found("executor-saturated")
        gate.set()
        await asyncio.gather(*tasks)
        assert finding.file == __file__
        assert "test_to_thread_in_a_default_pool" in finding.function

    taut.run(main())


def test_a_pool_that_is_busy_and_large_enough():
    async def main():
        loop = asyncio.get_running_loop()
        stop = False
        with ThreadPoolExecutor(max_workers=4) as pool:

            async def client():
                while not stop:
                    await loop.run_in_executor(pool, os.getpid)

            tasks = [asyncio.create_task(client()) for _ in range(8)]
            gate = threading.Event()
            long = loop.run_in_executor(pool, gate.wait)  # one long call harms nobody
            await examined()
            stop = True
            gate.set()
            await asyncio.gather(long, *tasks)
        assert doctor.findings("executor-saturated") == []

    taut.run(main())


def test_calls_are_no_longer_known_once_they_are_over():
    async def main():
        loop = asyncio.get_running_loop()
        gate = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as pool:
            first = loop.run_in_executor(pool, gate.wait)
            second = loop.run_in_executor(pool, gate.wait)
            while True:
                record = _rules.record_of(_core.examine(loop))
                counts = [(call.queued, call.running) for call in record.calls]
                if sum(running for _, running in counts) == 1:
                    break
                await asyncio.sleep(0.001)
            assert sum(queued for queued, _ in counts) == 1
            assert all(call.executor is pool for call in record.calls)
            second.cancel()
            gate.set()
            await first
        await asyncio.sleep(0)
        assert _core.examine(loop)[6] == []

    taut.run(main())


# ---- names ----


def record(**changes):
    empty = _rules.Record(99, 0.0, 0, 0, 0, [], [], _rules.Resolver(0, 0, 0, 0.0), [])
    return empty._replace(**changes)


def test_a_queue_of_lookups(monkeypatch):
    monkeypatch.setattr(_rules_waits, "EVENT_S", 2.0)

    async def resolves():
        await asyncio.sleep(0)

    frame = _rules.Frame(resolves.__code__, 0)
    group = _rules.Group(40, _rules.FUTURE, 1.5, 1.5, 1, None, -1, 0, (frame,))
    for now in (0.0, 1.0, 2.5):
        assert own_findings() == []
        _rules_waits.resolver_queue(
            record(now=now, groups=[group], resolver=_rules.Resolver(40, 24, 16, 1.5))
        )
    (finding,) = doctor.findings("resolver-queue")
    assert finding.file == __file__
    assert "24 lookups of host names wait for one of the resolver's 16 threads" in finding.cause
    _rules_waits.resolver_queue(record(now=3.0))
    assert doctor.findings("resolver-queue")[0].state == "over"


def test_slow_lookups_that_nobody_waits_behind_and_short_queues():
    for now in (0.0, 2.0, 4.0):
        _rules_waits.resolver_queue(record(now=now, resolver=_rules.Resolver(3, 0, 3, 5.0)))
        _rules_waits.resolver_queue(record(now=now, resolver=_rules.Resolver(40, 24, 16, 0.2)))
    assert own_findings() == []
