"""What a distribution over segmentations can be trained with, beside and beyond the likelihood of a target.

Each takes a ``SemiCRFDistribution`` and is differentiable, so that several are computed from one:

    p = head(hidden, lengths)
    loss = negative_log_likelihood(p, labels) - 0.1 * entropy(p)

``reduction``: ``"mean"`` over sequences, ``"sum"``, ``"none"`` for ``(...)``, ``"token_mean"`` for the sum over the
number of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from semicrf import _validation
from semicrf._checks import check_shape
from semicrf.constraints import Evidence
from semicrf.distribution import SemiCRFDistribution
from semicrf.errors import bad_input
from semicrf.nn.targets import as_target, forbidden
from semicrf.potentials import FactoredPotentials, Potentials
from semicrf.segments import Segments

__all__ = ["distillation", "entropy", "minimum_risk", "negative_log_likelihood", "posterior_regularisation"]

inf = float("inf")
Reduction = Literal["mean", "sum", "none", "token_mean"]
Target = Segments | Sequence | Tensor | Evidence


def reduced(values: Tensor, p: SemiCRFDistribution, reduction: Reduction) -> Tensor:
    """Values ``(...)`` of each sequence as the reduction says.

    Raises:
        InputError: an unknown reduction.
    """
    _check(reduction)
    if reduction == "none":
        return values
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values.sum() / p.lengths.sum()


def _check(reduction: Reduction) -> None:
    if reduction not in ("mean", "sum", "none", "token_mean"):
        raise bad_input("reduction", repr(reduction), "'mean', 'sum', 'none' or 'token_mean'")


def negative_log_likelihood(
    p: SemiCRFDistribution,
    target: Target,
    reduction: Reduction = "mean",
    split: Literal["K"] | None = None,
    ignore_index: int | None = None,
    validate_args: bool | None = None,
) -> Tensor:
    """``-p.log_prob`` of a target, never negative but for rounding.

    Args:
        p: batch shape ``(...)``.
        target: ``Segments`` of batch shape ``(...)`` (or nested lists of ``(start, end, label)``), taken exactly;
            integer labels ``(..., T)``, whose maximal runs are the segments, not read past a length; or ``Evidence``,
            for which the segmentations that agree with it are summed.
        reduction: as above.
        split: ``"K"`` cuts a segment or run longer than ``K`` into pieces of ``K``, the last one shorter; with
            ``ignore_index`` into any pieces.
        ignore_index: the label, in ``(..., T)``, of positions that were not observed: what they are is summed over. A
            segment starts between two observed labels where they differ and nowhere else, beside a missing one it may.
        validate_args: whether to check values; None means yes, except while compiling or capturing a CUDA graph.

    Raises:
        InputError: a shape or type that does not fit, an unknown option; when validating, a target that does not tile
            its sequence, has a segment longer than ``K`` (unless split) or is forbidden.

    Source: with missing labels, Tsuboi et al. 2008.

    >>> from semicrf import FactoredPotentials
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(1, 3, 2), max_duration=3))  # 18 segmentations, all alike
    >>> labels = torch.tensor([[0, 0, 1]])
    >>> [round(negative_log_likelihood(p, y, ignore_index=i).exp().item(), 3) for y, i in ((labels, -100), (labels, 1))]
    [18.0, 6.0]
    """
    _check(reduction)
    validate = _validation.wanted(validate_args, p.potentials)
    value = as_target(target, p, split, ignore_index, validate)
    with torch.autocast(p.lengths.device.type, enabled=False):
        loss = -p.log_prob(value)
    if validate and bool((impossible := loss == inf).any()):
        raise forbidden(p.potentials, value, int(impossible.flatten().nonzero()[0]))
    return reduced(loss, p, reduction)


def entropy(p: SemiCRFDistribution, reduction: Reduction = "mean") -> Tensor:
    """The entropy, nats. Subtracted from a loss it keeps a model from being sure too early, added it makes it sure.

    Source: subtracted, Pereyra et al. 2017; added on unlabelled data, Grandvalet & Bengio 2004, for CRFs Mann &
    McCallum 2007.

    >>> from semicrf import FactoredPotentials
    >>> round(entropy(SemiCRFDistribution(FactoredPotentials(torch.zeros(1, 3, 2), max_duration=3))).exp().item(), 3)
    18.0
    """
    return reduced(p.entropy(), p, reduction)


def distillation(
    student: SemiCRFDistribution, teacher: SemiCRFDistribution, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """``t^2 KL(teacher^(1/t) || student^(1/t))``, exactly, over whole segmentations; no gradient goes to the teacher.

    Args:
        student, teacher: of one shape, K and dtype.
        temperature: ``t``; above 1 it shows more of what the teacher holds less likely.
        reduction: as above.

    Raises:
        InputError: models of other shapes, a temperature that is not above 0.

    Source: Hinton, Vinyals & Dean 2015; of structures, Kim & Rush 2016, where it is approximate.

    >>> from semicrf import FactoredPotentials
    >>> p, q = (SemiCRFDistribution(FactoredPotentials(x * torch.ones(1, 3, 2))) for x in (0.0, 1.0))
    >>> distillation(p, q).abs().item() < 1e-6  # the same constant for every label changes nothing
    True
    """
    fixed = teacher.detach()
    if temperature != 1.0:
        student, fixed = student.with_temperature(temperature), fixed.with_temperature(temperature)
    return reduced(fixed.kl(student) * temperature**2, student, reduction)


def minimum_risk(
    p: SemiCRFDistribution,
    gold: Segments | Sequence,
    cost: Literal["position", "boundary"] = "position",
    reduction: Reduction = "mean",
) -> Tensor:
    """The expected number of errors of a segmentation drawn from ``p``.

    Args:
        p: batch shape ``(...)``.
        gold: ``Segments`` of that batch shape, or nested lists.
        cost: ``"position"`` counts positions with a wrong label, ``"boundary"`` boundaries that are missed and those
            that should not be there.
        reduction: as above.

    Raises:
        InputError: shapes that do not fit, an unknown cost.

    Source: Smith & Eisner 2006.

    >>> from semicrf import FactoredPotentials
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(4, 2)))
    >>> round(minimum_risk(p, [(0, 4, 1)]).item(), 3)  # each position is wrong half of the time
    2.0
    """
    segments = as_target(gold, p, None, None, False)
    if isinstance(segments, Evidence):
        raise bad_input("gold", "Evidence", "Segments", "the risk needs every label.")
    check_shape("gold.count", segments.count, p.batch_shape, "one segmentation for each sequence")
    dtype = p.potentials.dtype
    if cost == "position":
        labels = segments.to_labels(p.T)[..., None]
        wrong = (labels != torch.arange(p.C, device=labels.device)) & (labels >= 0)
        f, missed = FactoredPotentials(wrong.to(dtype), max_duration=p.K), 0.0
    elif cost == "boundary":
        starts = segments.to_boundaries(p.T)[..., None].expand(*p.batch_shape, p.T, p.C)
        change = torch.where(starts, -1.0, 1.0).to(dtype)  # a hit takes one away from those that are missed
        f = FactoredPotentials(torch.zeros_like(change), segment_start=change, max_duration=p.K)
        missed = segments.count.to(dtype)
    else:
        raise bad_input("cost", repr(cost), "'position' or 'boundary'")
    return reduced(p.expectation(f) + missed, p, reduction)


def posterior_regularisation(
    p: SemiCRFDistribution, f: Potentials, bound: float | Tensor, reduction: Reduction = "mean", steps: int = 60
) -> Tensor:
    """How far ``p`` is from a distribution whose mean of ``f`` is at most ``bound``: the least ``KL(q || p)``, nats.

    0 where ``p`` keeps the bound, ``inf``, without gradient, where no distribution over its segmentations does. For a
    lower bound pass ``-f`` and ``-bound``.

    The nearest ``q`` is ``p exp(-a f) / Z``; its ``a >= 0`` is found by bisection, the gradient is exact (``a`` is at a
    stationary point).

    Args:
        p: batch shape ``(...)``.
        f: an additive quantity, of the shape and dtype of ``p``'s potentials.
        bound: a number or ``(...)``.
        reduction: as above.
        steps: of the bisection; each is one sweep.

    Raises:
        InputError: shapes that do not fit.

    Source: Ganchev et al. 2010.

    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(1, 1, 2, dtype=torch.float64)))
    >>> f = FactoredPotentials(torch.tensor([[[0.0, 1.0]]], dtype=torch.float64))  # P(label 1) is 1/2, wanted 1/4
    >>> round(posterior_regularisation(p, f, 0.25).item(), 4)  # log 2 - H(1/4)
    0.1308
    """
    limit = torch.as_tensor(bound, dtype=torch.float64, device=p.lengths.device).expand(p.batch_shape).flatten()
    kept = f.ignoring(p.potentials)

    def tilted(a: Tensor) -> SemiCRFDistribution:
        parts = dict(p.potentials.parts)
        for name, part in kept.parts.items():
            step = a.to(part.dtype).view(-1, *[1] * (part.dim() - 1)) * part
            parts[name] = parts[name] - step if name in parts else -step
        return SemiCRFDistribution(p.potentials.replace(parts), p.lengths, backend=p.backend, validate_args=False)

    with torch.no_grad():
        low, high = torch.zeros_like(limit), torch.ones_like(limit)
        for _ in range(40):
            high = torch.where(tilted(high).expectation(f).double().flatten() > limit, 2 * high, high)
        possible = tilted(high).expectation(f).double().flatten() <= limit
        for _ in range(steps):
            middle = (low + high) / 2
            above = tilted(middle).expectation(f).double().flatten() > limit
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        needed = p.expectation(f).double().flatten() > limit
        a = torch.where(needed & possible, high, 0.0)
    distance = p.log_partition - tilted(a).log_partition - (a * limit).reshape(p.batch_shape).to(p.dtype)
    distance = torch.where(needed.reshape(p.batch_shape), distance, 0.0)
    return reduced(torch.where(possible.reshape(p.batch_shape), distance, inf), p, reduction)
