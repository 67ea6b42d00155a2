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
        else:
            total = total + torch.where(used, values.to(torch.float64), 0.0).sum(-1)
    return torch.where(allowed & (total != -inf), total, -inf)  # of what is forbidden nothing has a gradient


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
    """What each part contributes to a segmentation: values and a mask of those that count, along the last axis.

    Where nothing counts the indices go through the part: the gradient of a gather adds up one entry's places one after
    the other, and padding would be most of them.
    """

    def __init__(self, potentials: Potentials, segments: Segments, lengths: Tensor):
        S, B = segments.batch_shape
        self.segments, self.lengths, self.T, self.C = segments, lengths, potentials.T, potentials.C
        n = torch.arange(segments.start.shape[-1], device=segments.device)
        own, durations = n < segments.count[..., None], segments.end - segments.start
        inside = (segments.start >= 0) & (segments.end <= self.T) & (segments.label >= 0) & (segments.label < self.C)
        fits = inside & (durations >= 1) & (durations <= potentials.K)
        self.known = fits | ~own  # a segment that the model cannot have forbids, it is not read elsewhere
        self.mask = mask = own & fits
        self.row = torch.arange(B, device=potentials.device)[:, None].expand(S, B, 1)
        self.first = torch.where(mask, segments.start, n % self.T)
        self.last = torch.where(mask, segments.end - 1, n % self.T)
        self.k = torch.where(mask, durations - 1, n % potentials.K)
        self.label = torch.where(mask, segments.label, n % self.C)
        self.before = torch.where(n > 0, self.label.roll(1, -1), 0)
        self.later = mask & (n > 0)
        self.closing = n == segments.count[..., None] - 1

    def _pick(self, part: Tensor, *index: Tensor) -> Tensor:
        return part[(self.row if part.shape[0] > 1 else torch.zeros_like(self.row), *index)]

    def emission(self, part: Tensor):
        t, labels = torch.arange(self.T, device=part.device), self.segments.to_labels(self.T)
        return self._pick(part, t, labels.clamp(0, self.C - 1)), labels >= 0

    def transition(self, part: Tensor):
        return self._pick(part, self.before, self.label), self.later

    def duration(self, part: Tensor):
        return self._pick(part, self.k, self.label), self.mask

    def duration_transition(self, part: Tensor):
        return self._pick(part, self.k, self.before, self.label), self.later

    def start(self, part: Tensor):
        return self._pick(part, self.label[..., :1]), self.mask[..., :1]

    def end(self, part: Tensor):
        final = torch.where(self.closing, self.label, 0).sum(-1, keepdim=True)
        return self._pick(part, final), self.closing.any(-1, keepdim=True)

    def segment_start(self, part: Tensor):
        return self._pick(part, self.first, self.label), self.mask

    def segment_end(self, part: Tensor):
        return self._pick(part, self.last, self.label), self.mask

    def segment(self, part: Tensor):
        return self._pick(part, self.first, self.k, self.label), self.mask

    def edge(self, part: Tensor):
        return self._pick(part, self.first, self.k, self.before, self.label), self.mask

    def required(self, part: Tensor):
        inside = torch.arange(self.T, device=part.device) < self.lengths[:, None]
        return part & ~self.segments.to_boundaries(self.T), inside
