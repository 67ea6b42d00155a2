"""The walk along the stored choices of the best path, one segment at a time; see `semicrf.engine.walk.best`."""

from __future__ import annotations

import torch
from torch import Tensor

from semicrf.engine.cpu.linking import entry


@entry
def _follow(lengths, alpha_id, g_id, end_id, marks, labels):
    """Write where segments start, and their labels, from the end to the beginning."""
    columns = g_id.shape[2]
    for b in range(lengths.shape[0]):
        t, label = lengths[b], end_id[b]
        if label < 0:
            continue
        while t > 0:
            k = max(alpha_id[b, t, max(label, 0)], 0)
            s = max(t - 1 - k, 0)
            marks[b, s] = True
            labels[b, s] = label
            label = g_id[b, s, k if columns > 1 else 0, max(label, 0)]
            t = s


def best(lengths: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor) -> tuple[Tensor, Tensor]:
    """Marks (B, T) of the segmentation that a scan of Max chose, and the labels at them."""
    B, T = g_id.shape[1:3]
    marks, labels = torch.zeros(B, T, dtype=torch.bool), torch.full((B, T), -1)
    alpha_id, g_id, end_id = (i[0].contiguous() for i in (alpha_id, g_id, end_id))
    _follow(lengths.contiguous().numpy(), alpha_id.numpy(), g_id.numpy(), end_id.numpy(), marks.numpy(), labels.numpy())
    return marks, labels
