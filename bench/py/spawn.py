"""What bench/c/spawn.c does, on an event loop: python spawn.py LOOP COUNT PROGRAM [--pipes].

With --pipes the child's three standard streams are pipes, read to their end."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

from loops import factory

WARM_UP = 20
PIPE = asyncio.subprocess.PIPE


def cpu_us(who: int) -> float:
    used = resource.getrusage(who)
    return (used.ru_utime + used.ru_stime) * 1e6


async def child(program: str, pipes: bool) -> None:
    if pipes:
        process = await asyncio.create_subprocess_exec(
            program, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        await process.communicate()
    else:
        process = await asyncio.create_subprocess_exec(program)
        await process.wait()
    if process.returncode != 0:
        sys.exit(f"{program} returned {process.returncode}")


async def measure(count: int, program: str, pipes: bool) -> dict[str, float]:
    for _ in range(WARM_UP):
        await child(program, pipes)
    parent, children = cpu_us(resource.RUSAGE_SELF), cpu_us(resource.RUSAGE_CHILDREN)
    each = []
    for _ in range(count):
        begin = time.perf_counter()
        await child(program, pipes)
        each.append((time.perf_counter() - begin) * 1e6)
    parent = cpu_us(resource.RUSAGE_SELF) - parent
    children = cpu_us(resource.RUSAGE_CHILDREN) - children
    return {
        "wall_us": sorted(each)[count // 2],
        "parent_us": parent / count,
        "child_us": children / count,
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=factory(sys.argv[1])) as runner:
        pipes = sys.argv[4:] == ["--pipes"]
        print(json.dumps(runner.run(measure(int(sys.argv[2]), sys.argv[3], pipes))))
