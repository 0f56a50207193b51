"""What a run of the benchmarks does: which parts and rows, on which loops, how often and how
long."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from host import Failure
from loops import OURS, STDLIB
from report import Result

HERE = Path(__file__).resolve().parent
YARDSTICK = "C epoll"
READY = r"^ready (\d+)"
#: One seed for every process: the order of sets and dicts is no source of noise.
FIXED = {"PYTHONHASHSEED": "0"}
#: What must run: anyone else's failure is noted, and the run goes on without it.
ESSENTIAL = ("asyncio", OURS, STDLIB, YARDSTICK)
BASE, PRESENT = "base", "present"  # what compare.py compares

Runs = dict[str, list[dict[str, Any]]]


class Plan(NamedTuple):
    loops: list[str]
    peers: Path
    rounds: int
    pairs: int
    seconds: float  # of a load
    target_ms: float  # of a repetition of a scheduling row
    only: tuple[str, ...] = ()  # parts and rows, as patterns; none: everything
    certificate: tuple[Path, ...] = ()  # of the TLS servers: the PEM files of it and of its key
    key_kind: str = "ec"
    tls_idle: int = 2000
    idle: int = 10_000
    pending: int = 1_000_000
    #: Names that are not loops: which loop they stand for, and in what environment it runs.
    variants: Mapping[str, tuple[str, Mapping[str, str]]] = {}

    def loop_of(self, name: str) -> str:
        return self.variants[name][0] if name in self.variants else name

    def env_of(self, name: str) -> dict[str, str]:
        """What a process that runs the loop of that name has in its environment."""
        return {**FIXED, **(self.variants[name][1] if name in self.variants else {})}

    def wants(self, part: str, row: str) -> bool:
        """Whether the row is to run: it, or its whole part, was asked for."""
        return not self.only or any(
            fnmatch.fnmatchcase(part, pattern) or fnmatch.fnmatchcase(row, pattern)
            for pattern in self.only
        )


class Part(NamedTuple):
    """One file of results."""

    run: Callable[[Plan], Result]
    rows: tuple[str, ...]


def turn(names: Sequence[str], number: int) -> list[str]:
    """The names in the order of that round: each round begins with another one."""
    shift = number % max(len(names), 1)
    return [*names[shift:], *names[:shift]]


def rotated(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name), round by round."""
    for number in range(rounds):
        for name in turn(names, number):
            yield number, name


def progress(text: str) -> None:
    print(f"  {text}", flush=True)


def interleave(
    result: Result,
    row: str,
    names: Sequence[str],
    rounds: int,
    once: Callable[[str, int], dict[str, Any]],
    discard: int = 0,
) -> Runs:
    """`once` for each name in each round, A B C, B C A, ...; a name that fails is left out of the
    row, and the result says why. The first `discard` rounds are run and thrown away."""
    runs: Runs = {name: [] for name in names}
    for number, name in rotated(names, rounds + discard):
        if name not in runs:
            continue
        try:
            got = once(name, number)
        except Failure as failure:
            del runs[name]
            left_out(result, row, name, failure)
            continue
        if number >= discard:
            runs[name].append(got)
    return runs


def left_out(result: Result, row: str, name: str, failure: Failure) -> None:
    said = str(failure).strip().splitlines() or ["it failed"]
    # The last line of a traceback says what happened, the first line what was run.
    why = said[-1] if len(said) > 1 else said[0]
    why = re.sub(r"(?:/[\w.@+-]+){2,}", lambda path: path.group(0).rpartition("/")[2], why)[:300]
    result.fail(row, name, why, essential=name in (*ESSENTIAL, BASE, PRESENT))
    progress(f"{row}: {name} left out: {failure}")
