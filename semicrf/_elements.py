"""A semiring on plain floats, as the interpreter reads it: its functions, random elements, and what counts as equal.

And a small model, with the sum over all its segmentations: no recurrence, no factoring.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semicrf.algebra import Semiring
from semicrf.compile import Program, compiled, evaluate

inf = math.inf
Values = tuple[float, ...]
T, K, C, LENGTHS = 4, 3, 2, (4, 3, 1, 4)  # of the small model
SHAPES = {"emission": (4, T, C), "transition": (1, C, C), "duration": (1, K, C), "start": (1, C), "end": (1, C)}


@dataclass(frozen=True)
class Case:
    """Values that a law says are equal. `undefined`: both may be NaN."""

    got: Sequence[float] | np.ndarray
    expected: Sequence[float] | np.ndarray
    inputs: Mapping[str, Any] = field(default_factory=dict)
    undefined: bool = False

    @property
    def error(self) -> float:
        """The largest error of a scalar: absolute up to one, relative above, inf where only one is a number."""
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
        symbols = self.program._element("a"), self.program._element("b")
        return evaluate(self.program._trace("divide", self.semiring.divide, *symbols), {"a": a, "b": b})

    def sum(self, *terms: Values) -> Values:
        return evaluate(self.program.sum, {"x": [list(column) for column in zip(*terms, strict=True)]}, len(terms))

    def fold(self, terms: Sequence[Values]) -> Values:
        """The sum, two at a time."""
        result = terms[0]
        for term in terms[1:]:
            result = self.sum(result, term)
        return result

    def same(self, got: Values, expected: Values) -> Case:
        """Equality through `canonical`. Of a dual: a derivative of what is +inf (a divergence, say) means nothing."""
        values = self.sum(got), self.sum(expected)
        base = self.program.width >> getattr(self.semiring, "order", 0)
        a, b = ([0.0 if i >= base and v[i % base] == inf else v[i] for i in range(len(v))] for v in values)
        return Case(a, b)

    # -------------------------------------------------------------- random elements
    def normal(self, count: int) -> list[float]:
        return [self.random.gauss(0.0, 1.0) for _ in range(count)]

    def weights(self, holes: float = 0.2) -> list[float]:
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
        weights = (1, 1, 1, 5, 3 * (depth > 0), 4 * (depth > 0))
        kind = self.random.choices(("zero", "one", "weightless", "lift", "mul", "sum"), weights)[0]
        if kind in ("zero", "one"):
            return getattr(self, kind)
        if kind == "weightless":
            return self.weightless()
        if kind == "lift":
            return self.lift(self.weights())
        return getattr(self, kind)(self.element(depth - 1), self.element(depth - 1))

    def mixed(self, x: Sequence[Values], more: Sequence[Values]) -> list[Values]:
        """`more` anywhere among `x`, which keep their order."""
        result = list(x)
        for term in more:
            result.insert(self.random.randint(0, len(result)), term)
        return result


# ------------------------------------------------------------------ a small model
def real(values: Sequence[float], shape: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(*shape)


def random_models(e: Elements) -> list[dict[str, Tensor]]:
    """A factored model per potential: -inf in those that gate, NaN past the lengths, the last sequence impossible."""
    holes = {n: real([e.random.random() for _ in range(math.prod(s))], s) < 0.1 for n, s in SHAPES.items()}
    models = []
    for i in range(e.program.potentials):
        model = {n: real(e.normal(math.prod(s)), s) for n, s in SHAPES.items()}
        if i < e.program.gates:
            model = {n: torch.where(holes[n], -inf, part) for n, part in model.items()}
            model["emission"][1, i, i % C] = -inf  # in this sequence each model forbids something else
            model["emission"][-1, 1] = -inf
        for b, length in enumerate(LENGTHS):
            model["emission"][b, length:] = math.nan
        models.append(model)
    return models


def all_segmentations(e: Elements, models: list[dict[str, Tensor]]) -> list[Values]:
    """For every sequence, the sum over all segmentations of the product of their arcs."""
    listed = [{n: p.tolist() for n, p in m.items()} for m in models]

    def arc(m: dict[str, Any], b: int, start: int, k: int, c: int, before: int | None) -> float:
        into = m["start"][0][c] if before is None else m["transition"][0][before][c]
        return into + m["duration"][0][k - 1][c] + sum(m["emission"][b][t][c] for t in range(start, start + k))

    def extend(element: Values, b: int, start: int, before: int | None) -> Iterator[Values]:
        if start == LENGTHS[b]:
            yield e.mul(element, e.lift([m["end"][0][before] for m in listed]))
        for k, c in itertools.product(range(1, min(K, LENGTHS[b] - start) + 1), range(C)):
            lifted = e.lift([arc(m, b, start, k, c, before) for m in listed])
            yield from extend(e.mul(element, lifted), b, start + k, c)

    return [e.sum(*extend(e.one, b, 0, None)) for b in range(len(LENGTHS))]
