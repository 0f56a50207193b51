"""Tasks that wait for each other, for what nobody can bring any more, or that nobody keeps.

Each wait is looked at once, when it has lasted for two seconds. Who holds a lock is read from the
suspended frames: `async with lock:` keeps the bound `__aexit__` on the frame's stack until its body
is left. Nothing is read through `f_locals`, which would keep what it has shown alive, and no code
of the user's is called: objects are looked at by their type alone.
"""

from __future__ import annotations

import asyncio
import asyncio.locks
import asyncio.queues
import contextlib
import gc
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from time import perf_counter
from types import MethodType
from typing import Any, NamedTuple

from taut import _core
from taut._notices import notice

from . import _blame
from ._hooks import add, name_of, stack_lines, subject_of

__all__ = ["Examiner", "examine"]

_SLICE_S = 0.001
_KNOWN_MAX = 4096
_AGAIN_MAX = 64
_CYCLE_MAX = 32
_PAUSE_S = 0.05

_LOCKS = (asyncio.Lock, asyncio.Semaphore, asyncio.Condition)
_ENTER, _EXIT = (getattr(asyncio.Lock, name) for name in ("__aenter__", "__aexit__"))
_ACQUIRES = {asyncio.Lock.acquire.__code__, asyncio.Semaphore.acquire.__code__}
_GROUP_ENDS = {
    getattr(asyncio.TaskGroup, name).__code__
    for name in ("__aexit__", "_aexit")  # the latter from 3.14 on
    if hasattr(asyncio.TaskGroup, name)
}
_PRIMITIVES = _ACQUIRES | {
    asyncio.Event.wait.__code__, asyncio.Condition.wait.__code__, asyncio.Queue.get.__code__,
    asyncio.Queue.put.__code__, asyncio.Queue.join.__code__,
}  # fmt: skip

# Whatever is awaited is referred to by the await itself, through these.
_OF_THE_AWAIT = {"FutureIter", "async_generator", "coroutine", "frame", "function", "generator"}
# Scopes that end what they hold, and managers within which such a scope may be.
_SCOPES = {"CancelScope", "Timeout"}
_MANAGERS = (contextlib._GeneratorContextManager, contextlib._AsyncGeneratorContextManager)


class _Wait(NamedTuple):
    """What a waiting task needs and has: ids, so that nothing is kept alive."""

    task: weakref.ref[Any]
    needs: tuple[int, ...]  # ids of tasks and of locks
    holds: tuple[int, ...]  # ids of locks


def _subject(coro: Any) -> Any:
    """The primitive whose method this suspended coroutine is; None when it is none."""
    kinds = (*_LOCKS, asyncio.Event, asyncio.Queue)
    return next((r for r in gc.get_referents(coro) if issubclass(type(r), kinds)), None)


def _lock_of(subject: Any) -> Any:
    """A condition is its lock."""
    return vars(subject)["_lock"] if issubclass(type(subject), asyncio.Condition) else subject


def _is_exclusive(lock: Any) -> bool:
    """Whether whoever holds it is the only one who can let others in."""
    if isinstance(lock, asyncio.Semaphore):
        return getattr(lock, "_bound_value", 0) == 1
    return isinstance(lock, asyncio.Lock)


def _held_by(coros: list[Any]) -> Iterator[Any]:
    """The locks that these coroutines, each of which awaits the next, are within."""
    for i, coro in enumerate(coros):
        awaited = coros[i + 1] if i + 1 < len(coros) else None
        entering = getattr(awaited, "cr_code", None) is _ENTER.__code__
        being_entered = _subject(awaited) if entering else None
        refs = gc.get_referents(coro)
        for at, ref in enumerate(refs):
            lock = None
            if type(ref) is MethodType and ref.__func__.__code__ is _EXIT.__code__:
                lock = ref.__self__
            elif ref is _EXIT and at + 1 < len(refs):
                lock = refs[at + 1]  # from 3.14 on function and object are apart
            if issubclass(type(lock), _LOCKS) and lock is not being_entered:
                yield _lock_of(lock)


