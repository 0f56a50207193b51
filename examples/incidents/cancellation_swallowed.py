"""A worker that cannot be cancelled.

A worker shall go on whatever happens, and so it catches BaseException, logs it, and takes the next
job. CancelledError is one of those. `worker.cancel()` has no effect, reloading the configuration
leaves a second set of workers running beside the first, and every job is done twice.
"""
# expect: cancellation-swallowed at blame
# within: 10

import asyncio
import logging

import stage


async def worker(jobs: asyncio.Queue[str]) -> None:
    while True:
        try:
            print(await jobs.get())  # blame
        except BaseException as error:  # blame
            logging.warning("job failed: %r", error)
        if not stage.running():
            return


async def main() -> None:
    jobs: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(worker(jobs))
    await asyncio.sleep(1)
    task.cancel()  # the configuration has changed
    while stage.running():
        await asyncio.sleep(0.1)
    task.cancel()
    await task


asyncio.run(main())
