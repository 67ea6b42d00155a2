"""What the sources before a tile lead to: no order among them, so groups of them are taken at once. A source is one row
of labels that every warp holds, so nothing crosses threads here.
"""

import triton
import triton.language as tl
from semicrf.kernels.state import expand, nothing_yet, plus
from semicrf.kernels.table import lines, read


@triton.jit
def after(w, s, low):
    """Potentials of arcs from sources s, -inf before the first that is allowed."""
    out = ()
    for m in tl.static_range(len(w)):
        out = out + (tl.where(s >= low[m], w[m], float("-inf")),)
    return out


@triton.jit
def sources(u, ustride, frames, fstride, base, t0, j0, ring, S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
            TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """The sources t0 - j0, t0 - j0 - 1, ... in the frame `base`: SB elements (1, labels). They lie one after another."""
    lab = tl.arange(0, CP)
    block = frames + (((t0 - j0 + TB - 1) // TB) & (ring // TB)) * CP
    moved = ()
    for m in tl.static_range(S.potentials):
        moved = moved + ((tl.load(block + m * fstride + lab) - base[m]).to(F),)
    line = ()
    for i in tl.static_range(S.fields):
        line = line + (u + i * ustride + ((t0 - j0 - SB) & ring) * CP + lab,)
    out = ()
    for q in tl.static_range(SB):
        out = out + (expand(S.act(read(line, (SB - 1 - q) * CP), moved), 0),)
    return out


@triton.jit
def highest(x, S: tl.constexpr):
    """The largest of every weight over a tuple of elements."""
    out = ()
    for g in tl.static_range(len(S.weights)):
        out = out + (x[0][S.weights[g]],)
    for q in tl.static_range(len(x) - 1):
        most = ()
        for g in tl.static_range(len(S.weights)):
            most = most + (tl.maximum(out[g], x[q + 1][S.weights[g]]),)
        out = most
    return out


@triton.jit
def levels(frames):
    """Frames that can be subtracted: 0 in place of -inf."""
    out = ()
    for g in tl.static_range(len(frames)):
        out = out + (tl.where(frames[g] == float("-inf"), 0.0, frames[g]),)
    return out


@triton.jit
def joined(acc, x, place, S: tl.constexpr):
    """An accumulator with a tuple of terms, whose places follow each other."""
    if S.framed:
        m = highest(x, S)
        n = S.linear(x[0], levels(m))
        for q in tl.static_range(len(x) - 1):
            n = plus(n, S.linear(x[q + 1], levels(m)))
        acc = S.merge(acc, m + n)
    else:
        for q in tl.static_range(len(x)):
            acc = S.merge(acc, S.single(x[q], place + q))
    return acc


@triton.jit
def far(table, dstride, u, ustride, frames, fstride, low, base, t0, since, K, ring, S: tl.constexpr,
        F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """The accumulators (rows, labels) of destinations t0 + 1 + row over the sources up to t0 - since, SB at a time."""
    row = tl.arange(0, TB)[:, None]
    at = row * (CP + 1) + tl.arange(0, CP)[None, :]
    acc = nothing_yet(tl.zeros([TB, CP], F), S)
    for j0 in range(since, tl.minimum(K, t0 + 1), SB):
        x = sources(u, ustride, frames, fstride, base, t0, j0, ring, S, F, CP, TB, SB)
        d = lines(table, dstride, 1 + j0, at, S.potentials, CP, TB)
        y = ()
        for q in tl.static_range(SB):
            y = y + (S.act(x[q], after(read(d, q * (CP + 1)), t0 - j0 - q, low)),)
        acc = joined(acc, y, j0 + row, S)
    return acc
