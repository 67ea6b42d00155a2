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
from semicrf.engine.cpu.lanes import LANES, fill, inner, kernel, larger, small, smaller
from semicrf.engine.cpu.places import given, number, put_number, put_whole, read, where, write, write_whole
from semicrf.engine.cpu.vectors import doubles, get, peak, put, where_forbidden, wholes

INF = np.inf
NEVER = 2.0**60  # the first source of a label that there is not


@inner
def clear(m, at, row, n):
    """n rows of zeros in every block."""
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        for i in range(row, row + n):
            put(m, o + i, fill(0.0))


@inner
def add(m, at, row, by, n):
    """n rows added to others in every block."""
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        for i in range(n):
            put(m, o + row + i, get(m, o + row + i) + get(m, o + by + i))


@inner
def spread(m, at, row, n, to):
    """n rows of labels as rows that all lanes share: to + c n of label c."""
    for first in range(0, at[M.C], LANES):
        for lane in range(min(LANES, at[M.C] - first)):
            for f in range(n):
                put(m, to + lane * n + f, fill(m[(row + f) * LANES + lane]))
        row += at[M.BLOCK]
        to += LANES * n


@inner
def row(m, at, places, v, part, b, t, k, previous, to):
    """A row of a part of potential v into every block; zeros where there is no such part."""
    i = v * at[M.PARTS] + part
    if given(places, i):
        read(places, i, where(places, i, 0, b, t, k, previous), m, to, at[M.BLOCK], at[M.C])
    else:
        clear(m, at, to, 1)


@inner
def tables(m, at, places, b):
    """What a sequence reads at every position."""
    for v in range(at[M.P]):
        for k in range(at[M.K]):
            row(m, at, places, v, P.DURATION, b, 0, k, 0, at[M.DURATION] + k * at[M.P] + v)
        for column in range(at[M.COLUMNS]):
            for c in range(at[M.C]):
                to = at[M.LEAD] + (column * at[M.C] + c) * at[M.P] + v
                row(m, at, places, v, P.TRANSITION, b, 0, 0, c, to)
                if at[M.BY_DURATION]:
                    row(m, at, places, v, P.TRANSITION_BY, b, 0, column, c, at[M.READ])
                    add(m, at, to, at[M.READ], 1)
        row(m, at, places, v, P.START, b, 0, 0, 0, at[M.INITIAL] + v)
        row(m, at, places, v, P.END, b, 0, 0, 0, at[M.HERE] + v)
    spread(m, at, at[M.HERE], at[M.P], at[M.FINAL])


@inner
def begin(m, at):
    """Where a sequence starts."""
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        for v in range(at[M.P]):
            put(m, o + at[M.PREFIX] + v, fill(0.0))
            put(m, o + at[M.LO] + v, fill(0.0))
    for c in range(at[M.C], at[M.BLOCKS] * LANES):
        for v in range(at[M.P]):
            m[((at[M.BLOCKS] - 1) * at[M.BLOCK] + at[M.LO] + v) * LANES + c % LANES] = NEVER
    for v in range(at[M.P]):
        put(m, at[M.OFFSET] + v, fill(0.0))
        put(m, at[M.ORIGIN] + v, fill(0.0))


@inner
def lead_in(m, at, places, b, s, column):
    """The row where what leads into a segment that starts at s begins, edges included."""
    lead = at[M.INITIAL] if s == 0 else at[M.LEAD] + column * at[M.C] * at[M.P]
    if not at[M.EDGES]:
        return lead
    n = 1 if s == 0 else at[M.C]
    for previous in range(n):
        for v in range(at[M.P]):
            row(m, at, places, v, P.EDGE, b, s, column, previous, at[M.EDGED] + previous * at[M.P] + v)
    add(m, at, at[M.EDGED], lead, n * at[M.P])
    return at[M.EDGED]


@small
def lead_on(total, m, at, o, s, lead, y):
    """What leads on from s to the labels of a block: the sum over previous labels, from ALL."""
    if s == 0:
        total(m, at[M.ONE], at[M.NOTHING], at[M.NOTHING], 0, o + lead, at[M.SINGLE], 1, at[M.X], o + y, o + at[M.IDS])
    else:
        total(m, at[M.ALL], at[M.NOTHING], at[M.NOTHING], 0, o + lead, at[M.LABELS], at[M.C], at[M.X], o + y, o + at[M.IDS])


