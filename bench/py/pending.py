"""Many tasks or timers that wait, on one loop: python pending.py LOOP tasks|timers COUNT [gc-off].
Prints as JSON what making and cancelling them took, each, and the memory that each needed in
between. Most of the time goes into passes of the cyclic garbage collector over all that waits;
with gc-off there are none."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path

from loops import factory


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def tasks(count: int) -> dict[str, float]:
    """Each waits for a future of its own; then all are cancelled and awaited."""
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        await loop.create_future()

    gc.collect()
    memory, begin = resident_bytes(), time.process_time_ns()
    waiting = [loop.create_task(wait()) for _ in range(count)]
    await asyncio.sleep(0)  # each has begun
    made = time.process_time_ns()
    memory = resident_bytes() - memory
    middle = time.process_time_ns()
    for task in waiting:
        task.cancel()
    await asyncio.sleep(0)
    assert all(task.cancelled() for task in waiting)
    waiting.clear()
    del task
    await asyncio.sleep(0)
    return figures(count, made - begin, time.process_time_ns() - middle, memory)


async def timers(count: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()

    def never() -> None:
        raise AssertionError

    gc.collect()
    memory, begin = resident_bytes(), time.process_time_ns()
    waiting = [loop.call_later(3600 + number % 1000, never) for number in range(count)]
    await asyncio.sleep(0)
    made = time.process_time_ns()
    memory = resident_bytes() - memory
    middle = time.process_time_ns()
    for timer in waiting:
        timer.cancel()
    waiting.clear()
    del timer
    await asyncio.sleep(0)
    return figures(count, made - begin, time.process_time_ns() - middle, memory)


def figures(count: int, made_ns: int, gone_ns: int, memory: int) -> dict[str, float]:
    return {
        "create_ns": made_ns / count,
        "teardown_ns": gone_ns / count,
        "both_ns": (made_ns + gone_ns) / count,
        "bytes": (memory - 8 * count) / count,  # less the list's slot
    }


if __name__ == "__main__":
    if sys.argv[4:] == ["gc-off"]:
        gc.disable()
    kind = {"tasks": tasks, "timers": timers}[sys.argv[2]]
    with asyncio.Runner(loop_factory=factory(sys.argv[1])) as runner:
        print(json.dumps(runner.run(kind(int(sys.argv[3])))))
