"""The forward sweep, blocked: TB positions at a time, one program per sequence. README.md has the derivation."""

import triton
import triton.language as tl
from semicrf.kernels.far import after, far
from semicrf.kernels.linear import duration_numbers, far_sums, led, transition_numbers
from semicrf.kernels.state import (
    _later,
    constants,
    convert,
    emitted,
    expand,
    local_sums,
    pick,
    place,
    plus,
    select,
    starts_required,
    store_tuple,
    take,
    transitions,
    vectors,
)
from semicrf.kernels.table import lines, read, tabulate, turned


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
def add_finite(total, x, less):
    """total + x - less, where x is not -inf (that is a bound, not a number); - less where it is."""
    out = ()
    for m in tl.static_range(len(total)):
        out = out + (total[m] + (tl.where(x[m] == float("-inf"), 0.0, x[m]) - less[m]),)
    return out


@triton.jit
def total(parts, last, offset, b, lab, C, value, vstride, end_id, S: tl.constexpr, P: tl.constexpr, F: tl.constexpr,
          KEEP: tl.constexpr):  # fmt: skip
    """The sum over final labels, and what its offset takes it back to, in float64."""
    ends = vectors(parts, P.end, P, b, 0, C, lab, lab < C, F)
    r = S.finish(S.group(S.act(last, ends), lab, 0))
    B = tl.num_programs(0)
    x = S.act(convert(take(r, 0, S.fields), tl.float64), offset)
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
def keep_alpha(kept, strides, t, wide, lab, inside, r, a, S: tl.constexpr):
    """Store row t of alpha and the places of its choices."""
    store_tuple(kept[0] + t * wide, strides[0], lab, a, inside)
    if S.keeps_ids:
        store_tuple(kept[2] + t * wide, strides[0], lab, take(r, S.fields, S.fields + S.ids), inside)


@triton.jit
def keep_g(kept, strides, t, wide, lab, inside, r, S: tl.constexpr):
    """Store row t of g and the places of its choices."""
    store_tuple(kept[1] + t * wide, strides[1], lab, take(r, 0, S.fields), inside)
    if S.keeps_ids:
        store_tuple(kept[3] + t * wide, strides[1], lab, take(r, S.fields, S.fields + S.ids), inside)


@triton.jit
def keep_first(kept, strides, b, lab, inside, x, offset, S: tl.constexpr):
    """Store position 0: nothing has ended there, and nothing was chosen."""
    none = constants(S.nowhere, tl.zeros(lab.shape, tl.int32))
    store_tuple(kept[0], strides[0], lab, constants(S.zero, tl.zeros_like(x[0])), inside)
    store_tuple(kept[1], strides[1], lab, x, inside)
    store_tuple(kept[2], strides[0], lab, none, inside)
    store_tuple(kept[3], strides[1], lab, none, inside)
    store_tuple(kept[4], strides[2], 0, offset, b >= 0)


MIXED = tl.constexpr(32)
"""The fewest labels, filled up, whose transitions are sums of products: fewer need less than these do beforehand."""


@triton.jit
def transitions_read(parts, P: tl.constexpr, b, table, dstride, span, C, S: tl.constexpr, F: tl.constexpr,
                     CP: tl.constexpr):  # fmt: skip
    """What `lead` reads: transitions, their numbers, the largest to each label and whether all are near it."""
    prev, lab = tl.arange(0, CP), tl.arange(0, CP)
    w = transitions(parts, P, b, prev[:, None], lab[None, :], C, F)
    if P.backwards:
        w = turned(w, table, dstride, prev[:, None], lab[None, :], span, CP)
    if S.framed and CP >= MIXED:
        n, most, close = transition_numbers(w, prev, lab, C, S, F, CP)
        return w, n, most, close
    else:
        return w, w, w, True


@triton.jit
def lead(a, leads, prev, S: tl.constexpr):
    """The accumulators of what elements (previous labels) lead to, by next label."""
    w, n, most, close = leads
    if S.framed and w[0].shape[0] >= MIXED:
        if close:
            acc = led(a, n, most, S)
        else:
            acc = S.group(S.act(expand(a, 1), w), prev[:, None], 0)
    else:
        acc = S.group(S.act(expand(a, 1), w), prev[:, None], 0)
    return acc


@triton.jit
def near(parts, b, t, n, i, acc, a, e, last, low, drift, leads, table, dstride, u, ustride, kept, strides, T, C, ring,
         S: tl.constexpr, P: tl.constexpr, F: tl.constexpr, KEEP: tl.constexpr, CP: tl.constexpr,
         TB: tl.constexpr):  # fmt: skip
    """Row i of the tile: it is finished, leads on, and is a source of the rows that follow."""
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    prev = tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    at = row[:, None] * (CP + 1) + lab[None, :]
    d = read(lines(table, dstride, -i, at, S.potentials, CP, TB), 0)
    now = emitted(parts, P, b, t - 1, n, lab, T, C, F)
    ends = vectors(parts, P.segment_end, P, b, place(P, t - 1, n) * wide, T * wide, lab, inside & (t <= n), F)
    begins = vectors(parts, P.segment_start, P, b, place(P, t, n) * wide, T * wide, lab, inside & (t < n), F)
    e = add_finite(e, now, drift)
    r = S.finish(pick(acc, (row == i)[:, None], S, "accumulator"))
    a = S.act(take(r, 0, S.fields), plus(ends, e))
    last = select(t == n, a, last)
    gr = S.finish(lead(a, leads, prev, S))
    v = ()
    for m in tl.static_range(S.potentials):
        v = v + (begins[m] - e[m],)
    ux = S.act(take(gr, 0, S.fields), v)
    store_tuple(u + ((t - 1) & ring) * CP, ustride, lab, ux, lab >= 0)
    if KEEP:
        keep_alpha(kept, strides, t, wide, lab, inside & (t <= n), r, a, S)
        keep_g(kept, strides, t, wide, lab, inside & (t < n), gr, S)
    led = S.single(S.act(expand(ux, 0), after(d, t, low)), (row - i - 1)[:, None])
    return S.merge(acc, led), a, e, last  # rows up to i gain nothing: there the durations are -inf


