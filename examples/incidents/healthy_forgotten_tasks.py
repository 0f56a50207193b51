"""Healthy: tasks that the program does not keep, but whoever will wake them does.

One waits for a timer, one for a socket, one for a queue that a producer fills, one for a future
in a table; subscribers are known by weak references, and are kept by those who have subscribed. All
of them come through collections of garbage. The doctor has nothing to say.
"""
# expect: nothing

import asyncio
import gc
import socket
import weakref

import stage

answers: dict[int, asyncio.Future[str]] = {}
queue: asyncio.Queue[int] = asyncio.Queue()


class Subscriber:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self) -> None:
        while await self.messages.get() != "end":
            pass


async def naps() -> None:
    await asyncio.sleep(4)


async def consumes() -> None:
    while await queue.get() >= 0:
        pass


async def asks(number: int) -> None:
    answer = answers[number] = asyncio.get_running_loop().create_future()
    await answer


async def reads(side: socket.socket) -> None:
    with side:
        await asyncio.get_running_loop().sock_recv(side, 1)


async def main() -> None:
    subscriptions: weakref.WeakSet[Subscriber] = weakref.WeakSet()
    subscriber = Subscriber()
    subscriptions.add(subscriber)
    one, two = socket.socketpair()
    one.setblocking(False)
    for work in (naps(), consumes(), asks(7), reads(one), subscriber.serve()):
        asyncio.create_task(work)
    while stage.running():
        await asyncio.sleep(1)
        gc.collect()
    queue.put_nowait(-1)
    answers.pop(7).set_result("at last")
    two.close()
    for known in subscriptions:
        known.messages.put_nowait("end")
    await asyncio.sleep(0.1)


asyncio.run(main())
