"""Does a semiring keep its promises? Laws, gradients, and every backend against the interpreter, on random elements.

Everything here is computed twice: as the semiring's text says, by the interpreter on plain floats, and as the library derives or
generates it. Results are compared through `canonical`, so what has no weight may hold anything.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semicrf.algebra import Semiring, lookup
from semicrf.compile import Program, compiled, dual, evaluate, load, torch_source
from semicrf.compile.derive import stored_ids
from semicrf.compile.render import functions
from semicrf.engine.dispatch import BACKENDS
from semicrf.engine.layout import Spec, flat, layout
from semicrf.engine.ops import scan
from semicrf.engine.primitives import ENVIRONMENT
from semicrf.errors import SemiringError

inf = math.inf
Values = tuple[float, ...]
Point = dict[str, np.ndarray]  # leaf kind -> its scalars; of "x", one column per term
EXACT, NUMERICAL, STEP = 1e-12, 1e-6, 1e-5


@dataclass(frozen=True)
class Law:
    """One law that held: how many comparisons were made, and the largest error, relative where a value exceeds one."""

    name: str
    cases: int
    error: float


@dataclass(frozen=True)
class Report:
    """Every law that was checked."""

    semiring: str
    laws: tuple[Law, ...]

    def __repr__(self) -> str:
        lines = [f"  {law.error:7.1e}  {law.name} ({law.cases})" for law in self.laws]
        return "\n".join([f"{self.semiring}: {len(self.laws)} laws hold; largest errors (comparisons):", *lines])


@dataclass(frozen=True)
class Case:
    """Two values that a law says are equal. `undefined` says that they may also both be NaN."""

    got: Sequence[float]
    expected: Sequence[float]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    undefined: bool = False

    @property
    def error(self) -> float:
        """The largest error of a scalar: relative above one, absolute below, inf where only one of two is finite."""
        worst = 0.0
        for g, e in zip(self.got, self.expected, strict=True):
            if g != e and not (self.undefined and g != g and e != e):
                error = abs(g - e) / max(1.0, abs(g), abs(e))
                worst = max(worst, error if math.isfinite(error) else inf)
        return worst

    def __str__(self) -> str:
        given = ", ".join(f"{name} = {value}" for name, value in self.inputs.items())
        return f"{f'with {given} ' if given else ''}got {tuple(self.got)}; expected {tuple(self.expected)}"


Check = Callable[["Elements"], Iterator[Case]]


def canonical(semiring: type[Semiring] | Semiring | str, element: Sequence[float]) -> Values:
    """The sum over the single `element`: it maps every element of zero weight to what counts as zero.

    >>> canonical("entropy", (-inf, 3.0))
    (-inf, 0.0)
    """
    return evaluate(compiled(semiring).sum, {"x": [[v] for v in element]})


class Elements:
    """A semiring's functions on tuples of floats, by the interpreter, and random elements to put into them."""

    def __init__(self, semiring: type[Semiring], seed: int):
        self.semiring, self.program = semiring, Program(semiring)
        self.zero, self.one = semiring.zero, semiring.one
        self.random = random.Random(seed)

    def _forbidden(self, w: Sequence[float]) -> bool:
        return all(v == -inf for v in w[: self.program.gates])

    def lift(self, w: Sequence[float]) -> Values:
        return self.zero if self._forbidden(w) else evaluate(self.program.lift, {"w": w})

    def act(self, a: Values, w: Sequence[float]) -> Values:
        return self.zero if self._forbidden(w) else evaluate(self.program.act, {"a": a, "w": w})

    def mul(self, a: Values, b: Values) -> Values:
        return evaluate(self.program.mul, {"a": a, "b": b})

    def divide(self, a: Values, b: Values) -> Values:
        symbols = self.program._element("a"), self.program._element("b")
        return evaluate(self.program._trace("divide", self.semiring.divide, *symbols), {"a": a, "b": b})  # type: ignore[arg-type]

    def sum(self, *terms: Values) -> Values:
        return evaluate(self.program.sum, {"x": list(zip(*terms, strict=True))}, len(terms))

    def normal(self, count: int) -> list[float]:
        return [self.random.gauss(0.0, 1.0) for _ in range(count)]

    def weights(self, holes: float = 0.3) -> list[float]:
        """Random potentials, those that gate an arc sometimes -inf."""
        w = self.normal(self.program.potentials)
        return [-inf if i < self.program.gates and self.random.random() < holes else v for i, v in enumerate(w)]

    def generic(self) -> Values:
        """A product and sum of finite potentials."""
        a, b, c, d = (self.lift(self.weights(0.0)) for _ in range(4))
        return self.mul(a, self.sum(b, self.mul(c, d)))

    def weightless(self) -> Values:
        """Zero, or zero times something."""
        a = self.lift(self.weights(0.0))
        return self.random.choice([self.zero, self.mul(self.zero, a), self.mul(a, self.zero)])

    def element(self, depth: int = 2) -> Values:
        """Zero, one, something without weight, a potential, or a product or a sum of such elements."""
        kind = self.random.choice(["zero", "one", "weightless", "lift", "lift", *["mul", "mul", "sum", "sum"] * (depth > 0)])
        if kind in ("zero", "one"):
            return getattr(self, kind)
        if kind == "weightless":
            return self.weightless()
        if kind == "lift":
            return self.lift(self.weights())
        return getattr(self, kind)(self.element(depth - 1), self.element(depth - 1))

    def elements(self, low: int, high: int) -> list[Values]:
        return [self.element() for _ in range(self.random.randint(low, high))]

    def same(self, got: Values, expected: Values, **inputs: Any) -> Case:
        """Equality of two elements, through `canonical`."""
        return Case(self.sum(got), self.sum(expected), inputs)


