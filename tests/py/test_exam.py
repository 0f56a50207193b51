"""The examination: what a loop finds out about its tasks, when it does, and what it costs."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import pytest
from taut import _core
from taut.doctor import _rules

import taut

LIMIT_S = 30


def examined(loop):
    return _rules.record_of(_core.examine(loop))


def group_at(record, function):
    return [g for g in record.groups if any(f.code.co_name == function for f in g.frames)]


async def waits(future):
    await future


async def waits_in_two(future):
    await waits(future)


@types.coroutine
def generator_waits(future):
    yield from waits(future)


async def waits_by_generator(future):
    await generator_waits(future)


async def agen(future):
    yield await waits(future)


async def through_agen(future):
    async for _ in agen(future):
        pass


class Awaitable:
    def __init__(self, future):
        self.future = future

    def __await__(self):
        return waits(self.future).__await__()


async def through_wrapper(future):
    await Awaitable(future)


def chain_by_python(coro):
    """What Python itself says, as far as it shows it."""
    found = []
    while coro is not None and not isinstance(coro, asyncio.Future):
        if isinstance(coro, types.CoroutineType):
            found.append((coro.cr_code, coro.cr_frame.f_lineno))
            coro = coro.cr_await
        elif isinstance(coro, types.GeneratorType):
            found.append((coro.gi_code, coro.gi_frame.f_lineno))
            coro = coro.gi_yieldfrom
        else:
            break
    return found


@pytest.mark.parametrize("kind", [waits, waits_in_two, waits_by_generator])
def test_the_frames_of_a_coroutine_are_those_that_python_shows(kind):
    async def main():
        future = asyncio.get_running_loop().create_future()
        coro = kind(future)
        task = asyncio.create_task(coro)
        await asyncio.sleep(0)
        frames = _core.coroutine_frames(coro)
        assert frames == chain_by_python(coro)
        assert frames[-1][0] is waits.__code__
        future.set_result(None)
        await task
        assert _core.coroutine_frames(coro) == []

    taut.run(main())


@pytest.mark.parametrize("kind", [through_agen, through_wrapper])
def test_the_chain_goes_through_what_python_hides(kind):
    async def main():
        future = asyncio.get_running_loop().create_future()
        coro = kind(future)
        task = asyncio.create_task(coro)
        await asyncio.sleep(0)
        codes = [code for code, _ in _core.coroutine_frames(coro)]
        assert codes[0] is kind.__code__
        assert codes[-1] is waits.__code__
        future.set_result(None)
        await task

    taut.run(main())


def test_coroutines_that_have_not_begun_and_other_things():
    async def main():
        coro = waits(None)
        assert [code for code, _ in _core.coroutine_frames(coro)] == [waits.__code__]
        coro.close()
        assert _core.coroutine_frames(coro) == []
        assert _core.coroutine_frames(3) == []

    taut.run(main())


def test_tasks_are_grouped_by_where_they_were_made_and_where_they_wait():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        many = [asyncio.create_task(waits(future)) for _ in range(300)]
        one = asyncio.create_task(waits(future))
        await asyncio.sleep(0)
        ready = asyncio.create_task(waits(future))
        record = examined(loop)
        assert record.tasks == 303
        assert record.waiting == 301
        crowd, single, begun = sorted(group_at(record, "waits"), key=lambda g: (-g.tasks, g.waits))[
            0:3
        ]
        if begun.waits != _rules.READY:
            single, begun = begun, single
        assert (crowd.tasks, crowd.waits, crowd.together) == (300, _rules.FUTURE, 300)
        assert crowd.made_at.function.startswith("test_tasks_are_grouped")
        assert crowd.stands_at.line == waits.__code__.co_firstlineno + 1
        assert single.tasks == 1
        assert begun.waits == _rules.READY
        future.set_result(None)
        await asyncio.gather(*many, one, ready)

    taut.run(main())


def test_more_places_than_there_is_room_for():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        space = {"f": future}
        exec("".join(f"async def f{i}(): await f\n" for i in range(200)), space)
        tasks = [asyncio.create_task(space[f"f{i}"]()) for i in range(200)]
        await asyncio.sleep(0)
        record = examined(loop)
        assert len(record.groups) == 128
        assert record.others == record.tasks - sum(g.tasks for g in record.groups)
        assert record.others >= 72
        future.set_result(None)
        await asyncio.gather(*tasks)

    taut.run(main())


def test_tasks_of_other_loops_are_not_counted():
    other = taut.new_event_loop()
    future = other.create_future()
    task = other.create_task(waits(future))

    async def main():
        assert examined(asyncio.get_running_loop()).tasks == 1

    taut.run(main())
    assert examined(other).tasks == 1
    future.set_result(None)
    other.run_until_complete(task)
    other.close()


def test_waits_are_measured_from_the_last_step():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        task = asyncio.create_task(waits(future))
        began = time.monotonic()
        while time.monotonic() < began + 0.3:
            await asyncio.sleep(0.01)
        (group,) = group_at(examined(loop), "waits")
        assert 0.2 < group.waited <= group.age
        assert group.waited < time.monotonic() - began + 0.1
        future.set_result(None)
        await task

    taut.run(main())


async def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_a_loop_at_work_is_examined(monkeypatch):
    records = []
    monkeypatch.setattr(_rules, "_rules", [records.append])

    async def main():
        future = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(waits(future)) for _ in range(5000)]
        await until(lambda: len(records) >= 2)
        future.set_result(None)
        await asyncio.gather(*tasks)

    taut.run(main())
    first, second = records[:2]
    assert first.tasks == second.tasks == 5001
    assert second.now - first.now >= 0.99


def test_an_idle_loop_is_examined_once_more(monkeypatch):
    records = []
    monkeypatch.setattr(_rules, "_rules", [records.append])

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        task = asyncio.create_task(waits(future))

        def release():
            end = time.monotonic() + LIMIT_S
            while not (records and records[-1].groups[0].waited > 2) and time.monotonic() < end:
                threading.Event().wait(0.01)
            loop.call_soon_threadsafe(future.set_result, None)

        thread = threading.Thread(target=release)
        thread.start()
        await task
        thread.join()

    taut.run(main())
    assert any(g.waited > 2 for g in records[-1].groups)


def test_tasks_that_end_between_two_slices(monkeypatch):
    records = []
    monkeypatch.setattr(_rules, "_rules", [records.append])

    async def main():
        loop = asyncio.get_running_loop()
        tasks = set()

        async def brief():
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)

        while len(records) < 2:
            tasks = {asyncio.create_task(brief()) for _ in range(3000)}
            await asyncio.wait(tasks)
        assert loop.is_running()

    taut.run(main())
    assert len(records) >= 2


def test_a_rule_that_fails_is_told_once_and_left_out(monkeypatch, caplog):
    calls = []

    def bad(record):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(_rules, "_rules", [bad, calls.append])

    async def main():
        await until(lambda: len(calls) >= 2)

    with caplog.at_level(logging.ERROR, "taut"):
        taut.run(main())
    assert len([r for r in caplog.records if "bad" in r.getMessage()]) == 1


IDLE = """
    import asyncio, pathlib, threading
    import taut

    def switches():
        found = {}
        for path in pathlib.Path("/proc/self/task").iterdir():
            text = (path / "status").read_text()
            lines = dict(line.split(":\\t", 1) for line in text.splitlines())
            if int(path.name) != threading.get_native_id():
                found[lines["Name"], path.name] = int(lines["voluntary_ctxt_switches"])
        return found

    def look(loop, future):
        for _ in range(20):  # the last examination comes within three seconds
            threading.Event().wait(3)
            before = switches()
            threading.Event().wait(2)
            if switches() == before:
                print("idle", sorted(name for name, _ in before))
                break
        loop.call_soon_threadsafe(future.set_result, None)

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        thread = threading.Thread(target=look, args=(loop, future))
        thread.start()
        await future
        thread.join()

    taut.run(main())
