"""Findings about tasks that wait for each other, or for what nobody can bring any more."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import taut
from doctoring import blamed, empty_table, found  # noqa: F401
from loops import ok, run, script, until
from taut import _core, doctor
from taut.doctor import _deadlock

pytestmark = [
    pytest.mark.skipif(not _core.tasks_known(), reason="this Python's tasks are not known"),
    pytest.mark.usefixtures("empty_table"),
]


def play(coro: Coroutine[Any, Any, None]) -> None:
    run(lambda: taut.new_event_loop(tasks="own"), coro)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def examine(examiner: _deadlock.Examiner | None = None) -> list[doctor.Finding]:
    """What is found about the tasks that wait now."""
    loop: Any = asyncio.get_running_loop()
    examiner = examiner or _deadlock.Examiner()
    began = _core.tasks_waiting(loop, 0)
    while examiner.examine(began):
        began = []
    return doctor.findings()


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---- deadlocks -----------------------------------------------------------------------------------


async def transfer(first: Any, second: Any) -> None:
    async with first:
        await asyncio.sleep(0)
        async with second:  # transfer
            await asyncio.sleep(0)


KINDS: list[Callable[[], Any]] = [
    asyncio.Lock, asyncio.Condition, lambda: asyncio.BoundedSemaphore(1)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3])
def test_locks_in_different_orders(kind: Callable[[], Any], count: int) -> None:
    async def main() -> None:
        locks = [kind() for _ in range(count)]
        tasks = [
            asyncio.create_task(transfer(locks[i], locks[(i + 1) % count]), name=f"T{i}")
            for i in range(count)
        ]
        await turns()
        examiner = _deadlock.Examiner()
        (finding,) = examine(examiner)
        assert finding.code == "deadlock"
        assert blamed(finding, "transfer")
        assert finding.cause.startswith(f"{count} tasks wait for each other")
        assert sum("waits for a lock of" in line for line in finding.evidence) == count
        assert "in one order" in finding.remedy
        assert finding.state == "ongoing"
        await end(*tasks)
        assert [f.state for f in examine(examiner)] == ["over"]

    play(main())


def test_tasks_that_await_each_other() -> None:
    """In a process of its own: cancel() of such tasks goes round and round, on asyncio as well."""
    out = ok(script("taut", """
import os, test_task_findings_stuck as stuck
async def wait_for_other(others):
    await others[0]
async def main():
    others = [[], []]
    tasks = [asyncio.create_task(wait_for_other(one)) for one in others]
    others[0].append(tasks[1])
    others[1].append(asyncio.gather(tasks[0], asyncio.sleep(0)))
    await stuck.turns()
    (finding,) = stuck.examine()
    print(finding.code, finding.function, flush=True)
    print(*finding.evidence, sep="\\n", flush=True)
    os._exit(0)
new_loop().run_until_complete(main())
"""))
    assert out.startswith("deadlock wait_for_other\n")
    assert out.count("waits for a result of") == 2


def test_a_lock_held_while_its_taker_is_awaited() -> None:
    async def main() -> None:
        lock = asyncio.Lock()

        async def take() -> None:
            async with lock:
                pass

        async def hold() -> None:
            async with lock, asyncio.TaskGroup() as group:
                group.create_task(take())

        task = asyncio.create_task(hold())
        await turns()
        assert [f.code for f in examine()] == ["deadlock"]
        await end(task)

    play(main())


def test_locks_that_are_only_busy() -> None:
    async def main() -> None:
        lock, other, release = asyncio.Lock(), asyncio.Lock(), asyncio.Event()

        async def hold() -> None:
            async with lock:
                await release.wait()

        async def nest() -> None:
            async with other:
                await transfer(lock, asyncio.Lock())

        async def use_semaphore(semaphore: asyncio.Semaphore) -> None:
            async with semaphore:
                await release.wait()

        semaphore = asyncio.Semaphore(2)
        tasks = [asyncio.create_task(one()) for one in (hold, nest, hold, nest)]
        tasks += [asyncio.create_task(use_semaphore(semaphore)) for _ in range(5)]
        await turns()
        assert examine() == []
        release.set()
        await asyncio.gather(*tasks)

    play(main())


def test_an_examination_finds_it() -> None:
    async def main() -> None:
        one, two = asyncio.Lock(), asyncio.Lock()
        tasks = [asyncio.create_task(transfer(one, two)), asyncio.create_task(transfer(two, one))]
        replies = Replies()
        asks = asyncio.create_task(ask(replies, 1))
        await asyncio.sleep(0)
        replies.waiting.clear()
        assert blamed(await found("deadlock"), "transfer")
        assert blamed(await found("lost-wakeup"), "ask")
        await end(*tasks, asks)
        await until(lambda: {f.state for f in doctor.findings()} == {"over"})

    play(main())


# ---- lost wake-ups -------------------------------------------------------------------------------


class Replies:
    """Who waits for which reply."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[int]] = {}


