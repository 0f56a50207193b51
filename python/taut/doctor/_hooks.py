"""What events mean: each that taut._notices passes on becomes a finding here, or nothing."""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from types import CodeType
from typing import Any

from taut import _core

from . import _blame
from ._blame import Place

__all__ = ["told"]


def add(
    code: str, place: Place | None, cause: str, remedy: str, evidence: list[str],
    state: str = "seen",
) -> int:
    """Adds a finding that blames `place`, if there is one. Returns its id."""
    file, line, function = place if place is not None else ("", 0, "")
    return _core.finding_add(
        code, cause, remedy, file=file, line=line, function=function,
        evidence="\n".join(evidence), state=state,
    )


def name_of(task: Any) -> str:
    """How a task is called; of other futures, what they are."""
    get = getattr(task, "get_name", None)
    return f"task '{get()}'" if get is not None else type(task).__name__


def subject_of(task: Any) -> str:
    """The same at the beginning of a sentence."""
    name = name_of(task)
    return name[0].upper() + name[1:]


def stack_lines(places: list[Place], title: str) -> list[str]:
    """Evidence: a stack, innermost last, without what is asyncio's and taut's own above it."""
    return [title, *(f"  {place}" for place in places[-12:])] if places else []


def _of_stack(stack: Any) -> Place | None:
    """Whom to blame in a traceback.StackSummary: not who runs the loop."""
    places: list[Place] = []
    for f in stack:
        if f.name == "run_forever" and _blame.is_library(f.filename):
            places.clear()
        places.append(Place(f.filename, f.lineno or 0, f.name))
    return _blame.innermost(places)


# ---- exceptions that nobody asked for --------------------------------------------------------

_REMEDY_LOST = (
    "Await the task, or start it in a group that passes its exception on: `async with "
    "asyncio.TaskGroup() as group: group.create_task(work())`; a task that is to run by itself "
    "needs a callback: `task.add_done_callback(report)` where report() asks for task.exception()."
)
_REMEDY_LOST_FUTURE = (
    "Await the future, or ask for its exception: `future.add_done_callback(report)` where report() "
    "asks for future.exception()."
)
_TOLD_MAX = 256
_told: OrderedDict[int, None] = OrderedDict()  # ids of tasks whose finding was early


def _exception_lost(future: Any, exc: Any, how: str, state: str = "seen") -> int:
    raised = _blame.in_traceback(getattr(exc, "__traceback__", None))
    culprit = _blame.innermost(raised)
    made = _blame.created_at(future)
    if made is None and (stack := getattr(future, "_source_traceback", None)):
        made = _of_stack(stack)
    is_task = isinstance(future, asyncio.Task)
    # Tasks that a library makes of the user's code: the code says more than who started it.
    place = culprit if made is None or (_blame.is_library(made.file) and culprit) else made
    evidence = [f"exception: {_blame.text(exc)}"]
    if raised:
        evidence.append(f"raised at {culprit or raised[-1]}")
    if is_task and made is not None:
        evidence.append(f"{name_of(future)} was created at {made}")
    evidence.append(how)
    cause = (
        f"{subject_of(future)} failed with {type(exc).__name__}, and nobody has asked for its "
        "exception."
    )
    return add(
        "task-exception-lost", place, cause,
        _REMEDY_LOST if is_task else _REMEDY_LOST_FUTURE, evidence, state,
    )


def exception_kept(task: Any, exc: Any, seconds: float) -> int:
    """A task has failed a while ago, and is still there, its exception not asked for."""
    _told[id(task)] = None
    while len(_told) > _TOLD_MAX:
        _told.popitem(last=False)
    how = f"it failed {seconds:.1f} s ago; somebody keeps the task, so that asyncio says nothing"
    return _exception_lost(task, exc, how, "ongoing")


# ---- what asyncio and libraries tell the exception handler -------------------------------------


