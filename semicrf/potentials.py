"""Potentials: what a model scores. Three classes, one normal form: named parts that add up to the score of an arc."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from semicrf.engine.layout import MASKS, PARTS
from semicrf.errors import bad_input

inf = float("inf")


class Potentials:
    """The normal form: scores by part, for a flattened batch.

    Use one of the subclasses; this class is what conditioning a model gives.

    Attributes:
        parts: name -> tensor with the axes of `semicrf.engine.layout.PARTS`; the first is the flattened batch, or 1
            where shared.
        batch_shape: the leading shape that the first axis stands for.
        T, K, C: positions, longest segment, labels.
    """

    parts: dict[str, Tensor]
    batch_shape: torch.Size
    T: int
    K: int
    C: int

    def __init__(self, parts: Mapping[str, Tensor], batch_shape: torch.Size, T: int, K: int, C: int):
        self.parts, self.batch_shape = dict(parts), torch.Size(batch_shape)
        self.T, self.K, self.C = T, K, C

    @property
    def B(self) -> int:
        """The size of the flattened batch."""
        return math.prod(self.batch_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every score."""
        return next(t.dtype for n, t in self.parts.items() if n not in MASKS)

    @property
    def device(self) -> torch.device:
        """The device of every tensor."""
        return next(t.device for n, t in self.parts.items() if n not in MASKS)

    def map(self, f: Callable[[Tensor], Tensor]) -> Potentials:
        """The same with `f` applied to every score; masks stay."""
        return self.replace({n: t if n in MASKS else f(t) for n, t in self.parts.items()})

    def scaled(self, factor: Tensor) -> Potentials:
        """The same with every score times `factor`, (B,) or (1,); -inf stays, and gives it no gradient."""

        def scale(x: Tensor) -> Tensor:
            finite = x.isfinite()
            product = torch.where(finite, x, 0.0) * factor.view(-1, *[1] * (x.dim() - 1))
            return torch.where(finite, product, x)

        return self.map(scale)

    def to(self, *args: Any, **kwargs: Any) -> Potentials:
        """On another device or in another dtype, as `Tensor.to`; masks stay bool."""
        moved = self.map(lambda x: x.to(*args, **kwargs))
        return moved.replace({n: t.to(moved.device) if n in MASKS else t for n, t in moved.parts.items()})

    def ignoring(self, model: Potentials) -> Potentials:
        """The same with 0 wherever the same part of `model` is -inf."""
        both = self.parts.keys() & model.parts.keys() - MASKS
        holes = {n: model.parts[n] == -inf for n in both}
        return self.replace({n: torch.where(holes[n], 0.0, t) if n in both else t for n, t in self.parts.items()})

    def __getitem__(self, index: Any) -> Potentials:
        """Index the batch axes; the others stay whole, also behind an Ellipsis."""
        index, n = index if isinstance(index, tuple) else (index,), len(self.batch_shape)
        return self.on_batch(lambda x: x[(*index, *[slice(None)] * (x.dim() - n))])

    def replace(self, parts: Mapping[str, Tensor]) -> Potentials:
        """The same shape with other parts."""
        return Potentials(parts, self.batch_shape, self.T, self.K, self.C)

    def full(self, name: str, batch: int | None = None) -> Tensor:
        """One part in full, ``(B, ...)``: expanded where the batch shares it, zeros where it is absent."""
        sizes = {"B": self.B if batch is None else batch, "T": self.T, "K": self.K, "C": self.C}
        shape = [sizes[a] for a in PARTS[name]]
        if name in self.parts:
            return self.parts[name].expand(shape)
        zero = torch.zeros((1,) * len(shape), dtype=torch.bool if name in MASKS else self.dtype, device=self.device)
        return zero.expand(shape)

    def on_batch(self, f: Callable[[Tensor], Tensor]) -> Potentials:
        """The same after `f`, which rearranges leading batch axes; parts that the batch shares stay."""
        batch = f(torch.zeros(self.batch_shape, device=self.device)).shape
        parts = {}
        for name, t in self.parts.items():
            own = t.shape[1:]
            parts[name] = f(t.reshape(*self.batch_shape, *own)).reshape(-1, *own) if t.shape[0] == self.B else t
        return Potentials(parts, batch, self.T, self.K, self.C)

    def __repr__(self) -> str:
        shape = f"batch_shape={tuple(self.batch_shape)}, T={self.T}, K={self.K}, C={self.C}"
        return f"{type(self).__name__}({shape}, parts={list(self.parts)})"


