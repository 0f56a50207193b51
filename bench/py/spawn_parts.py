"""The part of the benchmark that starts child processes, one after another: beside posix_spawn and
waitpid in C, and with pipes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from host import SERVER_CPU, run_json
from loops import without_tasks
from plan import HERE, Part, Plan, Runs, interleave, progress
from report import Result, table
from stats import ratio

YARDSTICK = "C posix_spawn"
PROGRAM = "/bin/true"
# Many short runs: whatever else goes on then hits all of a round alike.
COUNT = 60
SHORTER = {"uvloop": 20}  # it takes several milliseconds for each
RUNS = 3  # in each round
WITHOUT = ("rloop",)  # it has no subprocesses of its own


def command(name: str, plan: Plan, options: Sequence[str]) -> list[str]:
    count = str(SHORTER.get(name, COUNT))
    if name == YARDSTICK:
        return [str(plan.peers / "spawn"), count, PROGRAM]
    return [sys.executable, str(HERE / "spawn.py"), plan.loop_of(name), count, PROGRAM, *options]


def measure(
    plan: Plan, result: Result, row: str, names: Sequence[str], options: Sequence[str]
) -> Runs:
    """Each run on one CPU, with its children: what is left over for another one does not count."""

    def once(name: str, _: int) -> dict[str, Any]:
        env = plan.env_of(name)
        got = run_json(command(name, plan, options), cpu=SERVER_CPU, timeout_s=120, env=env)
        return got | {"cpu_us": got["parent_us"] + got["child_us"]}

    runs = interleave(result, row, names, plan.rounds * RUNS, once)
    result.keep(row, runs)
    shown = ", ".join(
        f"{name} {statistics.median(run['wall_us'] for run in runs[name]):.0f}" for name in runs
    )
    progress(f"{row}: us {shown}")
    return runs


def lines(rows: dict[str, list[Any]], reference: str) -> list[list[str]]:
    made = []
    for name, runs in rows.items():
        line = [name]
        for key in ("wall_us", "parent_us", "child_us"):
            line.append(f"{statistics.median(run[key] for run in runs):.0f}")
        for key in ("wall_us", "cpu_us"):
            ours, theirs = ([run[key] for run in rows[one]] for one in (name, reference))
            line.append("-" if name == reference else str(ratio(ours, theirs)))
        made.append(line)
    return made


def run_spawn(plan: Plan) -> Result:
    result = Result("processes", f"Child processes: start {PROGRAM} and wait for its end")
    loops = [name for name in without_tasks(plan.loops) if name not in WITHOUT]
    bare = [] if plan.variants else [YARDSTICK]
    for row, title, names, options in (
        ("processes", "standard streams inherited", [*bare, *loops], []),
        ("processes_pipes", "three pipes, communicate()", loops, ["--pipes"]),
    ):
        if not names or not plan.wants("processes", row):
            continue
        runs = measure(plan, result, row, names, options)
        if not runs:
            continue
        reference = next(iter(runs))
        head = ["", "us each", "CPU us parent", "CPU us child"]
        head += [f"time to {reference}", f"CPU to {reference}"]
        result.add(f"## {title}\n\n" + table(head, lines(runs, reference)))
    return result


PARTS = {"processes": Part(run_spawn, ("processes", "processes_pipes"))}
