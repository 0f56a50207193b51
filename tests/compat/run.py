#!/usr/bin/env python3
"""Runs CPython's own asyncio suites against an event loop, beside asyncio's own result.

    python tests/compat/run.py [--fast] [--loop taut:new_event_loop] [PATTERN ...]

Each test class runs in its own process under a time limit; a process that dies or hangs costs
the test that was running, and the rest of its class goes on in a new process. A failed test is
run once more by itself: passing then counts as flaky, which is shown but is no failure; dying or
hanging is never forgiven. A test that fails on asyncio too is shown and is no failure either.

Exit status: 0 when nothing failed unexpectedly, 1 otherwise, 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import leaveouts
import plan
from process import Worker

HERE = Path(__file__).resolve().parent
ASYNCIO = "asyncio:SelectorEventLoop"
PYTHON = "%d.%d" % sys.version_info[:2]
TEST_LIMIT_S = 40.0  # without news from a worker: it hangs


@dataclass
class Result:
    """The outcome of one test: ok, skip, fail, crash or hang."""

    name: str
    outcome: str
    seconds: float
    loops: int
    detail: str
    flaky: bool = False


@dataclass(frozen=True)
class Job:
    module: str
    case: str
    tests: tuple[str, ...]


def start(loop: str, job: Job, names: list[str], directory: str, limit: float) -> Worker:
    """One run of worker.py over some tests of a class."""
    path = tempfile.mktemp(dir=directory, suffix=".jsonl")
    command = [sys.executable, "-W", "ignore", str(HERE / "worker.py"), "--loop", loop]
    command += ["--module", job.module, "--case", job.case]
    command += ["--tests", ",".join(names), "--out", path]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return Worker(command, path, directory, environment, limit)


def run_names(loop: str, job: Job, names: list[str], directory: str, limit: float) -> list[Result]:
    """Runs the tests, in as many processes as it takes."""
    results: list[Result] = []
    left = list(names)
    while left:
        worker = start(loop, job, left, directory, limit)
        end = worker.wait()
        records = worker.records()
        tail = worker.tail()
        worker.close()
        for record in records:
            if "name" in record:
                results.append(Result(**record))
        done = {result.name for result in results}
        if not end and any("end" in record for record in records):
            break
        started = [record["start"] for record in records if "start" in record]
        if started and started[-1] not in done:
            victim = started[-1]
        elif started:
            victim = "(process exit)"
        else:
            victim = "(process start)"
        results.append(Result(victim, end or "crash", 0.0, 0, tail))
        done.add(victim)
        if victim == "(process start)":
            break
        left = [name for name in left if name not in done]
    return results


def run_job(loop: str, job: Job, directory: str, limit: float) -> list[Result]:
    """One class; what failed is tried once more by itself."""
    results = run_names(loop, job, list(job.tests), directory, limit)
    for index, result in enumerate(results):
        if result.outcome == "fail" and result.name in job.tests:
            again = run_names(loop, job, [result.name], directory, limit)
            if again and again[-1].outcome == "ok":
                results[index] = again[-1]
                results[index].flaky = True
    return results


def discover(patterns: list[str], fast: bool) -> list[Job]:
    """The jobs of this Python, the longest first."""
    output = subprocess.run(
        [sys.executable, str(HERE / "worker.py"), "--loop", ASYNCIO, "--list"],
        stdout=subprocess.PIPE, check=True,
    ).stdout
    jobs = []
    for module, classes in json.loads(output).items():
        entry = plan.BY_NAME[module]
        for case, names in classes.items():
            if fast and (not entry.fast or case in entry.slow_classes):
                continue
            if fast and entry.fast_classes and case not in entry.fast_classes:
                continue
            wanted = tuple(
                name for name in names
                if not patterns
                or any(fnmatch.fnmatchcase(f"{module}.{case}.{name}", p) for p in patterns)
            )
            if wanted:
                jobs.append(Job(module, case, wanted))
    return sorted(jobs, key=lambda job: -len(job.tests))


@dataclass
class Outcome:
    """Everything that one loop did, by full test name."""

    results: dict[str, Result]

    def count(self, module: str, *outcomes: str) -> int:
        return sum(
            1 for name, result in self.results.items()
            if name.startswith(module + ".") and result.outcome in outcomes
        )


def run_all(loop: str, jobs: list[Job], parallel: int, limit: float, quiet: bool) -> Outcome:
    found: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="compat-") as directory:
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            futures = {pool.submit(run_job, loop, job, directory, limit): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                job = futures[future]
                results = future.result()
                for result in results:
                    found[f"{job.module}.{job.case}.{result.name}"] = result
                if not quiet:
                    bad = sum(r.outcome in ("fail", "crash", "hang") for r in results)
                    took = sum(r.seconds for r in results)
                    mark = f"  {bad} FAILED" if bad else ""
                    print(f"  {loop.split(':')[0]:8} {job.module}.{job.case}: "
                          f"{len(results)} tests, {took:.1f} s{mark}", flush=True)
    return Outcome(found)


def split(
    jobs: list[Job], rows: list[leaveouts.LeaveOut], loop: str
) -> tuple[list[Job], list[Job]]:
    """The jobs to run, and those that are left out for this loop."""
    run, left = [], []
    for job in jobs:
        found = {
            name: leaveouts.find(rows, f"{job.module}.{job.case}.{name}", loop, PYTHON)
            for name in job.tests
        }
        keep = tuple(name for name in job.tests if found[name] is None)
        drop = tuple(name for name in job.tests if found[name] is not None)
        if keep:
            run.append(Job(job.module, job.case, keep))
        if drop:
            left.append(Job(job.module, job.case, drop))
    return run, left


BAD = ("fail", "crash", "hang")


def table(ours: Outcome, theirs: Outcome | None, left: Outcome | None, jobs: Iterable[Job]) -> None:
    """Per module: ours beside asyncio's."""
    print(f"\n{'module':26}{'ok':>6}{'failed':>8}{'skipped':>9}{'left out':>10}"
          f"{'on loop':>9}{'asyncio ok':>12}{'failed':>8}")
    for module in dict.fromkeys(job.module for job in jobs):
        touched = sum(1 for name, result in ours.results.items()
                      if name.startswith(module + ".") and result.loops)
        row = f"{module:26}{ours.count(module, 'ok'):>6}{ours.count(module, *BAD):>8}"
        row += f"{ours.count(module, 'skip'):>9}"
        row += f"{len([n for n in left.results if n.startswith(module + '.')]) if left else 0:>10}"
        row += f"{touched:>9}"
        if theirs is not None:
            row += f"{theirs.count(module, 'ok'):>12}{theirs.count(module, *BAD):>8}"
        print(row)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patterns", nargs="*", help="module.Class.test shell patterns")
    parser.add_argument("--loop", default="taut:new_event_loop", help="module:factory")
    parser.add_argument("--fast", action="store_true", help="the quick part of the suites")
    parser.add_argument("--jobs", type=int, default=max(2, os.cpu_count() or 2))
    parser.add_argument("--limit", type=float, default=TEST_LIMIT_S, help="seconds per test")
    parser.add_argument("--no-asyncio", action="store_true", help="without asyncio's own result")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    rows = leaveouts.load()
    jobs = discover(args.patterns, args.fast)
    if not jobs:
        print("no test matches", file=sys.stderr)
        return 2
    run, left = split(jobs, rows, args.loop)
    began = time.monotonic()
    ours = run_all(args.loop, run, args.jobs, args.limit, args.quiet)
    failed = {name: r for name, r in ours.results.items() if r.outcome in BAD}
    theirs: Outcome | None = None
    dropped: Outcome | None = None
    alone = Outcome({})
    if args.loop != ASYNCIO:
        if not args.no_asyncio and not args.fast:
            theirs = run_all(ASYNCIO, jobs, args.jobs, args.limit, True)
            dropped = run_all(args.loop, left, args.jobs, args.limit, True)
        # Tells a failure of ours from one of this machine, or of a test that needs another one.
        suspects = [Job(job.module, job.case, names) for job in run if (names := tuple(
            name for name in job.tests if f"{job.module}.{job.case}.{name}" in failed))]
        alone = run_all(ASYNCIO, suspects, args.jobs, args.limit, True)
    table(ours, theirs, dropped, jobs)
    unexpected = report(args, ours, alone, dropped, failed)
    passed = sum(r.outcome == "ok" for r in ours.results.values())
    count = sum(len(job.tests) for job in left)
    print(f"\nPython {sys.version.split()[0]}, {args.loop}: {passed} passed, {unexpected} failed, "
          f"{count} left out, {time.monotonic() - began:.0f} s")
    if args.json:
        for name in failed:  # what asyncio fails by itself is nobody's failure
            if name in alone.results and alone.results[name].outcome in BAD:
                ours.results[name].outcome = "skip"
        save(args.json, args.loop, jobs, ours, theirs, left)
    return 1 if unexpected else 0