def _needed_by(task: Any, coros: list[Any]) -> list[Any]:
    """Tasks and locks without each of which this task cannot go on."""
    waiter = task._fut_waiter
    if isinstance(waiter, asyncio.Task):
        return [waiter]
    if isinstance(waiter, asyncio.tasks._GatheringFuture):  # type: ignore[attr-defined]
        return [one for one in waiter._children if not one.done()]
    inner = coros[-1] if coros else None
    code = getattr(inner, "cr_code", None)
    if code in _ACQUIRES:
        lock = _subject(inner)
        return [lock] if _is_exclusive(lock) else []
    if code in _GROUP_ENDS:
        group = next((r for r in gc.get_referents(inner) if isinstance(r, asyncio.TaskGroup)), None)
        return [one for one in getattr(group, "_tasks", ()) if not one.done()]
    return []


def _coros(task: Any) -> list[Any]:
    return [one for one in _blame.awaits(task.get_coro()) if _blame.frame_of(one) is not None]


def _is_main(task: Any) -> bool:
    """Whether run_until_complete() waits for it: such tasks like to wait for ever."""
    return any(
        getattr(callback, "__name__", "") == "_run_until_complete_cb"
        for callback, _ in task._callbacks or ()
    )


def _is_named(thing: Any, coros: list[Any]) -> bool:
    """Whether the user's code has a name for it: `await asyncio.Future()` means for ever."""
    for coro in coros:
        frame = _blame.frame_of(coro)
        if frame is None or _blame.is_library(frame.f_code.co_filename):
            continue
        near = gc.get_referents(coro)
        if any(one is thing for one in near):
            return True
        mine = [one for one in near if type(one).__name__ not in _OF_THE_AWAIT]
        if any(thing is far for one in mine for far in _insides(one)):
            return True
    return False


def _awaited_by(task: Any, coros: list[Any]) -> Any:
    """The primitive, or the future of the user's code, that a task waits at; None: a library's own
    future, which knows who brings its result."""
    frame = _blame.frame_of(coros[-1]) if coros else None
    if frame is None:
        return None
    if frame.f_code in _PRIMITIVES:
        return _subject(coros[-1])
    return None if _blame.is_library(frame.f_code.co_filename) else task._fut_waiter


def _may_be_lost(task: Any) -> bool:
    """Whether it is worth while to ask who else could wake it."""
    if isinstance(task._fut_waiter, asyncio.Task) or _is_main(task):
        return False
    coros = _coros(task)
    subject = _awaited_by(task, coros)
    return subject is not None and _is_named(subject, coros) and not _is_bounded(task, coros)


def _is_bounded(task: Any, coros: list[Any]) -> bool:
    """Whether the wait ends by itself, in a timeout's scope."""
    # Up to 3.11 wait_for() has made the task, and waits for it.
    names = (getattr(getattr(c, "func", c), "__name__", "") for c, _ in task._callbacks or ())
    if "_release_waiter" in names:
        return True
    for coro in coros:
        for ref in gc.get_referents(coro):
            owner = ref.__self__ if type(ref) is MethodType else ref
            owners = [owner]
            if type(owner) in _MANAGERS:  # of @contextmanager, as anyio.fail_after() is
                owners = gc.get_referents(vars(owner)["gen"])
            if any(type(one).__name__ in _SCOPES for one in owners):
                return True
    return False


def _insides(one: Any) -> Iterator[Any]:
    for inside in gc.get_referents(one)[:100]:
        yield inside
        if isinstance(inside, (dict, list, deque, set)):
            yield from gc.get_referents(inside)[:1000]


