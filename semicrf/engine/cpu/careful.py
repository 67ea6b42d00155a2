"""One position in logarithms: exactly, whatever its range.

What the linear domain holds well is taken from it; a window sum or a sum over labels before that may have lost
something is done again from the logarithms of its terms, for all labels of a vector at once.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu.lanes import (
    LANES,
    doubtful,
    exp,
    fill,
    fma,
    larger,
    load,
    log,
    spread,
    store,
    where_open,
    where_positive,
)
from semicrf.engine.cpu.linking import cold
from semicrf.engine.cpu.memory import HA, HG, HX, LA, LG, LOWER, LX, S1, TOPS, WTOP, S, X, Y, product
from semicrf.engine.cpu.window import FRESH, exact

SUM_LEAST, LEAD_LEAST, A_LEAST = np.exp(-200.0), np.exp(-240.0), np.exp(-290.0)
inf = np.inf


@cold
def careful(m, at, now, t, last, payload):
    """One position in logarithms: exactly, whatever its range. A window sum done again leaves -1 in its place."""
    for c in range(0, at.width, LANES):
        s = load(m, S, c)
        x = log(s) + load(m, LX, c)
        store(m, LA, c, x)
        if payload:
            store(m, HA, c, where_open(x, load(m, S1, c) / s + load(m, HX, c), fill(0.0)))
        if doubtful(s, fill(SUM_LEAST)) != 0:
            _sum_again(m, at, now, c, t, payload)
    if not last:
        top = -inf
        for c in range(at.C):
            top = max(top, m[LA, c])
        lead(m, at, top if top > -inf else 0.0, payload)
    now[FRESH] = 1


@cold
def _sum_again(m, at, now, c, t, payload):
    """The window sums of these lanes where they are doubtful."""
    x, mean, highest = X, Y, TOPS
    exact(m, at, now, c, t, x, mean, highest, payload)
    for i in range(c, min(c + LANES, at.C)):
        if 0.0 < m[S, i] < SUM_LEAST:
            m[S, i] = -1.0
            m[LOWER, i] = m[highest, i] if abs(m[highest, i]) > 1.0 else 0.0
            m[LA, i] = m[x, i] + m[LX, i]
            m[HA, i] = m[mean, i] + m[HX, i] if m[LA, i] > -inf else 0.0


@cold
def lead(m, at, top, payload):
    """g of a careful position from its alpha, whose largest is `top`."""
    a, a1 = X, Y
    for c in range(0, at.width, LANES):
        x = load(m, LA, c)
        store(m, a, c, where_open(x, larger(exp(x - fill(top)), fill(A_LEAST)), fill(0.0)))
        store(m, a1, c, load(m, a, c) * load(m, HA, c))
    for c in range(0, at.width, LANES):
        g = product(m, at, a, at.W, c)
        if doubtful(g, fill(LEAD_LEAST)) != 0:
            _lead_again(m, at, c, payload)
            continue
        store(m, LG, c, log(g) + fill(top) + load(m, WTOP, c))
        if payload:
            g1 = product(m, at, a1, at.W, c) + product(m, at, a, at.WP, c)
            store(m, HG, c, where_positive(g, g1 / g, fill(0.0)))


@cold
def _lead_again(m, at, c, payload):
    """g of these lanes in logarithms."""
    top = fill(-inf)
    for d in range(at.C):
        top = larger(spread(m, LA, d) + load(m, at.logw + d, c), top)
    top = where_open(top, top, fill(0.0))
    total, total1 = fill(0.0), fill(0.0)
    for d in range(at.C):
        p = exp(spread(m, LA, d) + load(m, at.logw + d, c) - top)
        total = total + p
        if payload:
            total1 = fma(p, spread(m, HA, d) + load(m, at.wp + d, c), total1)
    store(m, LG, c, log(total) + top + load(m, WTOP, c))
    store(m, HG, c, where_positive(total, total1 / total, fill(0.0)))
