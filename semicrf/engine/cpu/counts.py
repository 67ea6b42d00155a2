"""Expected counts of one sequence: every gradient of a log-sum, and of a mean carried beside it.

The reverse sweep meets the stored rows of the forward one. An arc that leads from state x to state y with weight w has
probability exp(x + w + y - log Z); beside it stands the mean payload of the paths through it, less the mean of all.
Counts come in pairs (mass, moment): mass is the sum of p, moment the sum of p times that difference. They are taken
tile by tile, while the reverse window is hot: a segment that starts at s with duration k has mass ``z_s U D_k``, where
z_s is the mass of all that start there over their window sum, so durations are a correlation of rows that are there
already.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from semicrf.engine.cpu.lanes import LANES, above, exp, fill, fma, load, smaller, spread, store, where_positive
from semicrf.engine.cpu.linking import cold, kernel
from semicrf.engine.cpu.memory import BASE, HA, HG, HX, LA, LG, LX, RBASE, TILE, WTOP, S
from semicrf.engine.cpu.window import FIRST, lowest

ROOM = 600.0  # a frame may lie this far above log Z
ONCE = 1.0  # log of what a probability is cut to, which is 0 but for rounding
inf = np.inf

N = TILE + 1
AL, GL, FA, FG = 0, N, 2 * N, 3 * N  # rows of the forward sweep, and their means
START, END, START1, END1 = 4 * N, 5 * N, 6 * N, 7 * N
Z, Z1 = 8 * N, 9 * N
LEFT, RIGHT, LEFT1, RIGHT1 = 10 * N, 11 * N, 12 * N, 13 * N  # the two sides of a change of label
COVER = 14 * N  # mass, and moment, at the position
DURATIONS = COVER + 2


class Sums(NamedTuple):
    """Where the sums over positions begin, in the rows of counts."""

    duration: int
    duration1: int
    duration_exact: int
    duration_exact1: int
    transition: int
    transition1: int
    transition_exact: int
    transition_exact1: int
    rows: int


@kernel
def summed(K, C):
    """Where the sums of a run begin."""
    k, d = K + TILE, DURATIONS
    return Sums(
        d, d + k, d + 2 * k, d + 3 * k,
        d + 4 * k, d + 4 * k + C, d + 4 * k + 2 * C, d + 4 * k + 3 * C, d + 4 * k + 4 * C,
    )  # fmt: skip


@kernel
def fetch(k, rows, p, n, C, into):
    """Rows p, p - 1, ... of what the forward sweep stored."""
    for j in range(n):
        for c in range(C):
            k[into + j, c] = rows[p - j, c]


@kernel
def positions(m, k, at, n, z, rate, h, payload):
    """Mass, and moment, of segments that start at a tile's positions, and that end there; z: offset less log Z; h:
    gauge less the mean of all.
    """
    for j in range(n):
        shift = fill(z + (j + 1) * rate)
        for c in range(0, at.width, LANES):
            start = exp(smaller(load(k, GL + j, c) + load(m, LA + j, c) + shift, fill(ONCE)))
            end = exp(smaller(load(k, AL + j, c) + load(m, LG + j, c) + shift, fill(ONCE)))
            store(k, START + j, c, start)
            store(k, END + j, c, end)
            s = load(m, S + j, c)
            share = where_positive(s, start / s, fill(0.0))
            store(k, Z + j, c, share)
            if payload:
                f = load(k, FG + j, c) + fill(h)
                g = load(k, FA + j, c) + fill(h)
                zero = fill(0.0)
                start1 = start * (f + load(m, HA + j, c))
                end1 = end * (g + load(m, HG + j, c))
                share1 = share * (f + load(m, HX + j, c))
                store(k, START1 + j, c, where_positive(start, start1, zero))
                store(k, END1 + j, c, where_positive(end, end1, zero))
                store(k, Z1 + j, c, where_positive(share, share1, zero))


@kernel
def correlate(m, k, a, z, u, n, c):
    """Add to row a + r of the counts the sum of z[j] u[j - r] over j < n, for r < 4."""
    x0, x1, x2, x3 = load(k, a, c), load(k, a + 1, c), load(k, a + 2, c), load(k, a + 3, c)
    i = u + n - 1
    u0, u1, u2 = load(m, i, c), load(m, i - 1, c), load(m, i - 2, c)
    for j in range(n):
        u3 = load(m, i - j - 3, c)
        y = load(k, z + n - 1 - j, c)
        x0, x1, x2, x3 = fma(y, u0, x0), fma(y, u1, x1), fma(y, u2, x2), fma(y, u3, x3)
        u0, u1, u2 = u1, u2, u3
    store(k, a, c, x0)
    store(k, a + 1, c, x1)
    store(k, a + 2, c, x2)
    store(k, a + 3, c, x3)


@kernel
def durations(m, k, at, sums, now, t, n, payload):
    """Add a tile's counts of durations, less the factors D."""
    row = t - 1 - now[FIRST]
    for c in range(0, at.width, LANES):
        for lag in range(0, min(at.K, t + n - 1 - lowest(m, at, c, t)), 4):
            correlate(m, k, sums.duration + lag, Z, at.U + row - lag, n, c)
            if payload:
                correlate(m, k, sums.duration1 + lag, Z1, at.U + row - lag, n, c)
                correlate(m, k, sums.duration1 + lag, Z, at.V + row - lag, n, c)


