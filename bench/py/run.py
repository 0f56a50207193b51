"""`make bench`: the whole benchmark, or the parts and rows that are named.

Results go to bench/results/<Python>/: <part>.md to read, <part>.json with every sample, and, made
of all that is there, summary.md with the numbers to reach and summary.svg. A run of only some rows,
or a --quick one, writes below build/ instead, unless --results says where. The exit status is 1
when something of ours failed to run; no figure changes it. Run it on a machine with nothing else
to do: the load average is noted in the results.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import app_parts
import cells
import count_parts
import doctor_parts
import file_parts
import memory_parts
import sched_parts
import spawn_parts
import summary
import tls_parts
from host import ROOT, Failure, build_peers, end_on_sigterm, make_certificate
from loops import AIOFASTNET, LOOPS, OURS, installed, over_tls
from plan import Part, Plan
from report import default_folder

PARTS: dict[str, Part] = {
    **sched_parts.PARTS, **app_parts.PARTS, **cells.PARTS, **file_parts.PARTS,
    **spawn_parts.PARTS, **tls_parts.PARTS, **memory_parts.PARTS, **count_parts.PARTS,
    **doctor_parts.PARTS,
}  # fmt: skip
#: Parts that need the certificate; files go without TLS, too.
SECURED = {*tls_parts.PARTS, *file_parts.PARTS}
#: What --quick does instead of the defaults: enough to see that everything runs.
QUICK = {
    "rounds": 2, "pairs": 4, "seconds": 0.2, "target_ms": 20, "idle": 1000, "tls_idle": 200,
    "pending": 50_000,
}  # fmt: skip


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", metavar="ROW", help="the same as --only ROW...")
    parser.add_argument("--only", nargs="+", dest="more", default=[], metavar="ROW",
                        help="parts and rows, patterns among them; --list names them")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="the parts and their rows")
    parser.add_argument("--quick", action="store_true", help="few short rounds: does it run?")
    parser.add_argument("--loops", help=f"of {','.join(LOOPS)}; default: those installed")
    parser.add_argument("--rounds", type=int, help="default 7")
    parser.add_argument("--pairs", type=int, help="of the watchdog; default 20")
    parser.add_argument("--seconds", type=float, help="of a load; default 0.4")
    parser.add_argument("--key", choices=("ec", "rsa"), default="ec", help="of TLS servers")
    parser.add_argument("--tls-idle", type=int, help="connections of that part; default 2000")
    parser.add_argument("--notes", default="", help="a sentence for the results")
    parser.add_argument("--results", type=Path, help="the folder to write to")
    options = parser.parse_args(argv)
    options.only = [*options.only, *options.more]
    options.target_ms, options.idle, options.pending = 80, 10_000, 1_000_000
    for name, usual in (("rounds", 7), ("pairs", 20), ("seconds", 0.4), ("tls_idle", 2000)):
        if getattr(options, name) is None:
            setattr(options, name, QUICK[name] if options.quick else usual)
    if options.quick:
        for name in ("target_ms", "idle", "pending"):
            setattr(options, name, QUICK[name])
    known = {*PARTS, *(row for part in PARTS.values() for row in part.rows)}
    for pattern in options.only:
        if not fnmatch.filter(known, pattern):
            parser.error(f"{pattern}: no such part or row (--list names them)")
    options.loops = options.loops.split(",") if options.loops else installed()
    for name in options.loops:
        if name not in installed():
            parser.error(f"{name}: not one of {', '.join(installed())}")
    if options.rounds < 1 or options.pairs < 1 or options.seconds <= 0:
        parser.error("rounds, pairs and seconds must be positive")
    if options.tls_idle < 2:
        parser.error("--tls-idle: the growth of memory needs two connections")
    options.results = options.results or default_folder(options.quick or bool(options.only))
    return options


def left_out(part: str, plan: Plan) -> str | None:
    """Why a part cannot run here."""
    if part in tls_parts.PARTS:
        return tls_parts.left_out(plan.peers)
    if part in doctor_parts.PARTS and OURS not in plan.loops:
        return f"{OURS} is not among the loops"
    return None


def wanted_parts(plan: Plan) -> list[str]:
    return [
        name for name, part in PARTS.items() if any(plan.wants(name, row) for row in part.rows)
    ]


def make_plan(options: argparse.Namespace, folder: Path) -> Plan:
    """`folder` takes files that only this run needs."""
    plan = Plan(
        options.loops, build_peers(), options.rounds, options.pairs, options.seconds,
        options.target_ms, tuple(options.only), tls_idle=options.tls_idle, idle=options.idle,
        pending=options.pending,
    )  # fmt: skip
    if tls_parts.left_out(plan.peers) or SECURED.isdisjoint(wanted_parts(plan)):
        return plan
    certificate = make_certificate(options.key, folder)
    return plan._replace(certificate=certificate, key_kind=options.key)


def say_loops(plan: Plan) -> None:
    compared = {*plan.loops, *over_tls(plan.loops)}
    absent = [
        f"{name} ({'not asked for' if importlib.util.find_spec(module) else 'not installed'})"
        for name, module in {**LOOPS, AIOFASTNET: AIOFASTNET}.items()
        if name not in compared
    ]
    print(f"Loops: {', '.join(plan.loops)}; not compared: {', '.join(absent) or 'none'}.")


def run_parts(options: argparse.Namespace, folder: Path) -> bool:
    """Run the parts; whether all of ours ran."""
    plan = make_plan(options, folder)
    say_loops(plan)
    right = True
    for name in wanted_parts(plan):
        if reason := left_out(name, plan):
            print(f"\n{name}: left out, {reason}.", flush=True)
            continue
        print(f"\n{name} ...", flush=True)
        begin = time.monotonic()
        result = PARTS[name].run(plan)
        path = result.write(options.results, options.notes)
        right = right and not any(failure["essential"] for failure in result.failures)
        print(f"\nwrote {shown(path)} after {time.monotonic() - begin:.0f} s", flush=True)
    for path in summary.write(options.results):
        print(f"wrote {shown(path)}")
    print("\n" + (options.results / "summary.md").read_text())
    return right


def shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main() -> int:
    options = parse_arguments()
    if options.list:
        for name, part in PARTS.items():
            print(f"{name}: {' '.join(part.rows)}")
        return 0
    end_on_sigterm()
    begin = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
            right = run_parts(options, Path(folder))
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    print(f"Done in {time.monotonic() - begin:.0f} s.")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
