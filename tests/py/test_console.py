"""The console and the listing of tasks: right answers from a live loop, and from memory while the
loop is blocked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from programs import DEADLINE_S, Python, Service, python, wait_until  # noqa: F401

import taut
from taut import _core, _listing

needs_own = pytest.mark.skipif(
    os.environ.get("TAUT_TASKS") == "stdlib", reason="asyncio's tasks do not note their sites"
)


def ask(runtime: Path, pid: int, request: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:

        def connected() -> bool:
            return sock.connect_ex(str(runtime / "taut" / f"{pid}.sock")) == 0

        sock.settimeout(DEADLINE_S)
        wait_until(connected, "a console")  # its thread listens a moment after the loop's start
        sock.sendall(request.encode() + b"\n")
        text = b""
        while part := sock.recv(1 << 16):
            text += part
    answer: dict[str, Any] = json.loads(text)
    return answer


# ---- the listing ----


def listing(direct: bool = True) -> dict[str, dict[str, Any]]:
    tasks = json.loads(_core.listing_tasks(direct))
    return {task["name"]: task for task in tasks}


def run(main: Callable[[], Awaitable[None]], **options: Any) -> None:
    assert _listing.enable(), "the frames of this Python are not known"
    loop = taut.new_event_loop(**options)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


async def sleeps() -> None:
    await asyncio.sleep(DEADLINE_S)


async def items() -> Any:
    await sleeps()
    yield 1


async def iterates() -> None:
    async for _ in items():
        pass


class Custom:
    def __await__(self) -> Any:
        yield from asyncio.sleep(DEADLINE_S).__await__()


async def custom() -> None:
    await Custom()


def names(task: dict[str, Any]) -> list[str]:
    return [frame["function"] for frame in task["frames"]]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("tasks", ["own", "stdlib"])
def test_each_task_with_its_frames(direct: bool, tasks: str) -> None:
    if tasks == "stdlib" and not direct and sys.version_info < (3, 14):
        pytest.skip("asyncio's own tasks are seen with the GIL only")

    async def main() -> None:
        made = {
            "plain": sleeps(), "generator": iterates(), "custom": custom(), "näme €": sleeps()
        }  # fmt: skip
        kept = [asyncio.create_task(coro, name=name) for name, coro in made.items()]
        await asyncio.sleep(0)
        new = asyncio.create_task(sleeps(), name="new")
        kept[3].cancel()
        seen = listing(direct)
        assert {*made, "new"} <= set(seen)
        assert names(seen["plain"]) == ["sleeps", "sleep"]
        assert names(seen["generator"]) == ["iterates", "items", "sleeps", "sleep"]
        assert names(seen["custom"]) == ["custom", "Custom.__await__", "sleep"]
        assert names(seen["new"]) == ["sleeps"]
        assert seen["new"]["state"] == "new" and seen["plain"]["state"] == "waiting"
        if tasks == "own":
            assert 0 <= seen["plain"]["since"] <= seen["plain"]["age"] < DEADLINE_S
        assert seen["plain"]["cancelling"] == 0 and seen["näme €"]["cancelling"] == 1
        for task in kept[:3]:
            stack = seen[task.get_name()]["frames"]
            (frame,) = task.get_stack()
            code = frame.f_code
            assert (stack[0]["file"], stack[0]["line"]) == (code.co_filename, frame.f_lineno)
            assert int(seen[task.get_name()]["id"], 16) == id(task)
        waiter: Any = kept[0]
        awaits = seen["plain"]["awaits"]
        assert int(awaits["id"], 16) == id(waiter._fut_waiter)
        assert awaits["type"].endswith("Future")
        me: Any = asyncio.current_task()
        running = seen[me.get_name()]
        assert running["state"] == "running"
        expected = ["test_each_task_with_its_frames.<locals>.main", "listing"]
        assert names(running)[:2] == expected
        for task in [*kept, new]:
            task.cancel()
        await asyncio.gather(*kept, new, return_exceptions=True)
        assert set(listing(direct)) & set(made) == set()

    run(main, tasks=tasks)


@needs_own
@pytest.mark.parametrize("direct", [True, False])
def test_sites_locks_and_who_waits_for_whom(direct: bool) -> None:
    async def holds(lock: asyncio.Lock) -> None:
        async with lock:
            await sleeps()

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sleeps(), name="in group")
            await asyncio.sleep(0)

    async def gathers() -> None:
        await asyncio.gather(asyncio.create_task(sleeps(), name="gathered"), sleeps())

    async def awaits(task: asyncio.Task[None]) -> None:
        await task

    async def main() -> None:
        lock: Any = asyncio.Lock()
        await lock.acquire()
        kept = {
            name: asyncio.create_task(coro, name=name)
            for name, coro in {
                "holds": holds(lock), "group": group(), "gathers": gathers()
            }.items()
        }  # fmt: skip
        kept["awaits"] = asyncio.create_task(awaits(kept["holds"]), name="awaits")
        for _ in range(3):
            await asyncio.sleep(0)
        seen = listing(direct)
        created = seen["awaits"]["created"]
        assert created["file"] == __file__ and created["function"].endswith("main")
        assert created["line"] == main.__code__.co_firstlineno + 9
        assert (seen["holds"]["on"]["type"], int(seen["holds"]["on"]["id"], 16)) == (
            "Lock", id(lock),
        )  # fmt: skip
        assert seen["group"]["on"]["type"] == "TaskGroup"
        assert seen["in group"]["wakes"] == [seen["group"]["on"]["id"]]
        assert seen["gathers"]["awaits"]["id"] in seen["gathered"]["wakes"]
        assert seen["holds"]["wakes"] == [seen["awaits"]["id"]]
        assert seen["awaits"]["awaits"]["id"] == seen["holds"]["id"]
        for task in kept.values():
            task.cancel()
        await asyncio.gather(*kept.values(), return_exceptions=True)

    run(main)


def test_a_listing_leaves_nothing_behind() -> None:
    async def main() -> None:
        task = asyncio.create_task(sleeps(), name="kept")
        await asyncio.sleep(0)
        before = sys.getrefcount(task), _core.mem_stats()["live_blocks"]
        for direct in (True, False) * 5:
            assert "kept" in listing(direct)
        assert (sys.getrefcount(task), _core.mem_stats()["live_blocks"]) == before
        task.cancel()

    run(main)


# ---- the console ----

PROGRAM = """\
import asyncio, os, re, sys, time, taut
async def work(n):
    await asyncio.sleep(1000)
