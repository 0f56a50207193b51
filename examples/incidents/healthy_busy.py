"""Healthy: busy at 80 % of its CPU, in short steps.

A service that works hard is not ill. Each request is two milliseconds of honest computing between
awaits, and four fifths of the time there is something to do. The doctor has nothing to say.
"""
# expect: nothing

import asyncio
import time

import stage


async def request() -> None:
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        sum(range(200))
    await asyncio.sleep(0)


async def main() -> None:
    while stage.running():
        started = time.monotonic()
        for _ in range(10):
            await request()
        await asyncio.sleep((time.monotonic() - started) / 4)


asyncio.run(main())
