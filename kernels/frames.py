"""What elements are held against, so that those that count are near it: rounded to few digits, they lose nothing."""

import triton
import triton.language as tl
from semicrf.kernels.state import convert, padded


@triton.jit
def leveled(x, S: tl.constexpr):
    """How large elements are in units of every potential, in float64; 0 where that has no meaning."""
    out = ()
    for m in tl.static_range(S.potentials):
        level = tl.zeros(x[0].shape, tl.float64)
        if S.levels[m] >= 0:
            level = x[S.levels[m]].to(tl.float64)
            level = tl.where((level > float("-inf")) & (level < float("inf")), level, 0.0)
        out = out + (level,)
    return out


@triton.jit
def highest(x, S: tl.constexpr):
    """The largest of every level along the first axis; 0 where there is none."""
    out = ()
    for m in tl.static_range(S.potentials):
        level = tl.sum(tl.zeros(x[0].shape, tl.float64), 0)
        if S.levels[m] >= 0:
            level = x[S.levels[m]].to(tl.float64)
            level = tl.max(tl.where(level < float("inf"), level, float("-inf")), 0)
            level = tl.where(level > float("-inf"), level, 0.0)
        out = out + (level,)
    return out


@triton.jit
def moved(x, by, S: tl.constexpr, F: tl.constexpr):
    """Elements times potentials in float64, rounded to F after that."""
    return convert(S.move(convert(x, tl.float64), padded(by, by[0], S)), F)
