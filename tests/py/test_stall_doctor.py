"""taut.doctor: where reports go, rate limits, hangs, forks, exits, and refused system calls."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import taut
from programs import DEADLINE_S, Python, clean_env, python  # noqa: F401
from taut import doctor

PREFIX = "import asyncio, sys, time, taut\nfrom taut import _core, doctor\n"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.002)


def stall_on_asyncio(reports: list[doctor.StallReport], **options: object) -> doctor.Attachment:
    async def main() -> doctor.Attachment:
        attachment = doctor.attach(
            threshold=0.02,
            callback=reports.append,
            stderr=False,
            **options,  # type: ignore[arg-type]
        )
        await asyncio.sleep(0)
        time.sleep(0.1)  # blocks: a stall
        await asyncio.sleep(0.01)
        return attachment

    return asyncio.run(main())


def test_a_callback_gets_objects_during_the_stall() -> None:
    reports: list[doctor.StallReport] = []
    seen_at: list[float] = []

    async def main() -> float:
        def callback(report: doctor.StallReport) -> None:
            reports.append(report)
            seen_at.append(time.monotonic())

        doctor.attach(threshold="20ms", callback=callback, stderr=False)
        await asyncio.sleep(0)
        time.sleep(0.5)  # blocks: a stall
        ended = time.monotonic()
        await asyncio.sleep(0.05)
        return ended

    ended = asyncio.run(main())
    until(lambda: reports and reports[-1].kind == "ended")
    began = reports[0]
    assert [r.kind for r in reports[:2]] == ["began", "lasts"] and seen_at[0] < ended
    assert began.accuracy == "exact" and began.threshold == 0.02 and 0.02 <= began.duration < 0.5
    assert began.thread_id == threading.get_native_id() and began.unshown == began.dropped == 0
    assert began.site and began.site.filename == __file__ and began.site.name.endswith("main")
    assert began.frames[-1] == began.site and str(began.site.line) in began.where
    assert str(began).startswith("loop stalled for 0.") and "blocked" in began.cause
    assert f'  File "{__file__}", line {began.site.line}, in ' in began.format_stack()
    assert reports[-1].duration >= 0.45 and str(reports[-1]).startswith("loop stall ended after ")


def test_a_logger_gets_warnings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stalls"):
        stall_on_asyncio([], logger="stalls")
        until(lambda: any("ended after" in r.message for r in caplog.records))
    assert re.search(rf" at \S*{Path(__file__).name}:\d+ in stall_on_asyncio", caplog.text)
    assert f'File "{__file__}", line ' in caplog.text


def test_detaching_leaves_the_loop_as_it_was() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        selector = loop._selector  # type: ignore[attr-defined]
        before = dict(vars(selector)), dict(vars(loop))
        with doctor.attach(threshold=0.02, stderr=False) as attachment:
            assert "select" in vars(selector)
            attachment.threshold = "30ms"
            assert attachment.threshold == 0.03
            attachment.threshold = None
            assert attachment.threshold is None
            await asyncio.sleep(0)
            time.sleep(0.05)  # blocks: watched, but switched off
            attachment.threshold = 0.01
            await asyncio.sleep(0)
            time.sleep(0.05)  # blocks: a stall
            while attachment.longest == 0:
                await asyncio.sleep(0.002)
            assert attachment.stalls == 1
        assert (dict(vars(selector)), dict(vars(loop))) == before
        doctor.attach(threshold=0.02, stderr=False)
        doctor.attach(threshold=0.03, stderr=False)  # replaces the first
        doctor.detach()
        doctor.detach()
        assert (dict(vars(selector)), dict(vars(loop))) == before

    asyncio.run(main())


def test_closing_a_loop_detaches_it() -> None:
    loop = asyncio.new_event_loop()
    attachment = doctor.attach(loop, stderr=False)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert loop.is_closed() and id(loop) not in doctor._stalls._attached
    attachment.detach()


@pytest.mark.parametrize("value", [0, -1, float("nan"), 1e9, "soon", "5 ms", "1e-2", ""])
def test_what_is_no_threshold(value: object) -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(ValueError):
            doctor.attach(loop, value)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            doctor.attach(loop, [])  # type: ignore[arg-type]
    finally:
        loop.close()


def test_what_cannot_be_attached_to() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        doctor.attach()
    with pytest.raises(TypeError, match="not a loop that can be watched"):
        doctor.attach(asyncio.AbstractEventLoop())
    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError, match="callback"):
        doctor.attach(loop, callback=3)  # type: ignore[arg-type]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    until(loop.is_running)
    with pytest.raises(RuntimeError, match="another thread"):
        doctor.attach(loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("0.5", 0.5), ("2s", 2.0), ("5000us", 0.005), ("off", None), ("0", None)],
)
def test_the_environment_sets_the_threshold(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float | None
) -> None:
    monkeypatch.setenv("TAUT_STALL", text)
    loop = taut.new_event_loop()
    assert loop.stall_threshold == seconds  # type: ignore[attr-defined]
    loop.stall_threshold = "70ms"  # type: ignore[attr-defined]
    assert loop.stall_threshold == 0.07  # type: ignore[attr-defined]
    with pytest.raises(ValueError):
        loop.stall_threshold = -2  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        del loop.stall_threshold  # type: ignore[attr-defined]
    assert loop.stall_threshold == 0.07  # type: ignore[attr-defined]
    loop.close()


def test_a_bad_environment_is_named_once(python: Python) -> None:  # noqa: F811
    code = PREFIX + "for _ in range(2): taut.new_event_loop().close()"
    done = python("-c", code, TAUT_STALL="soon")
    assert done.status == 0 and done.err.count("TAUT_STALL=soon is not a duration") == 1, done


def test_reports_of_our_loops_go_where_they_are_sent() -> None:
    reports: list[doctor.StallReport] = []
    doctor.report_to(reports.append, stderr=False)
    try:

        async def main() -> None:
            asyncio.get_running_loop().stall_threshold = 0.02  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            time.sleep(0.1)  # blocks: a stall
            await asyncio.sleep(0)

        taut.run(main())
        until(lambda: reports and reports[-1].kind == "ended")
        assert reports[0].site and reports[0].site.filename == __file__
    finally:
        doctor.report_to()


def test_a_hang_is_reported_again_and_again(tmp_path: Path) -> None:
    script = tmp_path / "hang.py"
    script.write_text(
        "import socket\nimport taut\n\n\nasync def main():\n"
        "    a, b = socket.socketpair()\n    a.recv(1)\n\n\ntaut.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=clean_env(TAUT_STALL="20ms"),
    )
    try:
        assert process.stderr
        said = []
        for line in process.stderr:
            said += re.findall(
                r"stalled for ([\d.]+) ms \(still running\) at hang.py:7 in main", line
            )
            if len(said) == 4:
                break
        assert process.poll() is None  # it hangs still
        times = [float(ms) for ms in said]
        assert all(b >= 1.5 * a for a, b in zip(times, times[1:], strict=False)), times
    finally:
        process.kill()
        process.communicate()


def test_a_site_does_not_flood(python: Python) -> None:  # noqa: F811
    code = PREFIX + (
        "async def main():\n"
        "    for _ in range(20):\n"
        "        time.sleep(0.02)\n"
        "        await asyncio.sleep(0.005)\n"
        "    time.sleep(0.02)\n"
        "    await asyncio.sleep(0.005)\n"
        "taut.run(main())\n"
    )
    done = python("-c", code, TAUT_STALL="5ms")
    assert done.status == 0, done
    ended = re.findall(r"^taut: loop stall ended .* <string>:(\d+) in main$", done.err, flags=re.M)
    assert ended.count("5") <= 6 and ended.count("7") == 1, done  # a new site always speaks
    more = re.search(
        r"^taut: (\d+) more stalls? at <string>:5 in main, the longest", done.err, re.M
    )
    assert more and int(more[1]) >= 10, done


def test_bytecode_that_never_stands_still(python: Python) -> None:  # noqa: F811
    code = PREFIX + (
        "def leaf(n): return n + 1\n"
        "def branch(n): return leaf(n) + leaf(n + 1)\n"
        "def trunk():\n"
        "    end = time.monotonic() + 0.6\n"
        "    while time.monotonic() < end:\n"
        "        branch(1); branch(2); branch(3)\n"
        "async def main():\n"
        "    trunk()\n"
        "taut.run(main())\n"
    )
    done = python("-c", code, TAUT_STALL="10ms")
    assert done.status == 0, done
    said = re.findall(r"still running\) (?:at|near) <string>:(\d+) in (\w+)", done.err)
    assert len(said) >= 4, done
    lines = {"leaf": {3}, "branch": {4}, "trunk": {6, 7, 8}}
    assert all(int(line) in lines[name] for line, name in said), done
    stacks = re.findall(r"in main\n.*in trunk", done.err)
    assert stacks, done


def test_a_loop_that_cannot_get_the_gil(python: Python) -> None:  # noqa: F811
    code = PREFIX + (
        "import threading\n"
        "async def main():\n"
        "    thread = threading.Thread(target=lambda: 10 ** 10 ** 6)\n"
        "    asyncio.get_running_loop().call_later(0.01, bool)\n"
        "    await asyncio.sleep(0)\n"
        "    thread.start()\n"
        "    await asyncio.sleep(0.02)\n"
        "    thread.join()\n"
        "taut.run(main())\n"
    )
    done = python("-c", code, TAUT_STALL="20ms")
    assert done.status == 0, done
    assert re.search(
        r"still running\) (at|in the event loop itself, most likely waiting)", done.err
    )


def test_a_fork_during_a_watch(python: Python) -> None:  # noqa: F811
    code = PREFIX + (
        "import os\n"
        "def child():\n"
        "    time.sleep(0.1)\n"
        "async def stalls():\n"
        "    child()\n"
        "async def main():\n"
        "    await asyncio.sleep(0.01)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        asyncio._set_running_loop(None)\n"
        "        taut.run(stalls())\n"
        "        os._exit(0)\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "raise SystemExit(taut.run(main()))\n"
    )
    done = python("-W", "ignore", "-c", code, TAUT_STALL="20ms")
    assert done.status == 0 and re.search(r"at <string>:5 in child", done.err), done


def test_the_interpreter_may_end_while_a_daemon_thread_stalls(python: Python) -> None:  # noqa: F811
    code = PREFIX + (
        "import threading\n"
        "async def main():\n"
        "    time.sleep(60)\n"
        "doctor.report_to(lambda r: started.set())\n"
        "started = threading.Event()\n"
        "threading.Thread(target=taut.run, args=(main(),), daemon=True).start()\n"
        "started.wait(20)\n"
    )
    done = python("-c", code, TAUT_STALL="5ms")
    assert done.status == 0 and "in main" in done.err, done


REFUSE = """
import ctypes, struct
def refuse(*numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    code = struct.pack("HBBI", 0x20, 0, 0, 0)
    for n in numbers:
        code += struct.pack("HBBI", 0x15, 0, 1, n) + struct.pack("HBBI", 0x06, 0, 0, 0x50000 | 1)
    code += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(code)
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
"""
READV, PREAD, PIPE2, MEMBARRIER = 310, 17, 293, 324


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
@pytest.mark.parametrize(
    ("refused", "gil"),
    [
        ((READV,), False),
        ((READV, PREAD), False),
        ((MEMBARRIER,), False),
        ((READV, PREAD, PIPE2), True),
    ],
)
def test_where_the_kernel_refuses(python: Python, refused: tuple[int, ...], gil: bool) -> None:  # noqa: F811
    code = (
        REFUSE
        + PREFIX
        + (
            "runner = taut.Runner()\n"
            "runner.get_loop()  # which has pipes of its own\n"
            f"refuse{refused}\n"
            "async def main():\n"
            "    await asyncio.sleep(1.2)\n"
            "    time.sleep(0.1)  # stalls\n"
            "    await asyncio.sleep(0.05)\n"
            "    10 ** 10 ** 6\n"
            "runner.run(main())\n"
            "runner.close()\n"
        )
    )
    line = code.splitlines().index("    time.sleep(0.1)  # stalls") + 1
    done = python("-c", code, TAUT_STALL="20ms")
    assert done.status == 0 and f"at <string>:{line} in main" in done.err, done
    assert ("taken with the GIL: no other way is permitted here" in done.err) is gil, done
    assert ("No stack: the kernel lets no thread" in done.err) is gil, done
