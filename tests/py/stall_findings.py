"""What the doctor finds of stalls: run as `stall_findings.py CASE...` in a child by the tests.

The line to blame is marked with "# BLAME", its case and the code of the finding. A case is played
until it was found, since a starved host may hide it; `healthy_*` is the same thing done well.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import ctypes
import gc
import http.client as http_client
import json
import logging
import logging.handlers
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import taut
from taut import doctor

LAST_S = 0.15
# Work of some 0.2 s on a fast machine; all of it must be the call that is to be named.
TEXT = "[" + "1.5," * 2_500_000 + "1]"
FLAT = [1.5] * 2_000_000  # nothing in it for the collector to visit
KEPT: list[dict[str, int]] = []


async def sleep() -> None:
    time.sleep(LAST_S)  # blocks: the case  # BLAME sleep blocking-call


async def healthy_sleep() -> None:
    await asyncio.sleep(LAST_S)


async def recv() -> None:
    a, b = socket.socketpair()
    with a, b, contextlib.suppress(TimeoutError):
        a.settimeout(LAST_S)
        a.recv(1)  # BLAME recv sync-driver


async def healthy_recv() -> None:
    a, b = socket.socketpair()
    with a, b, contextlib.suppress(TimeoutError):
        a.setblocking(False)
        async with asyncio.timeout(LAST_S):
            await asyncio.get_running_loop().sock_recv(a, 1)


async def child() -> None:
    subprocess.run(["/bin/sleep", str(LAST_S)])  # BLAME child sync-driver


async def healthy_child() -> None:
    process = await asyncio.create_subprocess_exec("/bin/sleep", str(LAST_S))
    await process.wait()


def _serve_late(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            conn, _ = server.accept()
            conn.recv(1000)
            time.sleep(LAST_S)  # blocks: a slow server
            conn.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")
            conn.close()


@contextlib.contextmanager
def _slow_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve_late, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


async def http() -> None:
    with _slow_server() as port:
        connection = http_client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        connection.getresponse().close()  # BLAME http sync-driver
        connection.close()


async def healthy_http() -> None:
    with _slow_server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()


async def lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=LAST_S)  # BLAME lock blocking-call


async def healthy_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(lock.acquire(), LAST_S)


async def take() -> None:
    with contextlib.suppress(queue.Empty):
        queue.Queue[int]().get(timeout=LAST_S)  # BLAME take blocking-call


async def fifo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fifo"
        os.mkfifo(path)

        def feed() -> None:
            with path.open("w") as file:
                time.sleep(LAST_S)  # blocks: a slow writer
                file.write("x")

        thread = threading.Thread(target=feed)
        thread.start()
        open(path).read()  # noqa: SIM115  # BLAME fifo blocking-call
        thread.join()


async def logs() -> None:
    r, w = os.pipe()
    logger = logging.Logger("full")
    with open(r, "rb", buffering=0) as reader, open(w, "w") as writer:
        logger.addHandler(logging.StreamHandler(writer))

        def drain() -> None:
            time.sleep(LAST_S)  # blocks: a slow reader
            while reader.read(1 << 16):
                pass

        thread = threading.Thread(target=drain)
        thread.start()
        logger.error("x" * 100_000)  # BLAME logs blocking-call
        writer.close()
        await asyncio.to_thread(thread.join)


async def healthy_logs() -> None:
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger = logging.Logger("queue")
    logger.addHandler(logging.handlers.QueueHandler(lines))  # type: ignore[arg-type]
    logger.error("x" * 100_000)
    await asyncio.sleep(LAST_S)


async def loads() -> None:
    json.loads(TEXT)  # BLAME loads cpu-bound-step


async def healthy_loads() -> None:
    for _ in range(100):
        json.loads(TEXT[:2000] + "1]")
        await asyncio.sleep(0)


async def regex() -> None:
    re.match(r"(a+)+$", "a" * 24 + "b")  # BLAME regex cpu-bound-step


async def deep() -> None:
    copy.deepcopy(FLAT)  # BLAME deep cpu-bound-step


def _spin(seconds: float) -> int:
    rounds, end = 0, time.thread_time() + seconds
    while time.thread_time() < end:
        rounds += sum(range(100))
    return rounds


async def spin() -> None:
    _spin(LAST_S)


def _found(code: str) -> bool:
    return bool(doctor.findings(code))


async def never() -> None:
    end = time.monotonic() + 30
    while not _found("never-yields") and time.monotonic() < end:  # BLAME never never-yields
        _spin(0.01)  # BLAME never never-yields


class _Enough(Exception):
    pass


def _end_when_found(thread: int) -> None:
    deadline = time.monotonic() + 30
    while not _found("never-yields") and time.monotonic() < deadline:
        time.sleep(0.01)  # blocks: between two looks
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Enough))


async def tight() -> None:
    ender = threading.Thread(target=_end_when_found, args=(threading.get_ident(),))
    ender.start()
    with contextlib.suppress(_Enough):
        while True:  # BLAME tight never-yields
            pass  # BLAME tight never-yields
    ender.join()


async def healthy_never() -> None:
    for _ in range(200):
        _spin(0.001)
        await asyncio.sleep(0)


async def collect() -> None:
    for _ in range(6):  # one may be over before it counts as a stall
        gc.collect()  # BLAME collect gc-pause


async def gil() -> None:
    def hold() -> None:
        10 ** int("400000")  # BLAME gil gil-held

    await _tick_while(asyncio.to_thread(hold))


async def healthy_gil() -> None:
    await _tick_while(asyncio.to_thread(time.sleep, LAST_S))


async def _tick_while(work: Coroutine[Any, Any, object]) -> None:
    """A loop with nothing to do would not miss the lock."""
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.sleep(0.001)


def _handler(number: int, frame: object) -> None:
    time.sleep(LAST_S)  # blocks: the case  # BLAME handler slow-signal-handler


async def handler() -> None:
    old = signal.signal(signal.SIGUSR1, _handler)
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, old)


def _callback() -> None:
    time.sleep(LAST_S)  # blocks: the case  # BLAME callback slow-signal-handler


async def callback() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, _callback)
    signal.raise_signal(signal.SIGUSR1)
    await asyncio.sleep(0.01)
    loop.remove_signal_handler(signal.SIGUSR1)


async def healthy_handler() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, stop.set)
    signal.raise_signal(signal.SIGUSR1)
    await stop.wait()
    loop.remove_signal_handler(signal.SIGUSR1)
    await asyncio.sleep(LAST_S)


def blames(case: str) -> collections.defaultdict[str, set[int]]:
    """The lines to blame for a case, by code."""
    found: collections.defaultdict[str, set[int]] = collections.defaultdict(set)
    for number, line in enumerate(Path(__file__).read_text().splitlines(), 1):
        for code in re.findall(rf"# BLAME {case} ([\w-]+)$", line):
            found[code].add(number)
    return found


def rows() -> list[dict[str, Any]]:
    """What was found so far, but for the host's own share."""
    return [vars(f) for f in doctor.findings() if f.code != "host-starved"]


def was_found(name: str) -> bool:
    wanted = blames(name)
    return any(f["line"] in wanted[f["code"]] and f["state"] == "over" for f in rows())


async def play(name: str) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        await globals()[name]()
        await asyncio.sleep(0.25)  # the end of a stall is seen by the next sample
        if name.startswith("healthy_") or was_found(name):
            break


async def main(names: list[str]) -> None:
    asyncio.get_running_loop().stall_threshold = 0.04  # type: ignore[attr-defined]
    for name in names:
        if name in ("never", "tight"):
            asyncio.get_running_loop().stall_threshold = 0.63  # type: ignore[attr-defined]
        if name == "collect":
            gc.disable()
            for _ in range(1500):
                KEPT.extend({} for _ in range(1000))
                await asyncio.sleep(0)
        await play(name)
    print(json.dumps(rows()))


if __name__ == "__main__":
    taut.run(main(sys.argv[1:]))
