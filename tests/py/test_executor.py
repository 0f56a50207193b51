"""run_in_executor(): what comes back, what does not, and what it costs in wake-ups."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loops
import taut
from loops import Factory, Faults, run, until

MAKERS: dict[str, Factory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "taut": lambda: taut.new_event_loop(tasks="own"),
    "taut-stdlib": lambda: taut.new_event_loop(tasks="stdlib"),
}


@pytest.fixture(params=MAKERS)
def make(request: Any) -> Factory:
    return MAKERS[request.param]


class Held(concurrent.futures.Executor):
    """Its futures are the test's to complete."""

    def __init__(self, future: type[concurrent.futures.Future[Any]] | None = None) -> None:
        self.type = future or concurrent.futures.Future
        self.futures: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.futures.append(self.type())
        return self.futures[-1]


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_results_and_exceptions(make: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):  # the first makes the executor
            assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
            assert await loop.run_in_executor(None, list) == []
            with pytest.raises(ZeroDivisionError) as raised:
                await loop.run_in_executor(None, divmod, 1, 0)
            assert "thread.py" in str([entry.path for entry in raised.traceback])
            with pytest.raises(KeyError):
                await loop.run_in_executor(None, {}.__getitem__, "absent")
        keywords: Any = {"executor": None, "func": list}
        assert await loop.run_in_executor(**keywords) == []
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            several = [loop.run_in_executor(pool, pow, 2, n) for n in range(200)]
            assert await asyncio.gather(*several) == [2**n for n in range(200)]
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            loop.run_in_executor(pool, list)

    run(make, main())


