"""The reverse of `arcs.py`: one position at a time, from the last to the first.

Every segment has one source, so its cotangent is pulled back where its start is met: the gradients of whole segments
and edges are written once, those of what arcs share are sums in memory that one program owns.
"""

import triton
import triton.language as tl
from semicrf.kernels.arcs import allowed, beginning, leading, required_at, scores
from semicrf.kernels.scan_vjp import end_bar, pulled_back
from semicrf.kernels.state import (
    add_grads,
    add_up,
    constants,
    emitted,
    expand,
    load_tuple,
    padded,
    plus,
    store_grads,
    store_tuple,
    take,
    vectors,
)


@triton.jit
def pull_window(parts, grads, P: tl.constexpr, G: tl.constexpr, b, s, n, base, high, alpha, alpha_id, astride, g,
                gstride, bar, over, rstride, ring, into, istride, lab, T, K, C, columns, S: tl.constexpr,
                F: tl.constexpr, CP: tl.constexpr, KB: tl.constexpr):  # fmt: skip
    """Cotangents of what leads on from s, into `into` by duration, and their sums; of what starts there (labels,)."""
    summed = constants(S.nothing, tl.zeros([CP], F))
    started = constants(S.still, tl.zeros([CP], F))
    wide = C.to(tl.int64)
    for k0 in range(0, tl.minimum(K, n - s), KB):
        k = k0 + 1 + tl.arange(0, KB)
        t = s + k
        here = ((k <= K) & (t <= n))[:, None] & (lab < C)[None, :]
        at = t[:, None] * wide + lab[None, :]
        y = load_tuple(alpha, astride, at, here, S.zero, F)
        id = load_tuple(alpha_id, astride, at, here, S.nowhere, tl.int32)
        kept = (t & ring)[:, None] * wide + lab[None, :]
        gy = load_tuple(bar, rstride, kept, here, S.nothing, F)
        ends = load_tuple(over, rstride, kept, here, S.still, tl.float64)
        column = tl.where(columns > 1, k - 1, 0)
        x = load_tuple(g, gstride, (s.to(tl.int64) * columns + column)[:, None] * wide + lab[None, :], here, S.zero, F)
        d = scores(parts, P, b, s + tl.zeros([KB], tl.int32), k, lab, T, K, C, here, F)
        w = ()
        for m in tl.static_range(S.potentials):
            v = d[m] + (base[m][None, :] - ends[m]).to(F)
            w = w + (tl.where(t[:, None] <= high[m][None, :], v, float("-inf")),)
        pulled = pulled_back(gy, y, x, w, id, (k - 1)[:, None], S)
        row = (k - 1)[:, None] * wide + lab[None, :]
        store_tuple(into, istride, row, take(pulled, 0, S.fields), here & (columns > 1))
        scored = take(pulled, S.fields, S.fields + S.potentials)
        summed = plus(summed, add_up(pulled, 0, S.fields))
        started = plus(started, add_up(scored, 0, S.potentials))
        add_grads(grads, G.duration, b, K * wide, 0, row, scored, here)
        store_grads(grads, G.segment, b, T * (K * wide), s * (K * wide), row, scored, here)
    return summed, started


