"""`asyncio.run` inside of a running loop.

A library offers a synchronous function that runs a coroutine by `asyncio.run`, for those who have
no loop. Called from a coroutine it raises RuntimeError, which the caller took for a network error
and tried again later. The page has been without recommendations since.
"""
# expect: nested-run at blame
# also: coroutine-never-awaited at blame
# within: 5

import asyncio
import contextlib

import stage


async def fetch() -> list[str]:
    await asyncio.sleep(0.01)
    return ["a book"]


def recommendations() -> list[str]:
    coroutine = fetch()
    with contextlib.closing(coroutine):
        return asyncio.run(coroutine)  # blame


async def page() -> list[str]:
    try:
        return recommendations()
    except Exception:
        return []


async def main() -> None:
    while stage.running():
        await page()
        await asyncio.sleep(0.2)


asyncio.run(main())
