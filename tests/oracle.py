"""The exhaustive oracle: every quantity of the library, from the list of all segmentations of one sequence.

Nothing here knows a recursion. ``terms(y)`` says which potentials the score of a segmentation reads; everything else is
a sum, a maximum or a selection over the vector of the scores of all segmentations, in float64, differentiated by
autograd. It imports nothing of the library. Practical up to some ten thousand segmentations
(T = 7, K = 5, C = 3 has 12 267).

A segmentation is a tuple of ``(start, end, label)``. Lists of segmentations are ordered by the tie rule (``tie_key``),
so the first of several equal scores is the one that the library has to return. Scores of random reals tie only up to
rounding: for questions about ties use ``random_model(..., ties=True)``, whose sums are exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Segment = tuple[int, int, int]
Segmentation = tuple[Segment, ...]

FACTORED = ("emission", "transition", "duration", "start", "end", "segment_start", "segment_end", "duration_transition")
SEGMENT = ("segment", "transition", "start", "end")
EDGE = ("edge", "end")
POSITIONAL = ("emission", "segment_start", "segment_end", "segment", "edge")
PARTS = (*FACTORED, "segment", "edge")


def shapes(T: Any, K: Any, C: Any) -> dict[str, tuple]:
    """The shape of every part."""
    return {
        "emission": (T, C),
        "transition": (C, C),
        "duration": (K, C),
        "start": (C,),
        "end": (C,),
        "segment_start": (T, C),
        "segment_end": (T, C),
        "duration_transition": (K, C, C),
        "segment": (T, K, C),
        "edge": (T, K, C, C),
    }


# ---------------------------------------------------------------------------------------------------------------------
# One sequence, its segmentations and their scores
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """Potentials of one sequence, indexed as in the library without the batch axis; a part that is None is all zeros.

    The score of a segmentation is the sum over the parts that are present, so factored, segment and edge potentials are
    all instances of it. ``max_duration`` says K where no part does.
    """

    emission: Tensor | None = None
    transition: Tensor | None = None
    duration: Tensor | None = None
    start: Tensor | None = None
    end: Tensor | None = None
    segment_start: Tensor | None = None
    segment_end: Tensor | None = None
    duration_transition: Tensor | None = None
    segment: Tensor | None = None
    edge: Tensor | None = None
    max_duration: int | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int | None] = {"T": None, "K": self.max_duration, "C": None}
        for name, tensor in self.parts.items():
            axes = shapes("T", "K", "C")[name]
            if tensor.dim() != len(axes):
                raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {axes}")
            for axis, size in zip(axes, tensor.shape, strict=True):
                if sizes[axis] not in (None, size):
                    raise ValueError(f"{name}: {axis} = {size}, but it is {sizes[axis]} elsewhere")
                sizes[axis] = size
        # Any: an axis that no part has is None, and every model that is enumerated has all three
        self.T: Any = sizes["T"]
        self.K: Any = sizes["K"]
        self.C: Any = sizes["C"]

    @property
    def parts(self) -> dict[str, Tensor]:
        """The parts that are present, by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def replace(self, **parts: Tensor | None) -> Model:
        """A copy with some parts replaced."""
        kept: dict[str, Any] = {**self.parts, "max_duration": self.K}
        kept.update(parts)
        return Model(**kept)


