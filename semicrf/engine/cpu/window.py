"""The window of live sources: sums over durations in a linear domain that certifies itself.

For each label the window holds ``U[s] = exp(log u_s - frame)`` for the last K sources, so the sum over durations is a
dot product with ``D = exp(duration)``. A linear domain may flush what is small. These bounds make that safe for any
input:

* ``U`` and ``D`` lose terms below e^-700, and U never exceeds e^300, so a window sum is off by less than K e^-400;
* a sum that comes out below e^-350 (by decay, by an expired large source, by masks) is computed again, exactly, in
  logarithms, and the label's frame is moved to its window; so is the frame of a label whose next source exceeds e^300.

With a *payload* every arc carries a number beside its weight, and the window their mean, a first-order expectation (Li
& Eisner 2009): three products per term instead of one, no further exponentials.

Sources are 0..L-1, destinations 1..L; source s of label c lies at ``[c, s - first]``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.cpu.elementary import dot, dot4, exp, kernel, small

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


@small
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


@small
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
