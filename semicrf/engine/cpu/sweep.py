"""One direction of the dynamic programme for one sequence, in a linear domain that certifies itself.

For each label the window holds ``U[s] = exp(log u_s - frame)`` for the last K sources, so the sum over durations is a dot product
with ``D = exp(duration)``. A linear domain may flush what is small. Three bounds make that safe for any input:

* ``U`` and ``D`` lose terms below e^-700, and U never exceeds e^150, so a window sum is off by less than K e^-550;
* a sum that comes out below e^-500 (by decay, by an expired large source, by masks) is computed again, exactly, in logarithms, and
  the label's frame is moved to its window; so is the frame of a label whose next source exceeds e^150;
* the sum over previous labels is guarded alike.

With a *payload* every arc carries a number beside its weight and the sweep carries its mean, a first-order expectation (Li & Eisner
2009): three products per term instead of one, no further exponentials.

Indices: sources are 0..L-1, destinations 1..L; in the window buffers source s of label c lies at ``[c, s - base + K]``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from semicrf.engine.cpu.elementary import REORDER, dot, dot4, exp, log

TILE = 32
HIGH = 150.0  # log of the largest U
TINY = 7.1e-218  # e^-500: a smaller sum is not trusted


@njit(nogil=True, fastmath=REORDER, cache=True)
def open_tile(e, required, L, rev, t0, n, K, E, low, lo, forbidden):
    """Read a tile's emissions into E, 0 where -inf; low[j, c]: the first source a segment may start at. True if any binds."""
    C = E.shape[1]
    binds = False
    for j in range(n):
        t = t0 + j
        row = L - t if rev else t - 1
        if required.shape[0] > 0 and t > 1:
            if required[L - t + 1 if rev else t - 1]:
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


@njit(nogil=True, fastmath=REORDER, cache=True)
def exact(logu, r, logd, dp, c, first, s0, s1, t, K, payload):
    """log sum_s exp(logu[s] + logd[t - s]) over sources s0..s1-1, and the mean of r[s] + dp[t - s]."""
    m = -np.inf
    for s in range(s0, s1):
        m = max(m, logu[c, s - first] + logd[c, K - (t - s)])
    if m == -np.inf:
        return m, 0.0
    total = 0.0
    mean = 0.0
    for s in range(s0, s1):
        w = np.exp(logu[c, s - first] + logd[c, K - (t - s)] - m)
        total += w
        if payload and w > 0.0:
            mean += w * (r[c, s - first] + dp[c, K - (t - s)])
    return m + np.log(total), mean / total


@njit(nogil=True, fastmath=REORDER, cache=True)
def far(U, UR, D, DP, c, first, low, t0, n, K, binds, payload, F, F2, j0):
    """Window sums of label c at destinations t0 + j, j0 <= j < n, over the sources before t0."""
    j = j0
    if not binds and not payload:
        while j + 4 <= n and K - j > 8:
            dot4(U[c], t0 + j - K - first, D[c], K - j, F[c], j)
            j += 4
    while j < n:
        t = t0 + j
        s0 = max(t - K, low[j, c]) if binds else t - K
        m = t0 - s0
        F[c, j] = 0.0
        F2[c, j] = 0.0
        if m > 0:
            q = s0 - (t - K)
            F[c, j] = dot(U[c], s0 - first, D[c], q, m)
            if payload:
                F2[c, j] = dot(UR[c], s0 - first, D[c], q, m) + dot(U[c], s0 - first, DP[c], q, m)
        j += 1


@njit(nogil=True, fastmath=REORDER, cache=True)
def reframe(U, UR, logu, r, frame, c, i0, i1, shift, payload):
    """Move a label's frame by `shift`: the same numbers in other units."""
    frame[c] += shift
    for i in range(i0, i1):
        x = logu[c, i] - shift
        logu[c, i] = x
        U[c, i] = exp(min(x, 600.0))
        if payload:
            UR[c, i] = U[c, i] * r[c, i]