@inner
def make_room(m, at):
    """Move the window to the end of its memory, and count prefixes and offsets from here: where it begins."""
    K, d, p = at[M.K], at[M.D], at[M.P]
    to = at[M.SOURCES] - K
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
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


@small
def keep_rows(m, at, places, element, ids, b, t, column, y):
    """Keep an element of every label, and its choices."""
    for f in range(at[M.D]):
        i = at[M.KEPT] + element
        write(places, i, where(places, i, f, b, t, column, 0), m, y + f, at[M.BLOCK], at[M.C])
    for r in range(at[M.CHOICES]):
        i = at[M.KEPT] + ids
        write_whole(places, i, where(places, i, r, b, t, column, 0), m, at[M.IDS] + r, at[M.BLOCK], at[M.C])


@small
def push(total, m, at, places, keep, b, s, first, L):
    """Put what leads on from s into the window, which begins at `first`: where it then begins."""
    if first == 0:
        first = make_room(m, at)
    first -= 1
    for column in range(at[M.COLUMNS]):
        if s + column + 1 > L:  # no segment: what is past the length is not read
            break
        y = at[M.RING] + ((s % at[M.K]) * at[M.COLUMNS] + column) * at[M.D] if at[M.BY_DURATION] else at[M.WINDOW] + first * at[M.D]
        lead = lead_in(m, at, places, b, s, column)
        for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
            lead_on(total, m, at, o, s, lead, y)
            if s == 0:
                for r in range(at[M.CHOICES]):
                    put(m, o + at[M.IDS] + r, fill(-1.0))
        if keep:
            keep_rows(m, at, places, P.G, P.G_ID, b, s, column, y)
    for v in range(at[M.P]):
        row(m, at, places, v, P.OPEN, b, s, 0, 0, at[M.READ])
        for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
            score = get(m, at[M.OFFSET] + v) - get(m, o + at[M.PREFIX] + v) + get(m, o + at[M.READ])
            put(m, o + at[M.SOURCE] + first * at[M.P] + v, score)
    return first


@small
def bound_sources(m, at, places, v, b, s):
    """Move LO to s + 1 where a label is forbidden at s, to s where a segment must start there; READ: emissions, 0 where
    forbidden.
    """
    row(m, at, places, v, P.EMISSION, b, s, 0, 0, at[M.READ])
    i = v * at[M.PARTS] + P.REQUIRED
    required = given(places, i) and s > 0 and number(places, i, 0, b, s) != 0
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        e, lo = get(m, o + at[M.READ]), get(m, o + at[M.LO] + v)
        if required:
            lo = larger(lo, fill(float(s)))
        put(m, o + at[M.LO] + v, where_forbidden(e, fill(float(s + 1)), lo))
        put(m, o + at[M.READ], where_forbidden(e, fill(0.0), e))


@inner
def read_position(m, at, places, b, s):
    """HERE and BOUND of segments that end after s."""
    for v in range(at[M.P]):
        bound_sources(m, at, places, v, b, s)
        for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
            prefix = get(m, o + at[M.PREFIX] + v) + get(m, o + at[M.READ])
            put(m, o + at[M.PREFIX] + v, prefix)
            put(m, o + at[M.HERE] + v, prefix - get(m, at[M.OFFSET] + v))
            put(m, o + at[M.BOUND] + v, smaller(fill(float(at[M.K])), fill(float(s + 1)) - get(m, o + at[M.LO] + v)))
        if given(places, v * at[M.PARTS] + P.CLOSE):
            row(m, at, places, v, P.CLOSE, b, s, 0, 0, at[M.READ])
            for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
                put(m, o + at[M.HERE] + v, get(m, o + at[M.HERE] + v) + get(m, o + at[M.READ]))


@small
def terms(m, at, o):
    """How many terms the sums of a block have."""
    n = 0.0
    for v in range(at[M.GATES]):
        n = max(n, peak(get(m, o + at[M.BOUND] + v)))
    return int(n)


@inner
def score_segments(m, at, places, b, t, source):
    """SCORES: what belongs to each source, with the scores of whole segments that end at t."""
    most = 0
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        most = max(most, terms(m, at, o))
    for k in range(most):
        for v in range(at[M.P]):
            row(m, at, places, v, P.SEGMENT, b, t - 1 - k, k, 0, at[M.SCORES] + k * at[M.P] + v)
    add(m, at, at[M.SCORES], source, most * at[M.P])
    return at[M.SCORES]


