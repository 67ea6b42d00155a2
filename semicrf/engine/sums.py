"""What a walk backwards weighs: the sums that a forward sweep of logarithms stored, with the scores that act on them.

A walker that stands at t with label c draws the duration k of the segment that ends there, and at its start s the label
c' before it, with the probabilities

    exp(before[s, c] + duration[k, c] + segment[s, k, c] - total[t, c])    where s = t - k >= low[t, c],
    exp(alpha[s, c'] + lead[s, k, c', c] - g[s, k, c]).

As they are known to sum to one, a draw reads no further than to the choice that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from semicrf.engine.reference import State

inf = float("inf")


class Sums(NamedTuple):
    """Tensors whose first axis is the batch, or 1 where the batch shares them; what is not float64 is in the dtype in
    which it was given. Past a length they may hold anything.
    """

    before: Tensor  # (B, columns, C, T) float64
    duration: Tensor  # (B or 1, C, K) float64
    segment: Tensor  # (B or 1, T, K, C), or (1, 0, K, C)
    total: Tensor  # (B, C, T + 1) float64
    low: Tensor  # (B or 1, C, T + 1) int32, or (1, C, 0)
    alpha: Tensor  # (B, T + 1, C), relative to some number of the position
    g: Tensor  # (B, T, columns, C), relative to the same one
    lead: Tensor  # (B or 1, T or 1, columns or 1, C, C)
    final: Tensor  # (B or 1, C)

    def arrays(self) -> Sums:
        """The same as NumPy's arrays on the host, float64 but for `low`, which loops of numba take."""
        host = (x if x.dtype == torch.int32 else x.double() for x in (x.detach().cpu() for x in self))
        return Sums._make(x.numpy() for x in host)


def probability(x: Sums, ending: Tensor, lengths: Tensor, b: Tensor, s: Tensor, k: Tensor, c: Tensor) -> Tensor:
    """The probability of segments of sequence b, of label c, that start at s and last k, float64; 0 where there is none
    such. Integers that broadcast together, 1 <= k <= K and 0 <= s < T.

    `ending` (B, T, C): the probability that a segment of label c ends behind a position.
    """
    t, T = s + k, x.before.shape[-1]
    inside = t <= lengths[b]
    s, t = torch.where(inside, s, 0), torch.where(inside, t, 1).clamp(max=T)

    def own(part: Tensor) -> Tensor:
        return b if part.shape[0] > 1 else torch.zeros_like(b)

    frame = x.total[b, c, t]
    w = x.before[b, (k - 1) * (x.before.shape[1] > 1), c, s] + x.duration[own(x.duration), c, k - 1]
    if x.segment.shape[1] > 0:
        w = w + x.segment[own(x.segment), s, k - 1, c]
    allowed = inside & (frame > -inf)
    if x.low.shape[-1] > 0:
        allowed = allowed & (s >= x.low[own(x.low), c, t])
    share = torch.where(allowed, w - frame, -inf).exp()
    return torch.where(allowed, share * ending[b, t - 1, c], 0.0)


def by_duration(x: Sums, ending: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, K) float64: the probability that a segment starts at s and lasts k, of any label."""
    (B, columns, _, T), K = x.before.shape, x.duration.shape[2]
    t = torch.arange(T + 1, device=lengths.device)
    reached = (x.total > -inf) & (t <= lengths[:, None, None])
    at_end = torch.where(reached[..., 1:], ending.mT.double(), 0.0)
    lasting = ending.new_zeros(B, T, K, dtype=torch.float64)
    for k in range(1, min(K, T) + 1):
        n = T - k + 1
        w = x.before[:, (k - 1) * (columns > 1), :, :n] + x.duration[:, :, k - 1, None] - x.total[..., k:]
        if x.segment.shape[1] > 0:
            w += x.segment[:, :n, k - 1].mT
        allowed = reached[..., k:]
        if x.low.shape[-1] > 0:
            allowed = allowed & (t[:n] >= x.low[..., k:])
        lasting[:, :n, k - 1] = (torch.where(allowed, w, -inf).exp() * at_end[..., k - 1 :]).sum(1)
    return lasting


def sums(parts: Mapping[str, Tensor], lengths: Tensor, state: State, T: int, K: int, C: int) -> Sums:
    """From a model's parts and the state that a sweep of logarithms kept. On a GPU nothing synchronises."""
    real = {"dtype": torch.float64, "device": lengths.device}
    before = state.g[0].permute(0, 2, 3, 1) + state.offset[0, :, None, None, :-1]  # float64, as offsets are
    total = state.alpha[0].mT + state.offset[0, :, None]
    if "emission" in parts:
        prefix = torch.nn.functional.pad(_finite(parts["emission"]).cumsum(-1), (1, 0))
        before, total = before - prefix[:, None, :, :-1], total - prefix
    if "segment_start" in parts:
        before = before + parts["segment_start"].double().mT[:, None]
    if "segment_end" in parts:
        total = total - torch.nn.functional.pad(parts["segment_end"].double().mT, (1, 0))
    duration = parts["duration"].double().mT if "duration" in parts else torch.zeros(1, C, K, **real)
    segment = parts["segment"] if "segment" in parts else torch.zeros(1, 0, K, C, **real)
    lead = torch.zeros(1, 1, 1, C, C, **real)
    for i, name in enumerate(n for n in ("transition", "duration_transition", "edge") if n in parts):
        part = parts[name].unflatten(0, (-1, *[1] * (5 - parts[name].dim())))
        lead = lead + part if i else part
    final = parts.get("end", torch.zeros(1, C, **real))
    low = _low(parts, T, C, lengths.device)
    made = before, duration, segment, total, low, state.alpha[0], state.g[0], lead, final
    return Sums(*(x.contiguous() for x in made))


def _finite(emission: Tensor) -> Tensor:
    """(B or 1, C, T) float64, 0 in the place of -inf. Positions come last: sums along the last axis are fast."""
    e = emission.mT.contiguous().double()
    return torch.where(e == -inf, 0.0, e)


def _low(parts: Mapping[str, Tensor], T: int, C: int, device: torch.device) -> Tensor:
    """Where a segment of label c that ends at t may start at the earliest, by -inf emissions and required starts."""
    after = torch.arange(1, T + 1, dtype=torch.int32, device=device)
    low = torch.zeros((), dtype=torch.int32, device=device)
    if "emission" in parts:
        forbidden = parts["emission"].mT == -inf
        if forbidden.is_cuda or bool(forbidden.any()):
            low = torch.where(forbidden, after, 0)
    if "required" in parts:
        low = torch.maximum(low, torch.where(parts["required"], after - 1, 0)[:, None])
    if not low.dim():
        return low.expand(1, C, 0)
    return torch.nn.functional.pad(low.cummax(-1).values, (1, 0)).expand(-1, C, -1)
