"""Findings about programs that want to end and cannot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import taut
from doctoring import blamed, empty_table  # noqa: F401
from loops import DEADLINE_S
from taut import _notices, doctor

pytestmark = pytest.mark.usefixtures("empty_table")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_notices, "SHUTDOWN_HANGS_S", 0.05)


def hung() -> list[doctor.Finding]:
    return doctor.findings("shutdown-hung")


def play(main: Coroutine[Any, Any, None], stdlib: bool) -> None:
    if stdlib:
        with asyncio.Runner(loop_factory=taut.new_event_loop) as runner:
            runner.run(main)
    else:
        taut.run(main)


async def be_deaf() -> None:
    while not hung():
        try:
            await asyncio.sleep(0.01)  # deaf
        except asyncio.CancelledError:
            pass


@pytest.mark.parametrize("stdlib", [False, True])
def test_a_task_that_does_not_hear(stdlib: bool) -> None:
    async def main() -> None:
        asyncio.create_task(be_deaf(), name="deaf")  # noqa: RUF006
        await asyncio.sleep(0)

    play(main(), stdlib)
    (finding,) = hung()
    assert blamed(finding, "deaf")
    assert finding.state == "over"
    assert "1 tasks were cancelled and do not end: task 'deaf'" in finding.cause
    assert any("task 'deaf', created at" in line for line in finding.evidence)


def work(stop: threading.Event) -> None:
    stop.wait(DEADLINE_S)  # works


@pytest.mark.parametrize("stdlib", [False, True])
def test_a_thread_that_works_on(stdlib: bool) -> None:
    stop = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, work, stop)
        await asyncio.sleep(0)

    end = doctor.on_finding(lambda finding: stop.set())
    try:
        play(main(), stdlib)
    finally:
        end()
    (finding,) = hung()
    assert blamed(finding, "works")
    assert finding.state == "over"
    assert "1 calls in the default executor have not returned" in finding.cause


async def numbers() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        while not hung():
            await asyncio.sleep(0.01)  # generates


def test_a_generator_that_does_not_end() -> None:
    kept: list[Any] = []

    async def main() -> None:
        kept.append(numbers())
        await anext(kept[0])

    taut.run(main())
    (finding,) = hung()
    assert blamed(finding, "generates")
    assert finding.state == "over"
    assert "1 asynchronous generators do not end" in finding.cause


def test_what_ends_in_time() -> None:
    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)

    async def main() -> None:
        asyncio.create_task(clean_up())  # noqa: RUF006
        await asyncio.to_thread(int)
        await asyncio.sleep(0.2)  # a run that is not the last may take as long as it likes

    play(main(), False)
    loop = taut.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0.2))
    loop.close()
    assert doctor.findings() == []
