"""What is known or required of a segmentation: observations about one input (`Evidence`), rules of a task
(`Constraints`).

Both act by forbidding: they put ``-inf`` where something is not allowed and mark where a segment must start. What is
left is an
ordinary model, so loss, marginals, sampling and decoding obey them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semicrf.errors import bad_input
from semicrf.potentials import Potentials
from semicrf.segments import Segments

inf = float("inf")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Partial knowledge of a segmentation.

    Args:
        labels: ``(..., T)`` int64, -1 where unobserved. A change of label implies a boundary, equal labels imply none.
        allowed: ``(..., T, C)`` bool, the labels that a position may have.
        boundary: ``(..., T)`` int in {-1 unknown, 0 no segment starts here, 1 one starts here}.
        segments: `Segments` or nested lists of ``(start, end, label)`` that must all occur; they need not tile.

    Raises:
        InputError: nothing is given; when applied, a shape or value that does not fit the model.

    >>> Evidence(labels=torch.tensor([[0, -1, 1]]))
    Evidence(labels)
    """

    labels: Tensor | None = None
    allowed: Tensor | None = None
    boundary: Tensor | None = None
    segments: Segments | Sequence | None = None

    def __post_init__(self) -> None:
        if not self._given():
            raise bad_input("evidence", "nothing", "labels, allowed, boundary or segments")

    def apply(self, potentials: Potentials) -> Potentials:
        """The model with everything that contradicts the evidence forbidden."""
        model, batch, C = potentials, potentials.batch_shape, potentials.C
        if self.allowed is not None:
            model = _allow(model, "emission", _shaped("allowed", self.allowed, batch, (model.T, C)))
        if self.labels is not None:
            labels = _shaped("labels", self.labels, batch, (model.T,), torch.int64)
            _within("labels", labels, -1, C - 1)
            model = _allow(model, "emission", _only(labels, C))
        if self.boundary is not None:
            boundary = _shaped("boundary", self.boundary, batch, (model.T,), torch.int64)
            _within("boundary", boundary, -1, 1)
            model = _require(_allow(model, "segment_start", (boundary != 0)[..., None]), boundary == 1)
        if self.segments is not None:
            model = self._with_segments(model)
        return model

    def _with_segments(self, model: Potentials) -> Potentials:
        segments, T = as_segments(self.segments, model.device), model.T
        if segments.batch_shape != model.batch_shape:
            raise bad_input(
                "evidence.segments", f"batch shape {tuple(segments.batch_shape)}", f"{tuple(model.batch_shape)}",
                "one list of segments for every sequence.",
            )  # fmt: skip
        flat = segments[None] if not segments.batch_shape else segments
        flat = Segments(
            start=flat.start.flatten(0, -2),
            end=flat.end.flatten(0, -2),
            label=flat.label.flatten(0, -2),
            count=flat.count.flatten(),
        )
        _within("evidence.segments label", torch.where(flat.mask, flat.label, 0), 0, model.C - 1)
        _within("evidence.segments end", torch.where(flat.mask, flat.end, 1), 1, T)
        labels, starts = flat.to_labels(T), flat.to_boundaries(T)
        ends = torch.zeros(labels.shape[0], T + 1, dtype=torch.bool, device=labels.device)
        ends = ends.scatter(1, torch.where(flat.mask, flat.end, T), True)[:, :T]
        model = _allow(model, "emission", _only(labels, model.C))
        model = _allow(model, "segment_start", (starts | (labels < 0))[..., None])
        return _require(model, starts | ends)

    def _given(self) -> list[str]:
        return [n for n in ("labels", "allowed", "boundary", "segments") if getattr(self, n) is not None]

    def __repr__(self) -> str:
        return f"Evidence({', '.join(self._given())})"


