"""Rules about what only grows, and about what the kernel says of this host's connections."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Hashable
from typing import Any

from taut import _connections

from ._blame import Place
from ._rules import TREND_S, Lasting, Record, Said, rule, seconds


class Trend:
    """A number over the time that a trend takes."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, value: int) -> None:
        """What it is now."""
        self._samples.append((now, value))
        while len(self._samples) > 2 and now - self._samples[1][0] >= TREND_S:
            self._samples.popleft()

    def growth(self, parts: int = 5) -> tuple[int, int, float] | None:
        """The number at the beginning and at the end, and the time in between, if it has grown in
        each of so many parts of the time; else None."""
        first_at, first = self._samples[0]
        last_at, last = self._samples[-1]
        took = last_at - first_at
        if took < TREND_S:
            return None
        before = first
        for part in range(1, parts + 1):
            until = first_at + took * part / parts
            value = [value for at, value in self._samples if at <= until + 1e-6][-1]
            if value <= before:
                return None
            before = value
        return first, last, took


# ---- memory ----

MEMORY_MIN = 64 << 20
_memory = Lasting("memory-growth")
_rss: dict[int, Trend] = {}


def _resident() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        return None


@rule
def memory_growth(record: Record) -> None:
    """The process's memory has grown without a pause, and by much."""
    value = _resident()
    if value is None:
        return
    trend = _rss.setdefault(record.loop, Trend())
    trend.add(record.now, value)
    grown = trend.growth()
    wrong: dict[Hashable, Said] = {}
    if grown is not None and grown[1] - grown[0] >= max(MEMORY_MIN, grown[0] // 4):
        first, last, took = grown
        wrong["rss"] = Said(
            f"The process has grown from {first >> 20} to {last >> 20} MiB within "
            f"{seconds(took)}, without a pause.",
            "Look for what is kept: tracemalloc.start(), then compare two "
            "tracemalloc.take_snapshot() a minute apart; a cache needs a bound "
            "(functools.lru_cache(maxsize=...)).",
            None,
            [f"{record.tasks} tasks are not done"],
        )
    _memory.settle(record, wrong)


# ---- descriptors ----

FDS_MIN = 20
_fds = Lasting("fd-growth")
_open: dict[Any, Trend] = {}


def _open_connections() -> tuple[Counter[Any], Counter[Any]]:
    """By destination and site: how many are open, and how many have been closed."""
    still, closed = Counter[Any](), Counter[Any]()
    for made in tuple(_connections.made):
        if made.sock is not None:
            (still if made.is_open else closed)[made.where, made.site] += 1
    return still, closed


@rule
def fd_growth(record: Record) -> None:
    """Connections to one place, made at one line, of which none is ever closed."""
    still, closed = _open_connections()
    wrong: dict[Hashable, Said] = {}
    for key in [key for key in _open if key[0] == record.loop and key[1:] not in still]:
        del _open[key]
    for (where, site), number in still.items():
        trend = _open.setdefault((record.loop, where, site), Trend())
        trend.add(record.now, number)
        grown = trend.growth()
        if grown is None or grown[1] - grown[0] < FDS_MIN or closed[where, site] * 10 > number:
            continue
        name = ":".join(str(part) for part in where)
        wrong[where, site] = Said(
            f"{number} connections to {name} are open, {grown[1] - grown[0]} more than "
            f"{seconds(grown[2])} ago, and hardly one of those made there is ever closed.",
            "Close each when it is no longer needed (async with, or writer.close() and await "
            "writer.wait_closed() in a finally), or use the ones that are open again.",
            None if site is None else Place(site.code.co_filename, site.line,
                                            site.code.co_qualname),
        )  # fmt: skip
    _fds.settle(record, wrong)


# ---- the kernel's side ----

TIME_WAIT_MIN = 2000
_time_wait = Lasting("time-wait")
_waiting: dict[int, Trend] = {}


def _sockstat(name: str) -> int | None:
    try:
        with open("/proc/net/sockstat", encoding="ascii") as file:
            words = file.read().split()
        return int(words[words.index(name) + 1])
    except (OSError, ValueError, IndexError):
        return None


def _shortest_lived(now: float) -> tuple[_connections.Made, int] | None:
    """The destination and line of which most connections were made and closed lately."""
    counts: Counter[Any] = Counter()
    one: dict[Any, _connections.Made] = {}
    for made in reversed(tuple(_connections.made)):
        if now - made.at > TREND_S:
            break
        if made.sock is not None and not made.is_open:
            counts[made.where, made.site] += 1
            one[made.where, made.site] = made
    most = counts.most_common(1)
    return (one[most[0][0]], most[0][1]) if most else None


@rule
def time_wait(record: Record) -> None:
    """Ports of this host are used up by connections that were closed a moment ago."""
    value = _sockstat("tw")
    if value is None:
        return
    trend = _waiting.setdefault(record.loop, Trend())
    trend.add(record.now, value)
    short = _shortest_lived(record.now) if value >= TIME_WAIT_MIN else None
    wrong: dict[Hashable, Said] = {}
    # Most of them must be this program's own doing.
    if short is not None and (short[1] * 2 >= value or short[1] * 2 >= _connections.KEPT):
        made, number = short
        name = ":".join(str(part) for part in made.where)
        wrong[made.where, made.site] = Said(
            f"{value} sockets of this host are in TIME_WAIT: connections to {name} are opened and "
            "closed so fast that the ports to do it from (28,000 per destination) run out.",
            "Keep connections open and use them again: one client for the whole program, made at "
            "start-up.",
            None if made.site is None else Place(made.site.code.co_filename, made.site.line,
                                                 made.site.code.co_qualname),
            [f"{number} were made and closed within {seconds(TREND_S)}"],
        )  # fmt: skip
    _time_wait.settle(record, wrong)


_overflow = Lasting("listen-overflow")
_overflows: dict[int, deque[tuple[float, int]]] = {}


def _listen_overflows() -> int | None:
    try:
        with open("/proc/net/netstat", encoding="ascii") as file:
            names, values = (line.split() for line in file.readlines()[:2])
        return int(values[names.index("ListenOverflows")])
    except (OSError, ValueError, IndexError):
        return None


def _own_listeners() -> list[str]:
    """The ports that this process listens at, with those first where connections wait now."""
    own = set()
    try:
        for fd in os.listdir("/proc/self/fd"):
            try:
                own.add(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                continue
        rows = []
        for path in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(path, encoding="ascii") as file:
                rows += [line.split() for line in file.readlines(1 << 16)[1:]]
    except OSError:
        return []
    found = []
    for row in rows:
        if row[3] == "0A" and f"socket:[{row[9]}]" in own:
            found.append((-int(row[4].partition(":")[2], 16), int(row[1].rpartition(":")[2], 16)))
    return [f"port {port}: {-queue} connections wait to be accepted"
            for queue, port in sorted(found)]  # fmt: skip


@rule
def listen_overflow(record: Record) -> None:
    """The kernel drops connections since too many wait to be accepted."""
    value = _listen_overflows()
    if value is None:
        return
    samples = _overflows.setdefault(record.loop, deque())
    samples.append((record.now, value))
    while len(samples) > 2 and record.now - samples[1][0] >= TREND_S:
        samples.popleft()
    dropped = value - samples[0][1]
    steps = sum(b[1] > a[1] for a, b in zip(samples, list(samples)[1:], strict=False))
    wrong: dict[Hashable, Said] = {}
    listeners = _own_listeners() if dropped > 0 and steps >= 2 else []
    if listeners:
        wrong["listen"] = Said(
            f"The kernel has dropped {dropped} connections within "
            f"{seconds(record.now - samples[0][0])}, since too many waited to be accepted.",
            "Let more of them wait (create_server(..., backlog=1024), and sysctl "
            "net.core.somaxconn at least as large), and find out what keeps the loop from "
            "accepting them.",
            None,
            listeners,
        )
    _overflow.settle(record, wrong)
