"""Healthy: a queue with a limit.

The producer is faster than the consumers, and so the queue is always full and the producer waits.
That is back pressure, and it is what the limit is for. The doctor has nothing to say.
"""
# expect: nothing

import asyncio

import stage


async def produce(queue: asyncio.Queue[int]) -> None:
    number = 0
    while stage.running():
        await queue.put(number)
        number += 1


async def consume(queue: asyncio.Queue[int]) -> None:
    while True:
        await queue.get()
        await asyncio.sleep(0.002)
        queue.task_done()


async def main() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=100)
    consumers = [asyncio.create_task(consume(queue)) for _ in range(4)]
    await produce(queue)
    await queue.join()
    for task in consumers:
        task.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)


asyncio.run(main())