class FactoredPotentials(Potentials):
    r"""Scores that factor: content by position, duration, transition, boundaries. The streaming case, O(T (K C + C^2)).

    Args:
        emission: ``(..., T, C)``, summed over the positions of a segment.
        transition: ``(C, C)`` or ``(..., C, C)``, indexed ``[previous, next]``.
        duration: ``(K, C)`` or ``(..., K, C)``; row ``k - 1`` scores a segment of k positions.
        duration_transition: ``(K, C, C)`` or ``(..., K, C, C)``, by the duration of the next segment; not read for
            the first.
        start, end: ``(C,)`` or ``(..., C)``: label of the first and of the last segment.
        segment_start, segment_end: ``(..., T, C)``: read at a segment's first and last position.
        max_duration: K, where neither duration nor duration_transition says it; T by default.

    All but the first default to zeros; ``-inf`` forbids. ``(...)`` is any batch shape, that of `emission`.

    Raises:
        InputError: a shape, dtype or device that does not fit.

    Source: Sarawagi & Cohen 2004, section 2.

    >>> FactoredPotentials(torch.zeros(2, 5, 3), duration=torch.zeros(4, 3))
    FactoredPotentials(batch_shape=(2,), T=5, K=4, C=3, parts=['emission', 'duration'])
    """

    def __init__(
        self, emission: Tensor, transition: Tensor | None = None, duration: Tensor | None = None, *,
        duration_transition: Tensor | None = None, start: Tensor | None = None, end: Tensor | None = None,
        segment_start: Tensor | None = None, segment_end: Tensor | None = None, max_duration: int | None = None,
    ):  # fmt: skip
        batch, (T, C) = _leading("emission", emission, 2)
        K = max_duration
        for name, part, axis in (("duration", duration, -2), ("duration_transition", duration_transition, -3)):
            if part is None:
                continue
            if name == "duration" and max_duration is not None:
                raise bad_input("max_duration", max_duration, "None, as duration has K rows", "leave max_duration out.")
            _tensor(name, part)
            if part.dim() < -axis:
                raise bad_input(name, f"shape {tuple(part.shape)}", f"{-axis} axes at least")
            K = part.shape[axis] if K is None else K
        K = T if K is None else K
        if isinstance(K, bool) or not isinstance(K, int) or K < 1:
            raise bad_input("max_duration", K, "an integer of at least 1")
        given = {
            "emission": emission, "transition": transition, "duration": duration,
            "duration_transition": duration_transition, "start": start, "end": end,
            "segment_start": segment_start, "segment_end": segment_end,
        }  # fmt: skip
        super().__init__(_normal(given, emission, batch, T, K, C), batch, T, K, C)

    @classmethod
    def from_cumulative_scores(
        cls, cum_scores: Tensor, transition: Tensor, duration_bias: Tensor, first: str = "sum"
    ) -> FactoredPotentials:
        """From prefix sums of emissions and a phantom, free label before the first segment.

        Args:
            cum_scores: ``(..., T + 1, C)`` prefix sums; row 0 is zero.
            transition: ``(C, C)`` or ``(..., C, C)``, ``[previous, next]``, also applied from the phantom label.
            duration_bias: ``(K, C)`` or ``(..., K, C)``; row ``d - 1`` is duration d.
            first: the phantom label is summed out (``"sum"``, exact for log Z and marginals) or maximised (``"max"``,
                for decoding).

        >>> p = FactoredPotentials.from_cumulative_scores(torch.zeros(1, 6, 2), torch.zeros(2, 2), torch.zeros(3, 2))
        >>> p.T, p.K, [round(x, 3) for x in p.parts["start"].flatten().tolist()]
        (5, 3, [0.693, 0.693])
        """
        _, (rows, C) = _leading("cum_scores", cum_scores, 2)
        if rows < 2:
            raise bad_input("cum_scores", f"shape {tuple(cum_scores.shape)}", "(..., T + 1, C), T >= 1")
        _tensor("transition", transition)
        if transition.shape[-2:] != (C, C):
            raise bad_input("transition", f"shape {tuple(transition.shape)}", f"({C}, {C}) or (..., {C}, {C})")
        return cls(cum_scores.diff(dim=-2), transition, duration_bias, start=_collapse(transition, -2, first))


class SegmentPotentials(Potentials):
    """Scores given segment by segment: any content model.

    Args:
        segment: ``(..., T, K, C)``: the segment that starts at t, of duration row ``k - 1``, with label c.
            Entries that pass the length are never read.
        transition: ``(C, C)`` or ``(..., C, C)``.
        start, end: ``(C,)`` or ``(..., C)``.

    Raises:
        InputError: a shape, dtype or device that does not fit.

    >>> SegmentPotentials(torch.zeros(5, 2, 3)).batch_shape
    torch.Size([])
    """

    def __init__(
        self,
        segment: Tensor,
        transition: Tensor | None = None,
        *,
        start: Tensor | None = None,
        end: Tensor | None = None,
    ):
        batch, (T, K, C) = _leading("segment", segment, 3)
        given = {"segment": segment, "transition": transition, "start": start, "end": end}
        super().__init__(_normal(given, segment, batch, T, K, C), batch, T, K, C)