async def ask(replies: Replies, number: int) -> int:
    future = asyncio.get_running_loop().create_future()
    replies.waiting[number] = future
    return await future  # ask


class Session:
    def __init__(self) -> None:
        self.closed = asyncio.Event()


async def wait_until_closed(session: Session) -> None:
    await session.closed.wait()  # wait_until_closed


async def consume(queue: asyncio.Queue[int]) -> None:
    while True:
        await queue.get()  # consume


def test_a_reply_whose_question_was_forgotten() -> None:
    async def main() -> None:
        replies = Replies()
        task = asyncio.create_task(ask(replies, 7), name="asks")
        await turns()
        examiner = _deadlock.Examiner()
        assert examine(examiner) == []
        del replies.waiting[7]
        assert not examiner.examine([])  # it is looked at again
        (finding,) = doctor.findings()
        assert finding.code == "lost-wakeup"
        assert blamed(finding, "ask")
        assert finding.cause.startswith("Task 'asks' waits for what nobody can bring any more")
        assert finding.state == "ongoing"
        await end(task)
        assert [f.state for f in examine(examiner)] == ["over"]

    play(main())


@pytest.mark.parametrize(
    ("wait", "make"), [(wait_until_closed, Session), (consume, asyncio.Queue)]
)
def test_nobody_else_has_it(
    wait: Callable[[Any], Coroutine[Any, Any, None]], make: Callable[[], Any]
) -> None:
    async def main() -> None:
        task = asyncio.create_task(wait(make()))
        await turns()
        (finding,) = examine()
        assert finding.code == "lost-wakeup"
        assert blamed(finding, wait.__name__)
        await end(task)

    play(main())


class Subscription:
    def __init__(self) -> None:
        self.news = asyncio.Queue[str]()

    async def run(self) -> None:
        while True:
            await self.news.get()


def test_a_task_that_nobody_keeps() -> None:
    async def main() -> None:
        known: weakref.WeakSet[Subscription] = weakref.WeakSet()

        def subscribe() -> None:
            subscription = Subscription()
            known.add(subscription)
            asyncio.create_task(subscription.run(), name="forgotten")  # made

        gc.disable()  # it would take it
        try:
            subscribe()
            await turns()
            examiner = _deadlock.Examiner()
            (finding,) = examine(examiner)
            assert finding.code == "task-unreferenced"
            assert blamed(finding, "made")
            assert finding.cause.startswith("Task 'forgotten' is kept by nobody")
            assert any("in Subscription.run" in line for line in finding.evidence)
            assert finding.state == "ongoing" and len(known) == 1
        finally:
            gc.enable()
        gc.collect()
        assert len(known) == 0
        await found("task-destroyed-pending")  # it was right
        examine(examiner)
        assert [f.state for f in doctor.findings("task-unreferenced")] == ["over"]

    play(main())


