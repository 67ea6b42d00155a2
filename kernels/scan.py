"""The forward sweep, blocked: TB positions at a time, one program per sequence. README.md has the derivation."""

import triton
import triton.language as tl
from semicrf.kernels.state import (
    _later,
    constants,
    convert,
    durations,
    emitted,
    expand,
    load_tuple,
    local_sums,
    nothing_yet,
    pick,
    plus,
    select,
    starts_required,
    store_tuple,
    take,
    transitions,
    vectors,
)


@triton.jit
def far(table, dstride, u, ustride, frames, fstride, low, base, t0, K, C, ring, S: tl.constexpr, F: tl.constexpr,
        CUT: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """The accumulators (rows, labels) of destinations t0 + 1 + row over the sources up to t0, SB at a time.

    CUT: whether `low` forbids any of them.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    acc = nothing_yet(tl.zeros([TB, CP], F), S)
    for j0 in range(0, tl.minimum(K, t0 + 1), SB):
        s = t0 - j0 - q
        here = (s >= 0)[:, None] & (lab < C)[None, :]
        x = load_tuple(u, ustride, (s & ring)[:, None] * C + lab[None, :], here, S.zero, F)
        block = ((t0 - j0 + TB - 1) // TB) & (ring // TB)
        shift = load_tuple(frames, fstride, block * C + lab, lab < C, S.still, tl.float64)
        moved = ()
        for m in tl.static_range(S.potentials):
            moved = moved + ((shift[m] - base[m]).to(F)[None, :] + tl.zeros([SB, CP], F),)
        x = expand(S.act(x, moved), 0)
        k = (1 + j0 + row)[:, None] + q[None, :]
        w = durations(table, dstride, k[:, :, None], lab[None, None, :], S, CP, TB)
        if CUT:
            w = after(w, s[None, :, None], expand(low, 1))
        acc = S.merge(acc, S.group(S.act(x, w), (k - 1)[:, :, None], 1))
    return acc


@triton.jit
def after(w, s, low):
    """Potentials of arcs from sources s, -inf before the first that is allowed."""
    out = ()
    for m in tl.static_range(len(w)):
        out = out + (tl.where(s >= low[m], w[m], float("-inf")),)
    return out


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


@triton.jit(do_not_specialize=["T", "K", "C", "ring", "drows", "dbatch"])
def scan(
    parts, lengths, value, alpha, g, offsets, alpha_id, g_id, end_id, u, frames, table, T, K, C, ring, drows,
    dbatch, S: tl.constexpr,
    P: tl.constexpr, F: tl.constexpr, KEEP: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """One sequence, forward; `u` is a ring of sources in the frame of their tile, `frames` those frames."""
    b = tl.program_id(0).to(tl.int64)
    B = tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    prev = tl.arange(0, CP)
    inside = lab < C
    wide = T.to(tl.int64)
    astride, gstride = B * (wide + 1) * C, B * wide * C
    alpha += b * (wide + 1) * C
    alpha_id += b * (wide + 1) * C
    g += b * wide * C
    g_id += b * wide * C
    offsets += b * (wide + 1)
    R = ring + 1
    ustride, fstride = B * R * C, B * (R // TB) * C
    u += b * R * C
    frames += b * (R // TB) * C
    dstride = dbatch.to(tl.int64) * drows * (CP + 1)
    table += tl.minimum(b, dbatch - 1) * drows * (CP + 1)
    leads = transitions(parts, P, b, prev[:, None], lab[None, :], C, F)
    nothing = tl.zeros([CP], F)
    x = S.act(constants(S.one, nothing), vectors(parts, P.start, P, b, 0, C, lab, inside, F))
    base = constants(S.still, tl.zeros([CP], tl.float64))  # offset less emissions before the tile, by label
    offset = constants(S.still, tl.sum(tl.zeros([CP], tl.float64), 0))
    drift = constants(S.still, tl.sum(nothing, 0))
    carried = constants(S.unbounded, tl.zeros([CP], tl.int32))
    v = vectors(parts, P.segment_start, P, b, 0, wide * C, lab, inside, F)
    store_tuple(u, ustride, lab, S.act(x, v), inside)
    store_tuple(frames, fstride, lab, base, inside)
    last = constants(S.zero, nothing)
    if KEEP:
        store_tuple(g, gstride, lab, x, inside)
        store_tuple(alpha, astride, lab, last, inside)
        store_tuple(offsets, B * (wide + 1), 0, offset, b >= 0)
        store_tuple(alpha_id, astride, lab, constants(S.nowhere, tl.zeros([CP], tl.int32)), inside)
        store_tuple(g_id, gstride, lab, constants(S.nowhere, tl.zeros([CP], tl.int32)), inside)
    for t0 in range(0, n, TB):
        _, holes = local_sums(parts, P, b, t0, n, row, lab, drift, T, C, F)
        low = bounds(parts, P, holes, carried, b, t0, n, row, T)
        store_tuple(frames, fstride, (((t0 + TB) // TB) & (ring // TB)) * C + lab, base, inside)
        tl.debug_barrier()
        if tightest(low) > t0 + 1 - K:
            acc = far(table, dstride, u, ustride, frames, fstride, low, base, t0, K, C, ring, S, F, True, CP, TB, SB)
        else:
            acc = far(table, dstride, u, ustride, frames, fstride, low, base, t0, K, C, ring, S, F, False, CP, TB, SB)
        a = last
        e = constants(S.still, nothing)  # emissions less the drift, from the tile's first position
        for i in range(TB):
            t = t0 + 1 + i
            k = row - i
            d = durations(table, dstride, k[:, None], lab[None, :], S, CP, TB)
            now = emitted(parts, P, b, t - 1, n, lab, T, C, F)
            ends = vectors(parts, P.segment_end, P, b, (t - 1) * C.to(tl.int64), wide * C, lab, inside & (t <= n), F)
            begins = vectors(parts, P.segment_start, P, b, t * C.to(tl.int64), wide * C, lab, inside & (t < n), F)
            here = (row == i)[:, None]
            e = add_finite(e, now, drift)
            r = S.finish(pick(acc, here, S, "accumulator"))
            a = S.act(take(r, 0, S.fields), plus(ends, e))
            last = select(t == n, a, last)
            y = S.act(expand(a, 1), leads)
            gr = S.finish(S.group(y, prev[:, None], 0))
            gx = take(gr, 0, S.fields)
            v = ()
            for m in tl.static_range(S.potentials):
                v = v + (begins[m] - e[m],)
            w = after(d, t, low)
            ux = S.act(gx, v)
            store_tuple(u, ustride, (t & ring) * C + lab, ux, inside & (t < n))
            if KEEP:
                at = t * C.to(tl.int64) + lab
                store_tuple(alpha, astride, at, a, inside & (t <= n))
                store_tuple(g, gstride, at, gx, inside & (t < n))
                if S.keeps_ids:
                    store_tuple(alpha_id, astride, at, take(r, S.fields, S.fields + S.ids), inside & (t <= n))
                    store_tuple(g_id, gstride, at, take(gr, S.fields, S.fields + S.ids), inside & (t < n))
            near = S.single(S.act(expand(ux, 0), w), (k - 1)[:, None] + tl.zeros([TB, CP], tl.int32))
            acc = select((row > i)[:, None], S.merge(acc, near), acc)
        if KEEP:
            for m in tl.static_range(S.potentials):
                o = offset[m] + drift[m].to(tl.float64) * (row + 1).to(tl.float64)
                tl.store(offsets + m * B * (wide + 1) + t0 + 1 + row, o, mask=t0 + 1 + row <= n)
        done = n <= t0 + TB
        b0, o0, d0 = base, offset, drift
        base, offset, drift, carried = (), (), (), ()
        for m in tl.static_range(S.potentials):
            level = tl.sum(nothing, 0)
            if S.levels[m] >= 0:
                level = tl.max(tl.where(inside, a[S.levels[m]], float("-inf")), 0)
                level = tl.where((level > float("-inf")) & (level < float("inf")), level, 0.0)
            rows = tl.minimum(n - t0, TB).to(tl.float64)
            here = o0[m] + d0[m].to(tl.float64) * rows
            offset = offset + (here + tl.where(done, 0.0, level.to(tl.float64)),)
            base = base + (b0[m] + (level - e[m]).to(tl.float64),)
            drift = drift + (d0[m] + level / TB,)
            carried = carried + (tl.max(low[m], 0),)
    total(parts, last, offset, b, lab, C, value, B, end_id, S, P, F, KEEP)
