"""Cutting time into chunks that run at once: where, from shapes alone, and when two windows at a cut are one.

What leads to a position forgets how it began (Maleki, Musuvathi & Mytkowicz 2014): a chunk starts from a guess, some
positions before its cut, and by the cut its window - all that the recurrence remembers - has the right proportions.
Whether it has is seen when the chunk before arrives there: a window that is the guess times one factor makes all that
follows right up to that factor, which is then known. What does not agree is run again from what arrived, so the answer
never depends on the guess. The sweep is nonexpansive: a disagreement stays what it was, and the sum of all those that
were accepted bounds what they do to a logarithm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

MOST = 8  # sequences and chunks that run at once; a number of its own, so results do not depend on the machine's
SHARE = 12  # a chunk is at least so many times as long as what it takes to forget
WORK = 16_000_000  # products (positions x labels x (durations + labels)) of a chunk, below which a cut saves nothing
AGREED = 1e-11  # above the rounding of a window in float64, far below what is noticed
NOTHING = 745.0  # so far below another number a logarithm adds nothing to it in float64


def burn_in(K: int) -> int:
    """Positions after which a sweep has as a rule forgotten how it began; the K rows of a window dominate it."""
    return 2 * K + K // 2 + 64


def cuts(length: int, B: int, K: int, C: int) -> list[int]:
    """Where a sequence of a batch is cut: a power of two of chunks, or none."""
    n = min(MOST // B, length // (SHARE * burn_in(K)), length * C * (K + C) // WORK)
    n = 1 << (n.bit_length() - 1) if n > 1 else 1
    return [length * i // n for i in range(1, n)]


class Agreement(NamedTuple):
    """How a window relates to a guess of it: by a factor on all weights, and a constant on all means."""

    weight: float
    mean: float
    disagreement: float  # the largest difference that is left; inf where they do not have the same support
    accepted: bool


def agreement(weight: np.ndarray, mean: np.ndarray, guess: np.ndarray, guessed_mean: np.ndarray) -> Agreement:
    """Compare windows (K+1, C) of log weights and means."""
    possible = weight > -np.inf
    unknown = np.isnan(weight).any() or np.isnan(guess).any()
    if unknown or not np.array_equal(possible, guess > -np.inf):
        return Agreement(0.0, 0.0, np.inf, accepted=False)
    if not possible.any():
        return Agreement(0.0, 0.0, 0.0, accepted=True)
    x, y, r, s = weight[possible], guess[possible], mean[possible], guessed_mean[possible]
    top = int(x.argmax())
    by, moved = float(x[top] - y[top]), float(r[top] - s[top])
    apart, means_apart = np.abs(x - y - by), np.abs(r - s - moved)
    rounding = 64 * np.finfo(np.float64).eps  # of each entry by its own size: one far below excuses no other
    accepted = (apart <= AGREED + rounding * (x[top] - x)) & (means_apart <= AGREED + rounding * np.abs(s - s[top]))
    counts = x > x[top] - NOTHING
    return Agreement(by, moved, float(np.maximum(apart, means_apart)[counts].max()), bool(accepted.all()))


@dataclass
class Report:
    """What became of the cuts of one run over one sequence."""

    sequence: int
    reversed: bool
    chunks: int = 1
    burn_in: int = 0
    repairs: int = 0
    disagreements: list[float] = field(default_factory=list)  # of the junctions, 0 of those that were run again
    deviation: float = 0.0  # the most that log Z at a cut differs from log Z


_reports: ContextVar[list[Report] | None] = ContextVar("reports", default=None)


@contextmanager
def recording() -> Iterator[list[Report]]:
    """The reports of all runs in chunks inside."""
    reports: list[Report] = []
    token = _reports.set(reports)
    try:
        yield reports
    finally:
        _reports.reset(token)


def record(report: Report) -> None:
    """To whoever listens."""
    reports = _reports.get()
    if reports is not None:
        reports.append(report)
