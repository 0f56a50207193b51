"""Rules about what a program uses up: descriptors, connections, queues that nobody empties."""

from __future__ import annotations

import dis
import errno
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from types import CodeType
from typing import Any

try:
    import resource
except ImportError:  # a Python that was built without it
    resource = None  # type: ignore[assignment]

from taut import _connections

from . import _rules
from ._blame import Place
from ._rules import (
    FUTURE,
    READY,
    TREND_S,
    Frame,
    Group,
    Lasting,
    Record,
    Said,
    rule,
    seconds,
)

# ---- descriptors ----

#: Of those that the process may open.
FDS_SHARE = 0.9
_FDS_EVERY_S = 5.0
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_fds = Lasting("fd-exhaustion")
_fds_last: list[float] = [0.0, 0.0]  # when they were counted, and the share then


def _fd_limit() -> int | None:
    if resource is None:
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _fd_count() -> int | None:
    """None: so many are open that counting needs one too many."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None


def _refused() -> _connections.Made | None:
    """An attempt to connect of late for which there was no descriptor."""
    since = time.monotonic() - _FDS_EVERY_S
    latest: _connections.Made | None = None
    for made in tuple(_connections.made):
        if made.at >= since and made.errno in _NO_DESCRIPTOR:
            latest = made
    return latest


def _most_open() -> tuple[_connections.Made, int] | None:
    """The connections of one site to one place of which most are open."""
    groups: Counter[Any] = Counter()
    one: dict[Any, _connections.Made] = {}
    for made in tuple(_connections.made):
        if made.is_open:
            key = (made.where, made.site)
            groups[key] += 1
            one[key] = made
    most = groups.most_common(1)
    return (one[most[0][0]], most[0][1]) if most else None


def _place(site: _connections.Site | None) -> Place | None:
    if site is None:
        return None
    return Place(site.code.co_filename, site.line, site.code.co_qualname)


def _name(where: tuple[Any, ...]) -> str:
    return ":".join(str(part) for part in where)


def _crowd(record: Record) -> Place | None:
    """Where most tasks stand that wait for something outside."""
    waiting = [group for group in record.groups if group.waits == FUTURE and group.blame]
    most = max(waiting, key=lambda group: group.tasks, default=None)
    return most.blame if most is not None and most.tasks >= 50 else None


@rule
def fd_exhaustion(record: Record) -> None:
    """The process has nearly as many descriptors open as it may."""
    at, share = _fds_last
    refused = _refused()
    if record.now - at < _FDS_EVERY_S and share < FDS_SHARE / 2 and refused is None:
        return
    limit = _fd_limit()
    if limit is None:
        return
    count = _fd_count() if refused is None else None
    share = 1.0 if count is None else count / limit
    _fds_last[:] = record.now, share
    wrong: dict[Hashable, Said] = {}
    if share >= FDS_SHARE:
        most = _most_open()
        place = _crowd(record)
        evidence = [f"limit (ulimit -n): {limit}"]
        if refused is not None:
            place = _place(refused.site) or place
        if most is not None:
            made, number = most
            evidence.append(f"{number} connections to {_name(made.where)} are open")
            if number * 4 >= limit:
                place = _place(made.site) or place
        wrong["fds"] = Said(
            f"{'All' if count is None else count} of the {limit} file descriptors that this "
            "process may have are open: what opens one more fails with EMFILE.",
            "Close what is no longer needed (async with ... around clients and streams), bound "
            "how many connections are open at once (asyncio.Semaphore, a pool), or raise the "
            "limit (ulimit -n, LimitNOFILE=).",
            place, evidence,
        )  # fmt: skip
    _fds.settle(record, wrong)


# ---- connections ----

CONNECTS_WINDOW_S = 6.0
CONNECTS_MIN = 60
#: Of them closed again, and what still counts as short.
CONNECTS_CLOSED = 0.8
_client = Lasting("client-per-request")
_retry = Lasting("retry-storm")
_callers: Counter[Frame] = Counter()  # where tasks were seen that wait in an HTTP client
_CLIENTS = ("/httpx/", "/httpcore/", "/aiohttp/", "/anyio/")
_CLIENT_CLASSES = ("AsyncClient", "ClientSession", "AsyncHTTPTransport", "AsyncConnectionPool")


_nobody: dict[Hashable, int] = {}


def _steady(times: list[float], now: float) -> bool:
    """Whether they are spread over the window: in each third of it there are some."""
    third = CONNECTS_WINDOW_S / 3
    return {int((now - at) / third) for at in times} >= {0, 1, 2}


def _recent(now: float) -> dict[Any, list[_connections.Made]]:
    recent: dict[Any, list[_connections.Made]] = {}
    for made in reversed(tuple(_connections.made)):
        if now - made.at >= CONNECTS_WINDOW_S:
            break
        recent.setdefault((made.where, made.site), []).append(made)
    return recent


def _watch_callers(record: Record) -> None:
    """Some libraries connect in tasks of their own: whoever waits for them is to blame."""
    for group in record.groups:
        if group.user > 0 and any(
            client in frame.code.co_filename
            for frame in group.frames[: group.user]
            for client in _CLIENTS
        ):
            _callers[group.frames[group.user]] += group.tasks


def _line_of(code: CodeType, names: tuple[str, ...]) -> Place | None:
    """The line of the code that uses one of these names."""
    if set(names).isdisjoint(code.co_names):
        return None
    for step in dis.get_instructions(code):
        if step.argval in names and step.positions and step.positions.lineno:
            return Place(code.co_filename, step.positions.lineno, code.co_qualname)
    return None


def _who_connects(site: _connections.Site | None) -> Place | None:
    """Where the client is made, if the same function does that; else where it is used."""
    if site is not None:
        return _line_of(site.code, _CLIENT_CLASSES) or _place(site)
    for frame, _ in _callers.most_common(1):
        return _line_of(frame.code, _CLIENT_CLASSES) or frame.place
    return None


@rule
def connections(record: Record) -> None:
    """A connection for each request; attempts that fail again and again."""
    now = time.monotonic()
    _watch_callers(record)
    short: dict[Hashable, Said] = {}
    failing: dict[Hashable, Said] = {}
    for (where, site), members in _recent(now).items():
        if len(members) < CONNECTS_MIN or not _steady([made.at for made in members], now):
            continue
        failed = sum(made.sock is None for made in members)
        still_open = sum(made.is_open for made in members)
        closed = len(members) - failed - still_open
        place = _who_connects(site)
        if place is None and (patience := _nobody.get(where, 0)) < 10:
            _nobody[where] = patience + 1  # somebody may be seen at it
            continue
        rate = f"{len(members) / CONNECTS_WINDOW_S:.0f} a second"
        if failed >= CONNECTS_CLOSED * len(members):
            failing[where, site] = Said(
                f"{failed} attempts to connect to {_name(where)} failed within "
                f"{seconds(CONNECTS_WINDOW_S)} ({rate}), and more are made all the time.",
                "Wait longer after each failure, and a random part of that: delay = "
                "min(30, 0.1 * 2**attempt) * random.random(); and give up for a while when "
                "everybody fails.",
                place,
            )
        elif closed >= CONNECTS_CLOSED * len(members):
            short[where, site] = Said(
                f"{len(members)} connections to {_name(where)} were made within "
                f"{seconds(CONNECTS_WINDOW_S)} ({rate}), and {closed} of them are closed again: "
                "a new one for each request.",
                "Make one client for the whole program and keep it open (client = "
                "httpx.AsyncClient() or aiohttp.ClientSession() at start-up, closed at the end): "
                "it keeps connections alive.",
                place,
                [f"{still_open} are open now", *_time_wait()],
            )
    _retry.settle(record, failing)
    _client.settle(record, short)
    if len(_callers) > 256 or len(_nobody) > 256:
        _callers.clear()
        _nobody.clear()


def _time_wait() -> Iterator[str]:
    """How many connections of this host wait for the last packets of their peers."""
    try:
        with open("/proc/net/sockstat", encoding="ascii") as file:
            text = file.read()
    except OSError:
        return
    words = text.split()
    if "tw" in words:
        yield f"{words[words.index('tw') + 1]} sockets of this host are in TIME_WAIT"


# ---- queues ----

QUEUE_MIN = 1000
_queue = Lasting("queue-growth")
_sizes: weakref.WeakKeyDictionary[Any, deque[tuple[float, int]]] = weakref.WeakKeyDictionary()


def _grows(samples: deque[tuple[float, int]], now: float) -> bool:
    """Whether it has only grown, by a tenth and more, for as long as a trend takes."""
    (first_at, first), (_, last) = samples[0], samples[-1]
    if now - first_at < TREND_S or last - first < max(QUEUE_MIN, first / 10):
        return False
    sizes = [size for _, size in samples]
    return all(before <= after for before, after in zip(sizes, sizes[1:], strict=False))


@rule
def queue_growth(record: Record) -> None:
    """A queue without bounds that is filled faster than it is emptied."""
    users: dict[Any, list[Frame]] = {}
    for queue, code, unit in record.queues:
        if queue.maxsize <= 0:
            users.setdefault(queue, []).append(Frame(code, unit))
    wrong: dict[Hashable, Said] = {}
    for queue, frames in users.items():
        samples = _sizes.setdefault(queue, deque())
        samples.append((record.now, queue.qsize()))
        while len(samples) > 2 and record.now - samples[1][0] >= TREND_S:
            samples.popleft()
        if not _grows(samples, record.now):
            continue
        lines = (_line_of(frame.code, ("put", "put_nowait")) for frame in frames)
        fills = [place for place in lines if place]
        (first_at, first), (_, last) = samples[0], samples[-1]
        wrong[id(queue)] = Said(
            f"A queue without a bound has grown from {first} to {last} entries within "
            f"{seconds(record.now - first_at)}: it is filled faster than it is emptied.",
            "Give it a bound, so that who fills it has to wait: asyncio.Queue(maxsize=1000) and "
            "await queue.put(...); or add consumers.",
            fills[0] if fills else frames[-1].place,
            [f"a task that uses it stands at {frame.place}" for frame in frames[:4]],
        )
    _queue.settle(record, wrong)


# ---- cleaning up ----

_cleanup = Lasting("cleanup-slow")
#: Whose __aexit__ waits for others on purpose.
_NURSERIES = ("asyncio/taskgroups.py", "anyio/_backends/_asyncio.py", "aiotools", "trio")


def _cleans_up(group: Group) -> Place | None:
    """The line in, or under, an __aexit__() or aclose() where tasks wait."""
    for depth, frame in enumerate(group.frames):
        if any(name in frame.code.co_filename for name in _NURSERIES):
            return None
        inner = group.frames[depth - 1] if depth else None
        managed = frame.is_in("contextlib.py") and inner is not None and inner.is_user
        if frame.code.co_name not in ("__aexit__", "aclose"):
            continue
        if frame.is_user or managed:
            own = [one for one in group.frames[: depth + 1] if one.is_user]
            return own[0].place
        if not frame.is_in("contextlib.py"):
            return group.stands_at if group.user >= 0 else None
    return None


@rule
def cleanup_slow(record: Record) -> None:
    """Tasks hang in the end of an `async with`."""
    wrong: dict[Hashable, Said] = {}
    for group in record.groups:
        if group.waits == READY or group.waited < _rules.EVENT_S:
            continue
        place = _cleans_up(group)
        if place is None or place in wrong:
            continue
        wrong[place] = Said(
            f"{group.tasks} task{'s wait' if group.tasks > 1 else ' waits'} at the end of an "
            f"'async with', in its clean-up, the longest for {seconds(group.waited)}.",
            "Put a bound on it: async with asyncio.timeout(5): await client.aclose(); and do not "
            "wait there for what may never come.",
            place,
            [f"made at {group.made_at}"],
        )
    _cleanup.settle(record, wrong)
