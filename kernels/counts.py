"""What is counted once rows are all known: durations after a reverse sweep; and, from both directions (`meet`), what
positions and durations take of the segments there.
"""

import triton
import triton.language as tl
from semicrf.kernels.frames import highest, leveled, moved
from semicrf.kernels.meet import both_rows, correction, duration_scores, given, kept_of, scratch_of, sources
from semicrf.kernels.primitives import finite
from semicrf.kernels.scan_vjp import arc_rows, pulled_back
from semicrf.kernels.state import (
    add_grads,
    add_up,
    constants,
    convert,
    emissions,
    expand,
    in_gauge,
    less,
    load_tuple,
    negative,
    padded,
    plus,
    positional,
    store_grads,
    take,
    transitions,
)
from semicrf.kernels.table import durations


@triton.jit
def scaled(grads, which: tl.constexpr, at, weight, mask):
    """Gradients that are wanted, times a weight, in place."""
    if which[0] >= 0:
        p = grads[which[0]] + at
        x = tl.load(p, mask=mask, other=0.0)
        tl.store(p, x * weight, mask=mask)


@triton.jit(do_not_specialize=["T", "C", "cuts", "every"])
def positions(
    parts, grads, lengths, cotangent, value, anchor, deviation, T, C, cuts, every, P: tl.constexpr, G: tl.constexpr,
    F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    """Between two cuts: every probability is corrected, times the cotangent. Those of positions are what has started
    less what has ended since the cut, and what the next cut lacks of that is spread over the way there.
    """
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.load(lengths + b).to(tl.int32)
    c = given(cotangent, value, b)
    row, lab = tl.arange(0, TB), tl.arange(0, CP)
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
            lack -= step * tl.exp(-tl.load(deviation + b * cuts + i + 1).to(F))
        for q0 in range(begin, tl.minimum(right + 1, stop), TB):
            q = q0 + row
            weight = correction(deviation, b, q, n, cuts, every, F)[:, None]
            here = ((q > left) & (q <= right) & (q < stop))[:, None] & inside
            x = tl.load(flow + q[:, None] * wide + lab[None, :], mask=here, other=0.0)
            lack -= tl.sum(x.to(tl.float64) * weight, 0)
        each = lack / tl.maximum(right - left, 1).to(tl.float64)
        for q0 in range(begin, tl.minimum(stop, T), TB):
            q = q0 + row
            weight = correction(deviation, b, q, n, cuts, every, F)[:, None]
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
        weight = (correction(deviation, b, q, n, cuts, every, F) * c).to(F)[:, None]
        at = origin + q[:, None] * wide + lab[None, :]
        mine = (q < stop)[:, None] & inside
        scaled(grads, G.segment_start, at, weight, mine & (q < T)[:, None])
        scaled(grads, G.segment_end, at - wide, weight, mine & (q >= 1)[:, None])
        once = b * C + lab[None, :] + 0 * q[:, None]
        scaled(grads, G.start, once, weight, mine & (q == 0)[:, None])
        scaled(grads, G.end, once, weight, mine & (q == n)[:, None])


@triton.jit(do_not_specialize=["T", "C", "span", "cuts", "every"])
def transition_counts(
    parts, grads, lengths, cotangent, value, alpha, offsets, ahead, ahead_offsets, deviation, T, C, span, cuts, every,
    P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Gradients of transitions over `span` positions of one sequence; spans are summed later."""
    b, wide = tl.program_id(0).to(tl.int64), C.to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    length = T.to(tl.int64)
    c = given(cotangent, value, b)
    alpha, ahead = alpha + b * (length + 1) * wide, ahead + b * (length + 1) * wide
    prev, lab = tl.arange(0, CP), tl.arange(0, CP)
    leads = transitions(parts, P, b, prev[:, None], lab[None, :], C, F)[0]
    total = tl.zeros([CP, CP], tl.float64)
    begin = tl.program_id(1) * span
    for q0 in range(begin, tl.minimum(begin + span, n), SB):
        q = q0 + tl.arange(0, SB)
        before, behind = kept_of(b, n, q, length, value, offsets, ahead_offsets)
        a, h, here = both_rows(alpha, ahead, q, n, C, CP)
        x = a[:, :, None] + leads[None, :, :]
        top = finite(tl.max(x, 1))
        weight = (correction(deviation, b, q, n, cuts, every, F) * c).to(F)
        inner = here & ((q >= 1) & (q < n) & (q < begin + span))[:, None]
        r = tl.where(inner, tl.exp(top + h + (before + behind).to(F)[:, None]), 0.0) * weight[:, None]
        total += tl.sum(tl.exp(x - top[:, None, :]) * r[:, None, :], 0).to(tl.float64)
    at = (b * tl.num_programs(1) + tl.program_id(1)) * (wide * C)
    store_grads(grads, G.transition, 0, 0, at, prev[:, None] * C + lab[None, :], (total,),
                (prev < C)[:, None] & (lab < C)[None, :])  # fmt: skip


@triton.jit(do_not_specialize=["T", "K", "C", "b0", "origin", "first", "own", "stop", "span", "cuts", "every"])
def segment_counts(
    parts, grads, lengths, cotangent, value, deviation, starts, ends, emitted, bound, after, T, K, C, b0, origin, first,
    own, stop, span, cuts, every, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
    TB: tl.constexpr, KB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Gradients of durations: KB of them a program, over the segments that start in `span` positions from `first` on,
    before `own`; spans are summed later.
    """
    local = tl.program_id(0).to(tl.int64)
    b, wide = b0 + local, C.to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    c = given(cotangent, value, b)
    scratch = scratch_of(local, stop - origin, C, starts, ends, emitted, bound, after, TB)
    lab = tl.arange(0, CP)
    k = 1 + tl.program_id(1) * KB + tl.arange(0, KB)
    d = duration_scores(parts, P, b, k[:, None], lab[None, :], K, C, F)
    total = tl.zeros([KB, CP], tl.float64)
    begin = first + tl.program_id(2) * span
    for s0 in range(begin, tl.minimum(tl.minimum(begin + span, own), n), SB):
        s = s0 + tl.arange(0, SB)
        x, top, longest = sources(scratch, s, s0, origin, (s < n)[:, None] & (lab < C)[None, :], C, F, CP, TB)
        weight = (correction(deviation, b, s, n, cuts, every, F) * c).to(F)
        t = s[None, :] + k[:, None]
        here = ((t <= n) & (s < tl.minimum(n, own))[None, :])[:, :, None] & (k[:, None, None] <= longest[None, :, :])
        here = here & (k <= K)[:, None, None] & (lab < C)[None, None, :]
        at = (t - origin)[:, :, None] * wide + lab[None, None, :]
        y = tl.load(scratch[1] + at, mask=here, other=float("-inf")) + top[None, None, :]
        p = tl.exp(x[None, :, :] + (d[:, None, :] + y.to(F)))
        total += tl.sum(tl.where(here, p * weight[None, :, None], 0.0), 1).to(tl.float64)
    at = (b * tl.cdiv(T, span) + begin // span) * (K * wide)
    mask = (k <= K)[:, None] & (lab < C)[None, :] & (begin < own)
    store_grads(grads, G.duration, 0, 0, at, (k - 1)[:, None] * C + lab[None, :], (total,), mask)


@triton.jit(do_not_specialize=["T", "K", "C", "pitch", "first", "own", "ring", "span"])
def duration_counts(
    parts, grads, lengths, alpha, g, offsets, alpha_id, rows, sums, limit, table, T, K, C, pitch, first, own, ring,
    span, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
    KB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Gradients of durations: KB of them a program, over `span` of the sources first .. own - 1 of one sequence, added
    to what earlier runs found; spans are summed later.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    k = 1 + tl.program_id(1) * KB + tl.arange(0, KB)
    begin = first + tl.program_id(2) * span
    n = tl.load(lengths + b).to(tl.int32)
    lab, q = tl.arange(0, CP), tl.arange(0, SB)
    wide, length = C.to(tl.int64), T.to(tl.int64)
    vstride, gstride, ostride = B * (length + 1) * wide, B * length * wide, B * (length + 1)
    arc, astride = arc_rows(b, B, wide, rows, sums, limit, ring)
    whole, levels_at = b * (length + 1) * wide, offsets + b * (length + 1)
    inside = (k <= K)[:, None, None] & (lab < C)[None, None, :]
    k_in = tl.minimum(k, K)[:, None, None]
    d = durations(table + b * pitch * (CP + 1), B * pitch * (CP + 1), k_in, lab[None, None, :], S, CP, TB)
    total = constants(S.still, tl.zeros([KB, CP], F))
    for s0 in range(begin, tl.minimum(tl.minimum(begin + span, own), n), SB):
        s = s0 + q
        starts = (s < n)[:, None] & (lab < C)[None, :]
        put = (s & ring)[:, None] * wide + lab[None, :]
        begins = convert(positional(parts, P.segment_start, P, b, s[:, None], n, lab[None, :], T, C, F), tl.float64)
        v = less(begins, load_tuple(arc[1], astride, put, starts, S.still, tl.float64))
        longest = load_tuple(arc[2], astride, put, starts, S.unbounded, tl.int32)
        us = load_tuple(g + b * length * wide, gstride, s[:, None] * wide + lab[None, :], starts, S.zero, F)
        us = convert(in_gauge(us, levels_at, ostride, s[:, None], n, s0, S, F), tl.float64)
        us = S.move(us, padded(v, v[0], S))
        base = highest(us, S)
        us = expand(moved(us, expand(negative(base), 0), S, F), 0)
        t = s[None, :, None] + k[:, None, None]
        here = (t <= n) & inside & (s < own)[None, :, None]
        to, ring_to = t * wide + lab[None, None, :], (t & ring) * wide + lab[None, None, :]
        y = load_tuple(alpha + whole, vstride, to, here, S.zero, F)
        y = in_gauge(y, levels_at, ostride, t, n, s0, S, F)
        gy = load_tuple(arc[0], astride, ring_to, here, S.nothing, F)
        id = load_tuple(alpha_id + whole, vstride, to, here, S.nowhere, tl.int32)
        level = leveled(y, S)
        ends = convert(positional(parts, P.segment_end, P, b, t - 1, n, lab[None, None, :], T, C, F), tl.float64)
        z = less(plus(ends, load_tuple(arc[1], astride, ring_to, here, S.still, tl.float64)), level)
        w = ()
        for m in tl.static_range(S.potentials):
            x = d[m] + (z[m] + base[m][None, None, :]).to(F)
            w = w + (tl.where(here & (k[:, None, None] <= longest[m][None, :, :]), x, float("-inf")),)
        y = moved(y, negative(level), S, F)
        place = (k - 1)[:, None, None] + tl.zeros([KB, SB, CP], tl.int32)
        pulled = pulled_back(gy, y, us, w, id, place, S)
        total = plus(total, add_up(take(pulled, S.fields, S.fields + S.potentials), 1, S.potentials))
    at = (b * tl.num_programs(2) + tl.program_id(2)) * (K * wide)
    mask = (k <= K)[:, None] & (lab < C)[None, :] & (begin < own)
    add_grads(grads, G.duration, 0, 0, at, (k - 1)[:, None] * C + lab[None, :], total, mask)
