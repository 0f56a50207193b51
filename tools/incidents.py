#!/usr/bin/env python3
"""`make incidents`: does the doctor find what is wrong, and is it quiet where nothing is?

    python tools/incidents.py                    every program of examples/incidents, one at a time
    python tools/incidents.py two_locks          one of them (or some), by name
    python tools/incidents.py --controls --long  the healthy ones, ten minutes each

Each program runs under `taut run` with a journal of its own, in which its findings are read as they
come. What it is expected to be blamed for stands in its head, in comments:

    # expect: CODE at MARK    a finding of that code, at a line that ends with the comment `# MARK`
    # expect: CODE            the same, wherever it is
    # expect: nothing         a healthy one
    # also: CODE at MARK      may be found as well, since it is true, too
    # within: SECONDS         of the program's start
    # needs: root postgresql redis MODULE ...

A finding that is missing, late or not expected fails the run, and so does one without a cause or a
remedy, and a healthy program that ends badly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "examples" / "incidents"
sys.path[:0] = [str(ROOT / "bench" / "py"), str(GALLERY)]

import host  # noqa: E402
import stage  # noqa: E402

WITHIN_S = 20.0  # where the program says nothing else
MOST_S = 60.0
CONTROL_S = 20.0
LONG_S = 600.0
GRACE_S = 2.0  # after everything expected was found: false findings may follow
SERVERS_S = 15.0  # for servers and libraries to come up, and for the program to end by itself
TREND_S = 10.0  # evidence that trends need: a third of what they need in production
HELPERS = {"stage.py"}


class Misread(Exception):
    """The head of a program does not say what it is to be blamed for."""


@dataclass(frozen=True)
class Expectation:
    """A finding by its code, and at which lines; none: wherever it is."""

    code: str
    mark: str = ""
    lines: frozenset[int] = frozenset()

    def matches(self, found: Found, path: Path) -> bool:
        if found.code != self.code:
            return False
        return not self.lines or (found.line in self.lines and Path(found.file) == path)

    def __str__(self) -> str:
        return f"{self.code}:{'|'.join(map(str, sorted(self.lines)))}" if self.lines else self.code


@dataclass(frozen=True)
class Incident:
    """A program of the gallery."""

    path: Path
    expects: tuple[Expectation, ...]
    also: tuple[Expectation, ...] = ()
    within_s: float = WITHIN_S
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def healthy(self) -> bool:
        return not self.expects


@dataclass(frozen=True)
class Found:
    """A finding as the journal has it, and when it came."""

    code: str
    file: str
    line: int
    function: str
    cause: str
    remedy: str
    seconds: float
    evidence: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{Path(self.file).name}:{self.line}" if self.file else "no line"


@dataclass
class Outcome:
    """What became of one program."""

    incident: Incident
    found: list[Found] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    skipped: str = ""
    output: str = ""

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def seconds(self) -> float | None:
        """Until everything expected had been found."""
        times = [first(e, self.found, self.incident.path) for e in self.incident.expects]
        known = [found.seconds for found in times if found is not None]
        return max(known) if known and len(known) == len(times) else None


# ---- reading ------------------------------------------------------------------------------------


def read(path: Path) -> Incident:
    """What the head of a program says. Misread when it does not make sense."""
    text = path.read_text("utf-8")
    lines = text.splitlines()

    def values(key: str) -> list[str]:
        return re.findall(rf"^# {key}: (.+)$", text, re.M)

    def expectation(value: str) -> Expectation:
        match = re.fullmatch(r"([a-z]+(?:-[a-z]+)*)(?: at ([a-z0-9-]+))?", value)
        if match is None:
            raise Misread(f"{path.name}: {value!r} is not CODE or CODE at MARK")
        code, mark = match[1], match[2] or ""
        marked = re.compile(rf"\S.*  # {mark}(?:$|  #)")
        blamed = {n for n, line in enumerate(lines, 1) if mark and marked.search(line)}
        if mark and not blamed:
            raise Misread(f"{path.name}: no line ends with # {mark}")
        return Expectation(code, mark, frozenset(blamed))

    expects = values("expect")
    if not expects:
        raise Misread(f"{path.name}: no '# expect:' line")
    if "nothing" in expects and (len(expects) > 1 or values("also")):
        raise Misread(f"{path.name}: nothing, and something?")
    within = float((values("within") or [str(WITHIN_S)])[0])
    if not 0 < within <= MOST_S:
        raise Misread(f"{path.name}: within {within:g} s, not up to {MOST_S:g}")
    return Incident(
        path,
        () if expects == ["nothing"] else tuple(map(expectation, expects)),
        tuple(map(expectation, values("also"))),
        within,
        tuple(" ".join(values("needs")).split()),
    )


def gallery(names: list[str], directory: Path = GALLERY) -> list[Incident]:
    """The programs of these names, or all, incidents first. Misread for an unknown one."""
    programs = {p.stem: p for p in sorted(directory.glob("*.py")) if p.name not in HELPERS}
    if unknown := [name for name in names if name not in programs]:
        raise Misread(f"no such incident: {', '.join(unknown)}")
    incidents = [read(programs[name]) for name in names or programs]
    return sorted(incidents, key=lambda incident: incident.healthy)


def read_journal(path: Path, started: float) -> list[Found]:
    """The findings in the journal, as often as they are there. A line that is still being written
    is left for the next time."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        entry = json.loads(line)
        f: dict[str, Any] = entry["finding"]
        seconds = round(float(entry["time"]) - started, 2)
        found.append(Found(f["code"], f["file"], f["line"], f["function"], f["cause"], f["remedy"],
                           seconds, tuple(f["evidence"])))  # fmt: skip
    return found