def terms(y: Segmentation) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What the score of y is the sum of: (part, index) pairs. This function is the score formula."""
    for j, (start, end, label) in enumerate(y):
        k = end - start
        for t in range(start, end):
            yield "emission", (t, label)
        yield "duration", (k - 1, label)
        yield "segment_start", (start, label)
        yield "segment_end", (end - 1, label)
        yield "segment", (start, k - 1, label)
        if j == 0:
            yield "start", (label,)
            yield "edge", (start, k - 1, 0, label)
        else:
            previous = y[j - 1][2]
            yield "transition", (previous, label)
            yield "duration_transition", (k - 1, previous, label)
            yield "edge", (start, k - 1, previous, label)
    yield "end", (y[-1][2],)


def tie_key(y: Segmentation) -> tuple[int, ...]:
    """Smaller wins a tie: final label, its duration, the previous label, its duration, ... from the end."""
    return tuple(value for start, end, label in reversed(y) for value in (label, end - start))


@functools.lru_cache(maxsize=64)
def segmentations(length: int, K: int, C: int) -> tuple[Segmentation, ...]:
    """All segmentations of ``[0, length)`` into segments of 1..K positions and C labels, sorted by ``tie_key``."""

    def extend(prefix: Segmentation, start: int) -> Iterator[Segmentation]:
        if start == length:
            yield prefix
        for end in range(start + 1, min(start + K, length) + 1):
            for label in range(C):
                yield from extend((*prefix, (start, end, label)), end)

    return tuple(sorted(extend((), 0), key=tie_key))


@functools.lru_cache(maxsize=64)
def _incidence(length: int, K: int, C: int) -> dict[str, tuple[Tensor, Tensor]]:
    """For each part, which segmentation (row) reads which entry of the flattened part (column), once per reading."""
    pairs: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in PARTS}
    sizes = shapes(length, K, C)
    for row, y in enumerate(segmentations(length, K, C)):
        for name, index in terms(y):
            column = 0
            for i, size in zip(index, sizes[name], strict=True):
                column = column * size + i  # row-major; does not depend on the first size, T
            pairs[name][0].append(row)
            pairs[name][1].append(column)
    return {
        name: (torch.tensor(rows, dtype=torch.int64), torch.tensor(columns, dtype=torch.int64))
        for name, (rows, columns) in pairs.items()
    }


def _split(potential: Tensor) -> tuple[Tensor, Tensor]:
    """(finite, forbidden): float64 with a constant 0 in place of -inf; a constant that is -inf there, 0 elsewhere."""
    hole = torch.isneginf(potential.detach())
    zero = torch.zeros(potential.shape, dtype=torch.float64)
    return torch.where(hole, zero, potential.double()), zero.masked_fill(hole, -math.inf)


def score(model: Model, y: Sequence[Segment]) -> Tensor:
    """The score of one segmentation: a differentiable float64 scalar, -inf if any potential that it reads is."""
    parts = {name: _split(tensor) for name, tensor in model.parts.items()}
    total = torch.zeros((), dtype=torch.float64)
    for name, index in terms(tuple(y)):
        if name in parts:
            finite, forbidden = parts[name]
            total = total + finite[index] + forbidden[index]
    return total


def _scores(model: Model, length: int, K: int, C: int) -> Tensor:
    total = torch.zeros(len(segmentations(length, K, C)), dtype=torch.float64)
    for name, tensor in model.parts.items():
        rows, columns = _incidence(length, K, C)[name]
        for values in _split(tensor):
            total = total.index_add(0, rows, values.flatten().index_select(0, columns))
    return total


def _length(model: Model, length: int | None) -> int:
    length = model.T if length is None else length
    if length is None or model.K is None or not 1 <= length <= (model.T or length):
        raise ValueError(f"length {length}: the model has T = {model.T}, K = {model.K}")
    return length


def scores(model: Model, length: int | None = None) -> Tensor:
    """The scores of ``segmentations(length, K, C)``; nothing past the length is read. Gradient 0 at every -inf."""
    return _scores(model, _length(model, length), model.K, model.C)


def paths(model: Model, length: int | None = None) -> tuple[Segmentation, ...]:
    """The segmentations that ``scores`` and ``probabilities`` list."""
    return segmentations(_length(model, length), model.K, model.C)


# ---------------------------------------------------------------------------------------------------------------------
# Values. ``x[possible]`` keeps the segmentations of non-zero weight, so that no -inf ever enters a formula.
# ---------------------------------------------------------------------------------------------------------------------


def _possible(all_scores: Tensor) -> Tensor:
    return ~torch.isneginf(all_scores.detach())


def _constant(value: float, *all_scores: Tensor) -> Tensor:
    """A constant that autograd can differentiate, with gradient zero everywhere."""
    return value + torch.stack([(s[_possible(s)] * 0.0).sum() for s in all_scores]).sum()


def _logz(all_scores: Tensor) -> Tensor:
    possible = _possible(all_scores)
    return torch.logsumexp(all_scores[possible], 0) if possible.any() else _constant(-math.inf, all_scores)


def _log(s: Tensor) -> dict[str, Tensor]:
    return {"logz": _logz(s)}


def _std(s: Tensor) -> dict[str, Tensor]:
    return {"z": s[_possible(s)].exp().sum()}


def _log_count(s: Tensor) -> dict[str, Tensor]:
    count = int(_possible(s).sum())
    return {"log_count": _constant(math.log(count) if count else -math.inf, s)}


def _kbest(s: Tensor, k: int) -> list[int]:
    """Positions of the k best possible segmentations, best first, ties in the order of ``tie_key``."""
    order = torch.sort(s.detach(), descending=True, stable=True).indices
    return order[_possible(s)[order]][:k].tolist()


def _max(s: Tensor) -> dict[str, Tensor]:
    best = _kbest(s, 1)
    return {"score": s[best[0]] if best else _constant(-math.inf, s)}


def _kmax(s: Tensor, k: int) -> dict[str, Tensor]:
    best = [s[i] for i in _kbest(s, k)]
    return {"scores": torch.stack(best + [_constant(-math.inf, s)] * (k - len(best)))}


def _entropy(s: Tensor) -> dict[str, Tensor]:
    log_p = s[_possible(s)] - _logz(s)
    return {"logz": _logz(s), "h": -(log_p.exp() * log_p).sum()}  # an empty sum, 0, where nothing is possible


def _divergence(s: Tensor, r: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``sum p * of(log p, log q)`` over what p allows; 0 if p is impossible, +inf where q forbids what p allows."""
    allowed = _possible(s)
    if (allowed & ~_possible(r)).any():
        return _constant(math.inf, s, r)
    log_p, log_q = s[allowed] - _logz(s), r[allowed] - _logz(r)
    return (log_p.exp() * of(log_p, log_q)).sum()


