"""How many segmentations there are, and how many segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf import _validation
from semicrf._room import check_room
from semicrf.algebra import LogCount
from semicrf.engine.layers import by_count, scores
from semicrf.engine.layout import MASKS, PARTS
from semicrf.potentials import Potentials

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")


@property
def log_count(self: SemiCRFDistribution) -> Tensor:
    """``(...)``: log of the number of segmentations of non-zero weight."""
    return self._shaped(self._inference.total(LogCount)[0].detach())


@property
def count(self: SemiCRFDistribution) -> Tensor:
    """``(...)`` float64: the number of segmentations of non-zero weight, exact below 2^53."""
    counted = self._inference.total(LogCount)[0].detach().exp()
    return torch.where(counted < 2.0**40, counted.round(), counted).reshape(self.batch_shape)


def segment_count(self: SemiCRFDistribution, max: int) -> Tensor:
    """``(..., max)``: log P(exactly m segments) for m = 1, ..., max; -inf where there are none; differentiable.

    What lies beyond `max` is left out, so the probabilities add up to one for ``max = T``. Adding `log_partition` gives
    the log-partition over segmentations of exactly m segments, whose gradient in a potential is a marginal given m.
    One layer per segment, parallel over time: ``max T (K C + C^2)`` operations. Memory: ``4 B T K C`` numbers of
    float64, and with gradients ``B T C (1 + K)`` more for each layer where what leads into a segment depends on its
    duration, ``2 B T C`` elsewhere.

    Args:
        max: the largest number that is asked for, at least 1.

    Raises:
        SizeError: where that is larger than the memory that is free.
        InputError: max is not an integer of at least 1.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(4, 1)))  # 8 segmentations
    >>> (8 * p.segment_count(5).exp()).round().tolist()
    [1.0, 3.0, 3.0, 1.0, 0.0]
    """
    most = _validation.count("max", max, 1)
    fix = "fewer sequences at a time, or with_segment_count(m) for a small m."
    check_room("segment_count", (self._lengths.shape[0], self.T, self.K, self.C), self._lengths.device, fix, 32)
    arcs = scores(self.potentials.parts, self._lengths, self.T, self.K, self.C)
    joint, log_z = by_count(arcs, self._lengths, most), self._inference.log_z()[:, None]
    possible = joint > -inf
    return self._shaped(torch.where(possible, joint - torch.where(possible, log_z, 0.0), -inf))


def with_segment_count(self: SemiCRFDistribution, m: int) -> SemiCRFDistribution:
    """The distribution given exactly m segments, as a model of ``m C`` labels: label ``j C + c`` is label c in the j-th
    segment (from 0), so ``% C`` gives labels back.

    Marginals, samples, decoding and gradients given m are those of the result; impossible where no segmentation has m
    segments. Its `log_partition` less this one is ``segment_count(m)[..., m - 1]``. Costs what ``m C`` labels cost: for
    small m.

    Args:
        m: the number of segments, at least 1.

    Raises:
        InputError: m is not an integer of at least 1.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])))
    >>> p.argmax.tolist(), p.with_segment_count(2).argmax.tolist()
    ([(0, 1, 1), (1, 2, 0), (2, 3, 1)], [(0, 1, 1), (1, 3, 2)])
    """
    _validation.count("m", m, 1)
    C, device = self.C, self._lengths.device
    place = torch.arange(m * C, device=device) // C
    parts = {n: t if n in MASKS else _by_place(n, t, m) for n, t in self.potentials.parts.items()}
    onwards = place[:, None] + 1 == place

    def allow(name: str, allowed: Tensor) -> None:
        part = parts.get(name, torch.zeros((), dtype=self.potentials.dtype, device=device))
        parts[name] = torch.where(allowed, part, -inf)

    allow("transition", onwards[None])
    allow("start", (place == 0)[None])
    allow("end", (place == m - 1)[None])
    return self._with(Potentials(parts, self.batch_shape, self.T, self.K, m * C))


def _by_place(name: str, part: Tensor, m: int) -> Tensor:
    """A part with its axes of labels m times as long."""
    labels = PARTS[name].count("C")
    return part.repeat(*[1] * (part.dim() - labels), *[m] * labels)
