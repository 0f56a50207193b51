"""A finalizer makes a task, at whatever moment the garbage collector chooses.

A session closed itself in `__del__`, by a task, for those who had forgotten to close it. Sessions
were part of a cycle, so that the garbage collector ran the finalizer: inside of other people's
callbacks, and at times in a thread without a loop. The service broke in places that had nothing to
do with sessions.
"""
# expect: task-in-finalizer at blame
# within: 10

import asyncio

import stage


class Session:
    def __init__(self) -> None:
        self.owner = self  # a cycle: only the garbage collector frees it

    async def close(self) -> None:
        await asyncio.sleep(0)

    def __del__(self) -> None:
        self.closing = asyncio.get_running_loop().create_task(self.close())  # blame


async def request() -> int:
    Session()
    rows = [{"id": n} for n in range(2000)]
    await asyncio.sleep(0.01)
    return len(rows)


async def main() -> None:
    while stage.running():
        await request()


asyncio.run(main())
