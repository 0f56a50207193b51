"""Futures and tasks of taut's own: subclasses of asyncio's that behave as those do, and mix with
them. CPython's own test_tasks and test_futures run on these classes in tests/compat."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import inspect
import pickle
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import taut
from loops import Factory, run
from programs import Python, python  # noqa: F401
from taut import _core

pytestmark = pytest.mark.skipif(not _core.tasks_known(), reason="this Python's tasks are not known")
KINDS = {"own": (_core.Task, _core.Future), "stdlib": (asyncio.Task, asyncio.Future)}


@pytest.fixture(params=["own", "stdlib"])
def kind(request: Any) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(kind: str) -> Factory:
    return lambda: taut.new_event_loop(tasks=kind)  # type: ignore[arg-type]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = taut.new_event_loop(tasks="own")
    yield made
    made.close()


def test_the_classes(make: Factory, kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        task_type, future_type = KINDS[kind]
        task, future = asyncio.ensure_future(asyncio.sleep(0)), loop.create_future()
        assert type(task) is task_type and type(future) is future_type
        assert isinstance(task, asyncio.Task) and isinstance(future, asyncio.Future)
        assert asyncio.isfuture(task) and asyncio.isfuture(future)
        assert task.get_loop() is loop is future.get_loop()
        await task

    run(make, main())


def test_which_tasks(python: Python) -> None:  # noqa: F811
    code = (
        "import asyncio, taut\n"
        "async def main(): print(type(asyncio.current_task()).__module__)\n"
        "for tasks in (None, 'own', 'stdlib'):\n"
        "    loop = taut.new_event_loop(tasks)\n"
        "    loop.run_until_complete(main())\n"
        "    loop.close()\n"
    )
    for value, default in (("own", "taut._core"), ("stdlib", "_asyncio"), ("", "taut._core")):
        done = python("-c", code, TAUT_TASKS=value)
        assert done.status == 0 and done.out.split() == [default, "taut._core", "_asyncio"], done
    done = python("-c", code, TAUT_TASKS="mine")
    assert done.status == 1 and "TAUT_TASKS must be 'own' or 'stdlib', not 'mine'" in done.err, done
    wrong: Any = "mine"
    with pytest.raises(ValueError, match="tasks must be 'own', 'stdlib' or None, not 'mine'"):
        taut.new_event_loop(tasks=wrong)


def test_names_count_up(make: Factory) -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(12)]
        numbers = [int(task.get_name().removeprefix("Task-")) for task in tasks]
        assert numbers == list(range(numbers[0], numbers[0] + 12))
        assert asyncio.Task.get_name(tasks[0]) == tasks[0].get_name()
        named = asyncio.create_task(asyncio.sleep(0), name="load prices")
        assert named.get_name() == "load prices" and "name='load prices'" in repr(named)
        number: Any = 7
        assert asyncio.create_task(asyncio.sleep(0), name=number).get_name() == "7"
        await asyncio.gather(*tasks)

    run(make, main())


def test_current_and_all_tasks(make: Factory) -> None:
    async def child(seen: list[Any]) -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    async def main() -> None:
        loop, me, seen = asyncio.get_running_loop(), asyncio.current_task(), list[Any]()
        first, second = (asyncio.create_task(child(seen)) for _ in range(2))
        assert asyncio.all_tasks() >= {me, first, second}
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await asyncio.gather(first, second)
        assert seen == [first, second, None, first, second]
        assert asyncio.current_task() is me
        assert first not in asyncio.all_tasks()

    run(make, main())


def test_tasks_of_two_loops_at_once() -> None:
    seen: dict[str, Any] = {}
    gate = threading.Barrier(2, timeout=20)

    async def main(name: str) -> None:
        me = asyncio.current_task()
        gate.wait()
        seen[name] = asyncio.all_tasks() == {me} and asyncio.current_task() is me
        gate.wait()

    threads = [threading.Thread(target=taut.run, args=(main(n),)) for n in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": True, "b": True}


def test_the_two_kinds_await_each_other(loop: asyncio.AbstractEventLoop) -> None:
    async def child(result: str) -> str:
        await asyncio.sleep(0)
        return result

    async def awaits(other: Any) -> Any:
        return await other

    async def main() -> None:
        for outer, inner in (
            (_core.Task, asyncio.Task), (asyncio.Task, _core.Task), (_core.Task, _core.Task),
        ):
            assert await outer(awaits(inner(child("x"), loop=loop)), loop=loop) == "x"
        for future in (_core.Future(loop=loop), asyncio.Future(loop=loop)):
            task = asyncio.create_task(awaits(future))
            await asyncio.sleep(0)
            assert task._fut_waiter is future  # type: ignore[attr-defined]
            asyncio.Future.set_result(future, "y")
            assert await task == "y"
        mixed = [asyncio.Task(child("1"), loop=loop), asyncio.create_task(child("2"))]
        assert await asyncio.gather(*mixed, child("3")) == ["1", "2", "3"]
        done, _ = await asyncio.wait(mixed)
        assert done == set(mixed)
        assert await asyncio.shield(asyncio.create_task(child("4"))) == "4"

    loop.run_until_complete(main())


def test_many_wait_for_one_in_order(make: Factory) -> None:
    async def main() -> None:
        future, order = asyncio.get_running_loop().create_future(), list[Any]()

        async def wait(number: int) -> None:
            order.append((number, await future))

        tasks = [asyncio.create_task(wait(n)) for n in range(3)]
        await asyncio.sleep(0)
        future.add_done_callback(lambda f: order.append("callback"))
        tasks.append(asyncio.create_task(wait(3)))
        await asyncio.sleep(0)
        assert len(future._callbacks) == 5
        assert repr(future).count("task_wakeup") <= 2  # the first and the last are shown
        future.set_result("r")
        await asyncio.gather(*tasks)
        assert order == [(0, "r"), (1, "r"), (2, "r"), "callback", (3, "r")]

    run(make, main())


def test_a_waiter_shows_as_a_callable(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        future = loop.create_future()

        async def wait() -> None:
            await future

        own = contextvars.copy_context()
        task = asyncio.create_task(wait(), context=own)
        await asyncio.sleep(0)
        ((callback, context),) = future._callbacks
        assert callable(callback) and callback.__self__ is task
        assert context is own
        assert "cb=[Task.task_wakeup()]" in repr(task)
        future.set_result(None)
        await task
        assert future._callbacks is None or future._callbacks == []

    loop.run_until_complete(main())


def test_cancellation(make: Factory) -> None:
    async def main() -> None:
        async def sleeper() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError as exc:
                return str(exc)
            return "not cancelled"

        task = asyncio.create_task(sleeper())
        await asyncio.sleep(0)
        assert task.cancel("enough") and task.cancelling() == 1
        assert task.uncancel() == 0
        assert await task == "enough"
        assert not task.cancel()
        unstarted = asyncio.create_task(sleeper())
        unstarted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unstarted
        assert unstarted.cancelled()
        future = asyncio.get_running_loop().create_future()
        assert future.cancel(msg="no") and not future.cancel() and future.cancelled()
        with pytest.raises(asyncio.CancelledError, match="no"):
            await future
        with pytest.raises(TypeError):
            future.cancel("a", "b")
        with pytest.raises(asyncio.InvalidStateError):
            future.set_result(1)

    run(make, main())


def test_cancel_goes_down_to_what_is_awaited(make: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def wait(what: Any) -> None:
            await what

        for args, keywords, message in (
            ((), {}, None), ((None,), {}, None), (("m",), {}, "m"), ((), {"msg": "m"}, "m"),
        ):
            future = loop.create_future()
            inner = asyncio.create_task(wait(future))
            outer: Any = asyncio.create_task(wait(inner))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert outer.cancel(*args, **keywords)
            assert future.cancelled() and not inner.done() and not outer.done()
            assert future._cancel_message == message
            assert inner.cancelling() == outer.cancelling() == 1
            with pytest.raises(asyncio.CancelledError) as raised:
                await outer
            assert raised.value.args == (() if message is None else (message,))
            assert inner.cancelled() and outer.cancelled() and not outer.cancel()
        task: Any = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        for wrong in (lambda: task.cancel(1, 2), lambda: task.cancel(text="m")):
            with pytest.raises(TypeError):
                wrong()
        assert task.cancelling() == 0
        done = loop.create_future()
        late = asyncio.create_task(wait(done))
        await asyncio.sleep(0)
        done.set_result(None)  # the task will hear of it: it is told of the cancellation then
        assert late.cancel() and late.cancelling() == 1
        with pytest.raises(asyncio.CancelledError):
            await late
        task.cancel()

    run(make, main())


def test_exceptions_keep_their_tracebacks(make: Factory) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError("lost")

    async def main() -> list[str]:
        task = asyncio.create_task(fails())
        try:
            await task
        except LookupError as exc:
            return [frame.name for frame in traceback.extract_tb(exc.__traceback__)]
        return []

    assert run(make, main()) == ["main", "fails"]


def test_bad_awaits(loop: asyncio.AbstractEventLoop) -> None:
    class Yields:
        def __init__(self, what: object) -> None:
            self.what = what

        def __await__(self) -> Iterator[Any]:
            yield self.what

    async def awaits(what: object) -> None:
        await Yields(what)

    async def main() -> None:
        other = taut.new_event_loop()
        foreign = other.create_future()
        foreign._asyncio_future_blocking = True
        for what, words in (
            (7, "Task got bad yield: 7"),
            (loop.create_future(), "yield was used instead of yield from in task"),
            (foreign, "attached to a different loop"),
            ((n for n in ()), "yield was used instead of yield from for generator in task"),
        ):
            with pytest.raises(RuntimeError, match=words):
                await asyncio.create_task(awaits(what))
        task: Any = None

        async def itself() -> None:
            await task

        task = asyncio.create_task(itself())
        with pytest.raises(RuntimeError, match="Task cannot await on itself"):
            await task
        other.close()

    loop.run_until_complete(main())


def test_not_a_coroutine(make: Factory, kind: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for wrong in (7, None, "x", main):
            with pytest.raises(TypeError, match="a coroutine was expected, got"):
                loop.create_task(wrong)
            with pytest.raises(TypeError, match="a coroutine was expected, got"):
                KINDS[kind][0](wrong, loop=loop)

    run(make, main())


def test_the_end_of_the_program(loop: asyncio.AbstractEventLoop) -> None:
    """SystemExit leaves run_until_complete, and stays the task's exception."""
    kept: list[Any] = []

    async def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        kept.append(asyncio.create_task(leave()))
        await asyncio.sleep(60)

    with pytest.raises(SystemExit):
        loop.run_until_complete(main())
    assert isinstance(kept[0].exception(), SystemExit)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))


