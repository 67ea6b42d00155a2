"""Exact samples: the walk back along one segmentation that draws its choices, one program per sample and sequence.

What is weighed stands in `semicrf.engine.sums`. Weights are compared in float64, whatever a sweep stored, so that how
it rounded hardly matters.
"""

import triton
import triton.language as tl

NOWHERE = tl.constexpr(2147483647)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox 4x32-10 (Salmon et al. 2011) of counter and key; all are uint32."""
    a, b = tl.full([], 0xD2511F53, tl.uint32), tl.full([], 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        x0, x2 = c0, c2
        c0, c1 = tl.umulhi(b, x2) ^ c1 ^ k0, b * x2
        c2, c3 = tl.umulhi(a, x0) ^ c3 ^ k1, a * x0
        k0, k1 = k0 + tl.full([], 0x9E3779B9, tl.uint32), k1 + tl.full([], 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def uniform(low, high, sample, key, position):
    """Two float64 in [0, 1), as `semicrf.engine.walk.uniform` has them; key is int64, all else uint32."""
    c0, c1, c2, c3 = philox(position, key.to(tl.uint32), sample, (key >> 32).to(tl.uint32), low, high)
    unit = 1.1102230246251565e-16  # 2^-53
    u = (c0 >> 5).to(tl.float64) * 67108864.0 + (c1 >> 6).to(tl.float64)
    v = (c2 >> 5).to(tl.float64) * 67108864.0 + (c3 >> 6).to(tl.float64)
    return u * unit, v * unit


@triton.jit
def passing(w, place, below, u):
    """The first place of positive weight at which the cumulative sum, on top of `below`, passes u, NOWHERE if it does
    not; the last place of positive weight, -1 if there is none; and the sum.
    """
    cumulative = below + tl.cumsum(w, 0)
    passed = tl.min(tl.where((w > 0.0) & (cumulative > u), place, NOWHERE), 0)
    return passed, tl.max(tl.where(w > 0.0, place, -1), 0), tl.max(cumulative, 0)


@triton.jit
def last_label(x, lab, u):
    """The label that u draws from weights exp(x), whose sum is not known; -1 where all are zero."""
    peak = tl.max(x, 0)
    w = tl.exp(x - tl.where(peak > float("-inf"), peak, 0.0))
    passed, last, _ = passing(w, lab, 0.0, u * tl.sum(w, 0))
    return tl.minimum(passed, last)  # rounding may leave the sum at u times the sum


@triton.jit
def drawn_duration(before, duration, segment, total, t, c, most, u, T, K, C, columns, SEGMENT: tl.constexpr,
                   KB: tl.constexpr):  # fmt: skip
    """The duration that u draws, of those up to `most`; KB are weighed at a time."""
    frame = tl.load(total + c * (T + 1).to(tl.int64) + t)
    k0 = most * 0
    passed, last, below = k0 + NOWHERE, k0 - 1, frame * 0.0
    while (k0 < most) & (passed == NOWHERE):
        k = k0 + 1 + tl.arange(0, KB)
        s = t - k
        column = tl.where(columns > 1, k - 1, 0)
        x = tl.load(before + (column * C + c) * T.to(tl.int64) + s, mask=k <= most, other=float("-inf"))
        x += tl.load(duration + c * K + k - 1, mask=k <= most, other=0.0)
        if SEGMENT:
            at = (s.to(tl.int64) * K + k - 1) * C + c
            x += tl.load(segment + at, mask=k <= most, other=0.0).to(tl.float64)
        passed, final, below = passing(tl.exp(x - frame), k, below, u)
        last = tl.maximum(last, final)
        k0 += KB
    return tl.minimum(passed, last)  # rounding may leave the sum at u


@triton.jit
def drawn_label(alpha, g, lead, s, k, c, lab, u, C, columns, lead_columns, places):
    """The label that u draws before a segment of label c and duration k that starts at s > 0."""
    wide = C.to(tl.int64)
    column = tl.where(lead_columns > 1, k - 1, 0)
    at = (tl.where(places > 1, s, 0).to(tl.int64) * lead_columns + column) * C * wide
    x = tl.load(alpha + s * wide + lab, mask=lab < C, other=float("-inf")).to(tl.float64)
    x += tl.load(lead + at + lab * C + c, mask=lab < C, other=0.0).to(tl.float64)
    column = tl.where(columns > 1, k - 1, 0)
    frame = tl.load(g + (s * wide * columns + column * C) + c).to(tl.float64)
    passed, last, _ = passing(tl.exp(x - frame), lab, 0.0, u)
    return tl.minimum(passed, last)


@triton.jit
def to_front(rows, first, n, T, MB: tl.constexpr):
    """Move what stands in first .. T - 1 to 0 .. n - 1; -1 after that."""
    for j0 in range(0, T, MB):
        j = j0 + tl.arange(0, MB)
        x = tl.load(rows + first + j, mask=j < n, other=-1)
        tl.debug_barrier()
        tl.store(rows + j, x, mask=j < T)


@triton.jit(do_not_specialize=["B", "T", "K", "C", "columns", "lead_columns", "lead_places", "seed_low", "seed_high"])
def draw(
    stored, lengths, ids, before, duration, total, low, start, end, label, count, B, T, K, C, columns, lead_columns,
    lead_places, seed_low, seed_high, LOW: tl.constexpr, SEGMENT: tl.constexpr, OWN: tl.constexpr, CP: tl.constexpr,
    KB: tl.constexpr,
):  # fmt: skip
    """One sample of one sequence. Bits of OWN: whether it has its own row of duration, low, segment, lead and final."""
    alpha, g, segment, lead, final = stored[0], stored[1], stored[2], stored[3], stored[4]
    walker, wide = tl.program_id(0).to(tl.int64), C.to(tl.int64)
    b, sample = walker % B, walker // B
    n, key = tl.load(lengths + b).to(tl.int32), tl.load(ids + b)
    before, g = before + b * columns * wide * T, g + b * columns * wide * T
    total, alpha = total + b * (T + 1) * wide, alpha + b * (T + 1) * wide
    duration, low = duration + (OWN & 1) * b * wide * K, low + (OWN >> 1 & 1) * b * wide * (T + 1)
    segment += (OWN >> 2 & 1) * b * wide * K * T
    lead += (OWN >> 3 & 1) * b * lead_places * lead_columns * wide * wide
    final += (OWN >> 4 & 1) * b * wide
    start, end, label = start + walker * T, end + walker * T, label + walker * T
    seed_low, seed_high = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    number = sample.to(tl.uint32)
    lab = tl.arange(0, CP)
    u, _ = uniform(seed_low, seed_high, number, key, number * 0)
    x = tl.load(alpha + n * wide + lab, mask=lab < C, other=float("-inf")).to(tl.float64)
    c = last_label(x + tl.load(final + lab, mask=lab < C, other=0.0).to(tl.float64), lab, u)
    t, place = n, T
    while (t > 0) & (c >= 0):
        u, v = uniform(seed_low, seed_high, number, key, t.to(tl.uint32))
        most = tl.minimum(K, t)
        if LOW:
            most = tl.minimum(most, t - tl.load(low + c * (T + 1).to(tl.int64) + t))
        k = drawn_duration(before, duration, segment, total, t, c, most, u, T, K, C, columns, SEGMENT, KB)
        s, place = t - k, place - 1
        tl.store(start + place, s.to(tl.int64))
        tl.store(end + place, t.to(tl.int64))
        tl.store(label + place, c.to(tl.int64))
        if k <= 0:  # NaN among the scores
            c = k - 1
        elif s > 0:
            c = drawn_label(alpha, g, lead, s, k, c, lab, v, C, columns, lead_columns, lead_places)
        t = s
    place = tl.where(c >= 0, place, T)
    tl.store(count + walker, (T - place).to(tl.int64))
    tl.debug_barrier()
    to_front(start, place, T - place, T, 256)
    to_front(end, place, T - place, T, 256)
    to_front(label, place, T - place, T, 256)
