"""The reverse sweep, blocked like the forward one, and the counts of durations. README.md has the derivation."""

import triton
import triton.language as tl

from semicrf.kernels.scan import rows_of
from semicrf.kernels.state import (
    _earlier,
    add_up,
    constants,
    convert,
    emissions,
    emitted,
    expand,
    in_gauge,
    less,
    load_tuple,
    negative,
    pick,
    plus,
    positional,
    starts_required,
    store_grads,
    store_tuple,
    take,
    transitions,
    vectors,
)
from semicrf.kernels.table import durations, tabulate


@triton.jit
def limits(parts, P: tl.constexpr, carried, b, s0, n, row, lab, T, C, F: tl.constexpr):
    """(rows, labels) for every model: where a segment that starts at s0 + row must have ended."""
    _, holes = emissions(parts, P, b, s0, n, row, lab, T, C, F)
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
def far_bar(parts, b, table, dstride, us, high, base, kept, strides, arc, fstride, s0, n, T, K, C, S: tl.constexpr,
            P: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
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
        y = load_tuple(kept[0], strides[0], at, here, S.zero, F)
        y = expand(in_gauge(y, kept[4], strides[2], t[:, None], n, s0, S, F), 0)
        gy = expand(load_tuple(arc[0], strides[0], at, here, S.nothing, F), 0)
        id = expand(load_tuple(kept[2], strides[0], at, here, S.nowhere, tl.int32), 0)
        ends = plus(load_tuple(arc[1], strides[0], at, here, S.still, F),
                    positional(parts, P.segment_end, P, b, t[:, None] - 1, n, lab[None, :], T, C, F))  # fmt: skip
        shift = load_tuple(arc[3], fstride, ((s0 + TB + j0) // TB) * C + lab, lab < C, S.still, tl.float64)
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
    y = convert(S.move(v, negative(offset)), F)
    ends = vectors(parts, P.end, P, b, 0, C, lab, lab < C, F)
    id = load_tuple(end_id + b, vstride, 0, b >= 0, S.nowhere, tl.int32)
    pulled = pulled_back(convert(given, F), y, last, ends, id, lab, S)
    store_grads(grads, G.end, b, C, 0, lab, take(pulled, S.fields, S.fields + S.potentials), lab < C)
    return take(pulled, 0, S.fields)


@triton.jit
def arc_rows(b, B, wide, T, rows, limit, frames, fields: tl.constexpr, TB: tl.constexpr):
    """What a reverse sweep keeps of sequence b: cotangents of alpha and sums of emissions from a tile's first position,
    both in `rows`, how long a segment may be, and frames, with how far apart those of two potentials lie.
    """
    whole = b * (T + 1) * wide
    blocks = T // TB + 1
    sums = rows + fields * B * (T + 1) * wide
    return (rows + whole, sums + whole, limit + whole, frames + b * blocks * wide), B * blocks * wide


@triton.jit
def tile_arcs(parts, b, s0, n, carried, base, offsets, ostride, arc, astride, fstride, T, C, S: tl.constexpr,
              P: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr):  # fmt: skip
    """A tile's sums of emissions, limits and frames, kept in `arc`. Returns its frames, the limits it hands on and has,
    what its starts add to arcs, and where the positions before its rows forbid.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    inside = lab < C
    s = s0 + row
    step = ()
    for m in tl.static_range(S.potentials):
        within = (s >= 1) & (s <= n)
        level = tl.load(offsets + m * ostride + s, mask=within, other=0.0)
        before = tl.load(offsets + m * ostride + s - 1, mask=within, other=0.0)
        step = step + ((level - before)[:, None],)
    found, holes = emissions(parts, P, b, s0 - 1, n, row, lab, T, C, F)
    sums = ()
    for m in tl.static_range(S.potentials):
        sums = sums + (tl.cumsum(found[m].to(tl.float64) - step[m], 0),)
    high = limits(parts, P, carried, b, s0, n, row, lab, T, C, F)
    starts = positional(parts, P.segment_start, P, b, s[:, None], n, lab[None, :], T, C, F)
    made = pick(sums, (row == TB - 1)[:, None], S, "potentials")
    bases, lowest = (), ()
    for m in tl.static_range(S.potentials):
        bases = bases + (base[m] - made[m],)
        lowest = lowest + (tl.min(high[m], 0),)
    at = s0 * C.to(tl.int64) + row[:, None] * C + lab[None, :]
    rows = (s <= n)[:, None] & inside[None, :]
    sums = convert(sums, F)
    store_tuple(arc[1], astride, at, sums, rows)
    longest = ()
    for m in tl.static_range(S.potentials):
        longest = longest + (tl.minimum(high[m] - s[:, None], 32767),)
    store_tuple(arc[2], astride, at, longest, rows)
    store_tuple(arc[3], fstride, (s0 // TB) * C + lab, bases, inside)
    return bases, lowest, high, less(starts, sums), holes


@triton.jit
def pull_leads(t, n, g_bar, leads_bar, last, leads, a, gi, gi_id, lab, S: tl.constexpr):
    """Cotangents of alpha at t, from what leads on there and, at the end, from the value; and of transitions."""
    lead = pulled_back(expand(g_bar, 1), expand(gi, 1), expand(a, 0), leads, expand(gi_id, 1), lab[None, :], S)
    leads_bar = plus(leads_bar, take(lead, S.fields, S.fields + S.potentials))
    into = add_up(lead, 0, S.fields)
    a_bar = ()
    for f in tl.static_range(S.fields):
        a_bar = a_bar + (into[f] + tl.where(t == n, last[f], 0.0),)
    return a_bar, leads_bar


@triton.jit
def flow(parts, grads, b, t, n, mass, started, ended, lab, inside, T, C, S: tl.constexpr, P: tl.constexpr,
         G: tl.constexpr, F: tl.constexpr):  # fmt: skip
    """The mass at position t - 1 from that at t; gradients of what starts at t and of what ends there."""
    now = emitted(parts, P, b, t - 1, n, lab, T, C, F)
    carried = ()
    whole = ()
    for m in tl.static_range(S.potentials):
        carried = carried + (mass[m] + (ended[m] - started[m]).to(tl.float64),)
        whole = whole + (tl.where(now[m] == float("-inf"), 0.0, carried[m]).to(F),)
    wide = C.to(tl.int64)
    before = inside & (t >= 1) & (t <= n)
    store_grads(grads, G.emission, b, T * wide, (t - 1) * wide, lab, whole, before)
    store_grads(grads, G.segment_end, b, T * wide, (t - 1) * wide, lab, ended, before)
    store_grads(grads, G.segment_start, b, T * wide, t * wide, lab, started, inside & (t < n))
    return carried


@triton.jit
def near_bar(parts, grads, b, t, n, i, total, us, high, last, leads, leads_bar, mass, kept, strides, arc, table,
             dstride, T, C, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
             TB: tl.constexpr):  # fmt: skip
    """Row i of the tile, whose cotangent is complete: it is pulled back to alpha, and that to the rows before."""
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    inside = lab < C
    astride, gstride = strides[0], strides[1]
    k = i - row
    d = durations(table, dstride, k[:, None], lab[None, :], S, CP, TB)
    line = t * C.to(tl.int64) + lab
    a = load_tuple(kept[0], astride, line, inside & (t <= n), S.zero, F)
    a_id = load_tuple(kept[2], astride, line, inside & (t <= n), S.nowhere, tl.int32)
    gi = load_tuple(kept[1], gstride, line, inside & (t < n), S.zero, F)
    gi_id = load_tuple(kept[3], gstride, line, inside & (t < n), S.nowhere, tl.int32)
    a = in_gauge(a, kept[4], strides[2], t, n, t - i, S, F)
    gi = in_gauge(gi, kept[4], strides[2], t, n, t - i, S, F)
    sums = load_tuple(arc[1], astride, line, inside & (t <= n), S.still, F)
    zi = plus(positional(parts, P.segment_end, P, b, t - 1, n, lab, T, C, F), sums)
    vi = less(positional(parts, P.segment_start, P, b, t, n, lab, T, C, F), sums)
    started = S.act_vjp(pick(total, (row == i)[:, None], S, "fields"), gi, vi)
    g_bar = take(started, 0, S.fields)
    a_bar, leads_bar = pull_leads(t, n, g_bar, leads_bar, last, leads, a, gi, gi_id, lab, S)
    store_tuple(arc[0], astride, line, a_bar, inside & (t <= n))
    ended = take(S.act_vjp(a_bar, a, zi), S.fields, S.fields + S.potentials)
    mass = flow(parts, grads, b, t, n, mass, take(started, S.fields, S.fields + S.potentials), ended, lab, inside, T,
                C, S, P, G, F)  # fmt: skip
    w = ()
    for m in tl.static_range(S.potentials):
        w = w + (tl.where(t <= high[m], d[m] + zi[m][None, :], float("-inf")),)
    pulled = pulled_back(expand(a_bar, 0), expand(a, 0), us, w, expand(a_id, 0), (k - 1)[:, None], S)
    more = ()
    for f in tl.static_range(S.fields):
        more = more + (total[f] + tl.where((row < i)[:, None], pulled[f], 0.0),)
    return more, g_bar, leads_bar, mass


@triton.jit(do_not_specialize=["T", "K", "C"])
def scan_vjp(
    parts, grads, lengths, cotangent, value, alpha, g, offsets, alpha_id, g_id, end_id, rows, limit, frames,
    table, T, K, C, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr,
    CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """One sequence, backward; `rows` .. `frames` keep what belongs to the ends and the starts of arcs."""
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    row, lab, prev = tl.arange(0, TB), tl.arange(0, CP), tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    kept, strides = rows_of(b, B, wide, T.to(tl.int64), alpha, g, alpha_id, g_id, offsets)
    arc, fstride = arc_rows(b, B, wide, T, rows, limit, frames, S.fields, TB)
    table, dstride = tabulate(parts, table, b, B, K, C, P, F, CP, TB, SB)
    leads = transitions(parts, P, b, lab[None, :], prev[:, None], C, F)  # (next, previous)
    nothing = tl.zeros([CP], F)
    at_end = load_tuple(kept[0], strides[0], n * wide + lab, inside, S.zero, F)
    offset = load_tuple(kept[4], strides[2], n, b >= 0, S.fixed, tl.float64)
    last = end_bar(parts, lengths, grads, cotangent, value, B, at_end, offset, end_id, b, lab, C, S, P, G, F)
    leads_bar = constants(S.still, tl.zeros([CP, CP], F))
    mass = constants(S.still, tl.zeros([CP], tl.float64))
    base = mass
    carried = constants(S.unlimited, tl.zeros([CP], tl.int32))
    g_bar = constants(S.nothing, nothing)
    tiles_used = n // TB + 1
    for j in range(tiles_used):
        s0 = (tiles_used - 1 - j) * TB
        base, carried, high, v, _ = tile_arcs(parts, b, s0, n, carried, base, kept[4], strides[2], arc, strides[0],
                                              fstride, T, C, S, P, F, CP, TB)  # fmt: skip
        tl.debug_barrier()
        here = ((s0 + row) < n)[:, None] & inside[None, :]
        us = load_tuple(kept[1] + s0 * wide, strides[1], row[:, None] * C + lab[None, :], here, S.zero, F)
        us = S.act(in_gauge(us, kept[4], strides[2], (s0 + row)[:, None], n, s0, S, F), v)
        total = far_bar(parts, b, table, dstride, us, high, base, kept, strides, arc, fstride, s0, n, T, K, C, S, P, F,
                        CP, TB, SB)  # fmt: skip
        for back in range(TB):
            i = TB - 1 - back
            total, g_bar, leads_bar, mass = near_bar(
                parts, grads, b, s0 + i, n, i, total, us, high, last, leads, leads_bar, mass, kept, strides, arc, table,
                dstride, T, C, S, P, G, F, CP, TB,
            )  # fmt: skip
    first = vectors(parts, P.start, P, b, 0, C, lab, inside, F)
    begun = S.act_vjp(g_bar, constants(S.one, nothing), first)
    store_grads(grads, G.start, b, C, 0, lab, take(begun, S.fields, S.fields + S.potentials), inside)
    store_grads(grads, G.transition, b, wide * C, 0, lab[None, :] * C + prev[:, None], leads_bar,
                (prev < C)[:, None] & inside[None, :])  # fmt: skip