def _destroyed(task: Any) -> int:
    made = _blame.created_at(task)
    waits = _blame.waits_at(task)
    inner = _blame.innermost(waits)
    place = inner if made is None or (_blame.is_library(made.file) and inner) else made
    evidence = [f"{name_of(task)}: {_blame.text(task.get_coro())}"]
    if made is not None:
        evidence.append(f"created at {made}")
    evidence += stack_lines(waits, "it waited at")
    return add(
        "task-destroyed-pending", place,
        f"{subject_of(task)} was collected before it was done: nobody has kept a "
        "reference to it, or its loop was left.",
        "Keep the task until it is done: `tasks.add(task); task.add_done_callback(tasks.discard)`, "
        "or start it in a group that does: `async with asyncio.TaskGroup() as group: "
        "group.create_task(work())`.",
        evidence,
    )


def _unclosed_client(message: str, context: dict[str, Any]) -> int:
    stack = context.get("source_traceback")
    place, how = (_of_stack(stack), "it was made here") if stack else _dropped_at()
    evidence = [f"{k}: {_blame.text(v)}" for k, v in context.items() if k.startswith("c")]
    return add(
        "unclosed-resource", place,
        f"{message}: it was collected without having been closed, and kept its connections until "
        "then.",
        "Close it where it is made, best by `async with aiohttp.ClientSession() as session:`, and "
        "make one per program, not one per request.",
        [*evidence, how],
    )


def unclosed(resource: Any, kind: str, made: Any) -> int:
    """A transport or server of taut's is collected that was not closed; `made`: where it was made,
    a stack, or None."""
    place, how = _made_at(made)
    what = f"{type(resource).__name__}"
    return add(
        "unclosed-resource", place,
        f"A {kind} ({what}) was collected without having been closed: its file descriptor was "
        "open until now.",
        "Close it where it is no longer needed: `async with server:`, or `try: ... finally: "
        "writer.close(); await writer.wait_closed()`.",
        [f"object: {_blame.text(resource)}", how],
    )


def left_open(resource: Any, kind: str, made: Any) -> int:
    """A loop is closed, and with it the last chance to close this connection in order."""
    place, how = _made_at(made)
    return add(
        "unclosed-resource", place,
        f"A {kind} was open when its event loop was closed: nothing can use or close it any more, "
        "and the peer counts it until this process drops it.",
        "Close it before the loop ends: `try: ... finally: await connection.close()`, or `async "
        "with` where the library offers it.",
        [f"object: {_blame.text(resource)}", how],
    )


def _made_at(made: Any) -> tuple[Place | None, str]:
    place = Place(*made) if isinstance(made, tuple) else _of_stack(made) if made else None
    return place, "it was made here" if place else "where it was made is not known"


def _dropped_at() -> tuple[Place | None, str]:
    """The line that has dropped the last reference to what is being finalized, if one has."""
    if _core.in_gc():
        return None, "found by the garbage collector"
    place = None
    for frame in _blame.frames_of_caller():
        if _is_finalizer(frame.f_code):
            place = None
        elif place is None and not _blame.is_library(frame.f_code.co_filename):
            place = _blame.place(frame.f_code, frame.f_lineno)
    return place, "the last reference to it was dropped here" if place else "where is not known"


def context(message: str, context: dict[str, Any]) -> int:
    """One of the contexts that _notices.exception_context() lets through."""
    subject = context.get("task") or context.get("future")
    if message.endswith(" exception was never retrieved"):
        if _told.pop(id(subject), 0) is None:
            return 0  # it was told while somebody kept it
        return _exception_lost(subject, context.get("exception"), "it was collected since")
    if message.startswith("Task was destroyed"):
        return _destroyed(subject)
    return _unclosed_client(message, context)


# ---- coroutines and runs -----------------------------------------------------------------------


def unawaited(coro: Any, what: str | None, stack: Any) -> int:
    """A coroutine is collected that nobody has awaited; `what`: it is an operation of taut's, made
    at `stack` (None: not known)."""
    code = getattr(coro, "cr_code", None)
    origin = getattr(coro, "cr_origin", None)
    name = what or str(getattr(coro, "__qualname__", type(coro).__name__))
    if stack:
        place, how = _of_stack(stack), "it was created here"
    elif origin:
        place, how = Place(*origin[0]), "it was created here"
    else:
        place, how = _dropped_at()
    if place is None and code is not None:
        if _blame.is_library(code.co_filename):
            return 0  # no line of the user's is known to have to do with it
        place = _blame.place(code, code.co_firstlineno)
        how = "where it was called is not known: this is where it is defined"
    return add(
        "coroutine-never-awaited", place,
        f"The coroutine {name}() was called but never awaited: nothing of it has run.",
        f"Write `await {name.rpartition('.')[2]}(...)`, or start it as a task that is kept.",
        [how, *([f"defined at {_blame.place(code, code.co_firstlineno)}"] if code else [])],
    )


