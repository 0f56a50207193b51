"""One page and one plot of all results in a folder: python summary.py FOLDER. Made of what the
parts have written there, in whichever run."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loops import LOOPS, OURS, REFERENCE
from micro import BY_HAND
from plan import YARDSTICK
from plot import Dot, Line, Panel, draw
from report import Samples, machine_line, table
from sched_parts import ns_samples, over_best, over_reference, ratio_table
from stats import ratio
from targets import targets

#: Parts whose rows are compared by CPU time, in the order of the page.
CPU_PARTS = ("apps", "echo", "udp", "tls", "tls_handshake", "processes")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Part -> what it wrote."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        whole = json.loads(path.read_text())
        found[whole["part"]] = whole
    return found


def merged(parts: Mapping[str, Mapping[str, Any]]) -> Samples:
    return {row: each for part in parts.values() for row, each in part["samples"].items()}


def goals(samples: Samples, python: str) -> str | None:
    """The numbers to reach by the version of Python that ran."""
    lines = []
    for target in targets(python):
        if got := target.find(samples):
            lines.append([target.what, target.asked, str(got), target.verdict(got)])
    return table(["what", "asked", "measured", "reached"], lines) if lines else None


def python_of(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The version that ran the parts; they are all of one."""
    return next(str(part["machine"]["python"]) for part in parts.values())


def cpu_rows(samples: Samples) -> dict[str, dict[str, list[float]]]:
    return {row: each["cpu_us"] for row, each in samples.items() if "cpu_us" in each}


def cpu_table(samples: Samples) -> str | None:
    """CPU of ours beside that of uvloop and of the bare server; both as ratios."""
    lines = []
    for row, each in cpu_rows(samples).items():
        if OURS not in each:
            continue
        bare = next((name for name in each if name.startswith("C ")), None)
        line = [row, f"{statistics.median(each[OURS]):.2f}"]
        for other in (bare, REFERENCE, "asyncio"):
            usable = other in each if other else False
            line.append(str(ratio(each[OURS], each[other])) if other and usable else "-")
        lines.append(line)
    head = ["row", f"{OURS} us", "to bare C", f"to {REFERENCE}", "to asyncio"]
    return table(head, lines) if lines else None


def page(parts: Mapping[str, Mapping[str, Any]]) -> str:
    samples = merged(parts)
    said = ["# Results"]
    for line in sorted({f"{p['date']}. {machine_line(p['machine'])}" for p in parts.values()})[:1]:
        said.append(line)
    notes = sorted({part["notes"] for part in parts.values()} - {""})
    said += notes
    said.append("![All rows beside uvloop](summary.svg)")
    if text := goals(samples, python_of(parts)):
        said.append(f"## Numbers to reach\n\nBy {OURS}, with its own tasks.\n\n{text}")
    rows = ns_samples(parts["sched"]["samples"]) if "sched" in parts else {}
    if rows and all(REFERENCE in row and OURS in row for row in rows.values()):
        names = [name for name in LOOPS if any(name in row for row in rows.values())]
        means = [over_reference(rows, OURS), over_best(rows)]
        text = f"## Scheduling: times as fast as {REFERENCE}\n\n" + ratio_table(rows, names)
        if means[0] and means[1]:
            text += f"\n\nGeometric means: {means[0]} to {REFERENCE}, {means[1]} to the best rival."
        said.append(text)
    chosen = {part: whole for part, whole in parts.items() if part in CPU_PARTS}
    if text := cpu_table(merged({part: chosen[part] for part in CPU_PARTS if part in chosen})):
        said.append(f"## CPU time of an operation\n\n{text}")
    links = [f"- [{whole['title']}]({part}.md)" for part, whole in parts.items()]
    said.append("## Parts\n\n" + "\n".join(links))
    lost = [
        f"- {each['row']}, {each['name']}: {each['why']}"
        for whole in parts.values()
        for each in whole["failures"]
    ]
    if lost:
        said.append("## Left out\n\n" + "\n".join(lost))
    return "\n\n".join(said) + "\n"


def line_of(row: str, each: Mapping[str, list[float]]) -> Line | None:
    """Everyone's speed as times the reference's."""
    if REFERENCE not in each:
        return None
    dots = []
    for name, values in each.items():
        if name in (REFERENCE, BY_HAND) or (name not in LOOPS and name != YARDSTICK):
            continue
        dots.append(Dot(name, ratio(each[REFERENCE], values)))
    return Line(row, dots)


def panels(parts: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    made = []
    for title, part, key in (
        ("Scheduling", "sched", "ns"),
        ("Whole programs", "apps", "cpu_us"),
        ("TCP echo", "echo", "cpu_us"),
        ("UDP echo", "udp", "cpu_us"),
        ("TLS", "tls", "cpu_us"),
        ("TLS handshakes", "tls_handshake", "cpu_us"),
    ):
        samples = parts.get(part, {}).get("samples", {})
        lines = [line_of(row, each[key]) for row, each in samples.items() if key in each]
        if kept := [line for line in lines if line and line.dots]:
            made.append(Panel(title, kept))
    return made


def write(folder: Path) -> list[Path]:
    """The page and, where there is something to compare, the plot."""
    parts = read(folder)
    written = []
    if made := panels(parts):
        plot = folder / "summary.svg"
        plot.write_text(draw(made, f"Speed as times {REFERENCE}'s (right is faster)"))
        written.append(plot)
    text = page(parts)
    if not made:
        text = text.replace("![All rows beside uvloop](summary.svg)\n\n", "")
    (folder / "summary.md").write_text(text)
    return [*written, folder / "summary.md"]


if __name__ == "__main__":
    for path in write(Path(sys.argv[1])):
        print(f"wrote {path}")
