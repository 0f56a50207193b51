"""The process stands still, and it is not its own fault.

The hypervisor moved the machine, or a debugger stopped the process, for a second at a time.
Every tool inside shows a slow callback, a different one each time, and people optimise them.
Nothing of it helps.
"""
# expect: host-starved
# within: 10

import asyncio

import stage


async def main() -> None:
    while stage.running():
        sum(range(2000))
        await asyncio.sleep(0.001)


with stage.stopped_by_a_neighbour(every_s=1, for_s=1.2):
    asyncio.run(main())
