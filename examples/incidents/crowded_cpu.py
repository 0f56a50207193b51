"""The neighbours take the CPU.

A service that needs 15 ms of CPU for a request shares a core with a batch job of eight processes.
The scheduler is fair: the service gets a ninth. Its own figures say that its code has become nine
times as slow.
"""
# expect: host-starved
# within: 15

import asyncio

import stage


async def request() -> int:
    return sum(range(700_000))


async def main() -> None:
    while stage.running():
        await request()
        await asyncio.sleep(0.02)


with stage.crowded_cpu(neighbours=8):
    asyncio.run(main())