@njit(nogil=True, fastmath=REORDER, cache=True)
def slide(U, UR, logu, r, first, t, K, payload):
    """Move the live sources t - K .. t - 1 to the front of the buffers; the source at their first place."""
    by = t - K - first
    for c in range(U.shape[0]):
        for q in range(K):
            U[c, q] = U[c, q + by]
            logu[c, q] = logu[c, q + by]
            if payload:
                UR[c, q] = UR[c, q + by]
                r[c, q] = r[c, q + by]
    return t - K


@njit(nogil=True, fastmath=REORDER, cache=True)
def rebase(U, UR, r, prefix, i0, i1, shift):
    """Count payloads from here, `shift` lower: prefixes go into the window, and stay small."""
    for c in range(U.shape[0]):
        by = prefix[c] - shift
        for i in range(i0, i1):
            r[c, i] += by
            UR[c, i] = U[c, i] * r[c, i]
        prefix[c] = 0.0


@njit(nogil=True, fastmath=REORDER, cache=True)
def lead(a, x, h, W, logw, top, wp, g, hg, payload):
    """Sums over the previous label (weights a = exp(x), means h) into every label: log in g, mean in hg."""
    C = a.shape[0]
    for c in range(C):
        g[c] = 0.0
        hg[c] = 0.0
    for d in range(C):
        y = a[d]
        for c in range(C):
            g[c] += y * W[d, c]
        if payload:
            for c in range(C):
                hg[c] += y * W[d, c] * (h[d] + wp[d, c])
    for c in range(C):
        total = g[c]
        if payload and total >= TINY:
            hg[c] /= total
        g[c] = log(total) + top[c]
        if total < TINY:  # once more, exactly
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


