"""What the sources before a tile lead to: no order among them, so groups of them are taken at once. A source is one row
of labels that every warp holds, so nothing crosses threads here.

Sources are float64. Accumulators are relative to frames by label, the `lift`, which follow the largest source: what
counts among the elements is near 0 there, and loses nothing in F.
"""

import triton
import triton.language as tl
from semicrf.kernels.primitives import finite
from semicrf.kernels.state import convert, expand, negative, plus
from semicrf.kernels.table import lines, read


@triton.jit
def after(w, s, low):
    """Potentials of arcs from sources s, -inf before the first that is allowed."""
    out = ()
    for m in tl.static_range(len(w)):
        out = out + (tl.where(s >= low[m], w[m], float("-inf")),)
    return out


@triton.jit
def unlifted(like, S: tl.constexpr):
    """The frames of the accumulator of no terms, relative to `base`: -inf where a potential has a level."""
    out = ()
    for m in tl.static_range(S.potentials):
        out = out + (tl.zeros_like(like) + (float("-inf") if S.levels[m] >= 0 else 0.0),)
    return out


@triton.jit
def higher(lift, x, S: tl.constexpr, F: tl.constexpr):
    """The frames of an accumulator that also takes in a tuple of elements; -inf where nothing is in either yet."""
    out = ()
    for m in tl.static_range(S.potentials):
        if S.levels[m] >= 0:
            top = x[0][S.levels[m]].to(F)
            for q in tl.static_range(len(x) - 1):
                top = tl.maximum(top, x[q + 1][S.levels[m]].to(F))
            out = out + (tl.maximum(lift[m], tl.where(top < float("inf"), top, float("-inf"))),)
        else:
            out = out + (lift[m],)
    return out


@triton.jit
def rest(lift):
    """Frames as potentials: 0 where there is nothing yet."""
    out = ()
    for m in tl.static_range(len(lift)):
        out = out + (finite(lift[m]),)
    return out


@triton.jit
def fall(lift, to):
    """Frames less others that are not below them, 0 where there is nothing yet."""
    out = ()
    for m in tl.static_range(len(lift)):
        out = out + (tl.where(lift[m] > float("-inf"), lift[m] - finite(to[m]), 0.0),)
    return out


@triton.jit
def lowered(x, lift, S: tl.constexpr, F: tl.constexpr):
    """Elements, float64, in the frames `lift`."""
    return convert(S.act(x, negative(convert(rest(lift), tl.float64))), F)


@triton.jit
def sources(u, ustride, frames, fstride, base, t0, j0, ring, S: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
            SB: tl.constexpr):  # fmt: skip
    """The sources t0 - j0, t0 - j0 - 1, ... in the frame `base`: SB elements (labels,), float64. They lie one after
    another.
    """
    lab = tl.arange(0, CP)
    block = frames + (((t0 - j0 + TB - 1) // TB) & (ring // TB)) * CP
    moved = ()
    for m in tl.static_range(S.shifts):
        moved = moved + (tl.load(block + m * fstride + lab) - base[m],)
    line = ()
    for i in tl.static_range(S.fields):
        line = line + (u + i * ustride + ((t0 - j0 - SB) & ring) * CP + lab,)
    out = ()
    for q in tl.static_range(SB):
        out = out + (S.move(read(line, (SB - 1 - q) * CP), moved),)
    return out


@triton.jit
def joined(acc, x, place, S: tl.constexpr):
    """An accumulator with a tuple of terms, whose places follow each other."""
    if S.framed:
        m = ()
        for g in tl.static_range(len(S.weights)):
            top = x[0][S.weights[g]]
            for q in tl.static_range(len(x) - 1):
                top = tl.maximum(top, x[q + 1][S.weights[g]])
            m = m + (top,)
        n = S.linear(x[0], rest(m))
        for q in tl.static_range(len(x) - 1):
            n = plus(n, S.linear(x[q + 1], rest(m)))
        acc = S.merge(acc, m + n)
    else:
        for q in tl.static_range(len(x)):
            acc = S.merge(acc, S.single(x[q], place + q))
    return acc


@triton.jit
def far(acc, lift, table, dstride, u, ustride, frames, fstride, low, base, t0, since, K, ring, S: tl.constexpr,
        F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """The accumulators (rows, labels) of destinations t0 + 1 + row, with the sources up to t0 - since too, SB at a
    time; and the frames (labels,) they are in, relative to `base`.
    """
    row = tl.arange(0, TB)[:, None]
    at = row * (CP + 1) + tl.arange(0, CP)[None, :]
    for j0 in range(since, tl.minimum(K, t0 + 1), SB):
        x = sources(u, ustride, frames, fstride, base, t0, j0, ring, S, CP, TB, SB)
        to = higher(lift, x, S, F)
        acc = S.carry(acc, expand(fall(lift, to), 0))
        lift = to
        d = lines(table, dstride, 1 + j0, at, S.potentials, CP, TB)
        y = ()
        for q in tl.static_range(SB):
            w = after(read(d, q * (CP + 1)), t0 - j0 - q, low)
            y = y + (S.act(expand(lowered(x[q], to, S, F), 0), w),)
        acc = joined(acc, y, j0 + row, S)
    return acc, lift
