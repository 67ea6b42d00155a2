"""Runs of the sweep over a batch: totals, stored rows, and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from semicrf.engine.cpu import counts
from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.cutting import Windows
from semicrf.engine.cpu.junction import begin, leave
from semicrf.engine.cpu.linking import cold, entry, kernel, small
from semicrf.engine.cpu.memory import FLAW, GAUGE, HA, HG, INIT, INITP, LA, LG, SCALARS, E, clear, mapped, prepare
from semicrf.engine.cpu.parts import add_at
from semicrf.engine.cpu.sweep import advance
from semicrf.engine.cpu.window import CHANGES, DURATIONS, NUMBERS, ROWS

inf = np.inf


class Rows(NamedTuple):
    """What a sweep stores by position: logarithms of alpha (B, T+1, C) and g (B, T, C), and their means."""

    alpha: Any
    g: Any
    alpha_mean: Any
    g_mean: Any


class Spans(NamedTuple):
    """What is run: positions first .. last of sequences, as the run sees them, from a window to the next."""

    sequence: Any  # (n,)
    first: Any  # (n,)
    last: Any  # (n,)
    entered: Windows  # read where first > 0
    left: Windows  # written where last is not the end
    cover: Any  # (n, C): mass of each label at the first position of a reversed run, where first > 0
    cover_moment: Any  # (n, C)


class Pull(NamedTuple):
    """Where gradients are added, and what they are multiples of."""

    targets: Any  # (models, 8, 2) int64: address, bytes from one sequence to the next; 0 where not wanted
    mass: Any  # (models, B): the factor of the counts
    moment: Any  # (models, B): the factor of their moments


NO_PULL = Pull(np.zeros((0, 8, 2), np.int64), np.zeros((0, 0)), np.zeros((0, 0)))


class Totals(NamedTuple):
    """Of each span: written by the forward sweep where the span reaches the end, read by the reverse."""

    log_z: Any  # (n,)
    mean: Any  # (n,)


@kernel
def _keep(out, i, m, row, n, C, x, rate):
    """out[i + j] = m[row + j] + x + j rate, for j < n."""
    for j in range(n):
        for c in range(C):
            out[i + j, c] = m[row + j, c] + (x + j * rate)


@kernel
def _keep_tile(m, at, rows, b, L, t, n, offset, rate, payload):
    """Store a tile's rows, in absolute terms."""
    leads = min(n, L - t)
    _keep(rows.alpha[b], t, m, LA, n, at.C, offset + rate, rate)
    _keep(rows.g[b], t, m, LG, leads, at.C, offset + rate, rate)
    if payload:
        gauge = m[SCALARS, GAUGE]
        _keep(rows.alpha_mean[b], t, m, HA, n, at.C, gauge, 0.0)
        _keep(rows.g_mean[b], t, m, HG, leads, at.C, gauge, 0.0)


@kernel
def _blank(out, i, end, C, x):
    """out[i : end] = x."""
    for j in range(i, end):
        for c in range(C):
            out[j, c] = x


@cold
def _keep_ends(m, at, rows, b, L, payload):
    """Store what stands before the first position and after the last."""
    T, C = rows.g.shape[1], at.C
    _blank(rows.alpha[b], 0, 1, C, -inf)
    _blank(rows.alpha[b], L + 1, T + 1, C, -inf)
    _blank(rows.g[b], L, T, C, -inf)
    _keep(rows.g[b], 0, m, INIT, 1, C, 0.0, 0.0)
    if payload:
        _blank(rows.alpha_mean[b], 0, 1, C, 0.0)
        _blank(rows.alpha_mean[b], L + 1, T + 1, C, 0.0)
        _blank(rows.g_mean[b], L, T, C, 0.0)
        _keep(rows.g_mean[b], 0, m, INITP, 1, C, 0.0, 0.0)


