"""The same empty pool, but the doctor was told of it, and names who holds its connections.

A nightly export takes its connections first and then reads from a slow file server, row by row.
Requests wait for a connection until their time is up. Who waits is easily seen; who has the
connections is what the night shift needs to know.
"""
# expect: pool-exhausted at blame
# within: 15
# needs: postgresql asyncpg

import asyncio

import asyncpg
import stage
from taut import doctor


async def export(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as db:
        while stage.running():
            await db.execute("SELECT 1")
            await asyncio.sleep(1)  # the file server


async def request(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as db:  # blame
        await db.execute("SELECT 1")


async def main(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=3, max_size=3) as pool:
        doctor.watch(pool)
        exports = [asyncio.create_task(export(pool)) for _ in range(3)]
        await asyncio.sleep(0.5)
        requests = [asyncio.create_task(request(pool)) for _ in range(10)]
        await asyncio.gather(*exports, *requests)


with stage.postgres() as url:
    asyncio.run(main(url))
