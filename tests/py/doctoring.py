"""Helpers of the tests of what the doctor finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from loops import until
from taut import _core, doctor


@pytest.fixture
def empty_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table of findings with nothing in it, and what may be noted told soon; no stalls, which a
    busy machine makes."""
    monkeypatch.setenv("TAUT_STALL", "off")
    _core.findings_clear()
    _core.task_note_delays(0.05, 0.05, 0.05)
    yield
    _core.task_note_delays(2, 1, 5)
    _core.findings_clear()


async def found(code: str) -> doctor.Finding:
    """The one finding of that code, as soon as it is there."""
    await until(lambda: doctor.findings(code), f"a finding {code}")
    (finding,) = doctor.findings(code)
    return finding


def line_of(mark: str, depth: int = 1) -> int:
    """The number of the line of the caller's file that ends with ``# <mark>``."""
    name = sys._getframe(depth).f_code.co_filename
    with open(name, encoding="utf-8") as source:
        lines = [n for n, text in enumerate(source, 1) if text.rstrip().endswith("# " + mark)]
    assert len(lines) == 1, f"{mark} is at lines {lines} of {name}"
    return lines[0]


def blamed(finding: doctor.Finding, mark: str) -> bool:
    """Whether the finding blames the marked line of the caller's file."""
    file = sys._getframe(1).f_code.co_filename
    assert (finding.file, finding.line) == (file, line_of(mark, 2)), finding
    return True
