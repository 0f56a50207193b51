"""Debugging tools on a process that runs taut: aiomonitor, pyinstrument and py-spy."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyinstrument
import pytest
import telnetlib3
from programs import Service, free_port

import loops
from loops import Factory

LOOPS = ("asyncio", "taut")
PROGRAM = """\
import asyncio, signal, sys, time

async def rests():
    await asyncio.get_running_loop().create_future()

async def main(work):
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    resting = [asyncio.create_task(rests(), name=f"resting-{n}") for n in range(3)]
    await work(stop)

def run(work):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(work))
"""
NEW_LOOP = {
    "asyncio": "from asyncio import SelectorEventLoop as new_loop\n",
    "taut": "from taut import new_event_loop as new_loop\n",
}


@pytest.fixture(params=LOOPS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with a module `program`, whose run(work) is on one of the loops."""
    (tmp_path / "program.py").write_text(NEW_LOOP[request.param] + PROGRAM)
    return tmp_path


# ---- aiomonitor ---------------------------------------------------------------------------------

MONITORED = """\
import asyncio, aiomonitor, sys
import program
from program import rests

async def work(stop):
    port = int(sys.argv[1])
    loop = asyncio.get_running_loop()
    with aiomonitor.start_monitor(
        loop, host="127.0.0.1", port=port, console_port=port + 1, webui_port=port + 2,
        hook_task_factory=True, locals={"answer": 42},
    ):
        later = asyncio.create_task(rests(), name="made-later")  # line 12
        print("up", flush=True)
        await stop.wait()
        print("later was cancelled:", later.cancelled(), flush=True)

program.run(work)
"""


async def ask_monitor(port: int, later: Callable[[], str]) -> None:
    """A session with aiomonitor's terminal."""
    reader, writer = await telnetlib3.open_connection("127.0.0.1", port, cols=200, rows=50)
    said = ""

    async def until(pattern: str) -> None:
        nonlocal said
        while not (found := re.search(pattern, said, re.DOTALL)):
            part = await reader.read(4096)
            assert part, f"closed before {pattern!r}: {said}"
            said += part
        said = said[found.end() :]

    await until("monitor >>>")
    writer.write("ps\r\n")
    await until("made-later.{,40}main.py:12")
    await until("monitor >>>")
    writer.write(f"where {later()}\r\n")
    await until(r"program\.py.{,200}in rests")
    writer.write("stacktrace\r\n")
    await until(r"in <module>.*in run_forever")
    writer.write(f"cancel {later()}\r\n")
    await until("Cancel")
    writer.write("exit\r\n")
    writer.close()


def test_aiomonitor(site: Path) -> None:
    (site / "main.py").write_text(MONITORED)
    port = free_port()

    def tasks() -> dict[str, dict[str, Any]]:
        ask = urllib.request.Request(f"http://127.0.0.1:{port + 2}/api/live-tasks", method="POST")
        with urllib.request.urlopen(ask, timeout=20) as answer:
            return {task["name"]: task for task in json.load(answer)["tasks"]}

    with Service("main.py", str(port), cwd=site) as service:
        service.wait_for(lambda text: "up" in text, "the monitor is up")
        seen = tasks()
        assert {"resting-0", "resting-1", "resting-2", "made-later"} < set(seen)
        assert seen["made-later"]["coro"] == "rests()"
        asyncio.run(asyncio.wait_for(ask_monitor(port, lambda: seen["made-later"]["task_id"]), 60))
        service.wait_for(lambda _: "made-later" not in tasks(), "the task is cancelled")
        assert service.stop() == 0
    assert "later was cancelled: True" in service.text
    assert "Traceback" not in service.text


# ---- pyinstrument -------------------------------------------------------------------------------


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


async def computes() -> None:
    burn(0.1)


async def waits() -> None:
    await asyncio.sleep(0.2)


async def profiled() -> None:
    await waits()
    await computes()


def seconds_by_function(profiler: pyinstrument.Profiler) -> dict[str, float]:
    """How long each function took, with what it called and awaited; "loop": alone in the loop."""
    session = profiler.last_session
    assert session is not None
    found: dict[str, float] = {}

    def add(frame: Any) -> None:
        found[frame.function] = found.get(frame.function, 0) + frame.time
        if frame.function == "run_forever":
            below = sum(child.time for child in frame.children if child.function != "[self]")
            found["loop"] = found.get("loop", 0) + frame.time - below
        for child in frame.children:
            add(child)

    add(session.root_frame())
    return found


@pytest.mark.parametrize("others", [False, True])
def test_pyinstrument(factory: Factory, others: bool) -> None:
    async def busy() -> None:
        while True:
            burn(0.001)
            await asyncio.sleep(0.001)

    async def main() -> dict[str, float]:
        beside = asyncio.create_task(busy()) if others else None
        with pyinstrument.Profiler(async_mode="enabled") as profiler:
            await profiled()
        if beside is not None:
            beside.cancel()
        return seconds_by_function(profiler)

    seconds = loops.run(factory, main())
    assert seconds["waits"] >= 0.15 and seconds["[await]"] >= 0.15
    assert 0.08 <= seconds["computes"] <= seconds["profiled"] - seconds["waits"] + 0.01
    # The time of the await is not the loop's, nor another task's.
    assert seconds.get("busy", 0) < 0.05 and seconds.get("loop", 0) < 0.05


# ---- py-spy -------------------------------------------------------------------------------------

SPIED = """\
import asyncio, sys, time
import program

def computes():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass

async def work(stop):
    print("up", flush=True)
    if sys.argv[1] == "busy":
        computes()
    await stop.wait()

program.run(work)
"""


def py_spy(*args: str) -> str:
    """What py-spy prints; the test is skipped where tracing is not permitted."""
    command = [str(Path(sys.executable).parent / "py-spy"), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Permission denied" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"py-spy may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_py_spy_dumps(site: Path, state: str) -> None:
    (site / "main.py").write_text(SPIED)
    with Service("main.py", state, cwd=site) as service:
        service.wait_for(lambda text: "up" in text, "it runs")
        wanted = "run_forever" if state == "idle" else "computes (main.py:"

        def dump() -> str:
            return py_spy("dump", "--pid", str(service.process.pid))

        service.wait_for(lambda _: wanted in dump(), f"{wanted} on the stack")
        stack = dump()
        frames = re.findall(r"^ {4}(\S+) \(", stack, re.MULTILINE)
        assert frames[-1] == "<module>" and "run" in frames, stack
        assert service.process.poll() is None
        if state == "idle":
            assert service.stop() == 0
            assert "Traceback" not in service.text
        else:
            service.stop(signal.SIGKILL)


def test_py_spy_records(site: Path, tmp_path: Path) -> None:
    (site / "main.py").write_text(SPIED)
    with Service("main.py", "busy", cwd=site) as service:
        service.wait_for(lambda text: "up" in text, "it runs")
        out = tmp_path / "profile.txt"
        py_spy("record", "--pid", str(service.process.pid), "--duration", "1", "--rate", "50",
               "--format", "raw", "--output", str(out))  # fmt: skip
        assert service.process.poll() is None
        service.stop(signal.SIGKILL)
    lines = out.read_text().splitlines()
    assert any("run_forever" in line and "computes" in line for line in lines), lines
