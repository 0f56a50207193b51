"""What a run leaves behind: results/<date>-<what>.json with every figure, and .md to read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host import describe


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


class Result:
    """One part of the benchmark. `text` is Markdown, `data` whatever json can write."""

    def __init__(self, what: str, title: str) -> None:
        self.what = what
        self.title = title
        self.machine = describe()
        self.texts: list[str] = []
        self.data: dict[str, Any] = {}

    def add(self, text: str) -> None:
        self.texts.append(text)
        print("\n" + text, flush=True)

    def write(self, folder: Path, notes: str) -> Path:
        today = datetime.date.today().isoformat()
        machine = dict(self.machine, load_average_after=describe()["load_average"])
        about = (
            f"Python {machine['python']}, Linux {machine['kernel']}, {machine['cpu']},"
            f" {machine['cpus']} CPUs. Load average before and after: {machine['load_average']},"
            f" {machine['load_average_after']}."
        )
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{today}-{self.what}.md"
        parts = [f"# {self.title}", about, *([notes] if notes else []), *self.texts]
        path.write_text("\n\n".join(parts) + "\n")
        whole = {"what": self.what, "date": today, "machine": machine, "notes": notes} | self.data
        path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
        return path
