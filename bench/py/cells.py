"""Servers under load: one kind of server, driven over loopback by the load generator in C, on each
of the loops and bare in C."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from host import CLIENT_CPU, Child, Failure, run_json
from loops import REFERENCE, over_tls, without_tasks
from plan import (
    HERE,
    READY,
    YARDSTICK,
    Part,
    Plan,
    Runs,
    interleave,
    left_out,
    progress,
)
from report import Result, table
from stats import ratio

#: The bare servers of UDP, and their options.
UDP_YARDSTICKS = {YARDSTICK: [], "C blocking": ["--blocking"]}
#: What the names of the servers over TLS begin with.
TLS = "tls_"
#: Kinds that are compared with a bare server in C.
BARE = ("protocol", "streams", "sock")
#: Kinds in which tasks run, so that whose they are matters.
WITH_TASKS = ("streams", "sock", "uvicorn", "fastapi", "aiohttp", "websockets")
#: Kinds that speak HTTP, and what is asked for.
HTTP_KINDS = {"uvicorn": "GET /", "fastapi": "GET /items/7?q=loop", "aiohttp": "GET /"}


def server_command(kind: str, name: str, plan: Plan) -> list[str]:
    loop = plan.loop_of(name)
    over = [str(path) for path in plan.certificate] if kind.startswith(TLS) else []
    if kind == "udp" and loop in UDP_YARDSTICKS:
        return [str(plan.peers / "udp_echo"), *UDP_YARDSTICKS[loop]]
    if loop != YARDSTICK:
        return [sys.executable, str(HERE / "servers.py"), kind, loop, *over]
    if over:
        return [str(plan.peers / "tls_epoll"), kind.removeprefix(TLS), *over]
    return [str(plan.peers / "echo_epoll")]


def start(kind: str, name: str, plan: Plan, env: Mapping[str, str] | None = None) -> Child:
    both = plan.env_of(name) | dict(env or {})
    return Child(server_command(kind, name, plan), ready=READY, env=both)


def drive(
    plan: Plan, server: Child, mode: str, *options: str, connections: int
) -> dict[str, Any]:
    command = [str(plan.peers / "loadgen"), mode, "--port", server.ready.group(1)]
    command += ["--pid", str(server.pid), "--connections", str(connections)]
    command += ["--seconds", str(plan.seconds), "--warmup", "0.15", *options]
    result = run_json(command, cpu=CLIENT_CPU, timeout_s=plan.seconds + 60)
    if result["errors"] or result["bad_status"]:
        raise Failure(f"errors under load from {server.name}: {result}\n{server.output(10)}")
    return result


class Cell(NamedTuple):
    """One kind of server under one load."""

    kind: str
    connections: int
    size: int  # bytes of a message; 0: an HTTP request

    @property
    def row(self) -> str:
        """Its name on the command line and in the results."""
        size = f"_{self.size}" if self.size else ""
        return f"{self.kind}{size}_x{self.connections}"

    @property
    def title(self) -> str:
        size = f"{self.size} B, " if self.size else ""
        many = "" if self.connections == 1 else "s"
        return f"{self.kind}, {size}{self.connections} connection{many}"

    @property
    def unit(self) -> str:
        """What is counted."""
        return "handshake" if self.kind == "tls_handshake" else "request"

    def load(self) -> tuple[str, list[str]]:
        """Mode and options of the load generator."""
        over = ["--tls"] if self.kind.startswith(TLS) else []
        if self.unit == "handshake":
            return "handshake", over
        mode = "udp" if self.kind == "udp" else "echo"
        if self.size:
            return mode, ["--size", str(self.size), *over]
        return "http", ["--request", HTTP_KINDS.get(self.kind, "GET /"), *over]

    def servers(self, plan: Plan) -> list[str]:
        """Who is compared, bare C servers first."""
        if plan.variants:
            return plan.loops
        tls = self.kind.startswith(TLS)
        names = over_tls(plan.loops) if tls else plan.loops
        if self.kind not in WITH_TASKS:
            names = without_tasks(names)
        if self.kind == "udp":
            return [*UDP_YARDSTICKS, *names]
        return [YARDSTICK, *names] if tls or self.kind in BARE else list(names)


def measure_cell(
    plan: Plan,
    result: Result,
    cell: Cell,
    load: Callable[[Child], dict[str, Any]] | None = None,
) -> Runs:
    """The runs of all that serve; `load` drives a server in another way."""
    mode, options = cell.load()

    def with_loadgen(server: Child) -> dict[str, Any]:
        return drive(plan, server, mode, *options, connections=cell.connections)

    drive_one = load or with_loadgen
    with contextlib.ExitStack() as stack:
        servers: dict[str, Child] = {}
        for name in cell.servers(plan):
            try:
                servers[name] = stack.enter_context(start(cell.kind, name, plan))
            except Failure as failure:
                left_out(result, cell.row, name, failure)
        # A first run is thrown away: allocators and specialising bytecode settle during it.
        runs = interleave(
            result,
            cell.row,
            list(servers),
            plan.rounds,
            lambda name, _: drive_one(servers[name]),
            discard=1,
        )
    shown = (f"{name} {statistics.median(r['cpu_us'] for r in runs[name]):.2f}" for name in runs)
    progress(f"{cell.row}: CPU us {', '.join(shown)}")
    return runs


def add_cell(result: Result, cell: Cell, runs: Runs, title: str = "") -> None:
    """A table of one cell: medians, and CPU per request as ratios to the others' of the round."""
    result.keep(cell.row, runs)
    for run in (run for each in runs.values() for run in each if "tls" in run):
        result.data.setdefault("negotiated", [])
        if run["tls"] not in result.data["negotiated"]:
            result.data["negotiated"].append(run["tls"])
    add_table(result, title or cell.title, runs, cell.unit)