# ---- judging ------------------------------------------------------------------------------------


def first(expected: Expectation, found: list[Found], path: Path) -> Found | None:
    return next((f for f in found if expected.matches(f, path)), None)


def missing(incident: Incident, found: list[Found]) -> list[Expectation]:
    return [e for e in incident.expects if first(e, found, incident.path) is None]


def judge(incident: Incident, found: list[Found]) -> list[str]:
    """What is wrong with what was found, a sentence each."""
    faults = [f"missed {expected}" for expected in missing(incident, found)]
    for expected in incident.expects:
        hit = first(expected, found, incident.path)
        if hit is not None and hit.seconds > incident.within_s:
            faults.append(f"late: {expected} after {hit.seconds:.1f} s")
    seen = set()
    for f in found:
        key = (f.code, f.file, f.line)
        if key in seen:
            continue
        seen.add(key)
        known = (*incident.expects, *incident.also)
        if not any(e.matches(f, incident.path) for e in known):
            faults.append(f"false: {f.code} at {f.where}: {f.cause}")
        if not f.cause or not f.remedy:
            faults.append(f"wordless: {f.code} at {f.where} has no cause or no remedy")
    return faults


# ---- running ------------------------------------------------------------------------------------


def lacks(incident: Incident, python: str) -> str:
    """What the program needs and is not here, in words; "" when nothing is missing."""
    for need in incident.needs:
        if need == "root":
            if os.geteuid() != 0:
                return "needs root"
        elif need in ("postgresql", "redis"):
            if not os.environ.get("DATABASE_URL" if need == "postgresql" else "REDIS_URL"):
                return f"needs {need}"
        elif subprocess.run([python, "-c", f"import {need}"], capture_output=True).returncode:
            return f"needs the module {need}"
    return ""


def environment(seconds: float, trend_s: float, journal: Path) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TAUT_")}
    env["INCIDENT_SECONDS"] = f"{seconds:g}"
    env["TAUT_JOURNAL"] = str(journal)
    env["TAUT_DOCTOR_TREND_S"] = f"{trend_s:g}"
    return env


def run(incident: Incident, python: str, trend_s: float, control_s: float) -> Outcome:
    """Runs one program until it has shown all that it can, or its time is up."""
    outcome = Outcome(incident)
    outcome.skipped = lacks(incident, python)
    if outcome.skipped:
        if os.environ.get("CI") == "true":
            outcome.faults = [outcome.skipped]
        return outcome
    seconds = control_s if incident.healthy else incident.within_s + GRACE_S
    with tempfile.TemporaryDirectory(prefix="incident-") as name:
        journal, log = Path(name, "journal.jsonl"), Path(name, "output")
        started = time.time()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", "taut", "run", incident.path],
                cwd=name,
                env=environment(seconds, trend_s, journal),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            watch(process, outcome, journal, started, seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        outcome.found = read_journal(journal, started)
        outcome.output = log.read_text("utf-8", "replace")
    outcome.faults += judge(incident, outcome.found)
    return outcome


def watch(
    process: subprocess.Popen[bytes],
    outcome: Outcome,
    journal: Path,
    started: float,
    seconds: float,
) -> None:
    """Waits until the program has ended, or has shown what it is here for."""
    incident = outcome.incident
    deadline = started + seconds + (SERVERS_S if incident.healthy else 0)
    while (status := process.poll()) is None and time.time() < deadline:
        if not incident.healthy and not missing(incident, read_journal(journal, started)):
            deadline = min(deadline, time.time() + GRACE_S)
        time.sleep(0.1)
    if incident.healthy and status is None:
        outcome.faults.append("did not end by itself")
    elif incident.healthy and status:
        outcome.faults.append(f"ended with status {status}")


def run_all(
    incidents: list[Incident], python: str, trend_s: float, control_s: float, jobs: int
) -> Iterator[Outcome]:
    """The outcomes in the order of the incidents. Each server is started once, for all of them."""
    needs = {need for incident in incidents for need in incident.needs}
    with contextlib.ExitStack() as servers:
        for need, variable, start in (
            ("postgresql", "DATABASE_URL", stage.postgres),
            ("redis", "REDIS_URL", stage.redis),
        ):
            if need in needs:
                try:
                    os.environ[variable] = servers.enter_context(start())
                except SystemExit as exc:
                    print(f"incidents: {exc}", file=sys.stderr)
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(lambda one: run(one, python, trend_s, control_s), incidents)


# ---- telling ------------------------------------------------------------------------------------


HEAD = ("incident", "expected", "found", "seconds", "false")


def row(outcome: Outcome) -> tuple[str, ...]:
    """The cells of a line of the table."""
    incident = outcome.incident
    expected = ", ".join(map(str, incident.expects)) or "nothing"
    if outcome.skipped:
        return incident.name, expected, f"skipped: {outcome.skipped}", "", ""
    hits = [first(e, outcome.found, incident.path) for e in incident.expects]
    found = ", ".join(dict.fromkeys(f"{f.code}:{f.line}" if f.line else f.code for f in hits if f))
    false = sum(fault.startswith("false") for fault in outcome.faults)
    seconds = outcome.seconds
    return (
        incident.name,
        expected,
        found or ("nothing" if not outcome.found else "something else"),
        "" if seconds is None else f"{seconds:.1f}",
        str(false),
    )


def widths(incidents: list[Incident]) -> list[int]:
    expected = max(len(", ".join(map(str, i.expects))) for i in incidents)
    name = max(len(i.name) for i in incidents)
    return [max(name, 8), max(expected, 8), max(expected, 8), 7, 5]


def line(cells: tuple[str, ...], columns: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, columns)).rstrip()


