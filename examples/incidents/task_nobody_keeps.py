"""A task lives for as long as the garbage collector does not run.

Subscribers are known by weak references, so that they go by themselves, and the task that serves
one is forgotten by who has made it. The subscriber and the task refer to each other, and nobody
else refers to them. The collector was switched off at the start to save its pauses, and ran at
night: every morning all subscribers were gone.
"""
# expect: task-unreferenced at blame
# within: 10

import asyncio
import gc
import weakref

import stage


class Subscriber:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self) -> None:
        while True:
            print(await self.messages.get())


subscribers: weakref.WeakSet[Subscriber] = weakref.WeakSet()


def subscribe() -> None:
    subscriber = Subscriber()
    subscribers.add(subscriber)
    asyncio.create_task(subscriber.serve())  # blame


async def main() -> None:
    gc.disable()
    subscribe()
    while stage.running():
        await asyncio.sleep(0.1)
    for subscriber in subscribers:
        subscriber.messages.put_nowait("good night")
    await asyncio.sleep(0.1)


asyncio.run(main())
