"""`make soak`: ten minutes under load, watching what must not grow.

A server process on taut echoes while connections come and go, and meanwhile runs tasks, timers,
executor calls, cross-thread calls and cancellations on the same loop. It reports its memory, open
files, threads, allocated blocks and the reference counts of a few shared objects; the first
reports after a warm-up are compared with the last ones. Exit status 1 when something grew.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from host import CLIENT_CPU, Child, Failure, build_peers, end_on_sigterm, run_json
from loops import LOOPS, factory
from servers import EchoProtocol

#: What each figure may grow by between warm-up and end; RSS follows the allocator's mood.
ALLOWED = {"rss_kib": 4096, "fds": 0, "threads": 0, "blocks": 400, "references": 200}


async def exercise(loop: asyncio.AbstractEventLoop) -> None:
    """A bit of everything; leaves nothing behind."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    await asyncio.gather(*(nothing() for _ in range(20)))
    for handle in [loop.call_later(3600, gc.collect) for _ in range(20)]:
        handle.cancel()
    await loop.run_in_executor(None, os.getpid)
    woken = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set_result, None))
    thread.start()
    await woken
    thread.join()
    task = loop.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        await loop.sock_sendall(left, b"ping")
        await loop.sock_recv(right, 4)


def figures(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    gc.collect()
    rss = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert rss is not None
    shared: list[Any] = [loop, type(loop), EchoProtocol, asyncio.Task, asyncio.Future, b"", ()]
    if sys.version_info < (3, 12):  # they are immortal from then on
        shared += [None, True, False, 0, 1]
    return {
        "rss_kib": int(rss.group(1)),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "blocks": sys.getallocatedblocks(),
        "references": sum(sys.getrefcount(item) for item in shared),
    }


async def serve() -> None:
    loop = asyncio.get_running_loop()
    # All threads of the default executor now: it would otherwise add them over time.
    await asyncio.gather(*(loop.run_in_executor(None, time.sleep, 0.02) for _ in range(64)))
    connections = 0

    class Counted(EchoProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal connections
            connections += 1
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal connections
            connections -= 1
            super().connection_lost(exc)

    server = await loop.create_server(Counted, "127.0.0.1", 0, backlog=4096)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    seen = False
    while True:
        await exercise(loop)
        # One report each time the load has gone: only then the same things are alive.
        if connections:
            seen = True
        elif seen:
            seen = False
            print(f"figures {json.dumps(figures(loop))}", flush=True)
        await asyncio.sleep(0.01)


def reports(server: Child) -> list[dict[str, int]]:
    lines = [text for _, text in list(server.lines) if text.startswith("figures ")]
    return [json.loads(line.partition(" ")[2]) for line in lines]


def soak(loop: str, minutes: float) -> bool:
    """Whether nothing grew."""
    loadgen = str(build_peers() / "loadgen")
    command = [sys.executable, __file__, "--serve", loop]
    end = time.monotonic() + minutes * 60
    with Child(command, ready=r"^ready (\d+)") as server:
        rounds = 0
        while time.monotonic() < end:
            load = [loadgen, "echo", "--port", server.ready.group(1), "--seconds", "1.5"]
            load += ["--connections", str((1, 50, 500)[rounds % 3])]
            load += ["--size", str((64, 20000, 1024)[rounds % 3])]
            at = len(server.lines)
            result = run_json(load, cpu=CLIENT_CPU, timeout_s=60)
            rounds += 1
            if result["errors"]:
                raise Failure(f"errors under load: {result}\n{server.output(10)}")
            if server.wait_for(r"^figures ", 20, start=at) is None:
                raise Failure(f"the server no longer reports:\n{server.output(10)}")
            if rounds % 20 == 0:
                print(f"  {rounds} rounds: {reports(server)[-1]}", flush=True)
        got = reports(server)
    return compare(got)


def compare(got: list[dict[str, int]]) -> bool:
    if len(got) < 12:
        raise Failure(f"only {len(got)} reports: too short a run to tell")
    span = len(got) // 4
    early, late = got[span : 2 * span], got[-span:]
    level = True
    for key, allowed in ALLOWED.items():
        before, after = (int(statistics.median(row[key] for row in part)) for part in (early, late))
        grew = after - before > allowed
        level = level and not grew
        print(f"  {key:10} {before:9} -> {after:9}  {'GREW' if grew else 'level'}")
    return level


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default %(default)s")
    parser.add_argument("--loop", default="taut", choices=LOOPS, help="default %(default)s")
    parser.add_argument("--serve", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with asyncio.Runner(loop_factory=factory(options.serve)) as runner:
            runner.run(serve())
        return 0
    end_on_sigterm()
    print(f"Soaking {options.loop} for {options.minutes:g} minutes ...", flush=True)
    try:
        return 0 if soak(options.loop, options.minutes) else 1
    except Failure as failure:
        print(f"soak: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
