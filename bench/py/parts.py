"""The parts of the benchmark. Each runs its variants interleaved (A B C, B C A, ...) and returns a
Result; figures of one round are compared with figures of the same round only."""

from __future__ import annotations

import contextlib
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import micro
from host import CLIENT_CPU, SERVER_CPU, Child, Failure, run_json
from loops import REFERENCE, over_tls
from report import Result, table
from stats import geometric_ratio, ratio

HERE = Path(__file__).resolve().parent
YARDSTICK = "C epoll"
#: The bare servers of UDP, and their options.
UDP_YARDSTICKS = {YARDSTICK: [], "C blocking": ["--blocking"]}
READY = r"^ready (\d+)"
#: What the names of the servers over TLS begin with.
TLS = "tls_"
#: One seed for every process: the order of sets and dicts is no source of noise.
FIXED = {"PYTHONHASHSEED": "0"}


class Plan(NamedTuple):
    """What to run, and how long."""

    loops: list[str]
    peers: Path
    rounds: int
    pairs: int
    seconds: float
    workloads: list[str]
    certificate: tuple[Path, ...] = ()  # of the TLS servers: the PEM files of it and of its key
    key_kind: str = "ec"
    tls_idle: int = 2000


def rotated(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name), each round beginning with another name."""
    for number in range(rounds):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            yield number, name


def progress(text: str) -> None:
    print(f"  {text}", flush=True)


def server_command(kind: str, loop: str, plan: Plan) -> list[str]:
    over = [str(path) for path in plan.certificate] if kind.startswith(TLS) else []
    if kind == "udp" and loop in UDP_YARDSTICKS:
        return [str(plan.peers / "udp_echo"), *UDP_YARDSTICKS[loop]]
    if loop != YARDSTICK:
        return [sys.executable, str(HERE / "servers.py"), kind, loop, *over]
    if over:
        return [str(plan.peers / "tls_epoll"), kind.removeprefix(TLS), *over]
    return [str(plan.peers / "echo_epoll")]


def drive(
    peers: Path, server: Child, mode: str, *options: str, seconds: float, connections: int
) -> dict[str, Any]:
    command = [str(peers / "loadgen"), mode, "--port", server.ready.group(1)]
    command += ["--pid", str(server.pid), "--connections", str(connections)]
    command += ["--seconds", str(seconds), "--warmup", "0.15", *options]
    result = run_json(command, cpu=CLIENT_CPU, timeout_s=seconds + 60)
    if result["errors"] or result["bad_status"]:
        raise Failure(f"errors under load from {server.name}: {result}\n{server.output(10)}")
    return result


def run_micro(plan: Plan) -> Result:
    result = Result("micro", "Microbenchmarks: CPU ns per operation")
    samples: dict[str, dict[str, list[float]]] = {}
    for work in plan.workloads:
        row: dict[str, list[float]] = {name: [] for name in plan.loops}
        for _, name in rotated(plan.loops, plan.rounds):
            command = [sys.executable, str(HERE / "micro.py"), name, work]
            row[name].append(run_json(command, cpu=SERVER_CPU, timeout_s=120, env=FIXED)["ns"])
        samples[work] = row
        shown = ", ".join(f"{name} {statistics.median(row[name]):.0f}" for name in plan.loops)
        progress(f"{work}: {shown} ns")
    result.data = {"unit": "ns per operation", "samples": samples}
    others = [name for name in plan.loops if name != REFERENCE]
    if REFERENCE in plan.loops:
        head = ["workload", *(f"{name} ns" for name in plan.loops)]
        head += [f"{REFERENCE} / {name}" for name in others]
        rows = []
        for work, row in samples.items():
            times = [f"{statistics.median(row[name]):.0f}" for name in plan.loops]
            rows.append([work, *times, *(str(ratio(row[REFERENCE], row[o])) for o in others)])
        result.add(table(head, rows))
        fast = [work for work in samples if work not in micro.OUTSIDE_MEAN]
        for name in others if fast else []:
            mean = geometric_ratio([(samples[w][REFERENCE], samples[w][name]) for w in fast])
            result.data[f"geometric_mean_{REFERENCE}_over_{name}"] = mean
            without = ", ".join(sorted(micro.OUTSIDE_MEAN))
            result.add(
                f"{name}: {mean} times as fast as {REFERENCE}"
                f" (geometric mean of {len(fast)} workloads, without {without})."
            )
    return result


class Cell(NamedTuple):
    """One kind of server under one load."""

    kind: str
    connections: int
    size: int  # bytes of a message; 0: an HTTP request

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
        return (mode, ["--size", str(self.size), *over]) if self.size else ("http", over)


def measure_cell(plan: Plan, cell: Cell, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    mode, options = cell.load()
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                Child(server_command(cell.kind, name, plan), ready=READY, env=FIXED)
            )
            for name in names
        }
        # A first run is thrown away: allocators and specialising bytecode settle during it.
        for number, name in rotated(names, plan.rounds + 1):
            seconds, connections = plan.seconds, cell.connections
            got = drive(
                plan.peers, servers[name], mode, *options, seconds=seconds, connections=connections
            )
            if number > 0:
                rows[name].append(got)
    shown = ", ".join(
        f"{name} {statistics.median(r['cpu_us'] for r in rows[name]):.2f}" for name in names
    )
    progress(f"{cell.title}: CPU us {shown}")
    return rows


def add_cell(result: Result, cell: Cell, rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """A table of one cell: medians, and CPU per request as ratios to the others' of the round."""
    references = [name for name in (YARDSTICK, REFERENCE) if name in rows]
    head = ["server", f"{cell.unit}s/s", "p50 us", "p99 us", f"CPU us/{cell.unit}"]
    head += [f"CPU to {name}" for name in references] + [f"{cell.unit}s/s to {REFERENCE}"]
    lines = []
    for name, runs in rows.items():
        line = [name]
        for key, form in (("rps", ".0f"), ("p50_us", ".0f"), ("p99_us", ".0f"), ("cpu_us", ".2f")):
            line.append(format(statistics.median(run[key] for run in runs), form))
        for reference in references:
            line.append(compare(rows, name, reference, "cpu_us"))
        line.append(compare(rows, name, REFERENCE, "rps"))
        lines.append(line)
    result.add(f"## {cell.title}\n\n" + table(head, lines))


