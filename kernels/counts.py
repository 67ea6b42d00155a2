"""Gradients from rows that are all known: no order in time is left, so spans of it are independent programs.

`meet` takes the place of the reverse sweep where elements are the logarithms of sums: the cotangent of a row is the
probability that follows from what leads to it and what may follow, both kept by `scan_both`.
"""

import triton
import triton.language as tl
from semicrf.kernels.scan import rows_of
from semicrf.kernels.scan_vjp import arc_rows, pulled_back, tile_arcs
from semicrf.kernels.state import (
    add_up,
    constants,
    expand,
    in_gauge,
    less,
    load_tuple,
    plus,
    positional,
    store_grads,
    take,
    transitions,
)
from semicrf.kernels.table import durations, tabulate


@triton.jit
def both_ways(before, offsets, after, after_offsets, s, here, n, value, C, lab, F: tl.constexpr):
    """(rows, labels): the share of all segmentations that pass s, given what leads there and what may follow; 0 where
    masked.
    """
    wide = C.to(tl.int64)
    place = s[:, None] * wide + lab[None, :]
    behind = (n - s)[:, None] * wide + lab[None, :]
    rows = (s >= 0) & (s <= n)
    level = tl.load(offsets + s, mask=rows, other=0.0) + tl.load(after_offsets + n - s, mask=rows, other=0.0) - value
    x = tl.load(before + place, mask=here, other=float("-inf"))
    x += tl.load(after + behind, mask=here, other=float("-inf"))
    return tl.where(x == float("-inf"), 0.0, tl.exp(x + level.to(F)[:, None]))


@triton.jit
def reached(cotangent, value, b):
    """The cotangent of a value and that value, 0 where it is not finite."""
    v = tl.load(value + b)
    finite = (v > float("-inf")) & (v < float("inf"))
    return tl.where(finite, tl.load(cotangent + b), 0.0), tl.where(finite, v, 0.0)


