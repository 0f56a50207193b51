"""The flight recorder: what a trace says of tasks, stalls, callbacks and threads, in this process
and asked from outside while the loop is blocked."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from programs import DEADLINE_S, Python, Service, python, wait_until  # noqa: F401

import taut
from taut import doctor

needs_own = pytest.mark.skipif(
    os.environ.get("TAUT_TASKS") == "stdlib", reason="asyncio's tasks do not note their sites"
)
Event = dict[str, Any]


class Trace:
    """The events of a trace, and what its tracks are called."""

    def __init__(self, text: bytes) -> None:
        self.all = json.loads(text)
        self.events: list[Event] = self.all["traceEvents"]
        self.names: dict[int, str] = {
            event["tid"]: event["args"]["name"]
            for event in self.events
            if event["ph"] == "M" and event["name"] == "thread_name"
        }

    def on(self, name: str) -> list[Event]:
        """The events of the one track whose name begins so."""
        (tid,) = (tid for tid, text in self.names.items() if text.startswith(name))
        return [e for e in self.events if e["ph"] != "M" and e["tid"] == tid]

    def spans(self, name: str) -> list[Event]:
        return [event for event in self.on(name) if event["ph"] == "X"]


def traced(main: Callable[[], Awaitable[None]]) -> Trace:
    """What main() and the loop did, dumped within the run."""
    loop = taut.new_event_loop()
    try:
        loop.run_until_complete(main())
        return Trace(doctor.dump())
    finally:
        loop.close()


async def naps() -> None:
    await asyncio.sleep(0.001)


@needs_own
def test_tasks_are_tracks() -> None:
    seen: list[Trace] = []

    async def main() -> None:
        kept = asyncio.create_task(asyncio.sleep(DEADLINE_S), name="kept")
        await asyncio.create_task(naps())
        seen.append(Trace(doctor.dump()))
        kept.cancel()

    line = main.__code__.co_firstlineno
    traced(main)
    (trace,) = seen
    here = f" made at {__file__}"
    ended = trace.on(f"naps{here}:{line + 2} in ")
    assert [e["name"] for e in ended if e["ph"] == "i"] == ["created", "ended"]
    assert len([e for e in ended if e["name"] == "step"]) == 2
    alive = trace.on(f"kept sleep{here}:{line + 1} in ")
    assert [e["name"] for e in alive] == ["created", "step"]
    assert trace.spans("Task-") or trace.spans("test_tasks_are_tracks")  # main()'s own steps
    created, *steps, over = sorted(ended, key=lambda e: (e["ts"], e["name"] == "ended"))
    assert created["name"] == "created" and over["name"] == "ended"
    assert steps[0]["ts"] >= created["ts"]
    assert trace.all["otherData"]["pid"] == os.getpid()


def test_times_add_up() -> None:
    before = time.monotonic() * 1e6

    async def main() -> None:
        for _ in range(5):
            await naps()
            await asyncio.sleep(0)

    trace = traced(main)
    after = time.monotonic() * 1e6
    (loop,) = (name for name in trace.names.values() if name.startswith("loop "))
    spans = [e for e in trace.spans(loop) if e["ts"] >= before - 1]
    waits = sum(e["dur"] for e in spans if e["name"] == "wait")
    assert waits >= 4 * 1000 * 0.9
    end = 0.0
    for span in spans:  # one after the other, without a gap
        assert not end or abs(span["ts"] - end) < 1.0, span
        end = span["ts"] + span["dur"]
    assert before - 1 <= spans[0]["ts"] and end <= after + 1
    for event in trace.events:
        assert event["ph"] == "M" or event.get("dur", 0) >= 0


def test_callbacks_collections_and_timers() -> None:
    def called_back() -> None:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(called_back)
        loop.call_later(0.001, gc.isenabled)
        gc.collect()
        await asyncio.sleep(0.01)
        await loop.run_in_executor(None, int)  # makes the executor
        await loop.run_in_executor(None, int)

    trace = traced(main)
    names = [e["name"] for e in trace.on("callbacks of loop")]
    assert any(name.endswith("called_back") for name in names)
    assert "isenabled" in names and "timer" in names
    assert any(name.startswith("fd ") for name in names)  # the executor has woken the loop
    collections = [e["name"] for e in trace.on("collections of loop")]
    assert "collection of generation 2" in collections
    calls = [e for e in trace.events if e.get("cat") == "executor"]
    if calls:
        assert [e["ph"] for e in calls[-2:]] == ["b", "e"]
        assert calls[-1]["id"] == calls[-2]["id"]


def test_to_a_file_and_a_path(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.json", io.BytesIO()
    text = doctor.dump(path)
    json.loads(text)
    assert path.read_bytes() == text
    again = doctor.dump(kept)
    assert kept.getvalue() == again
    with pytest.raises(FileNotFoundError):
        doctor.dump(tmp_path / "none" / "a.json")


def test_more_than_it_holds() -> None:
    async def main() -> None:
        for _ in range(30_000):
            await asyncio.sleep(0)
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(12_000)]
        await asyncio.gather(*tasks)

    trace = traced(main)
    assert 50_000 < len(trace.events) < 120_000
    starts = [e["ts"] for e in trace.events if e["name"] == "step"]
    assert starts == sorted(starts)


STALLS = """
import asyncio, time, taut

async def stalls():
    await asyncio.sleep(0)
    time.sleep(0.3)  # blocks: the stall that is looked for

async def idles():
    for _ in range(5):
        await asyncio.sleep(0.001)

