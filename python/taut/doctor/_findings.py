"""The table of findings as Python sees it."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .._portable import NATIVE, say_once

if TYPE_CHECKING or NATIVE:
    from taut import _core

__all__ = ["Finding", "FindingCallback", "findings", "ignore", "on_finding"]

_UNWATCHED = "no findings here: the doctor needs taut's extension, which is for Linux"


@dataclass(frozen=True)
class Finding:
    """One thing that is, or was, wrong.

    Attributes:
        id: a number that no other finding of this process has.
        code: stable, such as ``"blocking-call"``; docs/findings has a page for each.
        state: ``"seen"`` (an event), ``"ongoing"``, or ``"over"``.
        count: how often it was found.
        first_seen: seconds since the epoch.
        last_seen: seconds since the epoch.
        file: of the line to blame, as in a traceback; empty when none is.
        line: 0 when none is.
        function: its qualified name.
        cause: one sentence.
        remedy: one sentence, with the code to write instead.
        evidence: lines: counts, times, a stack.
    """

    id: int
    code: str
    state: Literal["seen", "ongoing", "over"]
    count: int
    first_seen: float
    last_seen: float
    file: str
    line: int
    function: str
    cause: str
    remedy: str
    evidence: tuple[str, ...] = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """``"app.py:41 in checkout"``, or nothing when no line is to blame."""
        if not self.file:
            return self.function
        return f"{self.file}:{self.line}" + (f" in {self.function}" if self.function else "")

    def __str__(self) -> str:
        """One line: code, place, cause."""
        where = f" at {self.where}" if self.where else ""
        return f"{self.code}{where}: {self.cause}"


FindingCallback = Callable[[Finding], object]

_lock = threading.Lock()
_callbacks: list[FindingCallback] = []
_helper: threading.Thread | None = None
_over = False


def _finding(row: tuple[Any, ...]) -> Finding:
    id_, _, count, first, last, state, code, line, file, function, cause, remedy, evidence = row
    return Finding(id_, code, state, count, first, last, file, line, function, cause, remedy,
                   tuple(evidence.split("\n")) if evidence else ())  # fmt: skip


def findings(code: str | None = None) -> list[Finding]:
    """What the doctor has found in this process, in the order of the latest change.

    At most 128 are kept: the one that was seen last the longest ago makes room.

    Args:
        code: only findings of this code. Default: all.
    """
    if not NATIVE:
        say_once(_UNWATCHED)
        return []
    rows = (_finding(row) for row in _core.findings())
    return [finding for finding in rows if code is None or finding.code == code]


def ignore(*rules: str) -> None:
    """From now on the doctor says nothing of what these rules describe.

    A rule is ``"gc-pause"`` (a code, or ``"*"``), ``"sync-driver@db/legacy.py"`` (the end of a
    path) or ``"sync-driver@legacy.py:41"``. ``TAUT_IGNORE`` in the environment is a list of rules,
    separated by commas. What has been found already stays.

    Raises:
        ValueError: a rule is none, or there are 64 of them already.
        TypeError: a rule is not a str.
    """
    if not NATIVE:
        say_once(_UNWATCHED)
        return
    for rule in rules:
        _core.finding_ignore(rule)


def _deliver(change: int) -> None:
    while not _over:
        _core.findings_wait(change)
        for row in _core.findings(change):
            change = row[1]
            with _lock:
                callbacks = tuple(_callbacks)
            for callback in callbacks:
                try:
                    callback(_finding(row))
                except Exception:
                    logging.getLogger("taut").exception("a callback for findings failed")


@atexit.register
def _helper_stop() -> None:
    global _over
    _over = True
    helper = _helper
    while helper is not None and helper.is_alive():
        _core.findings_wake()
        helper.join(0.05)


def on_finding(callback: FindingCallback) -> Callable[[], None]:
    """Calls `callback` with each finding that is new or has changed, from now on.

    It runs on a helper thread, so it may block; what it raises is logged. Several changes of one
    finding that come faster than it returns may reach it as one.

    Returns:
        A function that ends it.

    Raises:
        TypeError: `callback` is not callable.
    """
    global _helper
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    if not NATIVE:
        say_once(_UNWATCHED)
        return lambda: None
    with _lock:
        _callbacks.append(callback)
        if _helper is None or not _helper.is_alive():
            change = max((row[1] for row in _core.findings()), default=0)
            _helper = threading.Thread(
                target=_deliver, args=(change,), name="taut-findings", daemon=True
            )
            _helper.start()

    def end() -> None:
        with _lock:
            if callback in _callbacks:
                _callbacks.remove(callback)

    return end
