"""The commands that ask running processes: taut ps, doctor, stack and cancel."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import Python, Result, Service, python, wait_until  # noqa: F401

from taut.doctor import _client, _commands

PROGRAM = """\
import asyncio, sys, time, taut
from taut import _core
async def work(n):
    await asyncio.sleep(1000)
async def waits(lock):
    async with lock:
        pass
async def parent():
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(work(n), name=f"child {n}")
async def main():
    lock = asyncio.Lock()
    await lock.acquire()
    tasks = [asyncio.create_task(work(n), name=f"work {n}") for n in range(20)]
    tasks.append(asyncio.create_task(waits(lock), name="waits"))
    tasks.append(asyncio.create_task(parent(), name="parent"))
    await asyncio.sleep(0.05)
    if "finding" in sys.argv:
        _core.finding_add("queue-growth", "it grows", "bound it", file="/srv/app.py", line=3,
                          function="feed", evidence="12 items")
    print("ready", flush=True)
    if "block" in sys.argv:
        time.sleep(1000)  # blocks: the stall under test
    for task in tasks:
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled", task.get_name(), flush=True)
taut.run(main())
"""

Ask = Callable[..., Result]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """The runtime directory of processes and commands."""
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    (tmp_path / "app.py").write_text(PROGRAM)
    return made


@pytest.fixture
def ask(python: Python, runtime: Path) -> Ask:
    """Run `taut ...` as the same user."""

    def run(*args: object, **env: str) -> Result:
        return python("-m", "taut", *map(str, args), XDG_RUNTIME_DIR=str(runtime), **env)

    return run


def start(runtime: Path, *args: str, **env: str) -> Service:
    service = Service(
        "app.py", *args, cwd=runtime.parent, XDG_RUNTIME_DIR=str(runtime), **env
    )  # fmt: skip
    try:
        service.wait_for(lambda text: "ready" in text, "the program's start")
        path = runtime / "taut" / f"{service.process.pid}.sock"
        wait_until(path.exists, "a console")
    except BaseException:
        service.__exit__(None, None, None)
        raise
    return service


@pytest.fixture
def service(runtime: Path) -> Iterator[Service]:
    with start(runtime) as started:
        yield started


def test_ps_shows_a_tree(service: Service, ask: Ask) -> None:
    pid = service.process.pid
    done = ask("ps", pid)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"Process {pid}, Python 3.") and lines[0].endswith("app.py")
    assert re.fullmatch(rf"Loop 0x[0-9a-f]+ on thread {pid}: (waiting|running)", lines[1])
    assert lines[2] == "26 tasks"
    work = [line for line in lines if line.startswith("work ")]
    assert len(work) == 3 and "... and 16 more like it" in lines
    assert any(line.startswith("    work 0 (") for line in lines)  # main awaits that one
    assert "at app.py:4 in work > sleep" in work[-1]
    assert "made at app.py:15 in main" in work[-1]
    (waits,) = (line for line in lines if line.startswith("waits "))
    assert "for Lock 0x" in waits and "> Lock.acquire" in waits
    at = next(i for i, line in enumerate(lines) if line.startswith("parent "))
    assert [line.split(" (")[0] for line in lines[at + 1 : at + 4]] == [
        "    child 0", "    child 1", "    child 2",
    ]  # fmt: skip
    every = ask("ps", pid, "--all").out
    assert "more like it" not in every and "work 19 " in every
    answer = json.loads(ask("ps", pid, "--json").out)
    assert answer["pid"] == pid and len(answer["tasks"]) == 26 and answer["read_by"] == "loop"


def test_without_a_number_the_only_process(
    service: Service,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Not the directory in /tmp, where other processes of this user may have theirs.
    monkeypatch.setattr(_client, "_directories", lambda uid: [runtime / "taut"])
    pid = service.process.pid
    assert _commands.main("ps", []) == 0
    assert capsys.readouterr().out.startswith(f"Process {pid},")
    with start(runtime) as other:
        assert _commands.main("stack", []) == 2
        said = capsys.readouterr()
        first, *rest = said.err.splitlines()
        assert (said.out, first) == ("", "taut: several processes have a taut loop; name one:")
        assert [line.split()[0] for line in rest] == sorted(
            [str(pid), str(other.process.pid)], key=int
        )
        assert all(line.endswith("app.py") for line in rest)
    assert _commands.main("stack", []) == 0
    service.stop()
    capsys.readouterr()
    assert _commands.main("ps", []) == 1
    assert capsys.readouterr().err == "taut: no process of this user runs a taut loop\n"


def test_while_the_loop_is_blocked(runtime: Path, ask: Ask) -> None:
    with start(runtime, "block") as service:
        pid = service.process.pid
        done = ask("ps", pid)
        assert "The loop does not answer" in done.out and "26 tasks" in done.out
        assert re.search(r"^Task-1 \(0x[0-9a-f]+\): running .*at app.py:24 in main", done.out, re.M)
        stack = ask("stack", pid).out
        assert f"Thread {pid}, of loop " in stack and "line 24, in main" in stack
        assert "Task waits (" in stack
        done = ask("cancel", pid, "waits")
        assert done.status == 0
        assert done.out == "The loop is blocked; that waits is to cancel is queued on it.\n"
        service.stop(signal.SIGKILL)


def test_cancel(service: Service, ask: Ask) -> None:
    pid = service.process.pid
    done = ask("cancel", pid, "work 0")
    assert (done.status, done.out, done.err) == (0, "work 0 was asked to cancel.\n", "")
    service.wait_for(lambda text: "cancelled work 0" in text, "the cancellation")
    tasks = {task["name"]: task for task in json.loads(ask("ps", pid, "--json").out)["tasks"]}
    assert "work 0" not in tasks
    answer = json.loads(ask("cancel", pid, tasks["work 1"]["id"], "--json").out)
    assert answer["result"] == "asked"
    service.wait_for(lambda text: "cancelled work 1" in text, "the cancellation")
    done = ask("cancel", pid, "work 0")
    assert (done.status, done.err) == (1, f"taut: process {pid} has no task 'work 0'\n")


def test_doctor(runtime: Path, ask: Ask) -> None:
    with start(runtime) as service:
        done = ask("doctor", service.process.pid)
        assert (done.status, done.out, done.err) == (0, "Nothing was found.\n", "")
    with start(runtime, "finding") as service:
        pid = service.process.pid
        done = ask("doctor", pid)
        assert (done.status, done.err) == (1, "")
        lines = done.out.splitlines()
        assert lines[0] == "queue-growth at /srv/app.py:3 in feed"
        assert lines[1] == "  it grows" and lines[2].startswith("  Seen once, at ")
        assert lines[3:] == ["  Remedy: bound it", "    12 items"]
        answer = json.loads(ask("doctor", pid, "--json").out)
        assert answer["findings"][0]["code"] == "queue-growth"


def test_the_log_outlives_the_process(runtime: Path, ask: Ask, tmp_path: Path) -> None:
    journal = str(tmp_path / "journal.jsonl")
    done = ask("doctor", "--log", TAUT_JOURNAL=journal)
    assert (done.status, done.out) == (0, "Nothing was found.\n")
    with start(runtime, "finding", TAUT_JOURNAL=journal) as service:
        pid = service.process.pid
    with open(journal, "a") as lines:
        lines.write('{"time": 1.5, "pid": 7, "program": "old", "finding": {"code": "deadlock"')
        lines.write("\n[]\n{}\n\n")
    done = ask("doctor", "--log", TAUT_JOURNAL=journal)
    assert done.status == 1
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d \S+ -u app.py finding \[{pid}\]: "
        r"queue-growth at /srv/app.py:3 in feed: it grows\n    Remedy: bound it\n",
        done.out,
    )
    (entry,) = json.loads(ask("doctor", "--log", "--json", TAUT_JOURNAL=journal).out)
    assert entry["pid"] == pid
    assert ask("doctor", pid, "--log", "--since", "1h", TAUT_JOURNAL=journal).status == 1
    assert ask("doctor", "1", "--log", TAUT_JOURNAL=journal).status == 0
    entry["time"] -= 7200
    Path(journal).rename(journal + ".1")
    Path(journal).write_text(json.dumps(entry) + "\n")
    assert len(json.loads(ask("doctor", "--log", "--json", TAUT_JOURNAL=journal).out)) == 2
    since = ("doctor", "--log", "--json", "--since", "90min")
    assert len(json.loads(ask(*since, TAUT_JOURNAL=journal).out)) == 1
    done = ask("doctor", "--log", TAUT_JOURNAL="0")
    assert (done.status, done.out) == (2, "") and "there is no journal" in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ps", "x"], "argument PID: 'x' is not the number of a process; see taut ps --help"),
        (["ps", "0"], "argument PID: '0' is not the number of a process; see taut ps --help"),
        (["ps", "--al"], "unrecognized arguments: --al; see taut ps --help"),
        (["cancel", "1"], "the following arguments are required: TASK; see taut cancel --help"),
        (
            ["doctor", "--log", "--since", "soon"],
            "argument --since: 'soon' is not a time such as 90s, 30min, 2h or 1d; "
            "see taut doctor --help",
        ),
        (["doctor", "--since", "2h"], "--since is for --log; see taut doctor --help"),
    ],
)
def test_wrong_arguments(ask: Ask, args: list[str], message: str) -> None:
    done = ask(*args)
    assert (done.status, done.out, done.err) == (2, "", f"taut: {message}\n")


def test_processes_that_cannot_be_asked(ask: Ask, runtime: Path) -> None:
    parent = os.getppid()  # of these tests: runs no loop
    done = ask("ps", parent)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"taut: process {parent} has no console: it has not run a taut loop")
    done = ask("ps", 2**22 + 1)
    assert (done.status, done.err) == (1, f"taut: there is no process {2**22 + 1}\n")
    place = runtime / "taut"
    place.mkdir(mode=0o700)
    (place / f"{parent}.sock").write_text("")
    done = ask("ps", parent)
    assert done.status == 1
    assert done.err == f"taut: process {parent} cannot be asked: Connection refused\n"


@pytest.mark.parametrize("command", ["ps", "doctor", "stack", "cancel"])
def test_help(ask: Ask, command: str) -> None:
    done = ask(command, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"usage: taut {command} ") and "--json" in done.out