@njit(nogil=True, fastmath=REORDER, cache=True)
def sweep(weights, extra, tables, means, L, rev, payload, keep, al, gl, ha, hg, last, hlast):
    """Run over one sequence of length L, backwards if `rev`; with `keep` everything is stored, in absolute terms.

    weights: (e, es, ee, required): emission (T, C), segment_start and segment_end in the order of the sweep, required (T,).
    extra: the payload's (e, es, ee). tables: (D, logd, dtop, W, logw, wtop, init) as `backend.tables` makes them.
    means: the payload's (duration, D * duration, transition, init). last, hlast: log total and mean of the last position.
    """
    e, es, ee, required = weights
    ep, esp, eep = extra
    D, logd, dtop, W, logw, wtop, init = tables
    dp, DP, wp, initp = means
    C, K = D.shape
    size = 2 * K + 4 * TILE
    U = np.zeros((C, size))
    logu = np.full((C, size), -np.inf)
    UR = np.zeros((C, size if payload else 0))
    r = np.zeros((C, size if payload else 0))
    F = np.empty((C, TILE))
    F2 = np.empty((C, TILE))
    E = np.empty((TILE, C))
    low = np.empty((TILE, C), np.int64)
    forbidden = np.empty((TILE, C), np.bool_)
    lo = np.zeros(C, np.int64)
    frame = np.zeros(C)
    prefix = np.zeros(C)
    v = np.empty(C)
    a = np.empty(C)
    h = np.zeros(C)
    g = np.empty(C)
    hgs = np.zeros(C)
    M = 0.0
    gauge = 0.0
    first = -K
    for c in range(C):
        x = init[c]
        if es.shape[0] > 0:
            x += es[L - 1 if rev else 0, c]
        frame[c] = x if x > -np.inf else 0.0
        logu[c, K] = x - frame[c]
        U[c, K] = exp(logu[c, K])
        if payload:
            r[c, K] = initp[c] + (esp[L - 1 if rev else 0, c] if esp.shape[0] > 0 else 0.0)
            UR[c, K] = U[c, K] * r[c, K]
        if keep:
            gl[0, c] = init[c]
            if payload:
                hg[0, c] = initp[c]
    for t0 in range(1, L + 1, TILE):
        n = min(TILE, L + 1 - t0)
        if t0 - first + n > size:
            first = slide(U, UR, logu, r, first, t0, K, payload)
        if payload:
            best = 0
            for c in range(C):
                if v[c] > v[best]:
                    best = c
            shift = h[best] if t0 > 1 else 0.0
            gauge += shift
            rebase(U, UR, r, prefix, t0 - K - first, t0 - first, shift)
        binds = open_tile(e, required, L, rev, t0, n, K, E, low, lo, forbidden)
        for c in range(C):
            far(U, UR, D, DP, c, first, low, t0, n, K, binds, payload, F, F2, 0)
        for j in range(n):
            t = t0 + j
            row = L - t if rev else t - 1
            for c in range(C):
                s0 = max(t - K, t0)
                if binds:
                    s0 = max(s0, low[j, c])
                a[c] = F[c, j]
                m = t - s0
                if m > 0:
                    q = s0 - (t - K)
                    a[c] += dot(U[c], s0 - first, D[c], q, m)
                    if payload:
                        F2[c, j] += dot(UR[c], s0 - first, D[c], q, m) + dot(U[c], s0 - first, DP[c], q, m)
            for c in range(C):
                frame[c] += E[j, c]
                v[c] = frame[c] + dtop[c] + log(a[c])
            if payload:
                for c in range(C):
                    prefix[c] += ep[row, c]
                    h[c] = F2[c, j] / a[c] + prefix[c] if a[c] >= TINY else 0.0
            for c in range(C):
                if a[c] < TINY or forbidden[j, c]:
                    v[c] = -np.inf
                    s0 = max(t - K, max(0, low[j, c]))
                    if s0 < t and not forbidden[j, c]:
                        x, mean = exact(logu, r, logd, dp, c, first, s0, t, t, K, payload)
                        v[c] = frame[c] + dtop[c] + x
                        h[c] = mean + prefix[c]
                        top = -np.inf
                        for s in range(max(s0, t - K + 1), t):
                            top = max(top, logu[c, s - first])
                        if top > -np.inf and abs(top) > 1.0:
                            reframe(U, UR, logu, r, frame, c, max(0, t - K - first), t - first, top, payload)
                            far(U, UR, D, DP, c, first, low, t0, n, K, binds, payload, F, F2, j + 1)
            if ee.shape[0] > 0:
                for c in range(C):
                    v[c] += ee[row, c]
            if payload and eep.shape[0] > 0:
                for c in range(C):
                    h[c] += eep[row, c]
            mx = v[0]
            for c in range(C):
                mx = max(mx, v[c])
            if mx == -np.inf:
                mx = 0.0
            M += mx
            for c in range(C):
                v[c] -= mx
                frame[c] -= mx
                a[c] = exp(v[c])
            if keep:
                for c in range(C):
                    al[t, c] = v[c] + M
                    if payload:
                        ha[t, c] = h[c] + gauge
            if t == L:
                break
            lead(a, v, h, W, logw, wtop, wp, g, hgs, payload)
            if keep:
                for c in range(C):
                    gl[t, c] = g[c] + M
                    if payload:
                        hg[t, c] = hgs[c] + gauge
            source = L - 1 - t if rev else t
            i = t - first
            high = 0.0
            for c in range(C):
                x = g[c] - frame[c]
                if es.shape[0] > 0:
                    x += es[source, c]
                high = max(high, x)
                logu[c, i] = x
                U[c, i] = exp(min(x, HIGH))
            if payload:
                for c in range(C):
                    r[c, i] = hgs[c] - prefix[c] + (esp[source, c] if esp.shape[0] > 0 else 0.0)
                    UR[c, i] = U[c, i] * r[c, i]
            if high > HIGH:
                for c in range(C):
                    if logu[c, i] > HIGH:
                        reframe(U, UR, logu, r, frame, c, max(0, t - K - first), i + 1, logu[c, i], payload)
                        far(U, UR, D, DP, c, first, low, t0, n, K, binds, payload, F, F2, j + 1)
    for c in range(C):
        last[c] = v[c] + M
        hlast[c] = h[c] + gauge
