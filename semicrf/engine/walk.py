"""The backward walk along one segmentation: by stored choices (the best path) or by drawing (a sample).

Both go through time together: at position t every walker that stands there chooses the duration of the segment that
ends there and the label before it. A walk leaves marks, ``(start here?, label)`` per position, which
`Segments.from_boundaries` reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.arcs import Arcs
from semicrf.engine.marks import Lists, listed
from semicrf.engine.reference import Algebra, State, Windows, _windows

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(t, labels of the walkers) -> (duration of the segment that ends at t, label before it)."""


def _walk(lengths: Tensor, label: Tensor, T: int, choose: Choose) -> tuple[Tensor, Tensor]:
    """Marks (..., T) of walkers (...) that begin at their length with `label`; a walker with label -1 leaves none."""
    position = torch.where(label >= 0, lengths.expand_as(label), -1)
    marks = torch.zeros(*label.shape, T, dtype=torch.bool, device=label.device)
    labels = torch.full((*label.shape, T), -1, device=label.device)
    for t in range(T, 0, -1):
        here = position == t
        duration, before = choose(t, label.clamp(min=0))
        start = (t - duration).clamp(min=0)[..., None]
        marks.scatter_(-1, start, marks.gather(-1, start) | here[..., None])
        labels.scatter_(-1, start, torch.where(here[..., None], label[..., None], labels.gather(-1, start)))
        position = torch.where(here, t - duration, position)
        label = torch.where(here, before, label)
    return marks, labels


def best(lengths: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Marks (B, T) of the segmentation that a scan of Max chose: smallest duration, then smallest previous label on
    ties.
    """
    T, columns = state.g_id.shape[2:4]
    row = torch.arange(lengths.shape[0], device=lengths.device)

    def choose(t: int, label: Tensor) -> tuple[Tensor, Tensor]:
        duration = state.alpha_id[0, row, t, label].clamp(min=0) + 1
        start = (t - duration).clamp(min=0)
        return duration, state.g_id[0, row, start, (duration - 1) * (columns > 1), label]

    return _walk(lengths, state.end_id[0], T, choose)


def draw(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, seed: int, samples: int, sequence_id: Tensor,
) -> Lists:  # fmt: skip
    """Exact samples, segments (S, B, T): forward filtering, backward sampling (Scott 2002) on the stored sums of Log.

    The draw at a position depends on (seed, sample, sequence id, position) alone: position t draws the duration of the
    segment that ends at t and the label before it, position 0 the final label. Each is the inverse of a cumulative sum
    in index order.
    """
    algebra, arcs = Algebra(program, lengths.device), [Arcs(m, lengths, T, K, C) for m in models]
    B, columns = lengths.shape[0], state.g.shape[3]
    windows = Windows((0, 0, T, columns, 0), K, True, lengths.device)
    number = torch.arange(samples, device=lengths.device)[:, None]
    row = torch.arange(B, device=lengths.device).expand(samples, B)

    def choose(t: int, label: Tensor) -> tuple[Tensor, Tensor]:
        u, v = uniform(seed, number, sequence_id, torch.full_like(row, t))
        sources = arcs[0].sources(t)
        into = algebra.act(state.g[windows.index(sources)], _windows(arcs, t, sources, state.offset, t))[0]
        k = invert(into.movedim(-1, 1)[row, label], u)
        start = t - 1 - k
        before = torch.zeros_like(label)
        for s in torch.unique(start).tolist() if t > 1 else []:
            if s > 0:
                x = state.alpha[:, :, s, None, :, None].expand(-1, -1, columns, -1, C)
                lead = algebra.act(x, [a.transition(s) for a in arcs])[0].expand(B, columns, C, C)
                chosen = invert(lead[row, k * (columns > 1), :, label], v)
                before = torch.where(start == s, chosen, before)
        return k + 1, before

    at_end = algebra.act(state.alpha[:, torch.arange(B, device=lengths.device), lengths], [a.final() for a in arcs])[0]
    u, _ = uniform(seed, number, sequence_id, torch.zeros_like(row))
    final = torch.where(state.value[0] > -float("inf"), invert(at_end.expand(samples, B, C), u), -1)
    return listed(*_walk(lengths, final, T, choose), lengths)


def invert(logits: Tensor, u: Tensor) -> Tensor:
    """The index drawn by u in [0, 1) from weights exp(logits) over the last axis; never one of weight zero."""
    peak = logits.amax(-1, keepdim=True)
    weights = torch.exp(logits - torch.where(peak.isfinite(), peak, 0.0))
    cumulative = weights.cumsum(-1)
    passed = (cumulative <= u[..., None] * cumulative[..., -1:]).sum(-1)
    places = torch.arange(logits.shape[-1], device=logits.device)
    last = torch.where(weights > 0, places, 0).amax(-1)  # u * total may round up to the total
    return torch.minimum(passed, last)


def uniform(seed: int, sample: Tensor, sequence: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Two float64 uniforms in [0, 1) for every (sample, sequence, position): Philox 4x32-10 (Salmon et al. 2011).

    >>> u, v = uniform(0, torch.tensor(0), torch.tensor(0), torch.tensor(0))
    >>> round(u.item(), 6), round(v.item(), 6)
    (0.399046, 0.735713)
    """
    low = 0xFFFFFFFF
    c = list(torch.broadcast_tensors(position & low, sequence & low, sample & low, (sequence >> 32) & low))
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [((b >> 32) & low) ^ c[1] ^ k0, b & low, ((a >> 32) & low) ^ c[3] ^ k1, a & low]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    unit = [((c[i] >> 5) * 2**26 + (c[i + 1] >> 6)).to(torch.float64) * 2.0**-53 for i in (0, 2)]
    return unit[0], unit[1]
