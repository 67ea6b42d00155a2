"""The score of a given segmentation: gathers from the parts, differentiable by autograd to any order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semicrf.errors import bad_input
from semicrf.potentials import Potentials
from semicrf.segments import Segments

inf = float("inf")


def score(potentials: Potentials, segments: Segments, lengths: Tensor) -> Tensor:
    """float64 scores ``(S, B)`` of segmentations ``(S, B, N)``; ``-inf``, without gradient, where forbidden."""
    terms = _Terms(potentials, segments, lengths)
    allowed = (segments.count > 0) & terms.known.all(-1)
    total = torch.zeros(segments.batch_shape, dtype=torch.float64, device=potentials.device)
    for name, part in potentials.parts.items():
        values, used = getattr(terms, name)(part)
        if name == "required":
            allowed = allowed & ~(values & used).any(-1)
            continue
        values = torch.where(used, values.to(torch.float64), 0.0)
        forbidden = (values == -inf).any(-1)
        allowed = allowed & ~forbidden
        total = total + torch.where(values == -inf, 0.0, values).sum(-1)
    return torch.where(allowed, total, -inf)


def flattened(segments: Segments, batch: torch.Size) -> tuple[Segments, torch.Size]:
    """Segmentations (..., *batch, N) as (S, B, N), and the leading sample axes that S stands for.

    Raises:
        InputError: the last axes are not those of the batch.
    """
    lead = segments.batch_shape
    extra = lead[: len(lead) - len(batch)]
    if len(lead) < len(batch) or lead != extra + batch:
        fix = "one segmentation for every sequence; sample axes come first."
        raise bad_input("value", f"batch shape {tuple(lead)}", f"(..., {', '.join(map(str, batch))})", fix)
    shape = (math.prod(extra), math.prod(batch))  # Size.numel() would fix a size that export keeps open
    N = segments.start.shape[-1]
    wide = {n: getattr(segments, n).reshape(*shape, N) for n in ("start", "end", "label")}
    return Segments(**wide, count=segments.count.reshape(shape)), extra


class _Terms:
    """What each part contributes to a segmentation: values and a mask of those that count, along the last axis."""

    def __init__(self, potentials: Potentials, segments: Segments, lengths: Tensor):
        S, B = segments.batch_shape
        self.T, self.C = potentials.T, potentials.C
        inside = (segments.start >= 0) & (segments.end <= self.T) & (segments.label >= 0) & (segments.label < self.C)
        fits = inside & (segments.durations >= 1) & (segments.durations <= potentials.K)
        self.known = fits | ~segments.mask  # a segment that the model cannot have forbids, it is not read elsewhere
        mask = segments.mask & fits
        self.row = torch.arange(B, device=potentials.device)[:, None].expand(S, B, 1)
        self.first = torch.where(mask, segments.start, 0)
        self.last = torch.where(mask, segments.end - 1, 0)
        self.k = torch.where(mask, segments.durations - 1, 0)
        self.label = torch.where(mask, segments.label, 0)
        self.before = torch.cat([torch.zeros_like(self.label[..., :1]), self.label[..., :-1]], -1)
        self.mask = mask
        self.later = mask & (torch.arange(mask.shape[-1], device=mask.device) > 0)
        self.opening = mask & ~self.later
        self.closing = torch.arange(mask.shape[-1], device=mask.device) == segments.count[..., None] - 1
        self.labels = segments.to_labels(self.T)
        self.starts = segments.to_boundaries(self.T)
        self.inside = torch.arange(self.T, device=mask.device) < lengths[:, None]

    def _pick(self, part: Tensor, *index: Tensor) -> Tensor:
        return part[(self.row if part.shape[0] > 1 else torch.zeros_like(self.row), *index)]

    def emission(self, part: Tensor):
        t = torch.arange(self.T, device=part.device)
        return self._pick(part, t, self.labels.clamp(0, self.C - 1)), self.labels >= 0

    def transition(self, part: Tensor):
        return self._pick(part, self.before, self.label), self.later

    def duration(self, part: Tensor):
        return self._pick(part, self.k, self.label), self.mask

    def duration_transition(self, part: Tensor):
        return self._pick(part, self.k, self.before, self.label), self.later

    def start(self, part: Tensor):
        return self._pick(part, self.label), self.opening

    def end(self, part: Tensor):
        return self._pick(part, self.label), self.closing

    def segment_start(self, part: Tensor):
        return self._pick(part, self.first, self.label), self.mask

    def segment_end(self, part: Tensor):
        return self._pick(part, self.last, self.label), self.mask

    def segment(self, part: Tensor):
        return self._pick(part, self.first, self.k, self.label), self.mask

    def edge(self, part: Tensor):
        return self._pick(part, self.first, self.k, self.before, self.label), self.mask

    def required(self, part: Tensor):
        return part & ~self.starts, self.inside.expand_as(self.starts)
