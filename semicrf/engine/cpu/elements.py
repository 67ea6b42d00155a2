"""The forward sweep of any semiring on the CPU: one position at a time, eight labels at once.

The recurrence of `semicrf.engine.reference`, line by line: what differs is where things lie (`elements_map`). For each
label the window holds the last sources in descending order, so the place of a term is its duration, and the score of a
segment is a sum of what belongs to its end (HERE), to its source and to its duration. Emissions enter through prefix
sums and levels through offsets, both counted from where the window was last moved, so they stay small.

The semiring comes as two compiled functions, `total` and `scale` of `semicrf.engine.cpu.rows`.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu import elements_map as M
from semicrf.engine.cpu import places as P
from semicrf.engine.cpu.elements_scores import (
    begin,
    lead_in,
    read_position,
    row,
    score_segments,
    spread,
    tables,
    terms,
)
from semicrf.engine.cpu.lanes import LANES, fill, smaller
from semicrf.engine.cpu.linking import entry, kernel, small
from semicrf.engine.cpu.places import given, put_number, put_whole, where, write, write_whole
from semicrf.engine.cpu.vectors import doubles, get, peak, put, where_equal, wholes

INF = np.inf


@small
def sum_labels(total, m, at, lead, y, ids):
    """The sum over previous labels of alpha, from ALL, and what leads on from them."""
    total(m, at[M.ALL], at[M.NOTHING], at[M.NOTHING], 0, lead, at[M.LABELS], at[M.C], at[M.X], y, ids)


@small
def start_labels(total, m, at, lead, y, ids):
    """The same of the one element before the first segment."""
    total(m, at[M.ONE], at[M.NOTHING], at[M.NOTHING], 0, lead, at[M.SINGLE], 1, at[M.X], y, ids)


@kernel
def make_room(m, at):
    """Move the window to the end of its memory, and count prefixes and offsets from here: where it begins."""
    K, d, p = at[M.K], at[M.D], at[M.P]
    to = at[M.SOURCES] - K
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        if not at[M.BY_DURATION]:
            for i in range(K * d - 1, -1, -1):
                put(m, o + at[M.WINDOW] + to * d + i, get(m, o + at[M.WINDOW] + i))
        for v in range(p):
            moved = get(m, o + at[M.PREFIX] + v) - get(m, at[M.OFFSET] + v)
            for i in range(K - 1, -1, -1):
                put(m, o + at[M.SOURCE] + (to + i) * p + v, get(m, o + at[M.SOURCE] + i * p + v) + moved)
            put(m, o + at[M.PREFIX] + v, fill(0.0))
    for v in range(p):
        put(m, at[M.ORIGIN] + v, get(m, at[M.ORIGIN] + v) + get(m, at[M.OFFSET] + v))
        put(m, at[M.OFFSET] + v, fill(0.0))
    return to


@kernel
def keep_rows(m, at, places, element, ids, b, t, column, y):
    """Keep an element of every label, where it is asked for, and its choices."""
    for f in range(at[M.D] if given(places, at[M.KEPT] + element) else 0):
        i = at[M.KEPT] + element
        write(places, i, where(places, i, f, b, t, column, 0), m, y + f, at[M.BLOCK], at[M.C])
    for r in range(at[M.CHOICES]):
        i = at[M.KEPT] + ids
        write_whole(places, i, where(places, i, r, b, t, column, 0), m, at[M.IDS] + r, at[M.BLOCK], at[M.C])


@kernel
def push(total, m, at, places, keep, b, s, first, L):
    """Put what leads on from s into the window, which begins at `first`: where it then begins."""
    if first == 0:
        first = make_room(m, at)
    first -= 1
    for column in range(at[M.COLUMNS]):
        if s + column + 1 > L:  # no segment: what is past the length is not read
            break
        y = (
            at[M.RING] + ((s % at[M.K]) * at[M.COLUMNS] + column) * at[M.D]
            if at[M.BY_DURATION]
            else at[M.WINDOW] + first * at[M.D]
        )
        lead = lead_in(m, at, places, b, s, column)
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            if s > 0:
                sum_labels(total, m, at, o + lead, o + y, o + at[M.IDS])
                continue
            start_labels(total, m, at, o + lead, o + y, o + at[M.IDS])
            for r in range(at[M.CHOICES]):
                put(m, o + at[M.IDS] + r, fill(-1.0))
        if keep:
            keep_rows(m, at, places, P.G, P.G_ID, b, s, column, y)
    for v in range(at[M.P]):
        row(m, at, places, v, P.OPEN, b, s, 0, 0, at[M.READ])
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            score = get(m, at[M.OFFSET] + v) - get(m, o + at[M.PREFIX] + v) + get(m, o + at[M.READ])
            put(m, o + at[M.SOURCE] + first * at[M.P] + v, score)
    return first


@kernel
def gather(m, at, s):
    """GATHERED: the window where what leads in depends on the duration."""
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        for k in range(terms(m, at, o)):
            ring = at[M.RING] + (((s - k) % at[M.K]) * at[M.COLUMNS] + k) * at[M.D]
            for f in range(at[M.D]):
                put(m, o + at[M.GATHERED] + k * at[M.D] + f, get(m, o + ring + f))
    return at[M.GATHERED]


@kernel
def levels(m, at):
    """BY: what brings the elements in Y to level 0; offsets follow."""
    moved = False
    for v in range(at[M.P]):
        top, field = -INF, int(m[(at[M.LEVEL] + v) * LANES])
        if field >= 0:
            for o in range(0, at[M.ENDS], at[M.BLOCK]):
                top = max(top, peak(get(m, o + at[M.Y] + field)))
        by = -top if abs(top) < INF else 0.0
        put(m, at[M.BY] + v, fill(by))
        put(m, at[M.OFFSET] + v, get(m, at[M.OFFSET] + v) - fill(by))
        moved = moved or by != 0.0
    return moved


@kernel
def arrive(total, scale, m, at, places, keep, b, s, first):
    """ALPHA at s + 1, in units of its own level, and ALL."""
    read_position(m, at, places, b, s)
    element, source = at[M.WINDOW] + first * at[M.D], at[M.SOURCE] + first * at[M.P]
    if at[M.BY_DURATION]:
        element = gather(m, at, s)
    if at[M.SEGMENTS]:
        source = score_segments(m, at, places, b, s + 1, source)
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        n = terms(m, at, o)
        here, duration, bound = o + at[M.HERE], o + at[M.DURATION], o + at[M.BOUND]
        total(m, o + element, here, o + source, at[M.P], duration, bound, n, at[M.X], o + at[M.Y], o + at[M.IDS])
    moved = levels(m, at)
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        if moved:
            scale(m, o + at[M.Y], at[M.BY], o + at[M.ALPHA])
        else:
            for f in range(at[M.D]):
                put(m, o + at[M.ALPHA] + f, get(m, o + at[M.Y] + f))
    spread(m, at, at[M.ALPHA], at[M.D], at[M.ALL])
    if keep:
        keep_rows(m, at, places, P.ALPHA, P.ALPHA_ID, b, s + 1, 0, at[M.ALPHA])
        for v in range(at[M.P] if given(places, at[M.KEPT] + P.OFFSET) else 0):
            level = m[(at[M.ORIGIN] + v) * LANES] + m[(at[M.OFFSET] + v) * LANES]
            put_number(places, at[M.KEPT] + P.OFFSET, v, b, s + 1, level)


@kernel
def finish(total, scale, m, at, places, keep, b):
    """The sum over final labels, in absolute terms."""
    sum_labels(total, m, at, at[M.FINAL], at[M.TOTAL], at[M.TOTAL_IDS])
    for v in range(at[M.P]):
        put(m, at[M.BY] + v, get(m, at[M.ORIGIN] + v) + get(m, at[M.OFFSET] + v))
    scale(m, at[M.TOTAL], at[M.BY], at[M.TOTAL])
    for f in range(at[M.D]):
        put_number(places, at[M.KEPT] + P.VALUE, f, b, 0, m[(at[M.TOTAL] + f) * LANES])
    if keep:
        for r in range(at[M.CHOICES]):
            put_whole(places, at[M.KEPT] + P.END_ID, r, b, 0, m[(at[M.TOTAL_IDS] + r) * LANES])


@kernel
def enter(m, at, window):
    """Put a window into an empty memory: where it begins. Scores and offsets are counted from it."""
    first, row = at[M.SOURCES] - at[M.K], 0
    for k in range(at[M.K]):
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            for f in range(at[M.D]):
                put(m, o + at[M.WINDOW] + (first + k) * at[M.D] + f, get(window, row))
                row += 1
            for v in range(at[M.P]):
                put(m, o + at[M.SOURCE] + (first + k) * at[M.P] + v, fill(0.0))
    return first


@kernel
def leave(scale, m, at, window, s, first):
    """The window that begins at `first`, whose newest source is s: elements that lead on, with all that their segments
    have scored so far; behind them the offsets they are relative to.
    """
    row = 0
    for k in range(at[M.K]):
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            for v in range(at[M.P]):
                score = get(m, o + at[M.SOURCE] + (first + k) * at[M.P] + v) + get(m, o + at[M.PREFIX] + v)
                alive = smaller(get(m, o + at[M.LO] + v), fill(float(s - k)))
                score = where_equal(alive, get(m, o + at[M.LO] + v), score, fill(-INF))
                put(m, at[M.BY] + v, score - get(m, at[M.OFFSET] + v))
            scale(m, o + at[M.WINDOW] + (first + k) * at[M.D], at[M.BY], o + at[M.Y])
            for f in range(at[M.D]):
                put(window, row, get(m, o + at[M.Y] + f))
                row += 1
    for v in range(at[M.P]):
        put(window, row + v, get(m, at[M.ORIGIN] + v) + get(m, at[M.OFFSET] + v))


@entry
def forward(total, scale, memory, map_, places_, spans_, keep, first, last):
    """The spans first .. last - 1: values, and what is kept; all but `keep` by address.

    A span is six integers: its sequence, the length of that, the first and the last position, and the addresses of the
    windows at these, which are not read at the start and not written at the end of a sequence.
    """
    m, at, places, spans = doubles(memory), wholes(map_), wholes(places_), wholes(spans_)
    for i in range(6 * first, 6 * last, 6):
        b, L, start, end = spans[i], spans[i + 1], spans[i + 2], spans[i + 3]
        tables(m, at, places, b)
        begin(m, at)
        newest = at[M.SOURCES] if start == 0 else enter(m, at, doubles(spans[i + 4]))
        for s in range(start, end):
            if s > start or s == 0:
                newest = push(total, m, at, places, keep, b, s, newest, L)
            arrive(total, scale, m, at, places, keep, b, s, newest)
        if end == L:
            finish(total, scale, m, at, places, keep, b)
        else:
            newest = push(total, m, at, places, keep, b, end, newest, L)
            leave(scale, m, at, doubles(spans[i + 5]), end, newest)
