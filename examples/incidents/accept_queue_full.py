"""Connections that the kernel refuses before the service sees them.

The server listens with a backlog of eight, which came from an example. Whenever the loop is busy
for a moment, new connections wait in the kernel, and the ninth is dropped. Clients see a delay of
exactly one second, or three; the service's log shows nothing.
"""
# expect: listen-overflow
# also: blocking-call at blame
# also: cpu-bound-step at blame
# within: 15

import asyncio
import time

import stage


async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await stage.read_request(reader)
    time.sleep(0.08)  # blame
    writer.write(stage.answer(200, b"ok"))
    writer.close()
    await writer.wait_closed()


async def main(port: int) -> None:
    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=8)
    async with server:
        while stage.running():
            await asyncio.sleep(0.1)


port = stage.free_port()
with stage.load(f"http://127.0.0.1:{port}/", 60, 0.01):
    asyncio.run(main(port))
