"""The reverse sweep, blocked like the forward one, and the counts of durations. README.md has the derivation."""

import triton
import triton.language as tl
from semicrf.kernels.state import (
    _earlier,
    add_up,
    constants,
    convert,
    durations,
    emitted,
    expand,
    load_tuple,
    local_sums,
    pick,
    plus,
    starts_required,
    store_grads,
    store_tuple,
    take,
    tiles,
    transitions,
    vectors,
)


@triton.jit
def limits(parts, P: tl.constexpr, carried, b, s0, n, row, lab, T, C, still: tl.constexpr, F: tl.constexpr):
    """(rows, labels) for every model: where a segment that starts at s0 + row must have ended."""
    drift = constants(still, tl.sum(tl.zeros(lab.shape, F), 0))
    _, holes = local_sums(parts, P, b, s0, n, row, lab, drift, T, C, F)
    high = ()
    for m in tl.static_range(len(holes)):
        bound = tl.where(holes[m], (s0 + row)[:, None], 2147483647)
        if P.required[m] >= 0:
            must = starts_required(parts, P, m, b, s0 + 1, n, row, T)
            bound = tl.minimum(bound, tl.where(must, s0 + 1 + row, 2147483647)[:, None])
        bound = tl.associative_scan(bound, 0, _earlier, reverse=True)
        high = high + (tl.minimum(bound, carried[m][None, :]),)
    return high


@triton.jit
def pulled_back(g, y, x, w, id, place, S: tl.constexpr):
    """Cotangents of x and of the potentials w, given that of the sum of ``act(x, w)``."""
    return S.act_vjp(S.sum_vjp(g, y, S.act(x, w), id, place), x, w)


