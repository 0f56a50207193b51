"""A synchronous HTTP client inside a coroutine.

Somebody needed one call to the rates service and used the client that he knew. The rates service
answers within milliseconds, until one day it takes 300. From then on the whole service handles
three requests a second, all of them slow, and its CPU is idle.
"""
# expect: sync-driver at blame
# within: 5

import asyncio
import urllib.request

import stage


async def price(url: str) -> bytes:
    with urllib.request.urlopen(f"{url}/slow/300") as rates:  # blame
        return rates.read()


async def main(url: str) -> None:
    while stage.running():
        await price(url)
        await asyncio.sleep(0.2)


with stage.upstream() as url:
    asyncio.run(main(url))
