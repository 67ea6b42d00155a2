"""A semiring's functions, traced once: what every target is rendered from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from semicrf.algebra.expr import Expr, leaf, postorder, traced, wrap
from semicrf.algebra.semiring import Element, Semiring, flatten, lookup
from semicrf.compile.derive import Reverse, choices, cotangents, reverse, tangents
from semicrf.compile.simplify import simplify, sorted_top
from semicrf.errors import SemiringError

Outputs = tuple[Expr, ...]


class Program:
    """The traced functions of one semiring, each computed when first asked for.

    Inputs are leaves: ``x`` the terms of a sum, ``y`` its result, ``a`` and ``b`` two elements, ``w`` potentials, ``g``
    cotangents, ``id`` where a stored choice was found.
    """

    def __init__(self, semiring: type[Semiring]):
        self.semiring = semiring
        self.name = semiring.__name__
        self.width = semiring.width()
        self.potentials = semiring.potentials

    def _element(self, kind: str) -> Element:
        return Element(self.semiring.fields, tuple(leaf(kind, i) for i in range(self.width)))

    def _weights(self) -> tuple[Expr, ...]:
        return tuple(leaf("w", i) for i in range(self.potentials))

    def _trace(self, what: str, function: Callable[..., Any], *args: Any, width: int | None = None) -> Outputs:
        try:
            result = flatten(traced(function, *args))
        except SemiringError:
            raise
        except Exception as error:
            raise SemiringError(
                f"{self.name}.{what} could not be traced: {type(error).__name__}: {error}. It is called once with "
                "symbols; expected only + - * / and the operations of semicrf.semirings."
            ) from error
        expected = self.width if width is None else width
        if len(result) != expected or not all(isinstance(r, Expr | int | float) for r in result):
            raise SemiringError(f"{self.name}.{what} returned {result!r}; expected {expected} scalars, one per field.")
        outputs = tuple(simplify(wrap(r)) for r in result)
        for node in postorder(outputs):
            if node.op in ("lse", "total", "best") and not any(a.varies for a in node.args):
                raise SemiringError(
                    f"{self.name}.{what} reduces {node!r}, which does not depend on the terms of a sum."
                )
        return outputs

    @cached_property
    def lift(self) -> Outputs:
        return self._trace("lift", self.semiring.lift, *self._weights())

    @cached_property
    def mul(self) -> Outputs:
        return self._ordered(self._trace("mul", self.semiring.mul, self._element("a"), self._element("b")))

    @cached_property
    def sum(self) -> Outputs:
        outputs = self._trace("sum", self.semiring.sum, self._element("x"))
        for output in outputs:
            if output.varies:
                raise SemiringError(
                    f"{self.name}.sum returned {output!r}, a number for every term; expected one number. Likely fix: "
                    "reduce it with lse, total, largest, smallest or best."
                )
        return outputs

    @cached_property
    def act(self) -> Outputs:
        """The action of potentials on an element: its product with their lift."""
        own = getattr(self.semiring, "act", None)
        if own is not None:
            return self._trace("act", own, self._element("a"), *self._weights())
        lifted = Element(self.semiring.fields, self.lift)
        return self._ordered(self._trace("mul", self.semiring.mul, self._element("a"), lifted))

    @cached_property
    def read(self) -> Outputs:
        names = self.semiring.reads
        if not hasattr(self.semiring, "read"):
            return tuple(leaf("a", i) for i in range(self.width))
        return self._trace("read", self.semiring.read, self._element("a"), width=sum(n for _, n in names))

    @cached_property
    def reverse(self) -> Reverse:
        """The reverse rule of `sum`."""
        return reverse(self.sum, self._element("x").scalars, self.name)

    @cached_property
    def act_reverse(self) -> Outputs:
        """The reverse rule of `act`: cotangents of the element, then of the potentials."""
        inputs = self._element("a").scalars + self._weights()
        return tuple(cotangents(self.act, inputs, [leaf("g", i) for i in range(self.width)], self.name))

    @cached_property
    def ids(self) -> int:
        """How many ids one sum stores: the ranks of all its choices."""
        return sum(node.attr[0] for node in choices(self.sum))

    @property
    def gates(self) -> int:
        return self.potentials if self.semiring.gates is None else self.semiring.gates

    @cached_property
    def levels(self) -> dict[int, int]:
        """potential -> a field that it alone shifts: ``act`` adds it, ``sum`` is a log-sum or a best."""
        found: dict[int, int] = {}
        for i, (moved, total) in enumerate(zip(self.act, self.sum, strict=True)):
            shift = moved.args[1] if moved.op == "add" and moved.args[0] is leaf("a", i) else None
            if shift is not None and shift.op == "w" and total.op in ("lse", "item"):
                found.setdefault(shift.attr[0], i)
        return found

    @cached_property
    def key(self) -> str:
        """Name and digest: equal keys mean equal programs."""
        parts = (
            self.lift,
            self._product,
            self.act,
            self.sum,
            self.read,
            self.semiring.zero,
            self.semiring.one,
            self.semiring.fields,
            self.semiring.reads,
            self.semiring.lists,
            self.potentials,
            self.gates,
        )
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
        return f"{self.name}-{digest}"

    @property
    def _product(self) -> Outputs:
        """`mul`, or nothing for a semiring that has an action alone (a dual of k-best)."""
        try:
            return self.mul
        except SemiringError:
            return ()

    def _ordered(self, outputs: Outputs) -> Outputs:
        """`top` of lists that are in order already becomes the list."""
        items = {n: sorted_top(n, self.descending) for n in postorder(outputs) if n.op == "item"}
        return tuple(simplify(o, {n: s for n, s in items.items() if s is not None}) for o in outputs)

    @cached_property
    def descending(self) -> list[tuple[int, ...]]:
        """Scalars that every element holds in descending order, because `sum` leaves them so and zero and one are."""
        runs: dict[Expr, list[int]] = {}
        for i, output in enumerate(self.sum):
            if (
                output.op == "item"
                and output.args[0].op == "best"
                and output.attr[0] == len(runs.get(output.args[0], ()))
            ):
                runs.setdefault(output.args[0], []).append(i)
        ends = (self.semiring.zero, self.semiring.one)
        return [tuple(r) for r in runs.values() if all(e[i] >= e[j] for e in ends for i, j in pairwise(r))]


_programs: dict[str, Program] = {}


@cache
def _compiled(semiring: type[Semiring]) -> Program:
    program = Program(semiring)
    return _programs.setdefault(program.key, program)


def compiled(semiring: type[Semiring] | Semiring | str) -> Program:
    """The program of a semiring: traced on the first call, shared by every semiring with the same text."""
    return _compiled(lookup(semiring))


def program(key: str) -> Program:
    """The program with this key, as operators name it."""
    if key not in _programs:
        raise SemiringError(f"no semiring is compiled under the key {key!r}; known here: {sorted(_programs)}.")
    return _programs[key]


@cache
def dual(semiring: type[Semiring]) -> type[Semiring]:
    """The semiring of (value, derivative along a direction): one tangent channel beside every field.

    Its second set of potentials is the direction, so its reverse rule is a Hessian-vector product (Pearlmutter 1994;
    for log Z, Li & Eisner 2009, section 4). It is a semiring like any other, so it has a dual of its own.
    """
    base = compiled(semiring)
    d, p = base.width, base.potentials

    def along(
        what: str, outputs: Outputs, inputs: tuple[Expr, ...], values: tuple, directions: tuple
    ) -> tuple[Expr, ...]:
        symbols = tuple(leaf("b", i) for i in range(1000, 1000 + len(inputs)))  # stand for the direction while deriving
        varying = tuple(Expr("x", (), (i,)) for i in range(1000, 1000 + len(inputs))) if what == "sum" else symbols
        derived = (*outputs, *tangents(outputs, inputs, varying, f"{base.name}.{what}"))
        swap = dict(zip((*inputs, *varying), map(wrap, (*values, *directions)), strict=True))
        return tuple(simplify(e, swap) for e in derived)

    def lift(*w: Any) -> tuple:
        return along("lift", base.lift, base._weights(), w[:p], w[p:])

    def mul(a: Element, b: Element) -> tuple:
        inputs = base._element("a").scalars + base._element("b").scalars
        return along("mul", base.mul, inputs, a.scalars[:d] + b.scalars[:d], a.scalars[d:] + b.scalars[d:])

    def act(a: Element, *w: Any) -> tuple:
        inputs = base._element("a").scalars + base._weights()
        return along("act", base.act, inputs, a.scalars[:d] + w[:p], a.scalars[d:] + w[p:])

    def add(x: Element) -> tuple:
        return along("sum", base.sum, base._element("x").scalars, x.scalars[:d], x.scalars[d:])

    order = getattr(semiring, "order", 0) + 1
    members = {
        "__doc__": f"{base.name} with the derivative of every field along a direction.",
        "order": order,
        "fields": (*semiring.fields, *((f"{name}_dot{order}", n) for name, n in semiring.fields)),
        "potentials": 2 * p,
        "gates": base.gates,
        "zero": semiring.zero + (0.0,) * d,
        "one": semiring.one + (0.0,) * d,
        "lift": lift,
        "mul": mul,
        "act": staticmethod(act),
        "sum": add,
    }
    return type(f"Dual({base.name})", (Semiring,), members)
