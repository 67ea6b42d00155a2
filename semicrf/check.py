"""Does a semiring keep its promises? Its laws, its derived gradients, its generated code and every backend.

All are compared with the semiring's text as the interpreter reads it, on random elements. Elements are compared through
`canonical`: what has no weight may hold anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semicrf._elements import (
    LENGTHS,
    SHAPES,
    C,
    Case,
    Elements,
    K,
    T,
    all_segmentations,
    canonical,
    random_models,
    real,
)
from semicrf.algebra import Expr, Semiring, lookup
from semicrf.compile import compiled, dual, evaluate
from semicrf.compile.derive import stored_ids
from semicrf.compile.render import Function, functions
from semicrf.engine.dispatch import BACKENDS
from semicrf.engine.layout import Spec, flat, layout
from semicrf.engine.ops import scan
from semicrf.engine.primitives import generated
from semicrf.errors import SemiringError

__all__ = ["Law", "Report", "canonical", "check_semiring"]

EXACT, NUMERICAL, STEP = 1e-12, 1e-6, 1e-5

Check = Callable[[Elements], Iterable[Case]]
Point = dict[str, np.ndarray]  # leaf kind -> its scalars; those of "x" have one column per term


@dataclass(frozen=True)
class Law:
    """One law that held: how many values were compared, and the largest error: absolute up to one, relative above."""

    name: str
    cases: int
    error: float


@dataclass(frozen=True)
class Report:
    """Every law that was checked, and held."""

    semiring: str
    laws: tuple[Law, ...]

    def __repr__(self) -> str:
        lines = [f"  {law.error:7.1e} {law.cases:5d}  {law.name}" for law in self.laws]
        return "\n".join([f"{self.semiring} keeps {len(self.laws)} laws. Largest error, comparisons, law:", *lines])


def check_semiring(semiring: type[Semiring] | Semiring | str, *, trials: int = 30, seed: int = 0) -> Report:
    """Check every law of a semiring on `trials` random points each.

    Raises:
        SemiringError: names the law that fails, the inputs, what was got and what was expected.

    >>> check_semiring("log").laws[0]
    Law(name='a row of zeros holds no NaN', cases=30, error=0.0)
    """
    e = Elements(lookup(semiring), seed)
    held = [law for checks, count, tolerance in _stages(e, trials) for law in _run(e, checks, count, tolerance)]
    return Report(e.semiring.__name__, tuple(held))


def _stages(e: Elements, trials: int) -> Iterator[tuple[dict[str, Check], int, float]]:
    """Checks, how often to run them, and their tolerance. Later ones mean nothing where an earlier one fails."""
    S = e.semiring
    yield {n: partial(_law, f) for n, f in LAWS.items() if hasattr(S, "divide") or "divide" not in n}, trials, EXACT
    slopes: dict[str, Check] = {f"reverse rule of {f} = its slope": partial(_reverse, f) for f in ("sum", "act")}
    dual_of = [f for f in ("sum", "act", "mul", "lift") if _has_dual(S, f)]
    yield slopes | {f"dual of {f} = its slope": partial(_tangent, f) for f in dual_of}, trials, NUMERICAL
    made = [f for f in functions(e.program) if f.outputs]
    yield {f"generated torch {f.name} = interpreter": partial(_generated, f) for f in made}, 1, EXACT
    able = [b for b, module in BACKENDS.items() if module.serves(compiled(S), set(SHAPES), _device(b))]
    yield {f"scan by {b} = sum of all segmentations": partial(_scan, b) for b in able}, 1, EXACT
    yield {f"gradient by {b} = slope of that sum": partial(_gradient, b) for b in able}, 3, NUMERICAL


def _run(e: Elements, checks: dict[str, Check], trials: int, tolerance: float) -> list[Law]:
    """Every check `trials` times. Raises after the last one, so that an error can say what else is broken."""
    held, broken = [], {}
    for name, check in checks.items():
        cases = [case for _ in range(trials) for case in check(e)]
        error, worst = max(((case.error, case) for case in cases), key=lambda pair: pair[0], default=(0.0, None))
        if error > tolerance:
            broken[name] = worst
        held.append(Law(name, len(cases), error))
    if broken:
        name, *others = broken
        also = f" It breaks these too: {'; '.join(others)}." if others else ""
        raise SemiringError(f"{e.semiring.__name__} breaks the law {name!r}: {broken[name]}.{also}")
    return held


# ------------------------------------------------------------------ laws
DRAW: dict[str, Callable[[Elements], Any]] = {
    **dict.fromkeys("abc", Elements.element),
    **dict.fromkeys("vw", Elements.weights),
    "d": Elements.generic,
    "x": lambda e: [e.element() for _ in range(e.random.randint(2, 4))],
    "o": lambda e: [e.weightless() for _ in range(e.random.randint(1, 3))],
}
"""What a law's arguments stand for: elements, potentials, a divisor, the terms of a sum, terms without weight."""

