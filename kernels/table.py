"""The scores of durations as a table of odd pitch, padded, so that no mask is needed where it is read."""

import triton
import triton.language as tl
from semicrf.kernels.state import row_of


@triton.jit
def durations(table, stride, k, lab, S: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr):
    """The scores of durations k for every model, from the table that `tabulate` makes: no mask is needed."""
    out = ()
    for m in tl.static_range(S.potentials):
        out = out + (tl.load(table + m * stride + (k + TB) * (CP + 1) + lab),)
    return out


@triton.jit
def lines(table, stride, k, at, N: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr):
    """Pointers into N tables at the line of duration k, a number; `at`: entries from there on."""
    out = ()
    for i in tl.static_range(N):
        out = out + (table + i * stride + (k + TB) * (CP + 1) + at,)
    return out


@triton.jit
def read(pointers, ahead: tl.constexpr):
    """What lies a constant number of entries ahead: such loads share their addresses."""
    out = ()
    for i in tl.static_range(len(pointers)):
        out = out + (tl.load(pointers[i] + ahead),)
    return out


@triton.jit
def tabulate(parts, table, b, B, K, C, P: tl.constexpr, F: tl.constexpr, CP: tl.constexpr, TB: tl.constexpr,
             SB: tl.constexpr):  # fmt: skip
    """Durations -TB, 1 - TB, ... K + 2 TB + SB of a sequence for every model, -inf outside 1..K and outside the labels;
    where its table is, and how far that of the next model. A barrier has to follow.
    """
    rows = K + 3 * TB + SB + 1
    pitch = (2 * rows + CP) * (CP + 1)  # room for numbers and for `turned`
    stride = B * pitch
    table += b * pitch
    lab = tl.arange(0, CP)
    for j0 in range(0, rows, 2 * TB):
        j = j0 + tl.arange(0, 2 * TB)
        k = (j - TB)[:, None]
        allowed = (k >= 1) & (k <= K) & (lab < C)[None, :]
        for m in tl.static_range(len(P.duration)):
            if P.duration[m] >= 0:
                p = row_of(parts, P.duration[m], P, b, K.to(tl.int64) * C)
                d = tl.load(p + (k - 1) * C + lab[None, :], mask=allowed, other=float("-inf")).to(F)
            else:
                d = tl.where(allowed, tl.zeros(allowed.shape, F), float("-inf"))
            tl.store(table + m * stride + j[:, None] * (CP + 1) + lab[None, :], d, mask=(j < rows)[:, None])
    return table, stride


@triton.jit
def turned(w, table, stride, row, column, rows, CP: tl.constexpr):
    """Square matrices transposed, by way of the end of the table, so that they lie in registers as they were loaded."""
    free = table + 2 * rows * (CP + 1)
    for m in tl.static_range(len(w)):
        tl.store(free + m * stride + column * (CP + 1) + row, w[m])
    tl.debug_barrier()
    out = ()
    for m in tl.static_range(len(w)):
        out = out + (tl.load(free + m * stride + row * (CP + 1) + column),)
    return out
