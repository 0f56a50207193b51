"""Healthy: one HTTP client for the whole process.

Sixteen users share one client and its pool of connections, which are used again and again. The
service behind it fails now and then, and the error is handled. The doctor has nothing to say.
"""
# expect: nothing
# needs: httpx

import asyncio

import httpx
import stage


async def user(client: httpx.AsyncClient) -> None:
    number = 0
    while stage.running():
        number += 1
        answer = await client.get("/fail" if number % 10 == 0 else "/slow/5")
        assert answer.status_code in (200, 503)
        await asyncio.sleep(0.1)


async def main(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, verify=False) as client:
        await asyncio.gather(*(user(client) for _ in range(16)))


with stage.upstream() as url:
    asyncio.run(main(url))
