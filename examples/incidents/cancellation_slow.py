"""Cancelling takes seconds, because the clean-up waits for the network.

When a client goes away its request is cancelled, and in its `finally` it tells the statistics
service. That service is slow today. Requests that are long over pile up, and a time-out of one
second takes eight.
"""
# expect: cancellation-slow at blame
# within: 15

import asyncio

import stage


async def tell_statistics() -> None:
    await asyncio.sleep(8)  # blame


async def request() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await tell_statistics()  # blame


async def main() -> None:
    while stage.running():
        try:
            async with asyncio.timeout(1):
                await request()
        except TimeoutError:
            print("timed out")


asyncio.run(main())