def add_table(result: Result, title: str, runs: Runs, unit: str) -> None:
    references = [name for name in (YARDSTICK, REFERENCE) if name in runs]
    shown = [
        (key, head, form)
        for key, head, form in (
            ("rps", f"{unit}s/s", ".0f"),
            ("p50_us", "p50 us", ".0f"),
            ("p99_us", "p99 us", ".0f"),
            ("cpu_us", f"CPU us/{unit}", ".2f"),
        )
        if all(key in run for each in runs.values() for run in each)
    ]
    head = ["", *(head for _, head, _ in shown), *(f"CPU to {name}" for name in references)]
    head += [f"{unit}s/s to {REFERENCE}"] if REFERENCE in runs else []
    lines = []
    for name, each in runs.items():
        line = [name]
        for key, _, form in shown:
            line.append(format(statistics.median(run[key] for run in each), form))
        for reference in references:
            line.append(compare(runs, name, reference, "cpu_us"))
        if REFERENCE in runs:
            line.append(compare(runs, name, REFERENCE, "rps"))
        lines.append(line)
    result.add(f"## {title}\n\n" + table(head, lines))


def compare(runs: Runs, name: str, reference: str, key: str) -> str:
    if name == reference:
        return "-"
    return str(ratio([run[key] for run in runs[name]], [run[key] for run in runs[reference]]))


def run_cells(plan: Plan, result: Result, cells: Sequence[Cell]) -> Result:
    for cell in cells:
        if plan.wants(result.part, cell.row):
            add_cell(result, cell, measure_cell(plan, result, cell))
    return result


ECHO = (
    *(Cell("protocol", many, size) for size in (64, 1024, 102400) for many in (10, 1000)),
    *(Cell("streams", *load) for load in ((10, 64), (10, 1024), (1000, 1024))),
    *(Cell("sock", 10, size) for size in (64, 1024)),
)
UDP = tuple(Cell("udp", count, size) for size in (64, 1200) for count in (1, 10, 64))


def run_echo(plan: Plan) -> Result:
    return run_cells(plan, Result("echo", "TCP echo: server CPU per round trip"), ECHO)


def run_udp(plan: Plan) -> Result:
    """One datagram of each socket in flight."""
    return run_cells(plan, Result("udp", "UDP echo: server CPU per round trip"), UDP)


PARTS = {
    "echo": Part(run_echo, tuple(cell.row for cell in ECHO)),
    "udp": Part(run_udp, tuple(cell.row for cell in UDP)),
}