@cold
def _total(m, at, job, b, row, offset):
    """Log total and mean over final labels, from the rows of the last position."""
    end, endp = E, E + 1
    clear(m, at, end, 2)
    P.weight_row(job, P.END, b, 0, m, end)
    if job.payload:
        P.payload_row(job, P.END, b, 0, m, endp, E + 2)
    top = -inf
    for c in range(at.C):
        top = max(top, m[LA + row, c] + m[end, c])
    if top == -inf:
        return m[SCALARS, FLAW] - inf, 0.0
    total = 0.0
    mean = 0.0
    for c in range(at.C):
        w = np.exp(m[LA + row, c] + m[end, c] - top)
        total += w
        if job.payload and w > 0.0:
            mean += w * (m[HA + row, c] + m[endp, c])
    return offset + top + np.log(total) + m[SCALARS, FLAW], mean / total + (m[SCALARS, GAUGE] if job.payload else 0.0)


@kernel
def _give(pull, p, b, i, C, k, mass, moment, payload):
    """Add a row of counts to row i of part p of every gradient that wants it."""
    for model in range(pull.targets.shape[0]):
        x, y = pull.mass[model, b], pull.moment[model, b]
        if pull.targets[model, p, 0] != 0 and (x != 0.0 or y != 0.0):
            at = pull.targets[model, p, 0] + b * pull.targets[model, p, 1] + 8 * C * i
            for c in range(C):
                add_at(at + 8 * c, x * k[mass, c] + y * k[moment, c] if payload else x * k[mass, c])


@kernel
def _give_position(m, k, at, pull, b, p, j, L, payload):
    """Add the counts of position p, row j of a tile, and go on to the position before it."""
    C = at.C
    cover, cover1 = counts.COVER, counts.COVER + 1
    start, start1, end, end1 = counts.START + j, counts.START1 + j, counts.END + j, counts.END1 + j
    for c in range(C):
        allowed = m[E + j, c] > -inf
        k[counts.AL + j, c] = k[cover, c] if allowed else 0.0
        k[counts.FA + j, c] = k[cover1, c] if allowed else 0.0
    _give(pull, P.EMISSION, b, p, C, k, counts.AL + j, counts.FA + j, payload)
    _give(pull, P.OPEN, b, p, C, k, start, start1, payload)
    if p == 0:
        _give(pull, P.START, b, 0, C, k, start, start1, payload)
    else:
        _give(pull, P.CLOSE, b, p - 1, C, k, end, end1, payload)
    for c in range(C):
        k[cover, c] += k[end, c] - k[start, c]
        if payload:
            k[cover1, c] += k[end1, c] - k[start1, c]


@cold
def _last(m, k, at, rows, pull, b, L, log_z, h, payload):
    """Counts of the segments that end with the sequence."""
    for c in range(at.C):
        p = np.exp(min(rows.alpha[b, L, c] + m[INIT, c] - log_z, counts.ONCE))
        k[counts.COVER, c] = p
        k[counts.COVER + 1, c] = p * (rows.alpha_mean[b, L, c] + m[INITP, c] + h) if payload and p > 0.0 else 0.0
    _give(pull, P.CLOSE, b, L - 1, at.C, k, counts.COVER, counts.COVER + 1, payload)
    _give(pull, P.END, b, 0, at.C, k, counts.COVER, counts.COVER + 1, payload)


@cold
def _give_sums(m, k, at, sums, pull, b, payload):
    """Add the counts that were summed over positions, of durations and of changes of label."""
    K, C = at.K, at.C
    for lag in range(K):
        a, a1 = sums.duration + lag, sums.duration1 + lag
        for c in range(C):
            x, y = k[a, c], m[at.D + lag, c]
            k[a, c] = x * y + k[sums.duration_exact + lag, c]
            if payload:
                k[a1, c] = k[a1, c] * y + x * m[at.DP + lag, c] + k[sums.duration_exact1 + lag, c]
        _give(pull, P.DURATION, b, lag, C, k, a, a1, payload)
    for d in range(C):  # rows of the sums are the labels after
        for c in range(C):
            a = sums.transition + c
            k[counts.AL, c] = k[a, d] * m[at.W + c, d] + k[sums.transition_exact + c, d]
            if payload:
                x = k[sums.transition1 + c, d] * m[at.W + c, d] + k[a, d] * m[at.WP + c, d]
                k[counts.FA, c] = x + k[sums.transition_exact1 + c, d]
        _give(pull, P.TRANSITION, b, d, C, k, counts.AL, counts.FA, payload)


