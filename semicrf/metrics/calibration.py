"""Whether probabilities mean what they say: the reliability curve, its expected error, and the Brier score."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from semicrf._checks import check_shape, check_tensor
from semicrf.errors import bad_input
from semicrf.metrics.scores import matches
from semicrf.segments import Segments

_ROUNDING = 1e-4  # a probability is a rounded sum: so far above 1 it still stands for 1, and falls in the last bin


@dataclass(frozen=True, eq=False)
class Calibration:
    """A reliability curve over the bins that hold anything, and two numbers.

    Attributes:
        confidence: float64 ``(n,)``: the mean probability in each bin.
        accuracy: float64 ``(n,)``: which part of the bin is correct; calibrated where it equals ``confidence``.
        count: int64 ``(n,)``: how many fall in the bin.
        ece: the expected calibration error, ``sum of count |accuracy - confidence| / sum of count``.
        brier: the mean of ``(probability - correct)^2``.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    ece: float
    brier: float


def reliability(probability: Tensor, correct: Tensor, bins: int = 10) -> Calibration:
    """The calibration of any probabilities: of segments, positions or boundaries.

    Args:
        probability: floating, any shape, in 0..1.
        correct: bool, the same shape: what came true.
        bins: how many bins of equal width; one holds its upper edge, the first also 0.

    Raises:
        InputError: shapes or dtypes that do not fit, nothing to score, or a probability outside 0..1.

    Source: ECE as Naeini, Cooper & Hauskrecht 2015 and Guo et al. 2017; Brier 1950.

    >>> curve = reliability(torch.tensor([0.9, 0.9, 0.2, 0.8]), torch.tensor([True, True, False, False]), bins=2)
    >>> [round(x, 4) for x in curve.accuracy.tolist()], curve.count.tolist(), round(curve.ece, 4), round(curve.brier, 4)
    ([0.0, 0.6667], [1, 3], 0.2, 0.175)
    """
    check_tensor("probability", probability, "floating")
    check_tensor("correct", correct, "bool", probability.device)
    check_shape("correct", correct, probability.shape, "that of probability")
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise bad_input("bins", repr(bins), "an integer of at least 1")
    p, y = probability.detach().double().flatten(), correct.double().flatten()
    if not p.numel():
        raise bad_input("probability", "nothing", "at least one value", "calibration of nothing is not defined.")
    if not bool(((p >= 0) & (p <= 1 + _ROUNDING)).all()):
        raise bad_input(
            "probability", f"values {p.min().item()}..{p.max().item()}", "0..1", "exp of log-probabilities."
        )
    edges = torch.arange(1, bins, dtype=torch.float64, device=p.device) / bins
    bin_of = torch.bucketize(p, edges)
    count = torch.bincount(bin_of, minlength=bins)
    sums = (torch.bincount(bin_of, weights=w, minlength=bins) for w in (p, y))
    confidence, accuracy = (s[count > 0] / count[count > 0] for s in sums)
    count = count[count > 0]
    ece = (count * (accuracy - confidence).abs()).sum() / count.sum()
    return Calibration(confidence, accuracy, count, ece.item(), (p - y).square().mean().item())


def calibration(
    gold: Segments, predicted: Segments, bins: int = 10, labels: Collection[int] | None = None
) -> Calibration:
    """The calibration of the probabilities of predicted segments: one comes true where a true one is exactly the same.

    Args:
        gold: ``Segments`` of batch shape ``(...)``.
        predicted: the same, with ``probability``, as ``SemiCRFHead.decode`` gives it.
        bins: how many bins of equal width.
        labels: which predicted labels to score, all by default: leave the background out.

    Raises:
        InputError: ``predicted`` without probabilities, batch shapes that differ, or no segment to score.

    Source: as ``reliability``; spans of structured predictors, Kuleshov & Liang 2015.

    >>> from dataclasses import replace
    >>> gold = Segments.from_list([(0, 2, 1), (2, 4, 0)])
    >>> predicted = replace(gold, label=torch.tensor([1, 1]), probability=torch.tensor([0.75, 0.25]))
    >>> calibration(gold, predicted).ece, calibration(gold, predicted).brier
    (0.25, 0.0625)
    """
    true = matches(gold, predicted)
    if predicted.probability is None:
        fix = "SemiCRFHead.decode gives them; or marginals.segment(predicted)."
        raise bad_input("predicted", "Segments without probability", "Segments with it", fix)
    kept = predicted.mask
    if labels is not None:
        kept = kept & torch.isin(predicted.label, torch.tensor(sorted(labels), device=predicted.device))
    return reliability(predicted.probability[kept], true[kept], bins)
