"""The scheduling rows: every row on every loop in each round, so that a minute in which the machine
was busy with something else is a minute of every row."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from host import SERVER_CPU, Failure, run_json
from loops import OURS, REFERENCE, RIVALS
from micro import BY_HAND, FLOORED
from plan import HERE, Part, Plan, Runs, left_out, progress, turn
from report import Result, table
from stats import Ratio, geometric_ratio, ratio
from workloads import OUTSIDE_MEAN, WORKLOADS

Row = Mapping[str, Sequence[float]]


def floor_of(row: str, plan: Plan) -> list[str]:
    return [BY_HAND] if row == FLOORED and not plan.variants else []


def measure(plan: Plan, result: Result, rows: Sequence[str]) -> dict[str, Runs]:
    runs: dict[str, Runs] = {
        row: {name: [] for name in [*floor_of(row, plan), *plan.loops]}
        for row in rows
    }
    for number in range(plan.rounds):
        for row in rows:
            for name in turn(list(runs[row]), number):
                command = [sys.executable, str(HERE / "micro.py"), plan.loop_of(name), row]
                command.append(str(plan.target_ms))
                try:
                    env = plan.env_of(name)
                    got = run_json(command, cpu=SERVER_CPU, timeout_s=120, env=env)
                    runs[row][name].append(got)
                except Failure as failure:
                    del runs[row][name]
                    left_out(result, row, name, failure)
        progress(f"round {number + 1} of {plan.rounds}")
    return runs


def best_rival(row: Row) -> str | None:
    """The one that took the least, by its median over the rounds."""
    rivals = [name for name in row if name in RIVALS]
    return min(rivals, key=lambda name: statistics.median(row[name]), default=None)


def mean_rows(samples: Mapping[str, Row], name: str) -> list[str]:
    """The rows of the geometric mean that both were measured in."""
    both = [row for row, each in samples.items() if name in each and REFERENCE in each]
    return [row for row in both if row not in OUTSIDE_MEAN]


def over_reference(samples: Mapping[str, Row], name: str) -> Ratio | None:
    """How many times as fast as the reference, in the geometric mean."""
    rows = [samples[row] for row in mean_rows(samples, name)]
    return geometric_ratio([(row[REFERENCE], row[name]) for row in rows]) if rows else None


def over_best(samples: Mapping[str, Row]) -> Ratio | None:
    """How many times as fast as the best rival of each row, in the geometric mean."""
    pairs = []
    for name, row in samples.items():
        best = best_rival(row)
        if best and OURS in row and name not in OUTSIDE_MEAN:
            pairs.append((row[best], row[OURS]))
    return geometric_ratio(pairs) if pairs else None


def times_table(samples: Mapping[str, Row], names: Sequence[str]) -> str:
    head = ["row", *(f"{name} ns" for name in names)]
    lines = []
    for row, each in samples.items():
        cells = [f"{statistics.median(each[n]):.0f}" if n in each else "-" for n in names]
        lines.append([row, *cells])
    return table(head, lines)


def ratio_table(samples: Mapping[str, Row], names: Sequence[str]) -> str:
    """How many times as fast as the reference; and ours as the best rival."""
    others = [name for name in names if name not in (REFERENCE, BY_HAND)]
    lines = []
    for row, each in samples.items():
        line = [row]
        for name in others:
            both = name in each and REFERENCE in each
            line.append(str(ratio(each[REFERENCE], each[name])) if both else "-")
        best = best_rival(each)
        against = best and OURS in each
        line.append(f"{best}: {ratio(each[best], each[OURS])}" if best and against else "-")
        lines.append(line)
    return table(["row", *others, f"{OURS} to the best rival"], lines)


def summarise(result: Result, samples: Mapping[str, Row], loops: Sequence[str]) -> None:
    names = [*([BY_HAND] if BY_HAND in samples.get(FLOORED, {}) else []), *loops]
    result.add("## CPU ns per operation\n\n" + times_table(samples, names))
    if REFERENCE in loops and OURS in loops:
        what = f"## Times as fast as {REFERENCE}\n\n"
        result.add(what + ratio_table(samples, names))
    said = []
    for name in loops:
        mean = over_reference(samples, name)
        if mean and name != REFERENCE:
            count = len(mean_rows(samples, name))
            said.append(f"- {name}: {mean} times as fast as {REFERENCE} ({count} rows)")
    if best := over_best(samples):
        said.append(f"- {OURS}: {best} times as fast as the best rival of each row")
    floored = samples.get(FLOORED, {})
    if OURS in floored and BY_HAND in floored:
        floor = ratio(floored[OURS], floored[BY_HAND])
        said.append(f"- {FLOORED} takes {OURS} {floor} times what the coroutine takes by hand")
    if said:
        without = ", ".join(sorted(OUTSIDE_MEAN))
        result.add(f"Geometric means, without {without}:\n\n" + "\n".join(said))


def run_sched(plan: Plan) -> Result:
    result = Result("sched", "Scheduling: CPU time of the loop's own work")
    rows = [row for row in WORKLOADS if plan.wants("sched", row)]
    runs = measure(plan, result, rows)
    for row in rows:
        result.keep(row, runs[row])
    summarise(result, ns_samples(result.samples), plan.loops)
    return result


def ns_samples(samples: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    return {row: each["ns"] for row, each in samples.items() if each.get("ns")}


PARTS = {"sched": Part(run_sched, tuple(WORKLOADS))}
