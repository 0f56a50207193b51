"""Does scheduling rows a given number of times, for who counts instructions around it.

    python counting.py LOOP plain ROW N              # the row, and nothing else
    python counting.py LOOP marks.so N ROW...        # under callgrind: each row N times and
                                                     # FACTOR times N, a dump after each
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

from loops import factory
from micro import BY_HAND, Body
from workloads import LIMIT, WORKLOADS, by_hand

FACTOR = 3
WARM_UP = 200


def fewer(row: str, n: int) -> int:
    """How often the shorter of two runs does the row, of which the longer one is FACTOR times."""
    return max(100, min(n, LIMIT[row] // FACTOR)) if row in LIMIT else n


#: Takes a row and what does it.
Count = Callable[[str, Body], None]


def counted(loop: str, rows: list[str], count: Count) -> None:
    if loop == BY_HAND:
        for row in rows:
            count(row, by_hand)
        return
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        inner = runner.get_loop()
        for row in rows:

            def body(n: int, row: str = row) -> None:
                runner.run(WORKLOADS[row](inner, n))  # type: ignore[arg-type]

            count(row, body)


def with_marks(library: str, n: int) -> Count:
    marks = ctypes.CDLL(library)

    def count(row: str, body: Body) -> None:
        body(WARM_UP)
        few = fewer(row, n)
        for times in (few, few * FACTOR):
            gc.collect()
            marks.bench_mark_begin()
            body(times)
            marks.bench_mark_end(f"{row} {times}".encode())

    return count


def main() -> None:
    loop, how, *rest = sys.argv[1:]
    gc.disable()  # a collection falls into one run or the other by chance
    if how == "plain":
        row, n = rest
        counted(loop, [row], lambda _, body: body(int(n)))
    else:
        n_text, *rows = rest
        counted(loop, rows, with_marks(how, int(n_text)))


if __name__ == "__main__":
    main()