@triton.jit
def next_tile(base, offset, drift, a, e, low, inside, rows, done, S: tl.constexpr, TB: tl.constexpr):
    """Frames, offset, drift and bounds after a tile of `rows` positions, whose last row is `a`."""
    nothing = tl.zeros_like(e[0])
    bases, offsets, drifts, carried = (), (), (), ()
    for m in tl.static_range(S.potentials):
        level = tl.sum(nothing, 0)
        if S.levels[m] >= 0:
            level = tl.max(tl.where(inside, a[S.levels[m]], float("-inf")), 0)
            level = tl.where((level > float("-inf")) & (level < float("inf")), level, 0.0)
        here = offset[m] + drift[m].to(tl.float64) * rows.to(tl.float64)
        offsets = offsets + (here + tl.where(done, 0.0, level.to(tl.float64)),)
        bases = bases + (base[m] + (level - e[m]).to(tl.float64),)
        drifts = drifts + (drift[m] + level / TB,)
        carried = carried + (tl.max(low[m], 0),)
    return bases, offsets, drifts, carried


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
    base = constants(S.still, tl.zeros([CP], tl.float64))  # offset less emissions before the tile, by label
    offset = constants(S.still, tl.sum(tl.zeros([CP], tl.float64), 0))
    drift = constants(S.still, tl.sum(nothing, 0))
    carried = constants(S.unbounded, tl.zeros([CP], tl.int32))
    v = vectors(parts, P.segment_start, P, b, place(P, 0, n) * wide, T * wide, lab, inside, F)
    last = constants(S.zero, nothing)
    store_tuple(u + ring * CP, ustride, lab, S.act(x, v), lab >= 0)  # source s lies at s - 1; before the first are zeros
    for q in tl.static_range(1, SB):
        store_tuple(u + (ring - q) * CP, ustride, lab, last, lab >= 0)
    store_tuple(frames, fstride, lab, base, lab >= 0)
    if KEEP:
        keep_first(kept, strides, b, lab, inside, x, offset, S)
    for t0 in range(0, n, TB):
        _, holes = local_sums(parts, P, b, t0, n, row, lab, drift, T, C, F)
        low = bounds(parts, P, holes, carried, b, t0, n, row, T)
        store_tuple(frames, fstride, (((t0 + TB) // TB) & (ring // TB)) * CP + lab, base, lab >= 0)
        tl.debug_barrier()
        since = K * 0
        if SUMS:
            since = tl.where(tightest(low) > t0 + 1 - K, 0, tl.minimum(whole, (t0 + SB) // SB * SB))
        acc = far(table, dstride, u, ustride, frames, fstride, low, base, t0, since, K, ring, S, F, CP, TB, SB)
        if SUMS:
            acc = S.merge(acc, far_sums(table, dstride, span, most, u, ustride, frames, fstride, base, t0, since, ring, S,
                                        F, CP, TB, SB))  # fmt: skip
        a = last
        e = constants(S.still, nothing)  # emissions less the drift, from the tile's first position
        for i in range(TB):
            acc, a, e, last = near(parts, b, t0 + 1 + i, n, i, acc, a, e, last, low, drift, leads, table, dstride, u,
                                   ustride, kept, strides, T, C, ring, S, P, F, KEEP, CP, TB)  # fmt: skip
        if KEEP:
            for m in tl.static_range(S.potentials):
                o = offset[m] + drift[m].to(tl.float64) * (row + 1).to(tl.float64)
                tl.store(kept[4] + m * strides[2] + t0 + 1 + row, o, mask=t0 + 1 + row <= n)
        base, offset, drift, carried = next_tile(base, offset, drift, a, e, low, inside, tl.minimum(n - t0, TB),
                                                 n <= t0 + TB, S, TB)  # fmt: skip
    return last, offset


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
    """A sequence, forward, and beside it the reversed one, whose rows are what may follow: `ahead`. Q is the layout of
    the reversed sequence; the second half of the scratch is its; elements are one number.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    wide = C.to(tl.int64)
    length = T.to(tl.int64)
    if tl.program_id(1) == 0:
        kept, strides = rows_of(b, B, wide, length, alpha, g, alpha_id, g_id, offsets)
        last, offset = sweep(parts, b, B, n, kept, strides, u, frames, table, T, K, C, ring, S, P, F, True, SUMS, CP,
                             TB, SB)  # fmt: skip
        total(parts, last, offset, b, tl.arange(0, CP), C, value, B, end_id, S, P, F, True)
    else:
        R = B * (ring + 1)
        after_g = ahead + B * (length + 1) * wide
        kept, strides = rows_of(b, B, wide, length, ahead, after_g, alpha_id, g_id, ahead_offsets)
        u, frames, table = u + R * CP, frames + (R // TB) * CP, table + B * pitch * (CP + 1)
        sweep(parts, b, B, n, kept, strides, u, frames, table, T, K, C, ring, S, Q, F, True, SUMS, CP, TB, SB)
