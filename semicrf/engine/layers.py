"""Log-partitions by the number of segments: one layer of the recurrence per segment, parallel over time.

With alpha^m_t(c) for the prefixes of exactly m segments,

    alpha^m_t(c) = sum_k g^{m-1}_{t-k}(c) * segment(t-k, t, c),   g^m_s(c) = sum_{c'} alpha^m_s(c') * transition[c', c]

no layer depends on itself, so each is a few operations on whole tensors of T K C numbers, differentiated by autograd.
Sums of logarithms throughout: what is impossible is -inf, and has no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.utils.checkpoint import checkpoint

from semicrf.engine.arcs import Arcs, _inside
from semicrf.engine.layout import MASKS

inf = float("inf")


class Scores(NamedTuple):
    """The scores of every arc in float64, with a graph; -inf past a length."""

    segment: Tensor  # (B, T, K, C), by start
    lead: Tensor  # (B or 1, T or 1, columns, C, C)
    initial: Tensor  # (B or 1, columns, C)
    final: Tensor  # (B or 1, C)


def log_sum(x: Tensor, dim: int) -> Tensor:
    """log sum exp; where every term is -inf so is the sum, and no term has a gradient."""
    top = x.detach().amax(dim, keepdim=True)
    none = top == -inf
    top = torch.where(none, 0.0, top)
    total = (x - top).exp().sum(dim, keepdim=True)
    return torch.where(none, -inf, top + torch.where(none, 1.0, total).log()).squeeze(dim)


def scores(parts: Mapping[str, Tensor], lengths: Tensor, T: int, K: int, C: int) -> Scores:
    """Every arc of a model, O(B T K C) numbers (and those of its largest part)."""
    arcs = Arcs(parts, lengths, T, K, C)  # for what is forbidden
    own = {n: _inside(n, t.double(), lengths) for n, t in parts.items() if n not in MASKS}
    zero = torch.zeros(1, 1, 1, C, dtype=torch.float64, device=lengths.device)
    start = torch.arange(T, device=lengths.device)[:, None]
    end = start + torch.arange(1, K + 1, device=lengths.device)  # (T, K)
    last = end.clamp(max=T)
    segment = own.get("segment", zero)
    if "emission" in own:
        finite = torch.where(own["emission"] == -inf, 0.0, own["emission"])
        prefix = torch.nn.functional.pad(finite.cumsum(1), (0, 0, 1, 0))
        segment = segment + prefix[:, last] - prefix[:, :-1, None]
    if "duration" in own:
        segment = segment + own["duration"][:, None]
    if "segment_start" in own:
        segment = segment + own["segment_start"][:, :, None]
    if "segment_end" in own:
        segment = segment + own["segment_end"][:, last - 1]
    allowed = (end <= lengths[:, None, None])[..., None]
    if arcs.lo is not None:
        allowed = allowed & (start[..., None] >= arcs.lo[:, last])
    segment = torch.where(allowed, segment, -inf)

    lead, initial = zero[..., None], zero[:, 0]
    if "transition" in own:
        lead = lead + own["transition"][:, None, None]
    if "duration_transition" in own:
        lead = lead + own["duration_transition"][:, None]
    if "start" in own:
        initial = initial + own["start"][:, None]
    if "edge" in own:
        initial = initial + own["edge"][:, 0, :, 0]
        lead = lead + torch.where(start[..., None, None] > 0, own["edge"], 0.0)  # at 0 the rest may be NaN
    return Scores(segment, lead, initial, own.get("end", zero[0, 0]))


def by_end(x: Tensor) -> Tensor:
    """(B, T, K, C) by start and duration, as (B, K, T, C) by duration and end (row t - 1), -inf where there is none:
    rows that are one longer than they are read move on by one from row to row.
    """
    T, K = x.shape[1:3]
    rows = torch.nn.functional.pad(x.transpose(1, 2), (0, 0, 0, K), value=-inf).flatten(1, 2)
    return rows[:, : K * (T + K - 1)].unflatten(1, (K, T + K - 1))[:, :, :T]


def _layer(g: Tensor, arcs: Scores) -> tuple[Tensor, Tensor]:
    """alpha (B, T, C), in row t - 1, of one segment more than g (B, T, columns, C) has, and the g that follows."""
    alpha = log_sum(by_end(g + arcs.segment), 1)
    before = torch.nn.functional.pad(
        alpha[:, :-1], (0, 0, 1, 0), value=-inf
    )  # a segment ends where the next one starts
    return alpha, log_sum(before[:, :, None, :, None] + arcs.lead, -2)


def by_count(arcs: Scores, lengths: Tensor, most: int) -> Tensor:
    """(B, most): the log-partition over segmentations of exactly m = 1, ..., most segments."""
    B, T, _, C = arcs.segment.shape
    columns = max(arcs.lead.shape[2], arcs.initial.shape[1])
    first = arcs.initial.expand(B, columns, C)[:, None]
    g = torch.cat([first, first.new_full((B, T - 1, columns, C), -inf)], 1)
    at_end = (lengths - 1)[:, None, None].expand(B, 1, C)
    # Autograd would keep the arcs of every layer; they are computed again instead, except where a transform watches.
    again = torch.is_grad_enabled() and arcs.segment.requires_grad and peek_interpreter_stack() is None
    found = []
    for _ in range(min(most, T)):
        alpha, g = checkpoint(_layer, g, arcs, use_reentrant=False) if again else _layer(g, arcs)
        found.append(log_sum(alpha.gather(1, at_end)[:, 0] + arcs.final, -1))
    found += [torch.full_like(found[0], -inf)] * (most - len(found))
    return torch.stack(found, -1)
