"""Bad arguments to the loop: the exception or behaviour that asyncio has."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from loops import Factory, Faults, run

Loop = asyncio.AbstractEventLoop


def noop(*_args: Any) -> None:
    pass


async def nothing() -> None:
    pass


CLOSED_CALLS: dict[str, Callable[[Loop], Any]] = {
    "call_soon": lambda loop: loop.call_soon(noop),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(noop),
    "call_later": lambda loop: loop.call_later(1, noop),
    "call_at": lambda loop: loop.call_at(loop.time() + 1, noop),
    "run_forever": lambda loop: loop.run_forever(),
    "run_in_executor": lambda loop: loop.run_in_executor(None, noop),
    "add_reader": lambda loop: loop.add_reader(0, noop),
    "add_writer": lambda loop: loop.add_writer(1, noop),
}


@pytest.mark.parametrize("call", CLOSED_CALLS)
def test_closed_loop_refuses(loop: Loop, call: str) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        CLOSED_CALLS[call](loop)


def test_closed_loop_refuses_coroutines(loop: Loop) -> None:
    loop.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_until_complete(coro)
    coro.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coro)
    coro.close()


def test_closed_loop_answers_questions(loop: Loop) -> None:
    loop.close()
    loop.close()  # again is fine
    assert loop.is_closed() and not loop.is_running()
    assert loop.time() > 0
    assert loop.get_debug() in (False, True)
    assert isinstance(loop.create_future(), asyncio.Future)
    assert "closed=True" in repr(loop)


def test_removing_from_a_closed_loop(loop: Loop) -> None:
    loop.close()
    assert loop.remove_reader(0) is False
    assert loop.remove_writer(0) is False
    loop.stop()  # asyncio allows it


def test_close_while_running(factory: Factory, loop_name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()
        if loop_name != "asyncio":  # 3.13.0's own loop forgets that it runs, and hangs
            with pytest.raises(RuntimeError, match="already running"):
                loop.run_forever()
        coro = nothing()
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_complete(coro)
        coro.close()

    run(factory, main())


def test_second_loop_in_a_running_one(factory: Factory) -> None:
    async def main() -> None:
        other = factory()
        coro = nothing()
        with pytest.raises(RuntimeError, match="while another loop is running"):
            other.run_until_complete(coro)
        coro.close()
        other.close()

    run(factory, main())


SCHEDULERS: dict[str, Callable[[Loop, Any], Any]] = {
    "call_soon": lambda loop, fn: loop.call_soon(fn),
    "call_soon_threadsafe": lambda loop, fn: loop.call_soon_threadsafe(fn),
    "call_later": lambda loop, fn: loop.call_later(0, fn),
    "call_at": lambda loop, fn: loop.call_at(loop.time(), fn),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_not_callable_in_debug_mode(loop: Loop, scheduler: str) -> None:
    loop.set_debug(True)
    with pytest.raises(TypeError, match="callable object was expected"):
        SCHEDULERS[scheduler](loop, 42)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        SCHEDULERS[scheduler](loop, nothing)
    coro = nothing()
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        SCHEDULERS[scheduler](loop, coro)
    coro.close()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("thing", [42, None, "text"], ids=repr)
def test_not_callable_reaches_the_handler(loop: Loop, scheduler: str, thing: Any) -> None:
    """Without debug mode the call is accepted and fails when its turn comes."""
    faults = Faults(loop)
    SCHEDULERS[scheduler](loop, thing)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert faults.exceptions() == [TypeError]


@pytest.mark.parametrize("delay", [-1, -1e300, -math.inf, 0, -0.0], ids=repr)
def test_negative_delay_runs_soon(loop: Loop, delay: float) -> None:
    ran: list[int] = []
    handle = loop.call_later(delay, ran.append, 1)
    assert isinstance(handle, asyncio.TimerHandle)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_nan_delay_harms_nobody_else(loop: Loop, loop_name: str) -> None:
    """Where a NaN sorts is anybody's guess; other timers must still run, in order."""
    if loop_name == "asyncio":
        pytest.skip("asyncio's heap falls into disorder, or run_forever raises ValueError")
    ran: list[int] = []
    try:
        loop.call_later(math.nan, noop)
    except ValueError:
        pass
    for index in (3, 1, 2):
        loop.call_later(index / 1000, ran.append, index)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert ran == [1, 2, 3]


