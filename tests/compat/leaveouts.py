"""The table of tests that are left out (leaveouts.toml)."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("leaveouts.toml")


@dataclass(frozen=True)
class LeaveOut:
    """One row: patterns over ``module.Class.test`` and the reason."""

    tests: tuple[str, ...]
    reason: str
    loops: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    racy: bool = False  # passes by chance

    def covers(self, test: str, loop: str, python: str) -> bool:
        """Whether this row leaves out `test` for the loop factory on the Python version."""
        if self.loops and not loop.startswith(self.loops):
            return False
        if self.python and python not in self.python:
            return False
        return any(fnmatch.fnmatchcase(test, pattern) for pattern in self.tests)


def load(path: Path = PATH) -> list[LeaveOut]:
    """All rows. Raises ValueError for a row without tests or reason."""
    rows = []
    for entry in tomllib.loads(path.read_text("utf-8")).get("leaveout", []):
        unknown = set(entry) - {"tests", "reason", "loops", "python", "racy"}
        if unknown or not entry.get("tests") or not entry.get("reason"):
            raise ValueError(f"leave-out needs tests and a reason: {entry}")
        rows.append(
            LeaveOut(
                tests=tuple(entry["tests"]),
                reason=entry["reason"],
                loops=tuple(entry.get("loops", ())),
                python=tuple(entry.get("python", ())),
                racy=bool(entry.get("racy", False)),
            )
        )
    return rows


def find(rows: list[LeaveOut], test: str, loop: str, python: str) -> LeaveOut | None:
    """The row that leaves out `test`, or None when nothing does."""
    for row in rows:
        if row.covers(test, loop, python):
            return row
    return None