def test_contexts(make: Factory) -> None:
    variable = contextvars.ContextVar("variable", default="outer")

    async def child(value: str) -> str:
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        assert variable.get() == value
        return before

    async def main() -> None:
        own = contextvars.copy_context()
        first, second = asyncio.create_task(child("1")), asyncio.create_task(child("2"))
        third = asyncio.create_task(child("3"), context=own)
        assert await asyncio.gather(first, second, third) == ["outer"] * 3
        assert variable.get() == "outer" and own[variable] == "3"
        if sys.version_info >= (3, 12):
            assert third.get_context() is own

    run(make, main())


def test_garbage(make: Factory, caplog: pytest.LogCaptureFixture) -> None:
    """A pending task that nobody holds is told, as is an exception that nobody asked for."""

    async def forgotten() -> None:
        await asyncio.get_running_loop().create_future()

    async def fails() -> None:
        raise LookupError("nobody asked")

    async def main() -> None:
        task: Any = asyncio.create_task(forgotten(), name="forgotten")
        gone = weakref.ref(task)
        await asyncio.sleep(0)
        del task
        gc.collect()
        assert gone() is None
        assert not {t for t in asyncio.all_tasks() if t.get_name() == "forgotten"}
        assert "Task was destroyed but it is pending!" in caplog.text
        caplog.clear()
        task = asyncio.create_task(fails())
        await asyncio.wait([task])
        del task
        gc.collect()
        assert "Task exception was never retrieved" in caplog.text
        caplog.clear()
        asyncio.get_running_loop().create_future().set_exception(LookupError("nor here"))
        gc.collect()
        assert "Future exception was never retrieved" in caplog.text

    run(make, main())


