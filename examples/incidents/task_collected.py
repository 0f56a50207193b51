"""A task is garbage-collected while it waits.

A subscription ran in a task that nobody kept: the loop has only weak references to tasks. What it
waited for was known to the subscription alone, so that all of it was garbage at the next
collection. Messages went missing after some minutes, and only on servers with little traffic.
"""
# expect: task-destroyed-pending at blame
# also: task-unreferenced at blame
# also: lost-wakeup at blame-2
# within: 15

import asyncio
import gc
import weakref

import stage


class Subscription:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        while True:
            print(await self.messages.get())  # blame-2


subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()


async def subscribe() -> None:
    subscription = Subscription()
    subscriptions.add(subscription)
    asyncio.create_task(subscription.run())  # blame


async def main() -> None:
    await subscribe()
    await asyncio.sleep(3)
    gc.collect()
    while stage.running():
        for subscription in subscriptions:
            subscription.messages.put_nowait("news")
        await asyncio.sleep(0.1)


asyncio.run(main())
