"""The reverse sweep of any semiring on the CPU, from the rows a forward sweep kept.

The transpose of `semicrf.engine.cpu.elements`: cotangents wait in a window of sources, as they lie there, until the
sweep comes to the position they belong to. Where a cotangent is zero nothing is done, so a semiring that chooses
costs what its paths cost.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import elements_map as M
from semicrf.engine.cpu import places as P
from semicrf.engine.cpu.elements import add, bound_sources, clear, lead_in, row, score_segments, spread, tables, terms
from semicrf.engine.cpu.lanes import LANES, fill, inner, kernel, small, smaller
from semicrf.engine.cpu.places import given, number, read, read_whole, where, write
from semicrf.engine.cpu.vectors import across, any_but, doubles, get, put, where_forbidden, wholes

INF = np.inf


@small
def put_row(m, at, places, v, part, b, t, k, previous, y):
    """A row of every block into a gradient that is wanted."""
    i = at[M.GRADIENTS] + part
    if given(places, i):
        write(places, i, where(places, i, v, b, t, k, previous), m, y, at[M.BLOCK], at[M.C])


@inner
def kept_rows(m, at, places, which, n, b, t, column, y):
    """n rows that a scan kept into every block."""
    for f in range(n):
        i = at[M.KEPT] + which
        read(places, i, where(places, i, f, b, t, column, 0), m, y + f, at[M.BLOCK], at[M.C])


@inner
def kept_ids(m, at, places, which, b, t, column):
    """The choices that a scan kept, into IDS."""
    for r in range(at[M.CHOICES]):
        i = at[M.KEPT] + which
        read_whole(places, i, where(places, i, r, b, t, column, 0), m, at[M.IDS] + r, at[M.BLOCK], at[M.C])


@inner
def some(m, at, y):
    """Whether a cotangent (d rows) of any label is not zero."""
    found = 0
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        for f in range(at[M.D]):
            found |= any_but(get(m, o + y + f), fill(0.0))
    return found != 0


@inner
def collect(m, at):
    """COTANGENT: what came back to each previous label."""
    row, into, d = at[M.COTANGENT], at[M.ALL_INTO], at[M.D]
    for first in range(0, at[M.C], LANES):
        for lane in range(min(LANES, at[M.C] - first)):
            for f in range(d):
                m[(row + f) * LANES + lane] = across(get(m, into + lane * d + f))
        row += at[M.BLOCK]
        into += LANES * d


@inner
def empty_all(m, at):
    """Nothing has come back to previous labels."""
    for i in range(at[M.ALL_INTO], at[M.ALL_INTO] + at[M.C] * at[M.D]):
        put(m, i, fill(0.0))


@inner
def bounds(m, at, places, b, L):
    """LOS: the first sources of segments that end at each position."""
    clear(m, at, at[M.LO], at[M.P])
    for t in range(1, L + 1):
        for v in range(at[M.P]):
            bound_sources(m, at, places, v, b, t - 1)
            for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
                put(m, o + at[M.LOS] + t * at[M.P] + v, get(m, o + at[M.LO] + v))


@inner
def refill(m, at, places, b, t, done):
    """Fill the window with the sources t - 1, t - 2, ...; what came back to those that stay keeps its place."""
    d, p, W = at[M.D], at[M.P], at[M.SOURCES]
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        for i in range(W):
            held = i + done < W and i < at[M.K]
            for f in range(0 if at[M.BY_DURATION] else d):
                into = o + at[M.INTO] + i * d + f
                put(m, into, get(m, into + done * d) if held else fill(0.0))
            for v in range(p):
                mass = o + at[M.MASS] + i * p + v
                put(m, mass, get(m, mass + done * p) if held else fill(0.0))
    clear(m, at, at[M.PREFIX], p)
    for i in range(min(W, t)):
        s = t - 1 - i
        for v in range(p):
            row(m, at, places, v, P.EMISSION, b, s, 0, 0, at[M.READ])
            moved = number(places, at[M.KEPT] + P.OFFSET, v, b, s) - number(places, at[M.KEPT] + P.OFFSET, v, b, t)
            for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
                e = get(m, o + at[M.READ])
                put(m, o + at[M.PREFIX] + v, get(m, o + at[M.PREFIX] + v) + where_forbidden(e, fill(0.0), e))
            row(m, at, places, v, P.OPEN, b, s, 0, 0, at[M.READ])
            for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
                score = fill(moved) + get(m, o + at[M.PREFIX] + v) + get(m, o + at[M.READ])
                put(m, o + at[M.SOURCE] + i * p + v, score)
        if not at[M.BY_DURATION]:
            kept_rows(m, at, places, P.G, d, b, s, 0, at[M.WINDOW] + i * d)
    clear(m, at, at[M.PREFIX], p)
    for v in range(p):
        put(m, at[M.UNIT] + v, fill(number(places, at[M.KEPT] + P.OFFSET, v, b, t)))


@small
def leave_column(total, reverse, m, at, places, b, s, column, g, y):
    """From g at s back to alpha at s, or to the start, and to what leads in."""
    lead, n = lead_in(m, at, places, b, s, column), 1 if s == 0 else at[M.C]
    if at[M.BY_DURATION]:
        y = at[M.Y]
        kept_rows(m, at, places, P.G, at[M.D], b, s, column, y)
    kept_ids(m, at, places, P.G_ID, b, s, column)
    sums = at[M.INITIAL_SUM] if s == 0 else at[M.LEAD_SUM] + column * at[M.C] * at[M.P]
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        if s == 0:
            total(m, at[M.ONE], at[M.NOTHING], at[M.NOTHING], 0, o + lead, at[M.SINGLE], 1, at[M.X], o + at[M.Y], o + at[M.IDS])
            live = reverse(
                m, o + g, o + at[M.Y], o + at[M.IDS], at[M.ONE], at[M.ALL_INTO], at[M.NOTHING], at[M.NOTHING], 0, o + lead, at[M.SINGLE], 1,
                at[M.X], o + at[M.OUT], o + at[M.LIVE],
            )  # fmt: skip
        else:
            live = reverse(
                m, o + g, o + y, o + at[M.IDS], at[M.ALL], at[M.ALL_INTO], at[M.NOTHING], at[M.NOTHING], 0, o + lead, at[M.LABELS], n,
                at[M.X], o + at[M.OUT], o + at[M.LIVE],
            )  # fmt: skip
        for i in range(n * at[M.P]):
            out = get(m, o + at[M.OUT] + i) if live != 0 else fill(0.0)
            put(m, o + at[M.OUT] + i, out)
            put(m, o + sums + i, get(m, o + sums + i) + out)
    for v in range(at[M.P]):
        for previous in range(n):
            put_row(m, at, places, v, P.EDGE, b, s, column, previous, at[M.OUT] + previous * at[M.P] + v)


@small
def leave(total, reverse, m, at, places, b, s, i, L):
    """From what came back to g at s (place i of the window) to COTANGENT of alpha at s."""
    begun = False
    for column in range(at[M.COLUMNS]):
        if s + column + 1 > L:
            break
        g = at[M.RING_INTO] + ((s % at[M.K]) * at[M.COLUMNS] + column) * at[M.D] if at[M.BY_DURATION] else at[M.INTO] + i * at[M.D]
        if some(m, at, g):
            if not begun:
                kept_rows(m, at, places, P.ALPHA, at[M.D], b, s, 0, at[M.ALPHA])
                spread(m, at, at[M.ALPHA], at[M.D], at[M.ALL])
                empty_all(m, at)
                begun = True
            leave_column(total, reverse, m, at, places, b, s, column, g, at[M.WINDOW] + i * at[M.D])
        if at[M.BY_DURATION]:
            clear(m, at, g, at[M.D])
    if begun:
        collect(m, at)
    else:
        clear(m, at, at[M.COTANGENT], at[M.D])
    for v in range(at[M.P]):
        mass = at[M.MASS] + i * at[M.P] + v
        for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
            put(m, o + at[M.POSITION] + v, get(m, o + at[M.POSITION] + v) - get(m, o + mass))
        put_row(m, at, places, v, P.OPEN, b, s, 0, 0, mass)


@inner
def ending(m, at, places, b, t, bounded):
    """HERE and BOUND of segments that end at t; see `elements.read_position`."""
    for v in range(at[M.P]):
        row(m, at, places, v, P.CLOSE, b, t - 1, 0, 0, at[M.READ])
        moved = get(m, at[M.UNIT] + v) - fill(number(places, at[M.KEPT] + P.OFFSET, v, b, t))
        for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
            put(m, o + at[M.HERE] + v, get(m, o + at[M.PREFIX] + v) + moved + get(m, o + at[M.READ]))
            lo = get(m, o + at[M.LOS] + t * at[M.P] + v) if bounded else fill(0.0)
            put(m, o + at[M.BOUND] + v, smaller(fill(float(at[M.K])), fill(float(t)) - lo))


@inner
def gather_kept(m, at, places, b, t):
    """GATHERED, from what a scan kept, and nothing has come back to it."""
    for k in range(min(at[M.K], t)):
        kept_rows(m, at, places, P.G, at[M.D], b, t - 1 - k, k, at[M.GATHERED] + k * at[M.D])
    clear(m, at, at[M.GATHERED_INTO], at[M.K] * at[M.D])
    return at[M.GATHERED]


@inner
def come_back(m, at, t):
    """What came back to a gathered window, to where it was gathered from."""
    for k in range(min(at[M.K], t)):
        ring = at[M.RING_INTO] + (((t - 1 - k) % at[M.K]) * at[M.COLUMNS] + k) * at[M.D]
        add(m, at, ring, at[M.GATHERED_INTO] + k * at[M.D], at[M.D])


@small
def depart(reverse, m, at, places, b, t, i, bounded):
    """From COTANGENT of alpha at t back to the sources, the latest at place i of the window."""
    if not some(m, at, at[M.COTANGENT]):
        return
    kept_rows(m, at, places, P.ALPHA, at[M.D], b, t, 0, at[M.ALPHA])
    kept_ids(m, at, places, P.ALPHA_ID, b, t, 0)
    ending(m, at, places, b, t, bounded)
    element, into, source = at[M.WINDOW] + i * at[M.D], at[M.INTO] + i * at[M.D], at[M.SOURCE] + i * at[M.P]
    if at[M.BY_DURATION]:
        element, into = gather_kept(m, at, places, b, t), at[M.GATHERED_INTO]
    if at[M.SEGMENTS]:
        source = score_segments(m, at, places, b, t, source)
        clear(m, at, at[M.OUT], at[M.K] * at[M.P])
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        n = terms(m, at, o)
        live = reverse(
            m, o + at[M.COTANGENT], o + at[M.ALPHA], o + at[M.IDS], o + element, o + into, o + at[M.HERE], o + source, at[M.P],
            o + at[M.DURATION], o + at[M.BOUND], n, at[M.X], o + at[M.OUT], o + at[M.LIVE],
        )  # fmt: skip
        share(m, at, o, i, n if live != 0 else 0)
    if at[M.BY_DURATION]:
        come_back(m, at, t)
    for v in range(at[M.P]):
        put_row(m, at, places, v, P.CLOSE, b, t - 1, 0, 0, at[M.HERE] + v)
        for k in range(min(at[M.K], t) if at[M.SEGMENTS] else 0):
            put_row(m, at, places, v, P.SEGMENT, b, t - 1 - k, k, 0, at[M.OUT] + k * at[M.P] + v)


@inner
def share(m, at, o, i, n):
    """Cotangents of the scores of segments, to what makes them up; HERE: their sum."""
    p = at[M.P]
    for v in range(p):
        ended = fill(0.0)
        for k in range(n):
            out = get(m, o + at[M.OUT] + k * p + v)
            ended = ended + out
            put(m, o + at[M.MASS] + (i + k) * p + v, get(m, o + at[M.MASS] + (i + k) * p + v) + out)
            put(m, o + at[M.DURATION_SUM] + k * p + v, get(m, o + at[M.DURATION_SUM] + k * p + v) + out)
        put(m, o + at[M.POSITION] + v, get(m, o + at[M.POSITION] + v) + ended)
        put(m, o + at[M.HERE] + v, ended)


@small
def begin(total, reverse, m, at, places, b, L):
    """From the value back to COTANGENT of alpha at the end."""
    kept_rows(m, at, places, P.ALPHA, at[M.D], b, L, 0, at[M.ALPHA])
    spread(m, at, at[M.ALPHA], at[M.D], at[M.ALL])
    for f in range(at[M.D]):
        finite = abs(number(places, at[M.KEPT] + P.VALUE, f, b, 0)) < INF
        put(m, at[M.TOTAL_COTANGENT] + f, fill(0.0))
        m[(at[M.TOTAL_COTANGENT] + f) * LANES] = number(places, at[M.GRADIENTS] + at[M.PARTS], f, b, 0) if finite else 0.0
    total(m, at[M.ALL], at[M.NOTHING], at[M.NOTHING], 0, at[M.FINAL], at[M.LABELS], at[M.C], at[M.X], at[M.TOTAL], at[M.TOTAL_IDS])
    empty_all(m, at)
    live = reverse(
        m, at[M.TOTAL_COTANGENT], at[M.TOTAL], at[M.TOTAL_IDS], at[M.ALL], at[M.ALL_INTO], at[M.NOTHING], at[M.NOTHING], 0, at[M.FINAL],
        at[M.LABELS], at[M.C], at[M.X], at[M.TOTAL_OUT], at[M.TOTAL_LIVE],
    )  # fmt: skip
    collect(m, at)
    for v in range(at[M.P]):
        for c in range(at[M.C]):
            out = m[(at[M.TOTAL_OUT] + c * at[M.P] + v) * LANES]
            m[((c // LANES) * at[M.BLOCK] + at[M.READ]) * LANES + c % LANES] = out if live != 0 else 0.0
        put_row(m, at, places, v, P.END, b, 0, 0, 0, at[M.READ])


@inner
def put_emission(m, at, places, b, t):
    """The gradient of emissions at t, and what they score no longer counts."""
    for v in range(at[M.P]):
        row(m, at, places, v, P.EMISSION, b, t, 0, 0, at[M.READ])
        for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
            e = get(m, o + at[M.READ])
            put(m, o + at[M.PREFIX] + v, get(m, o + at[M.PREFIX] + v) - where_forbidden(e, fill(0.0), e))
            put(m, o + at[M.READ], where_forbidden(e, fill(0.0), get(m, o + at[M.POSITION] + v)))
        put_row(m, at, places, v, P.EMISSION, b, t, 0, 0, at[M.READ])


@inner
def put_sums(m, at, places, b):
    """The gradients that add up over a sequence."""
    p = at[M.P]
    for v in range(p):
        put_row(m, at, places, v, P.START, b, 0, 0, 0, at[M.INITIAL_SUM] + v)
        for k in range(at[M.K]):
            put_row(m, at, places, v, P.DURATION, b, 0, k, 0, at[M.DURATION_SUM] + k * p + v)
        for c in range(at[M.C]):
            for k in range(at[M.COLUMNS]):
                put_row(m, at, places, v, P.TRANSITION_BY, b, 0, k, c, at[M.LEAD_SUM] + (k * at[M.C] + c) * p + v)
            for k in range(1, at[M.COLUMNS]):
                add(m, at, at[M.LEAD_SUM] + c * p + v, at[M.LEAD_SUM] + (k * at[M.C] + c) * p + v, 1)
            put_row(m, at, places, v, P.TRANSITION, b, 0, 0, c, at[M.LEAD_SUM] + c * p + v)


@kernel
def backward(total, reverse, memory, map_, places_, lengths, bounded, first, last):
    """The gradients of the sequences first .. last - 1; memory, map and places by their addresses."""
    m, at, places = doubles(memory), wholes(map_), wholes(places_)
    for b in range(first, last):
        L = lengths[b]
        clear(m, at, at[M.COTANGENT], at[M.LOS] - at[M.COTANGENT])
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
            if filled - t + at[M.K] > at[M.SOURCES]:
                refill(m, at, places, b, t, filled - t)
                filled = t
            depart(reverse, m, at, places, b, t, filled - t, bounded)
            put_emission(m, at, places, b, t - 1)
        put_sums(m, at, places, b)
