"""The forward sweep, blocked: TB positions at a time, one program per sequence. README.md has the derivation."""

import triton
import triton.language as tl
from semicrf.kernels.far import after, fall, far, higher, rest, unlifted
from semicrf.kernels.linear import duration_numbers, far_sums, lead, transitions_read
from semicrf.kernels.primitives import finite
from semicrf.kernels.state import (
    _later,
    constants,
    convert,
    emissions,
    emitted,
    expand,
    less,
    negative,
    nothing_yet,
    padded,
    pick,
    place,
    plus,
    starts_required,
    store_tuple,
    take,
    vectors,
)
from semicrf.kernels.table import lines, read, tabulate

NOTHING, ALL, ENDS, CHOICES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
"""What a sweep keeps of every position: no row; all; alpha alone; where its choices were alone."""


@triton.jit
def bounds(parts, P: tl.constexpr, holes, carried, b, t0, n, row, T):
    """(rows, labels) for every model: the first source from which a segment may lead to each destination."""
    low = ()
    for m in tl.static_range(len(holes)):
        end = (t0 + 1 + row)[:, None]
        bound = tl.where(holes[m], end, 0)
        if P.required[m] >= 0:
            must = starts_required(parts, P, m, b, t0, n, row, T)
            bound = tl.maximum(bound, tl.where(must[:, None], end - 1, 0))
        bound = tl.associative_scan(bound, 0, _later)
        low = low + (tl.maximum(bound, carried[m][None, :]),)
    return low


@triton.jit
def tightest(low):
    """The largest bound of a tile, over models and labels."""
    most = tl.max(tl.max(low[0], 0), 0)
    for m in tl.static_range(len(low) - 1):
        most = tl.maximum(most, tl.max(tl.max(low[m + 1], 0), 0))
    return most


@triton.jit
def add_finite(total, x):
    """total + x where x is not -inf: that is a bound, not a number."""
    out = ()
    for m in tl.static_range(len(total)):
        out = out + (total[m] + tl.where(x[m] == float("-inf"), 0.0, x[m]).to(tl.float64),)
    return out


@triton.jit
def levels(x, shift, inside, S: tl.constexpr):
    """How large a row of elements is after `shift`, in units of every potential; 0 where that has no meaning."""
    out = ()
    for m in tl.static_range(S.potentials):
        if S.levels[m] >= 0:
            top = tl.max(tl.where(inside, x[S.levels[m]] + shift[m], float("-inf")), 0)
            out = out + (tl.where(top < float("inf"), finite(top), 0.0),)
        else:
            out = out + (tl.sum(tl.zeros_like(x[0]), 0),)
    return out


@triton.jit
def halves(x, F: tl.constexpr):
    """Float64 potentials as two numbers in F each, that add up to them."""
    high = ()
    low = ()
    for m in tl.static_range(len(x)):
        h = x[m].to(F)
        high = high + (h,)
        low = low + (tl.where(h == float("-inf"), 0.0, (x[m] - h.to(tl.float64)).to(F)),)
    return high, low


@triton.jit
def gauged(a, inside, S: tl.constexpr):
    """The means that the best label of a row has: what a gauge takes from all of them."""
    out = ()
    for i in tl.static_range(len(S.gauges)):
        weight = tl.where(inside, a[S.weighing[i]], float("-inf"))
        best = (weight > float("-inf")) & (weight == tl.max(weight, 0))
        level = tl.max(tl.where(best, a[S.gauges[i]], float("-inf")), 0)
        out = out + (tl.where((level > float("-inf")) & (level < float("inf")), level, 0.0).to(tl.float64),)
    return out


@triton.jit
def total(parts, last, offset, b, lab, C, value, vstride, end_id, S: tl.constexpr, P: tl.constexpr, F: tl.constexpr,
          KEEP: tl.constexpr):  # fmt: skip
    """The sum over final labels, and what its offset, of potentials and gauges, takes it back to, in float64."""
    ends = vectors(parts, P.end, P, b, 0, C, lab, lab < C, F)
    r = S.finish(S.group(S.act(last, ends), lab, 0))
    B = tl.num_programs(0)
    x = S.move(convert(take(r, 0, S.fields), tl.float64), offset)
    store_tuple(value + b, vstride, 0, x, b >= 0)
    if KEEP and S.keeps_ids:
        store_tuple(end_id + b, B, 0, take(r, S.fields, S.fields + S.ids), b >= 0)


