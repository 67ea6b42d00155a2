"""A layer that turns features into a semi-Markov CRF: scores, the distribution, its loss and its decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Literal

import torch
from torch import Tensor, nn

from semicrf import _validation
from semicrf._checks import check_shape, check_tensor, check_tiling
from semicrf._nested import at
from semicrf.constraints import Constraints, Evidence, as_segments
from semicrf.distribution import SemiCRFDistribution
from semicrf.durations import check_size, duration_module
from semicrf.errors import InputError, bad_input
from semicrf.potentials import FactoredPotentials, Potentials
from semicrf.segments import Segments

__all__ = ["SemiCRFHead"]

inf = float("inf")
Reduction = Literal["mean", "sum", "none", "token_mean"]
Lengths = Tensor | Sequence[int] | None
_RULES = tuple(field.name for field in fields(Constraints))


class SemiCRFHead(nn.Module):
    """A semi-Markov CRF on an encoder, with ``C = num_labels`` labels and segments of up to ``K = max_duration``.

    Emissions, and with ``boundary_scores`` the scores of a segment's first and last position, are a linear map of the
    features; without ``input_dim`` the features *are* the emissions. The parameters ``transition (C, C)``,
    ``start (C,)`` and ``end (C,)`` start at zero, durations as their module says.

    Scores are computed in the parameters' dtype, in float32 where that is a half precision: half-precision features, as
    autocast gives them, are converted first. ``(...)`` is any batch shape.

    Args:
        num_labels, max_duration: ``C`` and ``K``; ``K = 1`` is the linear-chain CRF.
        input_dim: the size of the features; None where they are emissions.
        duration: ``"free"``, ``"geometric"``, ``"poisson"``, ``"negative_binomial"``, ``"uniform"`` (see
            ``semicrf.durations``), or a module whose ``forward()`` returns ``(K, C)``.
        constraints: rules that hold alike in the loss, marginals, samples and decoding. They are configuration: they
            move with the module and are not in its ``state_dict``.
        boundary_scores: whether the features also score where segments start and end. Needs ``input_dim``.
        validate_args: whether to check values; None means yes, except while compiling or capturing a CUDA graph.

    Raises:
        InputError: a size is not an integer of at least 1, an unknown ``duration``, ``constraints`` of another type, or
            ``boundary_scores`` without ``input_dim``.

    Source: Sarawagi & Cohen 2004.

    >>> head = SemiCRFHead(num_labels=3, max_duration=4, input_dim=8)
    >>> hidden = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    >>> labels, lengths = torch.tensor([[0, 0, 2, 2, 2, 1], [1, 1, 0, 0, -1, -1]]), torch.tensor([6, 4])
    >>> bool(head.loss(hidden, labels, lengths) >= 0)
    True
    >>> head.decode(hidden, lengths)
    Segments(batch_shape=(2,), N=6, device=cpu, score, probability)
    """

    def __init__(
        self, num_labels: int, max_duration: int, input_dim: int | None = None, *, duration: str | nn.Module = "free",
        constraints: Constraints | None = None, boundary_scores: bool = False, validate_args: bool | None = None,
    ):  # fmt: skip
        super().__init__()
        self.num_labels = check_size("num_labels", num_labels)
        self.max_duration = check_size("max_duration", max_duration)
        self.input_dim = None if input_dim is None else check_size("input_dim", input_dim)
        self.boundary_scores = boundary_scores
        self.validate_args = validate_args
        if boundary_scores and input_dim is None:
            fix = "pass input_dim, or leave boundary_scores out."
            raise bad_input("boundary_scores", "True with input_dim None", "an input_dim to score boundaries from", fix)
        self.projection = None
        if input_dim is not None:
            self.projection = nn.Linear(input_dim, num_labels * (3 if boundary_scores else 1))
        self.transition = nn.Parameter(torch.zeros(num_labels, num_labels))
        self.start = nn.Parameter(torch.zeros(num_labels))
        self.end = nn.Parameter(torch.zeros(num_labels))
        self.duration = duration_module(duration, num_labels, max_duration)
        if not isinstance(constraints, Constraints | None):
            raise bad_input("constraints", f"a {type(constraints).__name__}", "semicrf.Constraints, or None")
        for name in _RULES if constraints is not None else ():
            self.register_buffer(f"allowed_{name}", getattr(constraints, name), persistent=False)

    @property
    def constraints(self) -> Constraints | None:
        """The rules, on the module's device."""
        rules = {name: getattr(self, f"allowed_{name}", None) for name in _RULES}
        return Constraints(**rules) if any(rule is not None for rule in rules.values()) else None

    def potentials(self, hidden: Tensor) -> Potentials:
        """The scores, with what the constraints forbid at ``-inf``.

        Args:
            hidden: ``(..., T, input_dim)``, or the emissions ``(..., T, C)`` where ``input_dim`` is None.

        Raises:
            InputError: a shape or dtype that does not fit, here, of the durations or of the constraints.
        """
        features, dtype = self._features(hidden), torch.promote_types(self.transition.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            scores = features if self.projection is None else self.projection(features)
            emission, *boundary = scores.to(dtype).split(self.num_labels, -1)
            duration, shape = self.duration(), (self.max_duration, self.num_labels)
            if tuple(duration.shape) != shape:
                raise bad_input("duration", f"a module that returns shape {tuple(duration.shape)}", f"(K, C) = {shape}")
            transition, duration, start, end = (x.to(dtype) for x in (self.transition, duration, self.start, self.end))
            segment_start, segment_end = boundary or (None, None)
            potentials = FactoredPotentials(
                emission,
                transition,
                duration,
                start=start,
                end=end,
                segment_start=segment_start,
                segment_end=segment_end,
            )
            constraints = self.constraints
            return potentials if constraints is None else constraints.apply(potentials)

    def forward(self, hidden: Tensor, lengths: Lengths = None) -> SemiCRFDistribution:
        """The distribution over segmentations.

        Args:
            hidden: ``(..., T, input_dim)``, or the emissions ``(..., T, C)`` where ``input_dim`` is None.
            lengths: integer ``(...)`` in ``1..T``; ``T`` by default.

        Raises:
            InputError: a shape or dtype that does not fit; when validating, a value that does not.

        >>> head = SemiCRFHead(num_labels=2, max_duration=3)
        >>> head(torch.zeros(1, 3, 2)).count  # segmentations of 3 positions into labelled segments
        tensor([18.], dtype=torch.float64)
        """
        return SemiCRFDistribution(self.potentials(hidden), lengths, validate_args=self.validate_args)

    def loss(
        self, hidden: Tensor, target: Segments | Sequence | Tensor | Evidence, lengths: Lengths = None,
        reduction: Reduction = "mean", split: Literal["K"] | None = None,
    ) -> Tensor:  # fmt: skip
        """``-log_prob`` of the target, never negative but for rounding.

        Args:
            hidden, lengths: as ``forward``.
            target: ``Segments`` of batch shape ``(...)`` (or nested lists of ``(start, end, label)``), taken exactly;
                integer labels ``(..., T)``, whose maximal runs are the segments, not read past a length; or
                ``Evidence``, for which the segmentations that agree with it are summed.
            reduction: ``"mean"`` over sequences, ``"sum"``, ``"none"`` for ``(...)``, or ``"token_mean"``: the sum
                over the number of positions.
            split: ``"K"`` cuts a segment or run longer than ``K`` into pieces of ``K``, the last one shorter.

        Raises:
            InputError: a shape or type that does not fit, an unknown option; when validating, a target that does not
                tile its sequence, has a segment longer than ``K`` (unless split) or is forbidden.

        >>> head = SemiCRFHead(num_labels=2, max_duration=3)
        >>> hidden, labels = torch.zeros(1, 5, 2), torch.tensor([[1, 1, 1, 1, 1]])
        >>> head.loss(hidden, labels)
        Traceback (most recent call last):
        semicrf.errors.InputError: segments, sequence 0, segment 0: got (0, 5, 1); expected a duration of at most 3, \
not 5. Likely fix: raise max_duration to 5 or more, or cut the segment (split="K" in SemiCRFHead.loss).
        >>> round(head.loss(hidden, labels, split="K").item(), 3)  # log of the number of segmentations
        5.024
        """
        if reduction not in ("mean", "sum", "none", "token_mean"):
            raise bad_input("reduction", repr(reduction), "'mean', 'sum', 'none' or 'token_mean'")
        p = self(hidden, lengths)
        validate = _validation.wanted(self.validate_args, p.potentials)
        value = self._target(target, p, split, validate)
        with torch.autocast(hidden.device.type, enabled=False):
            loss = -p.log_prob(value)
        if validate and bool((impossible := loss == inf).any()):
            raise _forbidden(p.potentials, value, int(impossible.flatten().nonzero()[0]))
        if reduction == "none":
            return loss
        if reduction == "mean":
            return loss.mean()
        return loss.sum() if reduction == "sum" else loss.sum() / p.lengths.sum()

    @torch.no_grad()
    def decode(self, hidden: Tensor, lengths: Lengths = None) -> Segments:
        """The best segmentation of each sequence, its score, and the probability of each of its segments; no gradients.

        Where no segmentation is possible, ``count`` is 0 and ``score`` is ``-inf``.

        Args:
            hidden, lengths: as ``forward``.

        Raises:
            InputError: as ``forward``.

        >>> head = SemiCRFHead(num_labels=2, max_duration=3)
        >>> best = head.decode(torch.tensor([[[0.0, 9.0], [0.0, 9.0], [9.0, 0.0]]]))
        >>> best.to_labels(3).tolist(), best.score.item()
        ([[1, 1, 0]], 27.0)
        """
        p = self(hidden, lengths)
        with torch.autocast(hidden.device.type, enabled=False):
            best = p.argmax
            return replace(best, probability=p.marginals.segment(best))

    def extra_repr(self) -> str:
        """Sizes and options."""
        text = f"num_labels={self.num_labels}, max_duration={self.max_duration}, input_dim={self.input_dim}"
        text += ", boundary_scores=True" if self.boundary_scores else ""
        return text if self.constraints is None else f"{text}, constraints={self.constraints}"

    def _features(self, hidden: Tensor) -> Tensor:
        """The features in the head's dtype."""
        check_tensor("hidden", hidden, "floating")
        size, name = (self.num_labels, "num_labels") if self.input_dim is None else (self.input_dim, "input_dim")
        if hidden.dim() < 2 or hidden.shape[-1] != size:
            fix = "pass input_dim, if these are features to compute emissions from." if self.input_dim is None else ""
            raise bad_input("hidden", f"shape {tuple(hidden.shape)}", f"(..., T, {name} = {size})", fix)
        dtype = self.transition.dtype
        if hidden.dtype in (torch.float16, torch.bfloat16):
            return hidden.to(dtype)
        if hidden.dtype != dtype:
            raise bad_input("hidden", hidden.dtype, f"{dtype}, as the head's parameters", f"head.to({hidden.dtype}).")
        return hidden

    def _target(self, target: object, p: SemiCRFDistribution, split: str | None, check: bool) -> Segments | Evidence:
        """The target as something that ``log_prob`` takes exactly."""
        if split not in (None, "K"):
            raise bad_input("split", repr(split), "None or 'K'")
        if isinstance(target, Evidence):
            if split is not None:
                raise bad_input("split", "'K' with Evidence", "None", "leave split out: Evidence has no runs to cut.")
            return target
        if isinstance(target, Tensor):
            check_tensor("target", target, "integer", p.lengths.device)
            check_shape("target", target, (*p.batch_shape, p.T), "(..., T) as hidden")
            segments = Segments.from_labels(target, p.lengths)
        elif isinstance(target, Segments | list | tuple):
            segments = as_segments(target, p.lengths.device)
            check_shape("target.count", segments.count, p.batch_shape, "one segmentation for each sequence")
        else:
            raise bad_input("target", f"a {type(target).__name__}", "Segments, integer labels (..., T) or Evidence")
        if split is None:
            return segments
        if check:
            check_tiling(segments, p.lengths, p.T, p.C)
        return _cut(segments, p)


def _cut(segments: Segments, p: SemiCRFDistribution) -> Segments:
    """Segments longer than K in pieces of K, the last one shorter."""
    starts = segments.to_boundaries(p.T)
    t = torch.arange(p.T, device=starts.device)
    since = t - torch.where(starts, t, 0).cummax(-1).values
    return Segments.from_boundaries(starts | (since % p.K == 0), segments.to_labels(p.T), p.lengths)


def _forbidden(model: Potentials, value: Segments | Evidence, i: int) -> InputError:
    """The error for a target of probability 0, the ``i``-th of the flattened batch."""
    name, expected = at("target", i, model.batch_shape), "one that the constraints and the scores allow"
    fix = "correct the target, or what forbids it: the head's constraints, or -inf in its scores."
    if isinstance(value, Evidence):
        return bad_input(name, "evidence that no segmentation of non-zero weight agrees with", expected, fix)
    count = int(value.count.flatten()[i])
    columns = (x.reshape(-1, x.shape[-1])[i, :count].tolist() for x in (value.start, value.end, value.label))
    parts = {part: t[i if len(t) > 1 else 0] for part, t in model.parts.items()}
    previous: list[int] = []
    for j, (start, end, label) in enumerate(zip(*columns, strict=True)):
        reads = [("emission", (t, label)) for t in range(start, end)]
        reads += [("duration", (end - start - 1, label)), ("segment_start", (start, label))]
        reads += [("transition", (*previous, label)) if previous else ("start", (label,))]
        reads += [("end", (label,))] if j == count - 1 else []
        for part, index in reads:
            if part in parts and parts[part][index] == -inf:
                got = f"{(start, end, label)}, where {part}[{', '.join(map(str, index))}] is -inf"
                return bad_input(f"{name}, segment {j}", got, expected, fix)
        previous = [label]
    return bad_input(name, f"count {count} and probability 0", expected, fix)