"""


def test_an_idle_process_makes_no_wake_ups():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IDLE)], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.stdout.startswith("idle"), done.stdout + done.stderr
    assert "taut-watchdog" in done.stdout


def test_off(tmp_path):
    code = """
        import asyncio, sys, time
        import taut

        async def main():
            end = time.monotonic() + 3
            while time.monotonic() < end:
                await asyncio.sleep(0.01)
            print("taut.doctor._rules" in sys.modules)

        taut.run(main())
    """
    script = tmp_path / "off.py"
    script.write_text(textwrap.dedent(code))
    for value, expected in (("off", "False"), ("on", "True")):
        done = subprocess.run(
            [sys.executable, script], env={**os.environ, "TAUT_DOCTOR": value},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == expected, done.stderr


def test_without_stalls_there_are_examinations(tmp_path):
    """TAUT_STALL=off is about stalls alone, and so is loop.stall_threshold = None."""
    code = """
        import asyncio, os, sys, time
        import taut
        from taut import _core, doctor

        async def main():
            loop = asyncio.get_running_loop()
            assert loop.stall_threshold is None
            future = loop.create_future()
            waiting = asyncio.create_task(waits(future))
            del future
            end = time.monotonic() + 30
            while not doctor.findings("lost-wakeup") and time.monotonic() < end:
                time.sleep(0.1)  # blocks: a stall that is not to be seen
                await asyncio.sleep(0.01)
            codes = [finding.code for finding in doctor.findings()]
            print(codes, _core.loop_vitals(loop)["stalls"])

        async def waits(future):
            await future

        taut.run(main())
    """
    script = tmp_path / "quiet.py"
    script.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "TAUT_STALL": "off"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("['lost-wakeup'] 0\n", "")


def test_off_is_off(tmp_path):
    """With both switched off no thread watches the loop."""
    script = tmp_path / "none.py"
    script.write_text(
        "import asyncio, taut\nfrom taut import _core\n"
        "async def main():\n    print(_core.stall_thread_id())\n"
        "taut.run(main())\n"
    )
    for value, expected in (("off", "0"), ("on", "[1-9][0-9]*")):
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "TAUT_STALL": "off", "TAUT_DOCTOR": value},
        )  # fmt: skip
        assert re.fullmatch(expected, done.stdout.strip()), done


def test_the_walk_keeps_no_references():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        task = asyncio.create_task(waits(future))
        await asyncio.sleep(0)
        examined(loop)
        gc.collect()
        before = sys.getrefcount(task), sys.getrefcount(waits.__code__)
        for _ in range(10):
            examined(loop)
        gc.collect()
        assert (sys.getrefcount(task), sys.getrefcount(waits.__code__)) == before
        future.set_result(None)
        await task

    taut.run(main())


def test_whose_code_it_is():
    assert _core.code_is_user(waits.__code__)
    assert not _core.code_is_user(asyncio.sleep.__code__)
    assert not _core.code_is_user(taut.Runner.run.__code__)
    assert not _core.code_is_user(pytest.main.__code__)
    with pytest.raises(TypeError, match="code must be a code object"):
        _core.code_is_user(Path)
