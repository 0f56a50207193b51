"""One scheduling row on one loop in this process: python micro.py LOOP WORKLOAD [MILLISECONDS].

Prints a JSON object with ns per operation: the median of some repetitions of about that many
milliseconds each. The CPU clock of the process counts, all threads: what else runs on the machine
and the waiting for timers do not. The process is pinned to one CPU, so where threads hand work to
each other the wall clock says the same on an idle machine; it is reported beside it. LOOP
"by-hand" drives the coroutine of sleep0 without any loop: its floor.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable

from loops import LOOPS, factory
from workloads import LIMIT, WORKLOADS, by_hand

REPETITIONS = 3
TARGET_MS = 80
BY_HAND = "by-hand"
FLOORED = "sleep0"
#: Does the row n times.
Body = Callable[[int], None]


def timed(body: Body, n: int) -> tuple[int, int]:
    """Wall and CPU ns of n operations."""
    gc.collect()
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    body(n)
    return time.perf_counter_ns() - wall, time.process_time_ns() - cpu


def measure(body: Body, target_ms: float, limit: int = 10_000_000) -> dict[str, float]:
    target_ns = target_ms * 1e6
    n = 100
    while True:  # also the warm-up
        _, spent = timed(body, n)
        if n >= limit or spent > target_ns / 5:
            break
        n = min(n * 4, limit)
    n = max(100, min(limit, int(n * target_ns / max(spent, 1)) // 100 * 100))
    runs = [timed(body, n) for _ in range(REPETITIONS)]
    return {
        "ns": statistics.median(run[1] for run in runs) / n,
        "wall_ns": statistics.median(run[0] for run in runs) / n,
        "operations": n,
    }


def run(loop: str, row: str, target_ms: float) -> dict[str, float]:
    if loop == BY_HAND:
        return measure(by_hand, target_ms)
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        inner = runner.get_loop()

        def body(n: int) -> None:
            runner.run(WORKLOADS[row](inner, n))  # type: ignore[arg-type]

        return measure(body, target_ms, LIMIT.get(row, 10_000_000))


def main() -> int:
    rows = [FLOORED] if sys.argv[1:2] == [BY_HAND] else list(WORKLOADS)
    known = len(sys.argv) in (3, 4) and sys.argv[1] in {*LOOPS, BY_HAND}
    if not known or sys.argv[2] not in rows:
        print(f"usage: micro.py {'|'.join(LOOPS)} {'|'.join(WORKLOADS)} [MS]", file=sys.stderr)
        return 2
    milliseconds = float(sys.argv[3]) if len(sys.argv) > 3 else TARGET_MS
    print(json.dumps(run(sys.argv[1], sys.argv[2], milliseconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
