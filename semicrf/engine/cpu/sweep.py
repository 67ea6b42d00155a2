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

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.lanes import (
    LANES,
    above,
    doubtful,
    exp,
    fill,
    fma,
    kernel,
    larger,
    load,
    log,
    small,
    spread,
    store,
    where_open,
    where_positive,
)
from semicrf.engine.cpu.memory import BEST, OFFSET, RATE, TILE, clear
from semicrf.engine.cpu.tile import (
    A1,
    FRAME,
    G1,
    HA,
    HG,
    HX,
    HY,
    LA,
    LG,
    LX,
    LY,
    OP,
    OPEN,
    PREFIX,
    S1,
    A,
    G,
    S,
    X,
    Y,
    open_tile,
)
from semicrf.engine.cpu.window import CAREFUL, FIRST, FRESH, HIGH, NEWEST, PATIENCE, U_LEAST, exact

SUM_LEAST, LEAD_LEAST, A_MOST, U_MOST = np.exp(-200.0), np.exp(-240.0), np.exp(100.0), np.exp(HIGH)
A_LEAST = np.exp(-290.0)
inf = np.inf


@kernel
def begin(m, at, now, job, b, L):
    """Put what leads into the first segment into the window, as the source 0; its row stands as g of position 0."""
    opens, i = (P.CLOSE, L - 1) if job.reversed else (P.OPEN, np.int64(0))
    clear(m, at, at.U, at.D)
    clear(m, at, at.frame, at.rows - at.frame)
    for i in range(at.logu, at.logu + at.size):
        for c in range(0, at.width, LANES):
            store(m, i, c, fill(-inf))
    for i in range(now.shape[0]):
        now[i] = 0
    now[FIRST] = -at.K - 4
    row = at.K + 4
    P.weight_row(job, opens, b, i, m, at.tile + OPEN)
    if job.payload:
        P.payload_row(job, opens, b, i, m, at.tile + OP, at.tile + X)
    for c in range(at.C):
        x = m[at.init, c] + m[at.tile + OPEN, c]
        m[at.frame, c] = x if x > -inf else 0.0
        m[at.U + row, c] = 1.0 if x > -inf else 0.0
        m[at.logu + row, c] = 0.0 if x > -inf else -inf
        if job.payload:
            r = m[at.initp, c] + m[at.tile + OP, c]
            m[at.r + row, c] = r
            m[at.V + row, c] = m[at.U + row, c] * r
    now[NEWEST] = 1


@small
def product(m, at, a, w, c):
    """Row a times the matrix w."""
    x0 = fill(0.0)
    x1 = fill(0.0)
    for d in range(0, at.C - 1, 2):
        x0 = fma(spread(m, a, d), load(m, w + d, c), x0)
        x1 = fma(spread(m, a, d + 1), load(m, w + d + 1, c), x1)
    if at.C % 2 == 1:
        x0 = fma(spread(m, a, at.C - 1), load(m, w + at.C - 1, c), x0)
    return x0 + x1


@kernel
def fast(m, at, now, L, t, n, payload):
    """The positions of a tile by products alone; how many came out in range."""
    tile = at.tile
    row = t - now[FIRST]
    for j in range(n):
        bad = 0
        for c in range(0, at.width, LANES):
            s, x = load(m, tile + S + j, c), load(m, tile + X + j, c)
            a = s * x
            a = where_positive(a, larger(a, fill(A_LEAST)), a)
            store(m, tile + A + j, c, a)
            bad |= doubtful(s, fill(SUM_LEAST)) | above(a, fill(A_MOST))
            if payload:
                moment = fma(load(m, tile + S1 + j, c), x, a * load(m, tile + HX + j, c))
                store(m, tile + A1 + j, c, moment)
        if bad != 0:
            return j
        if t + j == L:
            return j + 1
        high = 0
        for c in range(0, at.width, LANES):
            g = product(m, at, tile + A + j, at.W, c)
            store(m, tile + G + j, c, g)
            bad |= doubtful(g, fill(LEAD_LEAST))
            y = load(m, tile + Y + j, c)
            u = g * y
            u = where_positive(u, larger(u, fill(U_LEAST)), u)
            store(m, at.U + row + j, c, u)
            high |= above(u, fill(U_MOST))
            if payload:
                moment = product(m, at, tile + A1 + j, at.W, c) + product(m, at, tile + A + j, at.WP, c)
                store(m, tile + G1 + j, c, moment)
                v = fma(moment, y, u * load(m, tile + HY + j, c))
                store(m, at.V + row + j, c, v)
        if bad != 0:
            return j
        if high != 0:
            now[FRESH] = 1
            return j + 1
        for c in range(0, at.width, LANES):
            u = load(m, at.U + row + j, c)
            for i in range(min(n - 1 - j, at.K)):
                s = tile + S + j + 1 + i
                store(m, s, c, fma(u, load(m, at.D + i, c), load(m, s, c)))
            if payload:
                v = load(m, at.V + row + j, c)
                for i in range(min(n - 1 - j, at.K)):
                    s = tile + S1 + j + 1 + i
                    x = fma(u, load(m, at.DP + i, c), load(m, s, c))
                    store(m, s, c, fma(v, load(m, at.D + i, c), x))
    return n


