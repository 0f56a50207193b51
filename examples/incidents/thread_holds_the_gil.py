"""Another thread holds the GIL, and the loop waits for it.

A statistics thread sorts the day's figures every now and then, in one call. Sorting numbers gives
the GIL up to nobody. The stacks of the loop show it in `epoll_wait`, ready to go on, and blame
nothing at all.
"""
# expect: gil-held at blame
# within: 10

import asyncio
import random
import threading
import time

import stage

figures = [random.random() for _ in range(1_000_000)]


def statistics() -> None:
    while stage.running():
        median = sorted(figures)[len(figures) // 2]  # blame
        time.sleep(0.3 + median * 0)


async def main() -> None:
    while stage.running():
        await asyncio.sleep(0.002)


threading.Thread(target=statistics, daemon=True).start()
asyncio.run(main())
