"""Healthy: `asyncio.timeout`, `wait_for` and task groups, as they are meant.

Half of the calls are too slow and run into their time-out; task groups cancel the others when one
fails, and the error is handled. All of that uses cancellation, and all of it ends it properly. The
doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


async def call(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def with_timeout(seconds: float) -> float | None:
    try:
        async with asyncio.timeout(0.02):
            return await call(seconds)
    except TimeoutError:
        return None


async def fails() -> None:
    await asyncio.sleep(0.01)
    raise LookupError("no such article")


async def group() -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            tasks.create_task(call(10))
    except* LookupError:
        pass


async def first_of_two() -> float:
    calls = {asyncio.create_task(call(0.01)), asyncio.create_task(call(10))}
    done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return done.pop().result()


async def main() -> None:
    while stage.running():
        await asyncio.gather(with_timeout(0.001), with_timeout(10), group(), first_of_two())
        try:
            await asyncio.wait_for(call(10), 0.01)
        except TimeoutError:
            pass


asyncio.run(main())
