"""What must not be reported: run as `stall_quiet.py LOOP` in a child by test_stall_quiet.py."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from taut import _core, doctor

THRESHOLD_S = 0.25
SHORT_S = 0.0002


def short_work() -> None:
    end = time.perf_counter() + SHORT_S
    while time.perf_counter() < end:
        pass


async def many_callbacks_in_one_iteration() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(3000):
        loop.call_soon(short_work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def many_tasks() -> None:
    async def step() -> None:
        for _ in range(4):
            short_work()
            await asyncio.sleep(0)

    await asyncio.gather(*(step() for _ in range(500)))


class Echo(asyncio.Protocol):
    left = 0
    done: asyncio.Future[None]

    def data_received(self, data: bytes) -> None:
        for _ in range(5):
            short_work()
        Echo.left -= 1
        if Echo.left == 0 and not Echo.done.done():
            Echo.done.set_result(None)


async def many_reads_in_one_poll() -> None:
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(400)]
    transports = [(await loop.create_connection(Echo, sock=a))[0] for a, _ in pairs]
    Echo.done, Echo.left = loop.create_future(), len(pairs)
    for _, b in pairs:
        b.send(b"x")
    await Echo.done
    for transport, (_, b) in zip(transports, pairs, strict=True):
        transport.close()
        b.close()
    await asyncio.sleep(0.01)


def watchdog_switches() -> int:
    """How often the watchdog's thread has gone to sleep so far."""
    status = Path(f"/proc/self/task/{_core.stall_thread_id()}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)$", status, flags=re.M)
    assert found
    return int(found[1])


def wait_until_parked() -> None:
    """On another thread, so that the loop stays idle: the watchdog must come to rest."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        before = watchdog_switches()
        threading.Event().wait(0.4)  # samples come every 62 ms while it is awake
        if watchdog_switches() == before:
            print("parked")
            return


async def idleness() -> None:
    await asyncio.to_thread(wait_until_parked)


async def main() -> None:
    loop: Any = asyncio.get_running_loop()
    if type(loop).__module__.startswith("taut"):
        loop.stall_threshold = THRESHOLD_S
    else:
        doctor.attach(threshold=THRESHOLD_S)
    await asyncio.sleep(0.01)
    await many_callbacks_in_one_iteration()
    await many_tasks()
    await many_reads_in_one_poll()
    await idleness()


def run(kind: str) -> None:
    if kind == "taut":
        import taut

        loop = taut.new_event_loop()
    elif kind == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    time.sleep(1.5 * THRESHOLD_S)  # blocks: no stall, the loop does not run
    loop.run_until_complete(asyncio.sleep(0.2))
    time.sleep(1.5 * THRESHOLD_S)  # blocks: no stall, the loop does not run
    loop.close()
    print("done")


if __name__ == "__main__":
    run(sys.argv[1])
