"""Rewriting of expressions: local identities, and a canonical sum-of-products form for what is linear.

Two levels. `make` applies identities that hold for every value, infinities included; it is all that ever touches a
user's own text. `Linear` expands, cancels and factors sums of products; only *derived* expressions (reverse rules) go
through it, and the user's own sums stay whole inside it (they are `opaque`), because taking `logz - x` apart is what
turns -inf into NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from semicrf.algebra.expr import Expr, postorder, wrap
from semicrf.compile.interpret import POINTWISE

inf = math.inf
ZERO, ONE = wrap(0.0), wrap(1.0)


def make(op: str, args: Iterable[Expr], attr: tuple = ()) -> Expr:
    """A node, after the local identities of its operation."""
    args = tuple(args)
    rule = IDENTITIES.get(op)
    simpler = rule(*args) if rule else None
    return Expr(op, args, attr) if simpler is None else simpler


def simplify(root: Expr, replace: Mapping[Expr, Expr] | None = None) -> Expr:
    """`root` rebuilt from its leaves through `make`, with the nodes in `replace` exchanged first."""
    done: dict[Expr, Expr] = dict(replace or {})
    for node in postorder([root]):
        if node not in done:
            done[node] = node if node.leaf else make(node.op, [done[a] for a in node.args], node.attr)
    return done[root]


def _add(a: Expr, b: Expr) -> Expr | None:
    if a.value is not None and b.value is not None:
        return wrap(a.value + b.value)
    if -inf in (a.value, b.value):
        return wrap(-inf)
    return b if a.value == 0 else a if b.value == 0 else None


def _neg(a: Expr) -> Expr | None:
    if a.value is not None:
        return wrap(-a.value)
    return a.args[0] if a.op == "neg" else None


def _mul(a: Expr, b: Expr) -> Expr | None:
    if a.value is not None and b.value is not None:
        return wrap(a.value * b.value)
    for p, q in ((a, b), (b, a)):
        if p.value == 0:
            return ZERO
        if p.value == 1:
            return q
        if p.value == -1:
            return make("neg", [q])
    return None


def _weigh(p: Expr, y: Expr) -> Expr | None:
    if p.value == 0 or y.value == 0:
        return ZERO
    return y if p.value == 1 else p if y.value == 1 else None


def _constant(function: Callable[[float], float]) -> Callable[[Expr], Expr | None]:
    return lambda a: None if a.value is None else wrap(function(a.value))


IDENTITIES: dict[str, Callable[..., Expr | None]] = {
    "add": _add,
    "neg": _neg,
    "mul": _mul,
    "weigh": _weigh,
    "exp": _constant(POINTWISE["exp"]),
    "recip": _constant(POINTWISE["recip"]),
    "log": _constant(POINTWISE["log"]),
    "ratio": lambda x, t: ZERO if x.value == -inf else None,
}


def sorted_top(item: Expr, descending: Iterable[tuple[int, ...]]) -> Expr | None:
    """The r-th of a pointwise `top` whose candidates are known to be in order already.

    They are when, -inf constants left out, they are one descending field of an element, each with the same thing added:
    that is the product of a k-best list with a single potential.
    """
    (node,), (rank,) = item.args, item.attr
    candidates = [a for a in node.args if a.value != -inf]
    split = [(a.args if a.op == "add" else (a, ZERO)) for a in candidates]
    shifts = {s for _, s in split}
    leaves = tuple(x.attr[0] if x.leaf and x.op != "const" else None for x, _ in split)
    if len(candidates) > 1 and not (len(shifts) == 1 and any(leaves == run[: len(leaves)] for run in descending)):
        return None
    return candidates[rank] if rank < len(candidates) else wrap(-inf)


# ------------------------------------------------------------------ sums of products
Product = tuple[Expr, ...]


class Linear:
    """Sums of products in canonical form, relative to one forward program.

    `opaque` nodes are never taken apart. `weights` are the factors that may be an exact 0 beside an infinity (shares,
    choices, cotangents): a product is written with them outside, ``weigh(weight, rest)``.
    """

    def __init__(self, forward: Iterable[Expr]):
        nodes = list(forward)
        self.opaque = {n for n in nodes if n.op == "add"}
        self.weights = {n.args[0] for n in nodes if n.op == "weigh"}

    def weight(self, factor: Expr) -> bool:
        return factor.op in ("ratio", "hit", "g") or factor in self.weights

    def expand(self, node: Expr) -> dict[Product, float]:
        """`node` as {product of factors: coefficient}, like terms collected and x / x cancelled."""
        if node.value is not None:
            return {(): node.value} if node.value else {}
        if node.op == "neg":
            return {f: -c for f, c in self.expand(node.args[0]).items()}
        if node.op == "add" and node not in self.opaque:
            return _collect((f, c) for a in node.args for f, c in self.expand(a).items())
        if node.op in ("mul", "weigh"):
            left, right = map(self.expand, node.args)
            return _collect((_times(f, h), c * d) for f, c in left.items() for h, d in right.items())
        return {(node,): 1.0}

    def collect(self, node: Expr) -> Expr:
        """`node` with like terms collected and common factors outside."""
        return self._build(self.expand(node))

    def total(self, node: Expr) -> Expr:
        """The sum of `node` over the axis: what does not vary comes out, and a softmax sums to one (to 0 where all is
        -inf).
        """
        groups: dict[Product, dict[Product, float]] = {}
        for factors, c in self.expand(node).items():
            outside = tuple(f for f in factors if not f.varies)
            inside = tuple(f for f in factors if f.varies)
            groups.setdefault(outside, {})[inside] = c
        result = ZERO
        for outside, terms in groups.items():
            inner = ZERO
            for inside, c in terms.items():
                if _softmax(inside):
                    inner = make("add", [inner, make("mul", [wrap(c), _one(inside[0].args[1])])])
            rest = {inside: c for inside, c in terms.items() if not _softmax(inside)}
            if rest:
                scale = next(iter(rest.values()))  # outside, so that the same sum is the same node whatever its sign
                node = Expr("total", (self._build({f: c / scale for f, c in rest.items()}),))
                inner = make("add", [make("mul", [wrap(scale), node]), inner])
            result = make("add", [result, make("mul", [self._product(outside), inner])])
        return result

    def _build(self, terms: dict[Product, float]) -> Expr:
        if len(terms) <= 1:
            return next((make("mul", [wrap(c), self._product(f)]) for f, c in terms.items()), ZERO)
        counts: dict[Expr, int] = {}
        for factors in terms:
            for f in dict.fromkeys(factors):
                counts[f] = counts.get(f, 0) + 1
        common, n = max(counts.items(), key=lambda fc: (fc[1], self.weight(fc[0]), -fc[0].order), default=(ONE, 0))
        if n < 2:
            result = ZERO
            for factors, c in terms.items():
                result = make("add", [result, make("mul", [wrap(c), self._product(factors)])])
            return result
        inner = self._build({_without(f, common): c for f, c in terms.items() if _place(f, common) is not None})
        outer = self._build({f: c for f, c in terms.items() if _place(f, common) is None})
        return make("add", [make("weigh" if self.weight(common) else "mul", [common, inner]), outer])

    def _product(self, factors: Product) -> Expr:
        weights, rest = ONE, ONE
        for f in factors:
            if self.weight(f):
                weights = make("mul", [weights, f])
            else:
                rest = make("mul", [rest, f])
        return make("weigh", [weights, rest])


def _collect(terms: Iterable[tuple[Product, float]]) -> dict[Product, float]:
    result: dict[Product, float] = {}
    for factors, c in terms:
        result[factors] = result.get(factors, 0.0) + c
    return {f: c for f, c in result.items() if c}


def _times(left: Product, right: Product) -> Product:
    factors = list(left)
    for f in right:
        at = _place(factors, f.args[0] if f.op == "recip" else Expr("recip", (f,)))
        if at is None:
            factors.append(f)
        else:
            del factors[at]
    shares = {f.args[1] for f in factors if f.op == "ratio" and f.args[0] is not f.args[1]}
    needed = (f for f in factors if not (f.op == "ratio" and f.args[0] is f.args[1] and f.args[1] in shares))
    return tuple(sorted(needed, key=lambda e: e.order))


def _place(factors: Sequence[Expr], one: Expr) -> int | None:
    return next((i for i, f in enumerate(factors) if f is one), None)


def _without(factors: Product, one: Expr) -> Product:
    at = _place(factors, one)
    return tuple(f for i, f in enumerate(factors) if i != at)


def _one(total: Expr) -> Expr:
    """What shares of `total` add up to: 1, or 0 where it is -inf. Beside one of those shares it changes nothing."""
    return Expr("ratio", (total, total))


def _softmax(factors: Product) -> bool:
    """Is this the product of just `ratio(x, lse(x))`?"""
    return len(factors) == 1 and factors[0].op == "ratio" and factors[0].args[1] is Expr("lse", (factors[0].args[0],))
