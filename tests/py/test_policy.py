"""taut.install and taut.EventLoopPolicy: asyncio's own functions make taut loops."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from programs import Python, python  # noqa: F401

import taut

PROGRAM = """
import asyncio, warnings
warnings.simplefilter("error")
import taut
{setup}

async def kind():
    return isinstance(asyncio.get_running_loop(), taut.Loop)

print(asyncio.run(kind()))
with asyncio.Runner() as runner:
    print(runner.run(kind()))
loop = asyncio.new_event_loop()
print(isinstance(loop, taut.Loop))
asyncio.set_event_loop(loop)
print(asyncio.get_event_loop() is loop)
loop.close()
"""


def test_install_makes_asyncio_create_taut_loops(python: Python) -> None:
    done = python("-c", PROGRAM.format(setup="taut.install(); taut.install()"))
    assert (done.status, done.out, done.err) == (0, "True\n" * 4, "")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="setting a policy warns from 3.14 on")
def test_the_policy_makes_asyncio_create_taut_loops(python: Python) -> None:
    setup = "asyncio.set_event_loop_policy(taut.EventLoopPolicy())"
    done = python("-c", PROGRAM.format(setup=setup))
    assert (done.status, done.out, done.err) == (0, "True\n" * 4, "")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="setting a policy warns from 3.14 on")
def test_install_keeps_a_taut_policy_that_is_set(python: Python) -> None:
    done = python(
        "-c",
        "import asyncio, taut\n"
        "class Mine(taut.EventLoopPolicy): pass\n"
        "mine = Mine(); asyncio.set_event_loop_policy(mine); taut.install()\n"
        "print(asyncio.get_event_loop_policy() is mine)",
    )
    assert (done.status, done.out) == (0, "True\n")


def test_importing_taut_changes_and_warns_of_nothing(python: Python) -> None:
    done = python(
        "-W",
        "error",
        "-c",
        "import asyncio, taut\n"
        "loop = asyncio.new_event_loop()\n"
        "print(isinstance(loop, taut.Loop))\n"
        "loop.close()",
    )
    assert (done.status, done.out, done.err) == (0, "False\n", "")


@pytest.fixture
def policy() -> Iterator[taut.EventLoopPolicy]:
    made = taut.EventLoopPolicy()
    yield made
    made.set_event_loop(None)


def test_policy_holds_a_loop_per_thread(policy: taut.EventLoopPolicy) -> None:
    loop = policy.new_event_loop()
    assert type(loop) is taut.Loop
    policy.set_event_loop(loop)
    assert policy.get_event_loop() is loop
    elsewhere: list[str] = []

    def ask() -> None:
        try:
            policy.get_event_loop()
        except RuntimeError as exc:
            elsewhere.append(str(exc))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(elsewhere) == 1 and "no current event loop" in elsewhere[0]
    loop.close()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="deprecated in 3.12 where none is set")
def test_policy_makes_the_main_threads_first_loop(policy: taut.EventLoopPolicy) -> None:
    loop = policy.get_event_loop()
    assert type(loop) is taut.Loop
    loop.close()
