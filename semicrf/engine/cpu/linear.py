"""`scan` and `scan_vjp` on the CPU, for log-linear semirings over models that factor: runs of the sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.compile.loglinear import LogLinear, Mean, loglinear
from semicrf.engine.cpu import counts
from semicrf.engine.cpu.pool import run
from semicrf.engine.cpu.sweep import sweep
from semicrf.engine.cpu.tables import Array, Tables, arrays, combined, counting, forbids_more
from semicrf.engine.layout import MASKS
from semicrf.engine.reference import State

inf = float("inf")


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether this engine runs a semiring over models with these parts."""
    form = loglinear(program)
    if device.type != "cpu" or form is None or parts & {"segment", "edge", "duration_transition"}:
        return False
    # Which paths a model's required starts forbid is no sum over arcs, so another model's mean cannot carry it.
    return not (program.potentials > 1 and "required" in parts and any(any(m.plus) for m in form.means))


@dataclass
class Run:
    """One weight with at most one mean."""

    weight: int
    mean: Mean | None
    tables: Tables
    violations: Tables | None  # counts what the payload's models forbid beyond the weight, where they do
    limit: float  # the mean, where that has weight


def _form(program: Program) -> LogLinear:
    form = loglinear(program)
    assert form is not None  # `serves` was asked
    return form


def _runs(form: LogLinear, models: list[dict[str, Array]], B: int, T: int, K: int, C: int) -> list[Run]:
    runs = []
    for n, w in enumerate(form.weights):
        weight = models[w.potential] if w.potential is not None else counting(models[0])
        for mean in [m for m in form.means if m.weight == n] or [None]:
            payload, violations, limit = None, None, 0.0
            if mean is not None:
                payload = combined(models, mean.payload)
                marks, limit = forbids_more(weight, models, mean.payload)
                violations = Tables(weight, marks, B, T, K, C) if marks else None
            runs.append(Run(n, mean, Tables(weight, payload, B, T, K, C), violations, limit))
    return runs


def _sweep(tables: Tables, b: int, L: int, rev: bool, keep: tuple[Array, ...] | None) -> tuple[Array, Array]:
    """One direction of one sequence: its last row, log and mean; the rows themselves into `keep`."""
    C = tables.sizes["C"]
    last, hlast = np.empty(C), np.empty(C)
    none = np.zeros((0, C))
    stores = keep if keep is not None else (none, none, none, none)
    payload = tables.payload is not None
    made, means = tables.tables(b, rev)
    extra = tables.extra(b, rev) if payload else (none, none, none)
    sweep(tables.weights(b, rev), extra, made, means, L, rev, payload, keep is not None, stores, last, hlast)
    return last, hlast