# ------------------------------------------------------------------ laws
def _associative(name: str) -> Check:
    def law(e: Elements) -> Iterator[Case]:
        a, b, c = e.elements(3, 3)
        f = getattr(e, name)
        yield e.same(f(f(a, b), c), f(a, f(b, c)), a=a, b=b, c=c)

    return law


def _commutative(e: Elements) -> Iterator[Case]:
    a, b = e.elements(2, 2)
    yield e.same(e.sum(a, b), e.sum(b, a), a=a, b=b)


def _folded(e: Elements) -> Iterator[Case]:
    x = e.elements(3, 5)
    folded = x[0]
    for term in x[1:]:
        folded = e.sum(folded, term)
    yield e.same(e.sum(*x), folded, x=x)


def _zero_of_sum(e: Elements) -> Iterator[Case]:
    a = e.element()
    yield e.same(e.sum(e.zero, a), a, a=a)
    yield e.same(e.sum(a, e.zero), a, a=a)


def _one_of_mul(e: Elements) -> Iterator[Case]:
    a = e.element()
    yield e.same(e.mul(e.one, a), a, a=a)
    yield e.same(e.mul(a, e.one), a, a=a)


def _annihilates(e: Elements) -> Iterator[Case]:
    a = e.element()
    yield e.same(e.mul(e.zero, a), e.zero, a=a)
    yield e.same(e.mul(a, e.zero), e.zero, a=a)


def _distributive(e: Elements) -> Iterator[Case]:
    a, x = e.element(), e.elements(2, 4)
    yield e.same(e.mul(a, e.sum(*x)), e.sum(*(e.mul(a, v) for v in x)), a=a, x=x)
    yield e.same(e.mul(e.sum(*x), a), e.sum(*(e.mul(v, a) for v in x)), a=a, x=x)


def _congruent(e: Elements) -> Iterator[Case]:
    a, b = e.elements(2, 2)
    yield Case(e.sum(e.sum(a)), e.sum(a), {"a": a})
    yield e.same(e.sum(e.sum(a), b), e.sum(a, b), a=a, b=b)
    yield e.same(e.mul(e.sum(a), b), e.mul(a, b), a=a, b=b)
    yield e.same(e.mul(b, e.sum(a)), e.mul(b, a), a=a, b=b)


def _holes(e: Elements) -> Iterator[Case]:
    x = e.elements(1, 4)
    full = list(x)
    for _ in range(e.random.randint(1, 3)):
        full.insert(e.random.randint(0, len(full)), e.weightless())
    yield e.same(e.sum(*full), e.sum(*x), x=full)


def _empty(e: Elements) -> Iterator[Case]:
    x = [e.weightless() for _ in range(e.random.randint(1, 4))]
    yield Case(e.sum(*x), e.zero, {"x": x})  # zero itself, in every field


def _different(e: Elements) -> Iterator[Case]:
    yield Case([e.sum(e.zero) == e.sum(e.one)], [False], {"zero": e.zero, "one": e.one})


def _homomorphic(e: Elements) -> Iterator[Case]:
    v, w = e.weights(), e.weights()
    yield e.same(e.lift([p + q for p, q in zip(v, w, strict=True)]), e.mul(e.lift(v), e.lift(w)), v=v, w=w)


def _lift_of_zero(e: Elements) -> Iterator[Case]:
    yield e.same(e.lift([0.0] * e.program.potentials), e.one)


def _action(e: Elements) -> Iterator[Case]:
    a, w = e.element(), e.weights()
    yield e.same(e.act(a, w), e.mul(a, e.lift(w)), a=a, w=w)


def _inverse(e: Elements) -> Iterator[Case]:
    a, b = e.element(), e.generic()
    yield e.same(e.divide(e.mul(a, b), b), a, a=a, b=b)


LAWS: dict[str, Check] = {
    "plus is commutative": _commutative,
    "plus is associative": _associative("sum"),
    "sum of many = plus folded": _folded,
    "zero is the identity of plus": _zero_of_sum,
    "one is the identity of mul": _one_of_mul,
    "zero annihilates": _annihilates,
    "zero and one differ": _different,
    "mul is associative": _associative("mul"),
    "mul distributes over sum": _distributive,
    "canonical respects sum and mul": _congruent,
    "a row with zeros = the row without": _holes,
    "a row of zeros = zero": _empty,
    "lift(v + w) = mul(lift(v), lift(w))": _homomorphic,
    "lift(0) = one": _lift_of_zero,
    "act(a, w) = mul(a, lift(w))": _action,
}
