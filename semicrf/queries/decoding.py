"""Decoding beyond the best segmentation: the k best, minimum Bayes risk, and the best of perturbed scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from semicrf import _validation
from semicrf._room import check_room
from semicrf.constraints import Evidence
from semicrf.engine.layout import MASKS
from semicrf.errors import bad_input
from semicrf.inference import Inference
from semicrf.scoring import score
from semicrf.segments import Segments

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")


def topk(self: SemiCRFDistribution, k: int, canonical: bool = False) -> tuple[Segments, Tensor]:
    """The k best segmentations ``(k, ...)`` and their scores ``(k, ...)``: exact, distinct, best first.

    Where fewer exist, the others have count 0 and score -inf. The first is `argmax`, or on another device than the host
    one whose score is equal to it up to rounding; equal scores come in one order,
    always the same. The gradient of a score is the indicator of its segmentation. One Viterbi pass, then a search, for
    any k.

    Both run on the host, in float64, by numba: a model on a GPU is copied there, and the lists come back to it, cut to
    the longest (N, which therefore synchronises). Memory ``O(B T (C + k))``, with a column for each duration where what
    leads into a segment depends on it.

    Args:
        k: at least 1.
        canonical: neighbours with the same label may exchange their durations, often at the same score, and so fill the
            list with variants of one segmentation. True keeps one order: durations inside a run of equal labels do not
            increase. Takes ``3 B T K C`` numbers of float64 on the host.

    Raises:
        SizeError: where that is larger than the memory that is free.
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
    _validation.count("k", k, 1)
    if canonical:
        fix = "canonical=False, or fewer sequences at a time."
        check_room("topk", (self._lengths.shape[0], self.T, self.K, self.C), torch.device("cpu"), fix, 24)
    start, end, label, count, value = self._inference.k_best(k, canonical)
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


def mbr(
    self: SemiCRFDistribution, loss: Literal["segment", "position", "boundary"] = "segment", *, cost: float = 0.5,
    tolerance: int = 0,
) -> Segments:  # fmt: skip
    """The segmentation of least expected loss (minimum Bayes risk). Always one that this model allows; `score` is the
    gain, of which it has the most:

    ============== =====================================================================================
    ``"segment"``  the sum over its segments of P(segment) - cost
    ``"position"`` the sum over positions of P(label): the expected number of positions that are right
    ``"boundary"`` the sum over its starts t of P(a segment starts within `tolerance` of t) - cost
    ============== =====================================================================================

    Probabilities are marginals of this distribution. What a loss does not look at, boundaries between equal labels for
    ``"position"`` and labels for ``"boundary"``, is the best that the model has beside the rest. A cost of 0.5 keeps
    what is more likely than not; as segments have to fill the sequence, others are taken where nothing better fits.
    Memory is of the inputs' size; boundaries with a tolerance take ``3 T K`` numbers per sequence beside it. For
    ``"segment"`` the last step runs on the host, by numba; without numba, and on the backends "reference" and
    "blocked", it takes ``2 T K C`` numbers.

    Args:
        loss: what counts as right.
        cost: of a segment (of a start), in units of what is gained by one that is right.
        tolerance: in positions, at least 0; read by ``"boundary"`` alone.

    Raises:
        SizeError: where that is larger than the memory that is free.
        InputError: an unknown loss, a cost that is not a finite number, a tolerance that is not a count.

    Source: Goel & Byrne 2000; Goodman 1996 for expected matches.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.tensor([[0.0, 2.0], [0.0, 3.0], [4.0, 0.0]]), max_duration=2))
    >>> p.mbr("position").to_labels(3).tolist()
    [1, 1, 0]
    >>> p.mbr("boundary", cost=1.0).tolist()
    [(0, 2, 1), (2, 3, 0)]
    """
    if loss not in ("segment", "position", "boundary"):
        raise bad_input("loss", repr(loss), "'segment', 'position' or 'boundary'")
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not math.isfinite(cost):
        raise bad_input("cost", repr(cost), "a finite number")
    _validation.count("tolerance", tolerance, 0)
    with torch.no_grad():
        streamed = self._inference.most_matches(cost) if loss == "segment" else None
        if streamed is not None:
            return self._segments(*streamed[:2], (), score=self._shaped(streamed[2]))
        name, gain = _gain(self, loss, cost, tolerance)
        nothing = gain.new_zeros(())
        parts = {n: t if n in MASKS else _allowed(t, nothing) for n, t in self.potentials.parts.items()}
        parts[name] = _allowed(self.potentials.full(name), gain)
        judged = Inference(self.potentials.replace(parts), self._lengths, self.backend)
        marks, labels, best = judged.best()
        found = self._segments(marks, labels, ())
        if loss == "position":
            found = self.condition(Evidence(labels=found.to_labels(self.T))).argmax
        if loss == "boundary":
            found = self.condition(Evidence(boundary=found.to_boundaries(self.T).long())).argmax
    return replace(found, score=self._shaped(best))


def _allowed(part: Tensor, gain: Tensor) -> Tensor:
    """The gain wherever the part does not forbid."""
    return torch.where(part == -inf, -inf, gain)


def _gain(p: SemiCRFDistribution, loss: str, cost: float, tolerance: int) -> tuple[str, Tensor]:
    """The part that scores a segmentation by what it gains."""
    if loss == "position":
        return "emission", p._inference.log_z_gradients(["emission"])["emission"]
    if loss == "segment":
        fix = "backend='auto', with numba, which needs no table; or fewer sequences at a time."
        check_room("mbr", (p._lengths.shape[0], p.T, p.K, p.C), p._lengths.device, fix, 16)
        return "segment", p._inference.log_z_gradients(["segment"])["segment"] - cost
    check_room("mbr", (p._lengths.shape[0], p.T, p.K), p._lengths.device, "fewer sequences at a time.", 24)
    if tolerance == 0:
        near = p._inference.log_z_gradients(["segment_start"])["segment_start"].sum(-1)
    else:
        near = _near(p._inference.by_duration(), p._lengths, tolerance)
    return "segment_start", (near - cost)[..., None].expand(-1, -1, p.C)


def _near(segments: Tensor, lengths: Tensor, w: int) -> Tensor:
    """(B, T): P(a segment starts in t - w .. t + w), from P(segment) (B, T, K): unless one starts before that window
    and ends after it.
    """
    B, T, K = segments.shape
    lasting = segments.flip(-1).cumsum(-1).flip(-1).flatten(1)  # of this duration or longer
    t = torch.arange(T, device=segments.device)
    before, after = t - w, torch.minimum(t + w + 1, lengths[:, None])
    none = segments.new_zeros(B, T)
    for j in range(1, K + 1):
        start = (before - j).expand(B, T)
        least = after - start
        spanning = lasting.gather(1, start.clamp(min=0) * K + (least - 1).clamp(0, K - 1))
        none = none + torch.where((start >= 0) & (least <= K) & (least >= 1), spanning, 0.0)
    return 1 - none
