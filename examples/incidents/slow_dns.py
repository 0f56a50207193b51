"""Name lookups queue behind a slow name server.

A service called the web hooks of thousands of customers, each at a host of its own, and one evening
the name server took 900 ms for an answer instead of one. Lookups run in a few threads, since the C
library knows no other way, and so the hooks got slower the more of them there were. The hooks'
time-outs blamed the customers' servers.
"""
# expect: resolver-queue at blame
# within: 20
# needs: root

import asyncio
import itertools
from urllib.parse import urlsplit

import stage

hosts = (f"customer-{n}.hooks.example" for n in itertools.count())


async def call_hook(port: int) -> None:
    reader, writer = await asyncio.open_connection(next(hosts), port)  # blame
    writer.write(b"GET / HTTP/1.1\r\nHost: hooks.example\r\n\r\n")
    await reader.readuntil(b"ok")
    writer.close()
    await writer.wait_closed()


async def worker(port: int) -> None:
    while stage.running():
        await call_hook(port)


async def main(url: str) -> None:
    port = urlsplit(url).port or 80
    await asyncio.gather(*(worker(port) for _ in range(60)))


with stage.slow_dns(0.9), stage.upstream() as url:
    asyncio.run(main(url))
