"""A thread pool with one worker makes every request wait for every other.

The shop wrote its audit records in a `finally`, in a thread, so as not to block the loop, and long
before somebody had given the default executor one worker to keep SQLite happy. Under load nothing
failed and no CPU was busy, yet each answer took a second: the records queued for the one thread.
Three people looked for the slow query that night; there was none.
"""
# expect: executor-saturated at blame
# within: 15

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import stage


def audit(order: int) -> None:
    time.sleep(0.02)  # a row for the auditors, on a disk


async def buy(order: int) -> None:
    try:
        await asyncio.sleep(0.005)
    finally:
        await asyncio.to_thread(audit, order)  # blame


async def customer() -> None:
    while stage.running():
        await buy(1)
        await asyncio.sleep(0.05)


async def main() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    await asyncio.gather(*(customer() for _ in range(40)))


asyncio.run(main())
