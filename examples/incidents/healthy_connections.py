"""Healthy: five hundred connections that say little.

A chat server: many clients are connected for hours, each says something now and then, and their
tasks wait for them at the same line. Many tasks that wait for a long time are no sign of anything.
The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await stage.read_request(reader)
            writer.write(stage.answer(200, b"hello"))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    async with await asyncio.start_server(connection, "127.0.0.1", port, backlog=1024):
        while stage.running():
            await asyncio.sleep(1)


port = stage.free_port()
with stage.load(f"http://127.0.0.1:{port}/", 500, 2):
    asyncio.run(main(port))