def nested_run(what: str) -> int:
    """asyncio.run() or its like was called while a loop runs in this thread."""
    stack = _blame.stack_of_caller()
    return add(
        "nested-run", _blame.innermost(stack),
        f"{what} was called in code that an event loop runs; it can only refuse.",
        "Await the coroutine: `await work()`; from a synchronous function that a coroutine calls, "
        "make the function a coroutine, or call it through `await asyncio.to_thread(function)`.",
        stack_lines(stack, "called at"),
    )


# ---- cancellation ------------------------------------------------------------------------------


def swallowed(task: Any, code: CodeType, line: int, seconds: float) -> int:
    """Code has caught the CancelledError that cancel() had thrown into a task, at the await in this
    line, and the task goes on."""
    if _blame.is_library(code.co_filename):
        return 0  # it knows what it does, and may do so without uncancel()
    caught = _blame.place(code, line)
    waits = _blame.waits_at(task)
    now = [place for place in waits if place[0::2] == caught[0::2]]
    return add(
        "cancellation-swallowed", now[-1] if now else caught,
        f"{subject_of(task)} was cancelled, caught the CancelledError and goes on: "
        "whoever waits for its end waits in vain.",
        "Catch `Exception`, which CancelledError is not, instead of `BaseException` or a bare "
        "`except:`; where clean-up is due, end it with `raise`: `except asyncio.CancelledError: "
        "await clean_up(); raise`.",
        [
            f"the CancelledError was raised in the await at {caught}",
            f"{name_of(task)} is still there after {seconds:.1f} s, and cancelling() is "
            f"{task.cancelling()}",
            *stack_lines(waits, "it waits at"),
        ],
    )


def cancellation_slow(task: Any, seconds: float) -> int:
    """A task was cancelled a while ago, and still handles that."""
    waits = _blame.waits_at(task)
    place = _blame.innermost(waits) or (waits[-1] if waits else None)
    made = _blame.created_at(task)
    return add(
        "cancellation-slow", place,
        f"{subject_of(task)} was cancelled {seconds:.1f} s ago and is not done yet: it "
        "cleans up.",
        "Bound what a cancelled task may still await: `async with asyncio.timeout(2): await "
        "clean_up()`.",
        [*([f"created at {made}"] if made else []), *stack_lines(waits, "it waits at")],
        "ongoing",
    )


# ---- finalizers ----------------------------------------------------------------------------------


def in_finalizer(what: str, subject: Any) -> int:
    """A task or a callback is made while something is finalized."""
    frames = list(_blame.frames_of_caller())
    last = next((i for i, f in enumerate(frames) if _is_finalizer(f.f_code)), None)
    if last is None:
        return 0
    is_threadsafe = what == "call_soon_threadsafe()"
    if is_threadsafe and not any(f.f_code in _THREADSAFE for f in frames[:last]):
        return 0  # which is how a finalizer may speak to a loop
    inside = [_blame.place(f.f_code, f.f_lineno) for f in frames[last::-1]]
    outside = [_blame.place(f.f_code, f.f_lineno) for f in frames[:last:-1]]
    place = _blame.innermost(inside)
    if place is None and what == "create_task()":
        place = inside[0]
    if place is None:
        return 0
    if is_threadsafe:
        what = "run_coroutine_threadsafe()"
    gc = _core.in_gc()
    when = "at whatever line the collector sets in" if gc else "wherever the last reference ends"
    return add(
        "task-in-finalizer", place,
        f"A finalizer calls {what}: it runs {when}, in no order, maybe while the loop is closing.",
        "Give the class a method that is awaited: `async def aclose(self)`, and use it through "
        "`async with`; leave to `__del__` only a warning that it was forgotten.",
        [
            f"it made {_blame.text(subject)}",
            *stack_lines(inside, "within the finalizer"),
            *stack_lines(outside[-3:], "which interrupted" if gc else "which was called at"),
        ],
    )


