"""What generated CPU text calls by name: sums over the terms of eight labels at once, and what belongs to a term.

Each agrees with `semicrf.compile.interpret` on every float, infinities included, and keeps every NaN. The terms of a
sum are rows of memory, `step` apart.
"""

from __future__ import annotations

import numpy as np

from semicrf.engine.cpu.lanes import fill
from semicrf.engine.cpu.linking import small
from semicrf.engine.cpu.vectors import (
    anchor,
    any_above,
    exp,
    get,
    highest,
    log,
    put,
    where_above,
    where_equal,
    where_flawed,
    where_forbidden,
)

INF, NAN = np.inf, np.nan


@small
def within(i, bound, w):
    """w where a label has a term i, else -inf."""
    return where_above(bound, fill(float(i)), w, fill(-INF))


@small
def atleast(x, y):
    """1 where x >= y, else 0."""
    return where_equal(x, y, fill(1.0), where_above(x, y, fill(1.0), fill(0.0)))


@small
def exceeds(x, y):
    """1 where x > y, else 0."""
    return where_above(x, y, fill(1.0), fill(0.0))


@small
def hit(chosen, place):
    """1 where a choice was found at this place, else 0."""
    return where_equal(chosen, fill(float(place)), fill(1.0), fill(0.0))


@small
def lse(m, first, step, n):
    """log sum exp of n terms; -inf where all are."""
    top = fill(-INF)
    for i in range(n):
        top = highest(get(m, first + i * step), top)
    top, total = anchor(top), fill(0.0)
    for i in range(n):
        total = total + exp(get(m, first + i * step) - top)
    return top + log(total)


@small
def largest(m, first, step, n):
    """The largest of n terms and its place, the first on ties; -inf and -1 where all are, NaN and -1 where one is."""
    top, place, flaw = fill(-INF), fill(-1.0), fill(0.0)
    for i in range(n):
        x = get(m, first + i * step)
        place = where_above(x, top, fill(float(i)), place)
        top = where_above(x, top, x, top)
        flaw = where_flawed(x, x, flaw)
    return where_flawed(flaw, flaw, top), where_flawed(flaw, fill(-1.0), place)


@small
def insert(lists, x, place, k):
    """Into descending lists, after their equals: k rows of values, then k of places."""
    for r in range(k - 1, -1, -1):
        held, at = get(lists, r), get(lists, k + r)
        value, where = where_above(x, held, x, held), where_above(x, held, place, at)
        if r > 0:
            before = get(lists, r - 1)
            value = where_above(x, before, before, value)
            where = where_above(x, before, get(lists, k + r - 1), where)
        put(lists, r, value)
        put(lists, k + r, where)


@small
def best(m, first, step, aside, columns, n, k, descending, lists):
    """The k largest of n terms by `columns` scalars, `aside` apart, and their places (term * columns + column).

    Descending, ties to the first place, in 2 k rows of `lists`. What is -inf is nobody's choice: its place is -1.
    `descending`: no term's scalar exceeds the one before it.
    """
    flaw, begun = fill(0.0), descending and columns == k  # the first term is a list already
    for r in range(k):
        x = get(m, first + r * aside) if begun else fill(-INF)
        flaw = where_flawed(x, x, flaw)
        put(lists, r, x)
        put(lists, k + r, where_forbidden(x, fill(-1.0), fill(float(r))))
    for i in range(1 if begun else 0, n):
        for c in range(columns):
            x = get(m, first + i * step + c * aside)
            flaw = where_flawed(x, x, flaw)
            if any_above(x, get(lists, k - 1)) != 0:
                insert(lists, x, fill(float(i * columns + c)), k)
            elif descending:
                break
    for r in range(k):
        put(lists, r, where_flawed(flaw, flaw, get(lists, r)))
        put(lists, k + r, where_flawed(flaw, fill(-1.0), get(lists, k + r)))
