"""tools/incidents.py: what it reads, what it calls a failure, and the gallery itself."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import incidents  # noqa: E402
from incidents import Expectation, Found, Incident, Misread, Outcome  # noqa: E402

PROGRAM = '''\
"""A story."""
# expect: deadlock at blame
# expect: gc-pause
# also: fd-growth at blame-2
# within: 7.5
# needs: redis httpx

async def f():
    async with a:  # blame
        await g()  # blame-2
    async with b:  # blame  # type: ignore
'''


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(text)
    return path


def found(code: str, path: Path, line: int, seconds: float = 1.0, **more: str) -> Found:
    texts = {"cause": "It is so.", "remedy": "Do not.", **more}
    return Found(code, str(path), line, "f", texts["cause"], texts["remedy"], seconds)


def test_a_head_is_read(tmp_path: Path) -> None:
    incident = incidents.read(write(tmp_path, PROGRAM))
    assert incident.expects == (
        Expectation("deadlock", "blame", frozenset({9, 11})),
        Expectation("gc-pause"),
    )
    assert incident.also == (Expectation("fd-growth", "blame-2", frozenset({10})),)
    assert (incident.within_s, incident.needs) == (7.5, ("redis", "httpx"))
    assert (incident.name, incident.healthy) == ("program", False)
    assert incidents.read(write(tmp_path, "# expect: nothing\n")).healthy


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("print()\n", "no '# expect:' line"),
        ("# expect: deadlock at blame\n", "no line ends with # blame"),
        ("# expect: Deadlock\n", "is not CODE or CODE at MARK"),
        ("# expect: nothing\n# expect: deadlock\n", "nothing, and something"),
        ("# expect: nothing\n# also: deadlock\n", "nothing, and something"),
        ("# expect: deadlock\n# within: 61\n", "within 61 s, not up to 60"),
    ],
)
def test_a_head_without_sense_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(Misread, match=re.escape(complaint)):
        incidents.read(write(tmp_path, text))


def test_what_was_found_as_expected_is_no_fault(tmp_path: Path) -> None:
    incident = incidents.read(path := write(tmp_path, PROGRAM))
    right = [
        found("deadlock", path, 11),
        found("gc-pause", Path("/elsewhere.py"), 3, 7.5),
        found("fd-growth", path, 10),
        found("deadlock", path, 9, 30.0),
    ]
    assert incidents.judge(incident, right) == []
    outcome = Outcome(incident, right)
    assert outcome.passed and outcome.seconds == 7.5
    assert incidents.row(outcome) == (
        "program", "deadlock:9|11, gc-pause", "deadlock:11, gc-pause:3", "7.5", "0",
    )  # fmt: skip


def test_a_finding_that_is_missing_late_false_or_wordless_is_a_fault(tmp_path: Path) -> None:
    incident = incidents.read(path := write(tmp_path, PROGRAM))
    wrong = [
        found("deadlock", path, 10),
        found("gc-pause", path, 1, 7.6),
        found("fd-growth", Path("/elsewhere.py"), 10),
        found("fd-growth", path, 10, remedy=""),
        found("deadlock", path, 10, 2.0),
    ]
    assert incidents.judge(incident, wrong) == [
        "missed deadlock:9|11",
        "late: gc-pause after 7.6 s",
        "false: deadlock at program.py:10: It is so.",
        "false: fd-growth at elsewhere.py:10: It is so.",
        "wordless: fd-growth at program.py:10 has no cause or no remedy",
    ]
    assert Outcome(incident, wrong).seconds is None


def test_a_healthy_program_has_no_finding_at_all(tmp_path: Path) -> None:
    healthy = incidents.read(path := write(tmp_path, "# expect: nothing\n"))
    assert incidents.judge(healthy, []) == []
    assert len(incidents.judge(healthy, [found("deadlock", path, 1)])) == 1
    assert incidents.row(Outcome(healthy)) == ("program", "nothing", "nothing", "", "0")


def test_the_journal_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert incidents.read_journal(path, 100.0) == []
    finding = {"id": 1, "code": "deadlock", "state": "seen", "count": 1, "file": "/a.py", "line": 3,
               "function": "f", "cause": "c", "remedy": "r", "evidence": ["e"]}  # fmt: skip
    entry = json.dumps({"time": 101.5, "pid": 1, "program": "a.py", "finding": finding})
    path.write_text(f"{entry}\n{entry[:20]}")
    assert incidents.read_journal(path, 100.0) == [
        Found("deadlock", "/a.py", 3, "f", "c", "r", 1.5, ("e",))
    ]


def test_what_a_program_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for need, words in (
        ("redis", "needs redis"),
        ("root", "needs root"),
        ("no_such_module", "needs the module no_such_module"),
        ("json", ""),
    ):
        incident = Incident(Path("a.py"), (), needs=(need,))
        assert incidents.lacks(incident, sys.executable) == words


def test_the_page_of_results_has_a_row_for_each(tmp_path: Path) -> None:
    incident = incidents.read(path := write(tmp_path, PROGRAM))
    skipped = Outcome(incident, skipped="needs redis")
    right = Outcome(incident, [found("deadlock", path, 9), found("gc-pause", path, 1)])
    wrong = Outcome(incident, faults=["missed gc-pause"])
    page = incidents.markdown([skipped, right, wrong], 10, 20)
    assert "1 of 2 incidents found as expected" in page
    assert "| program | deadlock:9 or 11, gc-pause | deadlock:9, gc-pause:1 | 1.0 | 0 |" in page
    assert page.count("| program |") == 3


def test_the_gallery_makes_sense() -> None:
    """Every head can be read, every story is told, and there are enough of both kinds."""
    everything = incidents.gallery([])
    assert sum(not i.healthy for i in everything) >= 30
    assert sum(i.healthy for i in everything) >= 10
    for incident in everything:
        story = ast.get_docstring(ast.parse(incident.path.read_text("utf-8"))) or ""
        title, _, text = story.partition("\n\n")
        assert title.endswith(".") and len(re.findall(r"[.:?]", text)) >= 3, incident.name
        assert incident.healthy == incident.name.startswith("healthy_"), incident.name
    with pytest.raises(Misread, match="no such incident: nonsense"):
        incidents.gallery(["nonsense"])


@pytest.mark.parametrize("name", ["missing_await", "nested_run", "healthy_cancellation"])
def test_some_of_the_gallery_runs(name: str) -> None:
    (incident,) = incidents.gallery([name])
    outcome = incidents.run(incident, sys.executable, trend_s=10, control_s=1.5)
    assert outcome.faults == [], outcome.output
    assert {f.code for f in outcome.found} == {e.code for e in incident.expects}


def test_a_program_that_is_not_what_it_claims_fails(tmp_path: Path) -> None:
    path = write(tmp_path, "# expect: deadlock\n# within: 1\nprint('here I am')\n")
    outcome = incidents.run(incidents.read(path), sys.executable, trend_s=10, control_s=1)
    assert (outcome.faults, outcome.output) == (["missed deadlock"], "here I am\n")
    path.write_text("# expect: nothing\nraise SystemExit(3)\n")
    outcome = incidents.run(incidents.read(path), sys.executable, trend_s=10, control_s=1)
    assert outcome.faults == ["ended with status 3"]
