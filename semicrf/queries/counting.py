"""How many segments there are: their distribution, and the model given their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf import _validation
from semicrf.engine.layers import by_count, scores

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")


def segment_count(self: SemiCRFDistribution, max: int) -> Tensor:
    """``(..., max)``: log P(exactly m segments) for m = 1, ..., max; -inf where there are none; differentiable.

    What lies beyond `max` is left out, so the probabilities add up to one for ``max = T``. Adding `log_partition` gives
    the log-partition over segmentations of exactly m segments, whose gradient in a potential is a marginal given m.
    One layer per segment, parallel over time: ``max T (K C + C^2)`` operations, memory for ``T K C`` numbers.

    Args:
        max: the largest number that is asked for, at least 1.

    Raises:
        InputError: max is not an integer of at least 1.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(4, 1)))  # 8 segmentations
    >>> (8 * p.segment_count(5).exp()).round().tolist()
    [1.0, 3.0, 3.0, 1.0, 0.0]
    """
    most = _validation.count("max", max, 1)
    arcs = scores(self.potentials.parts, self._lengths, self.T, self.K, self.C)
    joint, log_z = by_count(arcs, self._lengths, most), self._inference.log_z()[:, None]
    possible = joint > -inf
    return self._shaped(torch.where(possible, joint - torch.where(possible, log_z, 0.0), -inf))