@triton.jit
def rows_of(b, B, wide, T, alpha, g, alpha_id, g_id, offsets):
    """What is kept of sequence b, and how far apart its scalars lie: of alpha, of g, of offsets."""
    kept = (alpha + b * (T + 1) * wide, g + b * T * wide, alpha_id + b * (T + 1) * wide, g_id + b * T * wide,
            offsets + b * (T + 1))  # fmt: skip
    return kept, (B * (T + 1) * wide, B * T * wide, B * (T + 1))


@triton.jit
def keep_alpha(kept, strides, t, wide, lab, inside, r, a, S: tl.constexpr, KEEP: tl.constexpr):
    """Store row t of alpha and the places of its choices."""
    if KEEP != CHOICES:
        store_tuple(kept[0] + t * wide, strides[0], lab, a, inside)
    if S.keeps_ids:
        store_tuple(kept[2] + t * wide, strides[0], lab, take(r, S.fields, S.fields + S.ids), inside)


@triton.jit
def keep_g(kept, strides, t, wide, lab, inside, r, S: tl.constexpr, KEEP: tl.constexpr):
    """Store row t of g and the places of its choices."""
    if KEEP == ALL:
        store_tuple(kept[1] + t * wide, strides[1], lab, take(r, 0, S.fields), inside)
    if S.keeps_ids:
        store_tuple(kept[3] + t * wide, strides[1], lab, take(r, S.fields, S.fields + S.ids), inside)


@triton.jit
def keep_first(kept, strides, b, lab, inside, x, offset, S: tl.constexpr, KEEP: tl.constexpr):
    """Store position 0: nothing has ended there, and nothing was chosen."""
    none = constants(S.nowhere, tl.zeros(lab.shape, tl.int32))
    if KEEP != CHOICES:
        store_tuple(kept[0], strides[0], lab, constants(S.zero, tl.zeros_like(x[0])), inside)
        store_tuple(kept[4], strides[2], 0, offset, b >= 0)
    if KEEP == ALL:
        store_tuple(kept[1], strides[1], lab, x, inside)
    store_tuple(kept[2], strides[0], lab, none, inside)
    store_tuple(kept[3], strides[1], lab, none, inside)


