"""A tile of positions, made ready for the sweep: what is read, what scales it, the sums over the sources before."""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.lanes import LANES, closes, exp, fill, larger, load, smaller, store, where_open
from semicrf.engine.cpu.linking import kernel, small
from semicrf.engine.cpu.memory import (
    CLOSE,
    CP,
    DTOP,
    EP,
    FRAME,
    FRAMES,
    HX,
    HY,
    LX,
    LY,
    OP,
    OPEN,
    PREFIX,
    PREFIXES,
    RATE,
    S1,
    SCALARS,
    WTOP,
    E,
    S,
    X,
    Y,
    clear,
)
from semicrf.engine.cpu.window import CAREFUL, FIRST, FRESH, GAUGED, SPAN, far, kill, lowest, regauge, settle, slide

X_LEAST, Y_LEAST = np.exp(-500.0), np.exp(-400.0)
inf = np.inf


@kernel
def read_tile(m, at, job, b, L, t, n):
    """Read up to n positions from t on; how many until sources die."""
    rev = job.reversed
    opens, shuts = (P.CLOSE, P.OPEN) if rev else (P.OPEN, P.CLOSE)
    i, step = (L - t, -1) if rev else (t - 1, 1)
    more = min(n + 1, L + 1 - t)
    if more <= n:
        clear(m, at, E + more, 1)  # nothing follows the last
    P.weight_rows(job, P.EMISSION, b, i, step, more, m, E)
    n = _alive(m, at, job, b, i, step, min(n, more), more)
    P.weight_rows(job, shuts, b, i, step, n, m, CLOSE)
    leads = min(n, L - t)
    P.weight_rows(job, opens, b, i + step, step, leads, m, OPEN)
    if job.payload:
        P.payload_rows(job, P.EMISSION, b, i, step, n, m, EP, X)
        P.payload_rows(job, shuts, b, i, step, n, m, CP, X)
        P.payload_rows(job, opens, b, i + step, step, leads, m, OP, X)
    return n


@kernel
def _alive(m, at, job, b, i, step, n, more):
    """How many of n positions there are before sources die: of the second on, whose emissions are read, `more` rows."""
    for j in range(1, min(n, more)):
        if P.required(job, b, i - j + 1 if step < 0 else i + j):
            return j
        for c in range(0, at.width, LANES):
            if closes(load(m, E + j - 1, c), load(m, E + j, c)) != 0:
                return j
    return n


@kernel
def scales(m, at, n, rate, c, payload):
    """What turns window sums into alpha and g into sources, at n positions, relative to an offset that grows by `rate`
    each.
    """
    frame, prefix = load(m, FRAME, c), load(m, PREFIX, c)
    dtop, wtop, grow = load(m, DTOP, c), load(m, WTOP, c), fill(rate)
    for j in range(n):
        e = load(m, E + j, c)
        frame = frame + where_open(e, e, fill(0.0)) - grow
        store(m, FRAMES + j, c, frame)
        x = frame + dtop + load(m, CLOSE + j, c)
        y = where_open(load(m, E + j + 1, c), load(m, OPEN + j, c) - frame, fill(-inf))
        store(m, S + j, c, fill(0.0))
        store(m, LX + j, c, x)
        store(m, LY + j, c, y)
        w = y + wtop
        a = larger(exp(smaller(x, fill(600.0))), fill(X_LEAST))
        g = larger(exp(smaller(w, fill(600.0))), fill(Y_LEAST))
        store(m, X + j, c, where_open(x, a, fill(0.0)))
        store(m, Y + j, c, where_open(w, g, fill(0.0)))
        if payload:
            store(m, S1 + j, c, fill(0.0))
            prefix = prefix + load(m, EP + j, c)
            store(m, PREFIXES + j, c, prefix)
            store(m, HX + j, c, prefix + load(m, CP + j, c))
            store(m, HY + j, c, load(m, OP + j, c) - prefix)


@small
def open_tile(m, at, now, job, b, L, t, n):
    """Make a tile of up to n positions ready: how many it has."""
    payload = job.payload
    if t + n - now[FIRST] > at.size:
        slide(m, at, now, t, payload)
    n = read_tile(m, at, job, b, L, t, n)
    needed = t > 1 and P.required(job, b, L - t + 1 if job.reversed else t - 1)
    for c in range(0, at.width, LANES):
        if needed:
            kill(m, at, now, c, t, t - 1, -1, payload)
        if closes(fill(0.0), load(m, E, c)) != 0:
            kill(m, at, now, c, t, t, E, payload)
    if payload and t - now[GAUGED] >= SPAN:
        regauge(m, at, now, t)
    rate = 0.0 if now[CAREFUL] > 0 else m[SCALARS, RATE]
    U, S_, S1_ = at.U + t - 1 - now[FIRST], S, S1
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
