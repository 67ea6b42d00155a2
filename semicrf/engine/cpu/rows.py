"""A semiring's functions as the loops of `elements` call them: for all labels of a position at once.

What follows the marked line is compiled once per semiring, behind its generated functions, and handed to the loops by
address: the loops are compiled once, whatever the semiring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `semicrf.compile.cpu` generates
    ROWS: int = 0
    ZERO: tuple[float, ...] = ()
    act: Any = ...
    pull: Any = ...
    shift: Any = ...
    sum: Any = ...

# ------------------------------------------------------------------ behind the generated functions


def total(elements, at_element, many, here, source, at_source, term, bound, count, x, rows, y, at):
    """y[r] = the sum over i < count[r] of elements[r, :, at_element + i] times its potentials, ids in at[r].

    The potentials are here[r, q] + source[r, q, at_source + i] + term[r, q, i]; those at i >= bound[r, q] are -inf.
    `many` is 0 where all rows share the elements. x and rows are scratch.
    """
    for r in range(count.shape[0]):
        n = count[r]
        if n > 0:
            act(elements[r * many], at_element, here[r], source[r], at_source, term[r], bound[r], n, x)
            sum(x, n, rows, y[r], at[r])
        else:
            for f in range(len(ZERO)):
                y[r, f] = ZERO[f]
            for f in range(at.shape[1]):
                at[r, f] = -1


def reverse(
    g, y, at, elements, at_element, many, here, source, at_source, term, bound, count, x, rows, into, out, live
):
    """The reverse of `total`: adds to `into`, as `elements` lie; fills out[r] where g[r] is not zero: where live[r]."""
    for r in range(count.shape[0]):
        live[r] = False
        for f in range(len(ZERO)):
            live[r] = live[r] or g[r, f] != 0.0
        n = count[r]
        live[r] = live[r] and n > 0
        if live[r]:
            e = r * many
            act(elements[e], at_element, here[r], source[r], at_source, term[r], bound[r], n, x)
            pull(
                g[r], y[r], at[r], x, rows, elements[e], at_element, here[r], source[r], at_source, term[r], bound[r],
                n, into[e], out[r],
            )  # fmt: skip


def scale(y, by):
    """Every y[r] times potentials, in place."""
    for r in range(y.shape[0]):
        moved = shift(y[r], by)
        for f in range(len(ZERO)):
            y[r, f] = moved[f]


def scratch():
    """How many rows of scratch `sum` and `pull` take."""
    return ROWS
