"""What the loops over elements need of vectors besides `lanes`: rows of memory, comparisons, exp and log of any float.

The memory of a run is rows of LANES float64; a row holds one number of eight labels. Nothing here drops a NaN.
"""

from __future__ import annotations

import math
import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin

from semicrf.engine.cpu import lanes as L
from semicrf.engine.cpu.lanes import LANES, instruction, lanes

INF = math.inf


DOUBLES, WHOLES = types.CPointer(types.float64), types.CPointer(types.int64)


def _pointer(kind, to):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], to.as_pointer())

    return kind(types.int64), codegen


@instruction
def doubles(typing_context, address):
    """The memory at an address: float64 that no one counts references to."""
    return _pointer(DOUBLES, ir.DoubleType())


@instruction
def wholes(typing_context, address):
    """The same of int64."""
    return _pointer(WHOLES, ir.IntType(64))


def _row(builder, m, row):
    """The address of a row of memory."""
    return builder.gep(builder.bitcast(m, L.VECTOR.as_pointer()), [row])


@instruction
def get(typing_context, m, row):
    """Row `row` of memory, all of it."""

    def codegen(context, builder, signature, args):
        return builder.load(_row(builder, *args), align=8)

    return lanes(DOUBLES, types.int64), codegen


@instruction
def put(typing_context, m, row, value):
    """Put a vector into row `row` of memory."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _row(builder, *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(DOUBLES, types.int64, lanes), codegen


@instruction
def local(typing_context, rows):
    """So many rows, a literal, for the length of a function: registers, where what uses them unrolls."""
    if not isinstance(rows, types.Literal):
        return None

    def codegen(context, builder, signature, args):
        made = cgutils.alloca_once(builder, L.VECTOR, ir.Constant(ir.IntType(64), rows.literal_value))
        return builder.bitcast(made, ir.DoubleType().as_pointer())

    return DOUBLES(rows), codegen


def _is(builder, x, value: float):
    return builder.fcmp_ordered("==", x, L.constant(value))


where_above = L.pointwise("where_above", 4, lambda b, x, y, u, v: b.select(b.fcmp_ordered(">", x, y), u, v))
"""c where a > b, else d."""
where_equal = L.pointwise("where_equal", 4, lambda b, x, y, u, v: b.select(b.fcmp_ordered("==", x, y), u, v))
"""c where a = b, else d."""
where_forbidden = L.pointwise("where_forbidden", 3, lambda b, x, u, v: b.select(_is(b, x, -INF), u, v))
"""b where a = -inf, else c."""
where_flawed = L.pointwise("where_flawed", 3, lambda b, x, u, v: b.select(b.fcmp_unordered("uno", x, x), u, v))
"""b where a is NaN, else c."""
upper = L.pointwise("upper", 2, lambda b, x, y: b.select(b.fcmp_ordered(">=", x, y), x, y))
"""a where a >= b, else b."""
lower = L.pointwise("lower", 2, lambda b, x, y: b.select(b.fcmp_ordered(">=", x, y), y, x))
"""The other one."""


def _highest(builder, x, y):
    first = builder.or_(builder.fcmp_ordered(">", x, y), builder.fcmp_unordered("uno", x, x))
    return builder.select(first, x, y)


highest = L.pointwise("highest", 2, _highest)
"""The larger of two; NaN where one is."""
ratio = L.pointwise("ratio", 2, lambda b, x, y: b.select(_is(b, x, -INF), L.constant(0.0), _exp(b, b.fsub(x, y))))
"""exp(a - b), 0 where a is -inf."""
weigh = L.pointwise("weigh", 2, lambda b, x, y: b.select(_is(b, x, 0.0), L.constant(0.0), b.fmul(x, y)))
"""a * b with 0 * anything = 0."""
surprisal = L.pointwise("surprisal", 2, lambda b, x, y: b.select(_is(b, x, -INF), L.constant(INF), b.fsub(y, x)))
"""b - a, +inf where a is -inf."""
anchor = L.pointwise("anchor", 1, lambda b, x: b.select(_finite(b, x), x, L.constant(0.0)))
"""a where it is finite, else 0."""


def _finite(builder, x):
    return builder.and_(builder.fcmp_ordered("<", x, L.constant(INF)), builder.fcmp_ordered(">", x, L.constant(-INF)))


@instruction
def any_above(typing_context, x, y):
    """The lanes where a > b, as bits."""
    return L.mask(lambda b, x, y: b.fcmp_ordered(">", x, y))


@instruction
def any_but(typing_context, x, y):
    """The lanes where a is not b, as bits; NaN is nothing but NaN, so it is among them."""
    return L.mask(lambda b, x, y: b.fcmp_unordered("!=", x, y))


def _reduced(step):
    def codegen(context, builder, signature, args):
        at = [builder.extract_element(args[0], ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
        while len(at) > 1:
            at = [step(builder, *pair) for pair in zip(at[::2], at[1::2], strict=True)]
        return at[0]

    return types.float64(lanes), codegen


@instruction
def peak(typing_context, x):
    """The largest lane; what is NaN may be left out."""
    return _reduced(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


@instruction
def across(typing_context, x):
    """The sum of all lanes, in pairs."""
    return _reduced(lambda b, x, y: b.fadd(x, y))


class _Negation(L.AbstractTemplate):
    """-a."""

    def generic(self, args, kws):
        return lanes(lanes) if args == (lanes,) else None


L.instruction_of(operator.neg)(_Negation)
lower_builtin(operator.neg, lanes)(lambda context, builder, signature, args: builder.fneg(args[0]))


def _exp(builder, x):
    """0 below -700; 2^n in two factors, as it may overflow where the result does not."""
    low = builder.fcmp_ordered("<", x, L.constant(-700.0))
    y = builder.select(low, L.constant(-700.0), x)
    y = builder.select(builder.fcmp_ordered(">", y, L.constant(720.0)), L.constant(720.0), y)
    power, shifted = L.exponential(builder, y)
    n = builder.fsub(shifted, L.constant(L.MAGIC))
    half = builder.fadd(builder.fmul(n, L.constant(0.5)), L.constant(L.MAGIC))
    rest = builder.fadd(builder.fsub(n, builder.fsub(half, L.constant(L.MAGIC))), L.constant(L.MAGIC))
    for part in (half, rest):
        power = builder.fmul(power, L.power_of_two(builder, L.constant(1.0), part))
    return builder.select(low, L.constant(0.0), power)


def _log(builder, x):
    tiny = builder.fcmp_ordered("<", x, L.constant(2.0**-1022))
    y = builder.select(tiny, builder.fmul(x, L.constant(2.0**54)), x)
    value = builder.fsub(L.logarithm(builder, y), builder.select(tiny, L.constant(54 * math.log(2.0)), L.constant(0.0)))
    value = builder.select(_is(builder, x, INF), x, value)
    return builder.select(builder.fcmp_unordered("<", x, L.constant(0.0)), L.constant(math.nan), value)


exp = L.shared("semicrf_exp_any", _exp)
"""e to the power a, 0 from -700 down."""
log = L.shared("semicrf_log_any", _log)
"""Natural logarithm; log(0) = -inf."""