def test_recycled_objects_are_as_new(loop: asyncio.AbstractEventLoop) -> None:
    async def child() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(3):
            task: Any = asyncio.create_task(child(), name="old")
            task.attribute = "old"
            task.cancel()
            await asyncio.wait([task])
            del task
            future: Any = loop.create_future()
            future.attribute = "old"
            future.set_exception(LookupError())
            assert future.exception()
            del future
        fresh: Any = loop.create_future()
        task = asyncio.create_task(child())
        for one in (fresh, task):
            assert not hasattr(one, "attribute") and not one.done() and not one.cancelled()
            assert one._exception is None and one._log_traceback is False
            assert one._asyncio_future_blocking is False and one._source_traceback is None
        assert task.cancelling() == 0 and task.get_name() != "old" and not task._must_cancel
        assert await task is None

    loop.run_until_complete(main())


def test_counts_stay(loop: asyncio.AbstractEventLoop) -> None:
    async def child(n: int) -> int:
        await asyncio.sleep(0)
        if n % 3 == 0:
            raise LookupError(n)
        return n

    async def once() -> None:
        await asyncio.gather(*[child(n) for n in range(50)], return_exceptions=True)
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(20):
        loop.run_until_complete(once())
    before = blocks()
    for _ in range(50):
        loop.run_until_complete(once())
    assert blocks() - before < 200
    assert not _core.live_tasks()