@dataclass(frozen=True, eq=False)
class Constraints:
    """Rules that every segmentation obeys. Bool masks, true where allowed; shared, or one per sequence in front.

    Args:
        transition: ``(C, C)`` or ``(..., C, C)``, ``[previous, next]``.
        duration: ``(K, C)`` or ``(..., K, C)``: row ``k - 1`` is duration k.
        labels: ``(C,)``, ``(T, C)`` or ``(..., T, C)``.
        boundary: ``(T,)`` or ``(..., T)``: where a segment may start.
        start, end: ``(C,)`` or ``(..., C)``: labels that the first and the last segment may have.

    Raises:
        InputError: when applied, a shape or dtype that does not fit the model.

    >>> from semicrf.potentials import FactoredPotentials
    >>> rules = Constraints(transition=~torch.eye(2, dtype=torch.bool))     # neighbours differ
    >>> rules.apply(FactoredPotentials(torch.zeros(1, 4, 2))).parts["transition"].tolist()
    [[[-inf, 0.0], [0.0, -inf]]]
    """

    transition: Tensor | None = None
    duration: Tensor | None = None
    labels: Tensor | None = None
    boundary: Tensor | None = None
    start: Tensor | None = None
    end: Tensor | None = None

    def apply(self, potentials: Potentials) -> Potentials:
        """The model with everything that breaks a rule forbidden."""
        model, batch = potentials, potentials.batch_shape
        T, K, C = model.T, model.K, model.C
        for name, own in (("transition", (C, C)), ("duration", (K, C)), ("start", (C,)), ("end", (C,))):
            mask = getattr(self, name)
            if mask is not None:
                model = _allow(model, name, _shaped(name, mask, batch, own))
        if self.labels is not None:
            labels = self.labels.expand(T, C) if self.labels.shape == (C,) else self.labels
            model = _allow(model, "emission", _shaped("labels", labels, batch, (T, C)))
        if self.boundary is not None:
            model = _allow(model, "segment_start", _shaped("boundary", self.boundary, batch, (T,))[..., None])
        return model

    def __repr__(self) -> str:
        given = [n for n in self.__dataclass_fields__ if getattr(self, n) is not None]
        return f"Constraints({', '.join(given)})"


def as_segments(value: Segments | Sequence | None, device: torch.device) -> Segments:
    """Segments as they are, nested lists converted."""
    if isinstance(value, Segments):
        return value.to(device)
    if not isinstance(value, list | tuple):
        raise bad_input("segments", f"a {type(value).__name__}", "Segments or nested lists of (start, end, label)")
    return Segments.from_list(value, device)


def _shaped(
    name: str, value: Tensor, batch: torch.Size, own: tuple[int, ...], dtype: torch.dtype = torch.bool
) -> Tensor:
    """The mask with its batch axes flattened into one, or 1 where it is shared."""
    if (
        not isinstance(value, Tensor)
        or (value.dtype == torch.bool) != (dtype == torch.bool)
        or value.is_floating_point()
    ):
        kind = f"dtype {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise bad_input(name, kind, "a bool tensor" if dtype == torch.bool else "an integer tensor")
    if tuple(value.shape) == own:
        return value[None].to(dtype)
    if value.shape != batch + own:
        raise bad_input(name, f"shape {tuple(value.shape)}", f"{own} or {(*batch, *own)}")
    return value.reshape(-1, *own).to(dtype)


def _within(name: str, value: Tensor, low: int, high: int) -> None:
    if torch.compiler.is_compiling() or not value.numel():
        return
    least, most = (int(v) for v in value.aminmax())
    if least < low or most > high:
        raise bad_input(name, f"values {least}..{most}", f"{low}..{high}")


def _only(labels: Tensor, C: int) -> Tensor:
    """(..., T, C): just the observed label, every label where there is none."""
    return (labels[..., None] == torch.arange(C, device=labels.device)) | (labels[..., None] < 0)


def _allow(model: Potentials, name: str, allowed: Tensor) -> Potentials:
    part = model.parts[name] if name in model.parts else model.full(name, batch=1)
    masked = torch.where(allowed.to(model.device), part, -inf)
    return model.replace({**model.parts, name: masked})


def _require(model: Potentials, starts: Tensor) -> Potentials:
    known = model.parts.get("required")
    return model.replace({**model.parts, "required": starts if known is None else known | starts})
