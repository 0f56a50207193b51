"""No report without a stall, and no work for the watchdog without work for the loop."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from programs import Python, python  # noqa: F401

SCRIPT = Path(__file__).with_name("stall_quiet.py")
LOOPS = ["taut", "asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])


ATTEMPTS = 3  # a host that gives the loop no CPU for 250 ms does stall it


@pytest.mark.parametrize("kind", LOOPS)
def test_a_busy_idle_or_stopped_loop_is_no_stall(python: Python, kind: str) -> None:  # noqa: F811
    for _ in range(ATTEMPTS):
        done = python(str(SCRIPT), kind, TAUT_STALL="off")
        assert done.status == 0 and done.out.splitlines() == ["parked", "done"], done
        if not done.err:
            return
    pytest.fail(f"reported each time: {done}")