@triton.jit(do_not_specialize=["T", "K", "C"])
def meet(
    parts, grads, lengths, cotangent, value, alpha, g, offsets, alpha_id, g_id, ahead, ahead_offsets, rows, limit,
    frames, table, T, K, C, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
    TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """The rows of one sequence: cotangents of alpha, what `duration_counts` reads, gradients of all but what positions
    share; 0 past its length.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    row, lab = tl.arange(0, TB), tl.arange(0, CP)
    inside = (lab < C)[None, :]
    wide = C.to(tl.int64)
    length = T.to(tl.int64)
    kept, strides = rows_of(b, B, wide, length, alpha, g, alpha_id, g_id, offsets)
    arc, fstride = arc_rows(b, B, wide, T, rows, limit, frames, S.fields, TB)
    ahead_offsets += b * (length + 1)
    into = ahead + b * (length + 1) * wide  # what may follow a start
    onward = ahead + B * (length + 1) * wide + b * length * wide  # what may follow an end
    tabulate(parts, table, b, B, K, C, P, F, CP, TB, SB)
    given, level = reached(cotangent, value, b)
    base = constants(S.still, tl.zeros([CP], tl.float64))
    mass = tl.zeros([CP], tl.float64)
    carried = constants(S.unlimited, tl.zeros([CP], tl.int32))
    tiles = T // TB + 1
    for j in range(tiles):
        s0 = (tiles - 1 - j) * TB
        s = s0 + row
        base, carried, _, _, holes = tile_arcs(parts, b, s0, n, carried, base, kept[4], strides[2], arc, strides[0],
                                               fstride, T, C, S, P, F, CP, TB)  # fmt: skip
        ends, starts = ((s >= 1) & (s <= n))[:, None] & inside, (s < n)[:, None] & inside
        ended = both_ways(kept[0], kept[4], onward, ahead_offsets, s, ends, n, level, C, lab, F) * given.to(F)
        started = both_ways(kept[1], kept[4], into, ahead_offsets, s, starts, n, level, C, lab, F) * given.to(F)
        at = s[:, None] * wide + lab[None, :]
        tl.store(arc[0] + at, ended, mask=(s <= n)[:, None] & inside)
        flow = (ended - started).to(tl.float64)
        whole = tl.where(holes[0], 0.0, mass[None, :] + tl.cumsum(flow, 0, reverse=True)).to(F)
        mass += tl.sum(flow, 0)
        before, here = ((s >= 1) & (s <= T))[:, None] & inside, (s < T)[:, None] & inside
        store_grads(grads, G.emission, b, T * wide, -wide, at, (whole,), before)
        store_grads(grads, G.segment_end, b, T * wide, -wide, at, (ended,), before)
        store_grads(grads, G.segment_start, b, T * wide, 0, at, (started,), here)
        store_grads(grads, G.start, b, C, 0, at, (started,), (s == 0)[:, None] & inside)
        store_grads(grads, G.end, b, C, -n * wide, at, (ended,), (s == n)[:, None] & inside)


@triton.jit(do_not_specialize=["T", "C", "span"])
def transition_counts(
    parts, grads, lengths, cotangent, value, alpha, g, offsets, alpha_id, g_id, ahead, ahead_offsets, T, C, span,
    S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Gradients of transitions over `span` positions of one sequence; spans are summed later."""
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    lab, prev = tl.arange(0, CP), tl.arange(0, CP)
    inside = (lab < C)[None, :]
    wide = C.to(tl.int64)
    length = T.to(tl.int64)
    kept, strides = rows_of(b, B, wide, length, alpha, g, alpha_id, g_id, offsets)
    ahead_offsets += b * (length + 1)
    into = ahead + b * (length + 1) * wide
    given, level = reached(cotangent, value, b)
    leads = expand(transitions(parts, P, b, prev[:, None], lab[None, :], C, F), 0)
    total = constants(S.still, tl.zeros([CP, CP], F))
    first = tl.program_id(1) * span
    for s0 in range(first, tl.minimum(first + span, n), SB):
        s = s0 + tl.arange(0, SB)
        here = ((s >= 1) & (s < n))[:, None] & inside
        started = both_ways(kept[1], kept[4], into, ahead_offsets, s, here, n, level, C, lab, F) * given.to(F)
        at = s[:, None] * wide + lab[None, :]
        y = load_tuple(kept[1], strides[1], at, here, S.zero, F)
        x = load_tuple(kept[0], strides[0], at, here, S.zero, F)
        pulled = pulled_back(expand((started,), 1), expand(y, 1), expand(x, 2), leads, expand(y, 1),
                             prev[None, :, None], S)  # fmt: skip
        total = plus(total, add_up(take(pulled, S.fields, S.fields + S.potentials), 0, S.potentials))
    store_grads(grads, G.transition, b * tl.num_programs(1) + tl.program_id(1), wide * C, 0,
                prev[:, None] * C + lab[None, :], total, (prev < C)[:, None] & inside)  # fmt: skip


@triton.jit(do_not_specialize=["T", "K", "C", "pitch", "span"])
def duration_counts(
    parts, grads, lengths, alpha, g, offsets, alpha_id, rows, limit, frames, table, T, K, C, pitch, span,
    S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
    KB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Gradients of durations: KB of them a program, over `span` sources of one sequence; spans are summed later."""
    b = tl.program_id(0).to(tl.int64)
    B = tl.num_programs(0).to(tl.int64)
    spans = tl.num_programs(2)
    k = 1 + tl.program_id(1) * KB + tl.arange(0, KB)
    s_first = tl.program_id(2) * span
    n = tl.load(lengths + b).to(tl.int32)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    labels = C.to(tl.int64)
    astride, gstride = B * (T + 1) * labels, B * T * labels
    arc, fstride = arc_rows(b, B, labels, T, rows, limit, frames, S.fields, TB)
    whole = b * (T + 1) * labels
    offsets += b * (T + 1)
    inside = (k <= K)[:, None, None] & (lab < C)[None, None, :]
    k_in = tl.minimum(k, K)[:, None, None]
    d = durations(table + b * pitch * (CP + 1), B * pitch * (CP + 1), k_in, lab[None, None, :], S, CP, TB)
    total = constants(S.still, tl.zeros([KB, CP], F))
    for s0 in range(s_first, tl.minimum(s_first + span, n), SB):
        s = s0 + q
        starts = (s < n)[:, None] & (lab < C)[None, :]
        at = s0 * labels + q[:, None] * C + lab[None, :]
        begins = positional(parts, P.segment_start, P, b, s[:, None], n, lab[None, :], T, C, F)
        v = less(begins, load_tuple(arc[1], astride, at, starts, S.still, F))
        longest = load_tuple(arc[2], astride, at, starts, S.unbounded, tl.int32)
        gs = load_tuple(g + b * T * labels, gstride, at, starts, S.zero, F)
        us = expand(S.act(in_gauge(gs, offsets, B * (T + 1), s[:, None], n, s0, S, F), v), 0)
        t = s[None, :, None] + k[:, None, None]
        here = (t <= n) & inside
        to = t * labels + lab[None, None, :]
        y = load_tuple(alpha + whole, astride, to, here, S.zero, F)
        y = in_gauge(y, offsets, B * (T + 1), t, n, s0, S, F)
        gy = load_tuple(arc[0], astride, to, here, S.nothing, F)
        id = load_tuple(alpha_id + whole, astride, to, here, S.nowhere, tl.int32)
        ends = plus(load_tuple(arc[1], astride, to, here, S.still, F),
                    positional(parts, P.segment_end, P, b, t - 1, n, lab[None, None, :], T, C, F))  # fmt: skip
        shift = load_tuple(arc[3], fstride, (t // TB) * C + lab[None, None, :], here, S.still, tl.float64)
        own = load_tuple(arc[3], fstride, (s // TB)[:, None] * C + lab[None, :], starts, S.still, tl.float64)
        w = ()
        for m in tl.static_range(S.potentials):
            x = d[m] + (ends[m] + (shift[m] - own[m][None, :, :]).to(F))
            w = w + (tl.where(here & (k[:, None, None] <= longest[m][None, :, :]), x, float("-inf")),)
        pulled = pulled_back(gy, y, us, w, id, (k - 1)[:, None, None] + tl.zeros([KB, SB, CP], tl.int32), S)
        total = plus(total, add_up(take(pulled, S.fields, S.fields + S.potentials), 1, S.potentials))
    store_grads(grads, G.duration, b * spans + tl.program_id(2), K * labels, 0, (k - 1)[:, None] * C + lab[None, :],
                total, (k <= K)[:, None] & (lab < C)[None, :])  # fmt: skip
