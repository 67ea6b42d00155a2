"""What the sources before a tile lead to: no order among them, so groups of them are taken at once."""

import triton
import triton.language as tl
from semicrf.kernels.primitives import finite
from semicrf.kernels.state import convert, expand, load_tuple, negative, nothing_yet, padded
from semicrf.kernels.table import durations


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
def tops(x, S: tl.constexpr):
    """The largest of every field along the first axis."""
    out = ()
    for i in tl.static_range(S.fields):
        out = out + (tl.max(x[i], 0),)
    return out


@triton.jit
def higher(lift, x, S: tl.constexpr):
    """The frames of an accumulator that also takes in the elements x; -inf where nothing is in either yet."""
    out = ()
    for m in tl.static_range(S.potentials):
        if S.levels[m] >= 0:
            level = x[S.levels[m]]
            out = out + (tl.maximum(lift[m], tl.where(level < float("inf"), level, float("-inf"))),)
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
def raised(acc, lift, to, S: tl.constexpr, F: tl.constexpr):
    """Accumulators (rows, labels) in the frames `to` in place of `lift` (labels,)."""
    down = ()
    for m in tl.static_range(S.potentials):
        down = down + (tl.where(lift[m] > float("-inf"), lift[m] - finite(to[m]), 0.0).to(F)[None, :],)
    return S.carry(acc, padded(down, down[0], S))


@triton.jit
def lowered(x, lift, S: tl.constexpr, F: tl.constexpr):
    """Elements in the frames `lift`, which broadcasts: what counts among them is near 0, and loses nothing in F."""
    return convert(S.move(x, padded(negative(rest(lift)), lift[0], S)), F)


@triton.jit
def sources(u, ustride, frames, fstride, base, t0, j0, C, ring, S: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
            SB: tl.constexpr):  # fmt: skip
    """(SB, labels): the sources t0 - j0, t0 - j0 - 1, ... in the frame `base`, in float64."""
    lab = tl.arange(0, CP)
    s = t0 - j0 - tl.arange(0, SB)
    here = (s >= 0)[:, None] & (lab < C)[None, :]
    x = load_tuple(u, ustride, (s & ring)[:, None] * C + lab[None, :], here, S.zero, tl.float64)
    block = ((t0 - j0 + TB - 1) // TB) & (ring // TB)
    shift = load_tuple(frames, fstride, block * C + lab, lab < C, S.fixed, tl.float64)
    moved = ()
    for m in tl.static_range(S.shifts):
        moved = moved + ((shift[m] - base[m])[None, :] + tl.zeros([SB, CP], tl.float64),)
    return S.move(x, moved)


@triton.jit
def far_sums(weight, top, u, ustride, frames, fstride, base, t0, until, C, ring, S: tl.constexpr, F: tl.constexpr,
             CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """What `far` gives of the sources t0 - until + 1 .. t0, where elements are logarithms of sums and every one of
    these sources leads to every row: sums of products in one frame by label, an exponential for each source alone.
    The accumulators, and the frames they are in.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    frame = tl.full([CP], float("-inf"), tl.float64)
    mass = tl.zeros([TB, CP], F)
    for j0 in range(0, until, SB):
        x = sources(u, ustride, frames, fstride, base, t0, j0, C, ring, S, CP, TB, SB)[0]
        top_here = tl.maximum(frame, tl.max(x, 0))
        level = finite(top_here)
        p = tl.exp((x - level[None, :]).to(F))
        k = (1 + j0 + row)[:, None] + q[None, :]
        w = tl.load(weight + (k + TB)[:, :, None] * (CP + 1) + lab[None, None, :])
        mass = mass * tl.exp((frame - level).to(F))[None, :] + tl.sum(p[None, :, :] * w, 1)
        frame = top_here
    return (tl.zeros([TB, CP], F) + tl.where(frame > float("-inf"), top, frame.to(F))[None, :], mass), (frame,)


@triton.jit
def far(table, dstride, u, ustride, frames, fstride, low, base, t0, since, K, C, ring, S: tl.constexpr,
        F: tl.constexpr, CUT: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr, SB: tl.constexpr):  # fmt: skip
    """The accumulators (rows, labels) of destinations t0 + 1 + row over the sources up to t0 - since, SB at a time, and
    the frames (labels,) they are in, relative to `base`.

    CUT: whether `low` forbids any of them.
    """
    row = tl.arange(0, TB)
    lab = tl.arange(0, CP)
    q = tl.arange(0, SB)
    acc = nothing_yet(tl.zeros([TB, CP], F), S)
    lift = unlifted(tl.zeros([CP], tl.float64), S)
    for j0 in range(since, tl.minimum(K, t0 + 1), SB):
        s = t0 - j0 - q
        x = sources(u, ustride, frames, fstride, base, t0, j0, C, ring, S, CP, TB, SB)
        to = higher(lift, tops(x, S), S)
        acc = raised(acc, lift, to, S, F)
        lift = to
        x = expand(lowered(x, expand(lift, 0), S, F), 0)
        k = (1 + j0 + row)[:, None] + q[None, :]
        w = durations(table, dstride, k[:, :, None], lab[None, None, :], S, CP, TB)
        if CUT:
            w = after(w, s[None, :, None], expand(low, 1))
        acc = S.merge(acc, S.group(S.act(x, w), (k - 1)[:, :, None], 1))
    return acc, lift