@triton.jit
def pull_lead(parts, grads, P: tl.constexpr, G: tl.constexpr, b, s, n, alpha, astride, g, g_id, gstride, into, istride,
              bar, rstride, ring, lab, T, K, C, columns, S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
              PB: tl.constexpr, QB: tl.constexpr):  # fmt: skip
    """Cotangents of alpha at s, 0 < s < n, from what leads on there, into its row of `bar`."""
    wide = C.to(tl.int64)
    square = wide * C
    many = tl.minimum(columns, n - s)
    for p0 in range(0, C, PB):
        prev = p0 + tl.arange(0, PB)
        x = expand(expand(load_tuple(alpha, astride, s * wide + prev, prev < C, S.zero, F), 1), 2)
        a_bar = constants(S.nothing, tl.zeros([PB], F))
        leads_bar = constants(S.still, tl.zeros([PB, CP], F))
        flat = prev[:, None] * C + lab[None, :]
        for k0 in range(0, many, QB):
            k = k0 + 1 + tl.arange(0, QB)
            some = (k <= many)[:, None] & (lab < C)[None, :]
            row = (k - 1)[:, None] * wide + lab[None, :]
            at = s * columns * wide + row
            y = expand(load_tuple(g, gstride, at, some, S.zero, F), 0)
            id = expand(load_tuple(g_id, gstride, at, some, S.nowhere, tl.int32), 0)
            gy = expand(load_tuple(into, istride, row, some, S.nothing, F), 0)
            mask = (prev < C)[:, None, None] & some[None, :, :]
            w = leading(parts, P, b, s, k, prev, lab, T, K, C, mask, F)
            pulled = pulled_back(gy, y, x, w, id, prev[:, None, None], S)
            a_bar = plus(a_bar, add_up(add_up(pulled, 1, S.fields), 1, S.fields))
            scored = take(pulled, S.fields, S.fields + S.potentials)
            leads_bar = plus(leads_bar, add_up(scored, 1, S.potentials))
            where = (k - 1)[None, :, None] * square + flat[:, None, :]
            add_grads(grads, G.duration_transition, b, K * square, 0, where, scored, mask)
            store_grads(grads, G.edge, b, T * (K * square), s * (K * square), where, scored, mask)
        store_tuple(bar, rstride, (s & ring) * wide + prev, a_bar, prev < C)
        add_grads(grads, G.transition, b, square, 0, flat, leads_bar, (prev < C)[:, None] & (lab < C)[None, :])


@triton.jit
def pull_begin(parts, grads, P: tl.constexpr, G: tl.constexpr, b, n, into, istride, lab, T, K, C, columns,
               S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, QB: tl.constexpr):  # fmt: skip
    """Gradients of what leads into the first segment."""
    wide = C.to(tl.int64)
    started = constants(S.still, tl.zeros([CP], F))
    many = tl.minimum(columns, n)
    for k0 in range(0, many, QB):
        k = k0 + 1 + tl.arange(0, QB)
        some = (k <= many)[:, None] & (lab < C)[None, :]
        gy = load_tuple(into, istride, (k - 1)[:, None] * wide + lab[None, :], some, S.nothing, F)
        w = beginning(parts, P, b, k, lab, T, K, C, some, F)
        begun = S.act_vjp(gy, constants(S.one, tl.zeros([QB, CP], F)), w)
        scored = take(begun, S.fields, S.fields + S.potentials)
        started = plus(started, add_up(scored, 0, S.potentials))
        at = (k - 1)[:, None] * (wide * C) + lab[None, :]
        store_grads(grads, G.edge, b, T * (K * (wide * C)), 0, at, scored, some)
    store_grads(grads, G.start, b, C, 0, lab, started, lab < C)


@triton.jit
def flow(parts, grads, P: tl.constexpr, G: tl.constexpr, b, s, n, mass, started, a_bar, a, ends, lab, T, C,
         S: tl.constexpr, F: tl.constexpr):  # fmt: skip
    """The mass at position s - 1, from that at s; gradients of what starts at s and of what ends there."""
    wide = C.to(tl.int64)
    ended = S.act_vjp(a_bar, a, ends)
    ended = take(ended, S.fields, S.fields + S.potentials)
    now = emitted(parts, P, b, s - 1, n, lab, T, C, F)
    carried = ()
    whole = ()
    for m in tl.static_range(S.potentials):
        carried = carried + (mass[m] + (ended[m] - started[m]).to(tl.float64),)
        whole = whole + (tl.where(now[m] == float("-inf"), 0.0, carried[m]).to(F),)
    before = (lab < C) & (s >= 1)
    store_grads(grads, G.emission, b, T * wide, (s - 1) * wide, lab, whole, before)
    store_grads(grads, G.segment_end, b, T * wide, (s - 1) * wide, lab, ended, before)
    store_grads(grads, G.segment_start, b, T * wide, s * wide, lab, started, (lab < C) & (s < n))
    return carried


