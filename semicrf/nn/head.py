"""The layer itself: scores from features, the distribution, its loss and its decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from semicrf._checks import check_tensor
from semicrf.constraints import Constraints
from semicrf.distribution import SemiCRFDistribution
from semicrf.durations import check_size, duration_module
from semicrf.errors import bad_input
from semicrf.nn.losses import Reduction, Target, negative_log_likelihood
from semicrf.potentials import FactoredPotentials, Potentials
from semicrf.segments import Segments

__all__ = ["SemiCRFHead"]

Lengths = Tensor | Sequence[int] | None
Method = Literal["best", "segment", "position", "boundary"]
_RULES = tuple(field.name for field in fields(Constraints))


class SemiCRFHead(nn.Module):
    """A semi-Markov CRF on an encoder, with ``C = num_labels`` labels and segments of up to ``K = max_duration``.

    Emissions, and with ``boundary_scores`` the scores of a segment's first and last position, are a linear map of the
    features; without ``input_dim`` the features *are* the emissions. The parameters ``transition (C, C)``,
    ``start (C,)`` and ``end (C,)`` start at zero, durations as their module says.

    A distribution reads the parameters after ``forward``, so under FSDP2 the head is sharded with
    ``fully_shard(head, reshard_after_forward=False)``.

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
        duration_buckets: the longest duration of each bucket, ascending, the last one ``max_duration``: transitions
            then also depend on the bucket of the segment they lead into, by ``duration_transition (n, C, C)``.
        label_names: ``C`` of them, for ``named``; configuration, not in the ``state_dict``.
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
        constraints: Constraints | None = None, boundary_scores: bool = False,
        duration_buckets: Sequence[int] | None = None, label_names: Sequence[str] | None = None,
        validate_args: bool | None = None,
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
        self.duration_buckets = _buckets(duration_buckets, max_duration)
        if self.duration_buckets is not None:
            self.duration_transition = nn.Parameter(torch.zeros(len(self.duration_buckets), num_labels, num_labels))
        self.label_names = None if label_names is None else _names(label_names, num_labels)
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
                emission, transition, duration, duration_transition=self._by_duration(dtype), start=start, end=end,
                segment_start=segment_start, segment_end=segment_end,
            )  # fmt: skip
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
        self, hidden: Tensor, target: Target, lengths: Lengths = None, reduction: Reduction = "mean",
        split: Literal["K"] | None = None, ignore_index: int | None = None,
    ) -> Tensor:  # fmt: skip
        """``-log_prob`` of the target, never negative but for rounding.

        For other losses, of one distribution for all of them, see ``semicrf.nn.losses``.

        Args:
            hidden, lengths: as ``forward``.
            target: ``Segments`` of batch shape ``(...)`` (or nested lists of ``(start, end, label)``), taken exactly;
                integer labels ``(..., T)``, whose maximal runs are the segments, not read past a length; or
                ``Evidence``, for which the segmentations that agree with it are summed.
            reduction: ``"mean"`` over sequences, ``"sum"``, ``"none"`` for ``(...)``, or ``"token_mean"``: the sum
                over the number of positions.
            split: ``"K"`` cuts a segment or run longer than ``K`` into pieces of ``K``, the last one shorter.
            ignore_index: the label of positions that were not observed, which are summed over: no label 0, no loss of
                a position, but a missing observation. A segment may start beside one.

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
        p = self(hidden, lengths)
        return negative_log_likelihood(p, target, reduction, split, ignore_index, self.validate_args)

    @torch.no_grad()
    def decode(
        self, hidden: Tensor, lengths: Lengths = None, method: Method = "best", *, k: int | None = None,
        probability: bool = True,
    ) -> Segments:  # fmt: skip
        """The best segmentation of each sequence, its score, and the probability of each of its segments; no gradients.

        Where no segmentation is possible, ``count`` is 0 and ``score`` is ``-inf``.

        Args:
            hidden, lengths: as ``forward``.
            method: ``"best"``, the most probable segmentation (Viterbi); or the one of which most is expected to be
                right (minimum Bayes risk, ``SemiCRFDistribution.mbr``): by ``"segment"``, ``"position"`` or
                ``"boundary"``; ``score`` is what is expected then.
            k: the k best instead of the best one, along a first axis of ``k``.
            probability: whether to compute probabilities, which takes another sweep and its reverse.

        Raises:
            InputError: as ``forward``; an unknown method, or ``k`` with another than ``"best"``.

        >>> head = SemiCRFHead(num_labels=2, max_duration=3)
        >>> best = head.decode(torch.tensor([[[0.0, 9.0], [0.0, 9.0], [9.0, 0.0]]]))
        >>> best.to_labels(3).tolist(), best.score.item()
        ([[1, 1, 0]], 27.0)
        """
        if method not in get_args(Method) or (k is not None and method != "best"):
            got = repr(method) if k is None else f"{method!r} with k = {k}"
            raise bad_input("method", got, f"one of {get_args(Method)}, with k 'best'")
        p = self(hidden, lengths)
        with torch.autocast(hidden.device.type, enabled=False):
            if method != "best":
                best = p.mbr(method)
            elif k is not None:
                best = p.topk(k)[0]
            else:
                best = p.argmax
            return replace(best, probability=p.marginals.segment(best)) if probability else best

    def named(self, segments: Segments) -> list:
        """Nested lists of ``(start, end, name)``, with the head's label names.

        Raises:
            InputError: the head has none, or a sequence of count 0.

        >>> head = SemiCRFHead(num_labels=2, max_duration=3, label_names=["rest", "speech"])
        >>> head.named(Segments.from_list([[(0, 2, 1), (2, 3, 0)]]))
        [[(0, 2, 'speech'), (2, 3, 'rest')]]
        """
        names = self.label_names
        if names is None:
            raise bad_input("label_names", None, f"{self.num_labels} names", "SemiCRFHead(..., label_names=[...]).")

        def name(item: Any) -> Any:
            return [name(i) for i in item] if isinstance(item, list) else (item[0], item[1], names[item[2]])

        return name(segments.tolist())

    def extra_repr(self) -> str:
        """Sizes and options."""
        text = f"num_labels={self.num_labels}, max_duration={self.max_duration}, input_dim={self.input_dim}"
        text += ", boundary_scores=True" if self.boundary_scores else ""
        text += "" if self.duration_buckets is None else f", duration_buckets={self.duration_buckets}"
        text += "" if self.label_names is None else f", label_names={self.label_names}"
        return text if self.constraints is None else f"{text}, constraints={self.constraints}"

    def _by_duration(self, dtype: torch.dtype) -> Tensor | None:
        """``(K, C, C)``: each duration's table is that of its bucket."""
        if self.duration_buckets is None:
            return None
        widths = [b - a for a, b in zip([0, *self.duration_buckets], self.duration_buckets, strict=False)]
        tables = self.duration_transition.to(dtype)
        return torch.cat([table.expand(n, -1, -1) for table, n in zip(tables, widths, strict=True)])

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


def _buckets(ends: Sequence[int] | None, K: int) -> tuple[int, ...] | None:
    """The last duration of each bucket."""
    if ends is None:
        return None
    found = tuple(check_size("duration_buckets", end) for end in ends)
    if not found or found[-1] != K or any(a >= b for a, b in pairwise(found)):
        fix = "give the longest duration of each bucket: (4, 16, K)."
        raise bad_input("duration_buckets", found, f"ascending integers, the last one max_duration = {K}", fix)
    return found


def _names(names: Sequence[str], C: int) -> tuple[str, ...]:
    if isinstance(names, str) or len(names) != C or len(set(names)) != C:
        raise bad_input("label_names", repr(names), f"{C} different names, as num_labels says")
    return tuple(names)