def test_subclasses(loop: asyncio.AbstractEventLoop) -> None:
    class Task(_core.Task):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.cancels = 0

        def cancel(self, msg: Any = None) -> bool:
            self.cancels += 1
            return super().cancel(msg)

    class Future(_core.Future):  # type: ignore[type-arg]
        pass

    async def main() -> None:
        future = Future(loop=loop)

        async def wait() -> Any:
            return await future

        task = Task(wait(), loop=loop)
        await asyncio.sleep(0)
        future.set_result("r")
        assert await task == "r"
        task = Task(asyncio.sleep(60), loop=loop)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and task.cancels == 1

    loop.set_task_factory(lambda lp, coro, **kwargs: Task(coro, loop=lp, **kwargs))
    loop.run_until_complete(main())
    loop.set_task_factory(None)


def test_no_call_crashes(loop: asyncio.AbstractEventLoop) -> None:
    """Every method and attribute, bound or unbound, on objects made in every way."""

    async def main() -> None:
        pending, done = loop.create_future(), loop.create_future()
        done.set_result(1)
        task = asyncio.create_task(asyncio.sleep(0))
        objects: list[Any] = [
            pending, done, task, asyncio.current_task(), _core.Future.__new__(_core.Future),
            _core.Task.__new__(_core.Task),
        ]
        for one in objects:
            for cls in type(one).__mro__:
                for name in vars(cls):
                    if name in ("__init__", "__new__", "__del__", "__class__", "__init_subclass__"):
                        continue
                    for get in (getattr, lambda o, n, c=cls: vars(c)[n].__get__(o, type(o))):
                        try:
                            value = get(one, name)
                            if callable(value) and name not in ("set_result", "set_exception"):
                                value()
                        except (Exception, asyncio.CancelledError):
                            pass
        for copier in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError):
                copier(pending)

    main_task = loop.create_task(main())
    with pytest.raises((asyncio.CancelledError, RuntimeError)):
        loop.run_until_complete(main_task)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks(loop: asyncio.AbstractEventLoop) -> None:
    order: list[Any] = []

    async def child(wait: bool) -> str:
        order.append(asyncio.current_task())
        if wait:
            await asyncio.sleep(0)
        return "done"

    async def main() -> None:
        me = asyncio.current_task()
        factory: Any = asyncio.create_eager_task_factory(_core.Task)  # type: ignore[attr-defined]
        loop.set_task_factory(factory)
        at_once, later = asyncio.create_task(child(False)), asyncio.create_task(child(True))
        loop.set_task_factory(None)
        assert order == [at_once, later] and asyncio.current_task() is me
        assert at_once.done() and not later.done() and later in asyncio.all_tasks()
        assert [await at_once, await later] == ["done", "done"]

    loop.run_until_complete(main())


def test_a_closed_loop(loop: asyncio.AbstractEventLoop) -> None:
    other = taut.new_event_loop(tasks="own")
    future, task_coro = other.create_future(), asyncio.sleep(0)
    future.add_done_callback(lambda f: None)
    other.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        future.set_result(1)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        other.create_task(task_coro)
    task_coro.close()


def test_debug_mode(make: Factory) -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        for one in (task, asyncio.get_running_loop().create_future()):
            (*_, last) = one._source_traceback
            assert last.filename == __file__ or "tasks.py" in last.filename
        await task

    run(make, main(), debug=True)


def test_completed_by_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        future = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "t"))
        thread.start()
        assert await future == "t"
        thread.join()
        assert await asyncio.to_thread(lambda: "u") == "u"
        assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(one(), loop)) == 1

    async def one() -> int:
        return 1

    loop.run_until_complete(main())


def test_the_stack_of_a_task(loop: asyncio.AbstractEventLoop) -> None:
    async def waits() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["waits"]
        coro: Any = task.get_coro()
        assert inspect.getcoroutinestate(coro) == inspect.CORO_SUSPENDED
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(main())
