"""`make demo`: the shop of examples/shop under uvicorn on asyncio, uvloop and taut in turn, driven
by the same load, and then the stall report that names a blocking line while the request hangs.

Ends by itself after about a minute. The exit status is 0 unless something failed to run: it says
nothing about who is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench" / "py"))

from host import (  # noqa: E402
    CLIENT_CPU,
    SERVER_CPU,
    Child,
    Failure,
    build_peers,
    describe,
    end_on_sigterm,
    run_json,
)

LOOPS = {"asyncio": "asyncio", "uvloop": "uvloop", "taut": "taut:new_event_loop"}
#: A shared object that proves which loop a server really runs.
PROOF = {"uvloop": "/uvloop/loop.", "taut": "/taut/_core."}
NEEDS = ("uvicorn", "httptools", "fastapi", "aiosqlite", "uvloop")

ORDER = '{"customer": "Ada", "lines": [{"product_id": 3, "quantity": 1}]}'
MIX = (
    "GET /products?limit=10",
    "GET /products/3",
    "GET /orders/1",
    "GET /products/7",
    f"POST /orders {ORDER}",
    "GET /products/12",
    "GET /orders/1",
    "GET /health",
)
STALL_PATH = "/reports/daily"
BLOCKING_FILE = ROOT / "examples" / "shop" / "legacy.py"


def say(text: str = "") -> None:
    print(text, flush=True)


def port_of(server: Child) -> int:
    return int(server.ready.group(1))


def start_shop(name: str, folder: Path, stack: contextlib.ExitStack) -> Child:
    """The shop on one loop, on a free port, with its own database."""
    server = stack.enter_context(
        Child(
            [
                *(sys.executable, "-m", "uvicorn", "examples.shop.app:app"),
                *("--loop", LOOPS[name], "--http", "httptools", "--host", "127.0.0.1"),
                *("--port", "0", "--no-access-log", "--ws", "none"),
            ],
            ready=r"Uvicorn running on http://127\.0\.0\.1:(\d+)",
            env={"SHOP_SQLITE": str(folder / f"{name}.sqlite3"), "DATABASE_URL": ""},
        )
    )
    for other, proof in PROOF.items():
        if server.loaded(proof) != (other == name):
            raise Failure(f"the server for {name} does not run on {name}")
    status, _ = call(port_of(server), "POST", "/orders", ORDER)
    if status != 201:
        raise Failure(f"the shop on {name} answered {status} to its first order")
    return server


def call(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def drive(peers: Path, server: Child, connections: int, seconds: float) -> dict[str, Any]:
    command = [str(peers / "loadgen"), "http", "--port", str(port_of(server))]
    command += ["--connections", str(connections), "--pid", str(server.pid)]
    command += ["--seconds", str(seconds), "--warmup", "0.3"]
    for request in MIX:
        command += ["--request", request]
    result = run_json(command, cpu=CLIENT_CPU, timeout_s=seconds + 60)
    if result["errors"] or result["bad_status"]:
        raise Failure(f"the load met errors: {json.dumps(result)}\n{server.output(20)}")
    return result


def measure(
    peers: Path, servers: dict[str, Child], rounds: int, connections: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """Interleaved, and each round begins with another loop."""
    names = list(servers)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name in names:
        drive(peers, servers[name], connections, 0.5)
    for number in range(rounds):
        shown = []
        for name in names[number % len(names) :] + names[: number % len(names)]:
            result = drive(peers, servers[name], connections, seconds)
            results[name].append(result)
            shown.append(f"{name} {result['rps']:.0f}/s")
        say(f"  round {number + 1} of {rounds}: {', '.join(shown)}")
    return results


def print_table(results: dict[str, list[dict[str, Any]]]) -> None:
    say()
    say(f"  {'loop':8} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'CPU us/request':>15}"
        f" {'req/s to uvloop':>16}")  # fmt: skip
    for name, rows in results.items():
        rps, p50, p99, cpu = (
            statistics.median(row[key] for row in rows)
            for key in ("rps", "p50_us", "p99_us", "cpu_us")
        )
        ratio = "-"
        if "uvloop" in results:
            pairs = zip(rows, results["uvloop"], strict=True)
            ratio = f"{statistics.median(a['rps'] / b['rps'] for a, b in pairs):.2f}x"
        say(f"  {name:8} {rps:11.0f} {p50 / 1000:8.2f} {p99 / 1000:8.2f} {cpu:15.1f} {ratio:>16}")
    say("  Medians of the rounds; CPU is the server's, all threads; SQLite has its share of it.")


def run_wrk(servers: dict[str, Child], connections: int) -> None:
    wrk = shutil.which("wrk")
    if wrk is None:
        say("\nwrk is not installed: left out.")
        return
    for name, server in servers.items():
        url = f"http://127.0.0.1:{port_of(server)}/products/3"
        done = subprocess.run(
            [wrk, "-t1", f"-c{connections}", "-d2s", "--latency", url],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failure(f"wrk: {done.stderr}")
        rate = [line for line in done.stdout.splitlines() if "Requests/sec" in line]
        say(f"  wrk on {name}: {rate[0].split()[-1]} requests/s")


def blocking_line() -> int:
    lines = BLOCKING_FILE.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if "time.sleep(" in line)


class Folded:
    """Shortens a stack to its last frames, where the service itself is; the rest is counted."""

    SHOWN = 4

    def __init__(self) -> None:
        self._frames: list[str] = []

    def lines(self, text: str) -> list[str]:
        """What to print now that this line has come."""
        if text.lstrip().startswith('File "'):
            self._frames.append(text.replace(f"{ROOT}/", ""))
            return []
        return [*self.flush(), text.replace(f"{ROOT}/", "")]

    def flush(self) -> list[str]:
        hidden = len(self._frames) - self.SHOWN
        shown = self._frames[-self.SHOWN :]
        self._frames = []
        if hidden > 0:
            shown.insert(
                0, f"    ({hidden} frames of uvicorn, fastapi and starlette not shown here)"
            )
        return shown


def show_stall(server: Child) -> None:
    """Call the endpoint that blocks and print what the server says meanwhile, with the times."""
    line = blocking_line()
    say(f"\nNow GET {STALL_PATH} on taut. It calls old code that blocks; who finds out, and when?")
    answer: list[tuple[float, int]] = []

    def request() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = call(port_of(server), "GET", STALL_PATH)
            answer.append((time.monotonic(), status))

    at = len(server.lines)
    client = threading.Thread(target=request, daemon=True)
    begin = time.monotonic()
    say("  +0.000 s  request sent")
    client.start()
    named_s = None
    quiet_after = None
    folded = Folded()
    while quiet_after is None or time.monotonic() < quiet_after:
        if server.wait_line(at, 0.02):
            when, text = server.lines[at]
            at += 1
            for shown in folded.lines(text):
                say(f"  {when - begin:+.3f} s  | {shown}")
            if named_s is None and f"{BLOCKING_FILE.name}" in text and str(line) in text:
                named_s = when - begin
        else:
            for shown in folded.flush():
                say(f"            | {shown}")
        if quiet_after is None and not client.is_alive():
            if not answer:
                raise Failure(f"no answer from {STALL_PATH}:\n{server.output(20)}")
            say(f"  {answer[0][0] - begin:+.3f} s  response: HTTP {answer[0][1]}")
            quiet_after = time.monotonic() + 0.5
    if named_s is None or named_s >= answer[0][0] - begin:
        raise Failure(f"no report named {BLOCKING_FILE.name}, line {line}, during the stall")
    where = BLOCKING_FILE.relative_to(ROOT)
    say(
        f"\n  {where}:{line} was named {named_s:.3f} s after the request was sent,"
        f" {answer[0][0] - begin - named_s:.3f} s before it was answered."
    )


def check_requirements(names: list[str]) -> None:
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(f"missing: {', '.join(missing)}; pip install -r tools/requirements-demo.txt")
    if "taut" in names and importlib.util.find_spec("taut") is None:
        raise Failure("taut is not installed in this environment: pip install .")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", default=",".join(LOOPS), help="of %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="per run; default %(default)s")
    parser.add_argument("--connections", type=int, default=32, help="default %(default)s")
    parser.add_argument("--wrk", action="store_true", help="also drive with wrk, if it is there")
    options = parser.parse_args()
    options.loops = options.loops.split(",")
    unknown = [name for name in options.loops if name not in LOOPS]
    if unknown or options.rounds < 1 or options.seconds <= 0 or options.connections < 1:
        parser.error(f"unknown loop {unknown[0]}" if unknown else "numbers must be positive")
    return options


def demo(options: argparse.Namespace) -> None:
    check_requirements(options.loops)
    say("Building the load generator ...")
    peers = build_peers()
    machine = describe()
    say(f"Python {machine['python']}, {machine['cpu']}, {machine['cpus']} CPUs; server on CPU"
        f" {SERVER_CPU}, load on CPU {CLIENT_CPU}.")  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taut-demo-")))
        servers: dict[str, Child] = {}
        for name in options.loops:
            say(f"Starting the shop on {name} ...")
            servers[name] = start_shop(name, folder, stack)
        say(f"Driving {options.connections} connections, {options.seconds:g} s each, interleaved:")
        results = measure(peers, servers, options.rounds, options.connections, options.seconds)
        print_table(results)
        if options.wrk:
            run_wrk(servers, options.connections)
        if "taut" in servers:
            show_stall(servers["taut"])


def main() -> int:
    options = parse_arguments()
    end_on_sigterm()
    begin = time.monotonic()
    try:
        demo(options)
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    say(f"\nDone in {time.monotonic() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
