"""The forward sweep one position at a time: models whose arcs do not factor, or more labels than one tile holds.

The recurrence is that of `scan.py`; nothing is carried over from one position to the next but rows in memory. The
window is read KB durations at a time, what leads on in tiles of PB previous labels and QB durations.
"""

import triton
import triton.language as tl
from semicrf.kernels.far import after
from semicrf.kernels.scan import total
from semicrf.kernels.state import (
    constants,
    emitted,
    expand,
    load_tuple,
    nothing_yet,
    padded,
    row_of,
    store_tuple,
    take,
    vectors,
)


@triton.jit
def allowed(now, low, position, moved):
    """Emissions without their -inf, and the bounds with them: `moved` where one is."""
    finite = ()
    bound = ()
    for m in tl.static_range(len(now)):
        hole = now[m] == float("-inf")
        finite = finite + (tl.where(hole, 0.0, now[m]),)
        bound = bound + (tl.where(hole, moved, low[m]),)
    return finite, bound


@triton.jit
def required_at(parts, P: tl.constexpr, m: tl.constexpr, b, s, n, T):
    """Whether model m requires a segment to start at s."""
    if P.required[m] >= 0:
        p = row_of(parts, P.required[m], P, b, T.to(tl.int64)) + s
        return tl.load(p, mask=(s > 0) & (s < n), other=0).to(tl.int32) != 0
    else:
        return s < 0


@triton.jit
def scores(parts, P: tl.constexpr, b, s, k, lab, T, K, C, mask, F: tl.constexpr):
    """(arcs, labels) for every model: what durations k and whole segments from s score, -inf where masked."""
    at = (k - 1)[:, None] * C + lab[None, :]
    wide = K.to(tl.int64) * C
    out = ()
    for m in tl.static_range(len(P.duration)):
        w = tl.where(mask, tl.zeros(mask.shape, F), float("-inf"))
        if P.duration[m] >= 0:
            w += tl.load(row_of(parts, P.duration[m], P, b, wide) + at, mask=mask, other=0.0).to(F)
        if P.segment[m] >= 0:
            p = row_of(parts, P.segment[m], P, b, T * wide)
            w += tl.load(p + s.to(tl.int64)[:, None] * wide + at, mask=mask, other=0.0).to(F)
        out = out + (w,)
    return out


@triton.jit
def leading(parts, P: tl.constexpr, b, s, k, prev, lab, T, K, C, mask, F: tl.constexpr):
    """(previous, durations, labels) for every model: what leads into a segment that starts at s > 0."""
    at = prev[:, None, None] * C + lab[None, None, :] + tl.zeros(mask.shape, tl.int32)
    square = C.to(tl.int64) * C
    column = (k - 1)[None, :, None] * square
    out = ()
    for m in tl.static_range(len(P.transition)):
        w = tl.where(mask, tl.zeros(mask.shape, F), float("-inf"))
        if P.transition[m] >= 0:
            w += tl.load(row_of(parts, P.transition[m], P, b, square) + at, mask=mask, other=0.0).to(F)
        if P.duration_transition[m] >= 0:
            p = row_of(parts, P.duration_transition[m], P, b, K * square)
            w += tl.load(p + column + at, mask=mask, other=0.0).to(F)
        if P.edge[m] >= 0:
            p = row_of(parts, P.edge[m], P, b, T * (K * square)) + s * (K * square)
            w += tl.load(p + column + at, mask=mask, other=0.0).to(F)
        out = out + (w,)
    return out


@triton.jit
def beginning(parts, P: tl.constexpr, b, k, lab, T, K, C, mask, F: tl.constexpr):
    """(durations, labels) for every model: what leads into the first segment."""
    square = C.to(tl.int64) * C
    out = ()
    for m in tl.static_range(len(P.start)):
        w = tl.where(mask, tl.zeros(mask.shape, F), float("-inf"))
        if P.start[m] >= 0:
            p = row_of(parts, P.start[m], P, b, C)
            w += tl.load(p + lab[None, :] + tl.zeros(mask.shape, tl.int32), mask=mask, other=0.0).to(F)
        if P.edge[m] >= 0:
            p = row_of(parts, P.edge[m], P, b, T * (K * square))
            w += tl.load(p + (k - 1)[:, None] * square + lab[None, :], mask=mask, other=0.0).to(F)
        out = out + (w,)
    return out


