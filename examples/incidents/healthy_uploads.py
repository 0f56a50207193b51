"""Healthy: large uploads.

Four clients send files of 32 MiB over and over, and the service counts their bytes. The loop reads
all the time, in pieces, and others get their turn in between. The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            _, size = await stage.read_request(reader)
            writer.write(stage.answer(200, str(size).encode()))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    async with await asyncio.start_server(connection, "127.0.0.1", port):
        while stage.running():
            await asyncio.sleep(0.1)


port = stage.free_port()
with stage.uploads(f"http://127.0.0.1:{port}/", connections=4, size=2**25):
    asyncio.run(main(port))
