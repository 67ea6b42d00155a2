"""What segments score and what leads into them, read a row of labels at a time; loops over elements begin here."""

from __future__ import annotations

from semicrf.engine.cpu import elements_map as M
from semicrf.engine.cpu import places as P
from semicrf.engine.cpu.lanes import LANES, fill, larger, smaller
from semicrf.engine.cpu.linking import kernel, small
from semicrf.engine.cpu.places import given, number, read, where
from semicrf.engine.cpu.vectors import get, peak, put, where_forbidden

NEVER = 2.0**60  # the first source of a label that there is not


@kernel
def clear(m, at, row, n):
    """n rows of zeros in every block."""
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        for i in range(row, row + n):
            put(m, o + i, fill(0.0))


@kernel
def add(m, at, row, by, n):
    """n rows added to others in every block."""
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        for i in range(n):
            put(m, o + row + i, get(m, o + row + i) + get(m, o + by + i))


@kernel
def spread(m, at, row, n, to):
    """n rows of labels as rows that all lanes share: to + c n of label c."""
    for first in range(0, at[M.C], LANES):
        for lane in range(min(LANES, at[M.C] - first)):
            for f in range(n):
                put(m, to + lane * n + f, fill(m[(row + f) * LANES + lane]))
        row += at[M.BLOCK]
        to += LANES * n


@kernel
def row(m, at, places, v, part, b, t, k, previous, to):
    """A row of a part of potential v into every block; zeros where there is no such part."""
    i = v * at[M.PARTS] + part
    if given(places, i):
        read(places, i, where(places, i, 0, b, t, k, previous), m, to, at[M.BLOCK], at[M.C])
    else:
        clear(m, at, to, 1)


@kernel
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


@kernel
def begin(m, at):
    """Where a sequence starts."""
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        for v in range(at[M.P]):
            put(m, o + at[M.PREFIX] + v, fill(0.0))
            put(m, o + at[M.LO] + v, fill(0.0))
    last = at[M.ENDS] - at[M.BLOCK] + at[M.LO]
    for lane in range((at[M.C] - 1) % LANES + 1, LANES):  # that are nobody's
        for v in range(at[M.P]):
            m[(last + v) * LANES + lane] = NEVER
    for v in range(at[M.P]):
        put(m, at[M.OFFSET] + v, fill(0.0))
        put(m, at[M.ORIGIN] + v, fill(0.0))


@kernel
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


@kernel
def bound_sources(m, at, places, v, b, s):
    """Move LO to s + 1 where a label is forbidden at s, to s where a segment must start there; READ: emissions, 0 where
    forbidden.
    """
    row(m, at, places, v, P.EMISSION, b, s, 0, 0, at[M.READ])
    i = v * at[M.PARTS] + P.REQUIRED
    required = given(places, i) and s > 0 and number(places, i, 0, b, s) != 0
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        e, lo = get(m, o + at[M.READ]), get(m, o + at[M.LO] + v)
        if required:
            lo = larger(lo, fill(float(s)))
        put(m, o + at[M.LO] + v, where_forbidden(e, fill(float(s + 1)), lo))
        put(m, o + at[M.READ], where_forbidden(e, fill(0.0), e))


@kernel
def read_position(m, at, places, b, s):
    """HERE and BOUND of segments that end after s."""
    for v in range(at[M.P]):
        bound_sources(m, at, places, v, b, s)
        for o in range(0, at[M.ENDS], at[M.BLOCK]):
            prefix = get(m, o + at[M.PREFIX] + v) + get(m, o + at[M.READ])
            put(m, o + at[M.PREFIX] + v, prefix)
            put(m, o + at[M.HERE] + v, prefix - get(m, at[M.OFFSET] + v))
            put(m, o + at[M.BOUND] + v, smaller(fill(float(at[M.K])), fill(float(s + 1)) - get(m, o + at[M.LO] + v)))
        if given(places, v * at[M.PARTS] + P.CLOSE):
            row(m, at, places, v, P.CLOSE, b, s, 0, 0, at[M.READ])
            for o in range(0, at[M.ENDS], at[M.BLOCK]):
                put(m, o + at[M.HERE] + v, get(m, o + at[M.HERE] + v) + get(m, o + at[M.READ]))


@small
def terms(m, at, o):
    """How many terms the sums of a block have."""
    n = 0.0
    for v in range(at[M.GATES]):
        n = max(n, peak(get(m, o + at[M.BOUND] + v)))
    return int(n)


@kernel
def score_segments(m, at, places, b, t, source):
    """SCORES: what belongs to each source, with the scores of whole segments that end at t."""
    most = 0
    for o in range(0, at[M.ENDS], at[M.BLOCK]):
        most = max(most, terms(m, at, o))
    for k in range(most):
        for v in range(at[M.P]):
            row(m, at, places, v, P.SEGMENT, b, t - 1 - k, k, 0, at[M.SCORES] + k * at[M.P] + v)
    add(m, at, at[M.SCORES], source, most * at[M.P])
    return at[M.SCORES]
