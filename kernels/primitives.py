"""The operations that generated functions call by name. Each agrees with the interpreter of `semicrf.compile` on every
float, infinities included.
"""

import triton
import triton.language as tl

FAR = tl.constexpr(2147483647)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def constant(value, like):
    """A number as a tensor of the shape and dtype of `like`."""
    return tl.zeros_like(like) + value


@triton.jit
def finite(x):
    """x, with 0 in place of -inf: a frame that can be subtracted."""
    return tl.where(x == float("-inf"), 0.0, x)


@triton.jit
def exp(x):
    """e to the power x."""
    return tl.exp(x)


@triton.jit
def log(x):
    """The natural logarithm; in float32 by way of base 2, which is the hardware's."""
    if x.dtype == tl.float32:
        return tl.log2(x) * LN2
    else:
        return tl.log(x)


@triton.jit
def exp_ptx(x):
    """`exp` as NVIDIA's hardware has it in float32: what is below the normal numbers is 0."""
    if x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x * LOG2E], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp(x)


@triton.jit
def log_ptx(x):
    """`log` as NVIDIA's hardware has it in float32: off by 2e-7 at most near 1, and relative to its size elsewhere."""
    if x.dtype == tl.float32:
        y = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
        return y * LN2
    else:
        return tl.log(x)


@triton.jit
def maximum(a, b):
    """The larger of two, the first on ties."""
    return tl.where(a >= b, a, b)


@triton.jit
def indicator(truth):
    """1 where true, 0 elsewhere."""
    return tl.where(truth, 1.0, 0.0)


@triton.jit
def ratio(x, total):
    """exp(x - total), 0 where x is -inf."""
    return tl.where(x == float("-inf"), 0.0, exp(x - total))


@triton.jit
def weigh(p, y):
    """p * y with 0 * anything = 0."""
    return tl.where(p == 0.0, 0.0, p * y)


@triton.jit
def surprisal(x, total):
    """total - x, +inf where x is -inf."""
    return tl.where(x == float("-inf"), float("inf"), total - x)


@triton.jit
def lse(x, axis: tl.constexpr):
    """log sum exp along an axis, -inf where every term is."""
    m = finite(tl.max(x, axis))
    return m + log(tl.sum(exp(x - tl.expand_dims(m, axis)), axis))


@triton.jit
def log_add(a, b):
    """log(exp(a) + exp(b))."""
    m = finite(tl.maximum(a, b))
    return m + log(exp(a - m) + exp(b - m))


@triton.jit
def order(a, at, b, bt):
    """Two numbers with their places, the larger first; on ties the smaller place."""
    swap = (b > a) | ((b == a) & (bt < at))
    return tl.where(swap, b, a), tl.where(swap, bt, at), tl.where(swap, a, b), tl.where(swap, at, bt)
