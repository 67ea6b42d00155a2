"""A model's parts as the arrays that the sweeps read: one sequence at a time, float64, exponentials of the small tables
taken once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semicrf.engine.layout import MASKS, PARTS

Array = NDArray[Any]
inf = float("inf")


def arrays(parts: Mapping[str, Tensor]) -> dict[str, Array]:
    """The parts as contiguous numpy arrays: float64, or bool for masks."""
    made = {}
    for name, part in parts.items():
        t = part.detach()
        made[name] = np.ascontiguousarray((t if name in MASKS else t.double()).numpy())
    return made


def counting(parts: Mapping[str, Array]) -> dict[str, Array]:
    """The model that scores 0 whatever is not forbidden."""
    return {n: p if n in MASKS else np.where(p == -inf, -inf, 0.0) for n, p in parts.items()}


def combined(models: list[dict[str, Array]], coefficients: tuple[float, ...]) -> dict[str, Array]:
    """A payload: the sum of models' scores with coefficients; 0 where that is not finite, as no path with weight goes
    there.
    """
    payload: dict[str, Array] = {}
    with np.errstate(invalid="ignore"):  # -inf less -inf: not finite either
        for model, c in zip(models, coefficients, strict=True):
            for name, part in model.items():
                if c != 0 and name not in MASKS:
                    payload[name] = payload[name] + c * part if name in payload else c * part
        return {n: np.where(np.isfinite(p), p, 0.0) for n, p in payload.items()}


def forbids_more(
    weight: dict[str, Array], models: list[dict[str, Array]], coefficients: tuple[float, ...]
) -> tuple[dict[str, Array], float]:
    """A payload that counts, along a path, what other models forbid and `weight` allows; and what the mean then is.

    Empty where they forbid nothing more.
    """
    marks: dict[str, Array] = {}
    limits = set()
    for model, c in zip(models, coefficients, strict=True):
        for name, part in model.items():
            if c == 0 or model is weight or name in MASKS:
                continue
            mark = (part == -inf) & (weight[name] > -inf if name in weight else True)
            if mark.any():
                marks[name] = marks[name] + mark if name in marks else mark.astype(np.float64)
                limits.add(-inf if c > 0 else inf)
    return marks, limits.pop() if len(limits) == 1 else np.nan


class Tables:
    """One weight and its payload, ready for `sweep` and `counts`; shared tables are made once for the batch."""

    def __init__(self, weight: dict[str, Array], payload: dict[str, Array] | None, B: int, T: int, K: int, C: int):
        self.weight, self.payload = weight, payload
        self.sizes = {"B": B, "T": T, "K": K, "C": C}
        self._made: dict[tuple[bool, int], tuple] = {}

    def of(self, model: Mapping[str, Array], name: str, b: int, fill: bool = True) -> Array:
        """One part of one sequence; zeros, or an array without rows, where it is absent."""
        if name in model:
            return model[name][b if model[name].shape[0] > 1 else 0]
        shape = [self.sizes[a] for a in PARTS[name][1:]]
        return np.zeros(shape if fill else [0, *shape[1:]], np.bool_ if name in MASKS else np.float64)

    def weights(self, b: int, rev: bool) -> tuple:
        """(emission, scores where a segment opens, where it closes, required starts) in the order of the sweep."""
        w = self.weight
        open_, close = ("segment_end", "segment_start") if rev else ("segment_start", "segment_end")
        return (
            self.of(w, "emission", b),
            self.of(w, open_, b, False),
            self.of(w, close, b, False),
            self.of(w, "required", b, False),
        )

    def extra(self, b: int, rev: bool) -> tuple:
        """The payload's (emission, opening, closing)."""
        open_, close = ("segment_end", "segment_start") if rev else ("segment_start", "segment_end")
        p = self.payload or {}
        return self.of(p, "emission", b), self.of(p, open_, b, False), self.of(p, close, b, False)

    def tables(self, b: int, rev: bool) -> tuple[tuple, tuple]:
        """((D, logd, dtop, W, logw, wtop, init), (duration, D * duration, transition, init) of the payload).

        Durations are ``[label, K - k]``, the order in which a window lies; D and W are exponentials less their tops.
        """
        shared = all(self.weight[n].shape[0] == 1 for n in self.weight if "T" not in PARTS[n]) and all(
            p.shape[0] == 1 for n, p in (self.payload or {}).items() if "T" not in PARTS[n]
        )
        key = (rev, 0 if shared else b)
        if key not in self._made:
            self._made[key] = self._tables(b, rev)
        return self._made[key]

    def _tables(self, b: int, rev: bool) -> tuple[tuple, tuple]:
        duration = np.ascontiguousarray(self.of(self.weight, "duration", b)[::-1].T)
        transition = self.of(self.weight, "transition", b)
        opening = self.of(self.weight, "end" if rev else "start", b)
        dtop, logd = _normal(duration, 1)
        transition = np.ascontiguousarray(transition.T) if rev else transition
        wtop, logw = _normal(transition, 0)
        D, W = np.exp(logd), np.exp(logw)
        if self.payload is None:
            empty = np.zeros((duration.shape[0], 0))
            return (D, logd, dtop, W, logw, wtop, opening), (
                empty,
                empty,
                empty,
                empty[:, 0] if empty.size else np.zeros(0),
            )
        dp = np.ascontiguousarray(self.of(self.payload, "duration", b)[::-1].T)
        wp = self.of(self.payload, "transition", b)
        wp = np.ascontiguousarray(wp.T) if rev else wp
        return (D, logd, dtop, W, logw, wtop, opening), (
            dp,
            D * dp,
            wp,
            self.of(self.payload, "end" if rev else "start", b),
        )


def _normal(scores: Array, axis: int) -> tuple[Array, Array]:
    """The largest along an axis (0 where all are -inf), and the scores less it."""
    top = scores.max(axis)
    top = np.where(np.isfinite(top), top, 0.0)
    return top, scores - np.expand_dims(top, axis)
