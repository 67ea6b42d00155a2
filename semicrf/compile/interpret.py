"""The living definition: evaluates an expression on plain Python floats. Every rendered target must agree with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from semicrf.algebra.expr import Expr, postorder

inf = math.inf


def _lse(xs: Sequence[float]) -> float:
    top = max(xs)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(x - top) for x in xs))


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return inf


POINTWISE: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "neg": lambda a: -a,
    "mul": lambda a, b: a * b,
    "recip": lambda a: 1 / a if a else math.copysign(inf, a),
    "exp": _exp,
    "log": lambda a: math.log(a) if a > 0 else (-inf if a == 0 else math.nan),
    "maximum": lambda a, b: a if a >= b else b,
    "atleast": lambda a, b: float(a >= b),
    "exceeds": lambda a, b: float(a > b),
    "ratio": lambda x, t: 0.0 if x == -inf else _exp(x - t),
    "weigh": lambda p, y: 0.0 if p == 0 else p * y,
    "surprisal": lambda x, t: inf if x == -inf else t - x,
}


def _best(columns: Sequence[Sequence[float]], k: int) -> list[tuple[float, int]]:
    """The k largest of all columns with their places, ties to the first; what is -inf is nobody's choice (place -1)."""
    n = len(columns)
    entries = [(value, place * n + i) for i, column in enumerate(columns) for place, value in enumerate(column)]
    ranked = sorted((e for e in entries if e[0] > -inf), key=lambda e: (-e[0], e[1]))[:k]
    return ranked + [(-inf, -1)] * (k - len(ranked))


def evaluate(outputs: Sequence[Expr], inputs: Mapping[str, Sequence[Any]], terms: int = 1) -> tuple:
    """The outputs' values. `inputs` gives the leaves by kind; an ``x`` leaf is a list of `terms` numbers.

    >>> from semicrf.algebra import Log
    >>> from semicrf.compile import compiled
    >>> evaluate(compiled(Log).sum, {"x": [[0.0, 0.0]]}, terms=2)
    (0.6931471805599453,)
    """
    values: dict[Expr, Any] = {}

    def column(node: Expr) -> list[float]:
        value = values[node]
        return list(value) if isinstance(value, list) else [value] * terms

    for node in postorder(outputs):
        args = node.args
        if node.leaf:
            values[node] = node.attr[0] if node.op == "const" else inputs[node.op][node.attr[0]]
        elif node.op == "lse":
            values[node] = _lse(column(args[0]))
        elif node.op == "total":
            values[node] = sum(column(args[0]))
        elif node.op == "best":
            values[node] = _best([column(a) for a in args], node.attr[0])
        elif node.op == "top":
            rows = [_best([[v] for v in row], node.attr[0]) for row in zip(*map(column, args), strict=True)]
            values[node] = rows if node.varies else rows[0]
        elif node.op in ("item", "where"):
            rank, which = node.attr[0], node.op == "where"
            ranked = values[args[0]]
            values[node] = [r[rank][which] for r in ranked] if args[0].varies else ranked[rank][which]
        elif node.op == "hit":
            i, n = node.attr
            values[node] = [float(values[args[0]] == place * n + i) for place in range(terms)]
        elif node.varies:
            values[node] = [POINTWISE[node.op](*row) for row in zip(*map(column, args), strict=True)]
        else:
            values[node] = POINTWISE[node.op](*(values[a] for a in args))
    return tuple(values[o] for o in outputs)
