"""What the sources before a tile lead to: no order among them, so groups of them are taken at once."""

import triton
import triton.language as tl
from semicrf.kernels.state import expand, load_tuple, nothing_yet
from semicrf.kernels.table import durations


@triton.jit
def after(w, s, low):
    """Potentials of arcs from sources s, -inf before the first that is allowed."""
    out = ()
    for m in tl.static_range(len(w)):
        out = out + (tl.where(s >= low[m], w[m], float("-inf")),)
    return out


@triton.jit
def sources(u, ustride, frames, fstride, base, t0, j0, C, ring, S: tl.constexpr, F: tl.constexpr, CP: tl.constexpr,
            TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """(SB, labels): the sources t0 - j0, t0 - j0 - 1, ... in the frame `base`."""
    lab = tl.arange(0, CP)
    s = t0 - j0 - tl.arange(0, SB)
    here = (s >= 0)[:, None] & (lab < C)[None, :]
    x = load_tuple(u, ustride, (s & ring)[:, None] * C + lab[None, :], here, S.zero, F)
    block = ((t0 - j0 + TB - 1) // TB) & (ring // TB)
    shift = load_tuple(frames, fstride, block * C + lab, lab < C, S.still, tl.float64)
    moved = ()
    for m in tl.static_range(S.potentials):
        moved = moved + ((shift[m] - base[m]).to(F)[None, :] + tl.zeros([SB, CP], F),)
    return S.act(x, moved)


@triton.jit
def far_sums(weight, top, u, ustride, frames, fstride, base, t0, until, C, ring, S: tl.constexpr, F: tl.constexpr,
             CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """What `far` gives of the sources t0 - until + 1 .. t0, where elements are logarithms of sums and every one of
    these sources leads to every row: sums of products in one frame by label, an exponential for each source alone.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    frame = tl.full([CP], float("-inf"), F)
    mass = tl.zeros([TB, CP], F)
    for j0 in range(0, until, SB):
        x = sources(u, ustride, frames, fstride, base, t0, j0, C, ring, S, F, CP, TB, SB)[0]
        higher = tl.maximum(frame, tl.max(x, 0))
        level = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(x - level[None, :])
        k = (1 + j0 + row)[:, None] + q[None, :]
        w = tl.load(weight + (k + TB)[:, :, None] * (CP + 1) + lab[None, None, :])
        mass = mass * tl.exp(frame - level)[None, :] + tl.sum(p[None, :, :] * w, 1)
        frame = higher
    return (tl.zeros([TB, CP], F) + (frame + top)[None, :], mass)


@triton.jit
def far(table, dstride, u, ustride, frames, fstride, low, base, t0, since, K, C, ring, S: tl.constexpr,
        F: tl.constexpr, CUT: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """The accumulators (rows, labels) of destinations t0 + 1 + row over the sources up to t0 - since, SB at a time.

    CUT: whether `low` forbids any of them.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    acc = nothing_yet(tl.zeros([TB, CP], F), S)
    for j0 in range(since, tl.minimum(K, t0 + 1), SB):
        s = t0 - j0 - q
        x = expand(sources(u, ustride, frames, fstride, base, t0, j0, C, ring, S, F, CP, TB, SB), 0)
        k = (1 + j0 + row)[:, None] + q[None, :]
        w = durations(table, dstride, k[:, :, None], lab[None, None, :], S, CP, TB)
        if CUT:
            w = after(w, s[None, :, None], expand(low, 1))
        acc = S.merge(acc, S.group(S.act(x, w), (k - 1)[:, :, None], 1))
    return acc
