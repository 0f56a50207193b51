"""Every kind of stall is reported while it lasts, with the file and line that stalls."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import clean_env

SCRIPT = Path(__file__).with_name("stall_cases.py")
NAMES = re.findall(r"# STALL (\w+)$", SCRIPT.read_text(), flags=re.M)
LINES = {
    name: number
    for number, line in enumerate(SCRIPT.read_text().splitlines(), 1)
    for name in re.findall(r"# STALL (\w+)$", line)
}
LOOPS = ["taut", "asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])


@pytest.fixture(scope="module", params=LOOPS)
def said(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """The reports about each case (by its line), from one run of all on one kind of loop."""
    done = subprocess.run(
        [sys.executable, SCRIPT, request.param],
        cwd=SCRIPT.parent,
        env=clean_env(TAUT_STALL="50ms"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    reports = re.findall(r"^taut: .*\n(?: .*\n)*", done.stderr, flags=re.M)
    return {
        name: [r for r in reports if f" {SCRIPT.name}:{line} in " in r.splitlines()[0]]
        for name, line in LINES.items()
    } | {"": [done.stderr]}


@pytest.mark.parametrize("case", NAMES)
def test_a_stall_names_its_line_while_it_lasts(said: dict[str, list[str]], case: str) -> None:
    assert said[case], said[""][0]
    began, ended = said[case][0], said[case][-1]
    found = re.match(
        r"taut: loop stalled for (\d+) ms \(still running\) (?:at|near) \S+ in (\S+)\n", began
    )
    assert found and 40 <= int(found[1]) < 240, began
    assert f'File "{SCRIPT}", line {LINES[case]}, in {found[2]}' in began
    total = re.match(r"taut: loop stall ended after ([\d.]+) (ms|s) ", ended)
    assert total, ended
    assert float(total[1]) * (1000 if total[2] == "s" else 1) > int(found[1])


def test_the_stack_is_whole_and_the_cause_is_told(said: dict[str, list[str]]) -> None:
    text = said["http_get"][0]
    frames = re.findall(r'^    File "(.*)", line (\d+), in (.*)$', text, flags=re.M)
    assert frames[0][2] == "<module>" and frames[0][0] == str(SCRIPT)
    names = [name for _, _, name in frames]
    assert names.index("http_get") < names.index("urlopen") < len(names) - 1, names
    assert all(int(line) > 0 for _, line, _ in frames)
    assert "it is blocked: on the CPU " in said["sleep"][0]
    assert "it computes: on the CPU " in said["json_loads"][0]
    assert "outer frames" in said["deep"][0]


def test_every_case_is_marked() -> None:
    spec = importlib.util.spec_from_file_location("stall_cases", SCRIPT)
    assert spec and spec.loader
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    assert sorted(NAMES) == sorted(cases.CASES)
