"""Gradients of logarithms of sums from the rows of both directions: which spans of time are taken together, and what
is stored on the way. `semicrf.kernels.meet` has the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from semicrf.engine.launch import INTERPRETED, Kernel, gradients_of, parts_of, summed
from semicrf.engine.plan import known, power, squares
from semicrf.engine.reference import State
from semicrf.kernels import counts, meet

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}
TILES, ROWS, LINK, COVER, SETTLE = map(Kernel, (meet.tiles, meet.rows, meet.link, meet.cover, meet.settle))
POSITIONS, PAIRS, SEGMENTS = map(Kernel, (counts.positions, counts.transition_counts, counts.segment_counts))
EVERY = 8 if INTERPRETED else 1024
"""Positions from one cut to the next, at least: what is between drifts by less than 1e-5 in float32."""
SPAN = 4 if INTERPRETED else 64
"""Positions that one program looks at, at least."""
SHARES = 64
"""The most programs that add up one cut."""
PROGRAMS = 256
"""About as many as count the transitions, of all sequences."""
SMALL = 1 << 19
"""Entries of scratch that are not worth a second run."""


class Run(NamedTuple):
    """Some sequences and positions that are taken together."""

    b0: int
    B: int
    first: int
    own: int  # the first position that is the next run's
    origin: int  # the first that a segment of these reaches back to
    stop: int  # past the last that one reaches


class Cuts(NamedTuple):
    """Sizes that depend on shapes alone, so that sums have one order."""

    every: int  # positions between cuts
    starts: int  # positions of a sum of durations
    pairs: int  # positions of a sum of transitions
    cuts: int

    @classmethod
    def of(cls, B: int, T: int, K: int, C: int) -> Cuts:
        every, starts = max(EVERY, power(K)), EVERY
        while starts < T and B * (T // starts) * K * C > max(SMALL // 4, B * T * C // 32):
            starts *= 2
        return cls(every, starts, max(SPAN, -(-B * T // PROGRAMS)), -(-(T + 1) // every) + 1)


def runs(B: int, T: int, K: int, C: int, cuts: Cuts) -> Iterator[Run]:
    """Runs whose scratch is small beside the emissions."""
    room, whole = max(SMALL, B * T * C // 16), (T + 1) * C
    if whole <= room:
        for b0 in range(0, B, room // whole):
            yield Run(b0, min(room // whole, B - b0), 0, T + 1, 0, T + 1)
        return
    step = max(cuts.every, cuts.starts)
    size = max(1, (room // C - 2 * K) // step) * step
    for b in range(B):
        for first in range(0, T + 1, size):
            own = min(first + size, T + 1)
            yield Run(b, 1, first, own, max(0, first - K) // SPAN * SPAN, min(T + 1, own + K + 1))


class Counts(NamedTuple):
    """Gradients, and how far rounding had gone."""

    grads: list[dict[str, Tensor]]
    deviation: Tensor  # (B, cuts): the logarithm of what must be one, before it was made so


def gradients(
    models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, state: State, cotangent: Tensor,
    wanted: list[set[str]], dtype: torch.dtype,
) -> Counts:  # fmt: skip
    """Gradients of the logarithm of a sum, from a state that has both directions."""
    B, cuts, parts, tile = (
        lengths.shape[0],
        Cuts.of(lengths.shape[0], T, K, C),
        parts_of(models),
        known(K, C, INTERPRETED),
    )

    def new(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    spans = {"duration": -(-T // cuts.starts), "transition": -(-T // cuts.pairs)}
    sums, grads = gradients_of(wanted, B, T, K, C, spans, new, zeros="")
    group = min(8, tile.rows)
    shares = min(SHARES, -(-(min(K, T) + group) // group))
    covered, anchor = (new(B, cuts.cuts, n, C, dtype=torch.float64) for n in (shares, 2))
    deviation = new(B, cuts.cuts, dtype=torch.float64)
    given, seeds = (parts.tensors, grads.tensors, lengths), (cotangent.contiguous(), state.value)
    layouts, sizes = (parts.layout, grads.layout, REAL[dtype], tile.labels), (tile.labels, tile.rows)
    kept = state.alpha, state.offset, state.ahead, state.ahead_offset
    for run in runs(B, T, K, C, cuts):
        size, scratch = run.stop - run.origin, _scratch(run, C, tile.rows, new)
        grid, where = (run.B, -(-size // SPAN), 1), (T, C, run.b0, run.origin)
        shape = *layouts[:1], REAL[dtype], *sizes
        TILES(grid, (parts.tensors, lengths, *scratch), (*where, run.stop, SPAN), shape, 4)
        LINK((run.B, 1, 1), scratch, (C, size), (*sizes, 4 if INTERPRETED else 32), 4)
        bounds = run.first, run.own, run.stop
        steps = *layouts, tile.rows, min(tile.rows, squares(C))
        ROWS(grid, (*given, state.value, *kept, *scratch), (*where, *bounds, SPAN), steps, tile.warps)
        cut0 = run.first // cuts.every + (run.first > 0)
        last = cuts.cuts - 1 if run.own > T else run.own // cuts.every
        here, every = (run.B, last - cut0 + 1), (cuts.cuts, cuts.every)
        numbers = T, K, C, run.b0, run.origin, run.stop, cut0, *every
        COVER((*here, shares), (parts.tensors, lengths, *scratch, covered), numbers, (*shape, group), 4)
        numbers = T, C, run.b0, shares, cut0, *every
        SETTLE((*here, 1), (*given, covered, anchor, deviation), numbers, (grads.layout, tile.labels), 1)
        if "duration" in wanted[0]:
            grid = run.B, -(-K // 4), -(-(min(run.own, T) - run.first) // cuts.starts)
            numbers = T, K, C, run.b0, run.origin, *bounds, cuts.starts, *every
            SEGMENTS(grid, (*given, *seeds, deviation, *scratch), numbers, (*layouts, tile.rows, 4, group), 4)
    numbers = T, C, cuts.cuts, cuts.every
    POSITIONS((B, cuts.cuts - 1, 1), (*given, *seeds, anchor, deviation), numbers, (*layouts, tile.rows), 4)
    if "transition" in wanted[0]:
        grid, numbers = (B, spans["transition"], 1), (T, C, cuts.pairs, cuts.cuts, cuts.every)
        PAIRS(grid, (*given, *seeds, *kept, deviation), numbers, (*layouts, squares(C)), tile.warps)
    found = {n: summed(sums[0][n], models[0][n], n in spans) for n in wanted[0]}
    return Counts([found], deviation)


def _scratch(run: Run, C: int, rows: int, new: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """What `semicrf.kernels.meet.scratch_of` divides among sequences."""
    size = run.stop - run.origin
    tiles = -(-size // rows) + 1
    starts, ends = (new(run.B, size, C, dtype=torch.float64) for _ in range(2))
    bounds = new(run.B, size, C, dtype=torch.int8), new(run.B, tiles, C, dtype=torch.int32)
    return starts, ends, new(run.B, tiles, C, dtype=torch.float64), *bounds