def compare(rows: Mapping[str, list[dict[str, Any]]], name: str, reference: str, key: str) -> str:
    if name == reference or reference not in rows:
        return "-"
    return str(ratio([run[key] for run in rows[name]], [run[key] for run in rows[reference]]))


def run_cells(plan: Plan, result: Result, cells: Sequence[Cell]) -> Result:
    result.data["cells"] = []
    for cell in cells:
        tls = cell.kind.startswith(TLS)
        names = over_tls(plan.loops) if tls else list(plan.loops)
        if cell.kind == "udp":
            names = [*UDP_YARDSTICKS, *names]
        elif tls or cell.kind == "protocol":
            names.insert(0, YARDSTICK)
        if cell.size == 0:
            names = [name for name in names if name != "rloop"]
        rows = measure_cell(plan, cell, names)
        result.data["cells"].append(cell._asdict() | {"runs": rows})
        add_cell(result, cell, rows)
    return result


def run_echo(plan: Plan) -> Result:
    result = Result("echo", "TCP echo: server CPU per round trip")
    protocol = [
        Cell("protocol", connections, size)
        for size in (64, 1024, 102400)
        for connections in (10, 1000)
    ]
    others = [Cell("streams", 10, 64), Cell("streams", 10, 1024), Cell("streams", 1000, 1024)]
    return run_cells(
        plan, result, [*protocol, *others, Cell("sock", 10, 64), Cell("sock", 10, 1024)]
    )


def run_udp(plan: Plan) -> Result:
    """One datagram of each socket in flight."""
    result = Result("udp", "UDP echo: server CPU per round trip")
    return run_cells(
        plan, result, [Cell("udp", count, size) for size in (64, 1200) for count in (1, 10, 64)]
    )


def run_http(plan: Plan) -> Result:
    result = Result("http", "HTTP servers: keep-alive GET of 13 bytes")
    return run_cells(plan, result, [Cell("uvicorn", 32, 0), Cell("aiohttp", 32, 0)])


def run_idle(plan: Plan) -> Result:
    """Memory of 10,000 connections that each echoed once and then do nothing."""
    result = Result("idle", "10,000 idle connections: resident memory of each")
    return measure_idle(plan, result, "protocol", plan.loops, 10_000)