@triton.jit
def near(parts, b, t, n, i, acc, lift, e, low, offset, leads, table, dstride, u, ustride, kept,
         strides, T, C, ring, S: tl.constexpr, P: tl.constexpr, F: tl.constexpr, KEEP: tl.constexpr, CP: tl.constexpr,
         TB: tl.constexpr):  # fmt: skip
    """Row i of the tile: it is finished, leads on, and is a source of the rows that follow.

    What sums up is float64: emissions `e` from the tile's first position, the level of a row, a source. Elements are
    rounded relative to their row's level, or to the frames `lift` of the accumulators, which follow the largest source.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    prev = tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    at = row[:, None] * (CP + 1) + lab[None, :]
    d = read(lines(table, dstride, -i, at, S.potentials, CP, TB), 0)
    now = emitted(parts, P, b, t - 1, n, lab, T, C, F)
    ends = vectors(parts, P.segment_end, P, b, place(P, t - 1, n) * wide, T * wide, lab, inside, F)
    begins = vectors(parts, P.segment_start, P, b, place(P, t, n) * wide, T * wide, lab, inside & (t < n), F)
    e = add_finite(e, now)
    r = S.finish(pick(acc, (row == i)[:, None], S, "accumulator"))
    x = take(r, 0, S.fields)
    high, more = halves(plus(plus(convert(ends, tl.float64), e), convert(rest(lift), tl.float64)), F)
    level = levels(x, high, inside, S)
    a = S.act(x, plus(less(high, level), more))
    level = convert(level, tl.float64)
    offset = plus(padded(level, level[0], S), offset)
    gr = S.finish(lead(a, leads, prev, S))
    v = plus(plus(convert(begins, tl.float64), negative(e)), level)
    x = take(gr, 0, S.fields)
    store_tuple(u + ((t - 1) & ring) * CP, ustride, lab, S.act(convert(x, tl.float64), v), lab >= 0)
    if KEEP:
        keep_alpha(kept, strides, t, wide, lab, inside, r, a, S, KEEP)
        keep_g(kept, strides, t, wide, lab, inside & (t < n), gr, S, KEEP)
        if KEEP != CHOICES:
            store_tuple(kept[4] + t, strides[2], 0, offset, b >= 0)
    high, more = halves(v, F)
    to = higher(lift, (S.act(x, high),), S, F)
    acc = S.carry(acc, expand(fall(lift, to), 0))
    x = expand(S.act(x, plus(less(high, rest(to)), more)), 0)
    led = S.single(S.act(x, after(d, t, low)), (row - i - 1)[:, None])
    return S.merge(acc, led), to, a, level, e  # rows up to i gain nothing: there the durations are -inf


@triton.jit
def next_tile(base, offset, a, level, e, low, inside, S: tl.constexpr):
    """Frames, offset and bounds after a tile whose last row is `a`, of `level`."""
    gauges = gauged(a, inside, S)
    bases, carried = (), ()
    for m in tl.static_range(S.potentials):
        bases = bases + (base[m] + (level[m] - e[m]),)
        carried = carried + (tl.max(low[m], 0),)
    for i in tl.static_range(len(S.gauges)):
        bases = bases + (base[S.potentials + i] + gauges[i],)
    return bases, plus(offset, level + gauges), carried


@triton.jit
def sweep(parts, b, B, n, kept, strides, u, frames, table, T, K, C, ring, S: tl.constexpr, P: tl.constexpr,
          F: tl.constexpr, KEEP: tl.constexpr, SUMS: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
          SB: tl.constexpr):  # fmt: skip
    """The elements of the last position by label, and their offset. SUMS: whether elements are logarithms of sums, and
    durations many, so that sums of products pay.
    """
    row, lab = tl.arange(0, TB), tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    R = ring + 1
    ustride, fstride = B * R * CP, B * (R // TB) * CP
    u += b * R * CP
    frames += b * (R // TB) * CP
    table, dstride = tabulate(parts, table, b, B, K, C, P, F, CP, TB, SB)
    span = K + 3 * TB + SB + 1
    leads = transitions_read(parts, P, b, table, dstride, span, C, S, F, CP)
    whole = K * 0  # sources before a tile that lead to all of its rows, in full groups, where these are sums
    most = whole  # read where these are
    if SUMS:
        tl.debug_barrier()
        most, close = duration_numbers(table, dstride, span, K, C, S, F, CP, TB)
        whole = tl.where(close, tl.maximum(K - TB + 1, 0) // SB * SB, 0)
    nothing = tl.zeros([CP], F)
    x = S.act(constants(S.one, nothing), vectors(parts, P.start, P, b, 0, C, lab, inside, F))
    base = constants(S.fixed, tl.zeros([CP], tl.float64))  # offset less emissions before the tile, by label
    offset = constants(S.fixed, tl.sum(tl.zeros([CP], tl.float64), 0))
    carried = constants(S.unbounded, tl.zeros([CP], tl.int32))
    v = vectors(parts, P.segment_start, P, b, place(P, 0, n) * wide, T * wide, lab, inside, F)
    a, reached = constants(S.zero, nothing), offset
    store_tuple(u + ring * CP, ustride, lab, convert(S.act(x, v), tl.float64), lab >= 0)  # source s lies at s - 1
    for q in tl.static_range(1, SB):
        store_tuple(u + (ring - q) * CP, ustride, lab, convert(a, tl.float64), lab >= 0)
    store_tuple(frames, fstride, lab, base, lab >= 0)
    if KEEP:
        keep_first(kept, strides, b, lab, inside, x, offset, S, KEEP)
    for t0 in range(0, n, TB):
        _, holes = emissions(parts, P, b, t0, n, row, lab, T, C, F)
        low = bounds(parts, P, holes, carried, b, t0, n, row, T)
        store_tuple(frames, fstride, (((t0 + TB) // TB) & (ring // TB)) * CP + lab, base, lab >= 0)
        tl.debug_barrier()
        since = K * 0
        acc, lift = nothing_yet(tl.zeros([TB, CP], F), S), unlifted(tl.zeros([CP], F), S)
        if SUMS:
            since = tl.where(tightest(low) > t0 + 1 - K, 0, tl.minimum(whole, (t0 + SB) // SB * SB))
            acc, lift = far_sums(table, dstride, span, most, u, ustride, frames, fstride, base, t0, since, ring, S, F,
                                 CP, TB, SB)  # fmt: skip
        acc, lift = far(acc, lift, table, dstride, u, ustride, frames, fstride, low, base, t0, since, K, ring, S, F, CP,
                        TB, min(SB, 4) if SUMS else SB)  # fmt: skip
        e = constants(S.still, tl.zeros([CP], tl.float64))
        level = constants(S.still, tl.sum(tl.zeros([CP], tl.float64), 0))
        for i in range(tl.minimum(n - t0, TB)):
            acc, lift, a, level, e = near(
                parts, b, t0 + 1 + i, n, i, acc, lift, e, low, offset, leads, table, dstride, u, ustride, kept, strides,
                T, C, ring, S, P, F, KEEP, CP, TB,
            )  # fmt: skip
        reached = plus(padded(level, level[0], S), offset)
        base, offset, carried = next_tile(base, offset, a, level, e, low, inside, S)
    return a, reached


@triton.jit(do_not_specialize=["T", "K", "C", "ring"])
def scan(
    parts, lengths, value, alpha, g, offsets, alpha_id, g_id, end_id, u, frames, table, T, K, C, ring,
    S: tl.constexpr, P: tl.constexpr, F: tl.constexpr, KEEP: tl.constexpr, SUMS: tl.constexpr, CP: tl.constexpr,
    TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """One sequence, forward; `u` is a ring of sources in the frame of their tile, `frames` those frames, `table` the
    scores of durations.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    kept, strides = rows_of(b, B, C.to(tl.int64), T.to(tl.int64), alpha, g, alpha_id, g_id, offsets)
    last, offset = sweep(parts, b, B, n, kept, strides, u, frames, table, T, K, C, ring, S, P, F, KEEP, SUMS, CP, TB,
                         SB)  # fmt: skip
    total(parts, last, offset, b, tl.arange(0, CP), C, value, B, end_id, S, P, F, KEEP)


