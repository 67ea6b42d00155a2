"""What generated CPU text calls by name: elementary functions of every float, and sums over a row of terms.

Each agrees with `semicrf.compile.interpret` on every float, infinities included. Loops of straight-line code over a row
vectorise; where a comparison must not be reordered, work is done in blocks.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from semicrf.engine.cpu.elementary import exp as exp_in_range

INF = float("inf")
NAN = float("nan")
BLOCK = 8

KEEP_ORDER = {"contract", "nsz"}
"""Generated arithmetic is done as written, as infinities and NaN mean something there."""

small = njit(inline="always", fastmath=KEEP_ORDER, error_model="numpy")
function = njit(fastmath=KEEP_ORDER, error_model="numpy")


@njit(forceinline=True, fastmath={*KEEP_ORDER, "reassoc"}, error_model="numpy")  # inlined late, with flags of its own
def plus(total, term):
    """total + term, in any order: what a loop adds up may be added up in lanes."""
    return total + term


@small
def exp(x):
    """e to the power x, 0 from -700 down."""
    y = exp_in_range(min(x, 700.0))
    if x > 700.0:
        y = np.exp(x)
    return y if x == x else x


@small
def log(x):
    """Natural logarithm; log(0) = -inf."""
    return np.log(x)


@small
def ratio(x, total):
    """exp(x - total), 0 where x is -inf."""
    y = exp(x - total)
    return 0.0 if x == -INF else y


@small
def weigh(p, y):
    """p * y with 0 * anything = 0."""
    z = p * y
    return 0.0 if p == 0.0 else z


@small
def surprisal(x, total):
    """total - x, +inf where x is -inf."""
    y = total - x
    return INF if x == -INF else y


@small
def larger(a, b):
    """The larger of two; NaN where one is."""
    return a if a > b or a != a else b


@small
def peak(row, i):
    """The largest of a block."""
    a = larger(larger(row[i], row[i + 1]), larger(row[i + 2], row[i + 3]))
    b = larger(larger(row[i + 4], row[i + 5]), larger(row[i + 6], row[i + 7]))
    return larger(a, b)


@function
def largest(row, n):
    """The largest of the first n and its place, the first on ties; -inf and -1 where all are; NaN where one is."""
    top, place, flawed = -INF, -1, False
    full = n - n % BLOCK
    for i in range(0, full, BLOCK):
        m = peak(row, i)
        flawed |= m != m
        if m > top:
            top, place = m, i
    for i in range(full, n):
        flawed |= row[i] != row[i]
        if row[i] > top:
            top, place = row[i], i
    if flawed:
        return NAN, -1
    if place >= 0:
        while row[place] != top:
            place += 1
    return top, place


@function
def lse(row, n):
    """log sum exp of the first n; -inf where all are."""
    top = largest(row, n)[0]
    if not abs(top) < INF:
        return top
    total = 0.0
    for i in range(n):
        total = plus(total, exp_in_range(row[i] - top))
    return top + np.log(total)


@small
def insert(value, place, k, values, places):
    """Into a descending list, after its equals."""
    r = k - 1
    while r > 0 and values[r - 1] < value:
        values[r] = values[r - 1]
        places[r] = places[r - 1]
        r -= 1
    values[r] = value
    places[r] = place


@function
def best(rows, n, k, descending, values, places):
    """The k largest of the rows' first n and their places (term * rows + row), descending, ties to the first place.

    What is -inf is nobody's choice: its place is -1. `descending`: no term's scalar exceeds that of the row before.
    """
    columns = rows.shape[0]
    for r in range(k):
        values[r] = -INF
        places[r] = -1
    i = 0
    while i < n:
        if i + BLOCK <= n:
            m = peak(rows[0], i)
            if not descending:
                for c in range(1, columns):
                    m = larger(m, peak(rows[c], i))
            if m <= values[k - 1]:
                i += BLOCK
                continue
        for j in range(i, min(i + BLOCK, n)):
            for c in range(columns):
                if rows[c, j] != rows[c, j]:
                    values[:k] = NAN
                    places[:k] = -1
                    return
                if rows[c, j] > values[k - 1]:
                    insert(rows[c, j], j * columns + c, k, values, places)
                elif descending:
                    break
        i += BLOCK
