"""Where a run is cut in time: its whole state there is a *window*, from which another run goes on.

A window at position t is K + 1 rows of labels: row k is the log weight of all that leads to t with a segment open since
t - k, its emissions up to t included (row 0: one that is about to start), and beside it the mean payload. A window is
known up to what came before: a constant on all weights and one on all means.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.lanes import LANES, fill, fma, load, store
from semicrf.engine.cpu.linking import cold, entry, kernel
from semicrf.engine.cpu.memory import (
    BASE,
    DTOP,
    EP,
    FRAME,
    GAUGE,
    INIT,
    INITP,
    LOWER,
    OFFSET,
    OP,
    OPEN,
    PREFIX,
    RBASE,
    S1,
    SCALARS,
    TILE,
    TOPS,
    E,
    S,
    X,
    Y,
    clear,
    mapped,
    prepare,
)
from semicrf.engine.cpu.window import DURATIONS, FIRST, GAUGED, NEWEST, U_LEAST, far

SURE = np.exp(-200.0)  # a sum of products above it has lost nothing that counts
inf = np.inf


@kernel
def _source(m, at, row, c, frame, x, r, payload):
    """Put a source of log weight x and mean r into the window, in units of row `frame`."""
    u = np.exp(x - m[frame, c])
    m[at.U + row, c] = max(u, U_LEAST) if x > -inf else 0.0
    m[at.logu + row, c] = x - m[frame, c]
    if payload:
        m[at.r + row, c] = r
        m[at.V + row, c] = m[at.U + row, c] * r


@cold
def begin(m, at, now, job, b, L, first, windows, i):
    """Put what leads on from position `first` into the window: from the start, what leads into the first segment."""
    clear(m, at, at.U, at.size)
    if job.payload:
        clear(m, at, at.V, at.size)
    for row in range(at.logu, at.logu + at.size):
        for c in range(0, at.width, LANES):
            store(m, row, c, fill(-inf))
    for n in range(DURATIONS):
        now[n] = 0
    now[FIRST], now[GAUGED] = first - at.K - 4, first
    now[NEWEST] = 1
    row = at.K + 4
    if first == 0:
        opens, p = (P.CLOSE, L - 1) if job.reversed else (P.OPEN, 0)
        P.weight_row(job, opens, b, p, m, OPEN)
        if job.payload:
            P.payload_row(job, opens, b, p, m, OP, X)
    for c in range(at.C):
        top = m[INIT, c] + m[OPEN, c] if first == 0 else -inf
        for k in range(0 if first == 0 else at.K + 1):
            top = max(top, windows.weight[i, k, c])
        m[FRAME, c] = top if top > -inf else 0.0
        if first == 0:
            _source(m, at, row, c, FRAME, top, m[INITP, c] + m[OP, c], job.payload)
        for k in range(0 if first == 0 else at.K + 1):
            _source(m, at, row - k, c, FRAME, windows.weight[i, k, c], windows.mean[i, k, c], job.payload)


@cold
def leave(m, at, now, t, windows, i, payload):
    """The window at t, where no sequence ends."""
    for k in range(at.K + 1):
        row = t - k - now[FIRST]
        for c in range(at.C):
            x = m[at.logu + row, c] - m[BASE, c] + m[FRAME, c] if row >= 0 else -inf
            windows.weight[i, k, c] = x
            if payload:
                windows.mean[i, k, c] = m[at.r + row, c] + m[RBASE, c] + m[PREFIX, c] if x > -inf else 0.0
    windows.offset[i] = m[SCALARS, OFFSET]
    windows.gauge[i] = m[SCALARS, GAUGE] if payload else 0.0


@cold
def _before(m, at, job, b, p, rows, windows, i):
    """The window at position p that stored rows are all of: it is what `leave` left there, in their terms."""
    payload = job.payload
    for c in range(at.C):
        m[E, c] = m[EP, c] = m[Y, c] = m[LOWER, c] = 0.0
    for k in range(min(at.K, p) + 1):
        s = p - k
        if k > 0:
            P.weight_row(job, P.EMISSION, b, s, m, E)
        P.weight_row(job, P.OPEN, b, s, m, OPEN)
        if payload:
            if k > 0:
                P.payload_row(job, P.EMISSION, b, s, m, EP, X)
            P.payload_row(job, P.OPEN, b, s, m, OP, X)
        for c in range(at.C):
            m[Y, c] += m[E, c]
            m[LOWER, c] += m[EP, c]
            windows.weight[i, k, c] = rows.g[b, s, c] + m[OPEN, c] + m[Y, c]
            windows.mean[i, k, c] = rows.g_mean[b, s, c] + m[OP, c] + m[LOWER, c] if payload else 0.0
            if k > 0 and P.required(job, b, s):
                m[Y, c] = -inf
    for k in range(min(at.K, p) + 1, at.K + 1):
        for c in range(at.C):
            windows.weight[i, k, c], windows.mean[i, k, c] = -inf, 0.0


@cold
def _after(m, at, row, ages, windows, i, payload):
    """What follows the cut by age into rows `row` of the window, in units of a frame TOPS."""
    for c in range(at.C):
        top = -inf
        for k in range(ages):
            top = max(top, windows.weight[i, k, c])
        m[TOPS, c] = top if top > -inf else 0.0
        for k in range(at.K):
            x = windows.weight[i, k, c] if k < ages else -inf
            _source(m, at, row + k, c, TOPS, x, windows.mean[i, k, c], payload)


@kernel
def _products(m, at, row, c, payload):
    """X and Y: for these lanes, the sums over an age before and one after of the products of their weights with that of
    the duration they make, and of the same times the payload.
    """
    total, total1 = fill(0.0), fill(0.0)
    newest = at.K + 3  # the row of age 1
    for k in range(0, at.K, TILE):
        n = min(TILE, at.K - k)
        for j in range(n):
            store(m, S + j, c, fill(0.0))
            if payload:
                store(m, S1 + j, c, fill(0.0))
        far(m, at, at.U + newest, at.D + k, S, n, at.K - k, c)
        if payload:
            far(m, at, at.U + newest, at.DP + k, S1, n, at.K - k, c)
            far(m, at, at.V + newest, at.D + k, S1, n, at.K - k, c)
        for j in range(n):
            u = load(m, at.U + row + k + j, c)
            total = fma(load(m, S + j, c), u, total)
            if payload:
                total1 = fma(load(m, S1 + j, c), u, total1)
                total1 = fma(load(m, S + j, c), load(m, at.V + row + k + j, c), total1)
    store(m, X, c, total)
    store(m, Y, c, total1)


@cold
def _exactly(m, at, row, c, payload):
    """The same for one label, in logarithms: log of the sum, and the mean."""
    top, newest = -inf, at.K + 3
    for k in range(at.K):
        for q in range(at.K - k):
            top = max(top, m[at.logu + newest - q, c] + m[at.logd + q + k, c] + m[at.logu + row + k, c])
    if top == -inf:
        return -inf, 0.0
    total, total1 = 0.0, 0.0
    for k in range(at.K):
        for q in range(at.K - k):
            x = np.exp(m[at.logu + newest - q, c] + m[at.logd + q + k, c] + m[at.logu + row + k, c] - top)
            total += x
            if payload and x > 0.0:
                total1 += x * (m[at.r + newest - q, c] + m[at.dp + q + k, c] + m[at.r + row + k, c])
    return top + np.log(total), total1 / total


@entry
def join(job, b, p, m, now, rows, before, after, i, cover, mean):
    """Of the paths by the label of position p - 1: cover[i], log of their weights, and mean[i], their mean payloads, in
    terms of the rows and of window i after the cut. `before`: room for the windows before it.

    Exactly one segment holds a position, so the weights add up to Z: a cut (meet in the middle).
    """
    at, payload = mapped(job.K, job.C, job.payload), job.payload
    prepare(m, at, job, b, False)
    _before(m, at, job, b, p, rows, before, i)
    begin(m, at, now, job, b, job.lengths[b], p, before, i)
    row = at.K + 8
    _after(m, at, row, 1 if P.required(job, b, p) else at.K, after, i, payload)
    for c in range(0, at.width, LANES):
        _products(m, at, row, c, payload)
    for c in range(at.C):
        total = m[X, c]
        x, r = (np.log(total), m[Y, c] / total) if total > SURE else _exactly(m, at, row, c, payload)
        cover[i, c] = x + m[FRAME, c] + m[TOPS, c] + m[DTOP, c]
        mean[i, c] = r
