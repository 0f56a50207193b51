"""What waits: a million pending tasks or timers, and thousands of idle connections."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from cells import TLS, start
from host import CLIENT_CPU, SERVER_CPU, run_json
from loops import REFERENCE, without_tasks
from plan import HERE, YARDSTICK, Part, Plan, interleave, progress
from report import Result, table
from stats import ratio

ROUNDS_MAX = 3
#: Rows: what waits, and options.
PENDING = {
    "pending_tasks": ("tasks", []),
    "pending_tasks_gc_off": ("tasks", ["gc-off"]),
    "pending_timers": ("timers", []),
}


def measure_pending(plan: Plan, result: Result, row: str, loops: Sequence[str]) -> None:
    kind, options = PENDING[row]

    def once(name: str, _: int) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "pending.py"), plan.loop_of(name), kind]
        command += [str(plan.pending), *options]
        return run_json(command, cpu=SERVER_CPU, timeout_s=300, env=plan.env_of(name))

    runs = interleave(result, row, loops, min(plan.rounds, ROUNDS_MAX), once)
    result.keep(row, runs)
    lines = []
    for name, each in runs.items():
        line = [name]
        for key in ("create_ns", "teardown_ns", "bytes"):
            line.append(f"{statistics.median(run[key] for run in each):.0f}")
        for other, key in ((REFERENCE, "both_ns"), ("asyncio", "bytes")):
            if name == other or other not in runs:
                line.append("-")
            else:
                theirs = [run[key] for run in runs[other]]
                line.append(str(ratio([run[key] for run in each], theirs)))
        lines.append(line)
    head = ["", "create ns", "teardown ns", "bytes", f"time to {REFERENCE}", "memory to asyncio"]
    how = ", the garbage collector off" if options else ""
    result.add(f"## {plan.pending:,} pending {kind}{how}\n\n" + table(head, lines))


def run_pending(plan: Plan) -> Result:
    result = Result("pending", f"{plan.pending:,} pending tasks and timers, for each")
    for row, (kind, _) in PENDING.items():
        if plan.wants("pending", row):
            loops = plan.loops if kind == "tasks" else without_tasks(plan.loops)
            measure_pending(plan, result, row, loops)
    return result


def measure_idle(
    plan: Plan, result: Result, kind: str, loops: Sequence[str], connections: int
) -> Result:
    row = f"idle_{kind}"

    def once(name: str, _: int) -> dict[str, Any]:
        with start(kind, name, plan) as server:
            command = [str(plan.peers / "loadgen"), "idle", "--port", server.ready.group(1)]
            command += ["--pid", str(server.pid), "--connections", str(connections)]
            command += ["--tls"] if kind.startswith(TLS) else []
            return run_json(command, cpu=CLIENT_CPU, timeout_s=120)

    names = loops if plan.variants else [YARDSTICK, *loops]
    runs = interleave(result, row, names, min(plan.rounds, ROUNDS_MAX), once)
    result.keep(row, runs)
    medians = {
        name: statistics.median(run["bytes_per_connection"] for run in each)
        for name, each in runs.items()
    }
    progress(", ".join(f"{name} {value:.0f}" for name, value in medians.items()))
    lines = [[name, f"{value:.0f}"] for name, value in medians.items()]
    result.add(table(["server", "bytes per connection"], lines))
    return result


def run_idle(plan: Plan) -> Result:
    """Memory of connections that each echoed once and then do nothing."""
    result = Result("idle", f"{plan.idle:,} idle connections: resident memory of each")
    return measure_idle(plan, result, "protocol", without_tasks(plan.loops), plan.idle)


PARTS = {
    "pending": Part(run_pending, tuple(PENDING)),
    "idle": Part(run_idle, ("idle_protocol",)),
}
