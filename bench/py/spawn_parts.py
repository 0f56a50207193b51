"""The part of the benchmark that starts child processes, one after another: beside posix_spawn and
waitpid in C, and with pipes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from host import SERVER_CPU, run_json
from parts import FIXED, HERE, Plan, progress, rotated
from report import Result, table
from stats import ratio

YARDSTICK = "C posix_spawn"
PROGRAM = "/bin/true"
# Many short runs: whatever else goes on then hits all of a round alike.
COUNT = 60
SHORTER = {"uvloop": 20}  # it takes several milliseconds for each
RUNS = 5  # in each round
WITHOUT = ("rloop",)  # it has no subprocesses of its own


def command(name: str, plan: Plan, options: Sequence[str]) -> list[str]:
    count = str(SHORTER.get(name, COUNT))
    if name == YARDSTICK:
        return [str(plan.peers / "spawn"), count, PROGRAM]
    return [sys.executable, str(HERE / "spawn.py"), name, count, PROGRAM, *options]


def measure(
    plan: Plan, title: str, names: Sequence[str], options: Sequence[str]
) -> dict[str, list[Any]]:
    """Each run on one CPU, with its children: what is left over for another one does not count."""
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for _, name in rotated(names, plan.rounds * RUNS):
        got = run_json(command(name, plan, options), cpu=SERVER_CPU, timeout_s=120, env=FIXED)
        rows[name].append(got | {"cpu_us": got["parent_us"] + got["child_us"]})
    shown = ", ".join(
        f"{name} {statistics.median(run['wall_us'] for run in rows[name]):.0f}" for name in names
    )
    progress(f"{title}: us {shown}")
    return rows


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
    result = Result("spawn", f"Child processes: start {PROGRAM} and wait for its end")
    loops = [name for name in plan.loops if name not in WITHOUT]
    result.data["cells"] = {}
    for title, names, options in (
        ("standard streams inherited", [YARDSTICK, *loops], []),
        ("three pipes, communicate()", loops, ["--pipes"]),
    ):
        if not names:
            continue
        rows = measure(plan, title, names, options)
        result.data["cells"][title] = rows
        reference = names[0]
        head = ["", "us each", "CPU us parent", "CPU us child"]
        head += [f"time to {reference}", f"CPU to {reference}"]
        result.add(f"## {title}\n\n" + table(head, lines(rows, reference)))
    return result


PARTS: dict[str, Callable[[Plan], Result]] = {"spawn": run_spawn}