@kernel
def logarithms(m, at, n, last, payload):
    """A fast tile's alpha and g, and their moments, as logarithms and means; g of all but the last of a sequence."""
    tile = at.tile
    for j in range(n):
        for c in range(0, at.width, LANES):
            s = load(m, tile + S + j, c)
            if payload:
                mean = load(m, tile + S1 + j, c) / s + load(m, tile + HX + j, c)
                store(m, tile + HA + j, c, where_positive(s, mean, fill(0.0)))
            store(m, tile + LA + j, c, log(s) + load(m, tile + LX + j, c))
            if last and j == n - 1:
                continue
            g = load(m, tile + G + j, c)
            store(m, tile + LG + j, c, log(g) + load(m, at.wtop, c))
            if payload:
                mean = load(m, tile + G1 + j, c) / g
                store(m, tile + HG + j, c, where_positive(g, mean, fill(0.0)))


@kernel
def careful(m, at, now, t, last, payload):
    """One position in logarithms: exactly, whatever its range. A window sum done again leaves -1 in its place."""
    tile = at.tile
    top = -inf
    for c in range(at.C):
        s = m[tile + S, c]
        x = -inf
        mean = 0.0
        if s >= SUM_LEAST:
            x = np.log(s)
            mean = m[tile + S1, c] / s
        elif s > 0.0:
            x, mean, highest = exact(m, at, now, c, t, payload)
            m[tile + S, c] = -1.0
            m[at.lower, c] = highest if abs(highest) > 1.0 else 0.0
        x += m[tile + LX, c]
        m[tile + LA, c] = x
        m[tile + HA, c] = mean + m[tile + HX, c] if x > -inf else 0.0
        top = max(top, x)
    if not last:
        lead(m, at, top if top > -inf else 0.0, payload)
    now[FRESH] = 1


@kernel
def lead(m, at, top, payload):
    """g of a careful position from its alpha, whose largest is `top`."""
    tile = at.tile
    a, a1 = tile + X, tile + Y
    for c in range(0, at.width, LANES):
        x = load(m, tile + LA, c)
        store(m, a, c, where_open(x, larger(exp(x - fill(top)), fill(A_LEAST)), fill(0.0)))
        store(m, a1, c, load(m, a, c) * load(m, tile + HA, c))
    for c in range(0, at.width, LANES):
        store(m, tile + G, c, product(m, at, a, at.W, c))
        if payload:
            store(m, tile + G1, c, product(m, at, a1, at.W, c) + product(m, at, a, at.WP, c))
    for c in range(at.C):
        g = m[tile + G, c]
        x = -inf
        mean = 0.0
        if g >= LEAD_LEAST:
            x = np.log(g) + top
            mean = m[tile + G1, c] / g
        elif g > 0.0:
            for d in range(at.C):
                x = max(x, m[tile + LA, d] + m[at.logw + d, c])
            total = 0.0
            for d in range(at.C):
                p = np.exp(m[tile + LA, d] + m[at.logw + d, c] - x)
                total += p
                if payload and p > 0.0:
                    mean += p * (m[tile + HA, d] + m[at.wp + d, c])
            mean /= total
            x += np.log(total)
        m[tile + LG, c] = x + m[at.wtop, c]
        m[tile + HG, c] = mean


@kernel
def close(m, at, now, t, n, last, payload):
    """Put n positions' sources into the window by their logarithms, and make the last position the new origin."""
    tile = at.tile
    row = t - now[FIRST]
    for c in range(0, at.width, LANES):
        for j in range(n - 1 if last else n):
            logu = load(m, tile + LG + j, c) + load(m, tile + LY + j, c)
            store(m, at.logu + row + j, c, logu + load(m, at.base, c))
            if payload:
                r = load(m, tile + HG + j, c) + load(m, tile + HY + j, c)
                store(m, at.r + row + j, c, r - load(m, at.rbase, c))
    top = -inf
    for c in range(at.C):
        if m[tile + LA + n - 1, c] > top:
            top = m[tile + LA + n - 1, c]
            m[at.scalars, BEST] = m[tile + HA + n - 1, c] if payload else 0.0
    top = top if top > -inf else 0.0
    for c in range(at.C):
        m[at.frame, c] = m[tile + FRAME + n - 1, c] - top
        if payload:
            m[at.prefix, c] = m[tile + PREFIX + n - 1, c]
    return top


@kernel
def advance(m, at, now, job, b, L, t):
    """Go on from position t; how many positions that was, and (offset, rate): rows LA + j and LG + j of the tile are
    relative to offset + (j + 1) rate.
    """
    payload = job.payload
    slow = now[CAREFUL] > 0
    n = open_tile(m, at, now, job, b, L, t, 1 if slow else min(TILE, L + 1 - t))
    offset = m[at.scalars, OFFSET]
    rate = 0.0 if slow else m[at.scalars, RATE]
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
        logarithms(m, at, n, t + n - 1 == L, payload)
    top = close(m, at, now, t, n, t + n - 1 == L, payload)
    m[at.scalars, OFFSET] += rate * n + top
    if not slow:
        m[at.scalars, RATE] = rate + top / n
    now[NEWEST] = n
    return n, offset, rate