@triton.jit(do_not_specialize=["T", "K", "C", "columns", "ring"])
def arcs_vjp(
    parts, grads, lengths, cotangent, value, alpha, g, offsets, alpha_id, g_id, end_id, bar, over, into, T, K, C,
    columns, ring, S: tl.constexpr, P: tl.constexpr, G: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
    KB: tl.constexpr, PB: tl.constexpr, QB: tl.constexpr,
):  # fmt: skip
    """One sequence, backward; `bar` and `over` are rings of cotangents and of what is added at the ends of segments."""
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    lab = tl.arange(0, CP)
    inside = lab < C
    wide = C.to(tl.int64)
    astride, gstride, rstride = B * (T + 1) * wide, B * T * columns * wide, B * (ring + 1) * wide
    istride = B * columns * wide
    alpha, alpha_id, offsets = alpha + b * (T + 1) * wide, alpha_id + b * (T + 1) * wide, offsets + b * (T + 1)
    g, g_id = g + b * T * columns * wide, g_id + b * T * columns * wide
    bar, over, into = bar + b * (ring + 1) * wide, over + b * (ring + 1) * wide, into + b * columns * wide
    last = load_tuple(alpha, astride, n * wide + lab, inside, S.zero, F)
    offset = load_tuple(offsets, B * (T + 1), n, b >= 0, S.still, tl.float64)
    reached = padded(offset, offset[0], S)
    a_bar = end_bar(parts, lengths, grads, cotangent, value, B, last, reached, end_id, b, lab, C, S, P, G, F)
    store_tuple(bar, rstride, (n & ring) * wide + lab, a_bar, inside)
    sums = constants(S.still, tl.zeros([CP], tl.float64))  # of emissions from s on
    mass = sums
    high = constants(S.unlimited, tl.zeros([CP], tl.int32))
    for j in range(n + 1):
        s = n - j
        tl.debug_barrier()
        offset = load_tuple(offsets, B * (T + 1), s, b >= 0, S.still, tl.float64)
        now, high = allowed(emitted(parts, P, b, s, n, lab, T, C, F), high, s, s)
        starts = vectors(parts, P.segment_start, P, b, s * wide, T * wide, lab, inside & (s < n), F)
        ends = vectors(parts, P.segment_end, P, b, (s - 1) * wide, T * wide, lab, inside & (s >= 1), F)
        h, l0 = sums, high
        sums, high, base, behind = (), (), (), ()
        for m in tl.static_range(S.potentials):
            sums = sums + (h[m] + now[m].to(tl.float64),)
            must = required_at(parts, P, m, b, s + 1, n, T)
            high = high + (tl.minimum(l0[m], tl.where(must, s + 1, 2147483647)),)
            base = base + (starts[m].to(tl.float64) + (offset[m] + sums[m]),)
            behind = behind + ((offset[m] + sums[m]) - ends[m].to(tl.float64),)
        summed, started = pull_window(parts, grads, P, G, b, s, n, base, high, alpha, alpha_id, astride, g, gstride,
                                      bar, over, rstride, ring, into, istride, lab, T, K, C, columns, S, F, CP,
                                      KB)  # fmt: skip
        store_tuple(into, istride, lab, summed, inside & (columns == 1))
        store_tuple(over, rstride, (s & ring) * wide + lab, behind, inside & (s >= 1))
        tl.debug_barrier()
        if (s > 0) & (s < n):
            pull_lead(parts, grads, P, G, b, s, n, alpha, astride, g, g_id, gstride, into, istride, bar, rstride, ring,
                      lab, T, K, C, columns, S, F, CP, PB, QB)  # fmt: skip
        tl.debug_barrier()
        a = load_tuple(alpha, astride, s * wide + lab, inside, S.zero, F)
        a_bar = load_tuple(bar, rstride, (s & ring) * wide + lab, inside & (s >= 1), S.nothing, F)
        mass = flow(parts, grads, P, G, b, s, n, mass, started, a_bar, a, ends, lab, T, C, S, F)
    pull_begin(parts, grads, P, G, b, n, into, istride, lab, T, K, C, columns, S, F, CP, QB)
