"""Expected counts of one sequence from the two sweeps: every gradient of a log-sum, and of a mean carried beside it.

An arc that leads from state x to state y with weight w has probability exp(x + w + y - log Z); beside it stands the
mean payload of the paths through it, less the mean of all. Counts come in pairs (mass, moment): mass is the sum of p,
moment the sum of p times that difference. Products of two states are pairs too,
``(a, a f) (b, b g) -> (a b, a b (f + g))``, so transitions are a matrix product and durations a correlation of tiles,
in the linear domain. What underflows there is below e^-145 of one segment; where a frame could overflow, the tile is
done in logarithms.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu.elementary import exp, kernel

TILE = 64
ROOM = 600.0  # a frame may lie this far above log Z


@kernel
def positions(al, gl, be, he, ha, hg, hb, hh, L, log_z, mean, payload, start, end, start1, end1):
    """Mass (and moment) of segments that start at s, and that end at t + 1, for every label."""
    C = al.shape[1]
    for t in range(L):
        for c in range(C):
            start[t, c] = exp(min(gl[t, c] + he[L - t, c] - log_z, 1.0))
            end[t, c] = exp(min(al[t + 1, c] + be[L - t - 1, c] - log_z, 1.0))
        if payload:
            for c in range(C):
                start1[t, c] = start[t, c] * (hg[t, c] + hh[L - t, c] - mean) if start[t, c] > 0.0 else 0.0
                end1[t, c] = end[t, c] * (ha[t + 1, c] + hb[L - t - 1, c] - mean) if end[t, c] > 0.0 else 0.0


@kernel
def emissions(e, start, end, L, out):
    """Mass at every position: what has started by then less what has ended before; none where the emission is -inf."""
    C = start.shape[1]
    now = np.zeros(C)
    for t in range(L):
        for c in range(C):
            now[c] += start[t, c]
            if e[t, c] > -np.inf:
                out[t, c] = now[c]
            now[c] -= end[t, c]


@kernel
def transitions(al, he, ha, hh, W, logw, wtop, wp, L, log_z, mean, payload, out, out1):
    """Counts of label pairs: a product of rows, summed over positions; exact where a row does not fit the linear
    domain.
    """
    C = al.shape[1]
    a = np.empty(C)
    b = np.empty(C)
    f = np.zeros(C)
    h = np.zeros(C)
    acc = np.zeros((C, C))
    acc1 = np.zeros((C, C))
    for t in range(1, L):
        m = -np.inf
        for c in range(C):
            m = max(m, al[t, c])
        if m == -np.inf:
            continue
        top = -np.inf
        for c in range(C):
            b[c] = he[L - t, c] + wtop[c] + m - log_z
            top = max(top, b[c])
        if payload:
            for c in range(C):
                f[c] = ha[t, c] - mean if al[t, c] > -np.inf else 0.0
                h[c] = hh[L - t, c] if b[c] > -np.inf else 0.0
        if top < ROOM:
            for c in range(C):
                a[c] = exp(al[t, c] - m)
                b[c] = exp(b[c])
            for d in range(C):
                x = a[d]
                for c in range(C):
                    acc[d, c] += x * b[c]
                if payload:
                    for c in range(C):
                        acc1[d, c] += x * b[c] * (f[d] + h[c])
        else:
            for d in range(C):
                for c in range(C):
                    p = np.exp(al[t, d] - m + logw[d, c] + b[c])
                    if p > 0.0:
                        out[d, c] += p
                        if payload:
                            out1[d, c] += p * (f[d] + h[c] + wp[d, c])
    for d in range(C):
        for c in range(C):
            out[d, c] += acc[d, c] * W[d, c]
            if payload:
                out1[d, c] += (acc1[d, c] + acc[d, c] * wp[d, c]) * W[d, c]


@kernel
def bounds(e, required, L, low):
    """low[t, c]: the first start allowed to a segment of label c that ends at t + 1. True if that binds anywhere."""
    C = e.shape[1]
    binds = False
    for t in range(L):
        for c in range(C):
            x = low[t - 1, c] if t > 0 else 0
            if required.shape[0] > 0 and t > 0 and required[t]:
                x = max(x, t)
            if e[t, c] == -np.inf:
                x = t + 1
            low[t, c] = x
            binds = binds or x > 0
    return binds


@kernel
def prefix(e, L, out):
    """Prefix sums of what is finite."""
    for t in range(L):
        for c in range(e.shape[1]):
            out[t + 1, c] = out[t, c] + (e[t, c] if e[t, c] > -np.inf else 0.0)


@kernel
def axpy(x, u, i, v, j, n):
    """v[j + q] += x u[i + q], q < n."""
    uu = u[i : i + n]
    vv = v[j : j + n]
    for q in range(n):
        vv[q] += x * uu[q]


@kernel
def longest(K, t, s0, low, c, binds):
    """The longest duration of a segment of label c that ends at t and starts at s0 or later, where it may."""
    return min(K, t - max(s0, low[t - 1, c])) if binds else min(K, t - s0)


@kernel
def linear(u, f, w, h, D, dp, c, s0, t0, n, low, binds, payload, acc, acc1, out, out1):
    """Add a tile of destinations: weights u and w, means f and h; sources lie in reverse order of time."""
    K = D.shape[1]
    for k in range(K):
        acc[k] = 0.0
        acc1[k] = 0.0
    for q in range(n):
        last = longest(K, t0 + q, s0, low, c, binds)
        i = n - 1 - q  # the source t - 1, of duration 1
        if last > 0 and w[q] > 0.0:
            axpy(w[q], u, i, acc, 0, last)
            if payload:
                for k in range(last):
                    acc1[k] += w[q] * u[i + k] * (f[i + k] + h[q])
    for k in range(K):
        y = D[c, K - 1 - k]
        out[k, c] += acc[k] * y
        if payload and y > 0.0:
            out1[k, c] += (acc1[k] + acc[k] * dp[c, K - 1 - k]) * y


@kernel
def logarithmic(u, f, w, h, logd, dp, c, s0, t0, n, low, binds, payload, out, out1):
    """The same where frames lie too far above log Z: u and w are logarithms."""
    K = logd.shape[1]
    for q in range(n):
        i = n - 1 - q
        for k in range(longest(K, t0 + q, s0, low, c, binds)):
            p = np.exp(u[i + k] + w[q] + logd[c, K - 1 - k])
            if p > 0.0:
                out[k, c] += p
                if payload:
                    out1[k, c] += p * (f[i + k] + h[q] + dp[c, K - 1 - k])


@kernel
def durations(
    gl, be, hg, hb, P, Pp, es, ee, esp, eep, low, binds, D, logd, dtop, dp, L, log_z, mean, payload, out, out1
):
    """Counts of durations (row k - 1) by label: correlations of the sources of a window with a tile of destinations.

    gl, be: the states before a source and after a destination, without boundary scores; P: prefix sums of emissions.
    """
    C, K = D.shape
    u = np.empty(K + TILE)
    f = np.zeros(K + TILE)
    w = np.empty(TILE)
    h = np.zeros(TILE)
    acc = np.empty(K)
    acc1 = np.zeros(K)
    for t0 in range(1, L + 1, TILE):
        n = min(TILE, L + 1 - t0)
        s0 = max(0, t0 - K)
        m = t0 + n - 1 - s0
        for c in range(C):
            fu = -np.inf
            fw = -np.inf
            for i in range(m):  # in reverse order of time, so that a duration is an offset
                s = t0 + n - 2 - i
                x = gl[s, c] - (P[s, c] - P[t0, c]) + (es[s, c] if es.shape[0] > 0 else 0.0)
                u[i] = x
                fu = max(fu, x)
                if payload:
                    f[i] = hg[s, c] - mean - (Pp[s, c] - Pp[t0, c]) + (esp[s, c] if esp.shape[0] > 0 else 0.0)
                    if x == -np.inf:
                        f[i] = 0.0
            for q in range(n):
                t = t0 + q
                x = be[L - t, c] + (P[t, c] - P[t0, c]) + (ee[t - 1, c] if ee.shape[0] > 0 else 0.0) - log_z
                w[q] = x
                fw = max(fw, x)
                if payload:
                    h[q] = hb[L - t, c] + (Pp[t, c] - Pp[t0, c]) + (eep[t - 1, c] if eep.shape[0] > 0 else 0.0)
                    if x == -np.inf:
                        h[q] = 0.0
            if fu == -np.inf or fw == -np.inf:
                continue
            if fu + fw + dtop[c] < ROOM:
                half = np.exp(0.5 * (fu + fw + dtop[c]))
                for i in range(m):
                    u[i] = exp(u[i] - fu) * half
                for q in range(n):
                    w[q] = exp(w[q] - fw) * half
                linear(u, f, w, h, D, dp, c, s0, t0, n, low, binds, payload, acc, acc1, out, out1)
            else:
                for q in range(n):
                    w[q] += dtop[c]
                logarithmic(u, f, w, h, logd, dp, c, s0, t0, n, low, binds, payload, out, out1)
