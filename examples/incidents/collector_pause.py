"""The garbage collector stops everything to look at two million objects.

The service keeps its catalogue in memory, as millions of small objects that live for ever. Whenever
a quarter more has been added, the collector goes through all of them in one go. It frees nothing,
the requests of that moment take a second, and no profiler shows a line to blame.
"""
# expect: gc-pause
# also: cpu-bound-step at free
# within: 20

import asyncio

import stage

catalogue: list[list[object]] = []


async def load_catalogue() -> None:
    for _ in range(2000):
        catalogue.extend([n, "name"] for n in range(1000))
        await asyncio.sleep(0)


async def requests() -> None:
    while stage.running():
        await asyncio.sleep(0.01)


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(requests())
        while stage.running():
            await load_catalogue()
            catalogue.clear()  # free
            await asyncio.sleep(0.5)


asyncio.run(main())
