"""What asyncio knows of tasks from Python 3.14 on: its lists, the current task of a thread, who
awaits whom, and what `python -m asyncio ps` shows of another process. Ours look as asyncio's."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import taut
from loops import DEADLINE_S, Factory, run
from programs import Service
from taut import _core

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio has it from 3.14 on")


@pytest.fixture(params=["own", "stdlib"])
def make(request: Any) -> Factory:
    return lambda: taut.new_event_loop(tasks=request.param)


def forget(task: Any) -> None:
    """It will never run, and nobody shall hear of it."""
    task._log_destroy_pending = False
    task.get_coro().close()


PROGRAM = """
import asyncio

async def leaf(event):
    await event.wait()

async def branch(event):
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(event), name="leaf-1")
        group.create_task(leaf(event), name="leaf-2")

async def gathered(event):
    await asyncio.gather(leaf(event), leaf(event))

async def main():
    event = asyncio.Event()
    trunk = asyncio.create_task(branch(event), name="trunk")
    waits = asyncio.create_task(gathered(event), name="gathers")
    unnamed = asyncio.create_task(leaf(event))
    await asyncio.sleep(0.01)
    print("ready", type(trunk).__module__, flush=True)
    await trunk

import taut
taut.run(main())
"""


def look(tool: str, pid: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "asyncio", tool, str(pid)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    # Ids are addresses; the order of what waits for one thing is that of a set.
    text = re.sub(r"0x[0-9a-f]+", "0x", done.stdout)
    text = re.sub(rf"\b{pid}\b", "PID", text)
    return done.returncode, "\n".join(sorted(re.sub(r"[│├└─\s]+", " ", text).splitlines()))


def test_what_the_tools_show_of_another_process(tmp_path: Path) -> None:
    seen = {}
    (tmp_path / "program.py").write_text(PROGRAM)
    for kind, module in (("stdlib", "_asyncio"), ("own", "taut._core")):
        with Service("program.py", cwd=tmp_path, TAUT_TASKS=kind) as service:
            service.wait_for(lambda text: f"ready {module}" in text, "the start")  # noqa: B023
            seen[kind] = {tool: look(tool, service.process.pid) for tool in ("ps", "pstree")}
    if seen["stdlib"]["ps"][0] != 0:
        pytest.skip("another process cannot be read here: " + seen["stdlib"]["ps"][1])
    assert seen["own"] == seen["stdlib"]
    for tool, (_, text) in seen["own"].items():
        for name in ("trunk", "gathers", "leaf-1", "leaf-2", "Task-"):
            assert name in text, tool


def test_the_call_graph(make: Factory) -> None:
    def shape(graph: Any) -> Any:
        if graph is None:
            return None
        names = [entry.frame.f_code.co_name for entry in graph.call_stack]
        return names, [shape(by) for by in graph.awaited_by]

    async def main() -> None:
        event = asyncio.Event()

        async def leaf() -> Any:
            await event.wait()
            return shape(asyncio.capture_call_graph(limit=5))  # type: ignore[attr-defined]

        async def branch() -> Any:
            return await asyncio.create_task(leaf())

        task = asyncio.create_task(branch())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waits = shape(asyncio.capture_call_graph(task))  # type: ignore[attr-defined]
        assert waits == (["branch"], [])
        event.set()
        names, by = await task
        assert names[-1] == "leaf" and by == [(["branch"], [(["main", "wait_for", "bounded"], [])])]

    run(make, main())


def test_who_awaits_a_future(make: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def wait(future: Any) -> None:
            await future

        class Other(asyncio.Future):  # type: ignore[type-arg]
            pass

        for future in (loop.create_future(), asyncio.Future(), Other()):
            known: Any = future
            tasks: list[Any] = [asyncio.ensure_future(wait(known)) for _ in range(3)]
            assert known._asyncio_awaited_by is None
            await asyncio.sleep(0)
            assert known._asyncio_awaited_by == set(tasks)
            known.set_result(None)
            assert known._asyncio_awaited_by == set(tasks)
            await asyncio.wait(tasks)
            assert not known._asyncio_awaited_by
            tasks = [asyncio.ensure_future(wait(tasks[0]))]  # done already: nobody is left in it
            await asyncio.wait(tasks)
        one: Any = loop.create_future()
        task = asyncio.ensure_future(wait(one))
        await asyncio.sleep(0)
        assert one._asyncio_awaited_by == {task}
        task.cancel()
        await asyncio.wait([task])
        assert one.cancelled() and not one._asyncio_awaited_by

    run(make, main())


def test_tasks_of_a_thread_that_is_gone(make: Factory) -> None:
    loops: list[Any] = []
    tasks: list[Any] = []

    def work() -> None:
        loop = make()
        loops.append(loop)
        tasks.extend(loop.create_task(asyncio.sleep(0)) for _ in range(3))
        loop.run_until_complete(tasks[1])
        tasks.append(loop.create_task(asyncio.sleep(3600)))
        loop.run_until_complete(asyncio.sleep(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    loop = loops[0]
    assert asyncio.all_tasks(loop) == {task for task in tasks if not task.done()} == {tasks[3]}
    if isinstance(tasks[3], _core.Task):
        assert _core.live_tasks() == [tasks[3]]
    # Here it goes on, in this thread.
    tasks[3].cancel()
    loop.run_until_complete(asyncio.wait([tasks[3]]))
    assert tasks[3].cancelled() and not asyncio.all_tasks(loop)
    pending = loop.create_task(asyncio.sleep(0))
    thread = threading.Thread(target=lambda: tasks.append(loop.create_task(asyncio.sleep(0))))
    thread.start()
    thread.join()
    assert asyncio.all_tasks(loop) == {pending, tasks[4]}
    for task in (pending, tasks.pop()):
        forget(task)
    del task, pending
    loop.close()
    gc.collect()
    assert not asyncio.all_tasks(loop)


def test_the_current_task_seen_by_another_thread(make: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        inside, outside = threading.Event(), threading.Event()
        seen: list[Any] = []

        def watch() -> None:
            assert inside.wait(DEADLINE_S)
            seen.append(asyncio.current_task(loop))
            outside.set()

        def plain() -> None:
            seen.append(asyncio.current_task(loop))

        thread = threading.Thread(target=watch)
        thread.start()
        inside.set()
        assert outside.wait(DEADLINE_S)
        thread.join()
        loop.call_soon(plain)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert seen == [asyncio.current_task(), None]

    run(make, main())


def test_a_task_within_another_ones_step(make: Factory) -> None:
    """A thread has one current task: another loop's may not run in the midst of a step."""

    async def outer() -> None:
        inner: Any = make()

        async def nothing() -> None:
            pass

        reports: list[Any] = []
        inner.set_exception_handler(lambda _, context: (reports.append(context), inner.stop()))
        task = inner.create_task(nothing())
        mine = asyncio.current_task()
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        try:
            inner.run_forever()
        finally:
            asyncio._set_running_loop(loop)
        assert "Cannot enter into task" in str(reports[0]["exception"]) and not task.done()
        assert asyncio.current_task() is mine
        forget(task)
        inner.close()

    run(make, outer())
