"""Gradients of logarithms of sums from both directions: no order in time is left, so spans of it are programs of their
own. README.md has the derivation.

What is kept is right up to rounding, which adds up along a sequence to a factor that all rows of a position share. So
it is held against what must be one: the sum over all segments that cover a position, at every `cut`.
"""

import triton
import triton.language as tl
from semicrf.kernels.primitives import finite, log
from semicrf.kernels.scan_vjp import limits
from semicrf.kernels.state import _earlier, emissions, positional, row_of, store_grads, transitions, vectors

FREE = tl.constexpr(2147483647)


@triton.jit
def log_sum(x, axis: tl.constexpr):
    """log sum exp along an axis."""
    m = finite(tl.max(x, axis))
    return m + log(tl.sum(tl.exp(x - tl.expand_dims(m, axis)), axis))


@triton.jit
def given(cotangent, value, b):
    """The cotangent of a value, 0 where that is not finite."""
    v = tl.load(value + b)
    return tl.where((v > float("-inf")) & (v < float("inf")), tl.load(cotangent + b), 0.0)


@triton.jit
def kept_of(b, n, q, T, value, offsets, ahead_offsets):
    """What the levels of rows q of both directions come to, and each of them, in float64; -inf without a value."""
    before = tl.load(offsets + b * (T + 1) + q, mask=(q >= 0) & (q <= n), other=0.0)
    behind = tl.load(ahead_offsets + b * (T + 1) + n - q, mask=(q >= 0) & (q <= n), other=0.0)
    v = tl.load(value + b)
    v = tl.where((v > float("-inf")) & (v < float("inf")), v, float("inf"))
    return before - v, behind


@triton.jit
def both_rows(alpha, ahead, q, n, C, CP: tl.constexpr):
    """Rows q (rows, labels) of alpha, and of what may follow a start there; and where they are."""
    lab = tl.arange(0, CP)
    wide = C.to(tl.int64)
    here = ((q >= 0) & (q <= n))[:, None] & (lab < C)[None, :]
    a = tl.load(alpha + q[:, None] * wide + lab[None, :], mask=here, other=float("-inf"))
    h = tl.load(ahead + (n - q)[:, None] * wide + lab[None, :], mask=here, other=float("-inf"))
    return a, h, here


@triton.jit
def boundaries(alpha, ahead, leads, first, last, q, n, level, C, F: tl.constexpr, CP: tl.constexpr):
    """Of rows q: logarithms of what leads into a start and of what follows an end, relative to their levels; and the
    probabilities that a segment starts and that one ends.
    """
    a, h, here = both_rows(alpha, ahead, q, n, C, CP)
    g = log_sum(a[:, :, None] + leads[None, :, :], 1)
    follows = log_sum(h[:, None, :] + leads[None, :, :], 2)
    g = tl.where((q == 0)[:, None], first[None, :], g)
    follows = tl.where((q == n)[:, None], last[None, :], follows)
    g = tl.where(here & (q < n)[:, None], g, float("-inf"))
    follows = tl.where(here & (q >= 1)[:, None], follows, float("-inf"))
    started = tl.where(g == float("-inf"), 0.0, tl.exp(g + h + level[:, None]))
    ended = tl.where(follows == float("-inf"), 0.0, tl.exp(a + follows + level[:, None]))
    return g, follows, started, ended


@triton.jit
def scratch_of(local, size, C, starts, ends, emitted, bound, after, TB: tl.constexpr):
    """The scratch of one sequence, `size` positions long: what arcs score at their starts and ends, in float64,
    emissions before each tile, how long segments may be within their tile, and the first bound from each tile on.
    """
    rows, tiles = local * size * C.to(tl.int64), local * (tl.cdiv(size, TB) + 1) * C.to(tl.int64)
    return starts + rows, ends + rows, emitted + tiles, bound + rows, after + tiles


