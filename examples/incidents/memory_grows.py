"""Memory that only ever grows.

A cache keeps every answer, with the query string as its key, and the query string has a time stamp
in it. No entry is ever used again and none is dropped. The process is killed for its memory twice a
week, and each time the graph begins anew.
"""
# expect: memory-growth
# within: 40

import asyncio
import time

import stage

cache: dict[str, bytes] = {}


async def answer(query: str) -> bytes:
    if query not in cache:
        cache[query] = bytes(100_000)
    return cache[query]


async def main() -> None:
    while stage.running():
        await answer(f"q=shoes&t={time.time_ns()}")
        await asyncio.sleep(0.01)


asyncio.run(main())
