"""Expected counts under the distribution: gradients of log Z, as a lazy view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from einops import reduce
from torch import Tensor

from semicrf._room import check_room
from semicrf.engine.sums import Sums, probability
from semicrf.segments import Segments

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

_CHEAP = ("emission", "transition", "duration", "start", "end", "segment_start")


class Marginals:
    """Probabilities and expected counts, each computed when asked for and kept; all differentiable.

    Each is the gradient of log Z in one part of the potentials, with zeros put in where the model lacks the part. One
    reverse sweep serves every view whose size is that of the inputs; `segments` (``B T K C`` numbers) and `edge`
    (``B T K C^2``) take their own, and raise `SizeError` where they are larger than the memory that is free. Where no
    segmentation is possible all are 0. Results have the distribution's dtype.
    """

    def __init__(self, distribution: SemiCRFDistribution):
        self._distribution = distribution
        self._known: dict[tuple[str, bool], Tensor] = {}
        self._sums: tuple[Sums, Tensor] | None = None

    def _expected(self, name: str) -> Tensor:
        graph = torch.is_grad_enabled()  # what no_grad left has no graph to give, and what has one would hold it
        if (name, graph) not in self._known:
            wanted = _CHEAP if name in _CHEAP else (name,)
            self._check_room(name)
            found = self._distribution._inference.log_z_gradients(wanted)
            self._known.update({(n, graph): g for n, g in found.items()})
        return self._distribution._shaped(self._known[name, graph])

    def _check_room(self, name: str) -> None:
        d = self._distribution
        if name not in _CHEAP:
            shape = (d._lengths.shape[0], d.T, d.K, *[d.C] * (1 + (name == "edge")))
            fix = "ask for fewer sequences at a time, or under torch.no_grad() for marginals.segment(segments)."
            check_room(f"marginals, {name}", shape, d._lengths.device, fix, d.dtype.itemsize)

    @property
    def boundary(self) -> Tensor:
        """(..., T): the probability that a segment starts at t."""
        return reduce(self._expected("segment_start"), "... t c -> ... t", "sum")

    @property
    def position(self) -> Tensor:
        """(..., T, C): the probability that position t has label c."""
        return self._expected("emission")

    @property
    def transition(self) -> Tensor:
        """(..., C, C): the expected number of times that label c follows c', ``[c', c]``."""
        return self._expected("transition")

    @property
    def duration(self) -> Tensor:
        """(..., K, C): the expected number of segments of each duration (row k - 1) and label."""
        return self._expected("duration")

    @property
    def segments_per_label(self) -> Tensor:
        """(..., C): the expected number of segments of each label."""
        return self.duration.sum(-2)

    @property
    def positions_per_label(self) -> Tensor:
        """(..., C): the expected total duration of each label, in positions; they add up to the length."""
        return self.position.sum(-2)

    @property
    def start(self) -> Tensor:
        """(..., C): the label of the first segment."""
        return self._expected("start")

    @property
    def end(self) -> Tensor:
        """(..., C): the label of the last segment."""
        return self._expected("end")

    @property
    def segments(self) -> Tensor:
        """(..., T, K, C): the probability of the segment that starts at t, of duration row k - 1, with label c."""
        return self._expected("segment")

    @property
    def edge(self) -> Tensor:
        """(..., T, K, C, C): the probability of the arc ``[s, k - 1, previous, next]``; at s = 0 in previous = 0."""
        return self._expected("edge")

    def segment(self, segments: Segments | Sequence) -> Tensor:
        """(..., N): the probability of each given segment, 0 at padding; sample axes may stand in front of the batch.

        Without a graph it takes memory of the inputs' size. With one it is read off `segments`, so that it can be
        differentiated, at a number of the potentials' dtype for each of ``B T K C`` segments.

        Raises:
            InputError: the batch shapes do not fit.
            SizeError: with a graph, where that is larger than the memory that is free.
        """
        d = self._distribution
        if d._inference.watched():
            table = self._expected("segment").reshape(-1, d.T, d.K, d.C)
            return at_segments(d, lambda row, s, k, c: table[row, s, k, c], segments, 0.0)
        if self._sums is None:
            self._sums = d._inference.sums()
        x, ending = self._sums
        return at_segments(
            d, lambda row, s, k, c: probability(x, ending, d._lengths, row, s, k + 1, c), segments, 0.0
        ).to(d.dtype)  # fmt: skip


Entries = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(sequence, start, row of the duration, label) -> what stands there."""


def at_segments(d: SemiCRFDistribution, entries: Entries, segments: Segments | Sequence, nothing: float) -> Tensor:
    """(..., N): the entries at given segments, `nothing` where there is none."""
    value, extra = d._value(segments, tiling=False)
    k = value.durations - 1
    inside = value.mask & (k < d.K) & (value.end <= d.T) & (value.label < d.C) & (value.label >= 0)
    start, k, label = (torch.where(inside, i, 0) for i in (value.start, k, value.label))
    row = torch.arange(d._lengths.shape[0], device=start.device)[:, None]  # of the batch; samples come in front
    found = torch.where(inside, entries(row.expand_as(start), start, k, label), nothing)
    return found.reshape((*extra, *d.batch_shape, found.shape[-1]))
