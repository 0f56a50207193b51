"""What the doctor is told of as it happens: little more than the door to it.

The doctor itself is imported when there is something to tell, which in most programs never comes.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.runners
import builtins
import logging
import sys
import warnings
from time import monotonic
from typing import Any

from . import _core

__all__ = ["exception_context", "install", "notice", "shutdown_watch"]

_PER_SECOND_MAX = 50  # of each kind: what comes faster says nothing new
_windows: dict[str, tuple[float, int]] = {}


def _is_flood(kind: str) -> bool:
    now = monotonic()
    began, count = _windows.get(kind, (now, 0))
    if now - began >= 1:
        began, count = now, 0
    _windows[kind] = (began, count + 1)
    return count >= _PER_SECOND_MAX


def notice(kind: str, *args: Any) -> int:
    """Tell the doctor of an event; called by `_core`, too. Any thread, maybe within a finalizer.

    Returns the id of the finding that it made, or 0. Raises nothing but what is no `Exception`.
    """
    if sys.is_finalizing() or _is_flood(kind):
        return 0
    try:
        from .doctor import _hooks

        return _hooks.told(kind, args)
    except Exception:
        logging.getLogger("taut").debug("the doctor failed at %s", kind, exc_info=True)
        return 0


def exception_context(context: Any) -> None:
    """Look at what a loop's call_exception_handler() is given."""
    message = context.get("message") if isinstance(context, dict) else None
    if isinstance(message, str) and (
        message.endswith(" exception was never retrieved")
        or message.startswith(("Task was destroyed but it is pending", "Unclosed "))
    ):
        notice("context", message, context)


class _RuntimeError(RuntimeError):
    """What asyncio.runners raises: a plain RuntimeError, of which the doctor hears if it is about a
    nested run."""

    def __new__(cls, *args: Any) -> Any:
        if args and isinstance(args[0], str) and "from a running event loop" in args[0]:
            notice("nested_run", args[0].partition(" ")[0])
        return builtins.RuntimeError(*args)


# ---- the end of a run --------------------------------------------------------------------------

SHUTDOWN_HANGS_S = 2.0
_RUN_UNTIL_COMPLETE = asyncio.base_events.BaseEventLoop.run_until_complete.__code__
# Who calls it to cancel what is left, and to end asynchronous generators and executors.
_CANCEL, _CLOSE = ("_cancel_all_tasks", "_cancel_tasks"), asyncio.Runner.close.__code__


class ShutdownWatch:
    """Tells the doctor, as long as one of the last phases of a run takes, what it waits for."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._began = monotonic()
        self._told = 0
        self._timer = loop.call_later(SHUTDOWN_HANGS_S, self._look)

    def _look(self) -> None:
        waited = monotonic() - self._began
        self._told = notice("shutdown_hung", self._loop, waited) or self._told
        self._timer = self._loop.call_later(waited, self._look)

    def end(self) -> None:
        """The phase is over."""
        self._timer.cancel()
        if self._told:
            _core.finding_update(self._told, None, "over")


def shutdown_watch(loop: Any) -> ShutdownWatch | None:
    """Called by run_forever(): a watch, if this run is one of the last of its loop."""
    caller = sys._getframe(2)
    if caller.f_code is not _RUN_UNTIL_COMPLETE or caller.f_back is None:
        return None
    code = caller.f_back.f_code
    return ShutdownWatch(loop) if code is _CLOSE or code.co_name in _CANCEL else None


def install() -> None:
    """Let the doctor hear of coroutines that nobody has awaited, and of nested runs."""
    _core.notices_enable(notice, warnings._warn_unawaited_coroutine)  # type: ignore[attr-defined]
    warnings._warn_unawaited_coroutine = _core.warn_unawaited  # type: ignore[attr-defined]
    # asyncio.run() refuses before it has touched anything of ours, and replacing the function would
    # miss those who have imported it. The name that it raises is looked up in its module.
    vars(asyncio.runners)["RuntimeError"] = _RuntimeError
