"""exp and log that a loop can vectorise, and the dot products of the window, for numba.

Polynomials on the bits of a double: relative error below 4e-16 over the whole range, and exact at -inf and 0, where the
library's loops rely on them. No NaN or infinity is assumed away: the fast-math flags used here only allow sums to be
reordered.
"""

# pyright: reportCallIssue=false
# (an intrinsic is called without its first parameter, which numba passes)
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

REORDER = {"reassoc", "contract", "nsz", "arcp"}

kernel = njit(nogil=True, cache=True, fastmath=REORDER, error_model="numpy")
"""The one way in which loops are compiled here: division by zero is a float like any other, not an exception."""

small = njit(inline="always", fastmath=REORDER, error_model="numpy")
"""For what is part of a loop."""


part = njit(forceinline=True, fastmath=REORDER, error_model="numpy")
"""For longer parts of a loop; inlined late, so that tuples of arrays are not handed from call to call."""


@intrinsic
def _as_double(typing_context, bits):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def _as_bits(typing_context, value):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@small
def exp(x):
    """e^x; 0 below -700, also for -inf; x <= 700 is the caller's business."""
    y = max(x, -700.0)
    n = np.floor(y * 1.4426950408889634 + 0.5)
    r = y - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6
    p = 1.6059043836821613e-10
    p = p * r + 2.08767569878681e-09
    p = p * r + 2.505210838544172e-08
    p = p * r + 2.755731922398589e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 0.0001984126984126984
    p = p * r + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    value = p * _as_double((np.int64(n) + np.int64(1023)) << np.int64(52))
    return value if x >= -700.0 else 0.0


@small
def log(x):
    """Natural logarithm of a normal positive double; -inf at 0."""
    i = _as_bits(x)
    e = (i - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    m = _as_double(i - (e << np.int64(52)))
    s = (m - 1.0) / (m + 1.0)
    z = s * s  # the series of atanh
    p = 1.0 / 21.0
    p = p * z + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 0.2
    p = p * z + 1.0 / 3.0
    p = p * z + 1.0
    value = 2.0 * s * p + np.float64(e) * 0.693147180559945309
    return value if x > 0.0 else -np.inf


@small
def dot(u, i, d, j, n):
    """sum_q u[i + q] d[j + q], q < n."""
    x = 0.0
    uu = u[i : i + n]
    dd = d[j : j + n]
    for q in range(n):
        x += uu[q] * dd[q]
    return x


@kernel
def dot4(u, i, d, n, out, j):
    """Four destinations that share the loads of u: out[j + r] = sum_q u[i + r + q] d[q], q < n - r, for r < 4 <= n."""
    x0 = 0.0
    x1 = 0.0
    x2 = 0.0
    x3 = 0.0
    uu = u[i + 3 : i + n]
    d0 = d[3:n]
    d1 = d[2 : n - 1]
    d2 = d[1 : n - 2]
    d3 = d[0 : n - 3]
    for q in range(n - 3):
        v = uu[q]
        x0 += v * d0[q]
        x1 += v * d1[q]
        x2 += v * d2[q]
        x3 += v * d3[q]
    out[j] = x0 + u[i] * d[0] + u[i + 1] * d[1] + u[i + 2] * d[2]
    out[j + 1] = x1 + u[i + 1] * d[0] + u[i + 2] * d[1]
    out[j + 2] = x2 + u[i + 2] * d[0]
    out[j + 3] = x3
