#!/usr/bin/env python3
"""Part of `make soak`: a taut server under a mixed load for ten minutes; nothing in it may grow.

A client (stock asyncio, its own process) opens connections that echo, stream, half-close, stall,
reset and vanish, and asks the server for work inside its loop: tasks, timers, threads, sockets,
subprocesses. Twenty times the load pauses until no connection is open, and the server counts what
it holds: memory, file descriptors, threads, objects, references. The first quarter is warm-up;
what grew from the second quarter to the last by more than its limit fails the run (exit status 1).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

SAMPLES = 20
WORKERS = 32
QUIET_S = 30.0  # for connections to end after the load has paused

# What is counted, and by how much its median may move between the second and the last quarter.
LIMITS = {
    "rss_kib": 3072,  # the allocator's own slack; a leak of 1 KiB per connection is far above
    "fds": 0,
    "threads": 4,  # the native pool's threads come and go
    "core_blocks": 16,
    "python_blocks": 1500,
    "objects": 200,
    "none_refs": 200,  # always 0 from 3.12 on, where None is immortal
}


# ---- the server ------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(16384)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(memoryview(self.buffer)[:nbytes]))


async def job_tasks() -> None:
    async def one(n: int) -> int:
        await asyncio.sleep(0)
        return n

    assert sum(await asyncio.gather(*(one(n) for n in range(50)))) == 1225
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)


async def job_timers() -> None:
    loop = asyncio.get_running_loop()
    handles = [loop.call_later(60 + n, print) for n in range(200)]
    fired = loop.create_future()
    loop.call_later(0.001, fired.set_result, None)
    for handle in handles:
        handle.cancel()
    await fired


async def job_threads() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(asyncio.to_thread(sum, range(1000)) for _ in range(4)))
    woken = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set_result, None))
    thread.start()
    await woken
    await asyncio.to_thread(thread.join)
    await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


async def job_sockets() -> None:
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        for _ in range(5):
            await loop.sock_sendall(a, b"ping" * 100)
            assert await loop.sock_recv(b, 4096)
        ready = asyncio.Event()
        loop.add_reader(b, ready.set)
        a.send(b"x")
        await ready.wait()
        loop.remove_reader(b)
        waiting = asyncio.create_task(loop.sock_recv(a, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def job_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with contextlib.suppress(OSError):
            await asyncio.open_connection(*unused.getsockname())


async def job_subprocess() -> None:
    process = await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)
    await process.communicate()


JOBS: dict[str, Callable[[], Awaitable[None]]] = {
    "tasks": job_tasks,
    "timers": job_timers,
    "threads": job_threads,
    "sockets": job_sockets,
    "refused": job_refused,
    "subprocess": job_subprocess,
}


def counts() -> dict[str, int]:
    from taut import _core

    for _ in range(3):
        gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return {
        "rss_kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "core_blocks": _core.mem_stats()["live_blocks"],
        "python_blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "none_refs": sys.getrefcount(None) if sys.version_info < (3, 12) else 0,
    }


async def serve() -> None:
    loop = asyncio.get_running_loop()
    busy = set()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy.add(writer)
        try:
            while line := await reader.readline():
                name = line.decode().strip()
                if name in JOBS:
                    await JOBS[name]()
                    line = b"done\n"
                elif name == "count":
                    busy.discard(writer)
                    for _ in range(int(QUIET_S * 100)):
                        if not busy and sum(open_connections(s) for s in servers) <= 1:
                            break
                        await asyncio.sleep(0.01)
                    line = json.dumps(counts()).encode() + b"\n"
                writer.write(line)
                await writer.drain()
        except (OSError, ValueError):  # a reset; a line beyond the limit
            pass
        finally:
            busy.discard(writer)
            writer.close()

    servers = [
        await loop.create_server(Echo, "127.0.0.1", 0),
        await loop.create_server(BufferedEcho, "127.0.0.1", 0),
        await asyncio.start_server(stream, "127.0.0.1", 0),
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(f"{type(loop).__module__} {json.dumps(ports)}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the client closes it


def open_connections(server: Any) -> int:
    return int(server._active_count)


# ---- the client ------------------------------------------------------------------------------


async def act_echo(rng: random.Random, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(rng.randrange(1, 20)):
        data = rng.randbytes(rng.choice([1, 64, 1024, 70_000]))
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
    writer.close()


async def act_half_close(rng: random.Random, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = rng.randbytes(300_000)
    writer.write(data)
    writer.write_eof()
    assert await reader.read(-1) == data
    writer.close()


async def act_reset(rng: random.Random, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(rng.randbytes(rng.choice([1, 200_000])))
    if rng.random() < 0.5:
        await reader.read(100)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def act_lines(rng: random.Random, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(rng.randrange(1, 10)):
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
    if rng.random() < 0.1:
        writer.write(b"x" * 200_000)  # a line beyond the server's limit
        await reader.read(-1)
    writer.close()


async def act_job(rng: random.Random, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    names = [name for name in JOBS if name != "subprocess" or rng.random() < 0.05]
    writer.write(rng.choice(names).encode() + b"\n")
    assert await reader.readline() == b"done\n"
    writer.close()


async def work(rng: random.Random, ports: list[int], end: float) -> int:
    done = 0
    acts = [act_echo, act_half_close, act_reset, act_lines, act_job]
    while time.monotonic() < end:
        act = rng.choice(acts)
        port = ports[2] if act in (act_lines, act_job) else rng.choice(ports[:2])
        if act is act_half_close:
            port = ports[0]
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(act(rng, port), 60)
        done += 1
    return done


async def drive(ports: list[int], seconds: float, seed: int) -> list[dict[str, int]]:
    samples: list[dict[str, int]] = []
    total = 0
    for n in range(SAMPLES):
        end = time.monotonic() + seconds / SAMPLES
        workers = [work(random.Random(f"{seed}.{n}.{w}"), ports, end) for w in range(WORKERS)]
        total += sum(await asyncio.gather(*workers))
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[2])
        writer.write(b"count\n")
        samples.append(json.loads(await asyncio.wait_for(reader.readline(), 2 * QUIET_S)))
        writer.close()
        row = "  ".join(f"{key} {value}" for key, value in samples[-1].items())
        print(f"{n + 1:2}/{SAMPLES}  {total} connections  {row}", flush=True)
    return samples


def verdict(samples: list[dict[str, int]]) -> list[str]:
    """What grew beyond its limit."""
    quarter = len(samples) // 4
    grown = []
    for key, limit in LIMITS.items():
        before = statistics.median(s[key] for s in samples[quarter : 2 * quarter])
        after = statistics.median(s[key] for s in samples[-quarter:])
        print(f"{key:14} {before:10.0f} -> {after:10.0f}   limit +{limit}")
        if after - before > limit:
            grown.append(key)
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of load; default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the client's choices")
    parser.add_argument("--loop", default="taut", help="the server's: taut or asyncio")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        import taut

        (taut.run if args.loop == "taut" else asyncio.run)(serve())
        return 0
    command = [sys.executable, __file__, "--serve", "--loop", args.loop]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin and server.stdout
        try:
            loop, _, ports = server.stdout.readline().decode().partition(" ")
            print(f"server on {loop}, process {server.pid}; {args.seconds:g} s, seed {args.seed}")
            samples = asyncio.run(drive(json.loads(ports), args.seconds, args.seed))
            server.stdin.close()
            status = server.wait(timeout=QUIET_S)
        except BaseException:
            server.kill()
            raise
    grown = verdict(samples)
    if status:
        print(f"the server ended with status {status}")
    print("grew: " + ", ".join(grown) if grown else "nothing grew")
    return 1 if grown or status else 0


if __name__ == "__main__":
    sys.exit(main())
