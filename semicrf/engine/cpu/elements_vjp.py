"""The reverse sweep of any semiring on the CPU, from the rows a forward sweep kept.

The transpose of `semicrf.engine.cpu.elements`: cotangents wait in a window of sources, as they lie there, until the
sweep comes to the position they belong to. Where a cotangent is zero nothing is done, so a semiring that chooses
costs what its paths cost.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import elements_map as M
from semicrf.engine.cpu import places as P
from semicrf.engine.cpu.elements import start_labels, sum_labels
from semicrf.engine.cpu.elements_kept import bounds, ending, gather_kept, kept_ids, kept_rows, put_row, refill
from semicrf.engine.cpu.elements_scores import add, clear, lead_in, row, score_segments, spread, tables, terms
from semicrf.engine.cpu.lanes import LANES, fill
from semicrf.engine.cpu.linking import entry, kernel, small
from semicrf.engine.cpu.places import number
from semicrf.engine.cpu.vectors import across, any_but, doubles, get, put, where_forbidden, wholes

INF = np.inf


@kernel
def anything(m, at, y):
    """Whether a cotangent (d rows) of any label is not zero."""
    found = 0
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        for f in range(at[M.D]):
            found |= any_but(get(m, o + y + f), fill(0.0))
    return found != 0


@kernel
def collect(m, at):
    """COTANGENT: what came back to each previous label."""
    row, into, d = at[M.COTANGENT], at[M.ALL_INTO], at[M.D]
    for first in range(0, at[M.C], LANES):
        for lane in range(min(LANES, at[M.C] - first)):
            for f in range(d):
                m[(row + f) * LANES + lane] = across(get(m, into + lane * d + f))
        row += at[M.BLOCK]
        into += LANES * d


@kernel
def empty_all(m, at):
    """Nothing has come back to previous labels."""
    for i in range(at[M.ALL_INTO], at[M.ALL_INTO] + at[M.C] * at[M.D]):
        put(m, i, fill(0.0))


@small
def reverse_labels(reverse, m, at, g, y, ids, lead, out, live):
    """The reverse of `elements.sum_labels`, into ALL_INTO."""
    zero, n = at[M.NOTHING], at[M.LABELS]
    return reverse(m, g, y, ids, at[M.ALL], at[M.ALL_INTO], zero, zero, 0, lead, n, at[M.C], at[M.X], out, live)


@small
def reverse_start(reverse, m, at, g, y, ids, lead, out, live):
    """The reverse of `elements.start_labels`; what comes back to the one element is nobody's."""
    zero, n = at[M.NOTHING], at[M.SINGLE]
    return reverse(m, g, y, ids, at[M.ONE], at[M.ALL_INTO], zero, zero, 0, lead, n, 1, at[M.X], out, live)


@kernel
def leave_column(total, reverse, m, at, places, b, s, column, g, y):
    """From g at s back to alpha at s, or to the start, and to what leads in."""
    lead, n = lead_in(m, at, places, b, s, column), 1 if s == 0 else at[M.C]
    if at[M.BY_DURATION]:
        y = at[M.Y]
        kept_rows(m, at, places, P.G, at[M.D], b, s, column, y)
    kept_ids(m, at, places, P.G_ID, b, s, column)
    sums = at[M.INITIAL_SUM] if s == 0 else at[M.LEAD_SUM] + column * at[M.C] * at[M.P]
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        ids, out, live = o + at[M.IDS], o + at[M.OUT], o + at[M.LIVE]
        if s == 0:
            start_labels(total, m, at, o + lead, o + at[M.Y], ids)
            some = reverse_start(reverse, m, at, o + g, o + at[M.Y], ids, o + lead, out, live)
        else:
            some = reverse_labels(reverse, m, at, o + g, o + y, ids, o + lead, out, live)
        for i in range(n * at[M.P]):
            x = get(m, out + i) if some != 0 else fill(0.0)
            put(m, out + i, x)
            put(m, o + sums + i, get(m, o + sums + i) + x)
    for v in range(at[M.P]):
        for previous in range(n):
            put_row(m, at, places, v, P.EDGE, b, s, column, previous, at[M.OUT] + previous * at[M.P] + v)


