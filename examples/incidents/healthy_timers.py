"""Healthy: timers that come in bursts.

Every second two thousand timers are due at once, because somebody rounded them to whole seconds.
Each does next to nothing, so that the burst is over within milliseconds. The doctor has nothing to
say.
"""
# expect: nothing

import asyncio

import stage

fired = 0


def tick() -> None:
    global fired
    fired += 1


async def main() -> None:
    loop = asyncio.get_running_loop()
    while stage.running():
        due = int(loop.time()) + 1
        timers = [loop.call_at(due, tick) for _ in range(2000)]
        for timer in timers[::3]:
            timer.cancel()
        await asyncio.sleep(due - loop.time() + 0.1)


asyncio.run(main())
