"""Healthy: thousands of short tasks a second.

A gateway makes a task for each message, and each is over after one short wait. There are many of
them in a second, and never many at a time. The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


async def handle(message: int) -> int:
    await asyncio.sleep(0.001)
    return message


async def main() -> None:
    while stage.running():
        async with asyncio.TaskGroup() as group:
            for message in range(100):
                group.create_task(handle(message))


asyncio.run(main())
