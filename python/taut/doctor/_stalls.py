"""Reports of stalls, brought to Python, and the watchdog on loops that are not taut's."""

from __future__ import annotations

import asyncio
import atexit
import collections
import gc
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .._portable import NATIVE, say_once

if TYPE_CHECKING or NATIVE:
    from taut import _core

__all__ = ["Attachment", "Frame", "StallReport", "attach", "detach", "report_to"]


@dataclass(frozen=True)
class Frame:
    """One frame of a stalled stack: file name, line (0: unknown) and qualified function name."""

    filename: str
    line: int
    name: str


@dataclass(frozen=True)
class StallReport:
    """One finding about a stall.

    Attributes:
        kind: ``"began"`` (first report), ``"lasts"`` (2x, 4x, ... the threshold), ``"ended"``, or
            ``"unshown"`` (stalls at one site that the rate limit kept quiet about).
        where: the site in words, such as ``"at app.py:41 in checkout"``.
        duration: seconds so far; for ``"ended"`` in all, for ``"unshown"`` of the longest.
        threshold: of the watch, in seconds.
        thread_id: the kernel's id of the loop's thread.
        cause: what the thread did, in words, and in which task (of a taut loop).
        frames: the stack, outermost first; empty for ``"ended"`` and ``"unshown"``.
        site: the frame that `where` names: the innermost one outside the standard library,
            site-packages and taut; None when there are no frames.
        accuracy: ``"exact"``, ``"approximate"`` (bytecode kept running: the innermost line is that
            of a moment), ``"gil"`` (taken with the GIL) or ``"none"``.
        unshown: earlier stalls at this site that went unreported.
        dropped: findings lost so far because the callback was too slow.
    """

    kind: Literal["began", "lasts", "ended", "unshown"]
    where: str
    duration: float
    threshold: float
    thread_id: int
    cause: str = ""
    frames: tuple[Frame, ...] = field(default=(), repr=False)
    site: Frame | None = None
    accuracy: Literal["none", "exact", "approximate", "gil"] = "none"
    unshown: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        """One sentence, as the reports on stderr have it."""
        if self.kind == "unshown":
            return f"{self.unshown} more stalls {self.where}, the longest {self.duration:.3f} s"
        if self.kind == "ended":
            return f"loop stall ended after {self.duration:.3f} s {self.where}"
        return f"loop stalled for {self.duration:.3f} s (still running) {self.where}: {self.cause}"

    def format_stack(self) -> str:
        """The frames in the form of a traceback, most recent call last."""
        return "".join(f'  File "{f.filename}", line {f.line}, in {f.name}\n' for f in self.frames)


Callback = Callable[[StallReport], object]

_KINDS: dict[int, Literal["began", "lasts", "ended", "unshown"]] = {
    1: "began",
    2: "lasts",
    3: "ended",
    4: "unshown",
}
_ACCURACY: dict[int, Literal["none", "exact", "approximate", "gil"]] = {
    0: "none",
    1: "exact",
    2: "approximate",
    3: "gil",
}
_GONE = 5  # the last event of a watch: all before it has been delivered
_TAUT_LOOPS = 0  # the watch id that all loops of ours share

_UNWATCHED = "no stall reports here: the doctor needs taut's extension, which is for Linux"

_lock = threading.Lock()
_sinks: dict[int, list[Callback]] = {}
_attached: dict[int, Attachment] = {}  # by id(loop); an attachment holds its loop
_next_id = 1
_helper: threading.Thread | None = None


def _report(event: tuple[Any, ...]) -> StallReport:
    kind, _, tid, duration, threshold, unshown, where, cause, raw, site, how, _, dropped = event
    frames = tuple(Frame(*f) for f in raw)
    return StallReport(
        kind=_KINDS[kind],
        where=where,
        duration=duration,
        threshold=threshold,
        thread_id=tid,
        cause=cause,
        frames=frames,
        site=frames[site] if 0 <= site < len(frames) else None,
        accuracy=_ACCURACY[how],
        unshown=unshown,
        dropped=dropped,
    )


