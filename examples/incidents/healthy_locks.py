"""Healthy: locks, conditions, semaphores and events, much waited for.

Fifty tasks share three locks, always in the same order, and a semaphore lets five of them through
at a time. They wait for most of their lives, and each is woken in the end. The doctor has nothing
to say.
"""
# expect: nothing

import asyncio

import stage


async def work(locks: list[asyncio.Lock], gate: asyncio.Semaphore) -> None:
    while stage.running():
        async with gate, locks[0], locks[1]:
            await asyncio.sleep(0.001)
        async with locks[1], locks[2]:
            await asyncio.sleep(0.001)


async def listen(news: asyncio.Condition) -> None:
    while stage.running():
        async with news:
            await news.wait()


async def main() -> None:
    locks = [asyncio.Lock() for _ in range(3)]
    gate, news = asyncio.Semaphore(5), asyncio.Condition()
    tasks = [asyncio.create_task(work(locks, gate)) for _ in range(50)]
    tasks += [asyncio.create_task(listen(news)) for _ in range(10)]
    while stage.running():
        await asyncio.sleep(0.2)
        async with news:
            news.notify_all()
    async with news:
        news.notify_all()
    await asyncio.gather(*tasks)


asyncio.run(main())
