"""A model read backwards in time, so that the forward sweep of the mirror image is the backward sweep of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from semicrf.engine.arcs import Arcs
from semicrf.engine.layout import BY_DURATION
from semicrf.engine.reference import State
from semicrf.engine.spans import Spans

inf = float("inf")
SWAPPED = {"start": "end", "end": "start", "segment_start": "segment_end", "segment_end": "segment_start"}


def mirrored(parts: Mapping[str, Tensor], lengths: Tensor, T: int, K: int, C: int) -> dict[str, Tensor]:
    """The parts of the mirror image, for `lengths` (B,): position t is t' = length - 1 - t.

    Where what leads into a segment depends on its duration, the image needs what leads *out* of one to depend on it,
    which only single arcs can say: then it is one `edge`, of B T K C^2 numbers, whose labels are those *before* a
    segment.
    """
    if BY_DURATION & parts.keys():
        return {"edge": _edges(Spans(parts, lengths, T, K, C))}
    image = {}
    at = torch.arange(T, device=lengths.device)
    back = (lengths[:, None] - 1 - at).clamp(min=0)  # what lies past a length is not read

    def flip(x: Tensor, index: Tensor) -> Tensor:
        x = x.expand(len(lengths), *x.shape[1:])
        return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))

    for name, part in parts.items():
        if name == "transition":
            image[name] = part.mT
        elif name in ("start", "end", "duration"):
            image[SWAPPED.get(name, name)] = part
        elif name == "segment":
            rows = [flip(part[:, :, k], (back - k).clamp(min=0)) for k in range(K)]
            image[name] = torch.stack(rows, 2)
        elif name == "required":  # a start at t is one at length - t, so that at 0 there is always one
            image[name] = flip(part, (lengths[:, None] - at).clamp(0, T - 1)) & (at > 0)
        else:
            image[SWAPPED.get(name, name)] = flip(part, back)
    return image


def _edges(arcs: Spans) -> Tensor:
    """(B, T, K, C, C): the arcs of the image, from the label of a segment to that before it (to 0 before the first)."""
    B, T, K, C = arcs.B, arcs.T, arcs.K, arcs.C
    edge = torch.full((B, T, K, C, C), -inf, dtype=torch.float64, device=arcs.device)
    batch = torch.arange(B, device=arcs.device)[:, None]
    for k in range(1, min(K, T) + 1):
        into = leads(arcs, k)[:, : T - k + 1] + by_start(arcs, k)[:, :, None]  # from each label, by start
        first = torch.full_like(into[:, :1], -inf)
        first[:, 0, 0] = arcs.initial()[:, min(k, arcs.columns) - 1] + by_start(arcs, k)[:, 0]
        out = torch.cat([first, into[:, 1:]], 1).mT
        start = arcs.lengths[:, None] - k - torch.arange(T - k + 1, device=arcs.device)
        edge[:, : T - k + 1, k - 1] = out[batch, start.clamp(min=0)]
    last = (edge[:, 0] + arcs.final()[:, None, :, None]).amax(2)  # the image's first arcs come from nowhere
    edge[:, 0, :, 0] = last
    return edge


def leads(arcs: Arcs, k: int) -> Tensor:
    """(B or 1, T, C, C): what leads into a segment of duration k from each label, by start; not meant for start 0."""
    w = torch.zeros(1, 1, arcs.C, arcs.C, dtype=torch.float64, device=arcs.device)
    if "transition" in arcs.parts:
        w = w + arcs.parts["transition"][:, None]
    if "duration_transition" in arcs.parts:
        w = w + arcs.parts["duration_transition"][:, None, k - 1]
    if "edge" in arcs.parts:
        w = w + arcs.parts["edge"][:, :, k - 1]
    return w.expand(-1, arcs.T, -1, -1)


def by_start(arcs: Spans, k: int) -> Tensor:
    """(B, T - k + 1, C): the scores of segments of duration k, by start. One new tensor, added to in place."""
    n, parts = arcs.T - k + 1, arcs.parts
    w = torch.zeros(arcs.B, n, arcs.C, dtype=torch.float64, device=arcs.device)
    if arcs.prefix is not None:
        w += arcs.prefix[:, k:]
        w -= arcs.prefix[:, :n]
    if "duration" in parts:
        w += parts["duration"][:, k - 1, None]
    if "segment_start" in parts:
        w += parts["segment_start"][:, :n]
    if "segment_end" in parts:
        w += parts["segment_end"][:, k - 1 :]
    start = torch.arange(n, device=arcs.device)[:, None]
    if arcs.segment is not None:
        inside = start + k <= arcs.lengths[:, None, None]
        w += torch.where(inside, arcs.segment[:, :n, k - 1], 0.0)  # what lies outside may be NaN
    return w if arcs.lo is None else w.masked_fill_(start < arcs.lo[:, k:], -inf)


def behind(state: State, arcs: Arcs, final: Tensor) -> Tensor:
    """(B, T + 1, C): the total of what follows a segment of label c that ends at t, from the image's `state`; -inf past
    a length. `final` is the model's.
    """
    B, T, C = arcs.B, arcs.T, arcs.C
    back = arcs.lengths[:, None] - torch.arange(T + 1, device=arcs.device)
    place = back.clamp(min=0)[..., None].expand(B, -1, C)
    if BY_DURATION & arcs.parts.keys():  # its labels are those before a segment
        rows = state.alpha[0].double() + state.offset[0, :, :, None]
        found = torch.where((back == 0)[..., None], final[:, None], rows.gather(1, place))
    else:
        rows = state.g[0, :, :, 0].double() + state.offset[0, :, :-1, None]
        found = rows.gather(1, place.clamp(max=T - 1))
    return torch.where((back >= 0)[..., None], found, -inf)
