"""`make bench`: every part of the benchmark, or those that are named.

The whole takes about 20 minutes on two CPUs; one part alone takes one to five. Results go to
bench/results/<date>-<part>.{json,md}. The exit status is 1 when something failed to run; no figure
changes it. Run it on a machine with nothing else to do: the load average is noted in the results.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import file_parts
import parts
import spawn_parts
import tls_parts
from host import ROOT, Failure, build_peers, end_on_sigterm, make_certificate
from loops import AIOFASTNET, LOOPS, installed, over_tls
from micro import WORKLOADS
from parts import Plan
from report import Result

PARTS: dict[str, Callable[[Plan], Result]] = {
    **parts.PARTS, **file_parts.PARTS, **spawn_parts.PARTS, **tls_parts.PARTS,
}  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--loops", help=f"of {','.join(LOOPS)}; default: those installed")
    parser.add_argument("--workloads", help="micro: only these, with commas between")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--pairs", type=int, default=40, help="watchdog; default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.6, help="of a load; default %(default)s")
    parser.add_argument("--key", choices=("ec", "rsa"), default="ec", help="of TLS servers")
    parser.add_argument("--tls-idle", type=int, default=2000, help="connections of that part")
    parser.add_argument("--notes", default="", help="a sentence for the results")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    options.parts = options.parts or list(PARTS)
    options.loops = options.loops.split(",") if options.loops else installed()
    options.workloads = options.workloads.split(",") if options.workloads else list(WORKLOADS)
    for given, known in (
        (options.parts, PARTS),
        (options.loops, installed()),
        (options.workloads, WORKLOADS),
    ):
        for name in given:
            if name not in known:
                parser.error(f"{name}: not one of {', '.join(known)}")
    if options.rounds < 1 or options.pairs < 1 or options.seconds <= 0:
        parser.error("rounds, pairs and seconds must be positive")
    if options.tls_idle < 2:
        parser.error("--tls-idle: the growth of memory needs two connections")
    return options


def left_out(part: str, loops: list[str], peers: Path) -> str | None:
    """Why a part cannot run here."""
    if part in tls_parts.PARTS:
        return tls_parts.left_out(peers)
    if part in ("watchdog", "instructions") and "taut" not in loops:
        return "taut is not installed"
    if part == "instructions" and shutil.which("valgrind") is None:
        return "valgrind is not installed"
    return None


def run_parts(options: argparse.Namespace, folder: Path) -> None:
    """Run the parts; `folder` takes files that only this run needs."""
    peers = build_peers()
    plan = Plan(
        options.loops, peers, options.rounds, options.pairs, options.seconds, options.workloads
    )
    reasons = {part: left_out(part, plan.loops, peers) for part in options.parts}
    secured = {*tls_parts.PARTS, *file_parts.PARTS}  # files go without TLS, too
    if not tls_parts.left_out(peers) and not secured.isdisjoint(options.parts):
        plan = plan._replace(
            certificate=make_certificate(options.key, folder),
            key_kind=options.key,
            tls_idle=options.tls_idle,
        )
    compared = over_tls(plan.loops)
    absent = sorted({*LOOPS, AIOFASTNET} - {*plan.loops, *compared})
    print(f"Loops: {', '.join(plan.loops)}; not compared: {', '.join(absent) or 'none'}.")
    for part, reason in reasons.items():
        if reason:
            print(f"\n{part}: left out, {reason}.", flush=True)
            continue
        print(f"\n{part} ...", flush=True)
        path = PARTS[part](plan).write(options.results, options.notes)
        print(f"\nwrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def main() -> int:
    options = parse_arguments()
    end_on_sigterm()
    begin = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
            run_parts(options, Path(folder))
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    print(f"\nDone in {time.monotonic() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
