"""One direction of the dynamic programme for one sequence, in a linear domain that certifies itself.

For each label the window holds ``U[s] = exp(log u_s - frame)`` for the last K sources, so the sum over durations is a
dot product with ``D = exp(duration)``. A linear domain may flush what is small. Three bounds make that safe for any
input:

* ``U`` and ``D`` lose terms below e^-700, and U never exceeds e^300, so a window sum is off by less than K e^-400;
* a sum that comes out below e^-350 (by decay, by an expired large source, by masks) is computed again, exactly, in
  logarithms, and the label's frame is moved to its window; so is the frame of a label whose next source exceeds e^300;
* the sum over previous labels is guarded alike.

With a *payload* every arc carries a number beside its weight and the sweep carries its mean, a first-order expectation
(Li & Eisner 2009): three products per term instead of one, no further exponentials.

Indices: sources are 0..L-1, destinations 1..L; in the window buffers source s of label c lies at ``[c, s - base + K]``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.cpu.elementary import dot, dot4, exp, kernel, log

TILE = 32
DRIFT = 60.0  # a frame this far from its window's last source is moved when a tile opens
HIGH = 300.0  # log of the largest U
TINY = 9.9e-153  # e^-350: a smaller sum is not trusted


class Window(NamedTuple):
    """The live sources of one sequence, ``[label, source]``, and the tables of durations, ``[label, K - duration]``."""

    U: Any  # exp(logu)
    UR: Any  # U r, the payload's half
    logu: Any  # relative to the label's frame
    r: Any
    D: Any
    DP: Any  # D dp
    logd: Any
    dp: Any


@kernel
def open_tile(e, required, L, rev, t0, n, K, E, low, lo, forbidden):
    """Read a tile's emissions into E, 0 where -inf; low[j, c]: the first source a segment may start at. True if any
    binds.
    """
    C = E.shape[1]
    binds = False
    for j in range(n):
        t = t0 + j
        row = L - t if rev else t - 1
        if required.shape[0] > 0 and t > 1 and required[L - t + 1 if rev else t - 1]:
            for c in range(C):
                lo[c] = max(lo[c], t - 1)
        for c in range(C):
            x = np.float64(e[row, c])
            forbidden[j, c] = x == -np.inf
            if forbidden[j, c]:
                x = 0.0
                lo[c] = t
            E[j, c] = x
            low[j, c] = lo[c]
            binds = binds or lo[c] > max(t - K, 0)
    return binds


@kernel
def exact(w, c, first, s0, t, K, payload):
    """log sum_s exp(logu + logd) over the sources s0..t-1 of a label, and the mean of r + dp there."""
    m = -np.inf
    for s in range(s0, t):
        m = max(m, w.logu[c, s - first] + w.logd[c, K - (t - s)])
    if m == -np.inf:
        return m, 0.0
    total = 0.0
    mean = 0.0
    for s in range(s0, t):
        p = np.exp(w.logu[c, s - first] + w.logd[c, K - (t - s)] - m)
        total += p
        if payload and p > 0.0:
            mean += p * (w.r[c, s - first] + w.dp[c, K - (t - s)])
    return m + np.log(total), mean / total


@kernel
def far(w, c, first, low, t0, n, K, binds, payload, F, F2, j0):
    """Window sums of label c at destinations t0 + j, j0 <= j < n, over the sources before t0."""
    j = j0
    if not binds and not payload:
        while j + 4 <= n and K - j > 8:
            dot4(w.U[c], t0 + j - K - first, w.D[c], K - j, F[c], j)
            j += 4
    while j < n:
        t = t0 + j
        s0 = max(t - K, low[j, c]) if binds else t - K
        m = t0 - s0
        F[c, j] = 0.0
        F2[c, j] = 0.0
        if m > 0:
            q = s0 - (t - K)
            F[c, j] = dot(w.U[c], s0 - first, w.D[c], q, m)
            if payload:
                F2[c, j] = dot(w.UR[c], s0 - first, w.D[c], q, m) + dot(w.U[c], s0 - first, w.DP[c], q, m)
        j += 1


@kernel
def near(w, first, low, t0, j, K, binds, payload, F, F2, a):
    """Window sums of every label at t0 + j: the far ones in F and F2, and the sources of the tile itself."""
    t = t0 + j
    for c in range(a.shape[0]):
        s0 = max(t - K, t0)
        if binds:
            s0 = max(s0, low[j, c])
        a[c] = F[c, j]
        m = t - s0
        if m > 0:
            q = s0 - (t - K)
            a[c] += dot(w.U[c], s0 - first, w.D[c], q, m)
            if payload:
                F2[c, j] += dot(w.UR[c], s0 - first, w.D[c], q, m) + dot(w.U[c], s0 - first, w.DP[c], q, m)


@kernel
def reframe(w, frame, c, i0, i1, shift, payload):
    """Move a label's frame by `shift`: the same numbers in other units."""
    frame[c] += shift
    for i in range(i0, i1):
        x = w.logu[c, i] - shift
        w.logu[c, i] = x
        w.U[c, i] = exp(min(x, 600.0))
        if payload:
            w.UR[c, i] = w.U[c, i] * w.r[c, i]


