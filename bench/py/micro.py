"""One microbenchmark on one loop in this process: python micro.py LOOP WORKLOAD.

Prints a JSON object with ns per operation: the median of some repetitions, each long enough to be
timed well. The CPU clock of the process counts, all threads: what else runs on the machine and the
waiting for timers do not. The process is pinned to one CPU, so where threads hand work to each
other the wall clock says the same on an idle machine; it is reported beside it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from loops import LOOPS, factory

REPETITIONS = 3
TARGET_NS = 100_000_000

Workload = Callable[[asyncio.AbstractEventLoop, int], Awaitable[None]]


async def sleep0(loop: asyncio.AbstractEventLoop, n: int) -> None:
    sleep = asyncio.sleep
    for _ in range(n):
        await sleep(0)


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
    def nothing(value: int) -> None:
        pass

    for begin in range(0, n, 1000):
        done = loop.create_future()
        for value in range(min(1000, n - begin)):
            loop.call_soon(nothing, value)
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


async def spawn(loop: asyncio.AbstractEventLoop, n: int) -> None:
    async def nothing() -> None:
        pass

    for _ in range(n):
        await loop.create_task(nothing())


async def gather100(loop: asyncio.AbstractEventLoop, n: int) -> None:
    async def nothing() -> None:
        pass

    for _ in range(0, n, 100):
        await asyncio.gather(*(nothing() for _ in range(100)))


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

    def nothing() -> None:
        pass

    def caller() -> None:
        for index in range(1, n + 1):
            loop.call_soon_threadsafe(nothing)
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
    def nothing() -> None:
        pass

    for _ in range(n):
        await loop.run_in_executor(None, nothing)


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
        spawn,
        gather100,
        future_ping_pong,
        call_soon_threadsafe,
        sock_ping_pong,
        run_in_executor,
        connect,
    )
}
#: Not in the geometric mean: two that are only to be level, and one that is mostly the standard
#: library's Python code.
OUTSIDE_MEAN = frozenset({"run_in_executor", "connect", "gather100"})
#: The most operations of one repetition: each connection leaves a port waiting for a minute.
LIMIT = {"connect": 400}


async def timed(name: str, n: int) -> tuple[int, int]:
    """Wall and CPU ns of n operations."""
    loop = asyncio.get_running_loop()
    gc.collect()
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    await WORKLOADS[name](loop, n)
    return time.perf_counter_ns() - wall, time.process_time_ns() - cpu


async def measure(name: str) -> dict[str, float]:
    n = 100
    limit = LIMIT.get(name, 10_000_000)
    while True:  # also the warm-up
        _, spent = await timed(name, n)
        if n >= limit or spent > TARGET_NS / 5:
            break
        n = min(n * 4, limit)
    n = max(100, min(limit, int(n * TARGET_NS / max(spent, 1)) // 100 * 100))
    runs = [await timed(name, n) for _ in range(REPETITIONS)]
    return {
        "ns": statistics.median(run[1] for run in runs) / n,
        "wall_ns": statistics.median(run[0] for run in runs) / n,
    }


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in LOOPS or sys.argv[2] not in WORKLOADS:
        print(f"usage: micro.py {'|'.join(LOOPS)} {'|'.join(WORKLOADS)}", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=factory(sys.argv[1])) as runner:
        print(json.dumps(runner.run(measure(sys.argv[2]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
