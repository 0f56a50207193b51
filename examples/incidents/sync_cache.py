"""The synchronous Redis client, where the asynchronous one was meant.

`redis.Redis` and `redis.asyncio.Redis` have the same methods, and without `await` in sight the
difference is one import. With the cache in the same rack nobody noticed. When Redis was busy with a
slow command of somebody else, every coroutine was.
"""
# expect: sync-driver at blame
# within: 8
# needs: redis

import asyncio

import redis
import stage


async def profile(cache: redis.Redis, user: str) -> object:
    return cache.blpop([f"profile:{user}"], timeout=1)  # blame


async def main(url: str) -> None:
    with redis.Redis.from_url(url) as cache:
        while stage.running():
            await profile(cache, "ada")
            await asyncio.sleep(0.2)


with stage.redis() as url:
    asyncio.run(main(url))