@small
def _count_tile(m, k, at, sums, now, rows, pull, b, L, t, n, z, gauged, rate, payload):
    """Take the counts of a tile of the reverse sweep; z: its offset less log Z, gauged: its gauge less the mean."""
    p = L - t
    counts.fetch(k, rows.alpha[b], p, n, at.C, counts.AL)
    counts.fetch(k, rows.g[b], p, n, at.C, counts.GL)
    if payload:
        counts.fetch(k, rows.alpha_mean[b], p, n, at.C, counts.FA)
        counts.fetch(k, rows.g_mean[b], p, n, at.C, counts.FG)
    counts.positions(m, k, at, n, z, rate, gauged, payload)
    if now[DURATIONS] != 0:
        counts.durations(m, k, at, sums, now, t, n, payload)
        if n == 1:
            counts.exact_durations(m, k, at, sums, now, t, z, gauged, payload)
    if now[CHANGES] != 0:
        counts.sides(m, k, at, sums, n, z, rate, gauged, payload)
        counts.transitions(k, at, sums, n, payload)
    for j in range(n):
        _give_position(m, k, at, pull, b, p - j, j, L, payload)


@cold
def _wanted(pull, now, b):
    """Whether a sequence has gradients at all; `now` remembers which of those that are summed over positions."""
    any_part, now[DURATIONS], now[CHANGES] = False, 0, 0
    for model in range(pull.targets.shape[0]):
        if pull.mass[model, b] != 0.0 or pull.moment[model, b] != 0.0:
            for p in range(pull.targets.shape[1]):
                any_part = any_part or pull.targets[model, p, 0] != 0
            now[DURATIONS] |= pull.targets[model, P.DURATION, 0] != 0
            now[CHANGES] |= pull.targets[model, P.TRANSITION, 0] != 0
    return any_part


@entry
def run(job, spans, i0, i1, m, k, now, keep, count, rows, totals, pull):
    """Spans i0 .. i1-1 from one end. Forward: their totals, and rows where `keep`; reversed: gradients are added where
    `count`.

    m, k, now: memory, see `room`.
    """
    payload = job.payload
    at, sums = mapped(job.K, job.C, payload), counts.summed(job.K, job.C)
    now[ROWS] = keep or count
    again = False
    for i in range(i0, i1):
        b, first, last = spans.sequence[i], spans.first[i], spans.last[i]
        L, log_z, mean = job.lengths[b], totals.log_z[i], totals.mean[i]
        if count and not _wanted(pull, now, b):
            continue
        prepare(m, at, job, b, again)
        again = True
        begin(m, at, now, job, b, L, first, spans.entered, i)
        if count:
            clear(k, at, 0, sums.rows)
            if first == 0:
                _last(m, k, at, rows, pull, b, L, log_z, -mean, payload)
            else:
                for c in range(at.C):
                    k[counts.COVER, c] = spans.cover[i, c]
                    k[counts.COVER + 1, c] = spans.cover_moment[i, c]
        elif keep and first == 0:
            _keep_ends(m, at, rows, b, L, payload)
        t, n, offset, rate = first + 1, 0, 0.0, 0.0
        while t <= last:
            n, offset, rate = advance(m, at, now, job, b, L, last, t)
            if count and n > 0:
                z, gauged = offset - log_z, m[SCALARS, GAUGE] - mean
                _count_tile(m, k, at, sums, now, rows, pull, b, L, t, n, z, gauged, rate, payload)
            elif keep:
                _keep_tile(m, at, rows, b, L, t, n, offset, rate, payload)
            t += n
        if count:
            _give_sums(m, k, at, sums, pull, b, payload)
        if last < L:
            leave(m, at, now, last, spans.left, i, payload)
        if not job.reversed:
            totals.log_z[i], totals.mean[i] = (
                (m[SCALARS, FLAW], 0.0) if last < L else _total(m, at, job, b, n - 1, offset + n * rate)
            )


def room(job: P.Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory for one run: of the sweep, of counts, and whole numbers."""
    at = mapped.py_func(job.K, job.C, job.payload)
    rows = counts.summed.py_func(job.K, job.C).rows if job.reversed else 0
    m = torch.empty((at.rows + rows, at.width), dtype=torch.float64).numpy()  # unlike numpy's, in line with the cache
    return m[: at.rows], m[at.rows :], np.empty(NUMBERS, np.int64)
