"""A new connection for each call, until there are no ports left.

A call to the stock service opens a connection, asks, and closes it. The side that closes first
keeps the port for a minute, in TIME_WAIT, and there are 28,000 of them per destination. At 500
calls a second it is over after a minute: "cannot assign requested address".
"""
# expect: time-wait at blame
# also: client-per-request at blame
# within: 25

import asyncio
from urllib.parse import urlsplit

import stage


async def in_stock(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # blame
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"ok")
    writer.close()
    await writer.wait_closed()


async def caller(port: int) -> None:
    while stage.running():
        await in_stock(port)


async def main(url: str) -> None:
    await asyncio.gather(*(caller(urlsplit(url).port or 80) for _ in range(4)))


with stage.upstream() as url:
    asyncio.run(main(url))
