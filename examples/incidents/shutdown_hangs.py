"""The process does not end, because one task ignores its cancellation.

A heartbeat shall never stop, and so its loop catches everything, CancelledError too. At the end
`asyncio.run` cancels all tasks and waits for them. Every deployment takes as long as the
orchestrator waits before it kills.
"""
# expect: shutdown-hung at blame
# also: cancellation-swallowed at blame
# within: 15

import asyncio


async def heartbeat() -> None:
    while True:
        try:
            await asyncio.sleep(1)  # blame
        except asyncio.CancelledError:  # blame
            pass


async def main() -> None:
    beating = asyncio.create_task(heartbeat())
    await asyncio.sleep(1)
    print("done", beating)


asyncio.run(main())
