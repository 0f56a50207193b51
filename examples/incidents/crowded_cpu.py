"""The neighbours take the CPU.

A service that needs 30 ms of CPU for a request shares a core with a batch job of eight processes.
The scheduler is fair: the service gets a ninth. Its own figures say that its code has become nine
times as slow.
"""
# expect: host-starved
# within: 15

import asyncio
import time

import stage


async def request() -> int:
    total, end = 0, time.thread_time() + 0.03
    while time.thread_time() < end:
        total += sum(range(1000))
    return total


async def main() -> None:
    while stage.running():
        await request()
        await asyncio.sleep(0.02)


with stage.crowded_cpu(neighbours=8):
    asyncio.run(main())