@pytest.mark.parametrize("kept", ["task", "what it waits for", "what would wake it", "itself"])
def test_a_task_that_somebody_keeps(kept: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        known: weakref.WeakSet[Subscription] = weakref.WeakSet()
        keeps: list[Any] = []

        async def keep_itself(subscription: Subscription) -> None:
            keeps.append(asyncio.current_task())
            await subscription.run()

        def subscribe() -> None:
            subscription = Subscription()
            known.add(subscription)
            if kept == "itself":
                asyncio.create_task(keep_itself(subscription), name="served")
                return
            task = asyncio.create_task(subscription.run(), name="served")
            if kept == "task":
                keeps.append(task)
            elif kept == "what it waits for":
                keeps.append(subscription)
            else:
                news = subscription.news
                keeps.append(loop.call_later(60, lambda: news.put_nowait("late")))

        subscribe()
        await turns()
        assert examine() == []
        gc.collect()
        assert len(known) == 1
        (task,) = (one for one in asyncio.all_tasks() if one.get_name() == "served")
        if kept == "what would wake it":
            keeps[0].cancel()
        await end(task)

    play(main())


def test_a_task_known_to_its_own_frames_alone() -> None:
    async def main() -> None:
        known: weakref.WeakSet[Subscription] = weakref.WeakSet()

        async def run(subscription: Subscription) -> None:
            me = asyncio.current_task()
            known.add(subscription)
            await subscription.run()
            assert me is not None

        gc.disable()
        try:
            asyncio.create_task(run(Subscription()))
            await turns()
            assert [finding.code for finding in examine()] == ["task-unreferenced"]
        finally:
            gc.enable()
        gc.collect()
        assert len(known) == 0

    play(main())


def test_what_is_no_reference_to_a_task() -> None:
    with pytest.raises(TypeError, match="weak reference"):
        _core.task_is_unkept(asyncio)
    assert not _core.task_is_unkept(weakref.ref(Subscription))


def test_what_somebody_can_still_bring() -> None:
    class Holder:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        replies, session, queue = Replies(), Session(), asyncio.Queue[int]()
        in_closure = loop.create_future()
        handle = loop.call_later(60, lambda: in_closure.set_result(None))
        in_thread = asyncio.Event()
        by_signal = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, by_signal.set)
        held: Any = Holder()
        held.future = loop.create_future()

        async def wait_at(future: asyncio.Future[None]) -> None:
            kept = future
            await kept

        async def wait_for_event(event: asyncio.Event) -> None:
            kept = event
            await kept.wait()

        async def wait_for_io() -> None:
            line = await reader.readline()
            assert line == b""

        async def wait_in_thread(stop: Any) -> None:
            kept = stop
            await asyncio.to_thread(kept.recv, 1)

        three, four = socket.socketpair()
        tasks = [
            asyncio.create_task(one)
            for one in (
                ask(replies, 1), wait_until_closed(session), consume(queue), wait_at(in_closure),
                wait_for_event(in_thread), wait_for_event(by_signal), wait_for_io(),
                wait_in_thread(three), wait_at(held.future), asyncio.sleep(60),
            )
        ]  # fmt: skip
        await turns()
        gc.collect()
        assert len(_core.tasks_waiting(loop, 0)) >= len(tasks)  # type: ignore[arg-type]
        assert examine() == []
        assert examine() == []
        handle.cancel()
        four.close()
        await end(*tasks)
        three.close()
        writer.close()
        two.close()
        loop.remove_signal_handler(signal.SIGUSR1)
        del held, session, queue, in_thread

    play(main())


def test_waiting_for_ever_on_purpose() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def for_a_future() -> None:
        await asyncio.get_running_loop().create_future()

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        async with server:
            await server.serve_forever()

    async def main() -> None:
        tasks = [asyncio.create_task(one()) for one in (forever, for_a_future, serve)]
        await turns()
        assert examine() == []
        await end(*tasks)

    play(main())


def test_waits_that_end_by_themselves() -> None:
    async def wait_for(event: asyncio.Event) -> None:
        await asyncio.wait_for(event.wait(), 60)

    async def with_timeout(event: asyncio.Event) -> None:
        async with asyncio.timeout(60):
            await event.wait()

    async def with_scope(event: asyncio.Event) -> None:
        with anyio.CancelScope(deadline=anyio.current_time() + 60):
            await event.wait()

    async def with_fail_after(event: asyncio.Event) -> None:
        with anyio.fail_after(60):
            await event.wait()

    async def main() -> None:
        kinds = (wait_for, with_timeout, with_scope, with_fail_after)
        tasks = [asyncio.create_task(one(asyncio.Event())) for one in kinds]
        await turns()
        assert examine() == []
        await end(*tasks)

    play(main())


def test_the_main_task_may_wait_for_ever() -> None:
    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, look)
        await stop.wait()

    def look() -> None:
        found.extend(examine())
        for task in asyncio.all_tasks():
            task.cancel()

    found: list[doctor.Finding] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.Runner(loop_factory=taut.new_event_loop).run(main())
    assert found == []


def test_a_thousand_that_wait() -> None:
    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        tasks = [asyncio.create_task(consume(queue)) for _ in range(1000)]
        await turns()
        assert examine() == []
        await end(*tasks)

    play(main())
