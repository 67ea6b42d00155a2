"""Decoding beyond the best segmentation: the k best, minimum Bayes risk, and the best of perturbed scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf import _validation
from semicrf.scoring import score
from semicrf.segments import Segments

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")


def topk(self: SemiCRFDistribution, k: int, canonical: bool = False) -> tuple[Segments, Tensor]:
    """The k best segmentations ``(k, ...)`` and their scores ``(k, ...)``: exact, distinct, best first.

    Where fewer exist, the others have count 0 and score -inf. The first is `argmax`; equal scores come in one order,
    always the same. The gradient of a score is the indicator of its segmentation. One Viterbi pass, then a search on
    the host, in float64, for any k.

    Args:
        k: at least 1.
        canonical: neighbours with the same label may exchange their durations, often at the same score, and so fill the
            list with variants of one segmentation. True keeps one order: durations inside a run of equal labels do not
            increase. Takes memory for ``T K C`` numbers per sequence.

    Raises:
        InputError: k is not an integer of at least 1.

    Source: Eppstein 1998; Jimenez & Marzal 2003.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.tensor([[0.0, 2.0], [0.0, 3.0]])))
    >>> segments, scores = p.topk(3)
    >>> segments.tolist(), scores.tolist()
    ([[(0, 1, 1), (1, 2, 1)], [(0, 2, 1)], [(0, 1, 0), (1, 2, 1)]], [5.0, 5.0, 3.0])
    >>> p.topk(2, canonical=True)[0].tolist()
    [[(0, 1, 1), (1, 2, 1)], [(0, 2, 1)]]
    """
    start, end, label, count, value = self._inference.k_best(_validation.count("k", k, 1), canonical)
    device, N = self._lengths.device, start.shape[-1]
    start, end, label, count, value = (x.to(device) for x in (start, end, label, count, value))
    if torch.is_grad_enabled() and any(t.requires_grad for t in self.potentials.parts.values()):
        flat = Segments(start=start, end=end, label=label, count=count)
        own = score(self.potentials, flat, self._lengths)  # the same numbers, but in order only up to rounding
        value = own + torch.where(count > 0, value - own.detach(), 0.0)
    scores = value.to(self.dtype).reshape(k, *self.batch_shape)
    shape = (k, *self.batch_shape)
    found = {"start": start, "end": end, "label": label}
    shaped = {name: x.reshape(*shape, N) for name, x in found.items()}
    return Segments(**shaped, count=count.reshape(shape), score=scores.detach()), scores
