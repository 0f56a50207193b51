"""What a part of a run leaves behind: <part>.json with every sample, and <part>.md to read."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from host import ROOT, describe

#: Row -> what was measured -> who -> one figure for each round.
Samples = dict[str, dict[str, dict[str, list[float]]]]


def default_folder(quick: bool) -> Path:
    """Where results go: those of short runs are not kept."""
    version = "%d.%d" % sys.version_info[:2]
    return ROOT / ("build/bench-results" if quick else "bench/results") / version


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def machine_line(machine: Mapping[str, Any]) -> str:
    return (
        f"Python {machine['python']}, {machine['cpu']}, {machine['cpus']} CPUs. Load average before"
        f" and after: {machine['load_average']}, {machine['load_average_after']}."
    )


class Result:
    """One part of the benchmark. `samples` is what ratios are made of, `data` what else there
    is to keep, whatever json can write."""

    def __init__(self, part: str, title: str) -> None:
        self.part = part
        self.title = title
        self.machine = describe()
        self.texts: list[str] = []
        self.samples: Samples = {}
        self.data: dict[str, Any] = {}
        self.failures: list[dict[str, Any]] = []

    def add(self, text: str) -> None:
        self.texts.append(text)
        print("\n" + text, flush=True)

    def fail(self, row: str, name: str, why: str, essential: bool) -> None:
        self.failures.append({"row": row, "name": name, "why": why, "essential": essential})

    def keep(self, row: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Take the numbers of the runs of a row into the samples."""
        kept = self.samples.setdefault(row, {})
        for name, each in runs.items():
            for key, first in (each[0] if each else {}).items():
                if isinstance(first, int | float):
                    kept.setdefault(key, {})[name] = [run[key] for run in each]

    def write(self, folder: Path, notes: str) -> Path:
        machine = dict(self.machine, load_average_after=describe()["load_average"])
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.part}.md"
        date = datetime.date.today().isoformat()
        said = [f"# {self.title}", f"{date}. {machine_line(machine)}", *([notes] if notes else [])]
        if self.failures:
            lines = [f"- {each['row']}, {each['name']}: {each['why']}" for each in self.failures]
            said.append("Left out:\n\n" + "\n".join(lines))
        path.write_text("\n\n".join([*said, *self.texts]) + "\n")
        whole = {
            "part": self.part,
            "title": self.title,
            "date": date,
            "machine": machine,
            "notes": notes,
            "failures": self.failures,
            "samples": self.samples,
        }
        path.with_suffix(".json").write_text(json.dumps(whole | self.data, indent=1) + "\n")
        return path
