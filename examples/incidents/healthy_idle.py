"""Healthy: nothing to do.

A service at night: a server that nobody asks, a worker whose queue is empty, a timer once in a
while. Tasks wait for a long time, and that is what they are for. The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def worker(jobs: asyncio.Queue[str]) -> None:
    while True:
        print(await jobs.get())


async def wait_for_reload(reload: asyncio.Event) -> None:
    await reload.wait()


async def main() -> None:
    jobs: asyncio.Queue[str] = asyncio.Queue()
    reload = asyncio.Event()
    async with await asyncio.start_server(connection, "127.0.0.1", 0):
        tasks = [asyncio.create_task(worker(jobs)), asyncio.create_task(wait_for_reload(reload))]
        await asyncio.sleep(stage.SECONDS)
        reload.set()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


asyncio.run(main())
