"""File descriptors that become more and more.

A web hook's connection is kept in a list, so that it can be used again; the line that looks into
the list was never written. Every hook costs a descriptor. The limit is far away, and the graph that
would show the slope does not exist.
"""
# expect: fd-growth at blame
# within: 40

import asyncio
from urllib.parse import urlsplit

import stage

idle: list[asyncio.StreamWriter] = []


async def hook(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # blame
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"ok")
    idle.append(writer)


async def main(url: str) -> None:
    while stage.running():
        await hook(urlsplit(url).port or 80)
        await asyncio.sleep(0.05)


with stage.upstream() as url:
    asyncio.run(main(url))
