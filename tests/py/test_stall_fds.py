"""The watchdog has a table of file descriptors of its own: what the process does to its standard
error must count all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from programs import Python, python  # noqa: F401

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the watchdog is for Linux")

SCRIPT = """
import asyncio, os, sys, time, taut

async def main():
    await asyncio.sleep(0)
    {change}
    time.sleep(0.2)  # blocks: the stall under test
    await asyncio.sleep(0)

taut.run(main())
"""
LINE = SCRIPT.splitlines().index("    time.sleep(0.2)  # blocks: the stall under test") + 1
SITE = f"service.py:{LINE} in main"


def run(python: Python, folder: Path, change: str, **env: str) -> tuple[str, str]:
    """What the script and its watchdog wrote to standard error, and to the file `log`."""
    (folder / "service.py").write_text(SCRIPT.format(change=change))
    (folder / "log").write_text("")
    result = python("service.py", TAUT_STALL="50ms", **env)
    assert result.status == 0, result
    return result.err, (folder / "log").read_text()


def test_to_standard_error(python: Python, tmp_path: Path) -> None:
    err, log = run(python, tmp_path, "pass")
    assert SITE in err and "loop stall ended" in err
    assert log == ""


def test_a_redirected_standard_error_is_followed(python: Python, tmp_path: Path) -> None:
    change = "os.dup2(os.open('log', os.O_WRONLY), 2)"
    err, log = run(python, tmp_path, change)
    assert SITE in log and "loop stall ended" in log
    assert err == ""


def test_a_closed_standard_error_harms_nobody(python: Python, tmp_path: Path) -> None:
    change = "os.close(2); sys.stderr = open('log', 'w')"
    # The file took the number, as any file may: it is the process's standard error now.
    err, log = run(python, tmp_path, change)
    assert err == "" and SITE in log
    change = "os.close(2)"
    assert run(python, tmp_path, change) == ("", "")
