"""Healthy: trying again with patience.

A service is away and its five clients look for it, each after a pause that doubles up to two
seconds and has chance in it. That costs nobody anything, however long it lasts. The doctor has
nothing to say.
"""
# expect: nothing

import asyncio
import random

import stage


async def client(port: int) -> None:
    pause = 0.1
    while stage.running():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 2)
        else:
            writer.close()


async def main() -> None:
    nobody_listens = stage.free_port()
    await asyncio.gather(*(client(nobody_listens) for _ in range(5)))


asyncio.run(main())
