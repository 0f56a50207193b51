"""The journal and stderr: what a process has found out is told, until its very end."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from programs import Python, python  # noqa: F401

ADD = """\
from taut import _core
def add(code="queue-growth", line=3, **more):
    return _core.finding_add(code, "it grows", "bound it", file="/srv/app.py", line=line,
                             function="feed", **more)
"""
TOLD = "taut: queue-growth at /srv/app.py:3 in feed: it grows\n  Remedy: bound it\n"


def journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "end", ["", "raise SystemExit(3)", "1 / 0", "import signal; signal.raise_signal(2)"]
)
def test_a_finding_just_before_the_end_is_told(python: Python, tmp_path: Path, end: str) -> None:
    path = tmp_path / "a" / "journal.jsonl"
    done = python("-c", f"{ADD}add()\n{end}\n", TAUT_STALL="1s", TAUT_JOURNAL=str(path))
    (entry,) = journal(path)
    assert entry["finding"]["code"] == "queue-growth" and entry["finding"]["count"] == 1
    assert (entry["finding"]["file"], entry["finding"]["line"]) == ("/srv/app.py", 3)
    assert " -c from taut import _core" in entry["program"]
    assert abs(entry["time"] - entry["finding"]["first_seen"]) < 30 and entry["pid"] > 0
    assert done.err.count(TOLD) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_finding_of_a_finalizer_at_the_very_end_is_told(python: Python, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        "import sys\nfrom taut import _core\n"
        "class Last:\n"
        "    def __del__(self, add=_core.finding_add):\n"
        "        add('queue-growth', 'it grows', 'bound it', file='/srv/app.py', line=3,\n"
        "            function='feed')\n"
        "sys.last = Last()\n"
    )
    done = python("-c", program, TAUT_STALL="1s", TAUT_JOURNAL=str(path))
    assert (done.status, done.err) == (0, TOLD)
    assert len(journal(path)) == 1


def test_repeats_are_summed_up_and_the_last_state_is_told(python: Python, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        f"{ADD}number = add(state='ongoing')\nassert _core.findings_flush(30)\n"
        "for _ in range(99):\n"
        "    add(state='ongoing')\n"
        "    _core.finding_update(number, None, 'over')\n"
    )
    done = python("-c", program, TAUT_STALL="1s", TAUT_JOURNAL=str(path))
    assert (done.status, done.err) == (0, TOLD), done
    seen = [(e["finding"]["count"], e["finding"]["state"]) for e in journal(path)]
    assert seen[0] == (1, "ongoing") and seen[-1] == (100, "over")
    # Between the first and the last: the first's end if that was seen, and a line after 1 s and
    # after 10 s, if a slow machine has taken that long.
    times = [entry["time"] for entry in journal(path)]
    assert len(seen) <= 3 + (times[-1] - times[0] > 1) + (times[-1] - times[0] > 10)


def test_a_hundred_stalls_at_one_line(python: Python, tmp_path: Path) -> None:
    """One whole report, then a line and a count, less and less often; of the journal the same."""
    path = tmp_path / "journal.jsonl"
    program = (
        "import asyncio, time, taut\n"
        "async def main():\n"
        "    for _ in range(100):\n"
        "        time.sleep(0.06)\n"
        "        await asyncio.sleep(0)\n"
        "taut.run(main())\n"
    )
    done = python("-c", program, TAUT_STALL="30ms", TAUT_JOURNAL=str(path))
    assert done.status == 0, done
    assert done.err.count("Stack of thread") == done.err.count("Remedy:") == 1, done.err
    lines = done.err.splitlines()
    counted = [int(n) for n in re.findall(r"(\d+) more stalls?", done.err)]
    told = [line for line in lines if line.startswith("taut: loop stalled for")]
    entries = [e for e in journal(path) if e["finding"]["code"] == "blocking-call"]
    assert entries[-1]["finding"]["state"] == "over"
    # Each of them is told or counted; a stall may be told again while it lasts.
    assert 90 <= entries[-1]["finding"]["count"] <= 100 >= sum(counted) >= 60
    passed = entries[-1]["time"] - entries[0]["time"]
    assert len(entries) <= 4 + (passed > 1) + (passed > 11)
    assert len(told) <= 3 * (1 + passed.__ceil__().bit_length()), done.err


def test_no_finding_no_thread(python: Python) -> None:
    program = (
        f"{ADD}import asyncio, os, taut\n"
        "taut.run(asyncio.sleep(0))\n"
        "assert _core.reporter_thread_id() == 0\n"
        "add()\n"
        "assert _core.findings_flush(30)\n"
        "number = _core.reporter_thread_id()\n"
        "print(open(f'/proc/self/task/{number}/comm').read().strip())\n"
    )
    done = python("-c", program)
    assert (done.status, done.out, done.err) == (0, "taut-reporter\n", "")


def test_where_stalls_are_not_reported_findings_are_not_either(
    python: Python, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    quiet = f"{ADD}_core.stall_stderr(False)\nadd()\n"
    assert python("-c", quiet, TAUT_STALL="1s", TAUT_JOURNAL=str(path)).err == ""
    assert python("-c", f"{ADD}add()\n", TAUT_STALL="off", TAUT_JOURNAL=str(path)).err == ""
    stall = f"{ADD}add('blocking-call')\n"  # the stall report has said so in its own words
    assert python("-c", stall, TAUT_STALL="1s", TAUT_JOURNAL=str(path)).err == ""
    assert len(journal(path)) == 3


@pytest.mark.parametrize(
    "environment",
    [
        {"TAUT_JOURNAL": "0"},
        {"TAUT_JOURNAL": "/dev/full"},
        {"TAUT_JOURNAL": "/proc/1/nowhere/journal.jsonl"},
        {"TAUT_JOURNAL": "", "HOME": "", "XDG_STATE_HOME": ""},
        {"TAUT_JOURNAL": "", "HOME": "/dev/null", "XDG_STATE_HOME": ""},
    ],
)
def test_without_a_journal_stderr_still_tells(python: Python, environment: dict[str, str]) -> None:
    done = python("-c", f"{ADD}add()\nadd(line=3)\n", TAUT_STALL="1s", **environment)
    assert (done.status, done.err) == (0, TOLD)


def test_the_default_place(python: Python, tmp_path: Path) -> None:
    program = f"{ADD}add()\nprint(_core.journal_path())\n"
    done = python("-c", program, TAUT_JOURNAL="", XDG_STATE_HOME="", HOME=str(tmp_path))
    path = tmp_path / ".local" / "state" / "taut" / "journal.jsonl"
    assert done.out == f"{path}\n" and len(journal(path)) == 1
    assert python("-c", program, TAUT_JOURNAL="0").out == "None\n"


def test_a_forked_child_tells_its_own(python: Python, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        f"{ADD}import os\nadd()\nassert _core.findings_flush(30)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    add('deadlock')\n"
        "else:\n    assert os.waitpid(pid, 0)[1] == 0\n"
    )
    done = python("-c", program, TAUT_STALL="1s", TAUT_JOURNAL=str(path))
    assert done.status == 0, done
    first, second = journal(path)
    assert (first["finding"]["code"], second["finding"]["code"]) == ("queue-growth", "deadlock")
    assert first["pid"] != second["pid"]
    assert done.err.count("taut: ") == 2


def test_many_processes_share_one_file(python: Python, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        f"{ADD}import os\n"
        "pids = []\n"
        "for _ in range(8):\n"
        "    pids.append(os.fork())\n"
        "    if pids[-1] == 0:\n"
        "        for line in range(1, 41): add(line=line, evidence='x' * 2000)\n"
        "        raise SystemExit\n"
        "for pid in pids: assert os.waitpid(pid, 0)[1] == 0\n"
    )
    done = python("-c", program, TAUT_JOURNAL=str(path))
    assert done.status == 0, done
    entries = journal(path)
    assert len(entries) == 8 * 40 and len({e["pid"] for e in entries}) == 8


def test_bad_timeouts() -> None:
    from taut import _core

    for bad in (-1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="from 0 to 3600"):
            _core.findings_flush(bad)
    with pytest.raises(TypeError):
        _core.findings_flush("1")  # type: ignore[arg-type]
    assert os.environ["TAUT_JOURNAL"]  # conftest.py: not the user's own file