def test_bad_calls(make: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for args in ((), (None,)):
            with pytest.raises(TypeError, match="missing"):
                loop.run_in_executor(*args)
        with pytest.raises(AttributeError):
            loop.run_in_executor(7, list)
        for _ in range(2):
            with pytest.raises(TypeError, match="not callable"):
                await loop.run_in_executor(None, 7)

        class Odd(concurrent.futures.Executor):
            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
                return fn

        future = loop.create_future()
        assert loop.run_in_executor(Odd(), future) is future
        with pytest.raises(AssertionError, match="concurrent.futures.Future is expected"):
            loop.run_in_executor(Odd(), list)

    run(make, main())


def test_the_exceptions_of_concurrent_futures(make: Factory) -> None:
    async def main() -> None:
        loop, held = asyncio.get_running_loop(), Held()
        for raised, expected in (
            (concurrent.futures.CancelledError("a"), asyncio.CancelledError),
            (concurrent.futures.InvalidStateError("b"), asyncio.InvalidStateError),
            (TimeoutError("c"), asyncio.TimeoutError),
        ):
            future = loop.run_in_executor(held, list)
            held.futures.pop().set_exception(raised)
            with pytest.raises(expected) as caught:
                await future
            assert caught.value.args == raised.args

    run(make, main())


def test_cancelled_by_the_loop(make: Factory) -> None:
    async def main() -> None:
        loop, held = asyncio.get_running_loop(), Held()
        faults = Faults(loop)
        waiting, running = (loop.run_in_executor(held, list) for _ in range(2))
        held.futures[1].set_running_or_notify_cancel()
        for future in (waiting, running):
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
        await until(held.futures[0].cancelled, "the executor's future is cancelled")
        assert held.futures[1].running()
        in_thread(lambda: held.futures[1].set_result("too late"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not faults.contexts

    run(make, main())


def test_cancelled_by_the_executor(make: Factory) -> None:
    async def main() -> None:
        loop, held = asyncio.get_running_loop(), Held()
        future = loop.run_in_executor(held, list)
        in_thread(held.futures[0].cancel)
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.cancelled()

    run(make, main())


def test_cancelled_in_the_meantime(make: Factory) -> None:
    """The outcome is on its way to the loop when its future is cancelled, or completed."""

    async def main() -> None:
        loop, held = asyncio.get_running_loop(), Held()
        faults = Faults(loop)
        future = loop.run_in_executor(held, list)
        in_thread(lambda: held.futures[0].set_result("not wanted"))
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert not faults.contexts
        future = loop.run_in_executor(held, list)
        in_thread(lambda: held.futures[1].set_result("not wanted"))
        future.set_result("first")
        assert await future == "first"
        await asyncio.sleep(0)
        assert len(faults.contexts) == 1
        if sys.version_info < (3, 14):
            assert faults.exceptions() == [AssertionError]

    run(make, main())


def test_done_at_once_and_done_before(make: Factory) -> None:
    class Immediate(concurrent.futures.Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_result(fn(*args))
            return future

    async def main() -> None:
        future = asyncio.get_running_loop().run_in_executor(Immediate(), pow, 2, 5)
        assert future.done() == (sys.version_info >= (3, 14))
        assert await future == 32

    run(make, main())


def test_futures_of_other_classes(make: Factory) -> None:
    class Other(concurrent.futures.Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            return ("other", super().result(timeout))

    async def main() -> None:
        held = Held(Other)
        future = asyncio.get_running_loop().run_in_executor(held, list)
        in_thread(lambda: held.futures[0].set_result(1))
        assert await future == ("other", 1)

    run(make, main())


def test_callbacks_of_the_executors_future(make: Factory) -> None:
    """Others may listen, too, and are called in their order."""

    async def main() -> None:
        loop, held, order = asyncio.get_running_loop(), Held(), list[Any]()
        future = loop.run_in_executor(held, list)
        future.add_done_callback(lambda f: order.append(("loop", f.result())))
        held.futures[0].add_done_callback(lambda f: order.append(("thread", f.result())))
        in_thread(lambda: held.futures[0].set_result(1))
        assert order == [("thread", 1)]
        assert await future == 1
        assert order == [("thread", 1), ("loop", 1)]

    run(make, main())


def test_the_loop_is_closed_meanwhile(make: Factory, caplog: pytest.LogCaptureFixture) -> None:
    loop, held = make(), Held()
    kept = [loop.run_in_executor(held, list) for _ in range(4)]
    in_thread(lambda: held.futures[3].set_result(1))  # on its way
    kept[0].cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with caplog.at_level(logging.DEBUG):
        for source in held.futures[1:3]:
            in_thread(lambda source=source: source.set_result(1))
    if sys.version_info >= (3, 12):
        assert not [record for record in caplog.records if record.name.startswith("concurrent")]
    assert not kept[1].done()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_in_executor(held, list)


def test_the_default_executor(make: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ours")
        loop.set_default_executor(pool)
        for _ in range(2):
            thread = await loop.run_in_executor(None, threading.current_thread)
            assert thread.name.startswith("ours")
            assert await asyncio.to_thread(threading.current_thread) is thread
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, list)
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            assert await loop.run_in_executor(other, list) == []

    run(make, main())


def test_to_thread_has_the_callers_context(make: Factory) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def child(name: str) -> None:
        variable.set(name)
        assert await asyncio.to_thread(variable.get) == name
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, variable.get) == "none"
        assert variable.get() == name

    async def main() -> None:
        await asyncio.gather(*[child(str(n)) for n in range(20)])
        assert variable.get() == "none"

    run(make, main())


def test_the_callback_that_cancels_runs_in_the_callers_context(make: Factory) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def main() -> None:
        loop, held, seen = asyncio.get_running_loop(), Held(), list[str]()
        variable.set("caller")
        future = loop.run_in_executor(held, list)
        held.futures[0].add_done_callback(lambda f: seen.append(variable.get()))
        variable.set("later")
        future.cancel()
        await asyncio.wait([future])
        assert seen == ["caller"]

    run(make, main())


def test_a_replaced_call_soon_threadsafe_is_called(make: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await loop.run_in_executor(None, list)
        calls, original = list[Any](), loop.call_soon_threadsafe

        def noted(callback: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(callback)
            return original(callback, *args, **kwargs)

        loop.call_soon_threadsafe = noted
        assert await loop.run_in_executor(None, list) == []
        assert len(calls) == 1
        del loop.call_soon_threadsafe

    run(make, main())


def test_debug_mode(make: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for _ in range(2):
            assert await loop.run_in_executor(None, list) == []
        with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
            loop.run_in_executor(None, main)
        with pytest.raises(TypeError, match="a callable object was expected by run_in_executor"):
            loop.run_in_executor(None, 7)
        held = Held()
        loop.set_debug(False)
        future = loop.run_in_executor(held, list)
        loop.set_debug(True)
        in_thread(lambda: held.futures[0].set_result(1))
        assert await future == 1

    run(make, main(), debug=True)


def test_nothing_is_kept(make: Factory) -> None:
    """The outcome goes by reference counts alone, and so does all that passed it on."""

    class Thing:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, list)
        gc.collect()
        gc.disable()
        try:
            thing = await loop.run_in_executor(None, Thing)
            gone = weakref.ref(thing)
            del thing
            await until(lambda: gone() is None, "the outcome is forgotten")
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                source = weakref.ref(pool.submit(list))
                future = loop.run_in_executor(pool, list)
                await future
            await until(lambda: source() is None, "the executor's future is forgotten")
        finally:
            gc.enable()

    run(make, main())


def test_counts_stay(make: Factory) -> None:
    loop = make()

    async def once() -> None:
        held = Held()
        futures = [loop.run_in_executor(held, list) for _ in range(30)]
        for number, source in enumerate(held.futures):
            if number % 3 == 0:
                source.set_result(number)
            elif number % 3 == 1:
                source.set_exception(LookupError())
            else:
                futures[number].cancel()
        await asyncio.gather(*futures, return_exceptions=True)

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(100):  # what is kept to be used again comes to its size slowly
        loop.run_until_complete(once())
    before = blocks()
    for _ in range(30):
        loop.run_until_complete(once())
    assert blocks() - before < 200
    loop.close()


@pytest.mark.parametrize("kind", ["taut", "taut-stdlib"])
def test_one_wakeup_for_all_that_comes_back_meanwhile(kind: str) -> None:
    io = Path("/proc/self/io")
    try:
        io.read_text()
    except OSError:
        pytest.skip("this kernel does not count system calls")

    def writes() -> int:
        return int(dict(line.split(": ") for line in io.read_text().splitlines())["syscw"])

    async def main() -> int:
        loop, held = asyncio.get_running_loop(), Held()
        futures = [loop.run_in_executor(held, list) for _ in range(1000)]
        written: list[int] = []

        def complete() -> None:
            before = writes()
            for number, source in enumerate(held.futures):
                source.set_result(number)
            written.append(writes() - before)

        thread = threading.Thread(target=complete)
        thread.start()
        assert await asyncio.gather(*futures) == list(range(1000))
        thread.join()
        return written[0]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # the thread goes on until it is through
    try:
        assert run(MAKERS[kind], main()) < 100
    finally:
        sys.setswitchinterval(interval)


def test_many_threads_at_once(make: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:

            async def chain(start: int) -> int:
                value = start
                for _ in range(20):
                    value = await loop.run_in_executor(pool, int.__add__, value, 1)
                return value

            got = await asyncio.gather(*[chain(n) for n in range(50)])
            assert got == [n + 20 for n in range(50)]

    run(make, main())


def test_other_threads_loops_share_an_executor(make: Factory) -> None:
    """Each outcome goes back to the loop that asked."""
    done: list[list[int]] = []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:

        async def main(base: int) -> list[int]:
            loop = asyncio.get_running_loop()
            return [await loop.run_in_executor(pool, int.__add__, base, n) for n in range(50)]

        threads = [
            threading.Thread(target=lambda n=n: done.append(loops.run(make, main(n * 100))))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(done) == [[n * 100 + k for k in range(50)] for n in range(4)]
