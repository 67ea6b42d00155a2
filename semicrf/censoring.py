"""Durations cut off by the ends of a record: its first segment may have begun before it, its last may go on after."""

from __future__ import annotations

import torch
from torch import Tensor

from semicrf._room import check_room
from semicrf.engine.layers import log_sum
from semicrf.errors import bad_input
from semicrf.potentials import Potentials

inf = float("inf")


def survival(duration: Tensor) -> Tensor:
    """``(..., K, C)``: log P(D >= k) for log-probabilities of durations ``(..., K, C)``; -inf where none is left.

    Of any log-weights, the log-sum over rows from k on. Differentiable.

    >>> survival(torch.tensor([[0.5], [0.25], [0.25]]).log()).exp().flatten().tolist()
    [1.0, 0.5, 0.25]
    """
    if duration.dim() < 2:
        raise bad_input("duration", f"shape {tuple(duration.shape)}", "(..., K, C)")
    K = duration.shape[-2]
    later = torch.ones(K, K, dtype=torch.bool, device=duration.device).triu()
    table = torch.where(later[..., None], duration[..., None, :, :], -inf)
    return log_sum(table, -2)


def censored(
    potentials: Potentials, lengths: Tensor | None = None, *, first: bool = True, last: bool = True
) -> Potentials:
    """The model of records cut out of longer sequences: segments at their ends are seen in part.

    A first segment of k positions stands for all that began up to ``K - k`` positions earlier, a last one for all that
    go on, one that fills the whole record for both: their duration scores are replaced by log-sums over what does not
    show, log P(D >= k) where durations are log-probabilities. Marginals and samples are of the part that shows.

    Args:
        potentials: a model with `duration`. The result holds a score for every segment: ``B T K C`` numbers, and twice
            as many while it is made.
        lengths: int64 ``(...)``, those of the distribution; T by default.
        first, last: which end is censored.

    Raises:
        SizeError: where that is larger than the memory that is free.
        InputError: a model without durations, or lengths of another shape.

    Source: Guédon 2003, for the last segment; Yu 2010, section 2.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = FactoredPotentials(torch.zeros(2, 1), duration=torch.tensor([[0.5], [0.25], [0.25]]).log())
    >>> SemiCRFDistribution(censored(p, first=False)).log_partition.exp()  # (0, 2) as 1/2, (0, 1) (1, 2) as 1/2 x 1
    tensor(1.)
    """
    if "duration" not in potentials.parts:
        raise bad_input(
            "potentials", f"parts {list(potentials.parts)}", "a model with duration=", "give its durations."
        )
    T, K, device = potentials.T, potentials.K, potentials.device
    size = 2 * potentials.dtype.itemsize
    fix = "fewer sequences at a time, or a smaller K."
    check_room("censored", (potentials.B, T, K, potentials.C), device, fix, size)
    length = torch.full(potentials.batch_shape, T, device=device) if lengths is None else torch.as_tensor(lengths)
    if length.shape != potentials.batch_shape:
        expected = f"{tuple(potentials.batch_shape)}, the batch shape"
        raise bad_input("lengths", f"shape {tuple(length.shape)}", expected)
    duration = potentials.parts["duration"]
    one, both = survival(duration), survival(survival(duration))
    start = torch.arange(T, device=device)[:, None, None]
    end = start + torch.arange(1, K + 1, device=device)[:, None]
    opens, closes = (start == 0) & first, (end == length.reshape(-1, 1, 1, 1).to(device)) & last
    outside = torch.where(opens & closes, both[:, None], one[:, None])
    segment = torch.where(opens | closes, outside, duration[:, None])
    parts = {n: t for n, t in potentials.parts.items() if n != "duration"}
    parts["segment"] = segment + parts["segment"] if "segment" in parts else segment
    return potentials.replace(parts)