@triton.jit
def far_bar(table, dstride, us, high, base, alpha, bar, alpha_id, z, astride, frames, fstride, s0, n, K, C,
            S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """Cotangents (rows, labels) of sources s0 + row from the destinations beyond their tile, SB at a time."""
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    total = constants(S.nothing, tl.zeros([TB, CP], F))
    wide = C.to(tl.int64)
    for j0 in range(0, tl.minimum(K + TB, n + 1 - s0 - TB), SB):
        t = s0 + TB + j0 + q
        here = (t <= n)[:, None] & (lab < C)[None, :]
        at = (s0 + TB + j0) * wide + q[:, None] * C + lab[None, :]
        y = expand(load_tuple(alpha, astride, at, here, S.zero, F), 0)
        gy = expand(load_tuple(bar, astride, at, here, S.nothing, F), 0)
        id = expand(load_tuple(alpha_id, astride, at, here, S.nowhere, tl.int32), 0)
        ends = load_tuple(z, astride, at, here, S.still, F)
        shift = load_tuple(frames, fstride, ((s0 + TB + j0) // TB) * C + lab, lab < C, S.still, tl.float64)
        k = TB + j0 + q[None, :] - row[:, None]
        d = durations(table, dstride, k[:, :, None], lab[None, None, :], S, CP, TB)
        w = ()
        for m in tl.static_range(S.potentials):
            x = d[m] + (ends[m] + (shift[m] - base[m]).to(F)[None, :])[None, :, :]
            w = w + (tl.where(t[None, :, None] <= high[m][:, None, :], x, float("-inf")),)
        pulled = pulled_back(gy, y, expand(us, 1), w, id, (k - 1)[:, :, None], S)
        total = plus(total, add_up(pulled, 1, S.fields))
    return total


@triton.jit
def end_bar(parts, lengths, grads, cotangent, value, vstride, last, offset, end_id, b, lab, C, S: tl.constexpr,
            P: tl.constexpr, G: tl.constexpr, F: tl.constexpr):  # fmt: skip
    """Cotangents (labels,) of the last row, given that of the value; the gradient of `end` is stored."""
    v = load_tuple(value + b, vstride, 0, b >= 0, S.nothing, tl.float64)
    c = load_tuple(cotangent + b, vstride, 0, b >= 0, S.nothing, tl.float64)
    given = ()
    for i in tl.static_range(S.fields):
        finite = (v[i] > float("-inf")) & (v[i] < float("inf"))
        given = given + (tl.where(finite, c[i], 0.0),)
    back = ()
    for m in tl.static_range(S.potentials):
        back = back + (-offset[m],)
    y = convert(S.act(v, back), F)
    ends = vectors(parts, P.end, P, b, 0, C, lab, lab < C, F)
    id = load_tuple(end_id + b, vstride, 0, b >= 0, S.nowhere, tl.int32)
    pulled = pulled_back(convert(given, F), y, last, ends, id, lab, S)
    store_grads(grads, G.end, b, C, 0, lab, take(pulled, S.fields, S.fields + S.potentials), lab < C)
    return take(pulled, 0, S.fields)


@triton.jit(do_not_specialize=["T", "K", "C", "drows", "dbatch"])
def scan_vjp(
    parts, grads, lengths, cotangent, value, alpha, g, offsets, alpha_id, g_id, end_id, bar, z, begin, limit, frames,
    table, T, K, C, drows, dbatch, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr,
    CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """One sequence, backward; `bar` .. `frames` keep what destinations and sources add to an arc."""
    b = tl.program_id(0).to(tl.int64)
    B = tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    prev = tl.arange(0, CP)
    inside = lab < C
    labels = C.to(tl.int64)
    astride, gstride, ostride = B * (T + 1) * labels, B * T * labels, B * (T + 1)
    blocks = T // TB + 1
    fstride = B * blocks * labels
    alpha += b * (T + 1) * labels
    alpha_id += b * (T + 1) * labels
    bar += b * (T + 1) * labels
    z += b * (T + 1) * labels
    begin += b * (T + 1) * labels
    limit += b * (T + 1) * labels
    g += b * T * labels
    g_id += b * T * labels
    offsets += b * (T + 1)
    frames += b * blocks * labels
    dstride = dbatch.to(tl.int64) * drows * (CP + 1)
    table += tl.minimum(b, dbatch - 1) * drows * (CP + 1)
    leads = transitions(parts, P, b, lab[None, :], prev[:, None], C, F)  # (next, previous)
    nothing = tl.zeros([CP], F)
    at_end = load_tuple(alpha, astride, n * labels + lab, inside, S.zero, F)
    offset = load_tuple(offsets, ostride, n, b >= 0, S.still, tl.float64)
    last = end_bar(parts, lengths, grads, cotangent, value, B, at_end, offset, end_id, b, lab, C, S, P, G, F)
    leads_bar = constants(S.still, tl.zeros([CP, CP], F))
    mass = constants(S.still, tl.zeros([CP], tl.float64))
    base = mass
    carried = constants(S.unlimited, tl.zeros([CP], tl.int32))
    g_bar = constants(S.nothing, nothing)
    tiles_used = n // TB + 1
    for j in range(tiles_used):
        s0 = (tiles_used - 1 - j) * TB
        s = s0 + row
        step = ()
        for m in tl.static_range(S.potentials):
            within = (s >= 1) & (s <= n)
            level = tl.load(offsets + m * ostride + s, mask=within, other=0.0)
            before = tl.load(offsets + m * ostride + s - 1, mask=within, other=0.0)
            step = step + ((level - before).to(F)[:, None],)
        sums, _ = local_sums(parts, P, b, s0 - 1, n, row, lab, step, T, C, F)
        high = limits(parts, P, carried, b, s0, n, row, lab, T, C, S.still, F)
        ends = plus(tiles(parts, P.segment_end, P, b, s0 - 1, n, row, lab, T, C, F), sums)
        starts = tiles(parts, P.segment_start, P, b, s0, n, row, lab, T, C, F)
        made = pick(sums, (row == TB - 1)[:, None], S, "potentials")
        b0 = base
        base, carried, v = (), (), ()
        for m in tl.static_range(S.potentials):
            base = base + (b0[m] - made[m].to(tl.float64),)
            carried = carried + (tl.min(high[m], 0),)
            v = v + (starts[m] - sums[m],)
        at = s0 * labels + row[:, None] * C + lab[None, :]
        rows = (s <= n)[:, None] & inside[None, :]
        store_tuple(z, astride, at, ends, rows)
        store_tuple(begin, astride, at, v, rows)
        store_tuple(limit, astride, at, high, rows)
        store_tuple(frames, fstride, (s0 // TB) * C + lab, base, inside)
        tl.debug_barrier()
        gs = load_tuple(g, gstride, at, (s < n)[:, None] & inside[None, :], S.zero, F)
        us = S.act(gs, v)
        total = far_bar(table, dstride, us, high, base, alpha, bar, alpha_id, z, astride, frames, fstride, s0, n, K, C,
                        S, F, CP, TB, SB)  # fmt: skip
        for back in range(TB):
            i = TB - 1 - back
            t = s0 + i
            k = i - row
            here = (row == i)[:, None]
            d = durations(table, dstride, k[:, None], lab[None, :], S, CP, TB)
            line = t * labels + lab
            a = load_tuple(alpha, astride, line, inside & (t <= n), S.zero, F)
            a_id = load_tuple(alpha_id, astride, line, inside & (t <= n), S.nowhere, tl.int32)
            gi = load_tuple(g, gstride, line, inside & (t < n), S.zero, F)
            gi_id = load_tuple(g_id, gstride, line, inside & (t < n), S.nowhere, tl.int32)
            zi = load_tuple(z, astride, line, inside & (t <= n), S.still, F)
            vi = load_tuple(begin, astride, line, inside & (t <= n), S.still, F)
            now = emitted(parts, P, b, t - 1, n, lab, T, C, F)
            started = S.act_vjp(pick(total, here, S, "fields"), gi, vi)
            g_bar = take(started, 0, S.fields)
            lead = pulled_back(expand(g_bar, 1), expand(gi, 1), expand(a, 0), leads, expand(gi_id, 1),
                               lab[None, :], S)  # fmt: skip
            leads_bar = plus(leads_bar, take(lead, S.fields, S.fields + S.potentials))
            into = add_up(lead, 0, S.fields)
            a_bar = ()
            for f in tl.static_range(S.fields):
                a_bar = a_bar + (into[f] + tl.where(t == n, last[f], 0.0),)
            store_tuple(bar, astride, line, a_bar, inside & (t <= n))
            ended = S.act_vjp(a_bar, a, zi)
            w = ()
            m0 = mass
            mass = ()
            whole = ()
            for m in tl.static_range(S.potentials):
                change = ended[S.fields + m] - started[S.fields + m]
                mass = mass + (m0[m] + change.to(tl.float64),)
                whole = whole + (tl.where(now[m] == float("-inf"), 0.0, mass[m]).to(F),)
                x = d[m] + zi[m][None, :]
                w = w + (tl.where(t <= high[m], x, float("-inf")),)
            store_grads(grads, G.emission, b, T * labels, (t - 1) * labels, lab, whole, inside & (t >= 1) & (t <= n))
            store_grads(grads, G.segment_end, b, T * labels, (t - 1) * labels, lab,
                        take(ended, S.fields, S.fields + S.potentials), inside & (t >= 1) & (t <= n))  # fmt: skip
            store_grads(grads, G.segment_start, b, T * labels, t * labels, lab,
                        take(started, S.fields, S.fields + S.potentials), inside & (t < n))  # fmt: skip
            near = pulled_back(expand(a_bar, 0), expand(a, 0), us, w, expand(a_id, 0), (k - 1)[:, None], S)
            t0 = total
            total = ()
            for f in tl.static_range(S.fields):
                total = total + (t0[f] + tl.where((row < i)[:, None], near[f], 0.0),)
    first = vectors(parts, P.start, P, b, 0, C, lab, inside, F)
    begun = S.act_vjp(g_bar, constants(S.one, nothing), first)
    store_grads(grads, G.start, b, C, 0, lab, take(begun, S.fields, S.fields + S.potentials), inside)
    store_grads(grads, G.transition, b, labels * C, 0, lab[None, :] * C + prev[:, None], leads_bar,
                (prev < C)[:, None] & inside[None, :])  # fmt: skip


@triton.jit(do_not_specialize=["T", "K", "C", "drows", "dbatch", "span"])
def duration_counts(
    parts, grads, lengths, alpha, g, alpha_id, bar, z, begin, limit, frames, table, T, K, C, drows,
    dbatch, span, S: tl.constexpr,
    P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, KB: tl.constexpr,
    SB: tl.constexpr,
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
    blocks = T // TB + 1
    fstride = B * blocks * labels
    whole = b * (T + 1) * labels
    frames += b * blocks * labels
    inside = (k <= K)[:, None, None] & (lab < C)[None, None, :]
    table += tl.minimum(b, dbatch - 1) * drows * (CP + 1)
    k_in = tl.minimum(k, K)[:, None, None]
    d = durations(table, dbatch.to(tl.int64) * drows * (CP + 1), k_in, lab[None, None, :], S, CP, TB)
    total = constants(S.still, tl.zeros([KB, CP], F))
    for s0 in range(s_first, tl.minimum(s_first + span, n), SB):
        s = s0 + q
        rows = (s < n)[:, None] & (lab < C)[None, :]
        at = s0 * labels + q[:, None] * C + lab[None, :]
        v = load_tuple(begin + whole, astride, at, rows, S.still, F)
        high = load_tuple(limit + whole, astride, at, rows, S.unbounded, tl.int32)
        gs = load_tuple(g + b * T * labels, gstride, at, rows, S.zero, F)
        us = expand(S.act(gs, v), 0)
        t = s[None, :, None] + k[:, None, None]
        here = (t <= n) & inside
        to = t * labels + lab[None, None, :]
        y = load_tuple(alpha + whole, astride, to, here, S.zero, F)
        gy = load_tuple(bar + whole, astride, to, here, S.nothing, F)
        id = load_tuple(alpha_id + whole, astride, to, here, S.nowhere, tl.int32)
        ends = load_tuple(z + whole, astride, to, here, S.still, F)
        shift = load_tuple(frames, fstride, (t // TB) * C + lab[None, None, :], here, S.still, tl.float64)
        own = load_tuple(frames, fstride, (s // TB)[:, None] * C + lab[None, :], rows, S.still, tl.float64)
        w = ()
        for m in tl.static_range(S.potentials):
            x = d[m] + (ends[m] + (shift[m] - own[m][None, :, :]).to(F))
            w = w + (tl.where(here & (t <= high[m][None, :, :]), x, float("-inf")),)
        pulled = pulled_back(gy, y, us, w, id, (k - 1)[:, None, None] + tl.zeros([KB, SB, CP], tl.int32), S)
        total = plus(total, add_up(take(pulled, S.fields, S.fields + S.potentials), 1, S.potentials))
    store_grads(grads, G.duration, b * spans + tl.program_id(2), K * labels, 0, (k - 1)[:, None] * C + lab[None, :],
                total, (k <= K)[:, None] & (lab < C)[None, :])  # fmt: skip
