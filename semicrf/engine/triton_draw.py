"""Exact samples in Triton, from what a sweep of logarithms stored; see `semicrf.engine.walk.draw`."""

from __future__ import annotations

import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.launch import Kernel
from semicrf.engine.marks import Lists
from semicrf.engine.plan import power
from semicrf.engine.reference import State
from semicrf.engine.sums import sums
from semicrf.kernels import draw as kernels

DRAW = Kernel(kernels.draw)
WINDOW = 32
"""The most durations that are weighed at a time: one a thread."""


def draw(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, seed: int, samples: int, sequence_id: Tensor,
) -> Lists:  # fmt: skip
    """Segments (S, B, T) and their count (S, B)."""
    B, x = lengths.shape[0], sums(models[0], lengths, state, T, K, C)
    start, end, label = (torch.empty(samples, B, T, dtype=torch.int64, device=lengths.device) for _ in range(3))
    count = torch.empty(samples, B, dtype=torch.int64, device=lengths.device)
    words = [((seed >> shift) + 2**31) % 2**32 - 2**31 for shift in (0, 32)]  # as two signed numbers
    rows = x.duration, x.low, x.segment, x.lead, x.final
    own = sum((len(part) > 1) << i for i, part in enumerate(rows))
    numbers = B, T, K, C, x.before.shape[1], x.lead.shape[2], x.lead.shape[1], *words
    sizes = power(max(C, 2)), min(power(K), WINDOW)
    constants = x.low.shape[-1] > 0, x.segment.shape[1] > 0, own, *sizes
    stored, made = (x.alpha, x.g, x.segment, x.lead, x.final), (x.before, x.duration, x.total, x.low)
    if samples and B:
        tensors = stored, lengths, sequence_id.contiguous(), *made, start, end, label, count
        DRAW((samples * B, 1, 1), tensors, numbers, constants, 1)
    return start, end, label, count
