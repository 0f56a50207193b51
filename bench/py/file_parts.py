"""The part of the benchmark that sends a file: by sendfile(2) beside a bare server in C, and over
TLS, where the file is read and encrypted. uvloop has no sendfile()."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from host import CLIENT_CPU, Child, run_json
from parts import FIXED, HERE, READY, YARDSTICK, Plan, progress, rotated
from report import Result, table
from stats import ratio

SIZE = 100_000_000
WITHOUT = ("uvloop", "rloop")  # their sendfile() raises NotImplementedError
TITLES = {
    "sendfile": "loop.sendfile() over TCP",
    "sock_sendfile": "loop.sock_sendfile()",
    "tls_sendfile": "loop.sendfile() over TLS",
}


def command(kind: str, name: str, plan: Plan, file: Path) -> list[str]:
    if name == YARDSTICK:
        return [str(plan.peers / "file_epoll"), str(file)]
    over = [str(path) for path in plan.certificate] if kind.startswith("tls_") else []
    return [sys.executable, str(HERE / "servers.py"), kind, name, *over, str(file)]


def measure(plan: Plan, kind: str, names: Sequence[str], file: Path) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                Child(command(kind, name, plan, file), ready=READY, env=FIXED)
            )
            for name in names
        }
        for number, name in rotated(names, plan.rounds + 1):
            server = servers[name]
            fetch = [sys.executable, str(HERE / "fetch.py"), server.ready.group(1)]
            fetch += [str(server.pid), str(SIZE), *(["--tls"] if kind.startswith("tls_") else [])]
            got = run_json(fetch, cpu=CLIENT_CPU, timeout_s=60)
            if number > 0:  # the first is thrown away, as elsewhere
                rows[name].append(got)
    shown = ", ".join(f"{name} {rate(rows[name]):.0f}" for name in names)
    progress(f"{TITLES[kind]}: MB/s {shown}")
    return rows


def rate(runs: Sequence[Any]) -> float:
    return SIZE / 1e6 / statistics.median(run["seconds"] for run in runs)


def lines(rows: dict[str, list[Any]], reference: str) -> list[list[str]]:
    made = []
    for name, runs in rows.items():
        line = [name, f"{rate(runs):.0f}"]
        line.append(f"{statistics.median(run['cpu_seconds'] for run in runs) * 1000:.1f}")
        for key in ("seconds", "cpu_seconds"):
            ours, theirs = ([run[key] for run in rows[one]] for one in (name, reference))
            line.append("-" if name == reference else str(ratio(ours, theirs)))
        made.append(line)
    return made


def run_sendfile(plan: Plan) -> Result:
    result = Result("sendfile", f"A file of {SIZE // 10**6} MB to one client on loopback")
    loops = [name for name in plan.loops if name not in WITHOUT]
    kinds = list(TITLES) if plan.certificate else [k for k in TITLES if not k.startswith("tls_")]
    result.data["cells"] = {}
    with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(bytes(range(250)) * (SIZE // 250))
        for kind in kinds:
            bare = [YARDSTICK] if not kind.startswith("tls_") else []
            names = [*bare, *loops]
            rows = measure(plan, kind, names, file)
            result.data["cells"][kind] = rows
            head = ["server", "MB/s", "server CPU ms", f"time to {names[0]}", f"CPU to {names[0]}"]
            result.add(f"## {TITLES[kind]}\n\n" + table(head, lines(rows, names[0])))
    return result


PARTS: dict[str, Callable[[Plan], Result]] = {"sendfile": run_sendfile}
