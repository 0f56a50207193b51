"""A coroutine that nobody awaits.

`audit` became a coroutine function and one of its forty callers was forgotten. The call makes a
coroutine, which is thrown away; the only sign is a warning on stderr, shown once, in a container
whose stderr nobody reads. Months later the auditors ask for the records.
"""
# expect: coroutine-never-awaited at blame
# within: 5

import asyncio

import stage


async def audit(order: int) -> None:
    await asyncio.sleep(0.01)


async def buy(order: int) -> None:
    audit(order)  # blame
    await asyncio.sleep(0.05)


async def main() -> None:
    while stage.running():
        await buy(1)


asyncio.run(main())
