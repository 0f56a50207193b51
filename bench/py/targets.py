"""The numbers to reach, each as a ratio within one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from loops import OURS, REFERENCE
from micro import BY_HAND, FLOORED
from plan import YARDSTICK
from report import Samples
from sched_parts import best_rival, ns_samples, over_best, over_reference
from stats import Ratio, ratio
from workloads import OUTSIDE_MEAN, WORKLOADS

#: The geometric means to reach against uvloop and the best rival: Python's version -> both.
MEANS: dict[tuple[int, ...], tuple[float, float]] = {(3, 14): (3.0, 1.6)}
USUAL_MEANS = (4.0, 2.0)


class Target(NamedTuple):
    what: str
    bound: float
    at_most: bool
    find: Callable[[Samples], Ratio | None]
    #: Being level is enough: reached unless the whole interval is on the wrong side.
    level: bool = False

    @property
    def asked(self) -> str:
        if self.level:
            return "not behind"
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"

    def verdict(self, got: Ratio) -> str:
        right = got.value <= self.bound if self.at_most else got.value >= self.bound
        noisy = got.low <= self.bound <= got.high
        if self.level:
            return "yes" if right or noisy else "no"
        return ("yes" if right else "no") + (", within the noise" if noisy else "")


def between(row: str, metric: str, over: str, under: str) -> Callable[[Samples], Ratio | None]:
    """The ratio of two in one row; None where either was not measured."""

    def find(samples: Samples) -> Ratio | None:
        each: Mapping[str, list[float]] = samples.get(row, {}).get(metric, {})
        return ratio(each[over], each[under]) if over in each and under in each else None

    return find


def ahead(row: str) -> Callable[[Samples], Ratio | None]:
    """How many times as fast as the row's best rival."""

    def find(samples: Samples) -> Ratio | None:
        each = samples.get(row, {}).get("ns", {})
        best = best_rival(each)
        return ratio(each[best], each[OURS]) if best and OURS in each else None

    return find


def targets(python: str) -> list[Target]:
    """Those of a version of Python, such as ``"3.14.10"``."""
    mean, best = MEANS.get(tuple(int(n) for n in python.split(".")[:2]), USUAL_MEANS)
    found = [
        Target(f"{FLOORED}: time to the coroutine by hand", 1.15, True,
               between(FLOORED, "ns", OURS, BY_HAND)),
        Target(f"scheduling rows, geometric mean: times as fast as {REFERENCE}", mean, False,
               lambda s: over_reference(ns_samples(s), OURS)),
        Target("scheduling rows, geometric mean: times as fast as the best rival", best, False,
               lambda s: over_best(ns_samples(s))),
    ]  # fmt: skip
    for row in WORKLOADS:
        what = f"{row}: times as fast as the best rival"
        found.append(Target(what, 1.0, False, ahead(row), level=row in OUTSIDE_MEAN))
    for row, bound in (
        ("protocol_64_x10", 1.08), ("protocol_64_x1000", 1.08), ("protocol_1024_x10", 1.08),
        ("protocol_1024_x1000", 1.08), ("protocol_102400_x10", 1.15),
        ("protocol_102400_x1000", 1.15), ("streams_64_x10", 1.35), ("streams_1024_x10", 1.35),
        ("streams_1024_x1000", 1.35), ("sock_64_x10", 1.30), ("sock_1024_x10", 1.30),
    ):  # fmt: skip
        what = f"{row}: CPU to the bare C server"
        found.append(Target(what, bound, True, between(row, "cpu_us", OURS, YARDSTICK)))
    for row, bound in (
        ("uvicorn_x32", 1.10), ("aiohttp_x32", 1.07), ("aiohttp_client", 1.10),
        ("fastapi_x32", 1.04),
    ):  # fmt: skip
        what = f"{row}: requests per CPU second to {REFERENCE}"
        found.append(Target(what, bound, False, between(row, "cpu_us", REFERENCE, OURS)))
    found += [
        Target(f"asyncpg_query: CPU to {REFERENCE}", 0.9, True,
               between("asyncpg_query", "cpu_us", OURS, REFERENCE)),
        Target(f"pending tasks: times as fast as {REFERENCE}", 3.0, False,
               between("pending_tasks", "both_ns", REFERENCE, OURS)),
        Target(f"pending tasks, no garbage collection: times as fast as {REFERENCE}", 3.0, False,
               between("pending_tasks_gc_off", "both_ns", REFERENCE, OURS)),
        Target("pending tasks: memory to asyncio", 1.2, True,
               between("pending_tasks", "bytes", OURS, "asyncio")),
    ]  # fmt: skip
    return found
