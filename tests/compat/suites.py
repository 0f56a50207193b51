#!/usr/bin/env python3
"""Runs the test suites of other people's asyncio software on taut, beside asyncio's own result.

    python tests/compat/suites.py [SUITE ...] [--only TEST_ID ...]

suites.toml names each suite: a source distribution that carries its tests. It is downloaded with
pip, unpacked into build/suites, and run unchanged in an environment of its own, first on asyncio,
then on taut. A test that passes on asyncio and fails on taut is run once more by itself; passing
then counts as flaky, which is shown but is no failure; dying or hanging is never forgiven.

Exit status: 0 when all that passes on asyncio passes on taut, 1 otherwise, 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import suite_servers
import suite_setup
from process import Worker
from suite_setup import PYTHON, Suite

HERE = Path(__file__).resolve().parent
ASYNCIO = "asyncio:SelectorEventLoop"
BAD = ("fail", "crash", "hang")


@dataclass
class Result:
    """The outcome of one test: ok, skip, fail, crash or hang."""

    name: str
    outcome: str
    seconds: float
    loops: int  # of the loop under test
    others: int  # of asyncio's
    detail: str
    flaky: bool = False


@dataclass
class Run:
    """What one loop did with a suite."""

    results: dict[str, Result] = field(default_factory=dict)
    loops: int = 0
    others: int = 0
    seconds: float = 0.0

    def count(self, *outcomes: str) -> int:
        return sum(result.outcome in outcomes for result in self.results.values())


def write_names(path: Path, names: list[str]) -> str:
    path.write_text("".join(json.dumps(name) + "\n" for name in names), "utf-8")
    return str(path)


def start(suite: Suite, loop: str, directory: Path, only: list[str] | None,
          skip: list[str]) -> Worker:
    out = tempfile.mktemp(dir=directory, suffix=".jsonl")
    user = suite_setup.runs_as()
    if user:
        shutil.chown(directory, user)
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment |= suite.environment
    environment |= {
        "COMPAT_LOOP": loop, "COMPAT_OUT": out, "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(suite_setup.taut_path())]),
        "HOME": str(directory), "TMPDIR": str(directory),
        "COMPAT_SKIP": write_names(directory / "skip", skip),
    }
    if only is not None:
        environment["COMPAT_ONLY"] = write_names(directory / "only", only)
    command = [str(suite.python), "-m", "pytest", "-p", "compat_plugin", "-p", "no:cacheprovider",
               *suite.arguments]
    return Worker(command, out, suite.source, environment, suite.limit_s, user)


def run_tests(suite: Suite, loop: str, skip: list[str], only: list[str] | None = None) -> Run:
    """Runs the suite's tests, in as many processes as it takes."""
    run = Run()
    began = time.monotonic()
    while True:
        with tempfile.TemporaryDirectory(prefix="suites-") as name:
            worker = start(suite, loop, Path(name), only, skip + list(run.results))
            end = worker.wait()
            records, tail = worker.records(), worker.tail()
            worker.close()
        for record in records:
            if "name" in record:
                run.results[record["name"]] = Result(**record)
            if "end" in record:
                run.loops += record["loops"]
                run.others += record["others"]
        run.seconds = time.monotonic() - began
        finished = any("end" in record for record in records)
        if finished and (end != "hang" and worker.process.returncode in range(6)):
            return run
        begun = [record["start"] for record in records if "start" in record]
        victim = begun[-1] if begun else "(start)"
        if finished or victim in run.results:
            victim = "(exit)"
        loops = sum(result.loops for result in run.results.values())
        run.loops = max(run.loops, loops)
        known = victim in run.results
        run.results[victim] = Result(victim, end or "crash", 0.0, 0, 0, tail)
        if finished or known or not begun:
            return run


def run_suite(suite: Suite, loop: str, only: list[str] | None, verbose: bool) -> dict[str, Any]:
    """The suite on asyncio, then on the loop; what fails only there is tried once more."""
    left = {}
    theirs = run_tests(suite, ASYNCIO, [], only)
    for name in theirs.results:
        row = suite.left_out(name)
        if row is not None:
            left[name] = row["reason"]
    ours = run_tests(suite, loop, list(left), only)
    again = [
        name for name, result in ours.results.items()
        if result.outcome in BAD and name in theirs.results
        and theirs.results[name].outcome not in BAD
    ]
    for name in again:
        if ours.results[name].outcome != "fail":
            continue
        alone = run_tests(suite, loop, [], [name]).results.get(name)
        if alone is not None and alone.outcome == "ok":
            alone.flaky, alone.detail = True, ours.results[name].detail
            ours.results[name] = alone
    verdict = judge(suite, ours, theirs, left)
    report(verdict, ours, theirs, verbose)
    return verdict


