"""`scan` and `scan_vjp` on the CPU, for log-linear semirings over models that factor: runs of the sweep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.compile.loglinear import LogLinear, Mean, loglinear
from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.cut import Forward, Reverse, pieces
from semicrf.engine.cpu.cutting import Run, divided, run_in_chunks
from semicrf.engine.cpu.places import held_as_read
from semicrf.engine.cpu.pool import groups
from semicrf.engine.cpu.runs import NO_PULL, Pull, Rows, Totals, room, run
from semicrf.engine.layout import MASKS, UNFACTORED, shared
from semicrf.engine.reference import State

inf = float("inf")


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether this engine runs a semiring over models with these parts."""
    form = loglinear(program)
    if device.type != "cpu" or form is None or parts & UNFACTORED:
        return False
    # Which paths a model's required starts forbid is no sum over arcs, so another model's mean cannot carry it.
    return not (program.potentials > 1 and "required" in parts and any(any(m.plus) for m in form.means))


def form_of(program: Program) -> LogLinear:
    """A semiring that `serves` has said yes to, as sums of products."""
    form = loglinear(program)
    assert form is not None
    return form


def jobs(form: LogLinear, table: np.ndarray, lengths: Tensor, K: int, C: int) -> list[tuple[int, Mean | None, P.Job]]:
    """One run for each mean, and one for each weight that has none: (weight, mean, what the loops take)."""
    none = np.zeros(table.shape[0])
    L = np.ascontiguousarray(lengths.numpy(), dtype=np.int64)
    made = []
    for n, w in enumerate(form.weights):
        job = P.Job(table, none, L, w.potential or 0, w.potential is None, False, False, False, K, C)
        means = [m for m in form.means if m.weight == n]
        made += [(n, m, job._replace(coefficients=np.array(m.payload), payload=True)) for m in means]
        if not means:
            made.append((n, None, job))
    return made


def _limits(job: P.Job, T: int) -> tuple[P.Job, float] | None:
    """A run whose mean is positive just where other models forbid what the weight allows, and what the mean then is."""
    others = [m for m, c in enumerate(job.coefficients) if c != 0 and m != job.weight]
    forbid = [m for m in others if P.forbids_more(job, T, m, np.zeros((2, job.C)))]
    if not forbid:
        return None
    limits = {-inf if job.coefficients[m] > 0 else inf for m in forbid}
    return job._replace(marks=True), limits.pop() if len(limits) == 1 else np.nan


def _run(job: P.Job, keep: bool, rows: Rows, totals: Totals, pull: Pull, b0: int, b1: int) -> None:
    run(job, pieces(job), b0, b1, *room(job), keep, job.reversed, rows, totals, pull)


def _zeros(*shape: int) -> Tensor:
    """numpy's zeros take no memory until they are written."""
    return torch.from_numpy(np.zeros(shape))


