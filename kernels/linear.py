"""Sums of products, where elements are log-sums and means under them: in one frame for each label, a sum of elements
is a sum of *numbers* and the action of a potential a product of numbers, so an exponential for every source takes the
place of one for every arc. Of a sum of n terms, less than n e^(REACH - 87) of it underflows where no potential of
these terms is more than REACH below another.
"""

import triton
import triton.language as tl
from semicrf.kernels.far import fall, higher, lowered, rest, sources, unlifted
from semicrf.kernels.state import constants, expand, plus, transitions
from semicrf.kernels.table import lines, read, turned

REACH = tl.constexpr(60.0)


@triton.jit
def widened(most, least, x, real, S: tl.constexpr):
    """The largest and the smallest of every weight, with those of elements (rows, labels) where they are `real`."""
    above = ()
    below = ()
    for g in tl.static_range(len(S.weights)):
        f = x[S.weights[g]]
        above = above + (tl.maximum(most[g], tl.max(tl.where(real, f, float("-inf")), 0)),)
        below = below + (tl.minimum(least[g], tl.min(tl.where(real, f, float("inf")), 0)),)
    return above, below


@triton.jit
def near_each_other(most, least, real):
    """Whether this holds for every weight and every `real` label; what is -inf is near to nothing."""
    apart = tl.zeros(real.shape, tl.int32)
    for g in tl.static_range(len(most)):
        apart = tl.where(most[g] - least[g] <= REACH, apart, 1)
    return tl.max(tl.where(real, apart, 0), 0) == 0


@triton.jit
def nothing_seen(like, S: tl.constexpr):
    """The largest and the smallest of no terms."""
    most = ()
    least = ()
    for _ in tl.static_range(len(S.weights)):
        most = most + (tl.full(like.shape, float("-inf"), like.dtype),)
        least = least + (tl.full(like.shape, float("inf"), like.dtype),)
    return most, least


@triton.jit
def duration_numbers(table, stride, span, K, C, S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr):
    """The numbers of durations relative to the largest of each label, number i behind the table of model i; the
    largest, and whether all are near enough. A barrier has to stand before, and another has to follow.
    """
    lab = tl.arange(0, CP)
    row = tl.arange(0, TB)[:, None]
    at = row * (CP + 1) + lab[None, :]
    one = constants(S.one, tl.zeros([TB, CP], F))
    most, least = nothing_seen(tl.zeros([CP], F), S)
    for k in range(1, K + 1, TB):
        x = S.act(one, read(lines(table, stride, k, at, S.potentials, CP, TB), 0))
        most, least = widened(most, least, x, (k + row <= K) & (lab < C)[None, :], S)
    for k in range(-TB, span - TB, TB):
        j = tl.minimum(k, span - 2 * TB)
        n = S.linear(S.act(one, read(lines(table, stride, j, at, S.potentials, CP, TB), 0)), expand(rest(most), 0))
        to = lines(table, stride, span + j, at, len(S.masses), CP, TB)
        for i in tl.static_range(len(S.masses)):
            tl.store(to[i], n[i])
    return most, near_each_other(most, least, lab < C)


@triton.jit
def transition_numbers(leads, prev, lab, C, S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr):
    """The numbers of transitions relative to the largest that leads to each label, these, and whether all are near."""
    x = S.act(constants(S.one, tl.zeros([CP, CP], F)), leads)
    most, least = nothing_seen(tl.zeros([CP], F), S)
    most, least = widened(most, least, x, (prev < C)[:, None] & (lab < C)[None, :], S)
    return S.linear(x, expand(rest(most), 0)), most, near_each_other(most, least, lab < C)


@triton.jit
def level_zero(like, S: tl.constexpr):
    """The frames of elements whose largest is 0."""
    out = ()
    for _ in tl.static_range(len(S.weights)):
        out = out + (tl.zeros_like(like),)
    return out


@triton.jit
def led(a, numbers, most, S: tl.constexpr):
    """The accumulators (next labels) of what elements (previous labels), whose largest is 0, lead to."""
    p = S.linear(a, level_zero(a[0], S))
    return most + S.totals(S.times(expand(p, 1), numbers), 0)


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
    if S.levelled and CP >= MIXED:
        n, most, close = transition_numbers(w, prev, lab, C, S, F, CP)
        return w, n, most, close
    else:
        return w, w, w, True


@triton.jit
def lead(a, leads, prev, S: tl.constexpr):
    """The accumulators of what elements (previous labels) lead to, by next label."""
    w, n, most, close = leads
    if S.levelled and w[0].shape[0] >= MIXED:
        if close:
            acc = led(a, n, most, S)
        else:
            acc = S.group(S.act(expand(a, 1), w), prev[:, None], 0)
    else:
        acc = S.group(S.act(expand(a, 1), w), prev[:, None], 0)
    return acc


@triton.jit
def of_weights(down, S: tl.constexpr):
    """Frames of weights from those of potentials."""
    out = ()
    for g in tl.static_range(len(S.weights)):
        out = out + (down[S.scales[g]],)
    return out


@triton.jit
def far_sums(table, dstride, span, most, u, ustride, frames, fstride, base, t0, until, ring, S: tl.constexpr,
             F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """What `far` gives of the sources t0 - until + 1 .. t0, every one of which leads to every row."""
    at = tl.arange(0, TB)[:, None] * (CP + 1) + tl.arange(0, CP)[None, :]
    nothing = tl.zeros([CP], F)
    level = level_zero(nothing, S)
    lift = unlifted(nothing, S)
    numbers = constants(S.masses, tl.zeros([TB, CP], F))
    for j0 in range(0, until, SB):
        x = sources(u, ustride, frames, fstride, base, t0, j0, ring, S, CP, TB, SB)
        to = higher(lift, x, S, F)
        w = lines(table, dstride, span + 1 + j0, at, len(S.masses), CP, TB)
        n = S.times(expand(S.linear(lowered(x[0], to, S, F), level), 0), read(w, 0))
        for q in tl.static_range(SB - 1):
            p = expand(S.linear(lowered(x[q + 1], to, S, F), level), 0)
            n = plus(n, S.times(p, read(w, (q + 1) * (CP + 1))))
        numbers = plus(S.scale(numbers, expand(of_weights(fall(lift, to), S), 0)), n)
        lift = to
    out = ()
    for g in tl.static_range(len(S.weights)):
        top = tl.where(lift[S.scales[g]] > float("-inf"), most[g], float("-inf"))
        out = out + (tl.zeros([TB, CP], F) + top[None, :],)
    return out + numbers, lift
