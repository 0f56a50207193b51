"""A client that nobody closes, and nobody holds any more.

A helper makes an HTTP client, asks one question and returns the answer; `close()` was in the
version before the review. The client's connections stay open until the interpreter happens to free
them, and the only complaint goes to a logger that nobody reads. The other side counts connections,
and its limit is reached first.
"""
# expect: unclosed-resource at blame
# within: 10
# needs: aiohttp

import asyncio

import aiohttp
import stage


async def ask(url: str) -> bytes:
    session = aiohttp.ClientSession()  # blame
    async with session.get(url) as answer:
        return await answer.read()


async def main(url: str) -> None:
    while stage.running():
        await ask(url)  # blame
        await asyncio.sleep(0.2)


with stage.upstream() as url:
    asyncio.run(main(url))
