"""Rules about what tasks wait for: pools, threads, lookups, each other's crowd."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

from ._blame import Place
from ._rules import (
    EVENT_S,
    EXECUTOR,
    FUTURE,
    READY,
    Frame,
    Group,
    Lasting,
    Record,
    Said,
    Since,
    place_of,
    rule,
    seconds,
)
from ._watched import watched_state

#: What a pool's acquire() is made of: whoever waits inside these waits for the one that called.
_PRIMITIVES = (
    "asyncio/locks.py", "asyncio/queues.py", "asyncio/futures.py", "asyncio/timeouts.py",
    "asyncio/mixins.py", "anyio/_core/_synchronization.py", "anyio/_backends/_asyncio.py",
    "async_timeout/__init__.py", "httpcore/_synchronization.py", "psycopg_pool/_acompat.py",
    "psycopg_pool/pool_async.py:wait",
)  # fmt: skip
#: Whose pool it is, where it waits, and how it is made larger.
_POOLS = (
    ("asyncpg", "asyncpg/pool.py", ("_acquire", "_acquire_impl"), "max_size"),
    ("psycopg_pool", "psycopg_pool/pool_async.py", ("getconn", "_getconn", "wait"), "max_size"),
    ("SQLAlchemy", "sqlalchemy/util/_concurrency_py3k.py", ("greenlet_spawn",),
     "pool_size and max_overflow"),
    ("SQLAlchemy", "sqlalchemy/util/concurrency.py", ("greenlet_spawn",),
     "pool_size and max_overflow"),
    ("redis", "redis/asyncio/connection.py", ("get_connection",), "max_connections"),
    ("aiohttp", "aiohttp/connector.py", ("connect", "_wait_for_available_connection"),
     "TCPConnector(limit=...)"),
    ("httpcore", "httpcore/_async/connection_pool.py", ("wait_for_connection",),
     "Limits(max_connections=...)"),
    ("aiomysql", "aiomysql/pool.py", ("_acquire", "_fill_free_pool"), "maxsize"),
    ("asyncmy", "asyncmy/pool.pyx", ("_acquire",), "maxsize"),
    ("aiopg", "aiopg/pool.py", ("_acquire", "_fill_free_pool"), "maxsize"),
)  # fmt: skip
#: What calls its method acquire() but has nothing to give back late: waiting is its purpose.
_LIMITERS = ("lock", "semaphore", "limit", "throttl", "bucket", "rate", "mutex", "barrier")


def _is_primitive(frame: Frame) -> bool:
    if frame.is_in("asyncio/tasks.py"):
        return frame.code.co_name == "wait_for"
    return frame.is_in(*_PRIMITIVES)


def _waits_in(group: Group) -> Frame | None:
    """The innermost frame that is no part of asyncio's locks and queues, where they wait in one."""
    for depth, frame in enumerate(group.frames):
        if not _is_primitive(frame):
            return frame if depth > 0 or group.waits == FUTURE else None
    return None


def _pool_of(group: Group) -> tuple[str, str, Frame] | None:
    """Name of the pool, what makes it larger, and the frame of its acquire()."""
    frame = _waits_in(group)
    if frame is None or group.waits == READY:
        return None
    for name, file, functions, size in _POOLS:
        if frame.code.co_name in functions and frame.is_in(file):
            inner = group.frames[0]
            if "greenlet_spawn" in functions and not inner.is_in("asyncio/queues.py"):
                return None
            return name, size, frame
    if frame.code.co_name in ("acquire", "_acquire"):
        owner = frame.code.co_qualname.rpartition(".")[0].rpartition(".")[2] or "the pool"
        if not any(word in frame.code.co_qualname.lower() for word in _LIMITERS):
            return owner, "its size", frame
    return None


def _caller(group: Group, acquire: Frame) -> Place:
    """The program's own line that asked for it: outside of acquire() itself."""
    at = group.frames.index(acquire)
    for frame in group.frames[at + 1 :]:
        if frame.code.co_name not in ("acquire", "_acquire", "__aenter__") and frame.is_user:
            return frame.place
    return acquire.place


_pool = Lasting("pool-exhausted")


def _elsewhere(record: Record, waiting: list[Group]) -> Iterator[str]:
    """Where tasks of the same kinds stand that do not wait for the pool: they may hold it."""
    kinds = {(group.site_code, group.site_unit) for group in waiting}
    others = [group for group in record.groups
              if (group.site_code, group.site_unit) in kinds and group not in waiting
              and group.waits != READY]  # fmt: skip
    others.sort(key=lambda group: -group.waited)
    for group in others[:3]:
        yield (f"meanwhile {group.tasks} of the same kind stand at {group.stands_at}, "
               f"the longest for {seconds(group.waited)}")  # fmt: skip


@rule
def pool_exhausted(record: Record) -> None:
    """Tasks have waited for a connection of a pool for as long as an event takes."""
    found: dict[Place, list[tuple[Group, str, str]]] = defaultdict(list)
    for group in record.groups:
        pool = _pool_of(group)
        if pool is not None:
            name, size, frame = pool
            found[_caller(group, frame)].append((group, name, size))
    wrong: dict[Hashable, Said] = {}
    for place, members in found.items():
        groups = [member[0] for member in members]
        waited = max(group.waited for group in groups)
        if waited < EVENT_S:
            continue
        _, name, size = members[0]
        tasks = sum(group.tasks for group in groups)
        wrong[place] = Said(
            f"{tasks} task{'s wait' if tasks > 1 else ' waits'} for a connection of the pool of "
            f"{name}, the oldest for {seconds(waited)}: all of them are in use.",
            "Hold a connection only around the query (async with pool.acquire() as connection: "
            f"...) and not across other awaits, or raise {size}; with a timeout those who wait "
            "fail instead of piling up.",
            place,
            [f"{group.tasks} made at {group.made_at}" for group in groups[:3]]
            + list(_elsewhere(record, groups)) + watched_state(),
        )  # fmt: skip
    _pool.settle(record, wrong)


