"""Runs over one sequence that is cut into chunks: see `semicrf.engine.chunks`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from semicrf.engine.chunks import Agreement, Report, agreement, burn_in, record
from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.junction import Windows, join
from semicrf.engine.cpu.runs import NO_PULL, Pull, Rows, Spans, Totals, room, run

inf = float("inf")


def windows(n: int, K: int, C: int) -> Windows:
    """Room for n windows, to which nothing leads."""
    return Windows(np.full((n, K + 1, C), -inf), np.zeros((n, K + 1, C)), np.zeros(n), np.zeros(n))


def spans(job: P.Job, b: Sequence[int], first: Sequence[int], last: Sequence[int], entered: Windows, left: Windows):
    """Spans of sequences b."""
    cover = np.zeros((len(b), job.C))
    return Spans(np.array(b), np.array(first), np.array(last), entered, left, cover, np.zeros_like(cover))


def pieces(job: P.Job) -> Spans:
    """Every sequence of a batch in one piece."""
    none = windows(0, job.K, job.C)
    return spans(job, range(len(job.lengths)), [0] * len(job.lengths), job.lengths.tolist(), none, none)


class Run:
    """One direction over sequence b, cut at some positions."""

    pull: Pull = NO_PULL
    keep = False

    def __init__(self, job: P.Job, b: int, cuts: list[int], rows: Rows, totals: Totals):
        self.job, self.b, self.rows, self.of_batch = job, b, rows, totals
        L, n = int(job.lengths[b]), len(cuts) + 1
        self.n, self.bounds = n, [0, *(L - p for p in reversed(cuts)), L] if job.reversed else [0, *cuts, L]
        self.entered, self.left = windows(n, job.K, job.C), windows(n, job.K, job.C)
        self.spans = spans(job, [b] * n, self.bounds[:-1], self.bounds[1:], self.entered, self.left)
        self.totals = Totals(np.zeros(n), np.zeros(n))
        self.base, self.mean_base = np.zeros(n), np.zeros(n)  # what a chunk's own terms are relative to
        self.report = Report(b, job.reversed, n, min(burn_in(job.K), self.bounds[1] - 1))
        self.forgets = True

    def _run(self, on: Spans, i: int, totals: Totals, pull: Pull, *, keep: bool = False, count: bool = False) -> None:
        run(self.job, on, i, i + 1, *room(self.job), keep, count, self.rows, totals, pull)

    def _begun_before(self, i: int, back: int) -> Windows:
        """The window at bound i if it is begun `back` positions before, with any label."""
        fresh, made = windows(1, self.job.K, self.job.C), windows(1, self.job.K, self.job.C)
        fresh.weight[0, 0] = 0.0
        on = spans(self.job, [self.b], [self.bounds[i] - back], [self.bounds[i]], fresh, made)
        self._run(on, 0, Totals(np.zeros(1), np.zeros(1)), NO_PULL)
        possible = made.weight > -inf
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
        """Whether half a burn-in leads to the same: guesses about a sequence that does not forget are worth nothing."""
        x, y = (self._begun_before(1, n) for n in (self.report.burn_in, self.report.burn_in // 2))
        self.forgets = agreement(x.weight[0], x.mean[0], y.weight[0], y.mean[0]).accepted

    def chunk(self, i: int) -> None:
        """Run chunk i from what enters it."""
        self._run(self.spans, i, self.totals, NO_PULL, keep=self.keep)

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

    def finish(self, i: int) -> None:
        """What is left to do for chunk i."""

    def whole(self) -> None:
        """Run the sequence in one piece."""
        self.report.chunks = 1
        self._run(pieces(self.job), self.b, self.of_batch, self.pull, keep=self.keep, count=self.job.reversed)


class Forward(Run):
    """The forward sweep: totals, and rows."""

    def __init__(self, job: P.Job, b: int, cuts: list[int], rows: Rows, totals: Totals, keep: bool):
        super().__init__(job, b, cuts, rows, totals)
        self.keep = keep

    def settle(self) -> None:
        """Accept the junctions or mend them, in order; then totals are known."""
        super().settle()
        self.of_batch.log_z[self.b] = self.totals.log_z.sum() + self.base[-1]  # NaN where any chunk read NaN
        self.of_batch.mean[self.b] = self.totals.mean[-1] + self.mean_base[-1]

    def finish(self, i: int) -> None:
        """Bring the rows of chunk i into the terms of the first."""
        if not self.keep or i == 0:
            return
        at = self.b, slice(self.bounds[i] + 1, self.bounds[i + 1] + 1)
        pairs = (self.rows.alpha, self.rows.alpha_mean), (self.rows.g, self.rows.g_mean)
        for weight, mean in pairs:
            if self.job.payload:
                np.add(mean[at], self.mean_base[i], out=mean[at], where=weight[at] > -inf)
            weight[at] += self.base[i]


class Reverse(Run):
    """The reverse sweep: counts, each chunk's relative to what a cut through all paths where it begins makes of Z."""

    def __init__(self, job: P.Job, b: int, cuts: list[int], rows: Rows, totals: Totals, pull: Pull):
        super().__init__(job, b, cuts, rows, totals)
        self.totals.log_z[0], self.totals.mean[0] = totals.log_z[b], totals.mean[b]
        self.before = windows(self.n, job.K, job.C)
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


def run_in_chunks(runs: Sequence[Run], work: int) -> None:
    """All chunks of all runs, several at once; those over sequences that do not forget in one piece."""
    if not runs:
        return
    guesses = [partial(r.guess, i) for r in runs for i in range(1, r.n)]
    run_kernel(run, [r.probe for r in runs] + guesses, work)
    whole = [r for r in runs if not r.forgets]
    cut = [r for r in runs if r.forgets]
    run_kernel(run, [r.whole for r in whole] + [partial(r.chunk, i) for r in cut for i in range(r.n)], work)
    run_kernel(run, [r.settle for r in cut], work)
    run_kernel(run, [partial(r.finish, i) for r in cut for i in range(r.n)], work)
    for r in runs:
        record(r.report)
