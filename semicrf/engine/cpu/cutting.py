"""Runs over one sequence that is cut into chunks, whatever the loops: see `semicrf.engine.chunks`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from semicrf.engine.chunks import MOST, WORK, Agreement, Report, agreement, burn_in, cuts, record
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.pool import groups


class Windows(NamedTuple):
    """Windows of several runs, and what they are relative to."""

    weight: Any  # (n, rows, labels)
    mean: Any  # (n, rows, labels)
    offset: Any  # (n,)
    gauge: Any  # (n,)


def windows(n: int, rows: int, labels: int) -> Windows:
    """Room for n windows, to which nothing leads."""
    return Windows(np.full((n, rows, labels), -np.inf), np.zeros((n, rows, labels)), np.zeros(n), np.zeros(n))


class Run(ABC):
    """One direction over sequence b, cut at some positions; `room` makes so many windows."""

    def __init__(
        self, b: int, length: int, K: int, cuts: list[int], room: Callable[[int], Windows], *, reversed: bool = False
    ):
        self.b, self.room, n = b, room, len(cuts) + 1
        self.n, self.bounds = n, [0, *(length - p for p in cuts[::-1]), length] if reversed else [0, *cuts, length]
        self.entered, self.left = room(n), room(n)
        self.base, self.mean_base = np.zeros(n), np.zeros(n)  # what a chunk's own terms are relative to
        self.report = Report(b, reversed, n, min(burn_in(K), self.bounds[1] - 1))
        self.forgets = True

    @abstractmethod
    def between(self, first: int, last: int, entered: Windows, left: Windows) -> None:
        """The first of the windows `left`, at `last`, from the first of `entered`, at `first`; no more is kept."""

    @abstractmethod
    def chunk(self, i: int) -> None:
        """Run chunk i from what enters it."""

    @abstractmethod
    def whole(self) -> None:
        """Run the sequence in one piece."""

    def remaining(self) -> list[Callable[[], None]]:
        """What is left to do, chunk by chunk, once all junctions are settled."""
        return []

    def _begun_before(self, i: int, back: int, lean: float = 0.0) -> Windows:
        """The window at bound i if it is begun `back` positions before, with any label; less and less likely ones where
        it is to `lean`.
        """
        fresh, made = self.room(1), self.room(1)
        fresh.weight[0, 0] = np.linspace(0.0, -lean, fresh.weight.shape[2])
        self.between(self.bounds[i] - back, self.bounds[i], fresh, made)
        possible = made.weight > -np.inf
        if possible.any():
            top = made.weight.argmax()
            made.mean[possible] -= made.mean.flat[top]
            made.weight[possible] -= made.weight.flat[top]
        return made

    def guess(self, i: int) -> None:
        """Guess what enters chunk i."""
        made = self._begun_before(i, self.report.burn_in)
        self.entered.weight[i], self.entered.mean[i] = made.weight[0], made.mean[0]

    def probe(self) -> None:
        """Guess what enters chunk 1, and whether another beginning leads there: guesses about what does not forget
        are worth nothing.
        """
        self.guess(1)
        y = self._begun_before(1, self.report.burn_in - 1, lean=10.0)  # other labels, and another phase of durations
        self.forgets = agreement(self.entered.weight[1], self.entered.mean[1], y.weight[0], y.mean[0]).accepted
        self.report.chunks = self.n if self.forgets else 1

    def again(self, i: int) -> None:
        """Run chunk i from what left the one before."""
        self.entered.weight[i], self.entered.mean[i] = self.left.weight[i - 1], self.left.mean[i - 1]
        self.chunk(i)

    def settle(self) -> None:
        """Accept the junctions or mend them, in order."""
        left, entered = self.left, self.entered
        for i in range(1, self.n):
            found = agreement(left.weight[i - 1], left.mean[i - 1], entered.weight[i], entered.mean[i])
            if not found.accepted:
                self.again(i)
                found = Agreement(0.0, 0.0, 0.0, accepted=True)
                self.report.repairs += 1
            self.report.disagreements.append(found.disagreement)
            self.base[i] = self.base[i - 1] + left.offset[i - 1] + found.weight
            self.mean_base[i] = self.mean_base[i - 1] + left.gauge[i - 1] + found.mean


def divided(lengths: Tensor, K: int, C: int) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
    """Where the sequences that are cut are cut, and ranges of the others."""
    B = lengths.shape[0]
    at = {b: found for b, L in enumerate(lengths.tolist() if B <= MOST else []) if (found := cuts(L, B, K, C))}
    return at, [(b, b + 1) for b in range(B) if b not in at] if at else groups(B)


def run_in_chunks(kernel: Any, runs: Sequence[Run]) -> None:
    """All chunks of all runs, several at once; those over sequences that do not forget in one piece."""
    if not runs:
        return
    run_kernel(kernel, [r.probe for r in runs] + [partial(r.guess, i) for r in runs for i in range(2, r.n)], WORK)
    whole = [r.whole for r in runs if not r.forgets]
    cut = [r for r in runs if r.forgets]
    run_kernel(kernel, whole + [partial(r.chunk, i) for r in cut for i in range(r.n)], WORK)
    run_kernel(kernel, [r.settle for r in cut], WORK)
    run_kernel(kernel, [task for r in cut for task in r.remaining()], WORK)
    for r in runs:
        record(r.report)
