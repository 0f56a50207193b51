"""The part of the benchmark that sends a file: by sendfile(2) beside a bare server in C, and over
TLS, where the file is read and encrypted. uvloop has no sendfile()."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host import CLIENT_CPU, Child, run_json
from loops import without_tasks
from plan import HERE, READY, YARDSTICK, Part, Plan, Runs, interleave, progress
from report import Result, table
from stats import ratio

SIZE = 100_000_000
WITHOUT = ("uvloop", "rloop", "rsloop")  # their sendfile() raises NotImplementedError
TITLES = {
    "sendfile": "loop.sendfile() over TCP",
    "sock_sendfile": "loop.sock_sendfile()",
    "tls_sendfile": "loop.sendfile() over TLS",
}


def command(kind: str, name: str, plan: Plan, file: Path) -> list[str]:
    if name == YARDSTICK:
        return [str(plan.peers / "file_epoll"), str(file)]
    over = [str(path) for path in plan.certificate] if kind.startswith("tls_") else []
    return [sys.executable, str(HERE / "servers.py"), kind, plan.loop_of(name), *over, str(file)]


def measure(plan: Plan, result: Result, kind: str, names: Sequence[str], file: Path) -> Runs:
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                Child(command(kind, name, plan, file), ready=READY, env=plan.env_of(name))
            )
            for name in names
        }

        def once(name: str, _: int) -> dict[str, Any]:
            server = servers[name]
            fetch = [sys.executable, str(HERE / "fetch.py"), server.ready.group(1)]
            fetch += [str(server.pid), str(SIZE), *(["--tls"] if kind.startswith("tls_") else [])]
            return run_json(fetch, cpu=CLIENT_CPU, timeout_s=60)

        # The first is thrown away, as elsewhere.
        runs = interleave(result, kind, names, plan.rounds, once, discard=1)
    result.keep(kind, runs)
    shown = ", ".join(f"{name} {rate(runs[name]):.0f}" for name in runs)
    progress(f"{TITLES[kind]}: MB/s {shown}")
    return runs


def rate(runs: Sequence[Any]) -> float:
    seconds: float = statistics.median(run["seconds"] for run in runs)
    return SIZE / 1e6 / seconds


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
    loops = [name for name in without_tasks(plan.loops) if name not in WITHOUT]
    kinds = list(TITLES) if plan.certificate else [k for k in TITLES if not k.startswith("tls_")]
    with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(bytes(range(250)) * (SIZE // 250))
        for kind in kinds:
            bare = [YARDSTICK] if not kind.startswith("tls_") and not plan.variants else []
            names = [*bare, *loops]
            if not names or not plan.wants("sendfile", kind):
                continue
            runs = measure(plan, result, kind, names, file)
            if runs:
                first = next(iter(runs))
                head = ["server", "MB/s", "server CPU ms", f"time to {first}", f"CPU to {first}"]
                result.add(f"## {TITLES[kind]}\n\n" + table(head, lines(runs, first)))
    return result


PARTS = {"sendfile": Part(run_sendfile, tuple(TITLES))}