def _cross_entropy(s: Tensor, r: Tensor) -> dict[str, Tensor]:
    return {"logp": _logz(s), "logq": _logz(r), "h": _divergence(s, r, lambda log_p, log_q: -log_q)}


def _kl(s: Tensor, r: Tensor) -> dict[str, Tensor]:
    return {"logp": _logz(s), "logq": _logz(r), "kl": _divergence(s, r, lambda log_p, log_q: log_p - log_q)}


_ONE: dict[str, Callable[..., dict[str, Tensor]]] = {
    "Log": _log,
    "Max": _max,
    "Std": _std,
    "Entropy": _entropy,
    "LogCount": _log_count,
}
_TWO: dict[str, Callable[..., dict[str, Tensor]]] = {"CrossEntropy": _cross_entropy, "KL": _kl}


def values(
    name: str, models: Model | Sequence[Model], length: int | None = None, *, k: int | None = None
) -> dict[str, Tensor]:
    """The fields of ``reduce(name)`` for one sequence; ``LogCount`` gives ``log_count``; ``k`` is for ``KMax``.

    Differentiable, with the library's rules: gradient 0 at a -inf potential; impossible models give -inf (``z``, ``h``,
    ``kl`` 0) and gradient 0; ``h`` and ``kl`` of two models +inf with gradient 0 where q forbids what p allows.
    """
    models = [models] if isinstance(models, Model) else list(models)
    if len(models) != (2 if name in _TWO else 1):
        raise ValueError(f"{name} of {len(models)} models")
    length = _length(models[0], length)
    vectors = [_scores(model, length, models[0].K, models[0].C) for model in models]
    if name == "KMax":
        return _kmax(vectors[0], 1 if k is None else k)
    return (_TWO if name in _TWO else _ONE)[name](*vectors)


