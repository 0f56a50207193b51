"""`make bench-compare BASE=<commit>`: taut of that commit against that of the working tree.

Both are built alike below build/compare, the base from a worktree of its own, and measured by the
same programs, those of the working tree, in turns. Printed is each row's ratio, present to base
(below 1 is better), with the interval that holds it in 99 of 100 resamples of its rounds; a row
differs where 1 is outside of it. The exit status is 1 when a row is worse by more than the
threshold, beyond the noise, and then again when it is measured once more.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from host import ROOT, Failure, end_on_sigterm
from loops import OURS, STDLIB
from plan import BASE, PRESENT, Plan
from report import Samples, table
from run import PARTS, QUICK, make_plan, wanted_parts
from stats import Ratio, ratio

FOLDER = ROOT / "build" / "compare"
LEVEL = 0.99
#: What is compared unless rows are named: the loop itself, and a little of everything else.
USUAL = (
    "sched", "protocol_64_x10", "protocol_1024_x1000", "streams_64_x10", "sock_64_x10",
    "udp_64_x10", "uvicorn_x32", "pending_tasks",
)  # fmt: skip
#: What is compared in a row: the first of these that it measured.
METRICS = {
    "ns": "ns", "both_ns": "ns", "cpu_us": "us", "cpu_seconds": "s", "instructions": "",
    "bytes_per_connection": "B",
}  # fmt: skip


class Row(NamedTuple):
    name: str
    metric: str
    base: float
    present: float
    ratio: Ratio

    def verdict(self, threshold: float) -> str:
        if self.ratio.low > 1:
            beyond = self.ratio.value > 1 + threshold
            return f"worse by more than {threshold:.0%}" if beyond else "worse"
        return "better" if self.ratio.high < 1 else ""

    def regressed(self, threshold: float) -> bool:
        return self.ratio.low > 1 and self.ratio.value > 1 + threshold


def rows_of(samples: Samples) -> list[Row]:
    found = []
    for name, each in samples.items():
        metric = next((m for m in METRICS if {BASE, PRESENT} <= each.get(m, {}).keys()), None)
        if metric is None:
            continue
        base, present = each[metric][BASE], each[metric][PRESENT]
        medians = statistics.median(base), statistics.median(present)
        found.append(Row(name, metric, *medians, ratio(present, base, LEVEL)))
    return found


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"git {' '.join(arguments)}:\n{done.stderr.strip()}")
    return done.stdout.strip()


def checkout(commit: str) -> Path:
    """A worktree at the commit, made or moved there."""
    tree = FOLDER / "tree"
    git("worktree", "prune")
    if (tree / ".git").exists():
        subprocess.run(["git", "checkout", "--quiet", "--force", "--detach", commit], cwd=tree,
                       check=True)  # fmt: skip
    else:
        shutil.rmtree(tree, ignore_errors=True)
        git("worktree", "add", "--quiet", "--force", "--detach", str(tree), commit)
    return tree


def build(source: Path, name: str) -> Path:
    """The folder to import that tree's taut from, as a release build."""
    folder = FOLDER / name
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    installed = FOLDER / f"{name}-installed"
    shutil.rmtree(installed, ignore_errors=True)
    commands = [
        ["ninja", "-C", str(folder)],
        ["meson", "install", "--no-rebuild", "-C", str(folder), "--destdir", str(installed)],
    ]
    if not (folder / "build.ninja").exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        commands.insert(0, ["meson", "setup", str(folder), str(source)])
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")
    # The extension and the Python files may be installed side by side, by their kinds.
    paths = sorted({path.parent.parent for path in installed.rglob("taut/*")
                    if path.name == "__init__.py" or path.suffix == ".so"})  # fmt: skip
    if len(paths) != 1:
        raise Failure(f"the build of {name} has {len(paths)} packages")
    return paths[0]


def check(path: Path, name: str) -> dict[str, str]:
    """The environment in which the taut of that folder is imported, once that was seen to work."""
    env = {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", "import taut._core; print(taut.__file__)"]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode or not done.stdout.startswith(str(path)):
        raise Failure(f"{name} cannot be imported: {done.stdout}{done.stderr}")
    return env


def measure(plan: Plan, results: Path) -> Samples:
    samples: Samples = {}
    for part in wanted_parts(plan):
        result = PARTS[part].run(plan)
        result.write(results, "")
        samples.update(result.samples)
        if result.failures:
            first = result.failures[0]
            raise Failure(f"{first['row']}, {first['name']}: {first['why']}")
    return samples


def show(rows: Sequence[Row], threshold: float) -> None:
    lines = []
    for row in rows:
        unit = METRICS[row.metric]
        values = [f"{value:.4g} {unit}".strip() for value in (row.base, row.present)]
        lines.append([row.name, *values, str(row.ratio), row.verdict(threshold)])
    head = ["row", BASE, PRESENT, f"{PRESENT} / {BASE}", "beyond the noise"]
    print("\n" + table(head, lines) + "\n", flush=True)


def compare(plan: Plan, threshold: float, results: Path) -> bool:
    """Whether no row has got worse by more than the threshold."""
    rows = rows_of(measure(plan, results))
    print(f"\nRatios below 1: {PRESENT} needs less. Intervals of {LEVEL:.0%}.")
    show(rows, threshold)
    suspects = [row.name for row in rows if row.regressed(threshold)]
    if not suspects:
        return True
    print(f"Once more: {', '.join(suspects)}", flush=True)
    again = rows_of(measure(plan._replace(only=tuple(suspects)), results / "again"))
    show(again, threshold)
    worse = [row.name for row in again if row.regressed(threshold)]
    print(f"Worse both times: {', '.join(worse) or 'none'}.")
    return not worse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="a commit")
    usual = " ".join(USUAL)
    parser.add_argument("--only", nargs="+", metavar="ROW", default=USUAL,
                        help=f"parts and rows as of run.py; default: {usual}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=12, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a load")
    parser.add_argument("--threshold", type=float, default=5, metavar="PERCENT",
                        help="what a row may get worse by; default %(default)s")  # fmt: skip
    parser.add_argument("--tasks", choices=("own", "stdlib"), default="own")
    parser.add_argument("--quick", action="store_true", help="short runs: does it run?")
    options = parser.parse_args()
    known = {*PARTS, *(row for part in PARTS.values() for row in part.rows)}
    for pattern in options.only:
        if not fnmatch.filter(known, pattern):
            parser.error(f"{pattern}: no such part or row")
    for name, most in (("pairs", 30), ("tls_idle", 2000), ("idle", 10_000), ("target_ms", 60)):
        setattr(options, name, QUICK[name] if options.quick else most)
    options.pending = QUICK["pending"] if options.quick else 500_000
    if options.quick:
        options.rounds, options.seconds = 4, QUICK["seconds"]
    options.loops, options.key = [BASE, PRESENT], "ec"
    return options


def main() -> int:
    options = parse_arguments()
    end_on_sigterm()
    try:
        commit = git("rev-parse", "--verify", f"{options.base}^{{commit}}")
        print(f"Building {commit[:12]} and the working tree", flush=True)
        loop = OURS if options.tasks == "own" else STDLIB
        variants = {
            name: (loop, check(build(source, name), name))
            for name, source in ((BASE, checkout(commit)), (PRESENT, ROOT))
        }
        with tempfile.TemporaryDirectory(prefix="taut-bench-") as folder:
            plan = make_plan(options, Path(folder))._replace(variants=variants)
            return 0 if compare(plan, options.threshold / 100, FOLDER / "results") else 1
    except Failure as failure:
        print(f"bench-compare: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench-compare: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