async def main():
    tasks = [asyncio.create_task(idles()) for _ in range(5)]
    await asyncio.sleep(0)
    await stalls()
    await asyncio.gather(*tasks)
    print(taut.doctor.dump().decode(), flush=True)

taut.run(main())
"""


@needs_own
def test_the_step_that_stalled_has_its_duration(python: Python) -> None:  # noqa: F811
    done = python("-c", STALLS, TAUT_STALL="50ms", TAUT_CONSOLE="0")
    trace = Trace(done.out.encode())
    stalled = [e for e in trace.events if e.get("args", {}).get("stalled")]
    longest = max(stalled, key=lambda e: e["dur"])
    assert 200_000 < longest["dur"]
    assert "main" in trace.names[longest["tid"]]
    (stall, *_) = trace.spans("stalls of loop")
    assert "in stalls" in stall["name"] and stall["dur"] > 200_000


BLOCKED = """
import asyncio, re, sys, taut

async def waits():
    await asyncio.sleep(1000)

async def blocks():
    await asyncio.sleep(0)
    print("blocks", flush=True)
    re.match(r"(a+)+$", "a" * 60 + "b")

async def main():
    kept = asyncio.create_task(waits(), name="patient")
    for _ in range(30000):
        await asyncio.sleep(0)
    await asyncio.create_task(blocks(), name="regex")

taut.run(main())
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "run"
    place.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    return place


@needs_own
def test_asked_while_the_loop_is_blocked(runtime: Path, tmp_path: Path, python: Python) -> None:  # noqa: F811
    with Service("-c", BLOCKED, cwd=tmp_path, XDG_RUNTIME_DIR=str(runtime)) as service:
        service.wait_for(lambda text: "blocks" in text, "the loop to be blocked")
        pid = str(service.process.pid)
        wait_until(lambda: list(runtime.glob("taut/*.sock")), "a console")
        told = python("-m", "taut", "dump", pid, XDG_RUNTIME_DIR=str(runtime))
        assert told.status == 0, told
        assert told.out.startswith(f"taut-{pid}.json: ")
        trace = Trace((tmp_path / f"taut-{pid}.json").read_bytes())
        assert [e["name"] for e in trace.on("patient waits")] == ["created", "step"] or (
            trace.on("patient waits") == []  # when that is no longer in the ring
        )
        last = trace.spans("regex blocks")[-1]
        now = trace.all["otherData"]["monotonic"] * 1e6
        assert last["ts"] + last["dur"] > now - 1e6
        again = python("-m", "taut", "dump", pid, "-o", "-", XDG_RUNTIME_DIR=str(runtime))
        assert Trace(again.out.encode()).spans("regex blocks")[-1]["dur"] > last["dur"]
        as_json = python("-m", "taut", "dump", "--json", pid, XDG_RUNTIME_DIR=str(runtime))
        assert json.loads(as_json.out)["traceEvents"]
        bad = python("-m", "taut", "dump", pid, "-o", "no/file", XDG_RUNTIME_DIR=str(runtime))
        assert bad.status == 1 and "no/file" in bad.err
        service.process.kill()


OFF = """
import taut, asyncio
taut.run(asyncio.sleep(0.01))
loop = taut.new_event_loop()
loop.run_until_complete(asyncio.sleep(0.01))
print(taut.doctor.dump().decode())
"""


def test_it_can_be_switched_off(python: Python) -> None:  # noqa: F811
    done = python("-c", OFF, TAUT_RECORDER="0")
    trace = json.loads(done.out)
    assert trace["otherData"]["loops"] == 0
    assert [e["name"] for e in trace["traceEvents"]] == ["process_name"]
    assert json.loads(python("-c", OFF).out)["otherData"]["loops"] == 1


FORKS = """
import asyncio, json, os, sys, taut

async def parents():
    await asyncio.sleep(0.001)

async def childs():
    await asyncio.sleep(0.001)

loop = taut.new_event_loop()
loop.run_until_complete(parents())
if os.fork() == 0:
    before = json.loads(taut.doctor.dump())
    loop.run_until_complete(childs())
    text = taut.doctor.dump().decode()
    sys.exit(0 if before["otherData"]["loops"] == 0
             and "childs" in text and "parents" not in text else 1)
status = os.waitstatus_to_exitcode(os.wait()[1])
text = taut.doctor.dump().decode()
sys.exit(status or int("parents" not in text or "childs" in text))
"""


@needs_own
def test_a_forked_child_has_its_own(python: Python) -> None:  # noqa: F811
    done = python("-W", "ignore", "-c", FORKS)
    assert done.status == 0, done


def test_two_loops(python: Python) -> None:  # noqa: F811
    script = """
import asyncio, json, threading, taut
ends = []
def runs(name):
    loop = taut.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    ends.append(loop)
threads = [threading.Thread(target=runs, args=(i,)) for i in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(sorted(e["args"]["name"] for e in json.loads(taut.doctor.dump())["traceEvents"]
                        if e["ph"] == "M" and e["tid" if "tid" in e else "pid"] and "loop" in
                        e["args"]["name"])))
"""
    names = json.loads(python("-c", script).out)
    assert {"loop 1", "loop 2", "callbacks of loop 1", "callbacks of loop 2"} <= set(names)


if sys.version_info >= (3, 12):

    def test_eager_tasks_end() -> None:
        async def main() -> None:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            await asyncio.gather(*(naps() for _ in range(3)))

        assert traced(main).all["otherData"]["loops"] >= 1
