"""A client for each tenant, never closed, until there are no file descriptors left.

Clients were kept by tenant, and whenever a tenant's key changed a new one was put beside the old
one. Each holds a connection or two, so that the process is healthy for days. Then it cannot open
anything: no connection, no file, not even the log.
"""
# expect: fd-exhaustion
# also: fd-growth
# within: 25
# needs: httpx

import asyncio
import resource

import httpx
import stage

clients: dict[str, httpx.AsyncClient] = {}


async def request(url: str, key: str) -> int:
    client = clients[key] = httpx.AsyncClient(base_url=url, verify=False)
    return (await client.get("/")).status_code  # blame


async def main(url: str) -> None:
    renewed = 0
    while stage.running():
        renewed += 1
        try:
            await request(url, f"key-{renewed}")
        except httpx.ConnectError as error:
            print(f"no connection: {error}")
        await asyncio.sleep(0.04)


resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
with stage.upstream() as url:
    asyncio.run(main(url))