@kernel
def leave(total, reverse, m, at, places, b, s, i, L):
    """From what came back to g at s (place i of the window) to COTANGENT of alpha at s."""
    begun = False
    for column in range(at[M.COLUMNS]):
        if s + column + 1 > L:
            break
        g = (
            at[M.RING_INTO] + ((s % at[M.K]) * at[M.COLUMNS] + column) * at[M.D]
            if at[M.BY_DURATION]
            else at[M.INTO] + i * at[M.D]
        )
        if anything(m, at, g):
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
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            put(m, o + at[M.POSITION] + v, get(m, o + at[M.POSITION] + v) - get(m, o + mass))
        put_row(m, at, places, v, P.OPEN, b, s, 0, 0, mass)


@kernel
def come_back(m, at, t):
    """What came back to a gathered window, to where it was gathered from."""
    for k in range(min(at[M.K], t)):
        ring = at[M.RING_INTO] + (((t - 1 - k) % at[M.K]) * at[M.COLUMNS] + k) * at[M.D]
        add(m, at, ring, at[M.GATHERED_INTO] + k * at[M.D], at[M.D])


@kernel
def depart(reverse, m, at, places, b, t, i, bounded):
    """From COTANGENT of alpha at t back to the sources, the latest at place i of the window."""
    if not anything(m, at, at[M.COTANGENT]):
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
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        n = terms(m, at, o)
        live = reverse(
            m, o + at[M.COTANGENT], o + at[M.ALPHA], o + at[M.IDS], o + element, o + into, o + at[M.HERE], o + source,
            at[M.P], o + at[M.DURATION], o + at[M.BOUND], n, at[M.X], o + at[M.OUT], o + at[M.LIVE],
        )  # fmt: skip
        share(m, at, o, i, n if live != 0 else 0)
    if at[M.BY_DURATION]:
        come_back(m, at, t)
    for v in range(at[M.P]):
        put_row(m, at, places, v, P.CLOSE, b, t - 1, 0, 0, at[M.HERE] + v)
        for k in range(min(at[M.K], t) if at[M.SEGMENTS] else 0):
            put_row(m, at, places, v, P.SEGMENT, b, t - 1 - k, k, 0, at[M.OUT] + k * at[M.P] + v)


@kernel
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


@kernel
def begin(total, reverse, m, at, places, b, L):
    """From the value back to COTANGENT of alpha at the end."""
    kept_rows(m, at, places, P.ALPHA, at[M.D], b, L, 0, at[M.ALPHA])
    spread(m, at, at[M.ALPHA], at[M.D], at[M.ALL])
    for f in range(at[M.D]):
        finite = abs(number(places, at[M.KEPT] + P.VALUE, f, b, 0)) < INF
        put(m, at[M.TOTAL_COTANGENT] + f, fill(0.0))
        seed = number(places, at[M.COTANGENTS], f, b, 0)
        m[(at[M.TOTAL_COTANGENT] + f) * LANES] = seed if finite else 0.0
    g, y, ids, out, live = at[M.TOTAL_COTANGENT], at[M.TOTAL], at[M.TOTAL_IDS], at[M.TOTAL_OUT], at[M.TOTAL_LIVE]
    sum_labels(total, m, at, at[M.FINAL], y, ids)
    empty_all(m, at)
    some = reverse_labels(reverse, m, at, g, y, ids, at[M.FINAL], out, live)
    collect(m, at)
    for v in range(at[M.P]):
        for c in range(at[M.C]):
            x = m[(out + c * at[M.P] + v) * LANES]
            m[((c // LANES) * at[M.BLOCK] + at[M.READ]) * LANES + c % LANES] = x if some != 0 else 0.0
        put_row(m, at, places, v, P.END, b, 0, 0, 0, at[M.READ])


@kernel
def put_emission(m, at, places, b, t):
    """The gradient of emissions at t, and what they score no longer counts."""
    for v in range(at[M.P]):
        row(m, at, places, v, P.EMISSION, b, t, 0, 0, at[M.READ])
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            e = get(m, o + at[M.READ])
            put(m, o + at[M.PREFIX] + v, get(m, o + at[M.PREFIX] + v) - where_forbidden(e, fill(0.0), e))
            put(m, o + at[M.READ], where_forbidden(e, fill(0.0), get(m, o + at[M.POSITION] + v)))
        put_row(m, at, places, v, P.EMISSION, b, t, 0, 0, at[M.READ])


@kernel
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


@entry
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