@triton.jit
def window(parts, P: tl.constexpr, b, t, frame, low, u, ustride, uring, source, sstride, ring, lab, T, K, C, columns,
           S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, KB: tl.constexpr):  # fmt: skip
    """The sum (labels,) over the segments that end at t, and the places of its choices."""
    acc = nothing_yet(tl.zeros([CP], F), S)
    wide = C.to(tl.int64)
    for k0 in range(0, tl.minimum(K, t), KB):
        k = k0 + 1 + tl.arange(0, KB)
        s = t - k
        here = ((k <= K) & (s >= 0))[:, None] & (lab < C)[None, :]
        column = tl.where(columns > 1, k - 1, 0)
        at = ((s & uring).to(tl.int64) * columns + column)[:, None] * wide + lab[None, :]
        x = load_tuple(u, ustride, at, here, S.zero, F)
        begun = load_tuple(source, sstride, (s & ring)[:, None] * wide + lab[None, :], here, S.still, tl.float64)
        d = scores(parts, P, b, s, k, lab, T, K, C, here, F)
        w = ()
        for m in tl.static_range(S.potentials):
            w = w + (d[m] + (begun[m] - frame[m][None, :]).to(F),)
        w = after(w, s[:, None], expand(low, 0))
        acc = S.merge(acc, S.group(S.act(x, w), (k - 1)[:, None], 0))
    return S.finish(acc)


@triton.jit
def lead_on(parts, P: tl.constexpr, b, t, n, now, nstride, u, ustride, urow, g_id, gstride, lab, T, K, C, columns,
            S: tl.constexpr, F: tl.constexpr, KEEP: tl.constexpr, CP: tl.constexpr, PB: tl.constexpr,
            QB: tl.constexpr):  # fmt: skip
    """What leads into segments that start at t > 0, for every duration that matters, into row `urow` of u."""
    wide = C.to(tl.int64)
    for k0 in range(0, tl.minimum(columns, n - t), QB):
        k = k0 + 1 + tl.arange(0, QB)
        some = (k <= tl.minimum(columns, n - t))[:, None] & (lab < C)[None, :]
        acc = nothing_yet(tl.zeros([QB, CP], F), S)
        for p0 in range(0, C, PB):
            prev = p0 + tl.arange(0, PB)
            x = load_tuple(now, nstride, prev, prev < C, S.zero, F)
            mask = (prev < C)[:, None, None] & some[None, :, :]
            w = leading(parts, P, b, t, k, prev, lab, T, K, C, mask, F)
            y = S.act(expand(expand(x, 1), 2), w)
            acc = S.merge(acc, S.group(y, prev[:, None, None], 0))
        r = S.finish(acc)
        at = (k - 1)[:, None] * wide + lab[None, :]
        store_tuple(u, ustride, urow * columns * wide + at, take(r, 0, S.fields), some)
        if KEEP and S.keeps_ids:
            store_tuple(g_id, gstride, t * columns * wide + at, take(r, S.fields, S.fields + S.ids), some)


@triton.jit
def begin(parts, P: tl.constexpr, b, n, u, ustride, g_id, gstride, lab, T, K, C, columns, S: tl.constexpr,
          F: tl.constexpr, KEEP: tl.constexpr, CP: tl.constexpr, QB: tl.constexpr):  # fmt: skip
    """What leads into the first segment, into row 0 of u."""
    for k0 in range(0, tl.minimum(columns, n), QB):
        k = k0 + 1 + tl.arange(0, QB)
        some = (k <= tl.minimum(columns, n))[:, None] & (lab < C)[None, :]
        x = S.act(constants(S.one, tl.zeros([QB, CP], F)), beginning(parts, P, b, k, lab, T, K, C, some, F))
        at = (k - 1)[:, None] * C.to(tl.int64) + lab[None, :]
        store_tuple(u, ustride, at, x, some)
        if KEEP:
            store_tuple(g_id, gstride, at, constants(S.nowhere, tl.zeros([QB, CP], tl.int32)), some)


@triton.jit
def put_source(parts, P: tl.constexpr, b, s, n, offset, sums, source, sstride, ring, lab, T, C, F: tl.constexpr):
    """What a segment that starts at s scores there: its offset less the emissions before it, in float64."""
    wide = C.to(tl.int64)
    inside = (lab < C) & (s < n)
    starts = vectors(parts, P.segment_start, P, b, s * wide, T * wide, lab, inside, F)
    x = ()
    for m in tl.static_range(len(sums)):
        x = x + (starts[m].to(tl.float64) + (offset[m] - sums[m]),)
    store_tuple(source, sstride, (s & ring) * wide + lab, x, inside)


