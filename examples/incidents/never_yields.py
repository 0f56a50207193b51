"""A coroutine that never comes back.

A consumer was to wait for the next message, and asked for it with `get_nowait` in a loop. As long
as there was always another message nobody noticed. Once the queue was empty for the first time, the
process used one CPU and answered nothing, not even SIGINT's handler.
"""
# expect: never-yields at blame
# also: cpu-bound-step at blame
# within: 12

import asyncio


async def consume(queue: asyncio.Queue[str]) -> None:  # blame
    while True:  # blame
        try:  # blame
            message = queue.get_nowait()  # blame
        except asyncio.QueueEmpty:  # blame
            continue  # blame
        print(message)


async def main() -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()
    queue.put_nowait("the last message")
    await consume(queue)


asyncio.run(main())