LAWS: dict[str, Callable[..., list[Case]]] = {
    "a row of zeros holds no NaN": lambda e, o: [Case([v != v for v in e.sum(*o)], [False] * e.program.width)],
    "plus is commutative": lambda e, a, b: [e.same(e.sum(a, b), e.sum(b, a))],
    "plus is associative": lambda e, a, b, c: [e.same(e.sum(e.sum(a, b), c), e.sum(a, e.sum(b, c)))],
    "sum = plus folded": lambda e, x: [e.same(e.sum(*x), e.fold(x))],
    "zero is the identity of plus": lambda e, a: [e.same(e.sum(e.zero, a), a), e.same(e.sum(a, e.zero), a)],
    "one is the identity of mul": lambda e, a: [e.same(e.mul(e.one, a), a), e.same(e.mul(a, e.one), a)],
    "zero annihilates": lambda e, a: [e.same(e.mul(e.zero, a), e.zero), e.same(e.mul(a, e.zero), e.zero)],
    "zero is not one": lambda e: [Case([e.sum(e.zero) == e.sum(e.one)], [False])],
    "mul is associative": lambda e, a, b, c: [e.same(e.mul(e.mul(a, b), c), e.mul(a, e.mul(b, c)))],
    "mul distributes over sum": lambda e, a, x: [
        e.same(e.mul(a, e.sum(*x)), e.sum(*(e.mul(a, t) for t in x))),
        e.same(e.mul(e.sum(*x), a), e.sum(*(e.mul(t, a) for t in x))),
    ],
    "the sum of one element stands for it": lambda e, a, b: [
        e.same(e.sum(a), a),
        e.same(e.sum(e.sum(a), b), e.sum(a, b)),
        e.same(e.mul(e.sum(a), b), e.mul(a, b)),
        e.same(e.mul(b, e.sum(a)), e.mul(b, a)),
    ],
    "a row with zeros = the row without": lambda e, x, o: [e.same(e.sum(*e.mixed(x, o)), e.sum(*x))],
    "a row of zeros = zero": lambda e, o: [Case(e.sum(*o), e.zero)],  # zero itself, in every field
    "lift(v + w) = mul(lift(v), lift(w))": lambda e, v, w: [
        e.same(e.lift([p + q for p, q in zip(v, w, strict=True)]), e.mul(e.lift(v), e.lift(w)))
    ],
    "lift(0) = one": lambda e: [e.same(e.lift([0.0] * e.program.potentials), e.one)],
    "act(a, w) = mul(a, lift(w))": lambda e, a, w: [e.same(e.act(a, w), e.mul(a, e.lift(w)))],
    "divide(mul(a, d), d) = a": lambda e, a, d: [e.same(e.divide(e.mul(a, d), d), a)],
}