def best_path(model: Model, length: int | None = None) -> Segmentation:
    """The best segmentation by the tie rule: smallest final label, then, walking back, smallest duration, then smallest
    previous label; ``()`` if none is possible."""
    best = _kbest(scores(model, length), 1)
    return paths(model, length)[best[0]] if best else ()


def kbest(model: Model, k: int, length: int | None = None) -> tuple[Tensor, list[Segmentation]]:
    """The k best scores, filled with -inf, and the segmentations that there are. The gradient of rank i is the
    indicator of path i; among equal scores any order, and any choice at the cut, would be as right as this one."""
    vector = scores(model, length)
    return _kmax(vector, k)["scores"], [paths(model, length)[i] for i in _kbest(vector, k)]


def count(model: Model, length: int | None = None) -> int:
    """How many segmentations have non-zero weight."""
    return int(_possible(scores(model, length)).sum())


# ---------------------------------------------------------------------------------------------------------------------
# Probabilities
# ---------------------------------------------------------------------------------------------------------------------


def _probabilities(s: Tensor) -> Tensor:
    possible = _possible(s)
    return torch.zeros_like(s).index_put((possible.nonzero()[:, 0],), torch.softmax(s[possible], 0))


def probabilities(model: Model, length: int | None = None) -> Tensor:
    """p(y) for every segmentation, differentiable; all 0 if none is possible."""
    return _probabilities(scores(model, length))


_VIEWS = {
    "position": "emission",
    "segments": "segment",
    "transition": "transition",
    "duration": "duration",
    "start": "start",
    "end": "end",
    "edge": "edge",
}


def marginals(model: Model, length: int | None = None) -> dict[str, Tensor]:
    """How often each entry is read, in expectation: position (T,C), segments (T,K,C), edge (T,K,C,C) (at s = 0 in
    previous = 0), transition (C,C), duration (K,C), start (C,), end (C,), and boundary (T,) = P(a segment starts at t).
    Differentiable; 0 past the length."""
    length = _length(model, length)
    p = probabilities(model, length)

    def expected_readings(part: str) -> Tensor:
        rows, columns = _incidence(length, model.K, model.C)[part]
        shape = shapes(model.T or length, model.K, model.C)[part]
        return torch.zeros(math.prod(shape), dtype=torch.float64).index_add(0, columns, p[rows]).view(shape)

    result = {view: expected_readings(part) for view, part in _VIEWS.items()}
    return result | {"boundary": expected_readings("segment_start").sum(-1)}


def max_marginals(model: Model, length: int | None = None) -> dict[str, Tensor]:
    """For each entry of ``marginals`` the best score among the segmentations that read it, or -inf; no gradient."""
    length = _length(model, length)
    s = scores(model, length).detach()

    def best_reading(part: str) -> Tensor:
        rows, columns = _incidence(length, model.K, model.C)[part]
        shape = shapes(model.T or length, model.K, model.C)[part]
        worst = torch.full((math.prod(shape),), -math.inf, dtype=torch.float64)
        return worst.scatter_reduce(0, columns, s[rows], "amax").view(shape)

    result = {view: best_reading(part) for view, part in _VIEWS.items()}
    return result | {"boundary": best_reading("segment_start").amax(-1)}


def expectation(model: Model, f: Model, length: int | None = None) -> Tensor:
    """E[f(y)] under the model, for an additive f; what f holds where the model has probability 0 is
    ignored; 0 if nothing is possible."""
    length = _length(model, length)
    s = scores(model, length)
    possible = _possible(s)
    return (torch.softmax(s[possible], 0) * _scores(f, length, model.K, model.C)[possible]).sum()


def covariance(model: Model, f: Model, g: Model, length: int | None = None) -> Tensor:
    """Cov[f(y), g(y)] under the model, likewise; ``f = g`` gives the variance."""
    length = _length(model, length)
    s = scores(model, length)
    possible = _possible(s)
    p = torch.softmax(s[possible], 0)
    f_values, g_values = (_scores(m, length, model.K, model.C)[possible] for m in (f, g))
    return (p * (f_values - (p * f_values).sum()) * (g_values - (p * g_values).sum())).sum()


