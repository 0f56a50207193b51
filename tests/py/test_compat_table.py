"""The runners of other people's suites: their tables, and that they notice what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPAT = Path(__file__).resolve().parents[1] / "compat"
sys.path.insert(0, str(COMPAT))

import leaveouts  # noqa: E402
import render  # noqa: E402
import suite_setup  # noqa: E402
import suites  # noqa: E402

pytest.importorskip("test.test_asyncio", reason="this Python comes without its own test suites")


def compat(*args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        part for part in (path, os.environ.get("PYTHONPATH", "")) if part)}
    return subprocess.run(
        [sys.executable, str(COMPAT / "run.py"), "--quiet", *args],
        capture_output=True, text=True, timeout=100, env=environment,
    )


def test_document_is_up_to_date() -> None:
    text = render.DOCUMENT.read_text("utf-8")
    assert render.rendered(text) == text, "run tests/compat/render.py"


def test_every_row_has_a_reason() -> None:
    for row in leaveouts.load():
        assert len(row.reason) > 20 and row.reason.endswith(".")


def test_row_without_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.toml"
    path.write_text('[[leaveout]]\ntests = ["a"]\n')
    with pytest.raises(ValueError):
        leaveouts.load(path)


def test_row_covers_by_loop_and_version() -> None:
    row = leaveouts.LeaveOut(("m.C.*",), "why", loops=("taut",), python=("3.11",))
    assert row.covers("m.C.test", "taut:new_event_loop", "3.11")
    assert not row.covers("m.C.test", "asyncio:SelectorEventLoop", "3.11")
    assert not row.covers("m.C.test", "taut:new_event_loop", "3.12")
    assert not row.covers("m.D.test", "taut:new_event_loop", "3.11")


def test_good_loop_passes() -> None:
    done = compat("--loop", "asyncio:SelectorEventLoop", "test_queues.QueueBasicTests.*")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


LOOPS = """
import asyncio, os
class Slow(asyncio.SelectorEventLoop):
    def call_soon(self, *args, **kwargs):
        {body}
        return super().call_soon(*args, **kwargs)
"""


@pytest.mark.parametrize(
    "body, word",
    [
        ("raise RuntimeError('broken loop')", "FAIL: "),
        ("os.abort()", "CRASH: "),
        ("import time; time.sleep(100)", "HANG: "),  # blocks: the runner has to notice
    ],
)
def test_bad_loop_is_noticed(tmp_path: Path, body: str, word: str) -> None:
    (tmp_path / "badloop.py").write_text(LOOPS.format(body=body))
    done = compat("--loop", "badloop:Slow", "--limit", "2", "--no-asyncio",
                  "test_queues.QueueBasicTests.test_empty", path=str(tmp_path))
    assert word + "test_queues.QueueBasicTests.test_empty" in done.stdout, done.stdout
    assert done.returncode == (0 if word == "FAIL: " and "0 failed" in done.stdout else 1)


def test_no_such_test() -> None:
    assert compat("--loop", "asyncio:SelectorEventLoop", "test_nothing.*").returncode == 2


def test_every_row_of_a_suite_has_a_reason() -> None:
    for suite in suite_setup.load():
        for row in suite.leaveouts:
            assert len(row["reason"]) > 20 and row["reason"].endswith(".")


@pytest.mark.parametrize("extra", ["colour = 1", '[[suite.leaveout]]\ntests = ["a"]'])
def test_bad_entry_of_a_suite_is_refused(tmp_path: Path, extra: str) -> None:
    path = tmp_path / "suites.toml"
    path.write_text(f'[[suite]]\nname = "a"\nversion = "1"\nrequires = []\n{extra}\n')
    with pytest.raises(ValueError, match="suite a"):
        suite_setup.load(path)


SUITE = """
import asyncio, os, pytest, time

async def nothing():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

def test_on_either(): assert asyncio.run(nothing()) in ("asyncio", "taut")
def test_on_asyncio(): assert asyncio.run(nothing()) == "asyncio"
def test_on_neither(): assert asyncio.run(nothing()) == "curio"
def test_dies(): asyncio.run(nothing()) == "taut" and os.abort()
def test_hangs():
    if asyncio.run(nothing()) == "taut": time.sleep(99)  # blocks: the runner has to notice
def test_skips():
    if asyncio.run(nothing()) == "taut": pytest.skip("not here")
@pytest.mark.parametrize("x", [1, 2])
def test_left_out(x): assert asyncio.run(nothing()) == "asyncio"
def test_the_last(): asyncio.run(nothing())
"""


def test_what_fails_on_one_loop_only_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Here(suite_setup.Suite):
        source = tmp_path
        python = Path(sys.executable)

    (tmp_path / "test_it.py").write_text(SUITE)
    monkeypatch.setattr(suite_setup, "BUILD", tmp_path / "build")
    monkeypatch.setattr(suite_setup, "runs_as", lambda: None)
    rows = ({"tests": ["test_it.py::test_left_out[1]"], "reason": "Because."},)
    suite = Here("it", "1", (), (), ("test_it.py",),
                 {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, 3.0, "", rows)
    verdict = suites.run_suite(suite, "taut:new_event_loop", None, False)
    out = capsys.readouterr().out
    assert verdict["failed"] == [f"test_it.py::test_{name}" for name in (
        "dies", "hangs", "left_out[2]", "on_asyncio", "skips")]
    assert verdict["ok"] == 2 and verdict["left_out"] == 1
    assert verdict["asyncio_ok"] == 8 and verdict["asyncio_failed"] == 1
    assert verdict["loops"] and not verdict["others"]
    assert "CRASH: it test_it.py::test_dies" in out and "HANG: it test_it.py::test_hangs" in out