@triton.jit
def levelled(a, lab, C, S: tl.constexpr):
    """Elements (labels,) relative to their own level, and that level for every potential."""
    levels = ()
    back = ()
    for m in tl.static_range(S.potentials):
        level = tl.sum(tl.zeros_like(a[0]), 0)
        if S.levels[m] >= 0:
            level = tl.max(tl.where(lab < C, a[S.levels[m]], float("-inf")), 0)
            level = tl.where((level > float("-inf")) & (level < float("inf")), level, 0.0)
        levels = levels + (level,)
        back = back + (tl.zeros_like(a[0]) - level,)
    return S.act(a, back), levels


@triton.jit(do_not_specialize=["T", "K", "C", "columns", "urows", "uring", "ring"])
def arcs(
    parts, lengths, value, alpha, g_id, offsets, alpha_id, end_id, u, source, now, T, K, C, columns, urows, uring, ring,
    S: tl.constexpr, P: tl.constexpr, F: tl.constexpr, KEEP: tl.constexpr, CP: tl.constexpr, KB: tl.constexpr,
    PB: tl.constexpr, QB: tl.constexpr,
):  # fmt: skip
    """One sequence, forward. `u` holds what leads on from the last positions (where kept, g itself, from all), `source`
    what is added there, `now` the row of alpha at hand.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    lab = tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    astride, gstride, ustride = B * (T + 1) * wide, B * T * columns * wide, B * urows * columns * wide
    sstride = B * (ring + 1) * wide
    alpha, alpha_id, offsets = alpha + b * (T + 1) * wide, alpha_id + b * (T + 1) * wide, offsets + b * (T + 1)
    g_id, u, source, now = (
        g_id + b * T * columns * wide,
        u + b * urows * columns * wide,
        source + b * (ring + 1) * wide,
        now + b * wide,
    )
    nothing = tl.zeros([CP], F)
    offset = constants(S.still, tl.sum(tl.zeros([CP], tl.float64), 0))
    sums = constants(S.still, tl.zeros([CP], tl.float64))
    low = constants(S.unbounded, tl.zeros([CP], tl.int32))
    a = constants(S.zero, nothing)
    begin(parts, P, b, n, u, ustride, g_id, gstride, lab, T, K, C, columns, S, F, KEEP, CP, QB)
    put_source(parts, P, b, 0, n, offset, sums, source, sstride, ring, lab, T, C, F)
    if KEEP:
        store_tuple(alpha, astride, lab, a, inside)
        store_tuple(alpha_id, astride, lab, constants(S.nowhere, tl.zeros([CP], tl.int32)), inside)
        store_tuple(offsets, B * (T + 1), 0, offset, b >= 0)
    for t in range(1, n + 1):
        tl.debug_barrier()
        now_scores, low = allowed(emitted(parts, P, b, t - 1, n, lab, T, C, F), low, t - 1, t)
        o, h, l0 = offset, sums, low
        offset, sums, low, frame = (), (), (), ()
        for m in tl.static_range(S.potentials):
            sums = sums + (h[m] + now_scores[m].to(tl.float64),)
            low = low + (tl.maximum(l0[m], tl.where(required_at(parts, P, m, b, t - 1, n, T), t - 1, 0)),)
            frame = frame + (o[m] - sums[m],)
        r = window(parts, P, b, t, frame, low, u, ustride, uring, source, sstride, ring, lab, T, K, C, columns, S, F,
                   CP, KB)  # fmt: skip
        ends = vectors(parts, P.segment_end, P, b, (t - 1) * wide, T * wide, lab, inside, F)
        a, levels = levelled(S.act(take(r, 0, S.fields), ends), lab, C, S)
        for m in tl.static_range(S.potentials):
            offset = offset + (o[m] + levels[m].to(tl.float64),)
        store_tuple(now, B * wide, lab, a, inside)
        if KEEP:
            store_tuple(alpha, astride, t * wide + lab, a, inside)
            store_tuple(offsets, B * (T + 1), t, offset, b >= 0)
            if S.keeps_ids:
                store_tuple(alpha_id, astride, t * wide + lab, take(r, S.fields, S.fields + S.ids), inside)
        if t < n:
            tl.debug_barrier()
            put_source(parts, P, b, t, n, offset, sums, source, sstride, ring, lab, T, C, F)
            urow = (t & uring).to(tl.int64)
            lead_on(parts, P, b, t, n, now, B * wide, u, ustride, urow, g_id, gstride, lab, T, K, C, columns, S, F,
                    KEEP, CP, PB, QB)  # fmt: skip
    total(parts, a, padded(offset, offset[0], S), b, lab, C, value, B, end_id, S, P, F, KEEP)
