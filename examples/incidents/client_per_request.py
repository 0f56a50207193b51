"""A new HTTP client for each request.

The quick start of the client library shows `async with AsyncClient() as client`, and so it went
into the request handler. Each time it reads the certificates of the trust store, makes a pool for
one connection, and throws both away. Two thirds of the service's CPU went into that.
"""
# expect: client-per-request at blame
# also: blocking-call at blame
# also: cpu-bound-step at blame
# within: 20
# needs: httpx

import asyncio

import httpx
import stage


async def rates(url: str) -> int:
    async with httpx.AsyncClient() as client:  # blame
        return (await client.get(f"{url}/")).status_code  # blame


async def user(url: str) -> None:
    while stage.running():
        await rates(url)
        await asyncio.sleep(0.2)


async def main(url: str) -> None:
    await asyncio.gather(*(user(url) for _ in range(4)))


with stage.upstream() as url:
    asyncio.run(main(url))
