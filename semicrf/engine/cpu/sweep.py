"""One direction of the dynamic programme for one sequence: tiles of positions over a window of sources.

When a tile opens, the sums over the sources before it are taken for all of its positions at once, and so are the
exponentials of its emissions. Inside it every position is products alone: its window sum times the emission, a product
with the transitions, and what leads on is added to the sums of the tile's later positions. Logarithms are taken when
the tile closes. A position where a number leaves the range in which that is exact ends the tile; if it is the first of
its tile it is done carefully, in logarithms. A tile also ends where sources die (a forbidden emission, a required
boundary), so that its window is one.

Everything is relative to a running offset, so logarithms stay small however long the sequence.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu.careful import A_LEAST, LEAD_LEAST, SUM_LEAST, careful
from semicrf.engine.cpu.lanes import (
    LANES,
    above,
    doubtful,
    fill,
    fma,
    larger,
    load,
    log,
    store,
    where_positive,
)
from semicrf.engine.cpu.linking import kernel, small
from semicrf.engine.cpu.memory import (
    A1,
    BASE,
    BEST,
    FRAME,
    FRAMES,
    G1,
    HA,
    HG,
    HX,
    HY,
    LA,
    LG,
    LX,
    LY,
    OFFSET,
    PREFIX,
    PREFIXES,
    RATE,
    RBASE,
    S1,
    SCALARS,
    TILE,
    WTOP,
    A,
    G,
    S,
    X,
    Y,
    product,
)
from semicrf.engine.cpu.tile import open_tile
from semicrf.engine.cpu.window import CAREFUL, FIRST, FRESH, HIGH, NEWEST, PATIENCE, ROWS, U_LEAST

A_MOST, U_MOST = np.exp(100.0), np.exp(HIGH)
inf = np.inf


@small
def dyadic(x):
    """x to the nearest 64th: offsets of few bits, so that adding and taking them away rounds nothing."""
    return np.floor(x * 64.0 + 0.5) / 64.0


@kernel
def fast(m, at, now, L, t, n, payload):
    """The positions of a tile by products alone; how many came out in range."""
    row = t - now[FIRST]
    for j in range(n):
        bad = 0
        for c in range(0, at.width, LANES):
            s, x = load(m, S + j, c), load(m, X + j, c)
            a = s * x
            a = where_positive(a, larger(a, fill(A_LEAST)), a)
            store(m, A + j, c, a)
            bad |= doubtful(s, fill(SUM_LEAST)) | above(a, fill(A_MOST))
            if payload:
                moment = fma(load(m, S1 + j, c), x, a * load(m, HX + j, c))
                store(m, A1 + j, c, moment)
        if bad != 0:
            return j
        if t + j == L:
            return j + 1
        high = 0
        for c in range(0, at.width, LANES):
            g = product(m, at, A + j, at.W, c)
            store(m, G + j, c, g)
            bad |= doubtful(g, fill(LEAD_LEAST))
            y = load(m, Y + j, c)
            u = g * y
            u = where_positive(u, larger(u, fill(U_LEAST)), u)
            store(m, at.U + row + j, c, u)
            high |= above(u, fill(U_MOST))
            if payload:
                moment = product(m, at, A1 + j, at.W, c) + product(m, at, A + j, at.WP, c)
                store(m, G1 + j, c, moment)
                v = fma(moment, y, u * load(m, HY + j, c))
                store(m, at.V + row + j, c, v)
        if bad != 0:
            return j
        if high != 0:
            now[FRESH] = 1
            return j + 1
        for c in range(0, at.width, LANES):
            u = load(m, at.U + row + j, c)
            for i in range(min(n - 1 - j, at.K)):
                s = S + j + 1 + i
                store(m, s, c, fma(u, load(m, at.D + i, c), load(m, s, c)))
            if payload:
                v = load(m, at.V + row + j, c)
                for i in range(min(n - 1 - j, at.K)):
                    s = S1 + j + 1 + i
                    x = fma(u, load(m, at.DP + i, c), load(m, s, c))
                    store(m, s, c, fma(v, load(m, at.D + i, c), x))
    return n


@kernel
def logarithms(m, at, n, rows, last, payload):
    """A fast tile's alpha and g, and their moments, as logarithms and means; alpha of the tile's last alone where no
    `rows` are wanted, g of all but the last of a sequence.
    """
    for j in range(n):
        for c in range(0, at.width, LANES):
            if rows or j == n - 1:
                s = load(m, S + j, c)
                if payload:
                    mean = load(m, S1 + j, c) / s + load(m, HX + j, c)
                    store(m, HA + j, c, where_positive(s, mean, fill(0.0)))
                store(m, LA + j, c, log(s) + load(m, LX + j, c))
            if last and j == n - 1:
                continue
            g = load(m, G + j, c)
            store(m, LG + j, c, log(g) + load(m, WTOP, c))
            if payload:
                mean = load(m, G1 + j, c) / g
                store(m, HG + j, c, where_positive(g, mean, fill(0.0)))


@kernel
def close(m, at, now, t, n, last, payload):
    """Put n positions' sources into the window by their logarithms, and make the last position the new origin."""
    row = t - now[FIRST]
    for c in range(0, at.width, LANES):
        for j in range(n - 1 if last else n):
            logu = load(m, LG + j, c) + load(m, LY + j, c)
            store(m, at.logu + row + j, c, logu + load(m, BASE, c))
            if payload:
                r = load(m, HG + j, c) + load(m, HY + j, c)
                store(m, at.r + row + j, c, r - load(m, RBASE, c))
    top = -inf
    m[SCALARS, BEST] = 0.0  # where no label is possible, means are counted on from the gauge of now
    for c in range(at.C):
        if m[LA + n - 1, c] > top:
            top = m[LA + n - 1, c]
            m[SCALARS, BEST] = m[HA + n - 1, c] if payload else 0.0
    top = dyadic(top) if top > -inf else 0.0
    for c in range(at.C):
        m[FRAME, c] = m[FRAMES + n - 1, c] - top
        if payload:
            m[PREFIX, c] = m[PREFIXES + n - 1, c]
    return top


@small
def advance(m, at, now, job, b, L, last, t):
    """Go on from position t, up to `last`; how many positions that was, and (offset, rate): rows LA + j and LG + j of
    the tile are relative to offset + (j + 1) rate.
    """
    payload = job.payload
    slow = now[CAREFUL] > 0
    n = 1 if slow else min(TILE, 2 * now[NEWEST] + 2, last + 1 - t)  # a tile that ended early is a sign of more
    n = open_tile(m, at, now, job, b, L, t, n)
    offset = m[SCALARS, OFFSET]
    rate = 0.0 if slow else m[SCALARS, RATE]
    if slow:
        now[CAREFUL] -= 1
        careful(m, at, now, t, t == L, payload)
    else:
        n = fast(m, at, now, L, t, n, payload)
        if n == 0:
            now[PATIENCE] = min(2 * now[PATIENCE] + 1, TILE)
            now[CAREFUL] = now[PATIENCE]
            now[NEWEST] = 0
            return 0, offset, rate
        now[PATIENCE] = 0
        logarithms(m, at, n, now[ROWS] != 0, t + n - 1 == L, payload)
    top = close(m, at, now, t, n, t + n - 1 == L, payload)
    m[SCALARS, OFFSET] += rate * n + top
    if not slow:
        m[SCALARS, RATE] = dyadic(rate + top / n)
    now[NEWEST] = n
    return n, offset, rate
