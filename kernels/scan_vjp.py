"""The reverse sweep, blocked like the forward one, and the counts of durations. README.md has the derivation."""

import triton
import triton.language as tl
from semicrf.kernels.frames import highest, leveled, moved
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
    padded,
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
def far_bar(parts, b, table, dstride, us, high, base, kept, strides, arc, astride, s0, n, T, K, C, ring,
            S: tl.constexpr, P: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
            SB: tl.constexpr):  # fmt: skip
    """Cotangents (rows, labels) of sources s0 + row, which are relative to `base`, from the destinations beyond their
    tile, SB at a time.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    total = constants(S.nothing, tl.zeros([TB, CP], F))
    wide = C.to(tl.int64)
    for j0 in range(0, tl.minimum(K + TB, n + 1 - s0 - TB), SB):
        t = s0 + TB + j0 + q
        here = (t <= n)[:, None] & (lab < C)[None, :]
        at = (s0 + TB + j0) * wide + q[:, None] * C + lab[None, :]
        put = (t & ring)[:, None] * wide + lab[None, :]
        y = load_tuple(kept[0], strides[0], at, here, S.zero, F)
        y = in_gauge(y, kept[4], strides[2], t[:, None], n, s0, S, F)
        gy = expand(load_tuple(arc[0], astride, put, here, S.nothing, F), 0)
        id = expand(load_tuple(kept[2], strides[0], at, here, S.nowhere, tl.int32), 0)
        level = leveled(y, S)
        ends = convert(positional(parts, P.segment_end, P, b, t[:, None] - 1, n, lab[None, :], T, C, F), tl.float64)
        z = less(plus(ends, load_tuple(arc[1], astride, put, here, S.still, tl.float64)), level)
        y = expand(moved(y, negative(level), S, F), 0)
        k = TB + j0 + q[None, :] - row[:, None]
        d = durations(table, dstride, k[:, :, None], lab[None, None, :], S, CP, TB)
        w = ()
        for m in tl.static_range(S.potentials):
            x = d[m] + (z[m] + base[m][None, :]).to(F)[None, :, :]
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
def arc_rows(b, B, wide, rows, sums, limit, ring):
    """What a reverse sweep keeps of sequence b, in a ring of positions: cotangents of alpha, sums of emissions, and how
    long a segment may be; with how far apart those of two scalars lie.
    """
    R = ring.to(tl.int64) + 1
    return (rows + b * R * wide, sums + b * R * wide, limit + b * R * wide), B * R * wide


@triton.jit
def tile_arcs(parts, b, s0, n, carried, base, offsets, ostride, arc, astride, T, C, ring, S: tl.constexpr,
              P: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr):  # fmt: skip
    """A tile's sums of emissions less the levels of rows, from the end of the sequence on, and limits, kept in `arc`.
    Returns what the next tile sums on from, the limits it hands on and has, and what its starts add to arcs.
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
    found, _ = emissions(parts, P, b, s0 - 1, n, row, lab, T, C, F)
    high = limits(parts, P, carried, b, s0, n, row, lab, T, C, F)
    starts = positional(parts, P.segment_start, P, b, s[:, None], n, lab[None, :], T, C, F)
    bases, lowest, sums, longest = (), (), (), ()
    for m in tl.static_range(S.potentials):
        x = found[m].to(tl.float64) - step[m]
        bases = bases + (base[m] - tl.sum(x, 0),)
        sums = sums + (tl.cumsum(x, 0) + bases[m][None, :],)
        lowest = lowest + (tl.min(high[m], 0),)
        longest = longest + (tl.minimum(high[m] - s[:, None], 32767),)
    at = (s0 & ring) * C.to(tl.int64) + row[:, None] * C + lab[None, :]
    rows = (s <= n)[:, None] & inside[None, :]
    store_tuple(arc[1], astride, at, sums, rows)
    store_tuple(arc[2], astride, at, longest, rows)
    return bases, lowest, high, less(convert(starts, tl.float64), sums)


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
def near_bar(parts, grads, b, t, n, i, total, us, high, base, last, leads, leads_bar, mass, kept, strides, arc, astride,
             table, dstride, T, C, ring, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr,
             CP: tl.constexpr, TB: tl.constexpr):  # fmt: skip
    """Row i of the tile, whose cotangent is complete: it is pulled back to alpha, and that to the rows before."""
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    inside = lab < C
    gstride = strides[1]
    k = i - row
    d = durations(table, dstride, k[:, None], lab[None, :], S, CP, TB)
    line = t * C.to(tl.int64) + lab
    put = (t & ring) * C.to(tl.int64) + lab
    a = load_tuple(kept[0], strides[0], line, inside & (t <= n), S.zero, F)
    a_id = load_tuple(kept[2], strides[0], line, inside & (t <= n), S.nowhere, tl.int32)
    gi = load_tuple(kept[1], gstride, line, inside & (t < n), S.zero, F)
    gi_id = load_tuple(kept[3], gstride, line, inside & (t < n), S.nowhere, tl.int32)
    a = in_gauge(a, kept[4], strides[2], t, n, t - i, S, F)
    gi = in_gauge(gi, kept[4], strides[2], t, n, t - i, S, F)
    ends = positional(parts, P.segment_end, P, b, t - 1, n, lab, T, C, F)
    begins = positional(parts, P.segment_start, P, b, t, n, lab, T, C, F)
    started = S.act_vjp(pick(total, (row == i)[:, None], S, "fields"), gi, begins)
    g_bar = take(started, 0, S.fields)
    a_bar, leads_bar = pull_leads(t, n, g_bar, leads_bar, last, leads, a, gi, gi_id, lab, S)
    store_tuple(arc[0], astride, put, a_bar, inside & (t <= n))
    ended = take(S.act_vjp(a_bar, a, ends), S.fields, S.fields + S.potentials)
    mass = flow(parts, grads, b, t, n, mass, take(started, S.fields, S.fields + S.potentials), ended, lab, inside, T,
                C, S, P, G, F)  # fmt: skip
    level = leveled(a, S)
    z = load_tuple(arc[1], astride, put, inside & (t <= n), S.still, tl.float64)
    z = less(plus(plus(convert(ends, tl.float64), z), base), level)
    w = ()
    for m in tl.static_range(S.potentials):
        w = w + (tl.where(t <= high[m], d[m] + z[m].to(F)[None, :], float("-inf")),)
    y = expand(moved(a, negative(level), S, F), 0)
    pulled = pulled_back(expand(a_bar, 0), y, us, w, expand(a_id, 0), (k - 1)[:, None], S)
    more = ()
    for f in tl.static_range(S.fields):
        more = more + (total[f] + tl.where((row < i)[:, None], pulled[f], 0.0),)
    return more, g_bar, leads_bar, mass


