"""Segments as lists, from marks at the positions where they start."""

from __future__ import annotations

import torch
from torch import Tensor

Lists = tuple[Tensor, Tensor, Tensor, Tensor]
"""start, end and label of segments in order, int64 ``(..., N)``, -1 past the end, and their count ``(...)``."""


def listed(is_start: Tensor, label: Tensor, lengths: Tensor) -> Lists:
    """Marks, bool ``(..., T)``, none past a length, and the labels there, as lists with ``N = T``.

    Nothing synchronises.
    """
    T = is_start.shape[-1]
    t = torch.arange(T, device=is_start.device).expand_as(is_start)
    # Each start goes to its rank; everything else goes to one slot past the end, which is cut off.
    slot = torch.where(is_start, is_start.cumsum(-1) - 1, T)
    padding = t.new_full((*t.shape[:-1], T + 1), -1)
    start, count = padding.scatter(-1, slot, t), is_start.sum(-1)
    end = torch.where(t + 1 < count[..., None], start[..., 1:], lengths[..., None])
    label = padding.scatter(-1, slot, label.long())[..., :-1].contiguous()
    return start[..., :-1].contiguous(), torch.where(t < count[..., None], end, -1), label, count
