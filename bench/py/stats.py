"""Medians of ratios and their 95 % intervals, from runs that were measured in pairs."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """The median of pairwise ratios and the interval that holds it in 95 of 100 resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(ours: Sequence[float], reference: Sequence[float], resamples: int = 2000) -> Ratio:
    """Of runs measured side by side: a pair shares its round, and so the noise of its time."""
    pairs = [a / b for a, b in zip(ours, reference, strict=True)]
    rng = random.Random(len(pairs))  # the same input gives the same interval
    medians = sorted(statistics.median(rng.choices(pairs, k=len(pairs))) for _ in range(resamples))
    low, high = medians[int(resamples * 0.025)], medians[int(resamples * 0.975) - 1]
    return Ratio(statistics.median(pairs), low, high)


def _median_ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, reference, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def geometric_ratio(rows: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Ratio:
    """The geometric mean, over workloads, of the median ratios; rounds are resampled."""
    rng = random.Random(len(rows))
    means = []
    for _ in range(1000):
        medians = []
        for ours, reference in rows:
            pairs = list(zip(ours, reference, strict=True))
            medians.append(statistics.median(a / b for a, b in rng.choices(pairs, k=len(pairs))))
        means.append(geometric_mean(medians))
    means.sort()
    return Ratio(geometric_mean([_median_ratio(a, b) for a, b in rows]), means[25], means[974])
