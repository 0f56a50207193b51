"""Whole programs: servers and clients as people use them, with the libraries and servers that they
use. What counts is the CPU time of the process that runs the loop."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from cells import Cell, add_cell, add_table, measure_cell
from host import CLIENT_CPU, ROOT, SERVER_CPU, Child, run_json
from loops import REFERENCE, installed
from plan import FIXED, HERE, READY, Part, Plan, interleave, progress
from report import Result

sys.path.insert(0, str(ROOT / "tests" / "compat"))
import suite_servers  # noqa: E402

SERVERS = (
    Cell("uvicorn", 32, 0),
    Cell("fastapi", 32, 0),
    Cell("aiohttp", 32, 0),
    Cell("websockets", 32, 64),
)
#: Client programs -> the server that they ask, and what has to be installed.
CLIENTS = {
    "aiohttp_client": ("http", "aiohttp"),
    "asyncpg_query": ("postgresql", "asyncpg"),
    "redis_pipeline": ("redis", "redis"),
    "crawl": ("site", ""),
}
TITLES = {
    "uvicorn": "uvicorn with httptools: a bare ASGI application",
    "fastapi": "FastAPI on uvicorn with httptools: a JSON endpoint",
    "aiohttp": "aiohttp's server",
    "websockets": "websockets: echo of 64 B",
    "aiohttp_client": "aiohttp's client: GET, 16 connections",
    "asyncpg_query": "asyncpg: a prepared query of one row, 16 connections",
    "redis_pipeline": "redis-py: pipelines of ten commands, 16 connections",
    "crawl": "A crawler of 1,000 tasks over a local site, with streams and timeouts",
}
PACKAGES = {kind: (kind,) for kind in ("aiohttp", "websockets")} | {
    "uvicorn": ("uvicorn", "httptools"),
    "fastapi": ("fastapi", "uvicorn", "httptools"),
}


def missing(packages: tuple[str, ...]) -> str | None:
    absent = [name for name in packages if name and importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)}: not installed" if absent else None


@contextlib.contextmanager
def on_client_cpu() -> Iterator[None]:
    """What is started meanwhile stays on the CPU of what drives or answers the measured process."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def peer(kind: str, plan: Plan) -> Iterator[int]:
    """The port of the server that the measured clients ask; the same one for all of them."""
    if kind in suite_servers.KINDS:
        # PostgreSQL refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        with on_client_cpu():
            with suite_servers.start(kind, user) as port:
                yield port
        return
    # Not one of the measured processes, so it need not be among the loops.
    loop = REFERENCE if REFERENCE in installed() else "asyncio"
    command = [sys.executable, str(HERE / "servers.py"), kind, loop]
    with Child(command, ready=READY, cpu=CLIENT_CPU, env=FIXED) as server:
        yield int(server.ready.group(1))


def run_client(plan: Plan, result: Result, program: str) -> None:
    kind, _ = CLIENTS[program]

    try:
        with peer(kind, plan) as port:

            def once(name: str, _: int) -> dict[str, Any]:
                command = [sys.executable, str(HERE / "clients.py"), program]
                command.append(plan.loop_of(name))
                command += [str(port), str(plan.seconds)]
                return run_json(command, cpu=SERVER_CPU, timeout_s=60, env=plan.env_of(name))

            runs = interleave(result, program, plan.loops, plan.rounds, once)
    except suite_servers.Missing as absent:
        result.fail(program, "all", str(absent), essential=False)
        progress(f"{program} left out: {absent}")
        return
    shown = (f"{name} {statistics.median(r['cpu_us'] for r in runs[name]):.1f}" for name in runs)
    progress(f"{program}: CPU us {', '.join(shown)}")
    result.keep(program, runs)
    add_table(result, TITLES[program], runs, "operation")


def run_server(plan: Plan, result: Result, cell: Cell) -> None:
    def websockets(server: Child) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "wsload.py"), server.ready.group(1), str(server.pid)]
        command += [str(plan.seconds), str(cell.connections), str(cell.size)]
        return run_json(command, cpu=CLIENT_CPU, timeout_s=60)

    runs = measure_cell(plan, result, cell, websockets if cell.kind == "websockets" else None)
    add_cell(result, cell, runs, TITLES[cell.kind])


def run_apps(plan: Plan) -> Result:
    result = Result("apps", "Whole programs: CPU of the process that runs the loop")
    for cell in SERVERS:
        if not plan.wants("apps", cell.row):
            continue
        if why := missing(PACKAGES[cell.kind]):
            result.fail(cell.row, "all", why, essential=False)
        else:
            run_server(plan, result, cell)
    for program, (_, package) in CLIENTS.items():
        if not plan.wants("apps", program):
            continue
        if why := missing((package,)):
            result.fail(program, "all", why, essential=False)
        else:
            run_client(plan, result, program)
    return result


PARTS = {"apps": Part(run_apps, (*(cell.row for cell in SERVERS), *CLIENTS))}