def block(kind):
    if kind == "regex":
        re.match(r"(a+)+$", "a" * 80 + "b")
    elif kind == "power":
        x = 3 ** 4_000_000
        x ** 400
    elif kind == "sleep":
        time.sleep(1000)  # blocks: the stall under test
async def main():
    tasks = [asyncio.create_task(work(n), name=f"work {n}") for n in range(300)]
    await asyncio.sleep(0)
    print("ready", flush=True)
    block(sys.argv[1])
    await asyncio.gather(*tasks)
taut.run(main())
"""


def start(tmp_path: Path, kind: str, **env: str) -> Service:
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
    return Service(
        "app.py", kind, cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"), TAUT_CONSOLE="1", **env
    )


@pytest.mark.parametrize("kind", ["nothing", "regex", "power", "sleep"])
def test_answers_whatever_the_loop_does(tmp_path: Path, kind: str) -> None:
    with start(tmp_path, kind) as service:
        service.wait_for(lambda text: "ready" in text, "the program's start")
        runtime, pid = tmp_path / "run", service.process.pid

        def in_state() -> bool:
            seen = ask(runtime, pid, "ps")["tasks"]
            main = next(task for task in seen if task["name"] == "Task-1")
            wanted = {"nothing": "work", "sleep": "block"}.get(kind, "block")
            return any(wanted in f["function"] for f in main["frames"]) or (
                kind == "nothing" and main["awaits"] is not None
                and main["awaits"]["type"] == "_GatheringFuture"
            )  # fmt: skip

        wait_until(in_state, "the loop's state")
        times = []
        for _ in range(5):
            began = time.monotonic()
            answer = ask(runtime, pid, "ps")
            times.append(time.monotonic() - began)
        assert answer["pid"] == pid and answer["complete"]
        assert answer["read_by"] == ("loop" if kind == "nothing" else "memory")
        by_name = {task["name"]: task for task in answer["tasks"]}
        assert len(by_name) == 301
        assert names(by_name["work 7"]) == ["work", "sleep"]
        assert min(times) < 1, times  # 0.1 s where there is a CPU for it: not asserted here
        stack = ask(runtime, pid, "stack")
        (thread,) = stack["threads"]
        assert thread["id"] == pid and len(stack["tasks"]) == 301
        if kind != "nothing":
            assert [f["function"] for f in thread["frames"]][0] == "<module>"
            assert "block" in [f["function"] for f in thread["frames"]]
        assert ask(runtime, pid, "doctor")["findings"] == []
        cancelled = ask(runtime, pid, f"cancel {by_name['work 7']['id']} work 7")
        assert cancelled["result"] == ("asked" if kind == "nothing" else "queued")
        if kind == "nothing":
            service.wait_for(lambda text: "CancelledError" in text, "what gather() raises")
        else:
            service.process.kill()


def test_cancel_only_what_is_meant(tmp_path: Path) -> None:
    with start(tmp_path, "nothing") as service:
        service.wait_for(lambda text: "ready" in text, "the program's start")
        runtime, pid = tmp_path / "run", service.process.pid
        one = next(t for t in ask(runtime, pid, "ps")["tasks"] if t["name"] == "work 1")
        assert ask(runtime, pid, f"cancel {one['id']} work 2")["result"] == "gone"
        assert ask(runtime, pid, "cancel 0x10")["result"] == "gone"
        assert "error" in ask(runtime, pid, "cancel work")
        assert "error" in ask(runtime, pid, "walk")
        assert ask(runtime, pid, "info")["loops"][0]["thread"] == pid
        assert len(ask(runtime, pid, "ps")["tasks"]) == 301


def test_the_socket_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "taut"
    with start(tmp_path, "nothing") as service:
        service.wait_for(lambda text: "ready" in text, "the program's start")
        assert ask(tmp_path / "run", service.process.pid, "info")
        assert [p.name for p in path.iterdir()] == [f"{service.process.pid}.sock"]
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o700, os.getuid())
        service.stop(signal.SIGINT)
        assert list(path.iterdir()) == []
    with start(tmp_path, "nothing") as service:
        service.wait_for(lambda text: "ready" in text, "the program's start")
        assert ask(tmp_path / "run", service.process.pid, "info")
        service.stop(signal.SIGKILL)
    assert len(list(path.iterdir())) == 1
    with start(tmp_path, "nothing") as service:  # finds the dead one's and removes it
        service.wait_for(lambda text: "ready" in text, "the program's start")
        assert ask(tmp_path / "run", service.process.pid, "info")
        assert [p.name for p in path.iterdir()] == [f"{service.process.pid}.sock"]


def test_off(python: Python, tmp_path: Path) -> None:
    program = (
        "import asyncio, taut\ntaut.run(asyncio.sleep(0))\nprint(taut._core.console_thread_id())\n"
    )
    done = python("-c", program, TAUT_CONSOLE="0", XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.status, done.out, done.err) == (0, "0\n", "")
    assert list(tmp_path.iterdir()) == []


def test_forked_workers_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(
        "import asyncio, os, taut\n"
        "taut.run(asyncio.sleep(0))\n"
        "async def main():\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    await asyncio.sleep(1000)\n"
        "os.fork()\n"
        "taut.run(main())\n"
    )
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    with Service(
        "-W", "ignore", "forks.py", cwd=tmp_path, XDG_RUNTIME_DIR=str(runtime), TAUT_CONSOLE="1"
    ) as service:
        service.wait_for(lambda text: text.count("\n") == 2, "both processes")
        for pid in map(int, service.text.split()):
            answer = ask(runtime, pid, "ps")
            assert (answer["pid"], answer["read_by"]) == (pid, "loop")
            assert [names(task)[0] for task in answer["tasks"]] == ["main"]


METRICS = """
import asyncio, os, sys, taut, urllib.request

def fetch():
    url = "http://127.0.0.1:" + os.environ["TAUT_METRICS_PORT"]
    with urllib.request.urlopen(url + "/metrics") as answer:
        return answer.headers["Content-Type"], answer.read().decode()

async def main():
    kind, text = await asyncio.to_thread(fetch)
    print(kind)
    print(text)

taut.run(main())
"""


def test_metrics_for_prometheus(python: Python) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = python("-c", METRICS, TAUT_METRICS_PORT=str(port))
    assert done.status == 0, done
    assert done.out.startswith("text/plain; version=0.0.4")
    assert "# TYPE event_loop_lag_seconds histogram" in done.out
    assert "\npending_tasks{" in done.out or "\npending_tasks " in done.out
