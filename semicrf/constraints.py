"""What is known of one input (`Evidence`) and what a task requires (`Constraints`) of a segmentation.

Both act by forbidding: they put ``-inf`` where something is not allowed and mark where a segment must start. What is
left is an ordinary model, so loss, marginals, sampling and decoding obey them alike.
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

    def apply(self, potentials: Potentials, lengths: Tensor | None = None, validate: bool = True) -> Potentials:
        """The model with everything that contradicts the evidence forbidden.

        Args:
            potentials: the model.
            lengths: int64 (B,) of the flattened batch, T by default; `segments` have to end there at the latest.
            validate: check values, which reads them. Unchecked, what is out of range contradicts every segmentation.
        """
        model, batch, C = potentials, potentials.batch_shape, potentials.C
        ends = torch.full((1,), model.T, device=model.device) if lengths is None else lengths
        inside = torch.arange(model.T, device=model.device) < ends[:, None]  # what lies past a length is not read
        if self.allowed is not None:
            model = _allow(model, "emission", _shaped("allowed", self.allowed, batch, (model.T, C)))
        if self.labels is not None:
            labels = _shaped("labels", self.labels, batch, (model.T,), torch.int64)
            _within("labels", labels, -1, C - 1, validate, inside)
            labels = torch.where(inside, labels, -1)
            model = _allow(model, "emission", _only(labels, C))
        if self.boundary is not None:
            boundary = _shaped("boundary", self.boundary, batch, (model.T,), torch.int64)
            _within("boundary", boundary, -1, 1, validate, inside)
            boundary = torch.where(inside, boundary, -1)
            model = _require(_allow(model, "segment_start", (boundary != 0)[..., None]), boundary == 1)
        if self.segments is not None:
            model = self._with_segments(model, lengths, validate)
        return model

    def _with_segments(self, model: Potentials, lengths: Tensor | None, validate: bool) -> Potentials:
        segments, B, T, C = as_segments(self.segments, model.device), model.B, model.T, model.C
        if segments.batch_shape != model.batch_shape:
            raise bad_input(
                "evidence.segments", f"batch shape {tuple(segments.batch_shape)}", f"{tuple(model.batch_shape)}",
                "one list of segments for every sequence.",
            )  # fmt: skip
        N, mask = segments.start.shape[-1], segments.mask.reshape(B, -1 if B else 0)
        start, end, label = (x.reshape(B, N) for x in (segments.start, segments.end, segments.label))
        last = torch.full((B,), T, device=model.device) if lengths is None else lengths
        for what, value, given, low, high in (
            ("label", label, 0, 0, C - 1),
            ("start", start, 0, 0, T - 1),
            ("end - start", end - start, 1, 1, T),
            ("end - length", end - last[:, None], 0, -T, 0),
        ):
            _within(f"evidence.segments, {what}", torch.where(mask, value, given), low, high, validate)
        fits = (start >= 0) & (start < end) & (end <= last[:, None]) & (label >= 0) & (label < C)
        start, end, label = (torch.where(mask & fits, x, low) for x, low in ((start, 0), (end, 0), (label, 0)))

        def between(first: Tensor, stop: Tensor, column: Tensor, columns: int) -> Tensor:
            """(B, T, columns): how many segments hold each position, from `first` up to `stop`, by column."""
            step = torch.zeros(B, (T + 1) * columns, dtype=torch.int64, device=model.device)
            for t, sign in ((first, 1), (stop, -1)):
                step.scatter_add_(1, t * columns + column, sign * (mask & fits).long())
            return step.view(B, T + 1, columns).cumsum(1)[:, :T]

        labelled = between(start, end, label, C)
        inner = between(torch.minimum(start + 1, end), end, torch.zeros_like(label), 1)
        edges = torch.zeros(B, T + 1, dtype=torch.bool, device=model.device)
        for t in (start, end):
            edges.scatter_(1, torch.where(mask & fits, t, T), True)
        possible = (fits | ~mask).all(-1)[:, None, None]
        model = _allow(model, "emission", possible & (labelled == labelled.sum(-1, keepdim=True)))
        return _require(_allow(model, "segment_start", inner == 0), edges[:, :T])

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
            labels = self.labels
            if isinstance(labels, Tensor) and labels.shape == (C,):
                labels = labels.expand(T, C)
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


def _within(name: str, value: Tensor, low: int, high: int, validate: bool, read: Tensor | None = None) -> None:
    """Raise where a value is outside low..high; of those that are read, where `read` says which."""
    if not validate or torch.compiler.is_compiling():
        return
    if read is not None:
        value, read = torch.broadcast_tensors(value, read)
        value = value[read]
    if not value.numel():
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
