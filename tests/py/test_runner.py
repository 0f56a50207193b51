"""taut.run, taut.Runner and taut.new_event_loop behave as asyncio's, on taut's loop."""

from __future__ import annotations

import asyncio
import contextvars
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from programs import Python, python  # noqa: F401

import taut


async def value(x: object) -> object:
    await asyncio.sleep(0)
    return x


async def fail(exc: BaseException) -> None:
    raise exc


def test_run_returns_the_result_from_a_taut_loop() -> None:
    async def main() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    loop = taut.run(main())
    assert isinstance(loop, taut.Loop)
    assert loop.is_closed()


def test_run_raises_what_main_raises() -> None:
    with pytest.raises(ZeroDivisionError, match="^why$"):
        taut.run(fail(ZeroDivisionError("why")))


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt()])
def test_run_lets_exits_through(exc: BaseException) -> None:
    with pytest.raises(type(exc)):
        taut.run(fail(exc))


def test_run_inside_a_running_loop_is_refused() -> None:
    async def main() -> None:
        inner = value(1)
        try:
            with pytest.raises(RuntimeError, match=r"cannot be called from a running event loop"):
                taut.run(inner)
        finally:
            inner.close()

    taut.run(main())


@pytest.mark.parametrize("wrong", [None, 1, lambda: None, value])
def test_run_wants_a_coroutine_as_asyncio_does(wrong: object) -> None:
    raised = []
    for run in (asyncio.run, taut.run):
        with pytest.raises((TypeError, ValueError)) as info:
            run(wrong)  # type: ignore[arg-type]
        raised.append((info.type, str(info.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize("debug", [None, False, True])
def test_run_sets_debug_mode(debug: bool | None) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert taut.run(main(), debug=debug) is bool(debug)


def test_run_takes_its_options_by_keyword_only() -> None:
    main = value(1)
    with pytest.raises(TypeError):
        taut.run(main, True)  # type: ignore[misc]
    main.close()


def test_run_cancels_what_is_left_and_finishes_generators() -> None:
    events: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def ticks():  # type: ignore[no-untyped-def]
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            events.append("generator closed")

    kept = []

    async def main() -> None:
        kept.append(asyncio.create_task(linger()))
        kept.append(generator := ticks())
        await generator.__anext__()
        await asyncio.to_thread(events.append, "thread")

    taut.run(main())
    assert events == ["thread", "cancelled", "generator closed"]
    assert not [t for t in threading.enumerate() if t.name.startswith("asyncio_")]


def test_runner_runs_several_times_in_one_loop_and_context() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)

    async def bump() -> int:
        var.set(var.get() + 1)
        return var.get()

    with taut.Runner() as runner:
        loop = runner.get_loop()
        assert isinstance(loop, taut.Loop)
        assert [runner.run(bump()), runner.run(bump())] == [1, 2]
        assert runner.get_loop() is loop
    assert loop.is_closed()
    assert var.get() == 0


def test_runner_is_an_asyncio_runner_and_takes_a_factory() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[0]

    with taut.Runner(loop_factory=factory, debug=True) as runner:
        assert isinstance(runner, asyncio.Runner)
        assert runner.get_loop() is made[0]
        assert made[0].get_debug()


def test_new_event_loop_makes_a_new_idle_loop() -> None:
    first, second = taut.new_event_loop(), taut.new_event_loop()
    try:
        assert first is not second
        for loop in (first, second):
            assert type(loop) is taut.Loop
            assert isinstance(loop, asyncio.AbstractEventLoop)
            assert not loop.is_running() and not loop.is_closed()
    finally:
        first.close()
        second.close()


def test_run_works_in_other_threads() -> None:
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(taut.run(value(n)))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]  # type: ignore[type-var]


CTRL_C = """
import asyncio, sys, {module} as lib

async def main():
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

lib.run(main())
"""


@pytest.mark.parametrize("module", ["asyncio", "taut"])
def test_ctrl_c_cancels_main_and_ends_the_process_by_sigint(module: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C.format(module=module)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert out == "cancelled\n"
    assert child.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_version_is_the_projects() -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("pyproject.toml", "meson.build"):
        match = re.search(r"^ *version *[=:] *['\"]([^'\"]+)", (root / name).read_text(), re.M)
        assert match is not None and match[1] == taut.__version__, name


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        taut.nothing


def test_the_readme_example_runs(python: Python) -> None:
    root = Path(__file__).resolve().parents[2]
    done = python(os.fspath(root / "examples" / "hello.py"))
    assert done.status == 0, done
    assert done.out == "hello, Ada, from taut.loop\nhello, Grace, from taut.loop\n"
    assert done.err == ""
