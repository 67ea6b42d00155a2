"""How the loops over elements are compiled, and an exp that a loop over terms can vectorise, for numba.

A polynomial on the bits of a double: relative error below 4e-16 over the whole range, and exact at -inf, where the
library's loops rely on it. No NaN or infinity is assumed away: the fast-math flags used here only allow sums to be
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
"""A loop: division by zero is a float like any other, not an exception."""

small = njit(inline="always", fastmath=REORDER, error_model="numpy")
"""For what is part of a loop."""

part = njit(forceinline=True, fastmath=REORDER, error_model="numpy")
"""For longer parts of a loop; inlined late, so that tuples of arrays are not handed from call to call."""


@intrinsic
def _as_double(typing_context, bits):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


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
