"""What the listing of tasks has to learn from Python once: the types that stand for an awaitable,
where asyncio's own tasks are, and whether frames are where they are thought to be."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import sys
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any

from . import _core

__all__ = ["enable", "wrappers"]


class _Waits:
    def __await__(self) -> Generator[None, None, None]:
        yield


async def _inner(waits: Any) -> None:
    await waits


async def _outer(waits: Any) -> None:
    await _inner(waits)


async def _items() -> AsyncIterator[None]:
    yield


def wrappers() -> tuple[type, ...]:
    """Built-in types whose objects hold what they wait for in their first field."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)  # no business of the loop's
    try:
        items: Any = _items()
        made: list[Any] = [
            _inner(None).__await__(),
            items.asend(None),
            items.athrow(ValueError()),
            anext(items, None),
        ]
    finally:
        sys.set_asyncgen_hooks(*hooks)
    for one in made:
        one.close()
    return tuple(type(one) for one in made)


def _others() -> list[Any]:
    """Tasks of asyncio's own, as far as the extension does not see them by itself."""
    if sys.version_info >= (3, 14):
        return []
    found: list[Any] = []
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        tasks = getattr(asyncio.tasks, name, ())
        for _ in range(100):  # as in asyncio: other threads may add to it meanwhile
            try:
                found += list(getattr(tasks, "_others", tasks))
                break
            except RuntimeError:
                continue
    # Not those on which _tasks.py has tried things.
    return [task for task in found if isinstance(task.get_loop(), asyncio.AbstractEventLoop)]


def _chain(coroutine: Coroutine[Any, Any, Any]) -> list[tuple[str, int, str]]:
    """The frames as the interpreter's own attributes give them."""
    chain: list[tuple[str, int, str]] = []
    one: Any = coroutine
    while one is not None:
        frame = getattr(one, "cr_frame", None) or getattr(one, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            chain.append((code.co_filename, frame.f_lineno, code.co_qualname))
        one = getattr(one, "cr_await", None) or getattr(one, "gi_yieldfrom", None)
    return chain


def _frames_known() -> bool:
    waits = _Waits()
    coroutine = _outer(waits)
    known = True
    for started in (False, True):
        if started:
            coroutine.send(None)
        seen = json.loads(_core.listing_frames(coroutine))
        known &= [(f["file"], f["line"], f["function"]) for f in seen] == _chain(coroutine)
    coroutine.close()
    return known and json.loads(_core.listing_frames(coroutine)) == []


def enable() -> bool:
    """Makes listings possible; the frames of coroutines are in them only if they prove right."""
    atexit.register(_core.console_leave)  # not by exit(): a process may end by a signal
    _core.listing_enable(wrappers(), functools.partial, _others, True)
    known = False
    try:
        known = _frames_known()
    finally:
        if not known:
            _core.listing_enable(wrappers(), functools.partial, _others, False)
    return known
