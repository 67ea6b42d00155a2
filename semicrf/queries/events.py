"""Probabilities of what happens at a place: each is that of some evidence, so a difference of two log-partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf import _validation
from semicrf._checks import check_shape, check_tensor
from semicrf.constraints import Evidence
from semicrf.errors import bad_input

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")
Place = int | Tensor


def places(p: SemiCRFDistribution, name: str, value: Place, low: int, high: int) -> Tensor:
    """int64 ``(...)``: a number for every sequence, checked to lie in low..high."""
    if isinstance(value, int) and not isinstance(value, bool):
        numbers = torch.full(p.batch_shape, value, device=p._lengths.device)
    else:
        numbers = check_tensor(name, value, "integer", p._lengths.device).long()
        check_shape(name, numbers, p.batch_shape, "one for each sequence, or an int for all")
    if p._checked and numbers.numel():
        least, most = (int(v) for v in numbers.aminmax())
        if least < low or most > high:
            got = f"{least}" if least == most else f"values {least}..{most}"
            raise bad_input(name, got, f"{low}..{high}", "positions count from 0; ends are exclusive.")
    return numbers


def _log_probability(p: SemiCRFDistribution, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """(B,) float64: log P(evidence), at most 0, -inf without gradient where it is impossible; and whether anything is
    possible at all.
    """
    joint, log_z = p.condition(evidence)._inference.log_z(), p._inference.log_z()
    possible = joint > -inf
    value = torch.where(possible, joint - torch.where(possible, log_z, 0.0), -inf)
    return value - torch.where(value > 0, value, 0.0).detach(), log_z > -inf


def span(
    self: SemiCRFDistribution, start: Place, end: Place, label: Place, kind: str = "exact"
) -> Tensor:  # fmt: skip
    """``(...)``: the probability of a segment, or of one that covers a span; differentiable. 0 past a length.

    Args:
        start, end: the span ``[start, end)``, ``0 <= start < end <= T``: an int, or int64 ``(...)``.
        label: an int, or int64 ``(...)``.
        kind: ``"exact"``: of the segment ``[start, end)`` with this label; ``"covers"``: of any segment with this label
            that holds all positions of the span.

    Raises:
        InputError: a number out of range, a tensor of another shape or dtype, an unknown kind.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 2)))  # 6 segmentations
    >>> [round(6 * x.item(), 4) for x in (p.span(0, 2, 1), p.span(0, 1, 1), p.span(0, 1, 1, kind="covers"))]
    [1.0, 2.0, 3.0]
    """
    if kind not in ("exact", "covers"):
        raise bad_input("kind", repr(kind), "'exact' or 'covers'")
    first = places(self, "start", start, 0, self.T - 1)[..., None]
    stop = places(self, "end", end, 1, self.T)[..., None]
    places(self, "end - start", stop[..., 0] - first[..., 0], 1, self.T)
    which = places(self, "label", label, 0, self.C - 1)[..., None]
    t = torch.arange(self.T, device=self._lengths.device)
    inner = torch.where((t > first) & (t < stop), 0, -1)
    boundary = torch.where((t == first) | (t == stop), 1, inner) if kind == "exact" else inner
    labels = torch.where((t >= first) & (t < stop), which, -1)
    value, _ = _log_probability(self, Evidence(labels=labels, boundary=boundary))
    return self._shaped(torch.where(stop.reshape(-1) <= self._lengths, value, -inf).exp())


def boundary_within(self: SemiCRFDistribution, t: Place, w: int) -> Tensor:
    """``(...)``: the probability that a segment starts in ``t - w .. t + w``, both included; differentiable.

    The first position of a sequence is always such a start; its end, where nothing starts, is not.

    Args:
        t: a position, ``0 <= t < T``: an int, or int64 ``(...)``.
        w: how far away, in positions, at least 0.

    Raises:
        InputError: a number out of range, or a tensor of another shape or dtype.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(4, 1)))
    >>> [round(p.boundary_within(2, w).item(), 6) for w in (0, 1, 2)]
    [0.5, 0.875, 1.0]
    """
    _validation.count("w", w, 0)
    at = places(self, "t", t, 0, self.T - 1)[..., None]
    position = torch.arange(self.T, device=self._lengths.device)
    none = torch.where((position - at).abs() <= w, 0, -1)
    value, possible = _log_probability(self, Evidence(boundary=none))
    return self._shaped(torch.where(possible, -value.expm1(), 0.0))