def tell(outcome: Outcome, columns: list[int]) -> None:
    """One line, and for a failure what was wrong and what the program said."""
    mark = "skip" if outcome.skipped else "ok" if outcome.passed else "FAIL"
    print(f"{mark:4}  {line(row(outcome), columns)}", flush=True)
    for fault in outcome.faults:
        print(f"        {fault}")
    if outcome.faults:
        for text in outcome.output.splitlines()[-12:]:
            print(f"        | {text}")
    sys.stdout.flush()


def markdown(outcomes: list[Outcome], trend_s: float, control_s: float) -> str:
    """The table as a page for bench/results."""
    about = host.describe()
    controls = [o for o in outcomes if o.incident.healthy and not o.skipped]
    incidents = [o for o in outcomes if not o.incident.healthy and not o.skipped]
    text = [
        f"# Incidents on Python {about['python'].rpartition('.')[0]}",
        "",
        f"`make incidents`: {sum(o.passed for o in incidents)} of {len(incidents)} incidents found"
        f" as expected, {sum(o.passed for o in controls)} of {len(controls)} healthy programs"
        f" without a finding, {control_s:g} s each. Trends were given {trend_s:g} s."
        f" {about['cpu']}, {about['cpus']} CPUs, Python {about['python']}.",
        "",
        "A place is the line to blame in `examples/incidents`; seconds are counted from the start"
        " of the process.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|---|---|---|---|",
    ]
    text += ["| " + " | ".join(cell.replace("|", " or ") for cell in row(o)) + " |"
             for o in outcomes]  # fmt: skip
    return "\n".join(text) + "\n"


def as_json(outcomes: list[Outcome]) -> str:
    """All that is known, for programs."""
    return json.dumps(
        [
            {
                "incident": o.incident.name,
                "expected": [str(e) for e in o.incident.expects],
                "passed": o.passed,
                "skipped": o.skipped,
                "seconds": o.seconds,
                "faults": o.faults,
                "found": [vars(f) for f in o.found],
            }
            for o in outcomes
        ],
        indent=1,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="programs of examples/incidents; default: all")
    parser.add_argument("--controls", action="store_true", help="only the healthy ones")
    parser.add_argument("--long", action="store_true", help=f"controls for {LONG_S:g} s each")
    parser.add_argument("--trend", type=float, metavar="S", default=TREND_S,
                        help="evidence for trends (%(default)g; 30 in production)")  # fmt: skip
    parser.add_argument("--python", default=sys.executable, help="the interpreter, with taut in it")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time (%(default)s)")
    parser.add_argument("--json", action="store_true", help="tell all as JSON at the end")
    parser.add_argument("--save", action="store_true", help="write the table to bench/results")
    args = parser.parse_args(argv)
    host.end_on_sigterm()
    try:
        incidents = [i for i in gallery(args.names) if i.healthy or not args.controls]
    except Misread as exc:
        print(f"incidents: {exc}", file=sys.stderr)
        return 2
    control_s = LONG_S if args.long else CONTROL_S
    columns = widths(incidents)
    print(f"      {line(HEAD, columns)}", flush=True)
    outcomes = []
    for outcome in run_all(incidents, args.python, args.trend, control_s, args.jobs):
        tell(outcome, columns)
        outcomes.append(outcome)
    if args.json:
        print(as_json(outcomes))
    if args.save:
        name = f"incidents-{'.'.join(map(str, sys.version_info[:2]))}.md"
        (ROOT / "bench" / "results" / name).write_text(markdown(outcomes, args.trend, control_s))
    failed = [o for o in outcomes if not o.passed]
    skipped = [o for o in outcomes if o.skipped]
    good = len(outcomes) - len({id(o) for o in failed + skipped})
    print(f"{good} as expected, {len(failed)} not, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