def test_endless_delay(loop: Loop) -> None:
    handles = [loop.call_later(math.inf, noop), loop.call_later(1e300, noop),
               loop.call_at(math.inf, noop), loop.call_later(2**70, noop)]
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    for handle in handles:
        assert not handle.cancelled()
        handle.cancel()


@pytest.mark.parametrize("value", [None, "1", b"1", []], ids=repr)
def test_delay_of_a_wrong_type(loop: Loop, value: Any) -> None:
    with pytest.raises(TypeError):
        loop.call_later(value, noop)
    if value is None:
        with pytest.raises(TypeError, match="when cannot be None|must be real number|float"):
            loop.call_at(value, noop)


def test_delay_of_any_number(loop: Loop) -> None:
    """fractions.Fraction and objects with __float__ are no floats, but ints and bools are fine."""
    ran: list[int] = []
    loop.call_later(True / 1000, ran.append, 1)
    loop.call_later(0, ran.append, 0)
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    assert ran == [0, 1]


WRONG_THREAD: dict[str, Callable[[Loop], Any]] = {
    "call_soon": lambda loop: loop.call_soon(noop),
    "call_later": lambda loop: loop.call_later(1, noop),
    "call_at": lambda loop: loop.call_at(loop.time() + 1, noop),
}


def in_thread(call: Callable[[], Any]) -> BaseException | None:
    caught: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return caught[0] if caught else None


@pytest.mark.parametrize("call", WRONG_THREAD)
def test_wrong_thread_in_debug_mode(factory: Factory, call: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        exc = in_thread(lambda: WRONG_THREAD[call](loop))
        assert isinstance(exc, RuntimeError), exc
        assert "Non-thread-safe operation" in str(exc)
        assert in_thread(lambda: loop.call_soon_threadsafe(noop)) is None

    run(factory, main(), debug=True)


def test_run_until_complete_of_nonsense(loop: Loop) -> None:
    for thing in (42, None, "text", noop):
        with pytest.raises(TypeError):
            loop.run_until_complete(thing)  # type: ignore[arg-type]


def test_run_until_complete_of_a_foreign_future(factory: Factory, loop: Loop) -> None:
    other = factory()
    future = other.create_future()
    with pytest.raises(ValueError):
        loop.run_until_complete(future)
    other.close()


def test_stop_before_run_until_complete_result(loop: Loop) -> None:
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
        loop.run_until_complete(future)


def test_bad_setters(loop: Loop) -> None:
    with pytest.raises(TypeError, match="A callable object or None is expected"):
        loop.set_exception_handler(42)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="task factory must be a callable or None"):
        loop.set_task_factory(42)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor"):
        loop.set_default_executor(42)  # type: ignore[arg-type]


def test_handler_that_raises(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def handler(_loop: Loop, _context: dict[str, Any]) -> None:
        raise ZeroDivisionError("in the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: [][0])
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert "Unhandled error in exception handler" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exit_exceptions_leave_the_loop(loop: Loop, error: type[BaseException]) -> None:
    ran: list[int] = []

    def leave() -> None:
        raise error

    loop.call_soon(leave)
    loop.call_soon(ran.append, 1)
    with pytest.raises(error):
        loop.run_forever()
    assert not loop.is_running()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1]  # nothing that was queued is lost


def test_bad_signals(loop: Loop) -> None:
    with pytest.raises(TypeError):
        loop.add_signal_handler("15", noop)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        loop.add_signal_handler(9999, noop)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(10, nothing)  # type: ignore[arg-type]
    with pytest.raises((RuntimeError, OSError, ValueError)):
        loop.add_signal_handler(9, noop)
    assert loop.remove_signal_handler(10) is False


def test_create_task_of_nonsense(loop: Loop) -> None:
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(42)  # type: ignore[arg-type]


def test_call_soon_context_of_a_wrong_type(loop: Loop) -> None:
    """asyncio notices when the callback is run, at the latest."""
    faults = Faults(loop)
    try:
        loop.call_soon(noop, context=42)  # type: ignore[arg-type]
    except TypeError:
        return
    loop.call_soon(loop.stop)
    try:
        loop.run_forever()
    except (TypeError, AttributeError):
        return
    assert faults.contexts
