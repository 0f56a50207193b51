"""taut.doctor's table of findings: what Python's rules add, what is read, who is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from programs import DEADLINE_S, Python, python  # noqa: F401
from taut import _core, doctor


@pytest.fixture(autouse=True)
def empty_table() -> Iterator[None]:
    _core.findings_clear()
    yield
    _core.findings_clear()


def test_what_was_added_is_read() -> None:
    before = time.time()
    number = _core.finding_add(
        "queue-growth", "it grows", "bound it", file="/srv/app.py", line=7, function="feed",
        evidence="1 item\n2 items", state="ongoing",
    )  # fmt: skip
    (found,) = doctor.findings()
    assert (found.id, found.code, found.state) == (number, "queue-growth", "ongoing")
    assert found.count == 1
    assert (found.file, found.line, found.function) == ("/srv/app.py", 7, "feed")
    assert (found.cause, found.remedy) == ("it grows", "bound it")
    assert found.evidence == ("1 item", "2 items")
    assert before - 1 <= found.first_seen <= found.last_seen <= time.time() + 1
    assert found.where == "/srv/app.py:7 in feed"
    assert str(found) == "queue-growth at /srv/app.py:7 in feed: it grows"
    assert doctor.findings("deadlock") == []
    assert doctor.findings("queue-growth") == [found]


def test_the_same_again_is_counted() -> None:
    first = _core.finding_add("deadlock", "a", "b", file="x.py", line=1)
    other = _core.finding_add("deadlock", "a", "b", file="x.py", line=2)
    assert _core.finding_add("deadlock", "c", "d", file="x.py", line=1) == first != other
    found = [(f.id, f.count, f.cause) for f in doctor.findings()]
    assert found == [(other, 1, "a"), (first, 2, "c")]


def test_updates() -> None:
    number = _core.finding_add("deadlock", "a", "b", evidence="first")
    assert _core.finding_update(number, None, "over")
    assert [(f.state, f.evidence, f.where) for f in doctor.findings()] == [("over", ("first",), "")]
    assert _core.finding_update(number, "", "seen")
    assert [(f.state, f.evidence) for f in doctor.findings()] == [("seen", ())]
    assert not _core.finding_update(number + 1, "x", "seen")


@pytest.mark.parametrize("state", ["", "Seen", "done"])
def test_bad_state(state: str) -> None:
    with pytest.raises(ValueError, match=f"'seen', 'ongoing' or 'over', not '{state}'"):
        _core.finding_add("code", "a", "b", state=state)
    assert doctor.findings() == []


def test_callbacks_hear_of_changes_from_now_on() -> None:
    heard: list[doctor.Finding] = []
    more = threading.Event()

    def hear(finding: doctor.Finding) -> None:
        heard.append(finding)
        more.set()
        raise ValueError("is logged")

    _core.finding_add("before", "a", "b")
    end = doctor.on_finding(hear)
    try:
        for code in ("one", "two"):
            more.clear()
            _core.finding_add(code, "a", "b")
            assert more.wait(DEADLINE_S)
        assert [f.code for f in heard] == ["one", "two"]
    finally:
        end()
    end()  # idempotent
    seen = threading.Event()
    end = doctor.on_finding(lambda finding: seen.set())
    try:
        _core.finding_add("three", "a", "b")
        assert seen.wait(DEADLINE_S)
    finally:
        end()
    assert [f.code for f in heard] == ["one", "two"]


def test_a_callback_must_be_callable() -> None:
    with pytest.raises(TypeError, match="callback must be callable, not 3"):
        doctor.on_finding(3)  # type: ignore[arg-type]


def test_a_process_that_listens_ends(python: Python) -> None:
    done = python(
        "-c",
        "from taut import _core, doctor\n"
        "doctor.on_finding(lambda f: print(f.code, flush=True))\n"
        "_core.finding_add('one', 'a', 'b')\n",
    )
    assert done.status == 0, done
    assert done.out in ("", "one\n")


def test_what_is_to_be_ignored_is_not_found(python: Python) -> None:
    program = (
        "from taut import _core, doctor\n"
        "def add(code, file, line):\n"
        "    return _core.finding_add(code, 'c', 'r', file=file, line=line) > 0\n"
        "doctor.ignore('gc-pause', 'sync-driver@old/db.py', 'deadlock@app.py:7')\n"
        "print(add('gc-pause', '', 0), add('sync-driver', '/srv/old/db.py', 3),\n"
        "      add('deadlock', '/srv/app.py', 7), add('fd-growth', '', 0), add('x', '', 0))\n"
        "print(add('sync-driver', '/srv/new/db.py', 3), add('deadlock', '/srv/app.py', 8))\n"
        "print([f.code for f in doctor.findings()])\n"
    )
    done = python("-c", program, TAUT_IGNORE="fd-growth, Nonsense, x", TAUT_JOURNAL="0")
    assert done.out == (
        "False False False False False\nTrue True\n['sync-driver', 'deadlock']\n"
    )
    assert done.err.count("TAUT_IGNORE: Nonsense is not CODE, CODE@FILE or CODE@FILE:LINE\n") == 1


def test_rules_that_are_none() -> None:
    for bad in ("", "Code", "code@", "@app.py", "code:3", "a b"):
        with pytest.raises(ValueError, match="not CODE, CODE@FILE or CODE@FILE:LINE"):
            doctor.ignore(bad)
    with pytest.raises(TypeError):
        doctor.ignore(3)  # type: ignore[arg-type]
