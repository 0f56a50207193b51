"""What stalls a loop: run as `stall_cases.py LOOP CASE...` in a child by the stall tests.

In each case the line that stalls is the one marked with "# STALL" and its name. LOOP is asyncio,
uvloop or taut; foreign loops are attached to.
"""

from __future__ import annotations

import asyncio
import http.server
import itertools
import json
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

LAST_S = 0.25  # how long a stall lasts where that can be chosen
BIG_JSON = "[" + "1.5," * 1_000_000 + "1]"
NUMBERS = [random.random() for _ in range(500_000)]


async def json_loads() -> None:
    json.loads(BIG_JSON)  # STALL json_loads


async def regex() -> None:
    re.match(r"(a+)+$", "a" * 23 + "b")  # STALL regex


async def power() -> None:
    10 ** int("1000000")  # STALL power


async def sort() -> None:
    sorted(NUMBERS)  # STALL sort


async def sleep() -> None:
    time.sleep(LAST_S)  # blocks: the case  # STALL sleep


async def recv() -> None:
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(LAST_S)
        try:
            a.recv(1)  # STALL recv
        except TimeoutError:
            pass


async def child() -> None:
    subprocess.run(["/bin/sleep", str(LAST_S)])  # STALL child


class _Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(LAST_S)  # blocks: the server is slow
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


async def http_get() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Slow)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    await asyncio.sleep(0)
    urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").close()  # STALL http_get
    await asyncio.to_thread(server.shutdown)
    thread.join()
    server.server_close()


async def sqlite() -> None:
    with tempfile.NamedTemporaryFile() as file:
        one = sqlite3.connect(file.name, isolation_level=None)
        two = sqlite3.connect(file.name, isolation_level=None, timeout=LAST_S)
        one.execute("BEGIN EXCLUSIVE")
        try:
            two.execute("BEGIN EXCLUSIVE")  # STALL sqlite
        except sqlite3.OperationalError:
            pass
        one.close()
        two.close()


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    any(time.monotonic() > end for _ in itertools.repeat(None))  # STALL busy


async def busy() -> None:
    _spin(LAST_S)


class _Victim:
    def __init__(self) -> None:
        time.sleep(LAST_S)  # blocks: the case  # STALL init


async def init() -> None:
    for _ in range(20):  # long enough that the call is specialised
        type("Quick", (_Victim,), {"__init__": lambda self: None})()
    _Victim()


def _callback() -> None:
    time.sleep(LAST_S)  # blocks: the case  # STALL callback


async def callback() -> None:
    asyncio.get_running_loop().call_soon(_callback)
    await asyncio.sleep(0.01)


async def generator() -> None:
    def numbers() -> Any:
        yield 1
        time.sleep(LAST_S)  # blocks: the case  # STALL generator
        yield 2

    list(numbers())


async def deep() -> None:
    def down(n: int) -> None:
        if n:
            down(n - 1)
        else:
            time.sleep(LAST_S)  # blocks: the case  # STALL deep

    down(300)


async def after_idleness() -> None:
    await asyncio.sleep(1.3)  # the watchdog parks after one second
    time.sleep(LAST_S)  # blocks: the case  # STALL after_idleness


class _Protocol(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        time.sleep(LAST_S)  # blocks: the case  # STALL data_received


async def data_received() -> None:
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    transport, _ = await loop.create_connection(_Protocol, sock=a)
    await asyncio.sleep(1.3)  # parked as well
    b.send(b"x")
    await asyncio.sleep(0.01)
    transport.close()
    b.close()
    await asyncio.sleep(0)


def _worker(loop: asyncio.AbstractEventLoop) -> None:
    async def stalls() -> None:
        from taut import doctor

        if not type(loop).__module__.startswith("taut"):
            doctor.attach()
        await asyncio.sleep(0.01)
        time.sleep(LAST_S)  # blocks: the case  # STALL other_thread

    loop.run_until_complete(stalls())
    loop.close()


async def other_thread() -> None:
    new_loop = type(asyncio.get_running_loop())
    await asyncio.to_thread(_worker, new_loop())


CASES: dict[str, Callable[[], Any]] = {
    f.__name__: f
    for f in (
        json_loads,
        regex,
        power,
        sort,
        sleep,
        recv,
        child,
        http_get,
        sqlite,
        busy,
        init,
        callback,
        generator,
        deep,
        after_idleness,
        data_received,
        other_thread,
    )
}


def run(kind: str, main: Any) -> None:
    """asyncio.run(main) on a loop of that kind, with a watchdog at 40 ms."""
    from taut import doctor

    async def watched() -> None:
        if kind != "taut":
            doctor.attach(threshold=0.04)
            await asyncio.sleep(0.01)  # uvloop is watched from its next wait on
        else:
            asyncio.get_running_loop().stall_threshold = 0.04  # type: ignore[attr-defined]
        await main

    if kind == "taut":
        import taut

        taut.run(watched())
    else:
        if kind == "uvloop":
            import uvloop

            uvloop.install()
        asyncio.run(watched())


async def several(names: list[str]) -> None:
    for name in names:
        await CASES[name]()
        await asyncio.sleep(0.03)  # the end of the stall is reported by the next sample


if __name__ == "__main__":
    run(sys.argv[1], several(sys.argv[2:] or list(CASES)))