@triton.jit(do_not_specialize=["T", "K", "C", "ring", "pitch"])
def scan_both(
    parts, lengths, value, alpha, g, offsets, alpha_id, g_id, end_id, ahead, ahead_offsets, u, frames, table, T, K, C,
    ring, pitch, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, F: tl.constexpr, SUMS: tl.constexpr,
    CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """A sequence, forward, and beside it the reversed one, whose rows are what may follow a start: `ahead`. Q is the
    layout of the reversed sequence; the second half of the scratch is its; elements are one number. What leads into a
    start, and what follows an end, is not stored: it is found again from these, all positions at once.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    wide = C.to(tl.int64)
    length = T.to(tl.int64)
    if tl.program_id(1) == 0:
        kept, strides = rows_of(b, B, wide, length, alpha, g, alpha_id, g_id, offsets)
        last, offset = sweep(parts, b, B, n, kept, strides, u, frames, table, T, K, C, ring, S, P, F, ENDS, SUMS, CP,
                             TB, SB)  # fmt: skip
        total(parts, last, offset, b, tl.arange(0, CP), C, value, B, end_id, S, P, F, ENDS)
    else:
        R = B * (ring + 1)
        kept, strides = rows_of(b, B, wide, length, ahead, g, alpha_id, g_id, ahead_offsets)
        u, frames, table = u + R * CP, frames + (R // TB) * CP, table + B * pitch * (CP + 1)
        sweep(parts, b, B, n, kept, strides, u, frames, table, T, K, C, ring, S, Q, F, ENDS, SUMS, CP, TB, SB)
