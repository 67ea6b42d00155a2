"""What is counted once rows are all known: durations after a reverse sweep; and, from both directions (`meet`), what
positions and durations take of the segments there.
"""

import triton
import triton.language as tl

from semicrf.kernels.meet import correction, duration_scores, given, scratch_of, sources
from semicrf.kernels.scan_vjp import arc_rows, pulled_back
from semicrf.kernels.state import (
    add_up,
    constants,
    emissions,
    expand,
    in_gauge,
    less,
    load_tuple,
    plus,
    positional,
    store_grads,
    take,
)
from semicrf.kernels.table import durations


@triton.jit
def scaled(grads, which: tl.constexpr, at, weight, mask):
    """Gradients that are wanted, times a weight, in place."""
    if which[0] >= 0:
        p = grads[which[0]] + at
        x = tl.load(p, mask=mask, other=0.0)
        tl.store(p, x * weight, mask=mask)


@triton.jit(do_not_specialize=["T", "C", "cuts", "every", "span"])
def positions(
    parts, grads, lengths, cotangent, value, anchor, deviation, T, C, cuts, every, span, P: tl.constexpr,
    G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    """Between two cuts: every probability is corrected, times the cotangent. Those of positions are what has started
    less what has ended since the cut, and what the next cut lacks of that is spread over the way there.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.load(lengths + b).to(tl.int32)
    c = given(cotangent, value, b)
    row, lab, next = tl.arange(0, TB), tl.arange(0, CP), tl.arange(0, CP)
    wide = C.to(tl.int64)
    inside = (lab < C)[None, :]
    origin = b * T * wide
    begin, stop = i * every, tl.minimum((i + 1) * every, T + 1)
    left, right = tl.minimum(begin, n - 1), tl.minimum((i + 1) * every, n - 1)
    if G.emission[0] >= 0:
        flow = grads[G.emission[0]] + origin
        mass = tl.load(anchor + (b * cuts + i) * 2 * C + lab, mask=lab < C, other=0.0)
        goal = anchor + (b * cuts + i + 1) * 2 * C + lab
        lack = tl.load(goal, mask=lab < C, other=0.0) - mass
        if right == stop:  # the row of the next cut is another program's
            step = tl.load(goal + C, mask=lab < C, other=0.0)
            lack -= step * tl.exp(-tl.load(deviation + b * cuts + i + 1))
        for q0 in range(begin, tl.minimum(right + 1, stop), TB):
            q = q0 + row
            weight = correction(deviation, b, q, n, cuts, every)[:, None]
            here = ((q > left) & (q <= right) & (q < stop))[:, None] & inside
            x = tl.load(flow + q[:, None] * wide + lab[None, :], mask=here, other=0.0)
            lack -= tl.sum(x.to(tl.float64) * weight, 0)
        each = lack / tl.maximum(right - left, 1).to(tl.float64)
        for q0 in range(begin, tl.minimum(stop, T), TB):
            q = q0 + row
            weight = correction(deviation, b, q, n, cuts, every)[:, None]
            here = ((q > left) & (q <= right) & (q < stop))[:, None] & inside
            x = tl.load(flow + q[:, None] * wide + lab[None, :], mask=here, other=0.0).to(tl.float64) * weight
            x = tl.where(here, x + each[None, :], 0.0)
            whole = mass[None, :] + tl.cumsum(x, 0)
            mass += tl.sum(x, 0)
            _, holes = emissions(parts, P, b, q0, n, row, lab, T, C, F)
            whole = tl.where(holes[0] | (q >= n)[:, None], 0.0, whole * c)
            mine = (q < tl.minimum(stop, T))[:, None] & inside
            tl.debug_barrier()
            tl.store(flow + q[:, None] * wide + lab[None, :], whole.to(F), mask=mine)
    for q0 in range(begin, stop, TB):
        q = q0 + row
        weight = (correction(deviation, b, q, n, cuts, every) * c).to(F)[:, None]
        at = origin + q[:, None] * wide + lab[None, :]
        mine = (q < stop)[:, None] & inside
        scaled(grads, G.segment_start, at, weight, mine & (q < T)[:, None])
        scaled(grads, G.segment_end, at - wide, weight, mine & (q >= 1)[:, None])
        once = b * C + lab[None, :] + 0 * q[:, None]
        scaled(grads, G.start, once, weight, mine & (q == 0)[:, None])
        scaled(grads, G.end, once, weight, mine & (q == n)[:, None])
    for q0 in range(begin, stop, span):
        weight = correction(deviation, b, tl.minimum(q0 + span // 2, n), n, cuts, every) * c
        at = (b * tl.cdiv(T + 1, span) + q0 // span) * wide * C + lab[:, None] * C + next[None, :]
        scaled(grads, G.transition, at, weight, (lab < C)[:, None] & (next < C)[None, :])


@triton.jit(do_not_specialize=["T", "K", "C", "b0", "origin", "first", "own", "stop", "span", "cuts", "every"])
def segment_counts(
    parts, grads, lengths, cotangent, value, deviation, starts, ends, start_frame, end_frame, emitted, bound,
    after, T, K, C, b0, origin, first, own, stop, span, cuts, every, P: tl.constexpr, G: tl.constexpr,
    F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, KB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Gradients of durations: KB of them a program, over the segments that start in `span` positions from `first` on,
    before `own`; spans are summed later.
    """
    local = tl.program_id(0).to(tl.int64)
    b, wide = b0 + local, C.to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    c = given(cotangent, value, b)
    scratch = scratch_of(local, stop - origin, C, starts, ends, start_frame, end_frame, emitted, bound, after, TB)
    lab = tl.arange(0, CP)
    k = 1 + tl.program_id(1) * KB + tl.arange(0, KB)
    d = duration_scores(parts, P, b, k[:, None], lab[None, :], K, C, F)
    total = tl.zeros([KB, CP], tl.float64)
    begin = first + tl.program_id(2) * span
    for s0 in range(begin, tl.minimum(tl.minimum(begin + span, own), n), SB):
        s = s0 + tl.arange(0, SB)
        x, top, longest = sources(scratch, s, s0, origin, (s < n)[:, None] & (lab < C)[None, :], C, CP, TB)
        weight = (correction(deviation, b, s, n, cuts, every) * c).to(F)
        t = s[None, :] + k[:, None]
        here = ((t <= n) & (s < tl.minimum(n, own))[None, :])[:, :, None] & (k[:, None, None] <= longest[None, :, :])
        here = here & (k <= K)[:, None, None] & (lab < C)[None, None, :]
        at = (t - origin)[:, :, None] * wide + lab[None, None, :]
        y = tl.load(scratch[1] + at, mask=here, other=float("-inf"))
        tile = ((t - origin) // TB)[:, :, None] * C + lab[None, None, :]
        shift = top[None, None, :] + tl.load(scratch[3] + tile, mask=here, other=0.0)
        p = tl.exp((x[None, :, :] + (d[:, None, :] + shift.to(F))) + y)
        total += tl.sum(tl.where(here, p * weight[None, :, None], 0.0), 1).to(tl.float64)
    at = (b * tl.cdiv(T, span) + begin // span) * (K * wide)
    mask = (k <= K)[:, None] & (lab < C)[None, :] & (begin < own)
    store_grads(grads, G.duration, 0, 0, at, (k - 1)[:, None] * C + lab[None, :], (total,), mask)


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
