"""One direction of the dynamic programme for one sequence: tiles of positions over a window of sources.

At the opening of a tile the sums over the sources before it are taken for all of its positions at once; inside it every
position adds the tile's own sources, its emission, and leads on over the labels. Everything is kept relative to the
largest of its position, so logarithms stay small however long the sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.cpu.elementary import exp, kernel, log, small
from semicrf.engine.cpu.window import HIGH, TILE, TINY, Window, far, mend, near, push, reframe, slide, tidy


class Tile(NamedTuple):
    """What is read and summed ahead for a tile, ``[label, position]`` or ``[position, label]``."""

    F: Any  # window sums over the sources before the tile
    F2: Any  # their payload
    E: Any  # emissions, 0 where -inf
    low: Any  # the first source a segment may start at
    forbidden: Any  # where the emission is -inf


class Row(NamedTuple):
    """What is known of one position, by label."""

    v: Any  # log alpha, relative to the largest
    h: Any  # its mean payload
    a: Any  # window sum, then exp(v)
    g: Any  # log of what leads on
    hg: Any
    x: Any  # the next source, relative to its label's frame
    r: Any
    total: Any
    scratch: Any
    frame: Any  # of each label's window, relative to the running offset
    prefix: Any  # the payload of emissions since the tile opened


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


@small
def emit(w, tile, s, dtop, close, payloads, row, first, t0, j, n, binds, payload):
    """alpha at t0 + j, from the window sums and the emission: s.v, s.h, s.a. What all logarithms were lowered by."""
    C, K = w.D.shape
    ep, eep = payloads
    near(w, first, tile.low, t0, j, K, binds, payload, tile.F, tile.F2, s.a)
    for c in range(C):
        s.frame[c] += tile.E[j, c]
        s.v[c] = s.frame[c] + dtop[c] + log(s.a[c])
    if payload:
        for c in range(C):
            s.prefix[c] += ep[row, c]
            s.h[c] = tile.F2[c, j] / max(s.a[c], TINY) + s.prefix[c]
    for c in range(C):
        if tile.forbidden[j, c]:
            s.v[c] = -np.inf
        elif s.a[c] < TINY:
            y, mean = mend(w, s.frame, c, first, tile.low, t0, j, n, K, binds, payload, tile.F, tile.F2)
            s.v[c] = y + dtop[c]
            s.h[c] = mean + s.prefix[c]
    if close.shape[0] > 0:
        for c in range(C):
            s.v[c] += close[row, c]
    if payload and eep.shape[0] > 0:
        for c in range(C):
            s.h[c] += eep[row, c]
    top = s.v.max()
    if top == -np.inf:
        top = 0.0
    for c in range(C):
        s.v[c] -= top
        s.frame[c] -= top
        s.a[c] = exp(s.v[c])
    return top


@small
def source(w, tile, s, open_, open_payload, row, first, t, t0, j, n, binds, payload):
    """Put what leads on from t into the window, as the source t."""
    C, K = w.D.shape
    for c in range(C):
        s.x[c] = s.g[c] - s.frame[c] + (open_[row, c] if open_.shape[0] > 0 else 0.0)
    if payload:
        for c in range(C):
            s.r[c] = s.hg[c] - s.prefix[c] + (open_payload[row, c] if open_payload.shape[0] > 0 else 0.0)
    if push(w, t - first, s.x, s.r, payload, s.scratch) > HIGH:
        for c in range(C):
            if s.x[c] > HIGH:
                reframe(w, s.frame, c, max(0, t - K - first), t - first + 1, s.x[c], payload)
                far(w, c, first, tile.low, t0, n, K, binds, payload, tile.F, tile.F2, j + 1)


@kernel
def begin(w, tile, s, init, initp, open_, open_payload, row, first, payload):
    """Put what leads into the first segment into the window, as the source 0."""
    for c in range(init.shape[0]):
        x = init[c] + (open_[row, c] if open_.shape[0] > 0 else 0.0)
        s.frame[c] = x if x > -np.inf else 0.0
        s.g[c] = init[c]
        if payload:
            s.hg[c] = initp[c]
    source(w, tile, s, open_, open_payload, row, first, 0, 0, 0, 0, False, payload)


@small
def keep_rows(to, mean_to, t, logs, means, offset, gauge, payload):
    """Store a row of logarithms and their means, in absolute terms."""
    for c in range(logs.shape[0]):
        to[t, c] = logs[c] + offset
        if payload:
            mean_to[t, c] = means[c] + gauge


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
    tile = Tile(
        np.empty((C, TILE)),
        np.zeros((C, TILE)),
        np.empty((TILE, C)),
        np.zeros((TILE, C), np.int64),
        np.zeros((TILE, C), np.bool_),
    )
    z = np.zeros((11, C))
    s = Row(z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7], z[8], z[9], z[10])
    lo = np.zeros(C, np.int64)
    offset = gauge = shift = 0.0
    first = -K
    begin(w, tile, s, init, initp, es, esp, L - 1 if rev else 0, first, payload)
    if keep:
        keep_rows(gl, hg, 0, s.g, s.hg, offset, gauge, payload)
    for t0 in range(1, L + 1, TILE):
        n = min(TILE, L + 1 - t0)
        if t0 - first + n > size:
            first = slide(w, first, t0, K, payload)
        if t0 > 1:
            if payload:
                shift = s.h[np.argmax(s.v)]
                gauge += shift
            tidy(w, s.frame, s.prefix, t0 - K - first, t0 - first, shift, payload)
        binds = open_tile(e, required, L, rev, t0, n, K, tile.E, tile.low, lo, tile.forbidden)
        for c in range(C):
            far(w, c, first, tile.low, t0, n, K, binds, payload, tile.F, tile.F2, 0)
        for j in range(n):
            t = t0 + j
            offset += emit(w, tile, s, dtop, ee, (ep, eep), L - t if rev else t - 1, first, t0, j, n, binds, payload)
            if keep:
                keep_rows(al, ha, t, s.v, s.h, offset, gauge, payload)
            if t == L:
                break
            lead(s.a, s.v, s.h, W, logw, wtop, wp, s.total, s.g, s.hg, payload)
            if keep:
                keep_rows(gl, hg, t, s.g, s.hg, offset, gauge, payload)
            source(w, tile, s, es, esp, L - 1 - t if rev else t, first, t, t0, j, n, binds, payload)
    keep_rows(last.reshape(1, C), hlast.reshape(1, C), 0, s.v, s.h, offset, gauge, True)
