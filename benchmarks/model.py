"""The models that are timed: drawn in float64, the same arrays for every contender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.cases import Shape

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """A factored model with a free label before the first segment, which is collapsed into `start`.

    That is the one model on which every peer's conventions agree: some sum that label out, some have a start.
    """

    emission: Array  # (B, T, C)
    transition: Array  # (C, C), [previous, next]
    duration: Array  # (K, C), row k - 1
    start: Array  # (C,)

    @property
    def shape(self) -> Shape:
        """(B, T, K, C)."""
        B, T, C = self.emission.shape
        return Shape(B, T, len(self.duration), C)

    @property
    def parts(self) -> dict[str, Array]:
        """By the names of `FactoredPotentials`."""
        names = ("emission", "transition", "duration", "start")
        return {name: getattr(self, name) for name in names}

    def shifted(self, by: Array) -> Model:
        """Every position's score raised by ``by[b]``, which raises log Z by ``T by[b]`` and nothing else."""
        return replace(self, emission=self.emission + by[:, None, None])


@lru_cache(maxsize=2)
def draw(shape: Shape, first: str = "sum", data: str = "random", seed: int = 0) -> Model:
    """Normal scores. `first`: how the free first label is collapsed, by its sum or by its max."""
    B, T, K, C = shape
    generator = np.random.default_rng(seed)
    emission = generator.standard_normal((B, T, C))
    transition = 0.5 * generator.standard_normal((C, C))
    duration = 0.3 * generator.standard_normal((K, C))
    if data == "planted":
        emission += 4.0 * np.eye(C)[planted(shape, generator)]
    start = transition.max(0) if first == "max" else np.logaddexp.reduce(transition, axis=0)
    return Model(emission, transition, duration, start)


def planted(shape: Shape, generator: np.random.Generator) -> Array:
    """(B, T) labels of segments whose durations are uniform on 1 .. K / 2: K / 4 in the mean, 1 where K is 1."""
    B, T, K, C = shape
    rows = np.empty((B, T), np.int64)
    for row in rows:
        durations = generator.integers(1, max(1, K // 2) + 1, T)
        row[:] = np.repeat(generator.integers(0, C, T), durations)[:T]
    return rows


def segments(model: Model, dtype: str = "float64") -> Array:
    """(B, T, K, C): emissions and duration of the segment that starts at s with duration row k - 1; 0 past the end."""
    B, T, K, C = model.shape
    prefix = np.concatenate([np.zeros((B, 1, C)), model.emission.cumsum(1)], 1)
    scores = np.zeros((B, T, K, C), dtype)
    for k in range(1, min(K, T) + 1):
        scores[:, : T - k + 1, k - 1] = prefix[:, k:] - prefix[:, :-k] + model.duration[k - 1]
    return scores


def edges(model: Model, dtype: str = "float64") -> Array:
    """(B, T, K, C, C) ``[s, k - 1, previous, next]``: with the transition, or with the start in ``previous = 0``.

    At s = 0 the other previous labels hold 0 and are no part of the model; so is what passes the end.
    """
    scores = segments(model, dtype)
    out = scores[..., None, :] + model.transition.astype(dtype)
    out[:, 0] = 0.0
    out[:, 0, :, 0] = scores[:, 0] + model.start.astype(dtype)
    return out


def counts(edge: Array) -> dict[str, Array]:
    """Expected counts from the probability of every arc ``(B, T, K, C, C)``, as our gradients are, for each part."""
    by_segment = edge.sum(-2)  # (B, T, K, C)
    B, T, K, C = by_segment.shape
    steps = np.zeros((B, T + 1, C))  # +1 where a segment starts, -1 where it ends
    for k in range(1, min(K, T) + 1):
        mass = by_segment[:, : T - k + 1, k - 1]
        steps[:, : T - k + 1] += mass
        steps[:, k:] -= mass
    transition = edge[:, 1:].sum((0, 1, 2))
    return {"emission": steps.cumsum(1)[:, :T], "transition": transition, "duration": by_segment.sum((0, 1))}
