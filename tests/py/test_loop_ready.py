"""The ready queue: order, batches, contexts, handles, fairness towards I/O."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from loops import Factory, Faults, run, until

Loop = asyncio.AbstractEventLoop
var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


def test_order_and_batches(loop: Loop) -> None:
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        loop.call_soon(seen.append, "third")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.call_soon(loop.stop)
    loop.run_forever()
    # stop() lets the batch finish; what the batch has queued waits for the next run.
    assert seen == ["first", "second"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["first", "second", "third"]


def test_stop_lets_the_rest_of_the_batch_run(loop: Loop) -> None:
    seen: list[int] = []
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == [1]


def test_stop_before_run_runs_one_iteration(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        seen: list[str] = []
        loop.add_reader(ours, lambda: seen.append("readable"))
        theirs.send(b"x")
        loop.call_soon(seen.append, "soon")
        loop.call_later(0, seen.append, "timer")
        loop.stop()
        loop.run_forever()
        assert sorted(seen) == ["readable", "soon", "timer"]
        loop.remove_reader(ours)


def test_cancelled_handles_do_not_run(loop: Loop) -> None:
    seen: list[str] = []
    handle = loop.call_soon(seen.append, "no")
    later = loop.call_later(0, seen.append, "no")
    handle.cancel()
    later.cancel()
    later.cancel()
    assert handle.cancelled() and later.cancelled()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == []


def test_handles_are_asyncio_handles(loop: Loop) -> None:
    handle = loop.call_soon(print, 1, 2)
    timer = loop.call_later(5, print)
    assert isinstance(handle, asyncio.Handle) and not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert handle._callback is print and handle._args == (1, 2)  # type: ignore[attr-defined]
    assert "print" in repr(handle) and "when=" in repr(timer)
    assert abs(timer.when() - loop.time() - 5) < 1
    assert timer == timer and hash(timer) == hash(timer.when())
    assert weakref.ref(handle)() is handle
    timer.cancel()
    assert "cancelled" in repr(timer)
    handle.cancel()


def test_each_callback_runs_in_its_context(loop: Loop) -> None:
    contexts = {name: contextvars.copy_context() for name in ("a", "b")}
    seen: list[tuple[str, str]] = []

    def visit(name: str) -> None:
        seen.append((name, var.get()))
        var.set(name)

    for name in ("a", "b", "a", "a", "b"):
        loop.call_soon(visit, name, context=contexts[name])
    loop.call_soon(visit, "copy")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [
        ("a", "unset"), ("b", "unset"), ("a", "a"), ("a", "a"), ("b", "b"), ("copy", "unset"),
    ]
    assert var.get() == "unset"
    contexts["a"].run(lambda: None)  # nobody has left it entered


def test_a_failing_callback_leaves_the_others_alone(loop: Loop) -> None:
    faults = Faults(loop)
    seen: list[str] = []

    def fail(number: int) -> None:
        raise ZeroDivisionError(number)

    loop.call_soon(fail, 1)
    loop.call_soon(seen.append, "after")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["after"]
    [context] = faults.contexts
    assert "Exception in callback" in context["message"] and "fail(" in context["message"]
    assert isinstance(context["handle"], asyncio.Handle)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_leave_run_forever(loop: Loop, kind: type[BaseException]) -> None:
    seen: list[str] = []

    def leave() -> None:
        raise kind("out")

    loop.call_soon(leave)
    loop.call_soon(seen.append, "kept")
    with pytest.raises(kind, match="out"):
        loop.run_forever()
    assert not loop.is_running()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["kept"]


def test_threads_wake_a_waiting_loop(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        total = 0
        done = asyncio.Event()

        def count() -> None:
            nonlocal total
            total += 1
            if total == 4000:
                done.set()

        def push() -> None:
            for _ in range(1000):
                loop.call_soon_threadsafe(count)

        threads = [threading.Thread(target=push) for _ in range(4)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        assert total == 4000

    run(factory, main())


def test_a_wake_up_is_never_lost(factory: Factory) -> None:
    """One thread and the loop hand a turn to each other, so that the loop waits each time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turn = threading.Semaphore(0)
        count = 2000

        def other(event: Callable[[], object]) -> None:
            for _ in range(count):
                turn.acquire()
                loop.call_soon_threadsafe(event)

        wake = asyncio.Event()
        thread = threading.Thread(target=other, args=(wake.set,))
        thread.start()
        for _ in range(count):
            wake.clear()
            turn.release()
            await wake.wait()
        thread.join()

    run(factory, main())


