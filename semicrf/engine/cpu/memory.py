"""All memory of a run: one array of rows of labels, padded to whole lanes, and a map of which row begins what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.lanes import LANES, exp, fill, fma, larger, load, spread, store, where_open
from semicrf.engine.cpu.linking import cold, kernel, small

TILE = 16
PAD = 4  # rows that a group of four destinations may read beyond a table
D_LEAST, W_LEAST = np.exp(-450.0), np.exp(-390.0)
inf = np.inf

OFFSET, GAUGE, RATE, BEST, FLAW, FLAW_OF_TABLES = range(6)  # of the row `scalars`; FLAW as `parts` has it


# Rows of a run: what is known of every label,
DTOP, WTOP = 0, 1  # the largest duration and transition
INIT, INITP = 2, 3
FRAME = 4  # of each label's window, relative to the running offset
BASE, RBASE = 5, 6  # what logarithms and means in the window are out by
PREFIX = 7  # the payload of emissions since the last gauge
LO = 8  # the first source a segment may start at
LOWER = 9  # by how much a frame is to move when the next tile opens
TOPS = 10  # of the newest sources
SCALARS = P.SCALARS
# of a tile's positions, N rows each: what is read,
N = TILE + 1
E, OPEN, CLOSE, EP, OP, CP = (12 + i * N for i in range(6))
# what scales the window sum and what leads on, with their logarithms and payloads,
X, Y, LX, LY, HX, HY = (12 + i * N for i in range(6, 12))
# window sums, alpha and g as numbers, with their moments,
S, A, G, S1, A1, G1 = (12 + i * N for i in range(12, 18))
# and the frames and payload prefixes after each position. Logarithms and means take the place of what they were.
FRAMES, PREFIXES = (12 + i * N for i in range(18, 20))
LA, LG, HA, HG = A, G, A1, G1
BLOCKS = 12 + 20 * N


class Map(NamedTuple):
    """Where the rows begin whose number depends on the run; sizes."""

    K: int
    C: int
    width: int  # labels, padded
    size: int  # rows of the window
    W: int  # transitions, row of the label before
    logw: int
    D: int  # durations, row k - 1
    logd: int
    U: int
    logu: int  # in units of the frames when the window slid: plus BASE
    WP: int  # W times its payload
    wp: int
    DP: int
    dp: int
    V: int
    r: int  # less RBASE
    rows: int


@kernel
def mapped(K, C, payload):
    """The map of a run."""
    width = (C + LANES - 1) // LANES * LANES
    size = 2 * K + 2 * PAD + 8 * TILE
    k = K + TILE + PAD
    logw = BLOCKS + C
    D = logw + C
    logd = D + k
    U = logd + k
    logu = U + size
    end = logu + size
    by = end - BLOCKS
    return Map(
        K, C, width, size, BLOCKS, logw, D, logd, U, logu,
        BLOCKS + by, logw + by, D + by, logd + by, U + by, logu + by, end + (by if payload else 0),
    )  # fmt: skip


@kernel
def clear(m, at, row, n):
    """n rows of zeros."""
    for i in range(row, row + n):
        for c in range(0, at.width, LANES):
            store(m, i, c, fill(0.0))


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


@cold
def _exponentials(m, at, logs, linear, top, n, least):
    """linear = exp(logs - top), not below `least` where it is not 0; logs less top; top: the largest of each column, 0
    where all are -inf.
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


@cold
def prepare(m, at, job, b, again):
    """Clear the memory and make the tables of one sequence, seen from one end; `again`: those of another stand there,
    and if all share them they stay.
    """
    ends = P.END if job.reversed else P.START
    for n in range(job.parts.shape[0]):
        again = again and job.parts[n, P.DURATION, 1] == 0 and job.parts[n, P.TRANSITION, 1] == 0
    flaw = m[SCALARS, FLAW_OF_TABLES]
    if again:
        clear(m, at, INIT, SCALARS + 1 - INIT)
        m[SCALARS, FLAW] = m[SCALARS, FLAW_OF_TABLES] = flaw
    else:
        clear(m, at, 0, at.rows)
        _tables(m, at, job, b)
        m[SCALARS, FLAW_OF_TABLES] = m[SCALARS, FLAW]
    P.weight_row(job, ends, b, 0, m, INIT)
    if job.payload:
        P.payload_row(job, ends, b, 0, m, INITP, E)


@cold
def _tables(m, at, job, b):
    """Durations and transitions, as logarithms and as numbers, with their payloads."""
    K, C = at.K, at.C
    P.weight_rows(job, P.DURATION, b, 0, 1, K, m, at.logd)
    P.weight_rows(job, P.TRANSITION, b, 0, 1, C, m, at.logw)
    if job.payload:
        P.payload_rows(job, P.DURATION, b, 0, 1, K, m, at.dp, E)
        P.payload_rows(job, P.TRANSITION, b, 0, 1, C, m, at.wp, E)
    if job.reversed:
        for d in range(C):
            for c in range(d):
                m[at.logw + d, c], m[at.logw + c, d] = m[at.logw + c, d], m[at.logw + d, c]
                if job.payload:
                    m[at.wp + d, c], m[at.wp + c, d] = m[at.wp + c, d], m[at.wp + d, c]
    for d in range(C):
        for c in range(C, at.width):
            m[at.logw + d, c] = -inf  # nothing leads to a label that is none
    _exponentials(m, at, at.logd, at.D, DTOP, K, D_LEAST)
    _exponentials(m, at, at.logw, at.W, WTOP, C, W_LEAST)
    if job.payload:
        _times(m, at, at.D, at.dp, at.DP, K)
        _times(m, at, at.W, at.wp, at.WP, C)
