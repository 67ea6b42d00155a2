"""All memory of a run: one array of rows of labels, padded to whole lanes, and a map of which row begins what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.lanes import LANES, exp, fill, kernel, larger, load, store, where_open

TILE = 16
PAD = 4  # rows that a group of four destinations may read beyond a table
D_LEAST, W_LEAST = np.exp(-450.0), np.exp(-390.0)
inf = np.inf

OFFSET, GAUGE, RATE, BEST = range(4)  # of the row `scalars`


class Map(NamedTuple):
    """Where the rows of what begin; sizes."""

    K: int
    C: int
    width: int  # labels, padded
    size: int  # rows of the window
    U: int
    V: int
    logu: int  # less what frames moved by since the window slid: plus `base`
    r: int
    D: int  # durations, row k - 1
    DP: int  # D dp
    logd: int
    dp: int
    W: int  # transitions, row of the label before
    WP: int
    logw: int
    wp: int
    dtop: int
    wtop: int
    init: int
    initp: int
    frame: int  # of each label's window, relative to the running offset
    base: int
    rbase: int
    prefix: int  # the payload of emissions since the last gauge
    lo: int  # the first source a segment may start at
    lower: int  # by how much a frame is to move when the next tile opens
    tops: int  # of the newest sources
    scalars: int
    tile: int
    rows: int


@kernel
def mapped(K, C, payload):
    """The map of a run."""
    width = (C + LANES - 1) // LANES * LANES
    size = 2 * K + 2 * PAD + 8 * TILE
    wide = size if payload else 0
    V = size
    logu = V + wide
    r = logu + size
    D = r + wide
    k = K + TILE + PAD
    DP = D + k
    logd = DP + (k if payload else 0)
    dp = logd + K
    W = dp + (K if payload else 0)
    WP = W + C
    logw = WP + (C if payload else 0)
    wp = logw + C
    dtop = wp + (C if payload else 0)
    return Map(
        K, C, width, size, 0, V, logu, r, D, DP, logd, dp, W, WP, logw, wp,
        dtop, dtop + 1, dtop + 2, dtop + 3, dtop + 4, dtop + 5, dtop + 6, dtop + 7, dtop + 8, dtop + 9, dtop + 10,
        dtop + 11, dtop + 12, dtop + 12 + 20 * (TILE + 1),
    )  # fmt: skip


@kernel
def clear(m, at, row, n):
    """n rows of zeros."""
    for i in range(row, row + n):
        for c in range(0, at.width, LANES):
            store(m, i, c, fill(0.0))


@kernel
def _exponentials(m, at, logs, linear, top, n, least):
    """linear = exp(logs - top), not below `least` where it is not 0, with the largest of each column in `top`, or 0 where
    all are -inf; and logs less top.
    """
    for c in range(0, at.width, LANES):
        tops = fill(-inf)
        for k in range(n):
            tops = larger(load(m, logs + k, c), tops)
        tops = where_open(tops, tops, fill(0.0))
        store(m, top, c, tops)
        for k in range(n):
            x = load(m, logs + k, c) - tops
            store(m, logs + k, c, x)
            store(m, linear + k, c, where_open(x, larger(exp(x), fill(least)), fill(0.0)))


@kernel
def _times(m, at, x, y, xy, n):
    """n rows of products."""
    for k in range(n):
        for c in range(0, at.width, LANES):
            store(m, xy + k, c, load(m, x + k, c) * load(m, y + k, c))


@kernel
def prepare(m, at, job, b):
    """The tables of durations and transitions of one sequence, seen from one end."""
    K, C = at.K, at.C
    zero, one = np.int64(0), np.int64(1)
    clear(m, at, at.logd, at.frame - at.logd)
    ends = P.END if job.reversed else P.START
    P.weight_rows(job, P.DURATION, b, zero, one, K, m, at.logd)
    P.weight_rows(job, P.TRANSITION, b, zero, one, C, m, at.logw)
    P.weight_row(job, ends, b, zero, m, at.init)
    if job.payload:
        P.payload_rows(job, P.DURATION, b, zero, one, K, m, at.dp, at.tile)
        P.payload_rows(job, P.TRANSITION, b, zero, one, C, m, at.wp, at.tile)
        P.payload_row(job, ends, b, zero, m, at.initp, at.tile)
    if job.reversed:
        for d in range(C):
            for c in range(d):
                m[at.logw + d, c], m[at.logw + c, d] = m[at.logw + c, d], m[at.logw + d, c]
                if job.payload:
                    m[at.wp + d, c], m[at.wp + c, d] = m[at.wp + c, d], m[at.wp + d, c]
    _exponentials(m, at, at.logd, at.D, at.dtop, K, D_LEAST)
    _exponentials(m, at, at.logw, at.W, at.wtop, C, W_LEAST)
    if job.payload:
        _times(m, at, at.D, at.dp, at.DP, K)
        _times(m, at, at.W, at.wp, at.WP, C)