@kernel
def slide(w, first, t, K, payload):
    """Move the live sources t - K .. t - 1 to the front of the buffers; the source at their first place."""
    by = t - K - first
    for c in range(w.U.shape[0]):
        for q in range(K):
            w.U[c, q] = w.U[c, q + by]
            w.logu[c, q] = w.logu[c, q + by]
            if payload:
                w.UR[c, q] = w.UR[c, q + by]
                w.r[c, q] = w.r[c, q + by]
    return t - K


@kernel
def tidy(w, frame, prefix, i0, i1, shift, payload):
    """Before a tile: move frames that have drifted; count payloads from here, `shift` lower, so they stay small."""
    for c in range(w.U.shape[0]):
        drift = w.logu[c, i1 - 1]
        if drift > DRIFT or -HIGH < drift < -DRIFT:
            reframe(w, frame, c, max(0, i0), i1, drift, False)
        if payload:
            by = prefix[c] - shift
            for i in range(max(0, i0), i1):
                w.r[c, i] += by
                w.UR[c, i] = w.U[c, i] * w.r[c, i]
            prefix[c] = 0.0


@kernel
def mend(w, frame, c, first, low, t0, j, n, K, binds, payload, F, F2):
    """A window sum that is too small to trust, exactly: log and mean. The label's frame moves to its window."""
    t = t0 + j
    s0 = max(t - K, max(0, low[j, c]))
    x, mean = exact(w, c, first, s0, t, K, payload)
    x += frame[c]
    top = -np.inf
    for s in range(max(s0, t - K + 1), t):
        top = max(top, w.logu[c, s - first])
    if top > -np.inf and abs(top) > 1.0:
        reframe(w, frame, c, max(0, t - K - first), t - first, top, payload)
        far(w, c, first, low, t0, n, K, binds, payload, F, F2, j + 1)
    return x, mean


@kernel
def push(w, i, logu, r, payload, a):
    """Put a source into the window; the largest of its logarithms. `a` is scratch."""
    high = 0.0
    for c in range(a.shape[0]):
        high = max(high, logu[c])
    for c in range(a.shape[0]):
        a[c] = exp(min(logu[c], HIGH))
    for c in range(a.shape[0]):
        w.logu[c, i] = logu[c]
        w.U[c, i] = a[c]
        if payload:
            w.r[c, i] = r[c]
            w.UR[c, i] = a[c] * r[c]
    return high


@kernel
def lead(a, x, h, W, logw, top, wp, s, g, hg, payload):
    """Sums over the previous label (weights a = exp(x), means h) into each: weight in s, log in g, mean in hg."""
    C = a.shape[0]
    for c in range(C):
        s[c] = 0.0
        hg[c] = 0.0
    for d in range(C):
        y = a[d]
        for c in range(C):
            s[c] += y * W[d, c]
    if payload:
        for d in range(C):
            y = a[d]
            for c in range(C):
                hg[c] += y * W[d, c] * (h[d] + wp[d, c])
        for c in range(C):
            hg[c] /= max(s[c], TINY)
    for c in range(C):
        g[c] = log(s[c]) + top[c]
    least = s[0]
    for c in range(C):
        least = min(least, s[c])
    if least >= TINY:
        return
    for c in range(C):
        if s[c] < TINY:  # once more, exactly
            m = -np.inf
            for d in range(C):
                m = max(m, x[d] + logw[d, c])
            g[c] = m
            hg[c] = 0.0
            if m > -np.inf:
                total = 0.0
                mean = 0.0
                for d in range(C):
                    w = np.exp(x[d] + logw[d, c] - m)
                    total += w
                    if w > 0.0:
                        mean += w * (h[d] + wp[d, c])
                g[c] = m + np.log(total) + top[c]
                hg[c] = mean / total


