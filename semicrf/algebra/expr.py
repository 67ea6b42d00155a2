"""Expressions: the few operations from which a semiring is written.

A semiring's functions are called once, with symbols in place of numbers, and what they return is a graph of `Expr`
nodes. Everything else (gradients, tangents, code for every target) is derived from that graph by `semicrf.compile`.

There are three kinds of node: *leaves* (a field of an input, of an output, of a cotangent, a potential, a constant),
*pointwise* operations, and *reductions* over the axis that `sum` adds up. Standard library only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Union

inf = math.inf
Scalar = Union["Expr", float, int]

LEAVES = frozenset({"const", "x", "y", "g", "a", "b", "w", "id"})
REDUCTIONS = frozenset({"lse", "total", "best"})

_traced: ContextVar[bool] = ContextVar("traced", default=False)  # whether a semiring's function runs


class Expr:
    """One node: an operation, its arguments, and constants that select a variant (`attr`).

    Nodes are interned: two nodes built alike are one object, so equality is identity and sharing is free. In the
    functions of a semiring a comparison is an error: it would be decided once, while they are traced, for all numbers.
    """

    __slots__ = ("__weakref__", "args", "attr", "op", "order", "varies")
    _interned: dict[tuple, Expr] = {}  # noqa: RUF012  the intern table is the one mutable thing here, on purpose

    op: str
    args: tuple[Expr, ...]
    attr: tuple
    varies: bool  # along the axis that `sum` reduces
    order: int  # what lies lower comes first: a canonical order for commutative operations, the same in every process

    def __new__(cls, op: str, args: Sequence[Expr] = (), attr: tuple = ()) -> Expr:
        key = (op, tuple(args), attr)
        node = cls._interned.get(key)
        if node is None:
            node = object.__new__(cls)
            node.op, node.args, node.attr = key
            if op in LEAVES:
                node.varies = op == "x"
            else:
                node.varies = op == "hit" or (op not in REDUCTIONS and any(a.varies for a in node.args))
            node.order = _order(*key)
            node = cls._interned.setdefault(key, node)  # another thread may have been first
        return node

    def __reduce__(self):
        return Expr, (self.op, self.args, self.attr)

    @property
    def leaf(self) -> bool:
        return self.op in LEAVES

    @property
    def value(self) -> float | None:
        """The number, where the node is a constant."""
        return self.attr[0] if self.op == "const" else None

    def __add__(self, other: Scalar) -> Expr:
        return Expr("add", (self, wrap(other)))

    def __radd__(self, other: Scalar) -> Expr:
        return Expr("add", (wrap(other), self))

    def __sub__(self, other: Scalar) -> Expr:
        return Expr("add", (self, Expr("neg", (wrap(other),))))

    def __rsub__(self, other: Scalar) -> Expr:
        return Expr("add", (wrap(other), Expr("neg", (self,))))

    def __mul__(self, other: Scalar) -> Expr:
        return Expr("mul", (self, wrap(other)))

    def __rmul__(self, other: Scalar) -> Expr:
        return Expr("mul", (wrap(other), self))

    def __truediv__(self, other: Scalar) -> Expr:
        return Expr("mul", (self, Expr("recip", (wrap(other),))))

    def __rtruediv__(self, other: Scalar) -> Expr:
        return Expr("mul", (wrap(other), Expr("recip", (self,))))

    def __neg__(self) -> Expr:
        return Expr("neg", (self,))

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self!r} has no truth value: it stands for every number at once. "
            "Likely fix: use maximum, minimum, ratio or weigh instead of if, and, or, max and min."
        )

    __hash__ = object.__hash__  # by identity, which __eq__ would take away

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Expr) and not _traced.get():
            return self is other
        return self._compare(other)

    def _compare(self, other: object) -> bool:
        raise TypeError(
            f"{self!r} cannot be compared with {other!r}: it stands for every number at once. Likely fix: maximum or "
            "minimum for the larger or smaller of two, ratio(x, total) and surprisal for what may be -inf, weigh(p, y) "
            "for what counts only where p is not 0."
        )

    __lt__ = __le__ = __gt__ = __ge__ = _compare

    def __repr__(self) -> str:
        if self.op == "const":
            return f"{self.attr[0]:g}" if float(f"{self.attr[0]:g}") == self.attr[0] else repr(self.attr[0])
        if self.leaf:
            return f"{self.op}{''.join(map(str, self.attr))}"
        return f"{self.op}{list(self.attr) if self.attr else ''}({', '.join(map(repr, self.args))})"


def _order(op: str, args: tuple[Expr, ...], attr: tuple) -> int:
    """The height above the leaves, then a digest of the structure: nothing in it depends on what was built before."""
    height = 1 + max((a.order >> 64 for a in args), default=-1)
    digest = hashlib.blake2b(repr((op, attr, [a.order for a in args])).encode(), digest_size=8).digest()
    return height << 64 | int.from_bytes(digest, "big")


def wrap(value: Scalar) -> Expr:
    """A number as a constant node; a node as it is."""
    return value if isinstance(value, Expr) else Expr("const", (), (float(value),))


def traced(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a semiring's function, called with symbols, which it must not compare."""
    token = _traced.set(True)
    try:
        return function(*args)
    finally:
        _traced.reset(token)


