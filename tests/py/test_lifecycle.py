"""Loops that are closed, dropped, shared or left running where that is least expected.

Nothing here may crash, hang or lose a file descriptor; what raises is what asyncio raises.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import loops
import pytest
from loops import Factory, fd_count, ok, script

Loop = asyncio.AbstractEventLoop
CLOSED = "Event loop is closed"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Half of these tests leave things unclosed; test_unclosed.py looks at the warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def told(call: Callable[[], object]) -> str:
    """What a call that must fail says."""
    with pytest.raises((RuntimeError, ValueError)) as caught:
        call()
    return str(caught.value)


# ---- closing at the wrong moment ------------------------------------------------------------


def test_closing_in_a_callback(loop: Loop) -> None:
    said = []
    loop.call_soon(lambda: said.append(told(loop.close)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert said == ["Cannot close a running event loop"]
    loop.close()
    assert loop.is_closed()


def test_closing_in_every_callback_of_a_protocol(loop: Loop) -> None:
    said: list[str] = []

    class Closes(asyncio.Protocol):
        def try_it(self, *_: object) -> None:
            said.append(told(loop.close))

        connection_made = data_received = eof_received = try_it  # type: ignore[assignment]

        def connection_lost(self, exc: BaseException | None) -> None:
            self.try_it()
            loop.stop()

    async def main() -> None:
        one, two = socket.socketpair()
        await loops.connected(loop, one, Closes())
        two.send(b"x")
        await loops.until(lambda: len(said) == 2, "the data")
        two.close()

    task = loop.create_task(main())
    loop.run_forever()
    assert task.done()
    assert said == ["Cannot close a running event loop"] * 4


def test_finalizers_that_use_the_loop_while_it_closes(loop: Loop) -> None:
    said: list[str] = []

    class Last:
        def __del__(self) -> None:
            for call in (
                lambda: loop.call_soon(print),
                lambda: loop.call_soon_threadsafe(print),
                lambda: loop.call_later(1, print),
                lambda: loop.add_reader(0, print),
                lambda: loop.run_forever(),
            ):
                said.append(told(call))
            loop.close()
            assert loop.is_closed()
            assert loop.remove_reader(0) is False

    one, two = socket.socketpair()
    one.setblocking(False)
    loop.call_soon(print, Last())
    loop.call_later(100, print, Last())
    loop.add_reader(one, print, Last())
    loop.close()
    gc.collect()
    assert said == [CLOSED] * 15
    one.close()
    two.close()


def test_closing_in_a_finalizer(factory: Factory) -> None:
    said: list[str] = []

    class Closes:
        def __init__(self, loop: Loop) -> None:
            self.loop = loop

        def __del__(self) -> None:
            try:
                self.loop.close()
            except RuntimeError as exc:
                said.append(str(exc))

    loop = factory()
    loop.call_soon(lambda closes: None, Closes(loop))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert said == ["Cannot close a running event loop"]
    idle = factory()
    Closes(idle)
    assert idle.is_closed()
    loop.close()


# ---- used after the loop was closed ----------------------------------------------------------


class Kept(asyncio.Protocol):
    """Notes the end."""

    def __init__(self) -> None:
        self.lost = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True


class Leftovers:
    """Everything that can outlive a loop."""

    def __init__(self, loop: Loop, unsent: int) -> None:
        self.loop = loop
        loop.run_until_complete(self.fill(unsent))
        self.handle = loop.call_soon(print, "never")
        loop.close()

    async def fill(self, unsent: int) -> None:
        loop = self.loop
        self.ours, self.peer = socket.socketpair()
        self.protocol = Kept()
        self.transport = await loops.connected(loop, self.ours, self.protocol)
        self.server: Any = await loop.create_server(Kept, "127.0.0.1", 0)
        self.timer = loop.call_later(1000, print, "never")
        self.future = loop.create_future()
        self.transport.write(bytes(unsent))

    def end(self) -> None:
        self.server.close()
        self.ours.close()
        self.peer.close()


@pytest.fixture(params=[0, 4 << 20], ids=["idle", "unsent"])
def left(request: pytest.FixtureRequest, factory: Factory) -> Iterator[Leftovers]:
    made = Leftovers(factory(), request.param)
    yield made
    made.end()


def test_a_transport_after_the_loop(left: Leftovers) -> None:
    transport, unsent = left.transport, left.transport.get_write_buffer_size()
    assert re.fullmatch(r"<\w+ fd=\d+>", repr(transport))
    assert not transport.is_closing()
    assert transport.get_extra_info("socket") is not None
    assert transport.get_protocol() is left.protocol
    transport.pause_reading()
    assert told(transport.resume_reading) == CLOSED
    transport.set_write_buffer_limits(10)
    if unsent:
        transport.close()  # asyncio's would close once all is sent
    else:
        assert told(transport.close) == CLOSED
    assert transport.is_closing()
    transport.close()
    if unsent:
        assert told(transport.abort) == CLOSED
    transport.abort()
    assert re.fullmatch(r"<\w+ closing fd=\d+>", repr(transport))
    assert not left.protocol.lost


def test_aborting_a_transport_after_the_loop(left: Leftovers) -> None:
    assert told(left.transport.abort) == CLOSED
    left.transport.abort()
    left.transport.close()
    assert left.transport.is_closing()


def test_a_writer_after_the_loop(factory: Factory) -> None:
    loop = factory()

    async def main() -> Any:
        one, two = socket.socketpair()
        return *await asyncio.open_connection(sock=one), two

    _, writer, peer = loop.run_until_complete(main())
    loop.close()
    assert told(writer.close) == CLOSED
    writer.close()
    assert writer.is_closing()
    peer.close()
    writer.transport.get_extra_info("socket")._sock.close()


def test_handles_and_futures_after_the_loop(left: Leftovers) -> None:
    for handle in left.handle, left.timer:
        assert not handle.cancelled()
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
        assert repr(handle).startswith(f"<{type(handle).__name__} cancelled")
    left.future.set_result(1)
    assert told(lambda: left.future.add_done_callback(print)) == CLOSED


def test_a_server_after_the_loop(left: Leftovers, loop_name: str) -> None:
    server = left.server
    assert server.get_loop() is left.loop
    assert len(server.sockets) == 1
    assert repr(server).startswith("<Server sockets=(<")
    if loop_name == "taut":  # asyncio's waits for ever
        assert not server.is_serving()
        for coro in server.start_serving(), server.serve_forever():
            assert told(lambda coro=coro: coro.send(None)) == CLOSED  # type: ignore[misc]
    if hasattr(server, "close_clients"):
        server.close_clients()
        server.abort_clients()
    server.close()
    server.close()
    assert server.sockets == ()
    assert not server.is_serving()
    coro = server.wait_closed()
    with pytest.raises(StopIteration):
        coro.send(None)
    with pytest.raises((RuntimeError, TypeError)):
        server.start_serving().send(None)


def test_operations_that_wait_when_the_loop_closes(factory: Factory) -> None:
    loop = factory()
    one, two = socket.socketpair()
    one.setblocking(False)

    async def main() -> list[asyncio.Task[Any]]:
        tasks: list[asyncio.Task[Any]] = [loop.create_task(asyncio.sleep(1000))]
        tasks.append(loop.create_task(loop.sock_recv(one, 1)))
        await asyncio.sleep(0)
        return tasks

    tasks = loop.run_until_complete(main())
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        assert not task.done()
        assert told(task.cancel) == CLOSED
    del task
    tasks.clear()
    one.close()
    two.close()


# ---- dropped, many, side by side --------------------------------------------------------------


def test_dropped_in_a_cycle_with_everything_open(factory: Factory) -> None:
    def make() -> weakref.ref[Any]:
        loop: Any = factory()
        left = Leftovers.__new__(Leftovers)
        left.loop = loop
        loop.run_until_complete(left.fill(100))
        loop.left = left
        left.protocol.left = left  # type: ignore[attr-defined]
        loop.call_later(1000, lambda: left)
        one, two = socket.socketpair()
        one.setblocking(False)
        loop.add_reader(one, lambda: (left, one, two))
        return weakref.ref(loop)

    make()
    gc.collect()
    fds = fd_count()
    for _ in range(4):
        ref = make()
        gc.collect()
        assert ref() is None
    assert fd_count() == fds


def test_a_loop_in_each_of_many_threads(factory: Factory) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        server, address = await loops.serve(asyncio.Protocol)
        _, writer = await asyncio.open_connection(*address)
        await loop.run_in_executor(None, int)
        await loop.getaddrinfo("localhost", 0)
        writer.close()
        server.close()
        await server.wait_closed()
        return 1

    def body() -> None:
        for _ in range(4):
            done.append(loops.run(factory, main()))

    done: list[int] = []
    threads = [threading.Thread(target=body) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 24


def test_two_threads_and_one_loop(loop: Loop, loop_name: str) -> None:
    if loop_name == "asyncio" and sys.version_info[:3] == (3, 13, 0):
        pytest.skip("it forgets that it runs")
    running = threading.Event()
    loop.call_soon(running.set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running.wait()
    assert told(loop.run_forever) == "This event loop is already running"
    assert told(lambda: loop.run_until_complete(asyncio.Future(loop=loop))) == (
        "This event loop is already running"
    )
    assert told(loop.close) == "Cannot close a running event loop"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    assert not loop.is_running()


def test_closing_while_other_threads_call(factory: Factory) -> None:
    def hammer(loop: Loop) -> None:
        try:
            while True:
                loop.call_soon_threadsafe(int)
        except RuntimeError as exc:
            said.append(str(exc))

    said: list[str] = []
    for _ in range(2):
        loop = factory()
        threads = [threading.Thread(target=hammer, args=(loop,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        loop.run_until_complete(asyncio.sleep(0.002))
        loop.close()
        for thread in threads:
            thread.join()
    assert said == [CLOSED] * 4


# ---- the interpreter ends ----------------------------------------------------------------------

ENDS = {
    "daemon threads run loops": """
        import concurrent.futures
        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(data)
        async def echo(loop):
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            transport, _ = await loop.create_connection(Echo, *server.sockets[0].getsockname())
            transport.write(b"x")
            await asyncio.sleep(3600)
        async def tasks(loop):
            loop.call_later(3600, print)
            kept = [loop.create_task(asyncio.sleep(3600)) for _ in range(5)]
            while True: await asyncio.sleep(0)
        async def lookups(loop):
            while True: await loop.getaddrinfo("localhost", 0)
        async def idle(loop):
            await loop.create_future()
        def body(kind):
            loop = new_loop()
            loop.call_soon(ready.release)
            loop.run_until_complete(kind(loop))
        ready = threading.Semaphore(0)
        for kind in echo, tasks, lookups, idle:
            threading.Thread(target=body, args=(kind,), daemon=True).start()
            ready.acquire()
        time.sleep(0.02)  # blocks: the others' turn
    """,
    "unclosed with everything": """
        loop = new_loop()
        async def main():
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(bytes(5000000))
            loop.call_later(3600, print)
            one, two = socket.socketpair()
            one.setblocking(False)
            loop.add_reader(one, print)
            tasks = [loop.create_task(coro) for coro in
                     (reader.read(), asyncio.sleep(3600), loop.getaddrinfo("localhost", 80))]
            loop.run_in_executor(None, time.sleep, 0.05)
            await asyncio.sleep(0.001)
            return server, reader, writer, one, two, tasks
        kept = loop.run_until_complete(main())
    """,
    "used at exit and by the last finalizers": """
        import atexit, types
        class Last:
            def __init__(self): self.loop = new_loop()
            def __del__(self):
                self.loop.call_soon(int)
                self.loop.close()
        sys.modules["keeper"] = types.ModuleType("keeper")
        sys.modules["keeper"].last = Last()
        async def main():
            await asyncio.sleep(0.001)
            print("at exit")
        loop = new_loop()
        def at_exit():
            loop.run_until_complete(main())
            loop.close()
            running.call_soon_threadsafe(running.stop)
            thread.join()
            running.close()
        atexit.register(at_exit)
        running = new_loop()
        thread = threading.Thread(target=running.run_forever, daemon=True)
        thread.start()
    """,
    "in a thread after the main one": """
        async def main():
            await asyncio.sleep(0.05)
            print("last")
        def body():
            loop = new_loop()
            loop.run_until_complete(main())
            loop.close()
        threading.Thread(target=body).start()
    """,
}


@pytest.mark.parametrize("how", ENDS)
def test_the_interpreter_ends(loop_name: str, how: str) -> None:
    argv = loops.command(loop_name, ENDS[how])
    done = loops.subprocess.run(
        [argv[0], "-X", "dev", *argv[1:]], capture_output=True, text=True, timeout=60
    )
    ok(done)
    for sign in "Fatal Python error", "Segmentation", "Assertion":
        assert sign not in done.stderr


def test_leaving_by_exit(loop_name: str) -> None:
    for call, status in ("sys.exit", 3), ("os._exit", 4):
        done = script(loop_name, f"loop = new_loop(); loop.call_soon({call}, {status})\n"
                                 "loop.run_forever()")
        assert done.returncode == status
