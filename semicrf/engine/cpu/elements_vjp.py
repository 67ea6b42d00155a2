"""The reverse sweep of any semiring on the CPU, from the rows a forward sweep kept.

The transpose of `semicrf.engine.cpu.elements`: cotangents wait in a window of sources, as they lie there, until the
sweep comes to the position they belong to. Where a cotangent is zero nothing is done, so a semiring that chooses
costs what its paths cost.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import elements_map as M
from semicrf.engine.cpu.elements import add, bound_sources, clear, lead_in, row, score_segments, spread, tables, terms
from semicrf.engine.cpu.lanes import LANES, fill, kernel, small, smaller
from semicrf.engine.cpu.places import given, number, read, read_whole, where, write
from semicrf.engine.cpu.vectors import across, any_but, get, put, where_forbidden

INF = np.inf


@small
def put_row(m, at, places, v, part, b, t, k, previous, y):
    """A row of every block into a gradient that is wanted."""
    i = at.out + part
    if given(places, i):
        write(places, i, where(places, i, v, b, t, k, previous), m, y, at.R, at.C)


@kernel
def kept_rows(m, at, places, which, n, b, t, column, y):
    """n rows that a scan kept into every block."""
    for f in range(n):
        i = at.kept + which
        read(places, i, where(places, i, f, b, t, column, 0), m, y + f, at.R, at.C)


@kernel
def kept_ids(m, at, places, which, b, t, column):
    """The choices that a scan kept, into IDS."""
    for r in range(at.ids):
        i = at.kept + which
        read_whole(places, i, where(places, i, r, b, t, column, 0), m, at.IDS + r, at.R, at.C)


@kernel
def some(m, at, y):
    """Whether a cotangent (d rows) of any label is not zero."""
    found = 0
    for o in range(0, at.blocks * at.R, at.R):
        for f in range(at.d):
            found |= any_but(get(m, o + y + f), fill(0.0))
    return found != 0


@kernel
def collect(m, at):
    """COTANGENT: what came back to each previous label."""
    for c in range(at.C):
        for f in range(at.d):
            m[(c // LANES) * at.R + at.COTANGENT + f, c % LANES] = across(get(m, at.ALL_INTO + c * at.d + f))


@kernel
def empty_all(m, at):
    """Nothing has come back to previous labels."""
    for i in range(at.ALL_INTO, at.ALL_INTO + at.C * at.d):
        put(m, i, fill(0.0))


@kernel
def bounds(m, at, places, b, L):
    """LOS: the first sources of segments that end at each position."""
    clear(m, at, at.LO, at.p)
    for t in range(1, L + 1):
        for v in range(at.p):
            bound_sources(m, at, places, v, b, t - 1)
            for o in range(0, at.blocks * at.R, at.R):
                put(m, o + at.LOS + t * at.p + v, get(m, o + at.LO + v))


@kernel
def refill(m, at, places, b, t, done):
    """Fill the window with the sources t - 1, t - 2, ...; what came back to those that stay keeps its place."""
    d, p, W = at.d, at.p, at.window
    for o in range(0, at.blocks * at.R, at.R):
        for i in range(W):
            held = i + done < W and i < at.K
            for f in range(0 if at.by_duration else d):
                into = o + at.INTO + i * d + f
                put(m, into, get(m, into + done * d) if held else fill(0.0))
            for v in range(p):
                mass = o + at.MASS + i * p + v
                put(m, mass, get(m, mass + done * p) if held else fill(0.0))
    clear(m, at, at.PREFIX, p)
    for i in range(min(W, t)):
        s = t - 1 - i
        for v in range(p):
            row(m, at, places, v, M.EMISSION, b, s, 0, 0, at.READ)
            moved = number(places, at.kept + M.OFFSET, v, b, s) - number(places, at.kept + M.OFFSET, v, b, t)
            for o in range(0, at.blocks * at.R, at.R):
                e = get(m, o + at.READ)
                put(m, o + at.PREFIX + v, get(m, o + at.PREFIX + v) + where_forbidden(e, fill(0.0), e))
            row(m, at, places, v, M.OPEN, b, s, 0, 0, at.READ)
            for o in range(0, at.blocks * at.R, at.R):
                score = fill(moved) + get(m, o + at.PREFIX + v) + get(m, o + at.READ)
                put(m, o + at.SOURCE + i * p + v, score)
        if not at.by_duration:
            kept_rows(m, at, places, M.G, d, b, s, 0, at.WINDOW + i * d)
    clear(m, at, at.PREFIX, p)
    for v in range(p):
        put(m, at.UNIT + v, fill(number(places, at.kept + M.OFFSET, v, b, t)))


@small
def leave_column(total, reverse, m, at, places, b, s, column, g, y):
    """From g at s back to alpha at s, or to the start, and to what leads in."""
    lead, n = lead_in(m, at, places, b, s, column), 1 if s == 0 else at.C
    if at.by_duration:
        y = at.Y
        kept_rows(m, at, places, M.G, at.d, b, s, column, y)
    kept_ids(m, at, places, M.G_ID, b, s, column)
    sums = at.INITIAL_SUM if s == 0 else at.LEAD_SUM + column * at.C * at.p
    for o in range(0, at.blocks * at.R, at.R):
        if s == 0:
            total(m, at.ONE, at.NOTHING, at.NOTHING, 0, o + lead, at.SINGLE, 1, at.X, o + at.Y, o + at.IDS)
            live = reverse(
                m, o + g, o + at.Y, o + at.IDS, at.ONE, at.ALL_INTO, at.NOTHING, at.NOTHING, 0, o + lead, at.SINGLE, 1,
                at.X, o + at.OUT, o + at.LIVE,
            )  # fmt: skip
        else:
            live = reverse(
                m, o + g, o + y, o + at.IDS, at.ALL, at.ALL_INTO, at.NOTHING, at.NOTHING, 0, o + lead, at.LABELS, n,
                at.X, o + at.OUT, o + at.LIVE,
            )  # fmt: skip
        for i in range(n * at.p):
            out = get(m, o + at.OUT + i) if live != 0 else fill(0.0)
            put(m, o + at.OUT + i, out)
            put(m, o + sums + i, get(m, o + sums + i) + out)
    for v in range(at.p):
        for previous in range(n):
            put_row(m, at, places, v, M.EDGE, b, s, column, previous, at.OUT + previous * at.p + v)


@small
def leave(total, reverse, m, at, places, b, s, i, L):
    """From what came back to g at s (place i of the window) to COTANGENT of alpha at s."""
    begun = False
    for column in range(at.columns):
        if s + column + 1 > L:
            break
        g = at.RING_INTO + ((s % at.K) * at.columns + column) * at.d if at.by_duration else at.INTO + i * at.d
        if some(m, at, g):
            if not begun:
                kept_rows(m, at, places, M.ALPHA, at.d, b, s, 0, at.ALPHA)
                spread(m, at, at.ALPHA, at.d, at.ALL)
                empty_all(m, at)
                begun = True
            leave_column(total, reverse, m, at, places, b, s, column, g, at.WINDOW + i * at.d)
        if at.by_duration:
            clear(m, at, g, at.d)
    if begun:
        collect(m, at)
    else:
        clear(m, at, at.COTANGENT, at.d)
    for v in range(at.p):
        mass = at.MASS + i * at.p + v
        for o in range(0, at.blocks * at.R, at.R):
            put(m, o + at.POSITION + v, get(m, o + at.POSITION + v) - get(m, o + mass))
        put_row(m, at, places, v, M.OPEN, b, s, 0, 0, mass)


@kernel
def ending(m, at, places, b, t, bounded):
    """HERE and BOUND of segments that end at t; see `elements.read_position`."""
    for v in range(at.p):
        row(m, at, places, v, M.CLOSE, b, t - 1, 0, 0, at.READ)
        moved = get(m, at.UNIT + v) - fill(number(places, at.kept + M.OFFSET, v, b, t))
        for o in range(0, at.blocks * at.R, at.R):
            put(m, o + at.HERE + v, get(m, o + at.PREFIX + v) + moved + get(m, o + at.READ))
            lo = get(m, o + at.LOS + t * at.p + v) if bounded else fill(0.0)
            put(m, o + at.BOUND + v, smaller(fill(float(at.K)), fill(float(t)) - lo))


@kernel
def gather_kept(m, at, places, b, t):
    """GATHERED, from what a scan kept, and nothing has come back to it."""
    for k in range(min(at.K, t)):
        kept_rows(m, at, places, M.G, at.d, b, t - 1 - k, k, at.GATHERED + k * at.d)
    clear(m, at, at.GATHERED_INTO, at.K * at.d)
    return at.GATHERED


@kernel
def come_back(m, at, t):
    """What came back to a gathered window, to where it was gathered from."""
    for k in range(min(at.K, t)):
        ring = at.RING_INTO + (((t - 1 - k) % at.K) * at.columns + k) * at.d
        add(m, at, ring, at.GATHERED_INTO + k * at.d, at.d)


@small
def depart(reverse, m, at, places, b, t, i, bounded):
    """From COTANGENT of alpha at t back to the sources, the latest at place i of the window."""
    if not some(m, at, at.COTANGENT):
        return
    kept_rows(m, at, places, M.ALPHA, at.d, b, t, 0, at.ALPHA)
    kept_ids(m, at, places, M.ALPHA_ID, b, t, 0)
    ending(m, at, places, b, t, bounded)
    element, into, source = at.WINDOW + i * at.d, at.INTO + i * at.d, at.SOURCE + i * at.p
    if at.by_duration:
        element, into = gather_kept(m, at, places, b, t), at.GATHERED_INTO
    if at.segments:
        source = score_segments(m, at, places, b, t, source)
        clear(m, at, at.OUT, at.K * at.p)
    for o in range(0, at.blocks * at.R, at.R):
        n = terms(m, at, o)
        live = reverse(
            m, o + at.COTANGENT, o + at.ALPHA, o + at.IDS, o + element, o + into, o + at.HERE, o + source, at.p,
            o + at.DURATION, o + at.BOUND, n, at.X, o + at.OUT, o + at.LIVE,
        )  # fmt: skip
        share(m, at, o, i, n if live != 0 else 0)
    if at.by_duration:
        come_back(m, at, t)
    for v in range(at.p):
        put_row(m, at, places, v, M.CLOSE, b, t - 1, 0, 0, at.HERE + v)
        for k in range(min(at.K, t) if at.segments else 0):
            put_row(m, at, places, v, M.SEGMENT, b, t - 1 - k, k, 0, at.OUT + k * at.p + v)


@kernel
def share(m, at, o, i, n):
    """Cotangents of the scores of segments, to what makes them up; HERE: their sum."""
    p = at.p
    for v in range(p):
        ended = fill(0.0)
        for k in range(n):
            out = get(m, o + at.OUT + k * p + v)
            ended = ended + out
            put(m, o + at.MASS + (i + k) * p + v, get(m, o + at.MASS + (i + k) * p + v) + out)
            put(m, o + at.DURATION_SUM + k * p + v, get(m, o + at.DURATION_SUM + k * p + v) + out)
        put(m, o + at.POSITION + v, get(m, o + at.POSITION + v) + ended)
        put(m, o + at.HERE + v, ended)


@small
def begin(total, reverse, m, at, places, b, L):
    """From the value back to COTANGENT of alpha at the end."""
    kept_rows(m, at, places, M.ALPHA, at.d, b, L, 0, at.ALPHA)
    spread(m, at, at.ALPHA, at.d, at.ALL)
    for f in range(at.d):
        finite = abs(number(places, at.kept + M.VALUE, f, b, 0)) < INF
        put(m, at.TOTAL_COTANGENT + f, fill(0.0))
        m[at.TOTAL_COTANGENT + f, 0] = number(places, at.out + at.parts, f, b, 0) if finite else 0.0
    total(m, at.ALL, at.NOTHING, at.NOTHING, 0, at.FINAL, at.LABELS, at.C, at.X, at.TOTAL, at.TOTAL_IDS)
    empty_all(m, at)
    live = reverse(
        m, at.TOTAL_COTANGENT, at.TOTAL, at.TOTAL_IDS, at.ALL, at.ALL_INTO, at.NOTHING, at.NOTHING, 0, at.FINAL,
        at.LABELS, at.C, at.X, at.TOTAL_OUT, at.SEEN,
    )  # fmt: skip
    collect(m, at)
    for v in range(at.p):
        for c in range(at.C):
            m[(c // LANES) * at.R + at.READ, c % LANES] = m[at.TOTAL_OUT + c * at.p + v, 0] if live != 0 else 0.0
        put_row(m, at, places, v, M.END, b, 0, 0, 0, at.READ)


@kernel
def put_emission(m, at, places, b, t):
    """The gradient of emissions at t, and what they score no longer counts."""
    for v in range(at.p):
        row(m, at, places, v, M.EMISSION, b, t, 0, 0, at.READ)
        for o in range(0, at.blocks * at.R, at.R):
            e = get(m, o + at.READ)
            put(m, o + at.PREFIX + v, get(m, o + at.PREFIX + v) - where_forbidden(e, fill(0.0), e))
            put(m, o + at.READ, where_forbidden(e, fill(0.0), get(m, o + at.POSITION + v)))
        put_row(m, at, places, v, M.EMISSION, b, t, 0, 0, at.READ)


@kernel
def put_sums(m, at, places, b):
    """The gradients that add up over a sequence."""
    p = at.p
    for v in range(p):
        put_row(m, at, places, v, M.START, b, 0, 0, 0, at.INITIAL_SUM + v)
        for k in range(at.K):
            put_row(m, at, places, v, M.DURATION, b, 0, k, 0, at.DURATION_SUM + k * p + v)
        for c in range(at.C):
            for k in range(at.columns):
                put_row(m, at, places, v, M.TRANSITION_BY, b, 0, k, c, at.LEAD_SUM + (k * at.C + c) * p + v)
            for k in range(1, at.columns):
                add(m, at, at.LEAD_SUM + c * p + v, at.LEAD_SUM + (k * at.C + c) * p + v, 1)
            put_row(m, at, places, v, M.TRANSITION, b, 0, 0, c, at.LEAD_SUM + c * p + v)


@kernel
def backward(total, reverse, m, at, places, lengths, bounded, first, last):
    """The gradients of the sequences first .. last - 1."""
    for b in range(first, last):
        L = lengths[b]
        clear(m, at, at.COTANGENT, at.LOS - at.COTANGENT)
        tables(m, at, places, b)
        if bounded:
            bounds(m, at, places, b, L)
        begin(total, reverse, m, at, places, b, L)
        filled = L
        refill(m, at, places, b, L, 0)
        for t in range(L, -1, -1):
            if t < L:
                leave(total, reverse, m, at, places, b, t, filled - 1 - t, L)
            if t == 0:
                break
            if filled - t + at.K > at.window:
                refill(m, at, places, b, t, filled - t)
                filled = t
            depart(reverse, m, at, places, b, t, filled - t, bounded)
            put_emission(m, at, places, b, t - 1)
        put_sums(m, at, places, b)
