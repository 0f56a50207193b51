"""What the doctor asks of a task: which line has made it, and what it waits for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import taut
from loops import run, until
from taut import _core

pytestmark = pytest.mark.skipif(not _core.tasks_known(), reason="this Python's tasks are not known")


def make() -> asyncio.AbstractEventLoop:
    return taut.new_event_loop(tasks="own")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = make()
    yield made
    made.close()


async def wait() -> None:
    await asyncio.sleep(60)


async def nothing() -> None:
    pass


def here() -> tuple[str, int, str]:
    """What task_created_at() says of a task that the caller's line makes."""
    frame = sys._getframe(1)
    return (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)


async def ended(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def children(before: set[asyncio.Task[Any]]) -> set[tuple[str, int, str] | None]:
    """Where the tasks that are new were made."""
    return {_core.task_created_at(task) for task in asyncio.all_tasks() - before}


def test_each_way_to_make_a_task() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Any] = [
            (loop.create_task(wait()), here()),
            (asyncio.create_task(wait()), here()),
            (asyncio.create_task(wait(), name="named"), here()),
            (asyncio.ensure_future(wait()), here()),
            (_core.Task(wait(), loop=loop), here()),
        ]
        async with asyncio.TaskGroup() as group:
            made.append((group.create_task(wait()), here()))
            await asyncio.sleep(0)
            for task, site in made:
                assert _core.task_created_at(task) == site
            await ended(*[task for task, _ in made])

    run(make, main())


def test_what_asyncio_makes_for_its_caller() -> None:
    async def main() -> None:
        before, site = asyncio.all_tasks(), (here()[0], here()[1] + 1, here()[2])
        both: Any = asyncio.gather(wait(), wait())
        assert children(before) == {site}
        await ended(both)

        async def waits_for() -> None:
            site = (here()[0], here()[1] + 1, here()[2])
            await asyncio.wait_for(shielded(site), 60)

        async def shielded(site: tuple[str, int, str]) -> None:
            if sys.version_info < (3, 12):  # from then on in the caller's own task
                assert _core.task_created_at(current()) == site
            await asyncio.shield(asyncio.sleep(0))

        def current() -> asyncio.Task[Any]:
            task = asyncio.current_task()
            assert task is not None
            return task

        await waits_for()

    run(make, main())


def test_run_is_where_the_main_task_was_made() -> None:
    async def main() -> tuple[str, int, str] | None:
        task = asyncio.current_task()
        assert task is not None
        return _core.task_created_at(task)

    site = (here()[0], here()[1] + 1, here()[2])
    assert asyncio.Runner(loop_factory=make).run(main()) == site


def test_who_runs_the_loop_has_not_made_it() -> None:
    """A task that is made by C or asyncio alone, from within the loop."""

    async def main() -> None:
        loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
        loop.call_soon(loop.create_task, wait())
        await asyncio.sleep(0)
        assert children(before) == {None}
        await ended(*(asyncio.all_tasks() - before))
        sites: list[Any] = []

        async def connected(reader: Any, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            sites.append(_core.task_created_at(task))
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: sites, "a connection")
        (name, line, function), = sites
        assert name == sys.modules["asyncio.streams"].__file__ and line > 0
        assert function == "StreamReaderProtocol.connection_made"
        writer.close()
        server.close()
        await server.wait_closed()

    run(make, main())


def test_factories_and_subclasses(loop: Any) -> None:
    class Task(_core.Task):  # type: ignore[type-arg]
        pass

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        made.append(here())
        return Task(coro, loop=loop, **kwargs)

    made: list[Any] = []

    async def main() -> None:
        loop.set_task_factory(factory)
        task = asyncio.create_task(wait())
        loop.set_task_factory(None)
        (name, line, function), = made
        assert _core.task_created_at(task) == (name, line + 1, function)
        await ended(task)
        if sys.version_info >= (3, 12):
            eager: Any = asyncio.create_eager_task_factory(_core.Task)  # type: ignore[attr-defined]
            loop.set_task_factory(eager)
            task, site = asyncio.create_task(nothing()), here()
            assert task.done() and _core.task_created_at(task) == site
            loop.set_task_factory(None)

    loop.run_until_complete(main())


def test_a_recycled_task_has_its_own_site() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            task, site = loop.create_task(nothing()), here()
            assert _core.task_created_at(task) == site
            await task
            assert _core.task_created_at(task) == site
            del task
            other, site = asyncio.create_task(nothing()), here()
            assert _core.task_created_at(other) == site
            await other
            del other

    run(make, main())


