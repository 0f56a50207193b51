"""A hundred answers of 50 KB, each quick to parse, are parsed in one go.

A page gathers a hundred documents from another service, and then turns all of them into objects.
One takes half a millisecond, which nobody would call slow, and the loop stands still for all
hundred. The median is fine; one in fifty requests of everybody else is not.
"""
# expect: cpu-bound-step at blame
# also: gc-pause
# within: 10
# needs: httpx

import asyncio
import json

import httpx
import stage


async def page(client: httpx.AsyncClient) -> int:
    answers = await asyncio.gather(*(client.get("/json/50") for _ in range(100)))
    rows = 0
    for answer in answers:
        rows += len(json.loads(answer.content))  # blame
    return rows


async def main(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, verify=False) as client:
        while stage.running():
            await page(client)
            await asyncio.sleep(0.2)


with stage.upstream() as url:
    asyncio.run(main(url))