_THREADSAFE = {asyncio.run_coroutine_threadsafe.__code__}


def _is_finalizer(code: CodeType) -> bool:
    return code.co_name == "__del__" or code is weakref.finalize.__call__.__code__


# ---- the end of a run ----------------------------------------------------------------------------


def _hung_threads(executor: Any, evidence: list[str]) -> tuple[Place | None, str, str]:
    frames = sys._current_frames()
    stacks = []
    for thread in list(getattr(executor, "_threads", ())):
        frame, places = frames.get(thread.ident), list[Place]()
        while frame is not None and len(places) < 100:
            places.insert(0, _blame.place(frame.f_code, frame.f_lineno))
            frame = frame.f_back
        if (place := _blame.innermost(places)) is not None:
            stacks.append(place)
            evidence += stack_lines(places, f"thread '{thread.name}' is at")
    return (
        min(stacks, default=None),
        f"{len(stacks)} calls in the default executor have not returned: threads cannot be "
        "cancelled",
        "Bound what runs in threads: give blocking calls a timeout, and let loops look at a "
        "`threading.Event` that is set at the end; or start them with `daemon=True` outside of the "
        "executor.",
    )


def _hung_generators(tasks: list[Any], evidence: list[str]) -> tuple[Place | None, str, str]:
    found = []
    for task in tasks:  # each of which closes one
        waits = _blame.waits_at(task)
        if (place := _blame.innermost(waits)) is not None:
            found.append(place)
            evidence += stack_lines(waits, "one is at")
    return (
        min(found, default=None),
        f"{len(found)} asynchronous generators do not end",
        "Bound what generators do in `finally:`, and close them where they are used: `async with "
        "contextlib.aclosing(numbers()) as items: ...`.",
    )


def _hung_tasks(tasks: list[Any], evidence: list[str]) -> tuple[Place | None, str, str]:
    tasks.sort(key=lambda task: str(_blame.created_at(task)))
    found = []
    for task in tasks:
        waits = _blame.waits_at(task)
        place = _blame.innermost(waits)
        found += [place] if place is not None else []
        if len(evidence) < 60:
            made = _blame.created_at(task)
            what = f"{name_of(task)}, created at {made}," if made else name_of(task)
            evidence += stack_lines(waits, f"{what} waits at")
    return (
        min(found, default=None),
        f"{len(tasks)} tasks were cancelled and do not end: "
        + ", ".join(name_of(task) for task in tasks[:8]),
        "Let a cancelled task end: `except asyncio.CancelledError: ...; raise`, and bound its "
        "clean-up: `async with asyncio.timeout(2): await clean_up()`.",
    )


def shutdown_hung(loop: Any, seconds: float) -> int:
    """The end of a run takes long."""
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    phases = {getattr(getattr(t.get_coro(), "cr_code", None), "co_name", "") for t in tasks}
    evidence: list[str] = []
    if "shutdown_default_executor" in phases:
        place, what, remedy = _hung_threads(loop._default_executor, evidence)
    elif "shutdown_asyncgens" in phases:
        place, what, remedy = _hung_generators(tasks, evidence)
    else:
        place, what, remedy = _hung_tasks(tasks, evidence)
    cause = f"The program wants to end and has waited for {seconds:.1f} s: {what}."
    return add("shutdown-hung", place, cause, remedy, evidence, "ongoing")


def waits_long(loop: Any, tasks: Any) -> int:
    """An examination has found tasks whose wait has become long."""
    from . import _deadlock  # which uses this module

    return _deadlock.examine(loop, tasks)


_EVENTS: dict[str, Callable[..., int]] = {
    "cancellation_slow": cancellation_slow,
    "context": context,
    "exception_kept": exception_kept,
    "in_finalizer": in_finalizer,
    "left_open": left_open,
    "nested_run": nested_run,
    "shutdown_hung": shutdown_hung,
    "swallowed": swallowed,
    "unawaited": unawaited,
    "unclosed": unclosed,
    "waits_long": waits_long,
}


def told(kind: str, args: tuple[Any, ...]) -> int:
    """An event that _notices.notice() was told of. Returns the id of a finding, or 0."""
    return _EVENTS[kind](*args)