def _deliver() -> None:
    while (event := _core.stall_next()) is not None:
        with _lock:
            sinks = tuple(_sinks.get(event[1], ()))
            if event[0] == _GONE:
                _sinks.pop(event[1], None)
                continue
        for sink in sinks:
            try:
                sink(_report(event))
            except Exception:
                logging.getLogger("taut").exception("a stall callback failed")


def _log_to(logger: logging.Logger) -> Callback:
    def log(report: StallReport) -> None:
        stack = report.format_stack()
        logger.warning("%s%s", report, "\n" + stack.rstrip() if stack else "")

    return log


def _helper_needed() -> None:
    """Starts the thread that brings findings to Python. The lock is held."""
    global _helper
    if _helper is None or not _helper.is_alive():
        _core.stall_listen()
        _helper = threading.Thread(target=_deliver, name="taut-doctor", daemon=True)
        _helper.start()


@atexit.register
def _helper_stop() -> None:
    helper = _helper
    if helper is not None and helper.is_alive():
        _core.stall_unlisten()
        helper.join(1.0)


def _sinks_set(watch: int, callback: Callback | None, logger: logging.Logger | str | None) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, not {callback!r}")
    if not NATIVE:
        say_once(_UNWATCHED)
        return
    sinks = [] if callback is None else [callback]
    if logger is not None:
        sinks.append(_log_to(logging.getLogger(logger) if isinstance(logger, str) else logger))
    with _lock:
        if sinks:
            _sinks[watch] = sinks
            _helper_needed()
        else:
            _sinks.pop(watch, None)


def report_to(
    callback: Callback | None = None,
    *,
    logger: logging.Logger | str | None = None,
    stderr: bool = True,
) -> None:
    """Says where findings about this process's taut loops go; replaces what was said before.

    Args:
        callback: called with each :class:`StallReport`, on a helper thread. Default None.
        logger: a logger (or its name) that gets each report as a warning. Default None.
        stderr: whether reports are also written to stderr during the stall. Default True.

    Raises:
        TypeError: `callback` is not callable.
    """
    _sinks_set(_TAUT_LOOPS, callback, logger)
    if NATIVE:
        _core.stall_stderr(stderr)


class _NoWatch:
    """Stands for a `_core.StallWatch` where there is none: always switched off."""

    stalls = 0
    longest = 0.0

    @property
    def threshold(self) -> None:
        return None

    @threshold.setter
    def threshold(self, value: float | str | None) -> None:
        pass

    def stop(self) -> None:
        pass


