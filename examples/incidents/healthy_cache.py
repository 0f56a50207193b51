"""Healthy: a cache that fills up and then stays as it is.

The first minute of a process looks like a leak: modules, caches and pools all fill. This cache
holds 64 MiB at most and drops its oldest entries after that. The doctor has nothing to say.
"""
# expect: nothing

import asyncio
import time

import stage

cache: dict[int, bytes] = {}


async def answer(key: int) -> bytes:
    if key not in cache:
        cache[key] = bytes(64 * 1024)
        if len(cache) > 1024:
            del cache[next(iter(cache))]
    return cache[key]


async def main() -> None:
    while stage.running():
        for _ in range(10):
            await answer(time.monotonic_ns())
        await asyncio.sleep(0.01)


asyncio.run(main())