def _total(last: Array, hlast: Array, tables: Tables, b: int) -> tuple[float, float]:
    """Log total and mean over final labels."""
    x = last + tables.of(tables.weight, "end", b)
    top = x.max()
    if top == -inf:
        return -inf, 0.0
    w = np.exp(x - top)
    total = w.sum()
    if tables.payload is None:
        return float(top + np.log(total)), 0.0
    h = np.where(w > 0, hlast + tables.of(tables.payload, "end", b), 0.0)
    return float(top + np.log(total)), float((w * h).sum() / total)


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`. Means are kept without what is added at the end."""
    form, B, d = _form(program), lengths.shape[0], program.width
    runs = _runs(form, [arrays(m) for m in models], B, T, K, C)
    value = np.zeros((d, B))
    alpha, g = (np.empty((d, B, T + 1, C)), np.empty((d, B, T, 1, C))) if keep else (np.empty((0, B)), np.empty((0, B)))
    rows = lengths.tolist()

    def task(r: Run, b: int) -> None:
        f, L, stores = form.weights[r.weight].field, rows[b], None
        i = r.mean.field if r.mean is not None else f
        if keep:
            stores = (alpha[f, b], g[f, b, :, 0], alpha[i, b], g[i, b, :, 0])
            for rows_, first in ((alpha[f, b], -inf), (alpha[i, b], -inf if i == f else 0.0)):
                rows_[0] = first
                rows_[L + 1 :] = first
            g[f, b, L:], g[i, b, L:] = -inf, -inf if i == f else 0.0
        value[f, b], mean = _total(*_sweep(r.tables, b, L, False, stores), r.tables, b)
        if r.mean is not None:
            value[i, b] = mean
        if r.violations is not None and _total(*_sweep(r.violations, b, L, False, None), r.violations, b)[1] > 0:
            value[i, b] = r.limit

    run([lambda r=r, b=b: task(r, b) for r in runs for b in range(B)], sum(rows) * C * (K + C) * len(runs))
    for mean in form.means:
        for n, c in enumerate(mean.plus):
            if c != 0:
                w = value[form.weights[n].field]
                value[mean.field] += c * np.where(w > -inf, w, 0.0)
        dead = value[form.weights[mean.weight].field] == -inf
        value[mean.field][dead] = 0.0
    none = torch.empty((0, B, T + 1, C) if keep else (0, B), dtype=torch.int64)
    g_none = torch.empty((0, B, T, 1, C) if keep else (0, B), dtype=torch.int64)
    stored = (torch.from_numpy(value), torch.from_numpy(alpha), torch.from_numpy(g))
    offset = torch.zeros((program.potentials, B, T + 1) if keep else (0, B), dtype=torch.float64)
    return State(*stored, offset, none, g_none, torch.empty((0, B), dtype=torch.int64))


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep: the same recurrence from the other end, and counts where the two meet."""
    form, B = _form(program), lengths.shape[0]
    parts = [arrays(m) for m in models]
    sums = [{n: np.zeros((B, *m[n].shape[1:])) for n in want} for m, want in zip(parts, wanted, strict=True)]
    value, rows = state.value.numpy(), lengths.tolist()
    cot = np.where(np.isfinite(value), cotangent.numpy(), 0.0)
    for m in form.means:  # of nothing there is no mean
        cot[m.field] *= value[form.weights[m.weight].field] > -inf
    done: set[int] = set()
    tasks = []
    for r in _runs(form, parts, B, T, K, C):
        weight = form.weights[r.weight]
        on_weight = cot[weight.field] * (r.weight not in done)
        if r.weight not in done:
            for m in form.means:
                on_weight = on_weight + m.plus[r.weight] * cot[m.field]
        done.add(r.weight)
        on_mean = cot[r.mean.field] if r.mean is not None else np.zeros(B)
        into: list[tuple[int, Array, Array]] = []  # model, factor of the mass, factor of the moment
        if weight.potential is not None:
            into.append((weight.potential, on_weight, on_mean))
        if r.mean is not None:
            into += [(m, c * on_mean, np.zeros(B)) for m, c in enumerate(r.mean.payload) if c != 0]
        tasks += [lambda r=r, into=into, b=b: _pull(form, r, state, b, rows[b], into, sums) for b in range(B)]
    run(tasks, 3 * sum(rows) * C * (K + C))
    return [{n: _shared(s, m[n]) for n, s in total.items()} for total, m in zip(sums, models, strict=True)]


def _pull(
    form: LogLinear,
    r: Run,
    state: State,
    b: int,
    L: int,
    into: list[tuple[int, Array, Array]],
    sums: list[dict[str, Array]],
) -> None:
    """Add the gradients of one run in one sequence to `sums`."""
    into = [(m, x[b], y[b]) for m, x, y in into if sums[m] and (x[b] != 0 or y[b] != 0)]
    if not into:
        return
    f = form.weights[r.weight].field
    i = r.mean.field if r.mean is not None else f
    log_z = float(state.value[f, b].detach())
    payload = r.tables.payload is not None and any(y != 0 for _, _, y in into)
    mean = 0.0
    if payload and r.mean is not None:
        plus = sum(
            c * float(state.value[form.weights[n].field, b].detach()) for n, c in enumerate(r.mean.plus) if c != 0
        )
        mean = float(state.value[i, b].detach()) - plus
    names = set().union(*(sums[m] for m, _, _ in into))
    for name, (mass, moment) in _counts(r.tables, state, b, f, i, L, log_z, mean, payload, names).items():
        for m, x, y in into:
            if name in sums[m]:
                total = sums[m][name][b]
                total[: mass.shape[0]] += x * mass + y * moment if payload else x * mass


def _counts(
    tables: Tables,
    state: State,
    b: int,
    f: int,
    i: int,
    L: int,
    log_z: float,
    mean: float,
    payload: bool,
    names: set[str],
) -> dict[str, tuple[Array, Array]]:
    """Mass and moment of every wanted part, for one sequence."""
    C, K = tables.sizes["C"], tables.sizes["K"]
    al, gl = state.alpha[f, b].numpy(), state.g[f, b, :, 0].numpy()
    ha, hg = state.alpha[i, b].numpy(), state.g[i, b, :, 0].numpy()
    he, be, hh, hb = (np.empty((L + 1, C)) for _ in range(4))
    _sweep(tables, b, L, True, (he, be, hh, hb))
    (D, logd, dtop, W, logw, wtop, _), (dp, _, wp, _) = tables.tables(b, False)
    e, es, ee, required = tables.weights(b, False)
    ep, esp, eep = tables.extra(b, False)
    start, end = np.empty((L, C)), np.empty((L, C))
    start1, end1 = (np.empty((L, C)), np.empty((L, C))) if payload else (start, end)
    counts.positions(al, gl, be, he, ha, hg, hb, hh, L, log_z, mean, payload, start, end, start1, end1)
    pairs = {
        "segment_start": (start, start1),
        "segment_end": (end, end1),
        "start": (start[0], start1[0]),
        "end": (end[-1], end1[-1]),
    }
    if "emission" in names:
        out, out1 = np.zeros((L, C)), np.zeros((L, C))
        counts.emissions(e, start, end, L, out)
        if payload:
            counts.emissions(e, start1, end1, L, out1)
        pairs["emission"] = (out, out1)
    if "transition" in names:
        out, out1 = np.zeros((C, C)), np.zeros((C, C))
        counts.transitions(al, he, ha, hh, W, logw, wtop, wp, L, log_z, mean, payload, out, out1)
        pairs["transition"] = (out, out1)
    if "duration" in names:
        P, Pp = np.zeros((L + 1, C)), np.zeros((L + 1, C))
        counts.prefix(e, L, P)
        if payload:
            counts.prefix(ep, L, Pp)
        low = np.zeros((L, C), np.int64)
        binds = counts.bounds(e, required, L, low)
        out, out1 = np.zeros((K, C)), np.zeros((K, C))
        counts.durations(
            gl, be, hg, hb, P, Pp, es, ee, esp, eep, low, binds, D, logd, dtop, dp, L, log_z, mean, payload, out, out1
        )  # fmt: skip
        pairs["duration"] = (out, out1)
    return {n: p for n, p in pairs.items() if n in names and n not in MASKS}


def _shared(total: Array, like: Tensor) -> Tensor:
    """A gradient in the shape and dtype of its part: summed over the batch where the batch shares the part."""
    if like.shape[0] == 1 and total.shape[0] != 1:
        total = total.sum(0, keepdims=True)
    return torch.from_numpy(total).to(like.dtype)
