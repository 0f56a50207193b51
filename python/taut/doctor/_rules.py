"""The rules of the examination: what a loop has found out about its tasks becomes findings.

The loop calls :func:`examine` at most once a second, on its own thread, so rules are quick: they
look at groups of tasks, never at single ones. A rule that raises is told once and left out from
then on. What a rule must have seen for how long before it speaks is its own business; `EVENT_S` and
`TREND_S` are what they go by.
"""

from __future__ import annotations

import logging
import os
import types
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeVar

from taut import _core
from taut._listing import wrappers

from ._blame import Place

READY, FUTURE, TASK, EXECUTOR = range(4)

#: What lasts is told after this many seconds, ...
EVENT_S = 2.0
#: ... what grows after so many. Shorter for tests.
TREND_S = float(os.environ.get("TAUT_DOCTOR_TREND_S") or 30.0)


class Frame(NamedTuple):
    """Where one coroutine of a chain stands."""

    code: types.CodeType
    unit: int

    @property
    def place(self) -> Place:
        """Its line, which takes a microsecond to find out."""
        return place_of(self.code, self.unit)

    @property
    def is_user(self) -> bool:
        """Whether it is the program's own code."""
        return _core.code_is_user(self.code)

    def is_in(self, *ends: str) -> bool:
        """Whether its file ends in one of these."""
        return self.code.co_filename.endswith(ends)


def place_of(code: types.CodeType, unit: int) -> Place:
    """The line of an instruction."""
    return Place(code.co_filename, _core.code_line(code, unit), code.co_qualname)


class Group(NamedTuple):
    """Tasks that were made at one place and stand at one place."""

    tasks: int
    waits: int  # READY, FUTURE, TASK or EXECUTOR
    waited: float  # seconds, the longest
    age: float  # seconds, the oldest
    together: int  # the most that were made in one turn of the loop
    site_code: types.CodeType | None
    site_unit: int
    user: int  # the innermost of `frames` that is the program's own, -1: none
    frames: tuple[Frame, ...]  # innermost first

    @property
    def made_at(self) -> Place | None:
        """Who made them."""
        return None if self.site_code is None else place_of(self.site_code, self.site_unit)

    @property
    def blame(self) -> Place | None:
        """The program's own line that waits; where all of it is a library's, that made them."""
        if self.user >= 0:
            return self.frames[self.user].place
        if self.site_code is not None and _core.code_is_user(self.site_code):
            return self.made_at
        return None

    @property
    def stands_at(self) -> Place | None:
        """The program's own line that waits, or the innermost one."""
        if not self.frames:
            return None
        return self.frames[max(self.user, 0)].place


class Calls(NamedTuple):
    """Calls in one executor that were made at one place."""

    executor: Any  # None: it is gone
    site_code: types.CodeType | None
    site_unit: int
    queued: int
    running: int
    waited: float  # seconds, the longest of those queued


class Resolver(NamedTuple):
    """Lookups of names under way."""

    pending: int
    queued: int
    threads: int
    waited: float


class Record(NamedTuple):
    """One examination."""

    loop: int
    now: float  # of the monotonic clock
    tasks: int
    waiting: int
    others: int  # tasks in no group, for want of room
    groups: list[Group]
    calls: list[Calls]
    resolver: Resolver
    #: asyncio.Queues among the variables of suspended coroutines, and where one of these stands.
    queues: list[tuple[Any, types.CodeType, int]]


def record_of(raw: tuple[Any, ...]) -> Record:
    """What the extension hands over, with names."""
    loop, now, tasks, waiting, others, groups, calls, resolver, queues = raw
    return Record(
        loop, now, tasks, waiting, others,
        [Group._make((*group[:8], tuple(map(Frame._make, group[8])))) for group in groups],
        [Calls._make(call) for call in calls], Resolver._make(resolver), queues,
    )  # fmt: skip


class Said(NamedTuple):
    """What is to be told about one thing that is wrong."""

    cause: str
    remedy: str
    place: Place | None
    evidence: Iterable[str] = ()


class Lasting:
    """Findings of one rule that last: added once, brought up to date at ever longer intervals while
    the thing is wrong, closed when it no longer is."""

    def __init__(self, code: str) -> None:
        self.code = code
        # By loop and what is wrong: the finding's number, since when, when to tell more.
        self._open: dict[tuple[int, Hashable], tuple[int, float, float]] = {}

    def add(self, said: Said, state: str = "ongoing") -> int:
        """A finding of this code."""
        file, line, function = said.place or ("", 0, "")
        return _core.finding_add(
            self.code, said.cause, said.remedy, file=file, line=line, function=function,
            evidence="\n".join(said.evidence), state=state,
        )  # fmt: skip

    def settle(self, record: Record, wrong: dict[Hashable, Said]) -> None:
        """All that is wrong now on this loop, by what it is."""
        now = record.now
        for key, said in wrong.items():
            mark = (record.loop, key)
            if mark not in self._open:
                self._open[mark] = (self.add(said), now, now + 2 * EVENT_S)
                continue
            number, since, due = self._open[mark]
            if now >= due and _core.finding_update(number, "\n".join(said.evidence), "ongoing"):
                self._open[mark] = (number, since, now + 2 * (now - since))
        for mark in [mark for mark in self._open if mark[0] == record.loop]:
            if mark[1] not in wrong:
                _core.finding_update(self._open.pop(mark)[0], None, "over")


class Since:
    """Since when things have been as they are, without a break."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def seen(self, now: float, things: Iterable[Hashable]) -> dict[Hashable, float]:
        """For how many seconds each of these, which are all that there are, has been seen."""
        self._since = {thing: self._since.get(thing, now) for thing in things}
        return {thing: now - since for thing, since in self._since.items()}


def seconds(value: float) -> str:
    """A duration for people."""
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"


Rule = Callable[[Record], None]
_R = TypeVar("_R", bound=Rule)
_rules: list[Rule] = []


def rule(function: _R) -> _R:
    """From now on part of each examination."""
    _rules.append(function)
    return function


def examine(raw: tuple[Any, ...]) -> None:
    """For the extension: applies the rules to what a loop has found out."""
    record = record_of(raw)
    for one in tuple(_rules):
        try:
            one(record)
        except Exception:
            _rules.remove(one)
            logging.getLogger("taut").exception(
                "the doctor's rule %s failed and is switched off", one.__name__
            )


class _Hand:
    """What a coroutine that is driven by hand waits for."""

    def __await__(self) -> Any:
        yield self


async def _inner() -> None:
    await _Hand()


async def _outer() -> None:
    await _inner()


def _know_coroutines() -> bool:
    """Compares what the extension reads from the frames of coroutines with what Python says."""
    outer: Any = _outer()
    outer.send(None)
    inner: Any = outer.cr_await
    hand = inner.cr_await
    expected = [
        (outer.cr_code, outer.cr_frame.f_lineno), (inner.cr_code, inner.cr_frame.f_lineno),
        (hand.gi_code, hand.gi_frame.f_lineno),
    ]  # fmt: skip
    known = _core.coroutines_enable(wrappers(), outer, expected)
    outer.close()
    return known


#: Without it groups have no frames, and rules about waits find nothing.
COROUTINES_KNOWN = _know_coroutines()

from . import _rules_resources, _rules_trends, _rules_waits  # noqa: E402, F401