class Examiner:
    """Looks at the waiting tasks of one loop, a little at a time."""

    def __init__(self) -> None:
        self._known: dict[int, _Wait] = {}  # by the task's id
        self._holders: dict[int, int] = {}  # id of a lock: of the task that is within it
        self._todo: deque[weakref.ref[Any]] = deque()
        self._unkept: deque[weakref.ref[Any]] = deque(maxlen=_KNOWN_MAX)
        self._again: deque[tuple[weakref.ref[Any], int]] = deque(maxlen=_AGAIN_MAX)
        self._ongoing: list[tuple[int, weakref.ref[Any], int]] = []

    def examine(self, began: Iterable[Any]) -> bool:
        """Look at tasks, `began` among them, whose wait has become long enough; for a millisecond.

        Returns whether there is more to do.
        """
        end = perf_counter() + _SLICE_S
        while self._unkept and perf_counter() < end:
            ref = self._unkept.popleft()
            if _core.task_is_unkept(ref):
                self._tell_unkept(ref())
        for task in began:
            self._todo.append(weakref.ref(task))
            self._unkept.append(self._todo[-1])  # for the next time: now the caller has them
        self._see_what_is_over()
        if self._again:
            ref, waiter = self._again.popleft()
            task = ref()
            if task is not None and id(task._fut_waiter) == waiter:
                self._look_if_lost(task)
        while self._todo and perf_counter() < end:
            task = self._todo.popleft()()
            if task is not None and task._fut_waiter is not None and not task.done():
                self._look(task)
        return bool(self._todo or self._unkept)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to see even if no further wait has become long."""
        return bool(self._todo or self._again or self._ongoing)

    # ---- deadlocks ------------------------------------------------------------------------------

    def _look(self, task: Any) -> None:
        wait = self._note(task)
        if wait.needs:
            cycle = self._cycle_from(id(task))
            if cycle:
                self._tell_deadlock(cycle)
                return
        self._look_if_lost(task)

    def _note(self, task: Any) -> _Wait:
        coros = _coros(task)
        needs = tuple(id(one) for one in _needed_by(task, coros))
        holds = tuple(id(one) for one in _held_by(coros))
        wait = _Wait(weakref.ref(task), needs, holds)
        if len(self._known) >= _KNOWN_MAX:
            self._known = {
                key: one for key, one in self._known.items()
                if (other := one.task()) is not None and other._fut_waiter is not None
            }  # fmt: skip
        if len(self._known) < _KNOWN_MAX and (needs or holds):
            self._known[id(task)] = wait
            self._holders.update(dict.fromkeys(holds, id(task)))
        if len(self._holders) > _KNOWN_MAX:
            self._holders.clear()
        return wait

    def _cycle_from(self, start: int) -> list[Any]:
        """The tasks that need each other in a ring, from `start` on; empty when there is none."""
        path: list[int] = []
        seen: set[int] = set()

        def search(key: int) -> bool:
            if key in seen or len(path) >= _CYCLE_MAX:
                return False
            wait = self._known.get(key)
            task = wait.task() if wait is not None else None
            if task is None or task._fut_waiter is None:
                return False
            seen.add(key)
            path.append(key)
            wait = self._note(task)  # as it stands now
            for need in wait.needs:
                holder = self._holders.get(need, need)
                if holder == start or search(holder):
                    return True
            path.pop()
            return False

        if not search(start):
            return []
        tasks = [self._known[key].task() for key in path]
        return [] if None in tasks else tasks

    def _tell_deadlock(self, cycle: list[Any]) -> None:
        places = [_blame.innermost(_blame.waits_at(task)) for task in cycle]
        first = min(range(len(cycle)), key=lambda i: str(places[i]))
        cycle, places = cycle[first:] + cycle[:first], places[first:] + places[:first]
        names = [name_of(task) for task in cycle]
        evidence = []
        for i, task in enumerate(cycle):
            needs = _needed_by(task, _coros(task))
            what = "a lock" if needs and isinstance(needs[0], _LOCKS) else "a result"
            title = f"{names[i]} waits for {what} of {names[(i + 1) % len(names)]}"
            evidence += stack_lines(_blame.waits_at(task), title)
        is_locks = any("a lock" in line for line in evidence)
        remedy = (
            "Take the locks in one order everywhere, `async with first, second:`, or let one lock "
            "guard both; where that cannot be, bound the wait: `async with asyncio.timeout(5):`."
            if is_locks
            else "Let only one of them await the other, and hand what both need over through a "
            "future or a queue that a third one fills."
        )
        number = add(
            "deadlock", places[0],
            f"{len(cycle)} tasks wait for each other and none can go on: {', '.join(names[:8])}.",
            remedy, evidence, "ongoing",
        )
        self._lasts(number, cycle[0])

    # ---- lost wake-ups --------------------------------------------------------------------------

    def _look_if_lost(self, task: Any) -> None:
        if not _may_be_lost(task):
            return
        if _core.task_is_lost(task):  # to which any reference of ours would be somebody's
            self._tell_lost(task)
        else:
            self._again.append((weakref.ref(task), id(task._fut_waiter)))

    def _tell_lost(self, task: Any) -> None:
        subject = _awaited_by(task, _coros(task))
        waits = _blame.waits_at(task)
        made = _blame.created_at(task)
        number = add(
            "lost-wakeup", _blame.innermost(waits),
            f"{subject_of(task)} waits for what nobody can bring any more: no one but "
            f"its own frames refers to the {type(subject).__name__} that it awaits.",
            "Complete the future wherever its last holder lets go of it: `if not future.done(): "
            "future.set_exception(ConnectionError())`, and bound the wait: `async with "
            "asyncio.timeout(5): await future`.",
            [
                f"awaited: {_blame.text(subject)}",
                *([f"created at {made}"] if made else []),
                *stack_lines(waits, "it waits at"),
            ],
            "ongoing",
        )
        self._lasts(number, task)

    # ---- tasks that nobody keeps -----------------------------------------------------------------

    def _tell_unkept(self, task: Any) -> None:
        if task is None:
            return
        made = _blame.created_at(task)
        waits = _blame.waits_at(task)
        inner = _blame.innermost(waits)
        place = inner if made is None or (_blame.is_library(made.file) and inner) else made
        number = add(
            "task-unreferenced", place,
            f"{subject_of(task)} is kept by nobody while it waits: only weak references lead to "
            "what it waits for, and the next run of the garbage collector may take both.",
            "Keep the task until it is done: `tasks.add(task); "
            "task.add_done_callback(tasks.discard)`, or start it in a group that does: `async with "
            "asyncio.TaskGroup() as group: group.create_task(work())`.",
            [
                *([f"created at {made}"] if made else []),
                *stack_lines(waits, "it waits at"),
            ],
            "ongoing",
        )
        self._lasts(number, task)

    # ---- until they are over --------------------------------------------------------------------

    def _lasts(self, number: int, task: Any) -> None:
        self._ongoing.append((number, weakref.ref(task), id(task._fut_waiter)))
        del self._ongoing[:-_KNOWN_MAX]

    def _see_what_is_over(self) -> None:
        lasting = []
        for number, ref, waiter in self._ongoing:
            task = ref()
            if task is not None and not task.done() and id(task._fut_waiter) == waiter:
                lasting.append((number, ref, waiter))
            else:
                _core.finding_update(number, None, "over")
        self._ongoing = lasting


_examiners: weakref.WeakKeyDictionary[Any, Examiner] = weakref.WeakKeyDictionary()


def examine(loop: Any, began: Iterable[Any]) -> int:
    """Part of an examination of `loop`, on its thread: `began` are tasks whose wait has become
    long. Returns 1 if it is to be called at the next one in any case, else 0."""
    examiner = _examiners.get(loop)
    if examiner is None:
        examiner = _examiners[loop] = Examiner()
    if examiner.examine(began):
        loop.call_later(_PAUSE_S, notice, "waits_long", loop, ())
    return int(examiner.is_busy)
