"""A tile of positions, made ready for the sweep: what is read, what scales it, the sums over the sources before."""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.lanes import LANES, closes, exp, fill, kernel, larger, load, smaller, store, where_open
from semicrf.engine.cpu.memory import RATE, TILE, clear
from semicrf.engine.cpu.window import CAREFUL, FIRST, FRESH, GAUGED, SPAN, far, kill, lowest, regauge, settle, slide

X_LEAST, Y_LEAST = np.exp(-500.0), np.exp(-400.0)
inf = np.inf

# Rows of a tile, N + 1 each: what is read,
N = TILE + 1
E, OPEN, CLOSE, EP, OP, CP = 0, N, 2 * N, 3 * N, 4 * N, 5 * N
# what scales the window sum and what leads on, with their logarithms and payloads,
X, Y, LX, LY, HX, HY = 6 * N, 7 * N, 8 * N, 9 * N, 10 * N, 11 * N
# window sums, alpha and g as numbers, with their moments,
S, A, G, S1, A1, G1 = 12 * N, 13 * N, 14 * N, 15 * N, 16 * N, 17 * N
# and the frames and payload prefixes after each position. Logarithms and means take the place of what they were.
FRAME, PREFIX = 18 * N, 19 * N
LA, LG, HA, HG = A, G, A1, G1


@kernel
def read_tile(m, at, job, b, L, t, n):
    """Read up to n positions from t on; how many until sources die."""
    tile, rev = at.tile, job.reversed
    opens, shuts = (P.CLOSE, P.OPEN) if rev else (P.OPEN, P.CLOSE)
    i, step = (L - t, -1) if rev else (t - 1, 1)
    more = min(n + 1, L + 1 - t)
    one = np.int64(1)
    if more <= n:
        clear(m, at, tile + E + more, one)  # nothing follows the last
    P.weight_rows(job, P.EMISSION, b, i, step, more, m, tile + E)
    n = _alive(m, at, job, b, i, step, min(n, more), more)
    P.weight_rows(job, shuts, b, i, step, n, m, tile + CLOSE)
    leads = min(n, L - t)
    P.weight_rows(job, opens, b, i + step, step, leads, m, tile + OPEN)
    if job.payload:
        P.payload_rows(job, P.EMISSION, b, i, step, n, m, tile + EP, tile + X)
        P.payload_rows(job, shuts, b, i, step, n, m, tile + CP, tile + X)
        P.payload_rows(job, opens, b, i + step, step, leads, m, tile + OP, tile + X)
    return n


@kernel
def _alive(m, at, job, b, i, step, n, more):
    """How many of n positions there are before sources die: of the second on, whose emissions are read, `more` rows."""
    for j in range(1, min(n, more)):
        if P.required(job, b, i - j + 1 if step < 0 else i + j):
            return j
        for c in range(0, at.width, LANES):
            if closes(load(m, at.tile + E + j - 1, c), load(m, at.tile + E + j, c)) != 0:
                return j
    return n


@kernel
def scales(m, at, n, rate, c, payload):
    """What turns window sums into alpha and g into sources, at n positions, relative to an offset that grows by `rate`
    each.
    """
    tile = at.tile
    frame, prefix = load(m, at.frame, c), load(m, at.prefix, c)
    dtop, wtop, grow = load(m, at.dtop, c), load(m, at.wtop, c), fill(rate)
    for j in range(n):
        e = load(m, tile + E + j, c)
        frame = frame + where_open(e, e, fill(0.0)) - grow
        store(m, tile + FRAME + j, c, frame)
        x = frame + dtop + load(m, tile + CLOSE + j, c)
        y = where_open(load(m, tile + E + j + 1, c), load(m, tile + OPEN + j, c) - frame, fill(-inf))
        store(m, tile + S + j, c, fill(0.0))
        store(m, tile + LX + j, c, x)
        store(m, tile + LY + j, c, y)
        w = y + wtop
        a = larger(exp(smaller(x, fill(600.0))), fill(X_LEAST))
        g = larger(exp(smaller(w, fill(600.0))), fill(Y_LEAST))
        store(m, tile + X + j, c, where_open(x, a, fill(0.0)))
        store(m, tile + Y + j, c, where_open(w, g, fill(0.0)))
        if payload:
            store(m, tile + S1 + j, c, fill(0.0))
            prefix = prefix + load(m, tile + EP + j, c)
            store(m, tile + PREFIX + j, c, prefix)
            store(m, tile + HX + j, c, prefix + load(m, tile + CP + j, c))
            store(m, tile + HY + j, c, load(m, tile + OP + j, c) - prefix)


@kernel
def open_tile(m, at, now, job, b, L, t, n):
    """Make a tile of up to n positions ready: how many it has."""
    payload = job.payload
    if t + n - now[FIRST] > at.size:
        slide(m, at, now, t, payload)
    n = read_tile(m, at, job, b, L, t, n)
    needed = t > 1 and P.required(job, b, L - t + 1 if job.reversed else t - 1)
    forbidden = 0
    for c in range(0, at.width, LANES):
        forbidden |= closes(fill(0.0), load(m, at.tile + E, c))
    if needed or forbidden != 0:
        for c in range(at.C):
            if needed:
                kill(m, at, now, c, t - 1, payload)
            if m[at.tile + E, c] == -inf:
                kill(m, at, now, c, t, payload)
    if payload and t - now[GAUGED] >= SPAN:
        regauge(m, at, now, t)
    rate = 0.0 if now[CAREFUL] > 0 else m[at.scalars, RATE]
    U, S_, S1_ = at.U + t - 1 - now[FIRST], at.tile + S, at.tile + S1
    settle(m, at, now, t, payload)
    for c in range(0, at.width, LANES):
        scales(m, at, n, rate, c, payload)
        count = t - lowest(m, at, c, t)
        far(m, at, U, at.D, S_, n, count, c)
        if payload:
            far(m, at, U, at.DP, S1_, n, count, c)
            far(m, at, U + at.V - at.U, at.D, S1_, n, count, c)
    now[FRESH] = 0
    return n
