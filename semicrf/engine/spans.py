"""The scores of many arcs at once, and the adjoint of that reading: what `arcs` does, for a block of positions.

Positions count from 0 at the front of the tensors that are given, so a block may be read from a slice of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from semicrf.engine.arcs import Arcs, Counts

inf = float("inf")


class Spans(Arcs):
    """Scores of segments that end at each of some positions, by duration; and the same as a sum of three: what a
    segment that starts at s scores up to a position that it covers, what one that ends at t scores from there on, and
    what its duration scores.
    """

    def __init__(self, parts: Mapping[str, Tensor], lengths: Tensor, T: int, K: int, C: int):
        super().__init__({n: part for n, part in parts.items() if n != "segment"}, lengths, T, K, C)
        self.segment = parts["segment"].detach() if "segment" in parts else None  # large: converted where it is read

    def leaving(self, s: Tensor, at: int) -> Tensor:
        """(B, m, C): of segments that start at each s <= at, their starts and emissions before `at`; -inf where they
        cannot end after it.
        """
        w = torch.zeros(self.B, len(s), self.C, dtype=torch.float64, device=self.device)
        if self.prefix is not None:
            w = w + (self.prefix[:, at, None] - self.prefix[:, s])
        if "segment_start" in self.parts:
            w = w + self.parts["segment_start"][:, s]
        if self.lo is not None:
            w = torch.where(s[:, None] < self.lo[:, at + 1, None], -inf, w)
        return w

    def arriving(self, t: Tensor, at: int) -> Tensor:
        """(B, n, C): of segments from before `at` or there to each t > at, their emissions from `at` on and ends;
        -inf where there is none.
        """
        w = torch.zeros(self.B, len(t), self.C, dtype=torch.float64, device=self.device)
        if self.prefix is not None:
            w = w + (self.prefix[:, t] - self.prefix[:, at, None])
        if "segment_end" in self.parts:
            w = w + self.parts["segment_end"][:, t - 1]
        if self.lo is not None:  # one bound serves all that start up to `at`: inside, it rises past `at` or not at all
            w = torch.where(self.lo[:, t] > at, -inf, w)
        return w

    def lasting(self, t: Tensor, k: Tensor) -> Tensor:
        """(B or 1, n or 1, m, C): what durations k score, of segments that end at t."""
        w = torch.zeros(1, 1, len(k), self.C, dtype=torch.float64, device=self.device)
        if "duration" in self.parts:
            w = w + self.parts["duration"][:, None, k - 1]
        if self.segment is not None:
            s = t[:, None] - k
            inside = (s >= 0) & (t[:, None] <= self.lengths[:, None, None])
            part = self.segment[:, s.clamp(min=0), k - 1].to(torch.float64)
            w = w + torch.where(inside[..., None], part, 0.0)  # what lies outside may be NaN
        return w

    def spans(self, t: Tensor, k: Tensor) -> Tensor:
        """(B, n, m, C): segments that end at t and last k; -inf where they would start before 0."""
        s = t[:, None] - k
        first = s.clamp(min=0)
        w = self.lasting(t, k).expand(self.B, len(t), -1, -1)
        if self.prefix is not None:
            w = w + (self.prefix[:, t, None] - self.prefix[:, first])
        if "segment_start" in self.parts:
            w = w + self.parts["segment_start"][:, first]
        if "segment_end" in self.parts:
            w = w + self.parts["segment_end"][:, t - 1, None]
        bound = torch.zeros((), device=self.device) if self.lo is None else self.lo[:, t, None]
        return torch.where(s[..., None] < bound, -inf, w)


class SpanCounts(Counts):
    """The transpose of `Spans` and of what leads from one segment to the next."""

    def spans(self, t: Tensor, g: Tensor) -> None:
        """g (B, n, m, C): cotangents of the segments that end at consecutive t and last 1, ..., m."""
        m, first, last = g.shape[2], int(t[0]), int(t[-1])
        front = max(0, m - first)  # how many of the sources lie before 0
        sources = slice(first - m + front, last)
        if "emission" in self.wanted:
            self.flow[:, first : last + 1] += g.sum(2)
        if "emission" in self.wanted or "segment_start" in self.wanted:
            starts = by_source(g)[:, front:]
            if "emission" in self.wanted:
                self.flow[:, sources] -= starts
            if "segment_start" in self.wanted:
                self.sums["segment_start"][:, sources] += starts
        if "duration" in self.wanted:
            self.sums["duration"][:, :m] += g.sum(1)
        if "segment_end" in self.wanted:
            self.sums["segment_end"][:, first - 1 : last] += g.sum(2)
        if "segment" in self.wanted:
            j, i = torch.nonzero(t[:, None] - torch.arange(1, m + 1, device=t.device) >= 0, as_tuple=True)
            self.sums["segment"][:, t[j] - 1 - i, i] += g[:, j, i]


def by_source(x: Tensor) -> Tensor:
    """(..., n, m, C), over destinations and durations 1..m, summed by source: (..., n + m - 1, C), earliest first."""
    n, m = x.shape[-3:-1]
    padded = torch.nn.functional.pad(x.flip(-2), (0, 0, 0, n))  # row j, moved right by j, is in order of sources
    rows = padded.flatten(-3, -2).narrow(-2, 0, n * (n + m - 1))
    return rows.unflatten(-2, (n, n + m - 1)).sum(-3)