def judge(suite: Suite, ours: Run, theirs: Run, left: dict[str, str]) -> dict[str, Any]:
    """The suite's entry in the results."""
    failed = []
    for name, result in ours.results.items():
        other = theirs.results.get(name)
        if result.outcome in BAD and (other is None or other.outcome not in BAD):
            failed.append(name)
    for name, other in theirs.results.items():
        mine = ours.results.get(name)
        if other.outcome == "ok" and name not in left and (mine is None or mine.outcome == "skip"):
            failed.append(name)  # not run, or skipped because of the loop
    both = sum(result.outcome == "ok" and name in theirs.results and
               theirs.results[name].outcome == "ok" for name, result in ours.results.items())
    return {
        "name": suite.name, "version": suite.version, "ok": both,
        "failed": sorted(failed), "skipped": ours.count("skip"),
        "asyncio_ok": theirs.count("ok"), "asyncio_failed": theirs.count(*BAD),
        "left_out": sum(theirs.results[name].outcome == "ok" for name in left),
        "flaky": sorted(name for name, result in ours.results.items() if result.flaky),
        "loops": ours.loops, "others": ours.others,
        "seconds": round(ours.seconds), "asyncio_seconds": round(theirs.seconds),
    }


def report(verdict: dict[str, Any], ours: Run, theirs: Run, verbose: bool) -> None:
    for name in verdict["failed"]:
        mine = ours.results.get(name)
        if mine is None:
            print(f"not run: {verdict['name']} {name}")
        else:
            print(f"\n{mine.outcome.upper()}: {verdict['name']} {name}\n{mine.detail.rstrip()}")
    for name in verdict["flaky"]:
        print(f"flaky (passed when run again): {verdict['name']} {name}\n"
              f"{ours.results[name].detail.rstrip()}")
    if verbose:
        for name, result in theirs.results.items():
            if result.outcome in BAD:
                print(f"\nfails on asyncio: {verdict['name']} {name}\n{result.detail.rstrip()}")
    if not verdict["loops"]:
        print(f"\n{verdict['name']}: no loop under test was made: this run says nothing")
    print(f"{verdict['name']} {verdict['version']}: {verdict['ok']} of {verdict['asyncio_ok']} "
          f"passed, {len(verdict['failed'])} failed, {verdict['left_out']} left out, "
          f"{verdict['asyncio_failed']} fail on asyncio; {verdict['loops']} loops and "
          f"{verdict['others']} of asyncio's; {verdict['seconds']} s "
          f"({verdict['asyncio_seconds']} s on asyncio)", flush=True)


def save(path: Path, verdicts: list[dict[str, Any]]) -> None:
    """Puts the entries into the file, beside those of other suites."""
    suites: dict[str, Any] = {}
    if path.exists():
        suites = json.loads(path.read_text("utf-8"))["suites"]
    for verdict in verdicts:
        suites[verdict["name"]] = {k: v for k, v in verdict.items() if k != "name"}
    document = {"python": sys.version.split()[0], "suites": dict(sorted(suites.items()))}
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="*", help="names of suites.toml; all when none is given")
    parser.add_argument("--only", action="append", help="run this test alone")
    parser.add_argument("--loop", default="taut:new_event_loop", help="module:factory")
    parser.add_argument("--jobs", type=int, default=2, help="suites at the same time")
    parser.add_argument("--verbose", action="store_true", help="show what fails on asyncio too")
    parser.add_argument("--json", type=Path, help="put the results into this file")
    return parser.parse_args(argv)


def stop(number: int, _frame: object) -> None:
    """A signal ends what runs in sessions of its own, too."""
    Worker.end_all()
    suite_servers.end_all()
    os._exit(128 + number)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, stop)
    suites = [suite for suite in suite_setup.load() if not args.suites or suite.name in args.suites]
    if len(suites) < len(args.suites) or not suites:
        print(f"no such suite; there are: {', '.join(s.name for s in suite_setup.load())}",
              file=sys.stderr)
        return 2
    if args.only and len(suites) != 1:
        print("--only needs one suite", file=sys.stderr)
        return 2
    verdicts, missing = [], []

    def one(suite: Suite) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(suite_setup.alone(suite))
                suite_setup.prepare(suite)
                if suite.server:
                    port = stack.enter_context(
                        suite_servers.start(suite.server, suite_setup.runs_as()))
                    arguments = tuple(a.replace("{port}", str(port)) for a in suite.arguments)
                    suite = dataclasses.replace(suite, arguments=arguments)
                verdicts.append(run_suite(suite, args.loop, args.only, args.verbose))
        except suite_servers.Missing as exc:
            missing.append(suite.name)
            print(f"{suite.name}: not run: {exc}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, suites))
    if args.json:
        save(args.json, verdicts)
    failed = sum(len(verdict["failed"]) for verdict in verdicts)
    unproven = [verdict["name"] for verdict in verdicts if not verdict["loops"]]
    print(f"\nPython {PYTHON}, {args.loop}: {len(verdicts)} suites, "
          f"{sum(v['ok'] for v in verdicts)} of {sum(v['asyncio_ok'] for v in verdicts)} passed, "
          f"{failed} failed, not run: {', '.join(missing) or 'none'}")
    return 1 if failed or missing or unproven else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as exc:
        sys.exit(f"{exc}\n{exc.stdout or ''}")
