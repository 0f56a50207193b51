"""Healthy: a database pool under load.

Twenty users share a pool of ten connections, and give each one back after a query of a millisecond.
Now and then somebody waits for a moment, which is what a pool is for. The doctor has nothing to
say.
"""
# expect: nothing
# needs: postgresql asyncpg

import asyncio

import asyncpg
import stage


async def user(pool: asyncpg.Pool) -> None:
    while stage.running():
        async with pool.acquire() as db:
            await db.fetchval("SELECT count(*) FROM generate_series(1, 1000)")
        await asyncio.sleep(0.02)


async def main(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=10, max_size=10) as pool:
        await asyncio.gather(*(user(pool) for _ in range(20)))


with stage.postgres() as url:
    asyncio.run(main(url))