def log_probability(model: Model, event: Callable[[Segmentation], bool], length: int | None = None) -> Tensor:
    """log P(event(y)), -inf where it has probability 0; for evidence: ``lambda y: consistent(y, labels=...)``."""
    s = scores(model, length)
    inside = torch.tensor([bool(event(y)) for y in paths(model, length)])
    if not (inside & _possible(s)).any():
        return _constant(-math.inf, s)
    return _logz(s[inside]) - _logz(s)


def probability(model: Model, event: Callable[[Segmentation], bool], length: int | None = None) -> Tensor:
    """P(event(y)), differentiable."""
    inside = torch.tensor([bool(event(y)) for y in paths(model, length)])
    return probabilities(model, length)[inside].sum()


def consistent(
    y: Segmentation,
    labels: Sequence[int] | Tensor | None = None,
    allowed: Sequence[Sequence[bool]] | Tensor | None = None,
    boundary: Sequence[int] | Tensor | None = None,
    segments: Sequence[Segment] | None = None,
) -> bool:
    """Whether y agrees with evidence (sequences or tensors): a label at each position (-1 unobserved; equal neighbours
    say nothing of a boundary), the labels allowed at each position, whether a segment starts at each position (-1
    unknown, 0 no, 1 yes), segments that all occur."""
    starts = {start for start, _, _ in y}
    for start, end, label in y:
        for t in range(start, end):
            if labels is not None and int(labels[t]) not in (-1, label):
                return False
            if allowed is not None and not bool(allowed[t][label]):
                return False
            if boundary is not None and int(boundary[t]) not in (-1, int(t in starts)):
                return False
    return segments is None or all(tuple(segment) in y for segment in segments)


# ---------------------------------------------------------------------------------------------------------------------
# For tests: gradients, random models, entries that must not be read
# ---------------------------------------------------------------------------------------------------------------------


def gradients(value: Tensor, *models: Model, create_graph: bool = False) -> list[dict[str, Tensor]]:
    """The gradient of ``value.sum()`` at every part of each model, zeros where it does not depend on it."""
    leaves = [tensor for model in models for tensor in model.parts.values()]
    grads = iter(
        torch.autograd.grad(
            value.sum(), leaves, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    )
    return [{name: next(grads) for name in model.parts} for model in models]


def random_model(
    T: int,
    K: int,
    C: int,
    *,
    generator: torch.Generator,
    holes: float = 0.0,
    ties: bool = False,
    parts: Sequence[str] = FACTORED,
    hole_parts: Sequence[str] | None = None,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = True,
) -> Model:
    """Normal potentials times ``scale`` (``ties``: integers -1, 0, 1, exact in any dtype), each entry of ``hole_parts``
    (default: all) -inf with probability ``holes``. The model may come out impossible."""
    tensors = {}
    for name in parts:
        shape = shapes(T, K, C)[name]
        if ties:
            tensor = torch.randint(-1, 2, shape, generator=generator).to(torch.float64)
        else:
            tensor = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        if hole_parts is None or name in hole_parts:
            tensor = tensor.masked_fill(torch.rand(shape, generator=generator) < holes, -math.inf)
        tensors[name] = tensor.to(dtype).requires_grad_(requires_grad)
    return Model(**tensors, max_duration=K)


def spoil(model: Model, length: int, value: float = math.nan) -> Model:
    """A copy (new leaves) with ``value`` wherever no segmentation of this length reads: past the length in the
    positional parts, and at s = 0, previous > 0 in ``edge``. No result and no gradient may change; it is 0 there."""
    tensors = {}
    for name, tensor in model.parts.items():
        copy = tensor.detach().clone()
        if name in POSITIONAL:
            unread = torch.ones(tensor.numel(), dtype=torch.bool)
            unread[_incidence(length, model.K, model.C)[name][1]] = False
            copy = copy.masked_fill(unread.view(tensor.shape), value)
        tensors[name] = copy.requires_grad_(tensor.requires_grad)
    return model.replace(**tensors)
