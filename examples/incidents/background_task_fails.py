"""A background task fails and nobody hears of it.

A task that renews the prices is started once, and kept in a set as the documentation advises. One
day an answer lacks a field, the task ends with a KeyError, and the set keeps it, exception and all.
asyncio would complain when the task is forgotten, which is when the process ends, three weeks
later.
"""
# expect: task-exception-lost at blame
# within: 10

import asyncio

import stage

background: set[asyncio.Task[None]] = set()


async def renew_prices() -> None:
    await asyncio.sleep(0.5)
    answer: dict[str, float] = {}
    answer["eur"]


async def main() -> None:
    background.add(asyncio.create_task(renew_prices()))  # blame
    while stage.running():
        await asyncio.sleep(0.1)


asyncio.run(main())