def _law(formula: Callable[..., list[Case]], e: Elements) -> Iterator[Case]:
    inputs = {n: DRAW[n](e) for n in list(inspect.signature(formula).parameters)[1:]}
    for case in formula(e, **inputs):
        yield Case(case.got, case.expected, inputs)


# ------------------------------------------------------------------ derivatives
def _value(outputs: Sequence[Expr], point: Point, per_term: bool = False) -> np.ndarray:
    terms = point["x"].shape[1] if "x" in point else 1
    values = evaluate(outputs, {kind: v.tolist() for kind, v in point.items()}, terms)
    return np.array([np.broadcast_to(v, terms) if per_term else v for v in values], dtype=np.float64)


def _slope(along: Callable[[float], np.ndarray]) -> np.ndarray | None:
    """The central difference at 0; None at a kink (a tie), where the two sides differ. 0 for what is not finite."""
    behind, here, ahead = map(along, (-STEP, 0.0, STEP))
    with np.errstate(invalid="ignore"):
        left, right = (np.where(np.isfinite(here), d, 0.0) / STEP for d in (here - behind, ahead - here))
    return (left + right) / 2 if np.allclose(left, right, rtol=1e-3, atol=1e-3) else None


def _smooth(e: Elements, what: str) -> tuple[Point, Point, np.ndarray] | None:
    """A point without ties, a direction (0 where the point is not finite), and the slopes of the outputs along it."""

    def stretched() -> np.ndarray:
        return np.array([v * e.random.uniform(0.9, 1.1) for v in e.generic()])

    outputs = getattr(e.program, what)
    for _ in range(20):
        if what == "sum":
            terms = [stretched() for _ in range(e.random.randint(1, 4))] + [np.array(e.zero)] * e.random.randint(0, 1)
            point = {"x": np.stack(terms, 1)}
        else:
            drawn = {"a": stretched(), "b": stretched(), "w": np.array(e.weights(0.0))}
            point = {kind: drawn[kind] for kind in {"lift": "w", "act": "aw", "mul": "ab"}[what]}
        to = {k: np.where(np.isfinite(v), np.reshape(e.normal(v.size), v.shape), 0.0) for k, v in point.items()}
        slopes = _slope(lambda s, p=point, to=to: _value(outputs, {k: v + s * to[k] for k, v in p.items()}))
        if slopes is not None:
            return point, to, slopes
    return None


def _reverse(what: str, e: Elements) -> Iterator[Case]:
    """The reverse rule of `sum` or `act`, against the slope; and 0 for what is not finite."""
    if found := _smooth(e, what):
        point, to, slopes = found
        inputs, known = point | {"g": np.array(e.normal(e.program.width))}, {}
        if what == "act":  # a choice gives no cotangent to what it did not find, so none reaches a rank that is -inf
            inputs["g"] *= np.isfinite(_value(e.program.act, point))
        else:
            known = {"y": _value(e.program.sum, point), "id": _value(tuple(stored_ids(e.program.sum)), point)}
        outputs = e.program.reverse.outputs if what == "sum" else e.program.act_reverse
        rule = _value(outputs, inputs | known, per_term=what == "sum")
        yield Case([(rule * np.concatenate([*to.values()])).sum()], [(inputs["g"] * slopes).sum()], inputs)
        forbidden = rule[~np.isfinite(np.concatenate([*point.values()]))]
        yield Case(forbidden, np.zeros_like(forbidden), inputs)


def _tangent(what: str, e: Elements) -> Iterator[Case]:
    """The dual semiring's function, against the slope."""
    if found := _smooth(e, what):
        point, to, slopes = found
        both = {kind: np.concatenate([v, to[kind]]) for kind, v in point.items()}
        value, slope = np.split(_value(getattr(compiled(dual(e.semiring)), what), both), 2)
        yield Case(np.where(np.isfinite(value), slope, 0.0), slopes, both)