@inner
def gather(m, at, s):
    """GATHERED: the window where what leads in depends on the duration."""
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        for k in range(terms(m, at, o)):
            ring = at[M.RING] + (((s - k) % at[M.K]) * at[M.COLUMNS] + k) * at[M.D]
            for f in range(at[M.D]):
                put(m, o + at[M.GATHERED] + k * at[M.D] + f, get(m, o + ring + f))
    return at[M.GATHERED]


@inner
def levels(m, at):
    """BY: what brings the elements in Y to level 0; offsets follow."""
    moved = False
    for v in range(at[M.P]):
        top, field = -INF, int(m[(at[M.LEVEL] + v) * LANES])
        if field >= 0:
            for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
                top = max(top, peak(get(m, o + at[M.Y] + field)))
        by = -top if abs(top) < INF else 0.0
        put(m, at[M.BY] + v, fill(by))
        put(m, at[M.OFFSET] + v, get(m, at[M.OFFSET] + v) - fill(by))
        moved = moved or by != 0.0
    return moved


@small
def arrive(total, scale, m, at, places, keep, b, s, first):
    """ALPHA at s + 1, in units of its own level, and ALL."""
    read_position(m, at, places, b, s)
    element, source = at[M.WINDOW] + first * at[M.D], at[M.SOURCE] + first * at[M.P]
    if at[M.BY_DURATION]:
        element = gather(m, at, s)
    if at[M.SEGMENTS]:
        source = score_segments(m, at, places, b, s + 1, source)
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        total(
            m, o + element, o + at[M.HERE], o + source, at[M.P], o + at[M.DURATION], o + at[M.BOUND], terms(m, at, o), at[M.X],
            o + at[M.Y], o + at[M.IDS],
        )  # fmt: skip
    moved = levels(m, at)
    for o in range(0, at[M.BLOCKS] * at[M.BLOCK], at[M.BLOCK]):
        if moved:
            scale(m, o + at[M.Y], at[M.BY], o + at[M.ALPHA])
        else:
            for f in range(at[M.D]):
                put(m, o + at[M.ALPHA] + f, get(m, o + at[M.Y] + f))
    spread(m, at, at[M.ALPHA], at[M.D], at[M.ALL])
    if keep:
        keep_rows(m, at, places, P.ALPHA, P.ALPHA_ID, b, s + 1, 0, at[M.ALPHA])
        for v in range(at[M.P]):
            put_number(places, at[M.KEPT] + P.OFFSET, v, b, s + 1, m[(at[M.ORIGIN] + v) * LANES] + m[(at[M.OFFSET] + v) * LANES])


@small
def finish(total, scale, m, at, places, keep, b):
    """The sum over final labels, in absolute terms."""
    total(
        m, at[M.ALL], at[M.NOTHING], at[M.NOTHING], 0, at[M.FINAL], at[M.LABELS], at[M.C], at[M.X], at[M.TOTAL], at[M.TOTAL_IDS],
    )  # fmt: skip
    for v in range(at[M.P]):
        put(m, at[M.BY] + v, get(m, at[M.ORIGIN] + v) + get(m, at[M.OFFSET] + v))
    scale(m, at[M.TOTAL], at[M.BY], at[M.TOTAL])
    for f in range(at[M.D]):
        put_number(places, at[M.KEPT] + P.VALUE, f, b, 0, m[(at[M.TOTAL] + f) * LANES])
    if keep:
        for r in range(at[M.CHOICES]):
            put_whole(places, at[M.KEPT] + P.END_ID, r, b, 0, m[(at[M.TOTAL_IDS] + r) * LANES])


@kernel
def forward(total, scale, memory, map_, places_, lengths, keep, first, last):
    """The sequences first .. last - 1: values, and what is kept; memory, map and places by their addresses."""
    m, at, places = doubles(memory), wholes(map_), wholes(places_)
    for b in range(first, last):
        tables(m, at, places, b)
        begin(m, at)
        newest = at[M.SOURCES]
        for s in range(lengths[b]):
            newest = push(total, m, at, places, keep, b, s, newest, lengths[b])
            arrive(total, scale, m, at, places, keep, b, s, newest)
        finish(total, scale, m, at, places, keep, b)
