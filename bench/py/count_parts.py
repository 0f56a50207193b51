"""User-space instructions of the scheduling rows: what no other process on the machine changes. By
`perf stat` where the machine counts them; else by callgrind, for fewer operations."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counting import FACTOR, fewer
from host import SERVER_CPU, Failure, child_environment
from loops import REFERENCE
from micro import BY_HAND, FLOORED
from plan import HERE, Part, Plan, interleave, progress
from report import Result, table
from sched_parts import floor_of
from stats import geometric_mean
from workloads import OUTSIDE_MEAN, WORKLOADS

ROUNDS_MAX = 3  # they hardly differ; callgrind takes minutes for one
PERF_OPERATIONS = 20_000
CALLGRIND_OPERATIONS = 300
PERF = ["perf", "stat", "-x", ",", "-e", "instructions:u"]
PREFIX = "instructions_"
#: Under callgrind a row takes long enough for a stall report, which would be counted, too.
QUIET = {"TAUT_STALL": "off", "TAUT_DOCTOR": "off"}


def perf_counts() -> bool:
    if shutil.which("perf") is None:
        return False
    done = subprocess.run([*PERF, "true"], capture_output=True, text=True)
    return done.returncode == 0 and re.search(r"^\d+,", done.stderr, re.M) is not None


def run(command: Sequence[str], env: Mapping[str, str], timeout_s: float) -> str:
    """What it says on stderr."""
    environment = child_environment({**env, **QUIET})
    pinned = ["taskset", "-c", str(SERVER_CPU), *command]
    try:
        done = subprocess.run(
            pinned, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(command[:6])} took longer than {timeout_s:.0f} s") from None
    if done.returncode:
        raise Failure(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return done.stderr


def by_perf(loop: str, env: Mapping[str, str], rows: Sequence[str]) -> dict[str, float]:
    counted = {}
    for row in rows:
        few = fewer(row, PERF_OPERATIONS)
        totals = []
        for times in (few, few * FACTOR):
            command = [sys.executable, str(HERE / "counting.py"), loop, "plain", row, str(times)]
            found = re.search(r"^(\d+),", run([*PERF, *command], env, 120), re.M)
            if found is None:
                raise Failure(f"perf counted nothing of {loop}, {row}")
            totals.append(int(found.group(1)))
        counted[row] = (totals[1] - totals[0]) / (few * (FACTOR - 1))
    return counted


def by_callgrind(
    marks: Path, loop: str, env: Mapping[str, str], rows: Sequence[str]
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        command += [f"--callgrind-out-file={out}"]
        command += [sys.executable, str(HERE / "counting.py"), loop, str(marks)]
        run([*command, str(CALLGRIND_OPERATIONS), *rows], env, 600)
        totals: dict[str, list[tuple[int, int]]] = {}
        for dump in Path(folder).glob("out.*"):
            text = dump.read_text()
            about = re.search(r"^desc: Trigger: Client Request: (\w+) (\d+)", text, re.M)
            # Not the line "summary", which wraps around where a thread began in between.
            total = re.search(r"^totals: (\d+)", text, re.M)
            if about and total:
                found = totals.setdefault(about.group(1), [])
                found.append((int(about.group(2)), int(total.group(1))))
    counted = {}
    for row in rows:
        if len(pair := sorted(totals.get(row, []))) != 2:
            raise Failure(f"callgrind wrote no totals for {loop}, {row}")
        (few, less), (many, more) = pair
        counted[row] = (more - less) / (many - few)
    return counted


def run_instructions(plan: Plan) -> Result:
    result = Result("instructions", "Scheduling: user-space instructions per operation")
    rows = [row for row in WORKLOADS if plan.wants("instructions", PREFIX + row)]
    marks = plan.peers / "marks.so"
    with_perf = perf_counts()
    if not with_perf and not (marks.exists() and shutil.which("valgrind")):
        result.add("Not counted: perf counts no instructions here, and valgrind is missing.")
        return result
    floor = floor_of(FLOORED, plan) if FLOORED in rows else []

    def once(name: str, _: int) -> dict[str, Any]:
        its = [FLOORED] if name == BY_HAND else rows
        loop, env = plan.loop_of(name), plan.env_of(name)
        counted = by_perf(loop, env, its) if with_perf else by_callgrind(marks, loop, env, its)
        shown = ", ".join(f"{row} {value:.0f}" for row, value in counted.items())
        progress(f"{name}: {shown}")
        return dict(counted)

    rounds = min(plan.rounds, ROUNDS_MAX) if with_perf else 1
    runs = interleave(result, "instructions", [*floor, *plan.loops], rounds, once)
    for row in rows:
        each = {n: [r[row] for r in got] for n, got in runs.items() if row in got[0]}
        result.samples[PREFIX + row] = {"instructions": each}
    result.data["method"] = "perf stat" if with_perf else "callgrind"
    said = (
        "Counted by `perf stat`, the difference of a long and a short run."
        if with_perf
        else "Counted by callgrind, the difference of a long and a short run, without the watchdog"
        " (it goes by the clock, which callgrind does not slow down); `perf stat` counts no"
        " instructions on this machine."
    )
    result.add(f"{said} The cyclic garbage collector was off. Rounds: {rounds}.")
    names = list(runs)
    head = ["row", *names, *(f"{n} to {REFERENCE}" for n in names if n not in (REFERENCE, BY_HAND))]
    lines = []
    for row in rows:
        each = result.samples[PREFIX + row]["instructions"]
        medians = {name: statistics.median(values) for name, values in each.items()}
        line = [row, *(f"{medians[name]:.0f}" if name in medians else "-" for name in names)]
        for name in names:
            if name not in (REFERENCE, BY_HAND):
                both = name in medians and REFERENCE in medians
                line.append(f"{medians[name] / medians[REFERENCE]:.3f}" if both else "-")
        lines.append(line)
    result.add(table(head, lines))
    if said := means(result, [row for row in rows if row not in OUTSIDE_MEAN], names):
        without = ", ".join(sorted(OUTSIDE_MEAN))
        result.add(f"Geometric means to {REFERENCE}, without {without}: {said}.")
    return result


def means(result: Result, rows: Sequence[str], names: Sequence[str]) -> str:
    """What each needs of what the reference does, over the rows that both were counted in."""
    said = []
    for name in names:
        each = [
            statistics.median(of[name]) / statistics.median(of[REFERENCE])
            for of in (result.samples[PREFIX + row]["instructions"] for row in rows)
            if name in of and REFERENCE in of
        ]
        if each and name not in (REFERENCE, BY_HAND):
            said.append(f"{name} {geometric_mean(each):.3f}")
    return ", ".join(said)


PARTS = {"instructions": Part(run_instructions, tuple(PREFIX + row for row in WORKLOADS))}
