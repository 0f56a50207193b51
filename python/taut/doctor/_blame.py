"""Which line is to blame: places in stacks, tracebacks and suspended coroutines."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CodeType, FrameType, TracebackType
from typing import Any, NamedTuple

from taut import _core
from taut.loop import Loop

__all__ = [
    "Place",
    "created_at",
    "in_traceback",
    "innermost",
    "is_library",
    "stack_of_caller",
    "text",
    "waits_at",
]

_DEPTH_MAX = 200
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_DIRS = tuple(
    os.path.join(os.path.dirname(name), "")
    for name in (os.path.abspath(os.__file__), os.path.join(_HERE, "x"))
)
_RUNNERS = {Loop.run_forever.__code__, asyncio.BaseEventLoop.run_forever.__code__}


class Place(NamedTuple):
    """A line of a function: file as in a traceback, line (0: unknown), qualified name."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def is_library(file: str) -> bool:
    """Whether code of this file is the standard library's, an installed package's, or taut's."""
    return (
        file.startswith(("<frozen ", *_DIRS))
        or "/site-packages/" in file
        or "/dist-packages/" in file
    )


def place(code: CodeType, line: int | None) -> Place:
    """The place of a line (None: unknown) in `code`."""
    return Place(code.co_filename, line or 0, code.co_qualname)


def innermost(places: Iterable[Place]) -> Place | None:
    """The last of `places`, innermost last, that is the user's own; None when none is."""
    found = None
    for one in places:
        if not is_library(one.file):
            found = one
    return found


def frames_of_caller() -> Iterator[FrameType]:
    """The frames of this thread, innermost first, up to the one that runs the loop; without those
    that are taut's."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEPTH_MAX):
        if frame is None or frame.f_code in _RUNNERS:
            return
        if not frame.f_code.co_filename.startswith(_DIRS[1]):
            yield frame
        frame = frame.f_back


def stack_of_caller() -> list[Place]:
    """The stack of this thread within its loop, innermost last."""
    return [place(frame.f_code, frame.f_lineno) for frame in frames_of_caller()][::-1]


def in_traceback(tb: TracebackType | None) -> list[Place]:
    """The places of a traceback, innermost last."""
    found: list[Place] = []
    while tb is not None and len(found) < _DEPTH_MAX:
        found.append(place(tb.tb_frame.f_code, tb.tb_lineno))
        tb = tb.tb_next
    return found


_AWAITED_BY = {"coroutine": "cr_await", "generator": "gi_yieldfrom", "async_generator": "ag_await"}
_STEP = "async_generator_"


def awaits(coro: Any) -> Iterator[Any]:
    """A coroutine (or generator), what it awaits if that is one, and so on."""
    for _ in range(_DEPTH_MAX):
        if coro is None:
            return
        yield coro
        name = _AWAITED_BY.get(type(coro).__name__)
        if name is not None:
            coro = getattr(coro, name, None)
        else:  # a step of an asynchronous generator
            steps = gc.get_referents(coro) if type(coro).__name__.startswith(_STEP) else ()
            coro = next((one for one in steps if type(one) is AsyncGeneratorType), None)


def frame_of(coro: Any) -> FrameType | None:
    """The frame of a suspended coroutine or generator; None when it is over, or none."""
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(coro, name, None)
        if isinstance(frame, FrameType):
            return frame
    return None


def waits_at(task: Any) -> list[Place]:
    """Where a suspended task waits, innermost last; empty when it is over."""
    get = getattr(task, "get_coro", None)
    frames = [frame_of(one) for one in awaits(get() if get is not None else None)]
    return [place(f.f_code, f.f_lineno) for f in frames if f is not None]


def created_at(task: Any) -> Place | None:
    """Who has made a task; None when that is not known."""
    site = _core.task_created_at(task) if isinstance(task, asyncio.Task) else None
    return None if site is None else Place(*site)


def text(value: object, size_max: int = 200) -> str:
    """repr() of anything, cut, and harmless."""
    try:
        whole = repr(value)
    except Exception:
        whole = f"<{type(value).__name__}>"
    return whole if len(whole) <= size_max else whole[: size_max - 3] + "..."