# ---- too many at once ----

FANOUT_TASKS = 1000
_fanout = Lasting("unbounded-fanout")
#: Waiting here is no work in progress: somebody bounds it, or it is meant to last.
_CALM = ("asyncio/locks.py", "asyncio/queues.py", "asyncio/tasks.py")


@rule
def unbounded_fanout(record: Record) -> None:
    """Thousands of tasks that were made in one go wait at one place."""
    wrong: dict[Hashable, Said] = {}
    for group in record.groups:
        if (
            group.together < FANOUT_TASKS
            or group.waits == READY
            or group.waited < EVENT_S
            or (group.frames and group.frames[0].is_in(*_CALM))
        ):
            continue
        place = group.made_at
        if place in wrong:
            continue
        wrong[place] = Said(
            f"{group.together} tasks were made in one go and {group.tasks} of them are under way "
            f"at the same time, the oldest for {seconds(group.age)}.",
            "Bound how many run at once: limit = asyncio.Semaphore(100) and, in each task, "
            "async with limit: ...; or let a fixed number of workers take the work from a queue.",
            place,
            [f"{group.tasks} stand at {group.stands_at}, the longest for {seconds(group.waited)}"],
        )
    _fanout.settle(record, wrong)


# ---- threads ----

EXECUTOR_WAIT_S = 0.5
_executor = Lasting("executor-saturated")
_executor_since = Since()


def _pool_size(executor: Any) -> int | None:
    size = getattr(executor, "_max_workers", None)
    return size if isinstance(size, int) else None


def _filler(record: Record, calls: list[Any]) -> Place | None:
    """Who fills the executor: the program's own line where there is one."""
    most = max(calls, key=lambda call: call.queued + call.running)
    site = None if most.site_code is None else Frame(most.site_code, most.site_unit)
    if site is not None and site.is_user:
        return site.place
    own = [group for group in record.groups if group.waits == EXECUTOR and group.blame]
    crowd = max(own, key=lambda group: group.tasks, default=None)
    if crowd is not None:
        return crowd.blame
    return None if site is None else site.place


@rule
def executor_saturated(record: Record) -> None:
    """Calls wait for a free thread of an executor, and have done so for as long as an event."""
    by_executor: dict[int, list[Any]] = defaultdict(list)
    for call in record.calls:
        by_executor[id(call.executor)].append(call)
    late = {
        key: calls for key, calls in by_executor.items()
        if max(call.waited for call in calls) >= EXECUTOR_WAIT_S
    }  # fmt: skip
    lasted = _executor_since.seen(record.now, [(record.loop, key) for key in late])
    wrong: dict[Hashable, Said] = {}
    for key, calls in late.items():
        waited = max(call.waited for call in calls)
        if max(waited, lasted[record.loop, key]) < EVENT_S:
            continue
        queued, running = (sum(call[i] for call in calls) for i in (3, 4))
        size = _pool_size(calls[0].executor)
        pool = "an executor" if size is None else (
            f"a pool of {size} worker{'s' if size != 1 else ''}"
        )
        wrong[key] = Said(
            f"{queued} call{'s' if queued != 1 else ''} of run_in_executor() or to_thread() wait "
            f"for a free thread in {pool}, the oldest for {seconds(waited)}.",
            "Give this work a pool of its own that is large enough "
            "(ThreadPoolExecutor(max_workers=...) as the first argument of run_in_executor()), or "
            "use an asynchronous library; and bound how much is begun at once.",
            _filler(record, calls),
            [
                f"{call.queued} queued and {call.running} running from "
                f"{place_of(call.site_code, call.site_unit) if call.site_code else 'elsewhere'}"
                for call in sorted(calls, key=lambda call: -call.queued)[:5]
            ],
        )
    _executor.settle(record, wrong)


# ---- names ----

RESOLVER_WAIT_S = 1.0
_resolver = Lasting("resolver-queue")
_resolver_since = Since()
_LOOKUPS = ("_ensure_resolved", "_resolve_both", "getaddrinfo", "resolve", "_resolve_host")


def _who_resolves(record: Record) -> Group | None:
    own = [
        group for group in record.groups
        if group.user >= 0
        and any(frame.code.co_name in _LOOKUPS for frame in group.frames[: group.user + 1])
    ]  # fmt: skip
    waits = own or [group for group in record.groups if group.user == 0 and group.waits == FUTURE]
    return max(waits, key=lambda group: group.tasks, default=None)


@rule
def resolver_queue(record: Record) -> None:
    """Lookups of names wait for one of the resolver's threads."""
    names = record.resolver
    late = names.queued > 0 and names.waited >= RESOLVER_WAIT_S
    lasted = _resolver_since.seen(record.now, [record.loop] if late else [])
    wrong: dict[Hashable, Said] = {}
    if late and max(names.waited, lasted[record.loop]) >= EVENT_S:
        crowd = _who_resolves(record)
        wrong["resolver"] = Said(
            f"{names.queued} lookups of host names wait for one of the resolver's {names.threads} "
            f"threads, the oldest lookup for {seconds(names.waited)}: the name server is slow.",
            "Keep connections open instead of making new ones (one client for the whole program), "
            "use a caching resolver on this host, or connect to an address.",
            None if crowd is None else crowd.stands_at,
            [f"{names.pending} lookups under way, {names.threads} of them in threads"],
        )
    _resolver.settle(record, wrong)