def report(args: argparse.Namespace, ours: Outcome, alone: Outcome,
           dropped: Outcome | None, failed: dict[str, Result]) -> int:
    """Prints what is worth knowing; the number of unexpected failures."""
    unexpected = 0
    for name, result in sorted(failed.items()):
        other = alone.results.get(name)
        if other is not None and other.outcome in BAD:
            print(f"\nfails on asyncio as well: {name}")
            continue
        unexpected += 1
        print(f"\n{result.outcome.upper()}: {name}\n{result.detail.rstrip()}")
    for name, result in sorted(ours.results.items()):
        if result.flaky:
            print(f"flaky (passed when run again): {name}")
    if dropped is not None:
        rows = leaveouts.load()
        for name, result in sorted(dropped.results.items()):
            row = leaveouts.find(rows, name, args.loop, PYTHON)
            if result.outcome == "ok" and row is not None and not row.racy:
                print(f"left out, but passes: {name}")
    return unexpected


def save(path: Path, loop: str, jobs: list[Job], ours: Outcome, theirs: Outcome | None,
         left: list[Job]) -> None:
    modules = {}
    for module in dict.fromkeys(job.module for job in jobs):
        modules[module] = {
            "ok": ours.count(module, "ok"),
            "failed": ours.count(module, *BAD),
            "skipped": ours.count(module, "skip"),
            "left_out": sum(len(job.tests) for job in left if job.module == module),
            "asyncio_ok": theirs.count(module, "ok") if theirs else None,
            "asyncio_failed": theirs.count(module, *BAD) if theirs else None,
        }
    document = {"python": sys.version.split()[0], "loop": loop, "modules": modules}
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
