"""The log-linear form: semirings that are log-sums, and means under them of something additive.

Log, Std, Entropy, CrossEntropy, KL, expectations and the dual of Log all are. Their totals follow from runs of one
kind, each a weight and perhaps one payload, an additive quantity whose mean it carries:

    logZ_g = log sum_y exp(score_g(y)),        h = E_f[payload(y)] + sum_g c_g logZ_g,

because the surprisals along a path add up to ``logZ_g - score_g(y)``. The form is read off the traced functions; there
is no list of names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from semicrf.algebra.expr import Expr, leaf
from semicrf.compile.program import Program


@dataclass(frozen=True)
class Weight:
    """A field that is the log-sum of one potential, or (None) of 0 wherever nothing is forbidden."""

    field: int
    potential: int | None


@dataclass(frozen=True)
class Mean:
    """A field that is the mean, under one weight, of a payload: ``payload[m]`` times the m-th potential, summed over m.

    `plus[g]` times the g-th weight's total is added at the end.
    """

    field: int
    weight: int
    payload: tuple[float, ...]
    plus: tuple[float, ...]
    shift: tuple[float, ...]  # what the action of every potential adds to the field


@dataclass(frozen=True)
class LogLinear:
    """The weights and means of a semiring; together they are its fields."""

    weights: tuple[Weight, ...]
    means: tuple[Mean, ...]


@cache
def loglinear(program: Program) -> LogLinear | None:
    """The form of a semiring, or None where it has another."""
    weights: list[Weight] = []
    for i, output in enumerate(program.sum):
        if output is Expr("lse", (leaf("x", i),)):
            shift = _linear(program.act[i], leaf("a", i))
            if shift is None or any(c != 1 or e.op != "w" for e, c in shift.items()) or len(shift) > 1:
                return None
            weights.append(Weight(i, next(iter(shift)).attr[0] if shift else None))
    index = {w.field: n for n, w in enumerate(weights)}
    means = [_mean(program, i, weights, index) for i in range(program.width) if i not in index]
    if not weights or any(m is None for m in means):
        return None
    return LogLinear(tuple(weights), tuple(m for m in means if m is not None))


def _mean(program: Program, i: int, weights: list[Weight], index: dict[int, int]) -> Mean | None:
    """Field i as a mean, if ``sum`` gives total(weigh(ratio(x_f, lse x_f), x_i + surprisals)) and ``act`` adds
    potentials.
    """
    output, shift = program.sum[i], _linear(program.act[i], leaf("a", i))
    if output.op != "total" or output.args[0].op != "weigh" or shift is None:
        return None
    share, inner = output.args[0].args
    terms = _linear(inner, leaf("x", i))
    if terms is None or share.op != "ratio" or any(e.op != "w" for e in shift):
        return None
    totals = {leaf("x", w.field): Expr("lse", (leaf("x", w.field),)) for w in weights}
    if share.args[0] not in totals or share.args[1] is not totals[share.args[0]]:
        return None
    payload, plus = [0.0] * program.potentials, [0.0] * len(weights)
    for w, c in shift.items():
        payload[w.attr[0]] += c
    shifts = tuple(payload)
    for term, c in terms.items():
        if term.op != "surprisal" or totals.get(term.args[0]) is not term.args[1]:
            return None
        g = index[term.args[0].attr[0]]
        potential = weights[g].potential
        plus[g] += c
        if potential is not None:
            payload[potential] -= c
    return Mean(i, index[share.args[0].attr[0]], tuple(payload), tuple(plus), shifts)


def _linear(node: Expr, itself: Expr) -> dict[Expr, float] | None:
    """`node` less `itself` as {term: coefficient}; None unless it holds `itself` exactly once."""
    terms: dict[Expr, float] = {}

    def visit(e: Expr, sign: float) -> None:
        if e.op == "add":
            for a in e.args:
                visit(a, sign)
        elif e.op == "neg":
            visit(e.args[0], -sign)
        elif e.op == "mul" and e.args[0].value is not None:
            visit(e.args[1], sign * e.args[0].value)
        else:
            terms[e] = terms.get(e, 0.0) + sign

    visit(node, 1.0)
    return terms if terms.pop(itself, None) == 1.0 else None
