#!/usr/bin/env python3
"""Writes the tables of docs/COMPAT.md from the leave-outs and the results beside it.

    python tests/compat/run.py --json tests/compat/results/3.11.json   (and so on)
    python tests/compat/suites.py --json tests/compat/results/suites-3.11.json
    python tests/compat/render.py [--check]

With --check nothing is written; exit status 1 when the document is not up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import leaveouts
import suite_setup

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs" / "COMPAT.md"
RESULTS = HERE / "results"


def version(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in result["python"].split("."))


def results_table() -> list[str]:
    """One row a module; for each Python: passed / failed / left out, and asyncio's own."""
    results = [json.loads(path.read_text("utf-8")) for path in RESULTS.glob("3.*.json")]
    results.sort(key=version)
    lines = ["| suite | " + " | ".join(result["python"] for result in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    modules = sorted({module for result in results for module in result["modules"]})
    totals = [[0, 0, 0, 0] for _ in results]
    for module in modules:
        cells = []
        for index, result in enumerate(results):
            row = result["modules"].get(module)
            if row is None:
                cells.append("–")
                continue
            numbers = [row["ok"], row["failed"], row["left_out"], row["asyncio_ok"] or 0]
            totals[index] = [a + b for a, b in zip(totals[index], numbers)]
            cells.append(cell(numbers))
        lines.append(f"| {module} | " + " | ".join(cells) + " |")
    lines.append("| **all** | " + " | ".join(cell(total) for total in totals) + " |")
    return lines


def cell(numbers: list[int]) -> str:
    passed, failed, left, theirs = numbers
    text = f"{passed} of {theirs}"
    if failed:
        text += f", {failed} failed"
    if left:
        text += f", {left} left out"
    return text


def leaveouts_table() -> list[str]:
    lines = ["| left out | reason |", "|---|---|"]
    for row in leaveouts.load():
        if row.loops and "taut" not in row.loops:
            continue
        tests = "<br>".join(f"`{test}`" for test in row.tests)
        only = f" ({', '.join(row.python)})" if row.python else ""
        lines.append(f"| {tests}{only} | {row.reason} |")
    return lines


def suites_table() -> list[str]:
    """One row a suite; for each Python: passed of asyncio's passed."""
    results = [json.loads(path.read_text("utf-8")) for path in RESULTS.glob("suites-*.json")]
    results.sort(key=version)
    lines = ["| suite | " + " | ".join(result["python"] for result in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for suite in suite_setup.load():
        rows = [result["suites"].get(suite.name) for result in results]
        cells = [
            cell([row["ok"], len(row["failed"]), row["left_out"], row["asyncio_ok"]])
            if row and row["version"] == suite.version else "–" for row in rows
        ]
        lines.append(f"| {suite.name} {suite.version} | " + " | ".join(cells) + " |")
    return lines


def suite_leaveouts_table() -> list[str]:
    lines = ["| left out | reason |", "|---|---|"]
    for suite in suite_setup.load():
        for row in suite.leaveouts:
            tests = "<br>".join(f"`{test}`" for test in row["tests"])
            only = f" ({', '.join(row['python'])})" if row.get("python") else ""
            lines.append(f"| {suite.name}: {tests}{only} | {row['reason']} |")
    return lines


def rendered(text: str) -> str:
    """The document with its generated parts replaced."""
    parts = {
        "results": results_table(), "leave-outs": leaveouts_table(),
        "suites": suites_table(), "leave-outs of suites": suite_leaveouts_table(),
    }
    for name, lines in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise SystemExit(f"{DOCUMENT}: no part {name!r}")
        text = "\n".join([head + begin, *lines, end]) + tail
    return text


def main() -> int:
    old = DOCUMENT.read_text("utf-8")
    new = rendered(old)
    if sys.argv[1:] == ["--check"]:
        return int(new != old)
    DOCUMENT.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