class EdgePotentials(Potentials):
    """Scores given arc by arc: a segment together with the label before it.

    Args:
        edge: ``(..., T, K, C, C)``, indexed ``[s, k - 1, previous, next]``; at ``s = 0`` only ``previous = 0`` is read.
        end: ``(C,)`` or ``(..., C)``.

    Raises:
        InputError: a shape, dtype or device that does not fit.

    >>> EdgePotentials(torch.zeros(1, 5, 2, 3, 3)).K
    2
    """

    def __init__(self, edge: Tensor, *, end: Tensor | None = None):
        batch, (T, K, C, previous) = _leading("edge", edge, 4)
        if previous != C:
            raise bad_input("edge", f"shape {tuple(edge.shape)}", "(..., T, K, C, C) with equal last axes")
        super().__init__(_normal({"edge": edge, "end": end}, edge, batch, T, K, C), batch, T, K, C)

    @classmethod
    def from_torch_struct(cls, log_potentials: Tensor, first: str = "sum") -> EdgePotentials:
        """From torch-struct's ``(..., N, K + 1, C, C)``, indexed ``[n, duration, next, previous]``, row 0 unused.

        The free label before the first segment is collapsed into ``previous = 0``, by its sum or its max.

        >>> EdgePotentials.from_torch_struct(torch.zeros(1, 5, 4, 2, 2)).K
        3
        """
        _, (_, rows, C, previous) = _leading("log_potentials", log_potentials, 4)
        if rows < 2 or previous != C:
            expected = "(..., T, K + 1, C, C) with K >= 1 and equal last axes"
            raise bad_input("log_potentials", f"shape {tuple(log_potentials.shape)}", expected, "row 0 is not used.")
        edge = log_potentials[..., 1:, :, :].transpose(-1, -2)
        opening = _collapse(edge[..., :1, :, :, :], -2, first).unsqueeze(-2)
        rest = torch.full_like(edge[..., :1, :, 1:, :], -inf)
        return cls(torch.cat([torch.cat([opening, rest], -2), edge[..., 1:, :, :, :]], -4))


def _collapse(scores: Tensor, dim: int, first: str) -> Tensor:
    if first not in ("sum", "max"):
        raise bad_input("first", repr(first), "'sum' or 'max'")
    if first == "max":  # one label, as the tie rule has it; amax would share the gradient among equal ones
        return scores.gather(dim, scores.argmax(dim, keepdim=True)).squeeze(dim)
    none = (scores == -inf).all(dim, keepdim=True)  # there logsumexp has no gradient but NaN
    return torch.where(none.squeeze(dim), -inf, torch.where(none, 0.0, scores).logsumexp(dim))


def _tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"dtype {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise bad_input(name, got, "a floating tensor", f"convert {name} with torch.as_tensor(...).float().")


def _leading(name: str, value: Tensor, axes: int) -> tuple[torch.Size, Iterator[int]]:
    """The batch shape of the main tensor and its own axes."""
    _tensor(name, value)
    if value.dim() < axes or 0 in value.shape[-axes:]:
        own = {2: "T, C", 3: "T, K, C", 4: "T, K, C, C"}[axes]
        raise bad_input(name, f"shape {tuple(value.shape)}", f"(..., {own}), no axis empty")
    return value.shape[:-axes], iter(value.shape[-axes:])


def _normal(
    given: Mapping[str, Tensor | None], main: Tensor, batch: torch.Size, T: int, K: int, C: int
) -> dict[str, Tensor]:  # fmt: skip
    """Every part that is given, checked, with its batch axes flattened into one (or 1 where shared)."""
    sizes = {"T": T, "K": K, "C": C}
    parts = {}
    for name, value in given.items():
        if value is None:
            continue
        _tensor(name, value)
        own = tuple(sizes[a] for a in PARTS[name][1:])
        if value.dtype != main.dtype or value.device != main.device:
            raise bad_input(
                name, f"{value.dtype} on {value.device}", f"{main.dtype} on {main.device}, as the main tensor",
                f"{name}.to(the main tensor).",
            )  # fmt: skip
        if value.dim() == len(own) and tuple(value.shape) == own:  # sizes of other axes are not set against each other
            parts[name] = value.unsqueeze(0)
        elif value.shape == batch + own:
            parts[name] = value.reshape(-1, *own)
        else:
            axes = ", ".join(f"{a}={sizes[a]}" for a in PARTS[name][1:])
            want = f"{own}" + (f" or {(*batch, *own)}" if batch else "")
            raise bad_input(
                name, f"shape {tuple(value.shape)}", f"{want}, that is ({axes})", "check the order of axes and K."
            )
    return parts