@triton.jit
def carried_from(carry, stride, C, lab, prev, later, S: tl.constexpr):
    """What a later run of the same sweep left: sums, limits, masses, and the gradients of transitions (next, previous);
    what stands at the end of a sequence unless `later`.
    """
    inside = later & (lab < C)
    base = load_tuple(carry, stride, lab, inside, S.still, tl.float64)
    limit = load_tuple(carry + C, stride, lab, inside, S.far, tl.float64)
    mass = load_tuple(carry + 2 * C, stride, lab, inside, S.still, tl.float64)
    at = (3 + prev)[:, None] * C + lab[None, :]
    leads = load_tuple(carry, stride, at, inside[None, :] & (prev < C)[:, None], S.still, tl.float64)
    return base, convert(limit, tl.int32), mass, leads


@triton.jit(do_not_specialize=["T", "K", "C", "first", "own", "ring"])
def scan_vjp(
    parts, grads, lengths, cotangent, value, alpha, g, offsets, alpha_id, g_id, end_id, rows, sums, limit, carry,
    table, T, K, C, first, own, ring, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr,
    CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr,
):  # fmt: skip
    """The positions own - 1 .. first of one sequence, backward. `rows` .. `limit` keep what belongs to the ends and the
    starts of arcs, in a ring of positions; `carry` takes the sweep on to the run of the positions before.
    """
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    row, lab, prev = tl.arange(0, TB), tl.arange(0, CP), tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    kept, strides = rows_of(b, B, wide, T.to(tl.int64), alpha, g, alpha_id, g_id, offsets)
    arc, astride = arc_rows(b, B, wide, rows, sums, limit, ring)
    table, dstride = tabulate(parts, table, b, B, K, C, P, F, CP, TB, SB)
    leads = transitions(parts, P, b, lab[None, :], prev[:, None], C, F)  # (next, previous)
    nothing = tl.zeros([CP], F)
    at_end = load_tuple(kept[0], strides[0], n * wide + lab, inside, S.zero, F)
    offset = load_tuple(kept[4], strides[2], n, b >= 0, S.fixed, tl.float64)
    last = end_bar(parts, lengths, grads, cotangent, value, B, at_end, offset, end_id, b, lab, C, S, P, G, F)
    carry, cstride = carry + b * (C + 3) * wide, B * (C + 3) * wide
    sum_base, carried, mass, leads_sum = carried_from(carry, cstride, C, lab, prev, n >= own, S)
    g_bar = constants(S.nothing, nothing)
    top = tl.minimum(n, own - 1) // TB
    for j in range(first // TB, top + 1):
        s0 = (top + first // TB - j) * TB
        sum_base, carried, high, v = tile_arcs(parts, b, s0, n, carried, sum_base, kept[4], strides[2], arc, astride, T,
                                               C, ring, S, P, F, CP, TB)  # fmt: skip
        tl.debug_barrier()
        here = ((s0 + row) < n)[:, None] & inside[None, :]
        us = load_tuple(kept[1] + s0 * wide, strides[1], row[:, None] * C + lab[None, :], here, S.zero, F)
        us = in_gauge(us, kept[4], strides[2], (s0 + row)[:, None], n, s0, S, F)
        us = S.move(convert(us, tl.float64), padded(v, v[0], S))
        base = highest(us, S)
        us = moved(us, expand(negative(base), 0), S, F)
        leads_bar = constants(S.still, tl.zeros([CP, CP], F))
        total = far_bar(parts, b, table, dstride, us, high, base, kept, strides, arc, astride, s0, n, T, K, C, ring, S,
                        P, F, CP, TB, SB)  # fmt: skip
        for back in range(TB):
            i = TB - 1 - back
            total, g_bar, leads_bar, mass = near_bar(
                parts, grads, b, s0 + i, n, i, total, us, high, base, last, leads, leads_bar, mass, kept, strides, arc,
                astride, table, dstride, T, C, ring, S, P, G, F, CP, TB,
            )  # fmt: skip
        leads_sum = plus(leads_sum, convert(leads_bar, tl.float64))
    store_tuple(carry, cstride, lab, sum_base, inside)
    store_tuple(carry + C, cstride, lab, convert(carried, tl.float64), inside)
    store_tuple(carry + 2 * C, cstride, lab, mass, inside)
    square = (prev < C)[:, None] & inside[None, :]
    store_tuple(carry, cstride, (3 + prev)[:, None] * C + lab[None, :], leads_sum, square)
    if first == 0:
        starts = vectors(parts, P.start, P, b, 0, C, lab, inside, F)
        begun = S.act_vjp(g_bar, constants(S.one, nothing), starts)
        store_grads(grads, G.start, b, C, 0, lab, take(begun, S.fields, S.fields + S.potentials), inside)
        store_grads(grads, G.transition, b, wide * C, 0, lab[None, :] * C + prev[:, None], leads_sum, square)
