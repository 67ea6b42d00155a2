"""The segmentation of most expected matches, one position at a time: no number is kept for every segment.

What a segment gains is its probability less a cost,

    P(s, t, c) = P(it starts at s | one of label c ends at t) * P(a segment of label c ends at t),

and both factors follow from what a sweep of logarithms stored (`semicrf.engine.sums`) and from its gradient at the ends
of segments. The rest is Viterbi with these gains, wherever the model does not forbid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.lanes import LANES, exp, load, store
from semicrf.engine.cpu.linking import entry, kernel
from semicrf.engine.cpu.path import best
from semicrf.engine.sums import Sums

INF = float("inf")


@kernel
def gains(m, x, ending, b, t, c, cost):
    """Into row 1 of m what segments of label c gain that end at t, by duration, -inf where forbidden; how many."""
    n, own, ours = min(x.duration.shape[2], t), min(b, len(x.duration) - 1), min(b, len(x.segment) - 1)
    if x.low.shape[2] > 0:
        n = min(n, t - x.low[min(b, len(x.low) - 1), c, t])
    frame = x.total[b, c, t]
    if frame == -INF:
        return 0
    for k in range(n):
        m[0, k] = x.before[b, min(k, x.before.shape[1] - 1), c, t - 1 - k] + x.duration[own, c, k] - frame
    if x.segment.shape[1] > 0:
        for k in range(n):
            m[0, k] += x.segment[ours, t - 1 - k, k, c]
    for k in range(0, n, LANES):
        store(m, 1, k, exp(load(m, 0, k)))
    for k in range(n):
        m[1, k] = m[1, k] * ending[b, t - 1, c] - cost if m[0, k] > -INF else -INF
    return n


@kernel
def lead_on(x, b, s, score, onwards, g_id):
    """What leads into a segment that starts at s > 0: the best before it that may."""
    own, at = min(b, len(x.lead) - 1), min(s, x.lead.shape[1] - 1)
    for column in range(onwards.shape[1]):
        by = min(column, x.lead.shape[2] - 1)
        for c in range(onwards.shape[2]):
            found, top = -1, -INF
            for previous in range(onwards.shape[2]):
                if score[s, previous] > top and x.lead[own, at, by, previous, c] > -INF:
                    found, top = previous, score[s, previous]
            onwards[s, column, c], g_id[b, s, column, c] = top, found


@entry
def _judge(b, m, x, ending, length, cost, score, onwards, alpha_id, g_id, end_id, value):
    """Viterbi over one sequence."""
    columns, C = onwards.shape[1:]
    for column in range(columns):
        for c in range(C):
            onwards[0, column, c] = 0.0 if x.g[b, 0, column, c] > -INF else -INF
            g_id[b, 0, column, c] = -1
    for t in range(1, length + 1):
        for c in range(C):
            n, found, top = gains(m, x, ending, b, t, c, cost), -1, -INF
            for k in range(n):
                v = m[1, k] + onwards[t - 1 - k, min(k, columns - 1), c]
                if v > top:
                    found, top = k, v
            score[t, c], alpha_id[b, t, c] = top, found
        if t < length:
            lead_on(x, b, t, score, onwards, g_id)
    found, top = -1, -INF
    for c in range(C):
        if score[length, c] > top and x.final[min(b, len(x.final) - 1), c] > -INF:
            found, top = c, score[length, c]
    end_id[b], value[b] = found, top


def judge(sums: Sums, ending: Tensor, lengths: Tensor, cost: float) -> tuple[Tensor, Tensor, Tensor]:
    """Marks (B, T) of the segmentations that gain most, labels there, and what they gain (B,), -inf where none is
    possible; all on the CPU. `ending` (B, T, C): the probability that a segment of each label ends behind a position.
    """
    (B, columns, C, T), K, x = sums.before.shape, sums.duration.shape[2], sums.arrays()
    alpha_id, g_id = np.full((B, T + 1, C), -1, np.int32), np.full((B, T, columns, C), -1, np.int32)
    end_id, value = np.empty(B, np.int32), np.empty(B)
    ends, at_ends = lengths.cpu().tolist(), ending.cpu().double().contiguous().numpy()

    def task(b: int) -> Callable[[], None]:
        def run() -> None:
            score, onwards, m = np.empty((T + 1, C)), np.empty((T, columns, C)), np.empty((2, K + LANES))
            _judge(b, m, x, at_ends, ends[b], cost, score, onwards, alpha_id, g_id, end_id, value)

        return run

    run_kernel(_judge, [task(b) for b in range(B)], sum(ends) * K * C)
    ids = (torch.from_numpy(i)[None] for i in (alpha_id, g_id, end_id))
    return *best(lengths.cpu(), *ids), torch.from_numpy(value)