def test_many_files() -> None:
    """More than are remembered, some with asyncio's and taut's names, in part."""
    source = "\n\ndef spawn(loop, coro):\n    return loop.create_task(coro)\n"
    inner = [module.__file__ or "" for module in (sys.modules["asyncio.tasks"], taut)]
    names = [f"/nowhere/{n}.py" for n in range(300)]
    names += [name.replace(".py", ".txt")[1:] for name in inner]
    names += ["", "asyncio/x.py", "t\xe4\u20ac"]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            for name in names:
                scope: dict[str, Any] = {}
                exec(compile(source, name, "exec"), scope)
                task = scope["spawn"](loop, nothing())
                assert _core.task_created_at(task) == (name, 4, "spawn")
                await task
        for name in inner:
            scope = {}
            exec(compile(source, name, "exec"), scope)
            task, site = scope["spawn"](loop, nothing()), here()
            assert _core.task_created_at(task) == site
            await task

    run(make, main())


def test_the_code_goes_with_the_task() -> None:
    async def main() -> None:
        scope: dict[str, Any] = {}
        exec(compile("def spawn(loop, coro): return loop.create_task(coro)", "x", "exec"), scope)
        gone = weakref.ref(scope["spawn"].__code__)
        task = scope["spawn"](asyncio.get_running_loop(), nothing())
        scope.clear()
        await task
        gc.collect()
        assert _core.task_created_at(task) == ("x", 1, "spawn")
        assert gone() is not None
        del task
        await asyncio.sleep(0)  # the step that waited for the task has ended
        assert gone() is None

    run(make, main())


def test_made_in_a_thread(loop: Any) -> None:
    made: list[Any] = []

    def body() -> None:
        made.append((loop.create_task(nothing()), here()))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    (task, site), = made
    assert _core.task_created_at(task) == site
    loop.run_until_complete(task)


def test_what_is_not_ours() -> None:
    async def main() -> None:
        task: Any = asyncio.Task(nothing())
        assert type(task) is asyncio.Task and _core.task_created_at(task) is None
        await task
        unmade: Any = _core.Task.__new__(_core.Task)
        assert _core.task_created_at(unmade) is None
        for wrong in (None, nothing, asyncio.get_running_loop().create_future()):
            for ask in (_core.task_created_at, _core.task_awaited):
                with pytest.raises(TypeError, match=r"task must be an asyncio\.Task, not"):
                    ask(wrong)  # type: ignore[arg-type]

    run(make, main())
    for wrong in (((1,), (), ()), ((), (1,), ()), ("x", (), ()), ((), ("x",), 3)):
        with pytest.raises(TypeError):
            _core.task_sites_enable(*wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("tasks", ["own", "stdlib"])
def test_what_a_task_waits_for(tasks: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def inner() -> None:
            await future

        async def outer(task: asyncio.Task[None]) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await task

        first = asyncio.create_task(inner())
        assert _core.task_awaited(first) == []
        second = asyncio.create_task(outer(first))
        both = asyncio.create_task(outer(second))
        await asyncio.sleep(0)
        assert _core.task_awaited(first) == [future]
        assert _core.task_awaited(second) == [first, future]
        assert _core.task_awaited(both) == [second, first, future]
        future.set_result(None)
        await both
        assert _core.task_awaited(both) == []
        yielding = asyncio.create_task(asyncio.sleep(0))
        await asyncio.sleep(0)
        assert _core.task_awaited(yielding) == []
        await yielding

    run(lambda: taut.new_event_loop(tasks=tasks), main())


def test_tasks_that_wait_for_each_other(loop: Any) -> None:
    tasks: list[Any] = []

    async def link(n: int) -> None:
        await tasks[n]

    tasks += [loop.create_task(link(n)) for n in (1, 2, 0, 0)]
    loop.run_until_complete(asyncio.sleep(0))
    first, second, third, outside = tasks
    assert _core.task_awaited(first) == [second, third]
    assert _core.task_awaited(outside) == [first, second, third]
    for task in tasks:  # nothing can end them: cancel() would go round in circles
        task._log_destroy_pending = False
        task.get_coro().close()


def test_a_long_chain() -> None:
    async def main() -> None:
        async def link(task: asyncio.Task[Any] | None) -> None:
            await (task or asyncio.sleep(60))

        tasks: list[asyncio.Task[Any]] = []
        for _ in range(1100):
            tasks.append(asyncio.create_task(link(tasks[-1] if tasks else None)))
        await asyncio.sleep(0)
        assert _core.task_awaited(tasks[99])[:99] == tasks[98::-1]
        assert len(_core.task_awaited(tasks[-1])) == 1000  # no more than that
        await ended(tasks[0])
        await asyncio.wait(tasks)

    run(make, main())
