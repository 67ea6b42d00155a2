"""A semiring's functions as the loops of `elements` call them: for eight labels of a position at once.

What follows the marked line is compiled once per semiring, behind its generated functions, and handed to the loops by
address: the loops are compiled once, whatever the semiring. All arguments but m are rows of it: see `elements`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semicrf.engine.cpu.lanes import fill
from semicrf.engine.cpu.vectors import any_but, get, put, where_equal

if TYPE_CHECKING:  # what `semicrf.compile.cpu` generates
    D: int = 0
    IDS: int = 0
    P: int = 0
    PRODUCTS: bool = True
    ZERO: tuple[float, ...] = ()
    act: Any = ...
    pull: Any = ...
    shift: Any = ...
    sum: Any = ...

# ------------------------------------------------------------------ behind the generated functions


def total(m, element, here, source, step, term, bound, n, x, y, ids):
    """y = the sum of n elements times their potentials, its choices in ids.

    The potentials of term i are here + m[source + i * step] + m[term + i * P], -inf from `bound` on. x is scratch.
    """
    if n > 0:
        act(m, element, here, source, step, term, bound, n, x)
        sum(m, x, n, y, ids)
        return
    for f in range(D):
        put(m, y + f, fill(ZERO[f]))
    for r in range(IDS):
        put(m, ids + r, fill(-1.0))


def reverse(m, g, y, ids, element, into, here, source, step, term, bound, n, x, out, live):
    """The reverse of `total`: adds to `into`, as the elements lie, and fills `out`, as the terms do.

    Nothing comes back to a label all of whose g are zero; whether there is any other. live is scratch.
    """
    mark, some = fill(0.0), 0
    for f in range(D):
        some |= any_but(get(m, g + f), fill(0.0))
        mark = where_equal(get(m, g + f), fill(0.0), mark, fill(1.0))
    if some == 0 or n <= 0:
        return 0
    for q in range(P):
        put(m, live + q, mark * get(m, bound + q))
    if PRODUCTS:
        act(m, element, here, source, step, term, live, n, x)
    pull(m, g, y, ids, element, into, here, source, step, term, live, n, x, out)
    return 1


def scale(m, element, by, out):
    """out = an element times potentials."""
    shift(m, element, by, out)
