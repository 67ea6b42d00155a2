"""A semiring on plain floats, as the interpreter reads it: its functions, random elements, and what counts as equal."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from semicrf.algebra import Semiring
from semicrf.compile import Program, compiled, evaluate

inf = math.inf
Values = tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """Values that a law says are equal. `undefined`: both may be NaN."""

    got: Sequence[float]
    expected: Sequence[float]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    undefined: bool = False

    @property
    def error(self) -> float:
        """The largest error of a scalar: absolute up to one, relative above, inf where just one of the two is a finite number."""
        worst = 0.0
        for g, e in zip(self.got, self.expected, strict=True):
            if g != e and not (self.undefined and g != g and e != e):
                error = abs(g - e) / max(1.0, abs(g), abs(e))
                worst = max(worst, error if math.isfinite(error) else inf)
        return worst

    def __str__(self) -> str:
        given = ", ".join(f"{n} = {v.tolist() if isinstance(v, np.ndarray) else v}" for n, v in self.inputs.items())
        got, expected = (tuple(map(float, v)) for v in (self.got, self.expected))
        return f"{f'for {given} ' if given else ''}got {got}; expected {expected}"


def canonical(semiring: type[Semiring] | Semiring | str, element: Sequence[float]) -> Values:
    """The sum over the single `element`: it maps every element of zero weight to what counts as zero.

    >>> canonical("entropy", (-inf, 3.0))
    (-inf, 0.0)
    """
    return evaluate(compiled(semiring).sum, {"x": [[v] for v in element]})


class Elements:
    """A semiring's functions on tuples of floats, and random elements to put into them."""

    def __init__(self, semiring: type[Semiring], seed: int):
        self.semiring, self.program = semiring, Program(semiring)
        self.zero, self.one = semiring.zero, semiring.one
        self.random = random.Random(seed)

    # -------------------------------------------------------------- functions
    def act(self, a: Values, w: Sequence[float], what: str = "act") -> Values:
        """The action of potentials; zero itself where all that gate are -inf, which is the engine's rule."""
        forbidden = all(v == -inf for v in w[: self.program.gates])
        return self.zero if forbidden else evaluate(getattr(self.program, what), {"a": a, "w": w})

    def lift(self, w: Sequence[float]) -> Values:
        return self.act((), w, "lift")

    def mul(self, a: Values, b: Values) -> Values:
        return evaluate(self.program.mul, {"a": a, "b": b})

    def divide(self, a: Values, b: Values) -> Values:
        function = self.semiring.divide
        assert function is not None
        traced = self.program._trace("divide", function, self.program._element("a"), self.program._element("b"))
        return evaluate(traced, {"a": a, "b": b})

    def sum(self, *terms: Values) -> Values:
        return evaluate(self.program.sum, {"x": list(zip(*terms, strict=True))}, len(terms))

    def fold(self, terms: Sequence[Values]) -> Values:
        """The sum, two at a time."""
        result = terms[0]
        for term in terms[1:]:
            result = self.sum(result, term)
        return result

    def same(self, got: Values, expected: Values) -> Case:
        """Equality through `canonical`."""
        return Case(self.sum(got), self.sum(expected))

    # -------------------------------------------------------------- random elements
    def normal(self, count: int) -> list[float]:
        return [self.random.gauss(0.0, 1.0) for _ in range(count)]

    def weights(self, holes: float = 0.3) -> list[float]:
        """Random potentials; of those that gate, some are -inf."""
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
        """Zero, one, something without weight, potentials, or the product or the sum of two elements."""
        kind = self.random.randrange(5 + 4 * (depth > 0))
        if kind <= 2:
            return (self.zero, self.one, self.weightless())[kind]
        if kind <= 4:
            return self.lift(self.weights())
        return (self.mul if kind <= 6 else self.sum)(self.element(depth - 1), self.element(depth - 1))

    def mixed(self, x: Sequence[Values], more: Sequence[Values]) -> list[Values]:
        """`more` anywhere among `x`, which keep their order."""
        result = list(x)
        for term in more:
            result.insert(self.random.randint(0, len(result)), term)
        return result
