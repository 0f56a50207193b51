"""Medians of ratios and their intervals, from runs that were measured in pairs."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

RESAMPLES = 2000


class Ratio(NamedTuple):
    """The median of pairwise ratios and the interval that holds it in 95 of 100 resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        places = 3 if self.value < 10 else 2
        return f"{self.value:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}]"


def bootstrap(
    value: float, draw: Callable[[random.Random], float], level: float, resamples: int = RESAMPLES
) -> Ratio:
    """The interval between the outer quantiles of what `draw` makes of resampled rounds."""
    rng = random.Random(resamples)  # the same input gives the same interval
    drawn = sorted(draw(rng) for _ in range(resamples))
    outside = (1 - level) / 2
    low, high = drawn[int(resamples * outside)], drawn[math.ceil(resamples * (1 - outside)) - 1]
    return Ratio(value, low, high)


def paired(ours: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Of runs measured side by side: a pair shares its round, and so the noise of its time."""
    return [a / b for a, b in zip(ours, reference, strict=True)]


def ratio(ours: Sequence[float], reference: Sequence[float], level: float = 0.95) -> Ratio:
    """The median of ours/reference over the rounds."""
    pairs = paired(ours, reference)
    median = statistics.median
    return bootstrap(median(pairs), lambda rng: median(rng.choices(pairs, k=len(pairs))), level)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def geometric_ratio(
    rows: Sequence[tuple[Sequence[float], Sequence[float]]], level: float = 0.95
) -> Ratio:
    """The geometric mean, over rows, of the median ratios; each row's rounds are resampled."""
    pairs = [paired(ours, reference) for ours, reference in rows]

    def mean(drawn: Sequence[Sequence[float]]) -> float:
        return geometric_mean([statistics.median(row) for row in drawn])

    return bootstrap(
        mean(pairs), lambda rng: mean([rng.choices(row, k=len(row)) for row in pairs]), level, 1000
    )
