"""Healthy: background tasks with references, whose errors are handled.

Periodic tasks are kept in a set until they are done, and what they raise is logged by a callback or
by the one who awaits them. Some fail, some are cancelled. The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage

background: set[asyncio.Task[None]] = set()
failed = 0


def done(task: asyncio.Task[None]) -> None:
    global failed
    background.discard(task)
    if not task.cancelled() and task.exception() is not None:
        failed += 1


async def refresh(number: int) -> None:
    await asyncio.sleep(0.01)
    if number % 3 == 0:
        raise LookupError(number)


async def main() -> None:
    number = 0
    while stage.running():
        number += 1
        task = asyncio.create_task(refresh(number))
        background.add(task)
        task.add_done_callback(done)
        if number % 5 == 0:
            task.cancel()
        try:
            await asyncio.create_task(refresh(number))
        except LookupError:
            pass
    await asyncio.gather(*background, return_exceptions=True)


asyncio.run(main())
