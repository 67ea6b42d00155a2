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
from semicrf.engine.cpu.lanes import LANES, fill, kernel, larger, small, smaller
from semicrf.engine.cpu.places import given, number, put_number, put_whole, read, where, write, write_whole
from semicrf.engine.cpu.vectors import get, peak, put, where_forbidden

INF = np.inf
NEVER = 2.0**60  # the first source of a label that there is not


@kernel
def clear(m, at, row, n):
    """n rows of zeros in every block."""
    for o in range(0, at.blocks * at.R, at.R):
        for i in range(row, row + n):
            put(m, o + i, fill(0.0))


@kernel
def add(m, at, row, by, n):
    """n rows added to others in every block."""
    for o in range(0, at.blocks * at.R, at.R):
        for i in range(n):
            put(m, o + row + i, get(m, o + row + i) + get(m, o + by + i))


@kernel
def spread(m, at, row, n, to):
    """n rows of labels as rows that all lanes share: to + c n of label c."""
    for c in range(at.C):
        for f in range(n):
            put(m, to + c * n + f, fill(m[(c // LANES) * at.R + row + f, c % LANES]))


@kernel
def row(m, at, places, v, part, b, t, k, previous, to):
    """A row of a part of potential v into every block; zeros where there is no such part."""
    i = v * at.parts + part
    if given(places, i):
        read(places, i, where(places, i, 0, b, t, k, previous), m, to, at.R, at.C)
    else:
        clear(m, at, to, 1)


@kernel
def tables(m, at, places, b):
    """What a sequence reads at every position."""
    for v in range(at.p):
        for k in range(at.K):
            row(m, at, places, v, M.DURATION, b, 0, k, 0, at.DURATION + k * at.p + v)
        for column in range(at.columns):
            for c in range(at.C):
                to = at.LEAD + (column * at.C + c) * at.p + v
                row(m, at, places, v, M.TRANSITION, b, 0, 0, c, to)
                if at.by_duration:
                    row(m, at, places, v, M.TRANSITION_BY, b, 0, column, c, at.READ)
                    add(m, at, to, at.READ, 1)
        row(m, at, places, v, M.START, b, 0, 0, 0, at.INITIAL + v)
        row(m, at, places, v, M.END, b, 0, 0, 0, at.HERE + v)
    spread(m, at, at.HERE, at.p, at.FINAL)


@kernel
def begin(m, at):
    """Where a sequence starts."""
    for o in range(0, at.blocks * at.R, at.R):
        for v in range(at.p):
            put(m, o + at.PREFIX + v, fill(0.0))
            put(m, o + at.LO + v, fill(0.0))
    for c in range(at.C, at.blocks * LANES):
        for v in range(at.p):
            m[(at.blocks - 1) * at.R + at.LO + v, c % LANES] = NEVER
    for v in range(at.p):
        put(m, at.OFFSET + v, fill(0.0))
        put(m, at.ORIGIN + v, fill(0.0))


@kernel
def lead_in(m, at, places, b, s, column):
    """The row where what leads into a segment that starts at s begins, edges included."""
    lead = at.INITIAL if s == 0 else at.LEAD + column * at.C * at.p
    if not at.edges:
        return lead
    n = 1 if s == 0 else at.C
    for previous in range(n):
        for v in range(at.p):
            row(m, at, places, v, M.EDGE, b, s, column, previous, at.EDGED + previous * at.p + v)
    add(m, at, at.EDGED, lead, n * at.p)
    return at.EDGED


@small
def lead_on(total, m, at, o, s, lead, y):
    """What leads on from s to the labels of a block: the sum over previous labels, from ALL."""
    if s == 0:
        total(m, at.ONE, at.NOTHING, at.NOTHING, 0, o + lead, at.SINGLE, 1, at.X, o + y, o + at.IDS)
    else:
        total(m, at.ALL, at.NOTHING, at.NOTHING, 0, o + lead, at.LABELS, at.C, at.X, o + y, o + at.IDS)


@kernel
def make_room(m, at):
    """Move the window to the end of its memory, and count prefixes and offsets from here: where it begins."""
    K, d, p = at.K, at.d, at.p
    to = at.window - K
    for o in range(0, at.blocks * at.R, at.R):
        if not at.by_duration:
            for i in range(K * d - 1, -1, -1):
                put(m, o + at.WINDOW + to * d + i, get(m, o + at.WINDOW + i))
        for v in range(p):
            moved = get(m, o + at.PREFIX + v) - get(m, at.OFFSET + v)
            for i in range(K - 1, -1, -1):
                put(m, o + at.SOURCE + (to + i) * p + v, get(m, o + at.SOURCE + i * p + v) + moved)
            put(m, o + at.PREFIX + v, fill(0.0))
    for v in range(p):
        put(m, at.ORIGIN + v, get(m, at.ORIGIN + v) + get(m, at.OFFSET + v))
        put(m, at.OFFSET + v, fill(0.0))
    return to


@small
def keep_rows(m, at, places, element, ids, b, t, column, y):
    """Keep an element of every label, and its choices."""
    for f in range(at.d):
        i = at.kept + element
        write(places, i, where(places, i, f, b, t, column, 0), m, y + f, at.R, at.C)
    for r in range(at.ids):
        i = at.kept + ids
        write_whole(places, i, where(places, i, r, b, t, column, 0), m, at.IDS + r, at.R, at.C)


@small
def push(total, m, at, places, keep, b, s, first, L):
    """Put what leads on from s into the window, which begins at `first`: where it then begins."""
    if first == 0:
        first = make_room(m, at)
    first -= 1
    for column in range(at.columns):
        if s + column + 1 > L:  # no segment: what is past the length is not read
            break
        y = at.RING + ((s % at.K) * at.columns + column) * at.d if at.by_duration else at.WINDOW + first * at.d
        lead = lead_in(m, at, places, b, s, column)
        for o in range(0, at.blocks * at.R, at.R):
            lead_on(total, m, at, o, s, lead, y)
            if s == 0:
                for r in range(at.ids):
                    put(m, o + at.IDS + r, fill(-1.0))
        if keep:
            keep_rows(m, at, places, M.G, M.G_ID, b, s, column, y)
    for v in range(at.p):
        row(m, at, places, v, M.OPEN, b, s, 0, 0, at.READ)
        for o in range(0, at.blocks * at.R, at.R):
            score = get(m, at.OFFSET + v) - get(m, o + at.PREFIX + v) + get(m, o + at.READ)
            put(m, o + at.SOURCE + first * at.p + v, score)
    return first


@small
def bound_sources(m, at, places, v, b, s):
    """Move LO to s + 1 where a label is forbidden at s, to s where a segment must start there; READ: emissions, 0 where
    forbidden.
    """
    row(m, at, places, v, M.EMISSION, b, s, 0, 0, at.READ)
    i = v * at.parts + M.REQUIRED
    required = given(places, i) and s > 0 and number(places, i, 0, b, s) != 0
    for o in range(0, at.blocks * at.R, at.R):
        e, lo = get(m, o + at.READ), get(m, o + at.LO + v)
        if required:
            lo = larger(lo, fill(float(s)))
        put(m, o + at.LO + v, where_forbidden(e, fill(float(s + 1)), lo))
        put(m, o + at.READ, where_forbidden(e, fill(0.0), e))


@kernel
def read_position(m, at, places, b, s):
    """HERE and BOUND of segments that end after s."""
    for v in range(at.p):
        bound_sources(m, at, places, v, b, s)
        for o in range(0, at.blocks * at.R, at.R):
            prefix = get(m, o + at.PREFIX + v) + get(m, o + at.READ)
            put(m, o + at.PREFIX + v, prefix)
            put(m, o + at.HERE + v, prefix - get(m, at.OFFSET + v))
            put(m, o + at.BOUND + v, smaller(fill(float(at.K)), fill(float(s + 1)) - get(m, o + at.LO + v)))
        if given(places, v * at.parts + M.CLOSE):
            row(m, at, places, v, M.CLOSE, b, s, 0, 0, at.READ)
            for o in range(0, at.blocks * at.R, at.R):
                put(m, o + at.HERE + v, get(m, o + at.HERE + v) + get(m, o + at.READ))


@small
def terms(m, at, o):
    """How many terms the sums of a block have."""
    n = 0.0
    for v in range(at.gates):
        n = max(n, peak(get(m, o + at.BOUND + v)))
    return int(n)


@kernel
def score_segments(m, at, places, b, t, source):
    """SCORES: what belongs to each source, with the scores of whole segments that end at t."""
    most = 0
    for o in range(0, at.blocks * at.R, at.R):
        most = max(most, terms(m, at, o))
    for k in range(most):
        for v in range(at.p):
            row(m, at, places, v, M.SEGMENT, b, t - 1 - k, k, 0, at.SCORES + k * at.p + v)
    add(m, at, at.SCORES, source, most * at.p)
    return at.SCORES


@kernel
def gather(m, at, s):
    """GATHERED: the window where what leads in depends on the duration."""
    for o in range(0, at.blocks * at.R, at.R):
        for k in range(terms(m, at, o)):
            ring = at.RING + (((s - k) % at.K) * at.columns + k) * at.d
            for f in range(at.d):
                put(m, o + at.GATHERED + k * at.d + f, get(m, o + ring + f))
    return at.GATHERED


@kernel
def levels(m, at):
    """BY: what brings the elements in Y to level 0; offsets follow."""
    moved = False
    for v in range(at.p):
        top, field = -INF, int(m[at.LEVEL + v, 0])
        if field >= 0:
            for o in range(0, at.blocks * at.R, at.R):
                top = max(top, peak(get(m, o + at.Y + field)))
        by = -top if abs(top) < INF else 0.0
        put(m, at.BY + v, fill(by))
        put(m, at.OFFSET + v, get(m, at.OFFSET + v) - fill(by))
        moved = moved or by != 0.0
    return moved


@small
def arrive(total, scale, m, at, places, keep, b, s, first):
    """ALPHA at s + 1, in units of its own level, and ALL."""
    read_position(m, at, places, b, s)
    element, source = at.WINDOW + first * at.d, at.SOURCE + first * at.p
    if at.by_duration:
        element = gather(m, at, s)
    if at.segments:
        source = score_segments(m, at, places, b, s + 1, source)
    for o in range(0, at.blocks * at.R, at.R):
        total(
            m, o + element, o + at.HERE, o + source, at.p, o + at.DURATION, o + at.BOUND, terms(m, at, o), at.X,
            o + at.Y, o + at.IDS,
        )  # fmt: skip
    moved = levels(m, at)
    for o in range(0, at.blocks * at.R, at.R):
        if moved:
            scale(m, o + at.Y, at.BY, o + at.ALPHA)
        else:
            for f in range(at.d):
                put(m, o + at.ALPHA + f, get(m, o + at.Y + f))
    spread(m, at, at.ALPHA, at.d, at.ALL)
    if keep:
        keep_rows(m, at, places, M.ALPHA, M.ALPHA_ID, b, s + 1, 0, at.ALPHA)
        for v in range(at.p):
            put_number(places, at.kept + M.OFFSET, v, b, s + 1, m[at.ORIGIN + v, 0] + m[at.OFFSET + v, 0])


@small
def finish(total, scale, m, at, places, keep, b):
    """The sum over final labels, in absolute terms."""
    total(
        m, at.ALL, at.NOTHING, at.NOTHING, 0, at.FINAL, at.LABELS, at.C, at.X, at.TOTAL, at.TOTAL_IDS,
    )  # fmt: skip
    for v in range(at.p):
        put(m, at.BY + v, get(m, at.ORIGIN + v) + get(m, at.OFFSET + v))
    scale(m, at.TOTAL, at.BY, at.TOTAL)
    for f in range(at.d):
        put_number(places, at.kept + M.VALUE, f, b, 0, m[at.TOTAL + f, 0])
    if keep:
        for r in range(at.ids):
            put_whole(places, at.kept + M.END_ID, r, b, 0, m[at.TOTAL_IDS + r, 0])


@kernel
def forward(total, scale, m, at, places, lengths, keep, first, last):
    """The sequences first .. last - 1: values, and what is kept."""
    for b in range(first, last):
        tables(m, at, places, b)
        begin(m, at)
        newest = at.window
        for s in range(lengths[b]):
            newest = push(total, m, at, places, keep, b, s, newest, lengths[b])
            arrive(total, scale, m, at, places, keep, b, s, newest)
        finish(total, scale, m, at, places, keep, b)
