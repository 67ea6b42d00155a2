"""Expected counts under the distribution: gradients of log Z, as a lazy view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import reduce
from torch import Tensor

from semicrf.segments import Segments

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

_CHEAP = ("emission", "transition", "duration", "start", "end", "segment_start")


class Marginals:
    """Probabilities and expected counts, each computed when asked for and kept; all differentiable.

    Each is the gradient of log Z in one part of the potentials, with zeros put in where the model lacks the part. One
    reverse sweep serves every view whose size is that of the inputs; `segments` and `edge` hold a number for every arc
    and take their own. Where no segmentation is possible all are 0. Results have the distribution's dtype.
    """

    def __init__(self, distribution: SemiCRFDistribution):
        self._distribution = distribution
        self._known: dict[tuple[str, bool], Tensor] = {}

    def _expected(self, name: str) -> Tensor:
        graph = torch.is_grad_enabled()  # what no_grad left has no graph to give, and what has one would hold it
        if (name, graph) not in self._known:
            wanted = _CHEAP if name in _CHEAP else (name,)
            found = self._distribution._inference.log_z_gradients(wanted)
            self._known.update({(n, graph): g for n, g in found.items()})
        return self._distribution._shaped(self._known[name, graph])

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

        Raises:
            InputError: the batch shapes do not fit.
        """
        return at_segments(self._distribution, self._expected("segment"), segments, 0.0)


def at_segments(d: SemiCRFDistribution, table: Tensor, segments: Segments | Sequence, nothing: float) -> Tensor:
    """(..., N): the entries of a table (..., T, K, C) at given segments, `nothing` where it has none."""
    value, extra = d._value(segments, tiling=False)
    table = table.reshape(-1, d.T, d.K, d.C)
    k = value.durations - 1
    inside = value.mask & (k < d.K) & (value.end <= d.T) & (value.label < d.C) & (value.label >= 0)
    at = [torch.where(inside, i, 0) for i in (value.start, k, value.label)]
    row = torch.arange(table.shape[0], device=table.device)[:, None]  # of the batch; samples come in front
    found = torch.where(inside, table[row, at[0], at[1], at[2]], nothing)
    return found.reshape((*extra, *d.batch_shape, found.shape[-1]))