@cold
def exact_durations(m, k, at, sums, now, t, z, h, payload):
    """Counts of durations from one position, where its window sum was done in logarithms; z: offset less log Z."""
    first = now[FIRST]
    for c in range(0, at.width, LANES):
        redone = fill(0.0) - load(m, S, c)
        if above(redone, fill(0.0)) == 0:
            continue
        x = where_positive(redone, load(k, GL, c) + load(m, LX, c) + fill(z) - load(m, BASE, c), fill(-inf))
        f = load(k, FG, c) + load(m, HX, c) + fill(h) + load(m, RBASE, c)
        for s in range(lowest(m, at, c, t), t):
            lag = t - 1 - s
            p = exp(smaller(x + load(m, at.logu + s - first, c) + load(m, at.logd + lag, c), fill(ONCE)))
            store(k, sums.duration_exact + lag, c, load(k, sums.duration_exact + lag, c) + p)
            if payload:
                moment = f + load(m, at.r + s - first, c) + load(m, at.dp + lag, c)
                moment = where_positive(p, p * moment, fill(0.0))
                store(k, sums.duration_exact1 + lag, c, load(k, sums.duration_exact1 + lag, c) + moment)


@kernel
def sides(m, k, at, sums, n, z, rate, h, payload):
    """The two sides of a tile's changes of label: what their product cannot hold is counted at once."""
    for j in range(n):
        top = -inf
        for c in range(at.C):
            top = max(top, m[LA + j, c])
        top = top if top > -inf else 0.0
        high = -inf
        shift = fill(z + (j + 1) * rate + top)
        for c in range(0, at.width, LANES):
            x = load(k, AL + j, c) + load(m, WTOP, c) + shift
            store(k, RIGHT + j, c, x)
            store(k, LEFT + j, c, exp(load(m, LA + j, c) - fill(top)))
        for c in range(at.C):
            high = max(high, k[RIGHT + j, c])
        if high > ROOM:
            _changes(m, k, at, sums, j, top, h, payload)
        for c in range(0, at.width, LANES):
            x = exp(load(k, RIGHT + j, c)) if high <= ROOM else fill(0.0)
            store(k, RIGHT + j, c, x)
            if payload:
                a, f = load(k, LEFT + j, c), load(m, HA + j, c) + fill(h)
                store(k, LEFT1 + j, c, where_positive(a, a * f, fill(0.0)))
                store(k, RIGHT1 + j, c, where_positive(x, x * load(k, FA + j, c), fill(0.0)))


@cold
def _changes(m, k, at, sums, j, top, h, payload):
    """Counts of changes of label at one position, in logarithms; rows: the label before."""
    for d in range(at.C):
        x = m[LA + j, d] - top
        f = m[HA + j, d] + h if payload else 0.0
        for c in range(0, at.width, LANES):
            p = exp(smaller(load(k, RIGHT + j, c) + fill(x) + load(m, at.logw + d, c), fill(ONCE)))
            store(k, sums.transition_exact + d, c, load(k, sums.transition_exact + d, c) + p)
            if payload:
                moment = load(k, FA + j, c) + fill(f) + load(m, at.wp + d, c)
                moment = where_positive(p, p * moment, fill(0.0))
                store(k, sums.transition_exact1 + d, c, load(k, sums.transition_exact1 + d, c) + moment)


@kernel
def transitions(k, at, sums, n, payload):
    """Add a tile's counts of changes of label, less the factors W: a product of rows."""
    for d in range(at.C):
        for c in range(0, at.width, LANES):
            x = load(k, sums.transition + d, c)
            for j in range(n):
                x = fma(spread(k, LEFT + j, d), load(k, RIGHT + j, c), x)
            store(k, sums.transition + d, c, x)
            if payload:
                x = load(k, sums.transition1 + d, c)
                for j in range(n):
                    x = fma(spread(k, LEFT1 + j, d), load(k, RIGHT + j, c), x)
                    x = fma(spread(k, LEFT + j, d), load(k, RIGHT1 + j, c), x)
                store(k, sums.transition1 + d, c, x)