def test_busy_ready_queue_does_not_starve_io(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            seen = asyncio.Event()
            loop.add_reader(ours, seen.set)
            spinning = True

            def spin() -> None:
                if spinning:
                    loop.call_soon(spin)

            spin()
            fired = asyncio.Event()
            loop.call_later(0.01, fired.set)
            theirs.send(b"x")
            await seen.wait()
            loop.remove_reader(ours)
            await fired.wait()
            spinning = False

    run(factory, main())


def test_tasks_see_their_loop_and_name(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def child() -> str:
            task = asyncio.current_task()
            assert task is not None and task in asyncio.all_tasks()
            return task.get_name()

        assert await loop.create_task(child(), name="mine") == "mine"
        context = contextvars.copy_context()
        context.run(var.set, "inside")

        async def read() -> str:
            return var.get()

        assert await loop.create_task(read(), context=context) == "inside"
        with pytest.raises(TypeError):
            loop.create_task(None)  # type: ignore[arg-type]

    run(factory, main())


def test_task_factory(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[dict[str, Any]] = []

        def make(loop: Loop, coro: Any, **kwargs: Any) -> Any:
            made.append(kwargs)
            return asyncio.Task(coro, loop=loop, **kwargs)

        async def child() -> int:
            return 7

        loop.set_task_factory(make)
        assert loop.get_task_factory() is make
        task = loop.create_task(child(), name="named")
        assert await task == 7 and task.get_name() == "named"
        assert len(made) == 1
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None
        with pytest.raises(TypeError, match="task factory must be a callable or None"):
            loop.set_task_factory(1)  # type: ignore[arg-type]

    run(factory, main())


def test_task_factory_is_called_as_by_asyncio(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="outside")
        context = contextvars.copy_context()
        context.run(var.set, "inside")
        callers: list[str] = []

        def make(loop: Loop, coro: Any, **kwargs: Any) -> Any:
            frame: Any = sys._getframe(1)
            while frame.f_code.co_filename.endswith(("asyncio/base_events.py", "asyncio/tasks.py")):
                frame = frame.f_back
            callers.append(frame.f_code.co_name)
            return asyncio.Task(coro, loop=loop, **kwargs)

        async def child() -> str:
            return var.get()

        loop.set_task_factory(make)
        assert await loop.create_task(child(), context=context) == "inside"
        assert await loop.create_task(child(), name="n", context=None) == "outside"
        named = asyncio.create_task(child(), name="named", context=context)
        assert named.get_name() == "named" and await named == "inside"
        # Debuggers take the stack here, to tell who made the task.
        assert callers == ["main"] * 3

        def fail(loop: Loop, coro: Any, **kwargs: Any) -> Any:
            loop.set_task_factory(None)
            coro.close()
            raise ZeroDivisionError

        loop.set_task_factory(fail)
        with pytest.raises(ZeroDivisionError):
            loop.create_task(child(), name="n")
        assert loop.get_task_factory() is None

    run(factory, main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before, it depends on the version")
def test_what_a_task_factory_is_given(factory: Factory) -> None:
    """From 3.14 on what create_task() was given, and nothing else."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        given: list[dict[str, Any]] = []

        def make(loop: Loop, coro: Any, **kwargs: Any) -> Any:
            given.append(kwargs)
            return asyncio.Task(coro, loop=loop, **kwargs)

        async def child() -> None:
            pass

        loop.set_task_factory(make)
        await asyncio.create_task(child())
        await loop.create_task(child(), name="n")
        await loop.create_task(child(), name=None, context=None)
        await loop.create_task(child(), eager_start=True)  # type: ignore[call-arg]
        loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
        await loop.create_task(child())
        assert given == [{}, {"name": "n"}, {"name": None, "context": None}, {"eager_start": True}]

    run(factory, main())


def test_debug_mode_reports_slow_callbacks(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0
        loop.call_soon(noted.append, 1)
        await until(lambda: noted)

    noted: list[int] = []
    run(factory, main(), debug=True)
    assert any("Executing <" in record.getMessage() for record in caplog.records)


def test_a_forgotten_loop_is_collected(factory: Factory) -> None:
    loop = factory()
    loop.call_soon(lambda: loop)
    loop.call_later(100, lambda: loop)
    loop.close()
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None


def test_an_unclosed_loop_warns(factory: Factory) -> None:
    loop = factory()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_callbacks_never_see_each_others_variables(loop: Loop) -> None:
    """Copies of equal contexts are one object inside; nobody may notice."""
    seen: list[str] = []
    tokens: list[contextvars.Token[str]] = []

    def change(value: str) -> None:
        seen.append(var.get())
        tokens.append(var.set(value))
        loop.call_soon(look)  # gets a copy of the changed context
        seen.append(var.get())

    def look() -> None:
        seen.append(var.get())

    def change_and_fail() -> None:
        var.set("lost")
        raise ZeroDivisionError

    faults = Faults(loop)
    loop.call_soon(change, "one")
    loop.call_soon(change, "two")
    loop.call_soon(look)
    loop.call_soon(change_and_fail)
    loop.call_soon(look)
    timers = [loop.call_later(0, change, "three"), loop.call_later(0, look)]
    loop.call_later(0.001, loop.call_soon, loop.stop)  # after what the others queued
    loop.run_forever()
    assert len(timers) == 2 and faults.exceptions() == [ZeroDivisionError]
    assert seen.count("unset") == 6
    assert sorted(seen) == sorted(
        ["unset", "one", "unset", "two", "unset", "unset", "one", "two", "unset", "three", "unset"]
        + ["three"]
    )
    assert var.get() == "unset"


def test_values_of_a_context_are_not_kept(factory: Factory) -> None:
    class Value:
        pass

    held: contextvars.ContextVar[Any] = contextvars.ContextVar("held")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        value = Value()
        ref = weakref.ref(value)

        async def child(value: Value) -> None:
            held.set(value)
            done = loop.create_future()
            loop.call_soon(done.set_result, None)
            await done

        await loop.create_task(child(value))
        del value
        await asyncio.sleep(0.001)  # the loop waits
        gc.collect()
        assert ref() is None

    run(factory, main())
