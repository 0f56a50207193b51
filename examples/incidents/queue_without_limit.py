"""A queue without a limit, and a consumer that is a little too slow.

Events go through `asyncio.Queue()` to one consumer, who writes them to a database. Since a
marketing campaign there are more of them than it can write, and the queue takes them all. Nothing
is wrong until the memory is full, hours later, and then a hundred thousand events are lost with it.
"""
# expect: queue-growth at blame
# also: memory-growth
# within: 25

import asyncio

import stage


async def produce(queue: asyncio.Queue[bytes]) -> None:
    while stage.running():
        for _ in range(20):
            await queue.put(bytes(200))  # blame
        await asyncio.sleep(0.01)


async def consume(queue: asyncio.Queue[bytes]) -> None:
    while stage.running():
        await queue.get()
        await asyncio.sleep(0.002)


async def main() -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue()  # blame
    await asyncio.gather(produce(queue), consume(queue))


asyncio.run(main())
