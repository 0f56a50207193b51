"""Healthy: a thread pool in good use.

Files are read in threads, eight at a time at most, and the pool has room for them. Beside it a
thread of its own computes in Python, and gives the GIL up when it is asked to. The doctor has
nothing to say.
"""
# expect: nothing

import asyncio
import threading
import time

import stage


def read_file() -> int:
    time.sleep(0.005)
    return 1


def statistics() -> None:
    while stage.running():
        sum(n * n for n in range(20_000))
        time.sleep(0.05)


async def user() -> None:
    while stage.running():
        await asyncio.to_thread(read_file)
        await asyncio.sleep(0.02)


async def main() -> None:
    threading.Thread(target=statistics, daemon=True).start()
    await asyncio.gather(*(user() for _ in range(4)))


asyncio.run(main())
