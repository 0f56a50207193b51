"""The scheduling rows: what an event loop does itself, each as a coroutine that does it n times."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

Workload = Callable[[asyncio.AbstractEventLoop, int], Awaitable[None]]


async def nothing() -> None:
    pass


async def sleep0(loop: asyncio.AbstractEventLoop, n: int) -> None:
    sleep = asyncio.sleep
    for _ in range(n):
        await sleep(0)


def by_hand(n: int) -> None:
    """sleep0 without a loop: the coroutine is only sent None until it ends."""
    send = sleep0(None, n).send  # type: ignore[arg-type]  # it does not look at the loop
    try:
        while True:
            send(None)
    except StopIteration:
        pass


async def call_soon_chain(loop: asyncio.AbstractEventLoop, n: int) -> None:
    done = loop.create_future()
    left = n

    def step() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def call_soon_burst(loop: asyncio.AbstractEventLoop, n: int) -> None:
    def take(value: int) -> None:
        pass

    for begin in range(0, n, 1000):
        done = loop.create_future()
        for value in range(min(1000, n - begin)):
            loop.call_soon(take, value)
        loop.call_soon(done.set_result, None)
        await done


async def timers(loop: asyncio.AbstractEventLoop, n: int) -> None:
    for begin in range(0, n, 1000):
        left = min(1000, n - begin)
        done = loop.create_future()

        def fire() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done.set_result(None)  # noqa: B023

        for index in range(left):
            loop.call_later(0.001 + (index % 7) * 1e-5, fire)
        await done


async def cancelled_timers(loop: asyncio.AbstractEventLoop, n: int) -> None:
    def never() -> None:
        raise AssertionError

    for index in range(n):
        loop.call_later(60 + index % 10, never).cancel()
        if index % 1000 == 0:
            await asyncio.sleep(0)


async def timeout_blocks(loop: asyncio.AbstractEventLoop, n: int) -> None:
    """The block alone; the loop gets a look in every hundred, to clear the timers away."""
    timeout = asyncio.timeout
    for index in range(n):
        async with timeout(60):
            pass
        if index % 100 == 0:
            await asyncio.sleep(0)


async def spawn(loop: asyncio.AbstractEventLoop, n: int) -> None:
    for _ in range(n):
        await loop.create_task(nothing())


async def gather100(loop: asyncio.AbstractEventLoop, n: int) -> None:
    for _ in range(0, n, 100):
        await asyncio.gather(*(nothing() for _ in range(100)))


async def taskgroup100(loop: asyncio.AbstractEventLoop, n: int) -> None:
    for _ in range(0, n, 100):
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(nothing())


async def queue(loop: asyncio.AbstractEventLoop, n: int) -> None:
    """One task puts, another gets; both have to wait for each other again and again."""
    items: asyncio.Queue[int] = asyncio.Queue(10)

    async def take() -> None:
        for _ in range(n):
            await items.get()

    task = loop.create_task(take())
    for value in range(n):
        await items.put(value)
    await task


async def future_ping_pong(loop: asyncio.AbstractEventLoop, n: int) -> None:
    ping = loop.create_future()
    pong = loop.create_future()

    async def other() -> None:
        nonlocal ping
        for _ in range(n):
            await ping
            ping = loop.create_future()
            pong.set_result(None)

    task = loop.create_task(other())
    for _ in range(n):
        ping.set_result(None)
        await pong
        pong = loop.create_future()
    await task


async def call_soon_threadsafe(loop: asyncio.AbstractEventLoop, n: int) -> None:
    """Another thread calls; it waits for the loop each 100 calls."""
    done = loop.create_future()
    taken = threading.Semaphore(0)

    def called() -> None:
        pass

    def caller() -> None:
        for index in range(1, n + 1):
            loop.call_soon_threadsafe(called)
            if index % 100 == 0:
                loop.call_soon_threadsafe(taken.release)
                taken.acquire()
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=caller)
    thread.start()
    await done
    thread.join()


async def sock_ping_pong(loop: asyncio.AbstractEventLoop, n: int) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    message = b"x" * 64

    async def other() -> None:
        for _ in range(n):
            await loop.sock_sendall(right, await loop.sock_recv(right, 4096))

    task = loop.create_task(other())
    for _ in range(n):
        await loop.sock_sendall(left, message)
        await loop.sock_recv(left, 4096)
    await task
    left.close()
    right.close()


async def run_in_executor(loop: asyncio.AbstractEventLoop, n: int) -> None:
    def called() -> None:
        pass

    for _ in range(n):
        await loop.run_in_executor(None, called)


async def to_thread(loop: asyncio.AbstractEventLoop, n: int) -> None:
    def called() -> None:
        pass

    for _ in range(n):
        await asyncio.to_thread(called)


async def connect(loop: asyncio.AbstractEventLoop, n: int) -> None:
    """create_connection over loopback to a server on the same loop, and close."""

    class Closing(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost = loop.create_future()

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(None)

    server = await loop.create_server(Closing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(n):
        transport, protocol = await loop.create_connection(Closing, "127.0.0.1", port)
        transport.close()
        await protocol.lost
    server.close()
    await server.wait_closed()


WORKLOADS: dict[str, Workload] = {
    work.__name__: work
    for work in (
        sleep0,
        call_soon_chain,
        call_soon_burst,
        timers,
        cancelled_timers,
        timeout_blocks,
        spawn,
        gather100,
        taskgroup100,
        queue,
        future_ping_pong,
        call_soon_threadsafe,
        sock_ping_pong,
        run_in_executor,
        to_thread,
        connect,
    )
}
#: Not in the geometric mean: threads and the kernel do most of the work, and being level is enough.
OUTSIDE_MEAN = frozenset({"run_in_executor", "to_thread", "connect"})
#: The most operations of one repetition: each connection leaves a port waiting for a minute.
LIMIT = {"connect": 400}