@triton.jit(do_not_specialize=["T", "C", "b0", "origin", "stop", "span"])
def tiles(
    parts, lengths, starts, ends, emitted, bound, after, T, C, b0, origin, stop, span, P: tl.constexpr,
    F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    """What tiles of positions emit by label, and where segments must end."""
    local = tl.program_id(0).to(tl.int64)
    b, wide = b0 + local, C.to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    scratch = scratch_of(local, stop - origin, C, starts, ends, emitted, bound, after, TB)
    row, lab = tl.arange(0, TB), tl.arange(0, CP)
    begin = origin + tl.program_id(1) * span
    for q0 in range(begin, tl.minimum(begin + span, stop), TB):
        q = q0 + row
        e, _ = emissions(parts, P, b, q0, n, row, lab, T, C, F)
        tile = scratch[2] + (q0 - origin) // TB * C + lab
        tl.store(tile, tl.sum(e[0].to(tl.float64), 0), mask=lab < C)
        high = limits(parts, P, (tl.full([CP], FREE, tl.int32),), b, q0, n, row, lab, T, C, F)[0]
        put = (q - origin)[:, None] * wide + lab[None, :]
        near = tl.minimum(high - q[:, None], 127).to(tl.int8)
        tl.store(scratch[3] + put, near, mask=(q < stop)[:, None] & (lab < C)[None, :])
        tl.store(scratch[4] + (q0 - origin) // TB * C + lab, tl.min(high, 0), mask=lab < C)


@triton.jit(do_not_specialize=["T", "C", "b0", "origin", "first", "own", "stop", "span"])
def rows(
    parts, grads, lengths, value, alpha, offsets, ahead, ahead_offsets, starts, ends, emitted, bound, after, T, C, b0,
    origin, first, own, stop, span, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
    TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """Probabilities of what starts and ends at the positions first .. own - 1 of a sequence, as they come; and of all
    positions origin .. stop - 1, which their segments reach, what arcs score at both ends.
    """
    local = tl.program_id(0).to(tl.int64)
    b, wide = b0 + local, C.to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    length = T.to(tl.int64)
    alpha, ahead = alpha + b * (length + 1) * wide, ahead + b * (length + 1) * wide
    prev, lab, row = tl.arange(0, CP), tl.arange(0, CP), tl.arange(0, SB)
    leads = transitions(parts, P, b, prev[:, None], lab[None, :], C, F)[0]
    start = vectors(parts, P.start, P, b, 0, C, lab, lab < C, F)[0]
    end = vectors(parts, P.end, P, b, 0, C, lab, lab < C, F)[0]
    scratch = scratch_of(local, stop - origin, C, starts, ends, emitted, bound, after, TB)
    begin = origin + tl.program_id(1) * span
    for q0 in range(begin, tl.minimum(begin + span, stop), TB):
        past = tl.load(scratch[2] + (q0 - origin) // TB * C + lab, mask=lab < C, other=0.0)
        for i0 in range(0, TB, SB):
            q = q0 + i0 + row
            before, behind = kept_of(b, n, q, length, value, offsets, ahead_offsets)
            level = (before + behind).to(F)
            g, follows, started, ended = boundaries(alpha, ahead, leads, start, end, q, n, level, C, F, CP)
            inside = (lab < C)[None, :]
            mine = ((q >= first) & (q < own))[:, None] & inside
            at = q[:, None] * wide + lab[None, :]
            reach = ((q >= first) & (q <= own) & (q < T))[:, None] & inside  # the cut at `own` reads on
            store_grads(grads, G.emission, b, T * wide, at, 0, (started - ended,), reach)
            store_grads(grads, G.segment_start, b, T * wide, at, 0, (started,), mine & (q < T)[:, None])
            store_grads(grads, G.segment_end, b, T * wide, at, -wide, (ended,), mine & (q >= 1)[:, None])
            store_grads(grads, G.start, b, C, at, 0, (started,), mine & (q == 0)[:, None])
            store_grads(grads, G.end, b, C, at, -n * wide, (ended,), mine & (q == n)[:, None])
            e = emissions(parts, P, b, q0 + i0, n, row, lab, T, C, F)[0][0].to(tl.float64)
            since = past[None, :] + (tl.cumsum(e, 0) - e)
            past += tl.sum(e, 0)
            begins = positional(parts, P.segment_start, P, b, q[:, None], n, lab[None, :], T, C, F)[0].to(tl.float64)
            closes = positional(parts, P.segment_end, P, b, q[:, None] - 1, n, lab[None, :], T, C, F)[0].to(tl.float64)
            put = (q - origin)[:, None] * wide + lab[None, :]
            stored = (q < stop)[:, None] & inside
            tl.store(scratch[0] + put, g.to(tl.float64) + (before[:, None] - since + begins), mask=stored)
            tl.store(scratch[1] + put, follows.to(tl.float64) + (behind[:, None] + since + closes), mask=stored)


@triton.jit(do_not_specialize=["C", "size"])
def link(starts, ends, emitted, bound, after, C, size, CP: tl.constexpr, TB: tl.constexpr, NB: tl.constexpr):
    """In place of what each tile emits, what is emitted before it; of its first bound, the first from it on."""
    scratch = scratch_of(tl.program_id(0).to(tl.int64), size, C, starts, ends, emitted, bound, after, TB)
    lab = tl.arange(0, CP)
    count = tl.cdiv(size, TB)
    sums = tl.zeros([CP], tl.float64)
    for j0 in range(0, count, NB):
        j = j0 + tl.arange(0, NB)
        at = j[:, None] * C + lab[None, :]
        here = (j < count)[:, None] & (lab < C)[None, :]
        e = tl.load(scratch[2] + at, mask=here, other=0.0)
        tl.store(scratch[2] + at, sums[None, :] + tl.cumsum(e, 0) - e, mask=here)
        sums += tl.sum(e, 0)
    least = tl.full([CP], FREE, tl.int32)
    tl.store(scratch[4] + count * C + lab, least, mask=lab < C)
    for later in range(tl.cdiv(count, NB)):
        j = (tl.cdiv(count, NB) - 1 - later) * NB + tl.arange(0, NB)
        at = j[:, None] * C + lab[None, :]
        here = (j < count)[:, None] & (lab < C)[None, :]
        found = tl.load(scratch[4] + at, mask=here, other=FREE)
        found = tl.minimum(tl.associative_scan(found, 0, _earlier, reverse=True), least[None, :])
        tl.store(scratch[4] + at, found, mask=here)
        least = tl.min(found, 0)


@triton.jit
def sources(scratch, s, s0, origin, mask, C, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr):
    """Starts s of one tile (rows, labels), relative to the largest of each label, so that what counts loses nothing in
    F; that; and how long their segments may be.
    """
    lab = tl.arange(0, CP)
    at = (s[:, None] - origin) * C.to(tl.int64) + lab[None, :]
    x = tl.load(scratch[0] + at, mask=mask, other=float("-inf"))
    top = finite(tl.max(x, 0))
    near = tl.load(scratch[3] + at, mask=mask, other=0).to(tl.int32)
    tile = (s0 - origin) // TB
    later = tl.load(scratch[4] + (tile + 1) * C + lab, mask=lab < C, other=0)[None, :] - s[:, None]
    return (x - top[None, :]).to(F), top, tl.where(near < 127, near, later)


@triton.jit
def duration_scores(parts, P: tl.constexpr, b, k, lab, K, C, F: tl.constexpr):
    """The scores of durations k, which broadcasts with labels; -inf outside 1..K and the labels."""
    mask = (k >= 1) & (k <= K) & (lab < C)
    if P.duration[0] >= 0:
        p = row_of(parts, P.duration[0], P, b, K.to(tl.int64) * C)
        return tl.load(p + (k - 1) * C + lab, mask=mask, other=float("-inf")).to(F)
    else:
        return tl.where(mask, tl.zeros(mask.shape, F), float("-inf"))


@triton.jit(do_not_specialize=["T", "K", "C", "b0", "origin", "stop", "cut0", "cuts", "every"])
def cover(
    parts, lengths, starts, ends, emitted, bound, after, covered, T, K, C, b0, origin,
    stop, cut0, cuts, every, P: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """The probability that each label covers the position of a cut, `every` so many, the last position among them:
    the sum over the segments around it, some of their starts a program.
    """
    local, i, z = tl.program_id(0).to(tl.int64), cut0 + tl.program_id(1), tl.program_id(2)
    b = b0 + local
    n = tl.load(lengths + b).to(tl.int32)
    j = tl.minimum(i * every, n - 1)
    scratch = scratch_of(local, stop - origin, C, starts, ends, emitted, bound, after, TB)
    lab, row = tl.arange(0, CP), tl.arange(0, SB)
    total = tl.zeros([CP], tl.float64)
    least = tl.where((i - 1) * every > n - 1, FREE, tl.maximum(j - K + 1, 0))  # nothing past the last cut
    for down in range(z * SB, tl.minimum(j, K) + SB, tl.num_programs(2) * SB):
        s0 = j // SB * SB - down
        if s0 + SB > least:
            s = s0 + row
            x, top, longest = sources(scratch, s, s0, origin, ((s >= least) & (s <= j))[:, None] & (lab < C)[None, :],
                                      C, F, CP, TB)  # fmt: skip
            for t0 in range((j + 1) // SB * SB, tl.minimum(tl.minimum(n, s0 + SB - 1 + K) + 1, stop), SB):
                t = t0 + row
                mask = ((t > j) & (t <= n) & (t < stop))[:, None] & (lab < C)[None, :]
                at = (t[:, None] - origin) * C.to(tl.int64) + lab[None, :]
                y = tl.load(scratch[1] + at, mask=mask, other=float("-inf")) + top[None, :]
                k = (t[None, :] - s[:, None])[:, :, None]
                d = duration_scores(parts, P, b, k, lab[None, None, :], K, C, F)
                p = tl.exp(x[:, None, :] + (d + y.to(F)[None, :, :]))
                p = tl.where(k <= longest[:, None, :], p, 0.0)
                total += tl.sum(tl.sum(p, 0), 0).to(tl.float64)
    at = ((b * cuts + i) * tl.num_programs(2) + z) * C + lab
    tl.store(covered + at, total, mask=lab < C)


@triton.jit(do_not_specialize=["T", "C", "b0", "shares", "cut0", "cuts", "every"])
def settle(
    parts, grads, lengths, covered, anchor, deviation, T, C, b0, shares, cut0, cuts, every, G: tl.constexpr,
    CP: tl.constexpr,
):  # fmt: skip
    """Adds up what programs found of a cut: by label; and the logarithm of all, which is 0 but for rounding. Beside the
    first, what positions there gain.
    """
    b, i = b0 + tl.program_id(0).to(tl.int64), cut0 + tl.program_id(1)
    lab = tl.arange(0, CP)
    total = tl.zeros([CP], tl.float64)
    for z in range(shares):
        total += tl.load(covered + ((b * cuts + i) * shares + z) * C + lab, mask=lab < C, other=0.0)
    whole = tl.sum(total, 0)
    whole = tl.where((whole > 0.0) & (whole < float("inf")), whole, 1.0)
    at = (b * cuts + i) * 2 * C + lab
    tl.store(anchor + at, total / whole, mask=lab < C)
    if G.emission[0] >= 0:
        j = tl.minimum(i * every, tl.load(lengths + b).to(tl.int32) - 1)
        flow = tl.load(grads[G.emission[0]] + (b * T + j) * C + lab, mask=lab < C, other=0.0)
        tl.store(anchor + at + C, flow.to(tl.float64), mask=lab < C)
    tl.store(deviation + b * cuts + i, tl.log(whole))


@triton.jit
def correction(deviation, b, q, n, cuts, every, F: tl.constexpr):
    """What takes a probability at boundaries q to what it would be without rounding, by the cuts on either side."""
    i = tl.minimum(q, n - 1) // every
    left, right = tl.minimum(i * every, n - 1), tl.minimum((i + 1) * every, n - 1)
    low = tl.load(deviation + b * cuts + i, mask=(q >= 0) & (q <= n), other=0.0)
    high = tl.load(deviation + b * cuts + tl.minimum(i + 1, cuts - 1), mask=(q >= 0) & (q <= n), other=0.0)
    part = (q - left).to(tl.float64) / tl.maximum(right - left, 1).to(tl.float64)
    return tl.exp(-(low + (high - low) * tl.minimum(part, 1.0)).to(F))