def measure_idle(
    plan: Plan, result: Result, kind: str, loops: Sequence[str], connections: int
) -> Result:
    names = [YARDSTICK, *loops]
    rows: dict[str, list[float]] = {name: [] for name in names}
    for _, name in rotated(names, 3):
        with Child(server_command(kind, name, plan), ready=READY, env=FIXED) as server:
            command = [str(plan.peers / "loadgen"), "idle", "--port", server.ready.group(1)]
            command += ["--pid", str(server.pid), "--connections", str(connections)]
            command += ["--tls"] if kind.startswith(TLS) else []
            got = run_json(command, cpu=CLIENT_CPU, timeout_s=120)
        rows[name].append(got["bytes_per_connection"])
    result.data = {"unit": "bytes per connection", "samples": rows}
    lines = [[name, f"{statistics.median(values):.0f}"] for name, values in rows.items()]
    result.add(table(["server", "bytes per connection"], lines))
    return result


#: The watchdog's two settings, as the environment of a server.
WATCHDOG: dict[str, dict[str, str]] = {"on": {}, "off": {"TAUT_STALL": "off"}}


def run_watchdog(plan: Plan) -> Result:
    """CPU per request with the watchdog on (as shipped) and off, a fresh server for each run."""
    result = Result("watchdog", "Watchdog on against off: server CPU per request")
    lines = []
    for cell in (Cell("protocol", 10, 64), Cell("uvicorn", 32, 0)):
        runs: dict[str, list[float]] = {name: [] for name in WATCHDOG}
        mode = "echo" if cell.size else "http"
        for number, name in rotated(list(WATCHDOG), plan.pairs):
            command = server_command(cell.kind, "taut", plan)
            with Child(command, ready=READY, env=FIXED | WATCHDOG[name]) as server:
                seconds, connections = plan.seconds, cell.connections
                got = drive(plan.peers, server, mode, seconds=seconds, connections=connections)
            runs[name].append(got["cpu_us"])
            if number % 10 == 9 and len(runs["on"]) == len(runs["off"]):
                progress(f"{cell.title}: {number + 1} pairs, {ratio(runs['on'], runs['off'])}")
        result.data[cell.title] = runs
        medians = [f"{statistics.median(runs[name]):.3f}" for name in WATCHDOG]
        lines.append([cell.title, *medians, str(ratio(runs["on"], runs["off"]))])
    head = ["load", "CPU us on", "CPU us off", f"on / off ({plan.pairs} pairs)"]
    result.add(table(head, lines))
    return result


def count_instructions(plan: Plan, env: Mapping[str, str], requests: int, folder: Path) -> int:
    """User-space instructions of an echo server over its whole life, all threads."""
    out = folder / "callgrind.out"
    out.unlink(missing_ok=True)
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    command += server_command("protocol", "taut", plan)
    with Child(command, ready=READY, env={**FIXED, **env}, timeout_s=120) as server:
        load = [str(plan.peers / "loadgen"), "echo", "--port", server.ready.group(1)]
        load += ["--requests", str(requests), "--warmup", "0", "--connections", "10"]
        run_json(load, cpu=CLIENT_CPU, timeout_s=300)
        server.stop()
    found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    if found is None:
        raise Failure(f"callgrind wrote no total:\n{server.output(10)}")
    return int(found.group(1))


def run_instructions(plan: Plan) -> Result:
    """Instructions per request out of the difference of a long and a short run.

    Under valgrind everything runs tens of times slower while the watchdog wakes up as often as
    ever, so its share is overstated: the true one is smaller."""
    result = Result("instructions", "Watchdog on against off: user-space instructions per request")
    short, long = 2_000, 22_000
    per_request: dict[str, list[float]] = {name: [] for name in WATCHDOG}
    with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
        for _, name in rotated(list(WATCHDOG), 3):
            a, b = (
                count_instructions(plan, WATCHDOG[name], requests, Path(folder))
                for requests in (short, long)
            )
            per_request[name].append((b - a) / (long - short))
            progress(f"watchdog {name}: {per_request[name][-1]:.1f} instructions per echo")
    result.data = {"unit": "instructions per 64 B echo", "samples": per_request}
    on, off = (statistics.median(per_request[name]) for name in WATCHDOG)
    added = (on / off - 1) * 100
    result.add(
        f"On {on:.1f}, off {off:.1f} instructions for an echo of 64 B: {added:+.2f} % (counted"
        " by callgrind; it slows the server some tens of times but not the watchdog's"
        " clock, so this overstates the watchdog)."
    )
    return result


PARTS: dict[str, Callable[[Plan], Result]] = {
    "micro": run_micro,
    "echo": run_echo,
    "udp": run_udp,
    "http": run_http,
    "idle": run_idle,
    "watchdog": run_watchdog,
    "instructions": run_instructions,
}