def leaf(kind: str, index: int) -> Expr:
    """An input: the field or potential with this index, of one kind (see `LEAVES`)."""
    return Expr(kind, (), (index,))


def postorder(roots: Sequence[Expr], known: Container[Expr] = ()) -> Iterator[Expr]:
    """Every node below `roots` once, arguments before the nodes that use them; what is known, and what lies below that
    alone, is left out.
    """
    seen: set[Expr] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen and node not in known:
            seen.add(node)
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args) if a not in seen)


# ------------------------------------------------------------------ pointwise operations a semiring may use
def exp(x: Scalar) -> Expr:
    """e to the power x."""
    return Expr("exp", (wrap(x),))


def log(x: Scalar) -> Expr:
    """Natural logarithm; log(0) = -inf."""
    return Expr("log", (wrap(x),))


def maximum(x: Scalar, y: Scalar) -> Expr:
    """The larger of two numbers. In a reverse rule the first one wins a tie."""
    return Expr("maximum", (wrap(x), wrap(y)))


def minimum(x: Scalar, y: Scalar) -> Expr:
    """The smaller of two numbers. In a reverse rule the first one wins a tie."""
    return -maximum(-wrap(x), -wrap(y))


def ratio(x: Scalar, total_: Scalar) -> Expr:
    """exp(x - total): the share of one term in a log-sum; 0 where x is -inf, also where the total is."""
    return Expr("ratio", (wrap(x), wrap(total_)))


def weigh(p: Scalar, y: Scalar) -> Expr:
    """p * y with 0 * anything = 0: what has no weight counts for nothing, whatever it holds."""
    return Expr("weigh", (wrap(p), wrap(y)))


def surprisal(x: Scalar, total_: Scalar) -> Expr:
    """total - x, the negative log of `ratio(x, total)`; +inf where x is -inf, also where the total is."""
    return Expr("surprisal", (wrap(x), wrap(total_)))


def top(xs: Sequence[Scalar], k: int) -> tuple[Expr, ...]:
    """The k largest of the scalars `xs`, in descending order, filled with -inf."""
    node = Expr("top", tuple(map(wrap, xs)), (k,))
    return tuple(Expr("item", (node,), (r,)) for r in range(k))


# ------------------------------------------------------------------ reductions over the axis of `sum`
def lse(x: Scalar) -> Expr:
    """log sum exp over the axis; -inf where every term is."""
    return Expr("lse", (wrap(x),))


def total(x: Scalar) -> Expr:
    """The sum over the axis."""
    return Expr("total", (wrap(x),))


def best(xs: Sequence[Scalar], k: int) -> tuple[Expr, ...]:
    """The k largest over the axis and over the scalars `xs` together, descending, filled with -inf; ties go to the
    first.

    A choice is remembered by where it was found, so its reverse rule gives the gradient to what was chosen and to
    nothing else.
    """
    node = Expr("best", tuple(map(wrap, xs)), (k,))
    return tuple(Expr("item", (node,), (r,)) for r in range(k))


def largest(x: Scalar) -> Expr:
    """The maximum over the axis; ties go to the first."""
    return best((x,), 1)[0]


def smallest(x: Scalar) -> Expr:
    """The minimum over the axis; ties go to the first."""
    return -largest(-wrap(x))