class Attachment:
    """A watchdog on a loop that is not taut's; :meth:`detach` ends it. Also a context manager."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, watch: _core.StallWatch | _NoWatch, key: int
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = loop
        self._watch = watch
        self._key = key

    @property
    def threshold(self) -> float | None:
        """Seconds without progress that count as a stall, or None while switched off."""
        return self._watch.threshold

    @threshold.setter
    def threshold(self, value: float | str | None) -> None:
        self._watch.threshold = value

    @property
    def stalls(self) -> int:
        """Stalls so far, whether reported or not."""
        return self._watch.stalls

    @property
    def longest(self) -> float:
        """The longest stall that is over, in seconds."""
        return self._watch.longest

    def detach(self) -> None:
        """Leaves the loop as it was. Idempotent; any thread (from another one than the running
        loop's it happens soon)."""
        loop = self._loop
        if loop is not None and loop.is_running() and loop is not asyncio._get_running_loop():
            loop.call_soon_threadsafe(self.detach)
            return
        self._loop = None
        if loop is None:
            return
        _attached.pop(id(loop), None)
        self._watch.stop()
        _unhook(loop, self._watch)
        with _lock:
            if _helper is None or not _helper.is_alive():
                _sinks.pop(self._key, None)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()


def _is_uvloop(loop: object) -> bool:
    uvloop = sys.modules.get("uvloop.loop")
    return uvloop is not None and isinstance(loop, uvloop.Loop)


def _hook(loop: Any, watch: _core.StallWatch, running: bool) -> None:
    if _is_uvloop(loop):
        uvloop = sys.modules["uvloop.loop"]
        owned = gc.get_referents(loop)
        ready = next((o for o in owned if type(o) is collections.deque), None)
        idle = next((o for o in owned if type(o).__name__ == "UVIdle"), None)
        if ready is None or idle is None:
            raise TypeError(f"uvloop {uvloop.__package__} keeps its callbacks in an unknown way")
        watch.watch_uv(uvloop.libuv_get_loop_t_ptr(loop), uvloop.__file__, ready, idle)
    else:
        selector = loop._selector
        watch.watch_select(selector.select, loop._ready, type(loop)._run_once.__code__, running)
        selector.select = watch


def _unhook(loop: Any, watch: _core.StallWatch | _NoWatch) -> None:
    selector = getattr(loop, "_selector", None)
    if selector is not None and vars(selector).get("select") is watch:
        del selector.select
    if isinstance(vars(loop).get("close"), _Close):
        del loop.close


class _Close:
    """The close() of an attached loop: detaches first."""

    def __init__(self, attachment: Attachment, loop: asyncio.AbstractEventLoop) -> None:
        self._attachment = attachment
        self._loop = loop

    def __call__(self) -> None:
        if not self._loop.is_running():  # otherwise close() is about to raise
            self._attachment.detach()
        type(self._loop).close(self._loop)


def attach(
    loop: asyncio.AbstractEventLoop | None = None,
    threshold: float | str | None = 0.05,
    *,
    callback: Callback | None = None,
    logger: logging.Logger | str | None = None,
    stderr: bool = True,
) -> Attachment:
    """Watches a stock asyncio (selector) or uvloop event loop as taut's own loops are watched.

    Call it in a coroutine, or before the loop runs. An attached loop is watched until
    :meth:`Attachment.detach`, :func:`detach` or its own ``close()``; attaching again replaces the
    settings. A taut loop needs no attaching: set its ``stall_threshold``.

    uvloop: callbacks are watched from the loop's first wait after attaching; what runs directly
    from libuv's I/O (``data_received``) counts as progressing while the thread calls read(2).

    Args:
        loop: the loop; default: the one running.
        threshold: seconds (or ``"50ms"``, ...) without progress that count as a stall; None watches
            without reporting until :attr:`Attachment.threshold` is set. Default 0.05.
        callback: called with each :class:`StallReport` on a helper thread. Default None.
        logger: a logger or its name that gets each report as a warning. Default None.
        stderr: whether reports are written to stderr during the stall. Default True.

    Raises:
        RuntimeError: no loop was given and none runs, or the loop runs on another thread.
        TypeError: the loop is of a kind that cannot be watched.
        ValueError: `threshold` is not a duration.
    """
    global _next_id
    try:
        here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if loop is None:
        if here is None:
            raise RuntimeError("no running event loop: pass the loop to attach()")
        loop = here
    if not NATIVE:
        _sinks_set(0, callback, logger)
        return Attachment(loop, _NoWatch(), 0)
    if not _is_uvloop(loop) and not (hasattr(loop, "_selector") and hasattr(loop, "_run_once")):
        raise TypeError(f"{type(loop).__name__} is not a loop that can be watched")
    detach(loop)
    with _lock:
        key, _next_id = _next_id, _next_id + 1
    watch = _core.StallWatch(key, threshold, stderr)
    if loop.is_running() and loop is not here:
        raise RuntimeError("the loop runs on another thread: call attach() in a coroutine of it")
    _sinks_set(key, callback, logger)
    _hook(loop, watch, running=loop is here)
    attachment = Attachment(loop, watch, key)
    _attached[id(loop)] = attachment
    loop.close = _Close(attachment, loop)  # type: ignore[method-assign]
    return attachment


def detach(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Ends what :func:`attach` began on `loop` (default: the running one); harmless otherwise."""
    if loop is None:
        loop = asyncio.get_running_loop()
    attachment = _attached.get(id(loop))
    if attachment is not None:
        attachment.detach()
