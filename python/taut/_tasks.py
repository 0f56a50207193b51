"""Futures and tasks of taut's own: whether this Python is known, and how asyncio lists them."""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.tasks
import contextlib
import contextvars
import itertools
import os
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

from . import _core


class _Loop:
    """Stands in for a loop: it keeps what is called soon."""

    def __init__(self, debug: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.debug = debug

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
        self.calls.append((callback, *args))

    def get_debug(self) -> bool:
        return self.debug


@contextlib.contextmanager
def _running(loop: Any) -> Iterator[None]:
    """From 3.14 on a step is refused unless its loop runs, and a thread has one current task."""
    if sys.version_info < (3, 14):
        yield
        return
    tasks: Any = asyncio.tasks
    loop_before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    task_before = tasks._swap_current_task(loop, None)
    try:
        yield
    finally:
        tasks._swap_current_task(loop, task_before)
        asyncio._set_running_loop(loop_before)


def _holds(one: Any, **fields: Any) -> bool:
    """Whether a future or task has these values where src/binding/task.h says."""
    return all(_core.task_field_is(one, name, value) for name, value in fields.items())


def _futures_known() -> bool:
    loop: Any = _Loop(debug=True)
    context, callback, value, error = contextvars.Context(), print, object(), LookupError()
    pending: Any = asyncio.Future(loop=loop)
    known = _holds(pending, loop=loop, state=0, callback0=None, callbacks=0, blocking=0,
                   result=None, exception=None, cancelled_exc=None,
                   source_tb=pending._source_traceback)
    for _ in range(3):
        pending.add_done_callback(callback, context=context)
    pending._asyncio_future_blocking = True
    known &= _holds(pending, callback0=callback, context0=context, callbacks=2, blocking=1)
    done: Any = asyncio.Future(loop=loop)
    done.set_result(value)
    known &= _holds(done, state=2, result=value, log_tb=0)
    failed: Any = asyncio.Future(loop=loop)
    try:
        raise error
    except LookupError:
        failed.set_exception(error)
    known &= _holds(failed, state=2, exception=error, exception_tb=error.__traceback__, log_tb=1)
    failed._log_traceback = False
    known &= _holds(failed, log_tb=0)
    cancelled: Any = asyncio.Future(loop=loop)
    cancelled.cancel("a message")
    return known and _holds(cancelled, state=1, cancel_msg=cancelled._cancel_message)


def _tasks_known(loop: Any) -> bool:
    context, error = contextvars.Context(), asyncio.CancelledError()
    waited: Any = asyncio.Future(loop=loop)

    async def wait() -> None:
        await waited

    async def be_cancelled() -> None:
        raise error

    coro, unstarted = wait(), wait()  # all named: the program's first task is Task-1
    task: Any = asyncio.Task(coro, loop=loop, name="waits", context=context)
    known = _holds(task, loop=loop, state=0, coro=coro, name="waits", context=context, waiter=None,
                   must_cancel=0, cancel_requested=0, log_destroy_pending=1)
    if sys.version_info >= (3, 14):
        known &= _registers_known(loop, task)
    loop.calls.pop()[0]()
    known &= _holds(task, waiter=waited)
    fresh: Any = asyncio.Task(unstarted, loop=loop, name="is cancelled")
    fresh.cancel()
    fresh.cancel()
    known &= _holds(fresh, must_cancel=1, cancel_requested=2, coro=unstarted)
    ended: Any = asyncio.Task(be_cancelled(), loop=loop, name="ends")
    loop.calls.pop()[0]()
    known &= _holds(ended, state=1, cancelled_exc=error)
    for one in (task, fresh):
        one._log_destroy_pending = False
        known &= _holds(one, log_destroy_pending=0)
        one.get_coro().close()
    loop.calls.clear()  # they refer to the tasks, which from 3.14 on the thread would list
    return known


def _registers_known(loop: Any, task: Any) -> bool:
    """From 3.14 on: how the newest task and the thread know each other, and who awaits whom."""
    aio: Any = asyncio
    awaited: Any = asyncio.Future(loop=loop)
    known = _holds(task, is_task=1, listed=1, current=0)
    aio.tasks._enter_task(loop, task)
    known &= _holds(task, current=1)
    aio.tasks._leave_task(loop, task)
    known &= _holds(awaited, is_task=0, awaited_by=None, awaited_by_is_set=0)
    aio.future_add_to_awaited_by(awaited, task)
    known &= _holds(awaited, awaited_by=task, awaited_by_is_set=0)
    aio.future_add_to_awaited_by(awaited, asyncio.Future(loop=loop))
    known &= _holds(awaited, awaited_by_is_set=1)
    aio.tasks._unregister_task(task)
    return known and _holds(task, listed=0)


class _AllTasks:
    """In the place of the set that asyncio.all_tasks() goes through: it and the tasks of taut's
    own, which keep a list of themselves. What is added or discarded is the set's."""

    def __init__(self, others: Any) -> None:
        self._others = others

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(list(self._others), _core.live_tasks())

    def __len__(self) -> int:
        return len(self._others) + len(_core.live_tasks())

    def __contains__(self, task: object) -> bool:
        return task in self._others or task in _core.live_tasks()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)


def _known() -> bool:
    loop = _Loop()
    with _running(loop):
        return _futures_known() and _tasks_known(loop)


def _note_sites(runner: CodeType) -> None:
    """Let tasks note which code has made them: the innermost that is neither asyncio's nor taut's,
    within what the loop runs."""
    files = (asyncio.tasks.create_task.__code__.co_filename, enable.__code__.co_filename)
    dirs = tuple(os.path.join(os.path.dirname(name), "") for name in files)
    others = asyncio.base_events.BaseEventLoop.run_forever.__code__
    libraries = (os.path.join(os.path.dirname(os.__file__), ""), "<frozen ")
    _core.task_sites_enable(dirs, libraries, (runner, others))


def enable(runner: CodeType) -> bool:
    """Let loops make tasks and futures of taut's own, where this Python's are known. `runner` is
    the code of the method that runs a loop."""
    wanted = os.environ.get("TAUT_TASKS") or "own"
    if wanted not in ("own", "stdlib"):
        raise ImportError(f"TAUT_TASKS must be 'own' or 'stdlib', not {wanted!r}")
    if not (_core.tasks_known() and _known()):
        return False
    _note_sites(runner)
    if sys.version_info >= (3, 14):  # where asyncio's list has them as they are
        _core.tasks_enable(wanted == "own")
        return True
    for name in ("_scheduled_tasks", "_all_tasks"):
        if hasattr(asyncio.tasks, name):
            setattr(asyncio.tasks, name, _AllTasks(getattr(asyncio.tasks, name)))
            _core.tasks_enable(wanted == "own")
            return True
    return False
