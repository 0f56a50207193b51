"""What a hundred thousand tasks or timers that wait need, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

import taut
from loops import ok, script
from taut import _core

COUNT = 100_000
WAITING = f"""
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    async def wait(loop):
        await loop.create_future()

    async def tasks(loop):
        made = [loop.create_task(wait(loop)) for _ in range({COUNT})]
        await asyncio.sleep(0)
        return made

    async def timers(loop):
        return [loop.call_later(3600 + n % 1000, print) for n in range({COUNT})]

    async def main(make):
        loop = asyncio.get_running_loop()
        gc.collect()
        before = resident()
        made = await make(loop)
        bytes_each = (resident() - before) / {COUNT}
        for one in made:
            one.cancel()
        await asyncio.sleep(0)
        return bytes_each

    with asyncio.Runner(loop_factory=new_loop) as runner:
        print(runner.run(main(globals()[sys.argv[1]])))
"""


@pytest.mark.no_asan  # its allocator's memory is not the program's
@pytest.mark.parametrize("what", ["tasks", "timers"])
def test_no_more_than_asyncio_takes(what: str) -> None:
    asyncios, tauts = (float(ok(script(name, WAITING, what))) for name in ("asyncio", "taut"))
    assert tauts <= asyncios * 1.2, f"{tauts:.0f} bytes each, asyncio's {asyncios:.0f}"


@pytest.mark.skipif(not _core.tasks_known(), reason="this Python's tasks are not known")
def test_what_is_kept_for_reuse_is_bounded() -> None:
    """Objects that are gone are recycled, but never more than a few thousand of each kind."""

    async def tasks() -> None:
        loop = asyncio.get_running_loop()

        async def wait() -> None:
            await loop.create_future()

        made = [loop.create_task(wait()) for _ in range(20_000)]
        await asyncio.sleep(0)
        for task in made:
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def timers() -> None:
        loop = asyncio.get_running_loop()
        for handle in [loop.call_later(60, print) for _ in range(20_000)]:
            handle.cancel()
        for handle in [loop.call_soon(int) for _ in range(20_000)]:
            handle.cancel()
        await asyncio.sleep(0)

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    loop = taut.new_event_loop(tasks="own")
    loop.run_until_complete(asyncio.sleep(0))
    before = blocks()
    loop.run_until_complete(tasks())
    loop.run_until_complete(timers())
    assert blocks() - before < 4 * 2048 + 1000  # futures, tasks, handles, timers
    loop.close()