@kernel
def sweep(weights, extra, tables, means, L, rev, payload, keep, stores, last, hlast):
    """Run over one sequence of length L, backwards if `rev`.

    weights: (e, es, ee, required): emission (T, C), segment_start and segment_end in the order of the sweep, required
    (T,). extra: the payload's (e, es, ee). tables: (D, logd, dtop, W, logw, wtop, init), means: the payload's
    (duration, D * duration, transition, init), both as `Tables` makes them. stores: rows of alpha and g, then of their
    means, in absolute terms, written where `keep`. last, hlast: log total and mean of the last position.
    """
    e, es, ee, required = weights
    ep, esp, eep = extra
    D, logd, dtop, W, logw, wtop, init = tables
    dp, DP, wp, initp = means
    al, gl, ha, hg = stores
    C, K = D.shape
    size = 2 * K + 4 * TILE
    wide = size if payload else 0
    w = Window(
        np.zeros((C, size)), np.zeros((C, wide)), np.full((C, size), -np.inf), np.zeros((C, wide)), D, DP, logd, dp
    )
    F, F2, E = np.empty((C, TILE)), np.zeros((C, TILE)), np.empty((TILE, C))
    low, forbidden, lo = np.empty((TILE, C), np.int64), np.empty((TILE, C), np.bool_), np.zeros(C, np.int64)
    frame, prefix, v, h = np.zeros(C), np.zeros(C), np.empty(C), np.zeros(C)
    a, x, r, scratch = np.empty(C), init.copy(), np.zeros(C), np.empty(C)
    total, g, hgs = np.empty(C), np.empty(C), np.zeros(C)
    M = gauge = shift = 0.0
    first = -K
    boundaries = es.shape[0] > 0
    if payload:
        r[:] = initp
    if keep:
        gl[0] = init
        if payload:
            hg[0] = initp
    opening = L - 1 if rev else 0
    for c in range(C):
        x[c] += es[opening, c] if boundaries else 0.0
        frame[c] = x[c] if x[c] > -np.inf else 0.0
        x[c] -= frame[c]
        if payload and esp.shape[0] > 0:
            r[c] += esp[opening, c]
    push(w, K, x, r, payload, scratch)
    for t0 in range(1, L + 1, TILE):
        n = min(TILE, L + 1 - t0)
        if t0 - first + n > size:
            first = slide(w, first, t0, K, payload)
        if t0 > 1:
            if payload:
                shift = h[np.argmax(v)]
                gauge += shift
            tidy(w, frame, prefix, t0 - K - first, t0 - first, shift, payload)
        binds = open_tile(e, required, L, rev, t0, n, K, E, low, lo, forbidden)
        for c in range(C):
            far(w, c, first, low, t0, n, K, binds, payload, F, F2, 0)
        for j in range(n):
            t = t0 + j
            row = L - t if rev else t - 1
            near(w, first, low, t0, j, K, binds, payload, F, F2, a)
            for c in range(C):
                frame[c] += E[j, c]
                v[c] = frame[c] + dtop[c] + log(a[c])
            if payload:
                for c in range(C):
                    prefix[c] += ep[row, c]
                    h[c] = F2[c, j] / max(a[c], TINY) + prefix[c]
            for c in range(C):
                if forbidden[j, c]:
                    v[c] = -np.inf
                elif a[c] < TINY:
                    y, mean = mend(w, frame, c, first, low, t0, j, n, K, binds, payload, F, F2)
                    v[c] = y + dtop[c]
                    h[c] = mean + prefix[c]
            if ee.shape[0] > 0:
                for c in range(C):
                    v[c] += ee[row, c]
            if payload and eep.shape[0] > 0:
                for c in range(C):
                    h[c] += eep[row, c]
            top = v.max()
            if top == -np.inf:
                top = 0.0
            M += top
            for c in range(C):
                v[c] -= top
                frame[c] -= top
                a[c] = exp(v[c])
            if keep:
                for c in range(C):
                    al[t, c] = v[c] + M
                    if payload:
                        ha[t, c] = h[c] + gauge
            if t == L:
                break
            lead(a, v, h, W, logw, wtop, wp, total, g, hgs, payload)
            if keep:
                for c in range(C):
                    gl[t, c] = g[c] + M
                    if payload:
                        hg[t, c] = hgs[c] + gauge
            source = L - 1 - t if rev else t
            for c in range(C):
                x[c] = g[c] - frame[c] + (es[source, c] if boundaries else 0.0)
            if payload:
                for c in range(C):
                    r[c] = hgs[c] - prefix[c] + (esp[source, c] if esp.shape[0] > 0 else 0.0)
            if push(w, t - first, x, r, payload, scratch) > HIGH:
                for c in range(C):
                    if x[c] > HIGH:
                        reframe(w, frame, c, max(0, t - K - first), t - first + 1, x[c], payload)
                        far(w, c, first, low, t0, n, K, binds, payload, F, F2, j + 1)
    for c in range(C):
        last[c] = v[c] + M
        hlast[c] = h[c] + gauge
