"""A nightly job fills the thread pool that the requests need as well.

Each request reads a file in a thread, and all day long the pool of four is nearly idle. At night,
for a few minutes, an export hands every customer's report to the same pool at once. Only the
requests of those minutes are slow, and by the morning nothing is left to be seen.
"""
# expect: executor-saturated at blame
# within: 15

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import stage


def read_file() -> None:
    time.sleep(0.01)


def render_report(customer: int) -> None:
    time.sleep(0.2)


async def requests() -> None:
    while stage.running():
        await asyncio.to_thread(read_file)
        await asyncio.sleep(0.02)


async def export(customer: int) -> None:
    await asyncio.to_thread(render_report, customer)  # blame


async def nightly() -> None:
    await asyncio.sleep(3)
    await asyncio.gather(*(export(customer) for customer in range(150)))


async def main() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=4))
    await asyncio.gather(requests(), nightly())


asyncio.run(main())
