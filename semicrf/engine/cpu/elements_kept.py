"""What the reverse sweep over elements reads: rows that a forward sweep kept, and the window they fill."""

from __future__ import annotations

from semicrf.engine.cpu import elements_map as M
from semicrf.engine.cpu import places as P
from semicrf.engine.cpu.elements_scores import bound_sources, clear, row
from semicrf.engine.cpu.lanes import fill, smaller
from semicrf.engine.cpu.linking import kernel
from semicrf.engine.cpu.places import given, number, read, read_whole, where, write
from semicrf.engine.cpu.vectors import get, put, where_forbidden


@kernel
def put_row(m, at, places, v, part, b, t, k, previous, y):
    """A row of every block into a gradient that is wanted."""
    i = at[M.GRADIENTS] + v * at[M.PARTS] + part
    if given(places, i):
        write(places, i, where(places, i, 0, b, t, k, previous), m, y, at[M.BLOCK], at[M.C])


@kernel
def kept_rows(m, at, places, which, n, b, t, column, y):
    """n rows that a scan kept into every block."""
    for f in range(n):
        i = at[M.KEPT] + which
        read(places, i, where(places, i, f, b, t, column, 0), m, y + f, at[M.BLOCK], at[M.C])


@kernel
def kept_ids(m, at, places, which, b, t, column):
    """The choices that a scan kept, into IDS."""
    for r in range(at[M.CHOICES]):
        i = at[M.KEPT] + which
        read_whole(places, i, where(places, i, r, b, t, column, 0), m, at[M.IDS] + r, at[M.BLOCK], at[M.C])


@kernel
def bounds(m, at, places, b, L):
    """LOS: the first sources of segments that end at each position."""
    clear(m, at, at[M.LO], at[M.P])
    for t in range(1, L + 1):
        for v in range(at[M.P]):
            bound_sources(m, at, places, v, b, t - 1)
            for o in range(0, at[M.ENDS], at[M.BLOCK]):
                put(m, o + at[M.LOS] + t * at[M.P] + v, get(m, o + at[M.LO] + v))


@kernel
def refill(m, at, places, b, t, done):
    """Fill the window with the sources t - 1, t - 2, ...; what came back to those that stay keeps its place."""
    d, p, W = at[M.D], at[M.P], at[M.SOURCES]
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
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
            for o in range(0, at[M.ENDS], at[M.BLOCK]):
                e = get(m, o + at[M.READ])
                put(m, o + at[M.PREFIX] + v, get(m, o + at[M.PREFIX] + v) + where_forbidden(e, fill(0.0), e))
            row(m, at, places, v, P.OPEN, b, s, 0, 0, at[M.READ])
            for o in range(0, at[M.ENDS], at[M.BLOCK]):
                score = fill(moved) + get(m, o + at[M.PREFIX] + v) + get(m, o + at[M.READ])
                put(m, o + at[M.SOURCE] + i * p + v, score)
        if not at[M.BY_DURATION]:
            kept_rows(m, at, places, P.G, d, b, s, 0, at[M.WINDOW] + i * d)
    clear(m, at, at[M.PREFIX], p)
    for v in range(p):
        put(m, at[M.UNIT] + v, fill(number(places, at[M.KEPT] + P.OFFSET, v, b, t)))


@kernel
def ending(m, at, places, b, t, bounded):
    """HERE and BOUND of segments that end at t; see `elements.read_position`."""
    for v in range(at[M.P]):
        row(m, at, places, v, P.CLOSE, b, t - 1, 0, 0, at[M.READ])
        moved = get(m, at[M.UNIT] + v) - fill(number(places, at[M.KEPT] + P.OFFSET, v, b, t))
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            put(m, o + at[M.HERE] + v, get(m, o + at[M.PREFIX] + v) + moved + get(m, o + at[M.READ]))
            lo = get(m, o + at[M.LOS] + t * at[M.P] + v) if bounded else fill(0.0)
            put(m, o + at[M.BOUND] + v, smaller(fill(float(at[M.K])), fill(float(t)) - lo))


@kernel
def gather_kept(m, at, places, b, t):
    """GATHERED, from what a scan kept, and nothing has come back to it."""
    for k in range(min(at[M.K], t)):
        kept_rows(m, at, places, P.G, at[M.D], b, t - 1 - k, k, at[M.GATHERED] + k * at[M.D])
    clear(m, at, at[M.GATHERED_INTO], at[M.K] * at[M.D])
    return at[M.GATHERED]