def _has_dual(S: type[Semiring], what: str) -> bool:
    """False for a product that chooses: k-best has the action, which keeps the order, and no more is needed."""
    try:
        return bool(getattr(compiled(dual(S)), what))
    except SemiringError:
        if what == "mul":
            return False
        raise


# ------------------------------------------------------------------ generated code and backends
def _generated(f: Function, e: Elements) -> Iterator[Case]:
    """A generated torch function, on a batch of points, against the interpreter on each."""
    kinds, points, results = f.parameters.removesuffix(", dim").split(", "), [], []
    for _ in range(20):
        drawn = {"w": e.weights(), "a": e.element(), "b": e.element(), "g": e.normal(e.program.width)}
        point = {k: np.array(v) for k, v in drawn.items()} | {"x": np.array([e.element() for _ in range(3)]).T}
        point |= {"y": _value(e.program.sum, point), "id": _value(tuple(stored_ids(e.program.sum)), point)}
        points.append({k: point[k] for k in kinds})
        results.append(_value((*f.outputs, *f.also), points[-1], per_term=f.name == "sum_vjp"))
    stacked = {k: torch.tensor(np.stack([p[k] for p in points], 1)) for k in kinds}
    arguments = [t.unsqueeze(-1) if "x" in kinds and k != "x" else t for k, t in stacked.items()]
    made = getattr(generated(e.program), f.name)(*arguments, *[-1] * ("x" in kinds))
    made = (*made[0], *made[1]) if f.name == "sum" else made
    shape = [len(points), *results[0].shape[1:]] + [1] * (f.name == "sum")
    got = torch.stack([m.expand(shape) for m in made], 1)
    for g, expected, point in zip(got, results, points, strict=True):
        yield Case(g.flatten().tolist(), expected.flatten().tolist(), point, undefined=True)


def _device(backend: str) -> torch.device:
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def _run_backend(
    name: str, e: Elements, models: list[dict[str, Tensor]], gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    tensors = [t.to(_device(name), copy=True).requires_grad_(gradient) for t in flat(models)]
    spec = Spec(compiled(e.semiring).key, name, layout(models), T, K, C)
    return scan(spec, torch.tensor(LENGTHS, device=_device(name)), tensors).value.cpu(), tensors


def _scan(backend: str, e: Elements) -> Iterator[Case]:
    """The scan of a small model against the sum over all its segmentations."""
    models = random_models(e)
    listed = [{name: part.tolist() for name, part in m.items()} for m in models]
    value, _ = _run_backend(backend, e, models, gradient=False)
    for b, expected in enumerate(all_segmentations(e, models)):
        case = e.same(tuple(value[:, b].tolist()), expected)
        yield Case(case.got, case.expected, {"sequence": b, "models": listed})


def _gradient(backend: str, e: Elements) -> Iterator[Case]:
    """The gradient of that scan against the slope of that sum; and 0 at what is -inf or not read."""
    models = random_models(e)
    to = [{n: torch.where(p.isfinite(), real(e.normal(p.numel()), p.shape), 0.0) for n, p in m.items()} for m in models]

    def along(s: float) -> np.ndarray:
        moved = [{n: p + s * d[n] for n, p in m.items()} for m, d in zip(models, to, strict=True)]
        return np.array(all_segmentations(e, moved)).T

    slopes = _slope(along)
    if slopes is not None:
        value, tensors = _run_backend(backend, e, models, gradient=True)
        g = real(e.normal(value.numel()), value.shape)
        pulled = torch.autograd.grad(torch.where(value.isfinite(), g * value, 0.0).sum(), tensors)
        rule = torch.cat([p.flatten().cpu() for p in pulled])
        yield Case([float(rule @ torch.cat([d.flatten() for d in flat(to)]))], [float((g.numpy() * slopes).sum())])
        forbidden = rule[~torch.cat([p.flatten() for p in flat(models)]).isfinite()].tolist()
        yield Case(forbidden, [0.0] * len(forbidden))