def rows_of(alpha: np.ndarray, g: np.ndarray, f: int, i: int) -> Rows:
    """The stored rows of a weight f and a mean i."""
    return Rows(alpha[f], g[f, :, :, 0], alpha[i], g[i, :, :, 0])


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`. Means are kept without what is added at the end."""
    form, B, d = form_of(program), lengths.shape[0], program.width
    models = held_as_read(models)
    value = np.zeros((d, B))
    shapes = ((d, B, T + 1, C), (d, B, T, 1, C)) if keep else ((d, 0, 0, 0), (d, 0, 0, 1, 0))
    alpha, g = np.empty(shapes[0]), np.empty(shapes[1])
    tasks: list[Callable[[], None]] = []
    at, others = _divided(form, lengths, K, C)
    runs: list[Run] = []
    limits: list[tuple[int, np.ndarray, float]] = []
    for n, mean, job in jobs(form, P.described(models), lengths, K, C):
        f = form.weights[n].field
        i = f if mean is None else mean.field
        rows, totals = rows_of(alpha, g, f, i), Totals(value[f], np.zeros(B) if mean is None else value[i])
        tasks += [partial(_run, job, keep, rows, totals, NO_PULL, b0, b1) for b0, b1 in others]
        runs += [Forward(job, b, cut, rows, totals, keep) for b, cut in at.items()]
        found = None if mean is None else _limits(job, T)
        if found is not None:
            marks, limit = found
            totals = Totals(np.zeros(B), np.zeros(B))
            limits.append((i, totals.mean, limit))
            tasks += [partial(_run, marks, False, rows, totals, NO_PULL, b0, b1) for b0, b1 in groups(B)]
    work = len(tasks) * T * C * (K + C) * B // max(1, len(groups(B)))
    run_kernel(run, tasks, work)
    run_in_chunks(run, runs)
    for i, marks, limit in limits:
        value[i][marks > 0] = limit
    add_totals(form, value)
    if not keep:
        return State.of(torch.from_numpy(value), torch.int32)
    return State.of(torch.from_numpy(value), torch.int32)._replace(
        alpha=torch.from_numpy(alpha),
        g=torch.from_numpy(g),
        offset=_zeros(program.potentials, B, T + 1),
        alpha_id=torch.empty((0, B, T + 1, C), dtype=torch.int32),
        g_id=torch.empty((0, B, T, 1, C), dtype=torch.int32),
    )


def _divided(form: LogLinear, lengths: Tensor, K: int, C: int) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
    """See `divided`. Two means of one weight share its rows, which chunks of each would bring into their own terms."""
    shared_rows = len({m.weight for m in form.means}) < len(form.means)
    return ({}, groups(lengths.shape[0])) if shared_rows else divided(lengths, K, C)


def add_totals(form: LogLinear, value: np.ndarray) -> None:
    """What is added to means at the end; of nothing there is no mean."""
    for m in form.means:
        for n, c in enumerate(m.plus):
            if c != 0:
                w = value[form.weights[n].field]
                value[m.field] += c * np.where(w > -inf, w, 0.0)
        value[m.field][value[form.weights[m.weight].field] == -inf] = 0.0


def finite_cotangent(form: LogLinear, value: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """A cotangent of the value, zero where that is not finite, and of the mean of nothing."""
    cot = np.where(np.isfinite(value), cotangent, 0.0)
    for m in form.means:
        cot[m.field] *= value[form.weights[m.weight].field] > -inf
    return cot


def places_of_sums(sums: list[dict[str, Tensor]]) -> np.ndarray:
    """(models, parts, 2): where gradients (B, ...) are added, as `Pull` has it."""
    targets = np.zeros((len(sums), len(P.NAMES), 2), np.int64)
    for m, total in enumerate(sums):
        for n, t in total.items():
            targets[m, P.NAMES.index(n)] = t.data_ptr(), t.stride(0) * 8
    return targets


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep: the same recurrence from the other end, and counts where the two meet."""
    form, B = form_of(program), lengths.shape[0]
    held = held_as_read(models)
    sums = [{n: _zeros(B, *m[n].shape[1:]) for n in want - MASKS} for m, want in zip(models, wanted, strict=True)]
    targets = places_of_sums(sums)
    value, alpha, g = state.value.numpy(), state.alpha.numpy(), state.g.numpy()
    cot = finite_cotangent(form, value, cotangent.numpy())
    gradients = [{n: t.numpy() for n, t in total.items()} for total in sums]
    done: set[int] = set()
    runs = []
    for n, mean, job in jobs(form, P.described(held), lengths, K, C):
        totals, pull = pull_of(form, n, mean, value, cot, n not in done, targets)
        done.add(n)
        job = job._replace(payload=bool(pull.moment.any()), reversed=True)
        f = form.weights[n].field
        runs.append((job, rows_of(alpha, g, f, f if mean is None else mean.field), totals, pull))

    def task(b0: int, b1: int) -> None:  # one after the other, as they add to the same gradients
        for job, rows, totals, pull in runs:
            _run(job, False, rows, totals, pull, b0, b1)

    at, others = _divided(form, lengths, K, C)
    run_kernel(run, [partial(task, b0, b1) for b0, b1 in others], 3 * len(runs) * B * T * C * (K + C))
    for job, rows, totals, pull in runs:
        asked = pull.mass.any(0) | pull.moment.any(0)
        cut = [Reverse(job, b, c, rows, totals, pull) for b, c in at.items() if asked[b]]
        run_in_chunks(run, cut)
        for r in cut:
            if r.forgets:
                r.give_sums(gradients)
    return [{n: shared(s, m[n]) for n, s in total.items()} for total, m in zip(sums, models, strict=True)]


def pull_of(
    form: LogLinear, n: int, mean: Mean | None, value: np.ndarray, cot: np.ndarray, first: bool, targets: np.ndarray
) -> tuple[Totals, Pull]:
    """What the counts of one run are relative to and multiplied by; a weight's own cotangent is in its first run."""
    models, B = targets.shape[0], value.shape[1]
    mass, moment = np.zeros((models, B)), np.zeros((models, B))
    weight = form.weights[n]
    log_z, centre = np.ascontiguousarray(value[weight.field]), np.zeros(B)
    if weight.potential is not None and first:
        mass[weight.potential] += cot[weight.field]
        for m in form.means:
            mass[weight.potential] += m.plus[n] * cot[m.field]
    if mean is not None:
        if weight.potential is not None:
            moment[weight.potential] = cot[mean.field]
        for m, c in enumerate(mean.payload):
            if c != 0:
                mass[m] += c * cot[mean.field]
        centre = value[mean.field].copy()
        for other, c in zip(form.weights, mean.plus, strict=True):
            if c != 0:
                centre -= c * np.where(value[other.field] > -inf, value[other.field], 0.0)
        centre[~np.isfinite(centre)] = 0.0
    return Totals(log_z, centre), Pull(targets, mass, moment)
