"""Log-linear runs over one sequence that is cut into chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.cutting import Run, Windows, windows
from semicrf.engine.cpu.junction import join
from semicrf.engine.cpu.runs import NO_PULL, Pull, Rows, Spans, Totals, room, run

inf = float("inf")


def spans(job: P.Job, b: Sequence[int], first: Sequence[int], last: Sequence[int], entered: Windows, left: Windows):
    """Spans of sequences b."""
    cover = np.zeros((len(b), job.C))
    return Spans(np.array(b), np.array(first), np.array(last), entered, left, cover, np.zeros_like(cover))


def pieces(job: P.Job) -> Spans:
    """Every sequence of a batch in one piece."""
    none = windows(0, job.K + 1, job.C)
    return spans(job, range(len(job.lengths)), [0] * len(job.lengths), job.lengths.tolist(), none, none)


class _LogLinear(Run):
    """Either direction."""

    pull: Pull = NO_PULL
    keep = False

    def __init__(self, job: P.Job, b: int, cuts: list[int], rows: Rows, totals: Totals):
        self.job, self.rows, self.of_batch = job, rows, totals
        room = partial(windows, rows=job.K + 1, labels=job.C)
        super().__init__(b, int(job.lengths[b]), job.K, cuts, room, reversed=job.reversed)
        self.spans = spans(job, [b] * self.n, self.bounds[:-1], self.bounds[1:], self.entered, self.left)
        self.totals = Totals(np.zeros(self.n), np.zeros(self.n))

    def _run(self, on: Spans, i: int, totals: Totals, pull: Pull, *, keep: bool = False, count: bool = False) -> None:
        run(self.job, on, i, i + 1, *room(self.job), keep, count, self.rows, totals, pull)

    def between(self, first: int, last: int, entered: Windows, left: Windows) -> None:
        on = spans(self.job, [self.b], [first], [last], entered, left)
        self._run(on, 0, Totals(np.zeros(1), np.zeros(1)), NO_PULL)

    def chunk(self, i: int) -> None:
        self._run(self.spans, i, self.totals, NO_PULL, keep=self.keep)

    def whole(self) -> None:
        self._run(pieces(self.job), self.b, self.of_batch, self.pull, keep=self.keep, count=self.job.reversed)


class Forward(_LogLinear):
    """The forward sweep: totals, and rows."""

    def __init__(self, job: P.Job, b: int, cuts: list[int], rows: Rows, totals: Totals, keep: bool):
        super().__init__(job, b, cuts, rows, totals)
        self.keep = keep

    def settle(self) -> None:
        """Accept the junctions or mend them, in order; then totals are known."""
        super().settle()
        self.of_batch.log_z[self.b] = self.totals.log_z.sum() + self.base[-1]  # NaN where any chunk read NaN
        self.of_batch.mean[self.b] = self.totals.mean[-1] + self.mean_base[-1]

    def remaining(self) -> list[Callable[[], None]]:
        return [partial(self.lift, i) for i in range(1, self.n if self.keep else 0)]

    def lift(self, i: int) -> None:
        """Bring the rows of chunk i into the terms of the first."""
        at = self.b, slice(self.bounds[i] + 1, self.bounds[i + 1] + 1)
        pairs = (self.rows.alpha, self.rows.alpha_mean), (self.rows.g, self.rows.g_mean)
        for weight, mean in pairs:
            if self.job.payload:
                np.add(mean[at], self.mean_base[i], out=mean[at], where=weight[at] > -inf)
            weight[at] += self.base[i]


class Reverse(_LogLinear):
    """The reverse sweep: counts, each chunk's relative to what a cut through all paths where it begins makes of Z."""

    def __init__(self, job: P.Job, b: int, cuts: list[int], rows: Rows, totals: Totals, pull: Pull):
        super().__init__(job, b, cuts, rows, totals)
        self.totals.log_z[0], self.totals.mean[0] = totals.log_z[b], totals.mean[b]
        self.before = self.room(self.n)
        self.pull, sizes = pull, {P.DURATION: job.K, P.TRANSITION: job.C}
        self.sums = {p: np.zeros((self.n, len(pull.targets), size, job.C)) for p, size in sizes.items()}

    def _give(self, i: int, sign: float) -> None:
        """Add the counts of chunk i; the sums over positions go to rows of its own."""
        targets = self.pull.targets.copy()
        for m in range(len(targets)):
            for p, sums in self.sums.items():
                if targets[m, p, 0] != 0:
                    targets[m, p] = sums[i, m].ctypes.data, 0
        pull = Pull(targets, sign * self.pull.mass, sign * self.pull.moment)
        self._run(self.spans, i, self.totals, pull, count=True)

    def chunk(self, i: int) -> None:
        """Add the counts of chunk i."""
        if i > 0:
            self._join(i)
        self._give(i, 1.0)

    def again(self, i: int) -> None:
        """Take back what chunk i gave, and run it from what left the one before."""
        self._give(i, -1.0)
        super().again(i)

    def _join(self, i: int) -> None:
        """Z, and the label of the position before the cut, from the rows and what is guessed to follow."""
        job = self.job._replace(reversed=False)
        m, _, now = room(job)
        cover, mean = np.empty((2, self.n, job.C))
        p = int(job.lengths[self.b]) - self.bounds[i]
        join(job, self.b, p, m, now, self.rows, self.before, self.entered, i, cover, mean)
        top = cover[i].max()
        possible = top > -inf  # otherwise a guess from which nothing goes on, which will not be accepted: no counts
        mass = np.exp(cover[i] - top) if possible else np.zeros(job.C)
        total = mass.sum()
        self.spans.cover[i] = mass / total if possible else 0.0
        self.totals.log_z[i] = top + np.log(total) if possible else inf
        self.totals.mean[i] = self.spans.cover[i] @ mean[i]
        self.spans.cover_moment[i] = self.spans.cover[i] * (mean[i] - self.totals.mean[i])

    def settle(self) -> None:
        """Accept the junctions or mend them, in order."""
        super().settle()
        self.report.deviation = float(np.abs(self.totals.log_z + self.base - self.totals.log_z[0]).max())

    def give_sums(self, gradients: Sequence[dict[str, np.ndarray]]) -> None:
        """Add the sums over positions to the gradients (B, ...) of every model, chunk by chunk."""
        for m, wanted in enumerate(gradients):
            for p, name in ((P.DURATION, "duration"), (P.TRANSITION, "transition")):
                for i in range(self.n if name in wanted else 0):
                    wanted[name][self.b] += self.sums[p][i, m]
