"""A pool of five connections, and ten who hold one while they wait for something else.

A handler took a connection for its transaction and, within it, called another service. While that
one was quick the pool was never empty. When it took a second, all five connections waited for it,
and everybody else for a connection: the database was idle.
"""
# expect: pool-exhausted at blame
# within: 15
# needs: postgresql asyncpg

import asyncio

import asyncpg
import stage


async def call_the_bank() -> None:
    await asyncio.sleep(2)


async def pay(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as db:  # blame
        await db.execute("SELECT 1")
        await call_the_bank()


async def customer(pool: asyncpg.Pool) -> None:
    while stage.running():
        await pay(pool)


async def main(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=5, max_size=5) as pool:
        await asyncio.gather(*(customer(pool) for _ in range(25)))


with stage.postgres() as url:
    asyncio.run(main(url))
