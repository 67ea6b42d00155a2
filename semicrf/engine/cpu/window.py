"""The window of live sources: sums over durations in a linear domain that certifies itself.

For each label the window holds ``U[s] = exp(log u_s - frame)`` for the last K sources, so the sum over durations is a
product with ``D = exp(duration)``. A linear domain may flush what is small; these bounds make that safe for any input:

* what is not zero is never flushed to zero: U and D are kept above e^-250 and e^-450, U below e^200. So a sum is 0 just
  where no source can reach it, and a sum above e^-200 is off by less than K e^-43;
* a sum between 0 and e^-200 (by decay, by an expired large source, by masks) is computed again in logarithms, and the
  label's frame is moved to its window; so is the frame of a label whose next source exceeds e^200.

With a *payload* every arc carries a number beside its weight, and the window its moment ``V = U r``, a first-order
expectation (Li & Eisner 2009): three products per term instead of one, no further exponentials.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu.lanes import (
    LANES,
    MAGIC,
    above,
    exp,
    fill,
    fma,
    larger,
    load,
    log,
    smaller,
    store,
    times_power_of_two,
    where_open,
    where_positive,
)
from semicrf.engine.cpu.linking import cold, kernel, small
from semicrf.engine.cpu.memory import BASE, BEST, FRAME, GAUGE, LO, LOWER, PAD, PREFIX, RBASE, SCALARS, TOPS, clear

DRIFT = 60.0  # a frame this far below its newest source is moved when a tile opens
HIGH = 200.0  # log of the largest U
SPAN = 32  # positions after which means are counted from a new gauge
U_LEAST = np.exp(-250.0)
LN2 = 0.693147180559945309
inf = np.inf

FIRST, NEWEST, FRESH, GAUGED, CAREFUL, PATIENCE = range(6)  # of `now`
DURATIONS, CHANGES = 6, 7  # whether gradients of these are wanted
ROWS = 8  # whether alpha is wanted at every position
NUMBERS = 9


@kernel
def lowest(m, at, c, t):
    """The first source from which any label of these lanes may reach t."""
    low = inf
    for i in range(c, min(c + LANES, at.C)):
        low = min(low, m[LO, i])
    return max(np.int64(low), t - at.K)


@kernel
def far(m, at, U, D, S, n, count, c):
    """Add to S[j] the sum of U[-q] D[j + q] over q < count, for j < n.

    Four destinations share the loads; D is padded with zeros.
    """
    j = 0
    while j + 4 <= n:
        x0 = load(m, S + j, c)
        x1 = load(m, S + j + 1, c)
        x2 = load(m, S + j + 2, c)
        x3 = load(m, S + j + 3, c)
        d0 = load(m, D + j, c)
        d1 = load(m, D + j + 1, c)
        d2 = load(m, D + j + 2, c)
        for q in range(min(count, at.K - j)):
            u = load(m, U - q, c)
            d3 = load(m, D + j + q + 3, c)
            x0 = fma(u, d0, x0)
            x1 = fma(u, d1, x1)
            x2 = fma(u, d2, x2)
            x3 = fma(u, d3, x3)
            d0 = d1
            d1 = d2
            d2 = d3
        store(m, S + j, c, x0)
        store(m, S + j + 1, c, x1)
        store(m, S + j + 2, c, x2)
        store(m, S + j + 3, c, x3)
        j += 4
    while j < n:
        x0, x1, x2, x3 = load(m, S + j, c), fill(0.0), fill(0.0), fill(0.0)
        last = min(count, at.K - j)
        for q in range(0, last - 3, 4):
            x0 = fma(load(m, U - q, c), load(m, D + j + q, c), x0)
            x1 = fma(load(m, U - q - 1, c), load(m, D + j + q + 1, c), x1)
            x2 = fma(load(m, U - q - 2, c), load(m, D + j + q + 2, c), x2)
            x3 = fma(load(m, U - q - 3, c), load(m, D + j + q + 3, c), x3)
        for q in range(max(last, 0) // 4 * 4, last):
            x0 = fma(load(m, U - q, c), load(m, D + j + q, c), x0)
        store(m, S + j, c, (x0 + x1) + (x2 + x3))
        j += 1


@cold
def exact(m, at, now, c, t, x, mean, highest, payload):
    """Of the sources of these lanes before t: rows x, log sum_s exp(logu + logd), mean, of r + dp there, and highest,
    the largest logu.
    """
    first, base, low = now[FIRST], load(m, BASE, c), lowest(m, at, c, t)
    top, most = fill(-inf), fill(-inf)
    for s in range(low, t):
        u = load(m, at.logu + s - first, c) - base
        most = larger(u, most)
        top = larger(u + load(m, at.logd + t - 1 - s, c), top)
    store(m, highest, c, most)
    top = where_open(top, top, fill(0.0))
    total, total1 = fill(0.0), fill(0.0)
    for s in range(low, t):
        p = exp(load(m, at.logu + s - first, c) - base + load(m, at.logd + t - 1 - s, c) - top)
        total = total + p
        if payload:
            r = load(m, at.r + s - first, c) + load(m, RBASE, c) + load(m, at.dp + t - 1 - s, c)
            total1 = total1 + where_positive(p, p * r, fill(0.0))
    store(m, x, c, log(total) + top)
    store(m, mean, c, where_positive(total, total1 / total, fill(0.0)))


@cold
def slide(m, at, now, t, payload):
    """Move the live sources to the front of the buffers, in units of their frames of now."""
    by = t - at.K - PAD - now[FIRST]
    for q in range(at.K + PAD):
        for c in range(0, at.width, LANES):
            store(m, at.U + q, c, load(m, at.U + q + by, c))
            store(m, at.logu + q, c, load(m, at.logu + q + by, c) - load(m, BASE, c))
            if payload:
                store(m, at.V + q, c, load(m, at.V + q + by, c))
                store(m, at.r + q, c, load(m, at.r + q + by, c) + load(m, RBASE, c))
    clear(m, at, BASE, PREFIX - BASE)
    now[FIRST] += by


@cold
def kill(m, at, now, c, t, end, row, payload):
    """Sources before `end`, at most t, reach no further destination: of those of these lanes where row `row` is -inf,
    of all where it is -1.
    """
    gate = load(m, row, c) if row >= 0 else fill(-inf)
    for q in range(lowest(m, at, c, t) - now[FIRST], end - now[FIRST]):
        store(m, at.U + q, c, where_open(gate, load(m, at.U + q, c), fill(0.0)))
        store(m, at.logu + q, c, where_open(gate, load(m, at.logu + q, c), fill(-inf)))
        if payload:
            store(m, at.V + q, c, where_open(gate, load(m, at.V + q, c), fill(0.0)))
    low = load(m, LO, c)
    store(m, LO, c, where_open(gate, low, larger(low, fill(np.float64(end)))))


@cold
def _renew(m, at, now, c, s0, s1, payload):
    """U and V of sources s0..s1-1 from their logarithms."""
    for q in range(s0 - now[FIRST], s1 - now[FIRST]):
        x = load(m, at.logu + q, c) - load(m, BASE, c)
        u = kept(exp(smaller(x, fill(HIGH))), x)
        store(m, at.U + q, c, u)
        if payload:
            store(m, at.V + q, c, u * (load(m, at.r + q, c) + load(m, RBASE, c)))


@small
def kept(u, x):
    """u, not below its least where x > -inf."""
    return where_open(x, larger(u, fill(U_LEAST)), fill(0.0))


@kernel
def settle(m, at, now, t, payload):
    """Before a tile: move the frames that have drifted from their newest source, or are to be lower."""
    for c in range(0, at.width, LANES):
        if _drifts(m, at, now, c, t):
            _reframe(m, at, now, c, t, payload)
            store(m, LOWER, c, fill(0.0))


@kernel
def _drifts(m, at, now, c, t):
    """Set `lower` to what the frames of these lanes are to be moved by, in units of log 2; whether any is to be."""
    first, newest = now[FIRST], now[NEWEST]
    moves = now[FRESH] != 0
    tops = fill(-inf)
    for q in range(t - min(newest, at.K) - first, t - first):
        tops = larger(load(m, at.logu + q, c), tops)
    tops = tops - load(m, BASE, c)
    store(m, TOPS, c, tops)
    if not moves and above(tops, fill(DRIFT)) == 0:
        return False
    for i in range(c, c + LANES):
        top, lower = m[TOPS, i], m[LOWER, i]
        shift = max(top, lower) if lower != 0.0 else (top if top > DRIFT else 0.0)
        m[LOWER, i] = np.floor(shift / LN2)
    return True


@cold
def _reframe(m, at, now, c, t, payload):
    """Move the frames of these lanes by `lower`: products where all go up, anew from logarithms where one goes down."""
    first, newest, low = now[FIRST], now[NEWEST], lowest(m, at, c, t)
    shift = load(m, LOWER, c)
    store(m, FRAME, c, fma(shift, fill(LN2), load(m, FRAME, c)))
    store(m, BASE, c, fma(shift, fill(LN2), load(m, BASE, c)))
    if above(fill(0.0), shift) != 0:
        _renew(m, at, now, c, low, t, payload)
        return
    if above(shift, fill(0.0)) != 0:
        scale = times_power_of_two(fill(1.0), fill(MAGIC) - smaller(shift, fill(1000.0)))
        for q in range(low - first, t - newest - first):
            u = load(m, at.U + q, c)
            store(m, at.U + q, c, where_positive(u, larger(u * scale, fill(U_LEAST)), fill(0.0)))
            if payload:
                store(m, at.V + q, c, load(m, at.V + q, c) * scale)
    _renew(m, at, now, c, max(low, t - newest), t, payload)


@cold
def regauge(m, at, now, t):
    """Count means from here: the largest label's, so that they stay small."""
    shift = m[SCALARS, BEST]
    m[SCALARS, GAUGE] += shift
    for c in range(0, at.width, LANES):
        by = load(m, PREFIX, c) - fill(shift)
        for q in range(lowest(m, at, c, t) - now[FIRST], t - now[FIRST]):
            store(m, at.V + q, c, fma(by, load(m, at.U + q, c), load(m, at.V + q, c)))
        store(m, RBASE, c, load(m, RBASE, c) + by)
        store(m, PREFIX, c, fill(0.0))
    now[GAUGED] = t
