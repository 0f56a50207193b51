"""What the doctor adds to a server: in CPU time, and in instructions under callgrind."""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cells import Cell, drive, server_command, start
from host import CLIENT_CPU, Child, Failure, run_json
from loops import OURS
from plan import FIXED, READY, Part, Plan, progress, rotated
from report import Result, table
from stats import ratio

OFF = {
    "TAUT_STALL": "off",
    "TAUT_DOCTOR": "off",
    "TAUT_JOURNAL": "0",
    "TAUT_CONSOLE": "0",
    "TAUT_RECORDER": "0",
    "TAUT_ROUTES": "0",
}
#: The doctor as shipped, and all of it switched off, as the environment of a server.
WATCHDOG: dict[str, dict[str, str]] = {"on": {}, "off": OFF}
CELLS = (Cell("protocol", 10, 64), Cell("uvicorn", 32, 0), Cell("fastapi", 32, 0))


def run_watchdog(plan: Plan) -> Result:
    """CPU per request with the watchdog on (as shipped) and off, a fresh server for each run."""
    result = Result("watchdog", "The doctor on against off: server CPU per request")
    lines = []
    for cell in CELLS:
        row = f"watchdog_{cell.row}"
        if not plan.wants("watchdog", row):
            continue
        mode, options = cell.load()
        runs: dict[str, list[float]] = {name: [] for name in WATCHDOG}
        for number, name in rotated(list(WATCHDOG), plan.pairs):
            with start(cell.kind, OURS, plan, WATCHDOG[name]) as server:
                got = drive(plan, server, mode, *options, connections=cell.connections)
            runs[name].append(got["cpu_us"])
            if number % 10 == 9 and len(runs["on"]) == len(runs["off"]):
                progress(f"{cell.title}: {number + 1} pairs, {ratio(runs['on'], runs['off'])}")
        result.samples[row] = {"cpu_us": runs}
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
    command += server_command("protocol", OURS, plan)
    with Child(command, ready=READY, env={**FIXED, **env}, timeout_s=120) as server:
        load = [str(plan.peers / "loadgen"), "echo", "--port", server.ready.group(1)]
        load += ["--requests", str(requests), "--warmup", "0", "--connections", "10"]
        run_json(load, cpu=CLIENT_CPU, timeout_s=300)
        server.stop()
    found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    if found is None:
        raise Failure(f"callgrind wrote no total:\n{server.output(10)}")
    return int(found.group(1))


def run_added(plan: Plan) -> Result:
    """Instructions per request out of the difference of a long and a short run.

    Under valgrind everything runs tens of times slower while the watchdog wakes up as often as
    ever, so its share is overstated: the true one is smaller."""
    what = "The doctor on against off: user-space instructions per request"
    result = Result("watchdog_instructions", what)
    if shutil.which("valgrind") is None:
        result.add("Not counted: valgrind is not installed.")
        return result
    short, long = 2_000, 22_000
    per_request: dict[str, list[float]] = {name: [] for name in WATCHDOG}
    with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
        for _, name in rotated(list(WATCHDOG), min(plan.rounds, 3)):
            a, b = (
                count_instructions(plan, WATCHDOG[name], requests, Path(folder))
                for requests in (short, long)
            )
            per_request[name].append((b - a) / (long - short))
            progress(f"watchdog {name}: {per_request[name][-1]:.1f} instructions per echo")
    result.samples["watchdog_instructions"] = {"instructions": per_request}
    on, off = (statistics.median(per_request[name]) for name in WATCHDOG)
    added = (on / off - 1) * 100
    result.add(
        f"On {on:.1f}, off {off:.1f} instructions for an echo of 64 B: {added:+.2f} % (counted"
        " by callgrind; it slows the server some tens of times but not the watchdog's"
        " clock, so this overstates the watchdog)."
    )
    return result


PARTS = {
    "watchdog": Part(run_watchdog, tuple(f"watchdog_{cell.row}" for cell in CELLS)),
    "watchdog_instructions": Part(run_added, ("watchdog_instructions",)),
}
