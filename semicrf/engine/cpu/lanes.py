"""Eight float64 at a time, for numba: the one vector type of the loops, its arithmetic, exp and log.

Lanes are labels: a row of C labels is padded to whole lanes, and what a loop does to one label it does to eight. A
vector is a value like any other in compiled code, so nothing hinges on what a vectoriser recognises. exp and log are
polynomials on the bits of a double: relative error below 4e-16 over the whole range. No fast-math: every sum has the
order in which it is written.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, register_model

LANES = 8


def kernel(function):
    """The one way in which loops are compiled here: once, whatever literals they are called with; division by zero is a
    float like any other, not an exception.
    """
    compiled = njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)(function)
    template = compiled.get_call_template
    compiled.get_call_template = lambda args, kws: template(tuple(map(types.unliteral, args)), kws)
    return compiled


small = njit(inline="always", error_model="numpy", boundscheck=False)
"""For what is part of a loop."""

instruction: Any = intrinsic
"""An intrinsic, called without its first parameter, which numba passes: no checker of types knows that."""

instruction_of: Any = infer_global  # a decorator, whatever its annotation says
_double, _bits = ir.DoubleType(), ir.IntType(64)
VECTOR, _ivector = ir.VectorType(_double, LANES), ir.VectorType(_bits, LANES)


class LanesType(types.Type):
    """numba's type of a vector."""

    def __init__(self):
        super().__init__(name="Lanes")


lanes = LanesType()


@register_model(LanesType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, VECTOR)


def constant(x: float) -> ir.Constant:
    """One number in every lane."""
    return ir.Constant(VECTOR, [ir.Constant(_double, x)] * LANES)


def _whole(x: int) -> ir.Constant:
    return ir.Constant(_ivector, [ir.Constant(_bits, x)] * LANES)


def _spread(builder, x):
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(VECTOR, ir.Undefined), mask)


def _address(context, builder, array_type, array, i, j):
    """The address of [i, j] in a C-contiguous array, without the checks for negative indices."""
    model = context.data_model_manager[array_type]
    data = builder.extract_value(array, model.get_field_position("data"))
    width = builder.extract_value(array, (model.get_field_position("shape"), 1))
    return builder.gep(data, [builder.add(builder.mul(i, width), j)])


def call(builder, name, *args):
    """A function of LLVM's own on whole vectors."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f64"), args)


def pointwise(name: str, count: int, generate):
    """An intrinsic of `count` vectors that gives a vector."""

    def codegen(context, builder, signature, args):
        return generate(builder, *args)

    def one(typing_context, a):
        return lanes(lanes), codegen

    def two(typing_context, a, b):
        return lanes(lanes, lanes), codegen

    def three(typing_context, a, b, c):
        return lanes(lanes, lanes, lanes), codegen

    def four(typing_context, a, b, c, d):
        return lanes(lanes, lanes, lanes, lanes), codegen

    typed = (one, two, three, four)[count - 1]
    typed.__name__ = typed.__qualname__ = name
    return instruction(typed)


@instruction
def load(typing_context, array, i, j):
    """array[i, j : j + LANES]."""

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args)
        return builder.load(builder.bitcast(address, VECTOR.as_pointer()), align=8)

    return lanes(array, types.int64, types.int64), codegen


@instruction
def store(typing_context, array, i, j, value):
    """array[i, j : j + LANES] = value."""

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args[:3])
        builder.store(args[3], builder.bitcast(address, VECTOR.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, lanes), codegen


@instruction
def spread(typing_context, array, i, j):
    """array[i, j] in every lane."""

    def codegen(context, builder, signature, args):
        return _spread(builder, builder.load(_address(context, builder, signature.args[0], *args)))

    return lanes(array, types.int64, types.int64), codegen


@instruction
def fill(typing_context, x):
    """One number in every lane."""
    return lanes(types.float64), lambda context, builder, signature, args: _spread(builder, args[0])


fma = pointwise("fma", 3, lambda b, x, y, z: call(b, "llvm.fmuladd", x, y, z))
"""a b + c."""
larger = pointwise("larger", 2, lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
smaller = pointwise("smaller", 2, lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
where_positive = pointwise(
    "where_positive", 3, lambda b, x, y, z: b.select(b.fcmp_ordered(">", x, constant(0.0)), y, z)
)
"""b where a > 0, else c."""
where_open = pointwise(
    "where_open", 3, lambda b, x, y, z: b.select(b.fcmp_ordered(">", x, constant(float("-inf"))), y, z)
)
"""b where a > -inf, else c."""


def power_of_two(builder, x, n):
    """x 2^n for whole n, given as n + 1.5 x 2^52: the low bits of that double are n."""
    bits = builder.shl(builder.bitcast(n, _ivector), _whole(52))
    return builder.bitcast(builder.add(builder.bitcast(x, _ivector), bits), VECTOR)


def _exponent(builder, x):
    """The n of x = m 2^n with m between sqrt(1/2) and sqrt(2)."""
    i = builder.bitcast(x, _ivector)
    n = builder.ashr(builder.sub(i, _whole(0x3FE6A09E667F3BCD)), _whole(52))
    magic = builder.bitcast(builder.add(n, _whole(0x4338000000000000)), VECTOR)
    return builder.fsub(magic, constant(MAGIC))


def _mantissa(builder, x):
    i = builder.bitcast(x, _ivector)
    n = builder.ashr(builder.sub(i, _whole(0x3FE6A09E667F3BCD)), _whole(52))
    return builder.bitcast(builder.sub(i, builder.shl(n, _whole(52))), VECTOR)


MAGIC = 1.5 * 2.0**52
times_power_of_two = pointwise("times_power_of_two", 2, power_of_two)


def mask(test):
    """The lanes where a test of two vectors holds, as the bits of an integer."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(test(builder, *args), ir.IntType(LANES))
        return builder.zext(bits, _bits)

    return types.int64(lanes, lanes), codegen


@instruction
def doubtful(typing_context, x, limit):
    """Where 0 < x < limit."""
    return mask(lambda b, x, y: b.and_(b.fcmp_ordered(">", x, constant(0.0)), b.fcmp_ordered("<", x, y)))


@instruction
def closes(typing_context, x, y):
    """Where y = -inf and x is not."""

    def test(builder, x, y):
        low = constant(-math.inf)
        return builder.and_(builder.fcmp_ordered(">", x, low), builder.fcmp_ordered("==", y, low))

    return mask(test)


@instruction
def above(typing_context, x, limit):
    """Where x > limit."""
    return mask(lambda b, x, y: b.fcmp_ordered(">", x, y))


class _Arithmetic(AbstractTemplate):
    """a + b, a - b, a * b and a / b of two vectors."""

    def generic(self, args, kws):
        return lanes(lanes, lanes) if args == (lanes, lanes) else None


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    instruction_of(_operator)(type(_name, (_Arithmetic,), {}))

    def _generate(context, builder, signature, args, name=_name):
        return getattr(builder, name)(*args)

    lower_builtin(_operator, lanes, lanes)(_generate)


def _polynomial(builder, x, coefficients):
    """Horner's rule, the highest power first."""
    value = constant(coefficients[0])
    for c in coefficients[1:]:
        value = call(builder, "llvm.fmuladd", value, x, constant(c))
    return value


def shared(name: str, body):
    """An intrinsic of one vector whose instructions stand once in a module, as a function that LLVM inlines."""

    def generate(builder, x):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(VECTOR, [VECTOR]), name)
        if function.is_declaration:
            function.linkage = "internal"
            function.attributes.add("alwaysinline")
            inside = ir.IRBuilder(function.append_basic_block())
            inside.ret(body(inside, function.args[0]))
        return builder.call(function, [x])

    return pointwise(name, 1, generate)


def exponential(builder, y):
    """The p and n + 1.5 x 2^52 of e^y = p 2^n, for whole n and -720 <= y <= 720."""
    shifted = call(builder, "llvm.fmuladd", y, constant(1.4426950408889634), constant(MAGIC))
    n = builder.fsub(shifted, constant(MAGIC))
    r = call(builder, "llvm.fmuladd", n, constant(-6.93145751953125e-1), y)
    r = call(builder, "llvm.fmuladd", n, constant(-1.42860682030941723212e-6), r)
    return _polynomial(builder, r, [1.0 / math.factorial(i) for i in range(13, -1, -1)]), shifted


def _exp(builder, x):
    y = builder.select(builder.fcmp_ordered(">", x, constant(-700.0)), x, constant(-700.0))
    value = power_of_two(builder, *exponential(builder, y))
    return builder.select(builder.fcmp_ordered(">=", x, constant(-700.0)), value, constant(0.0))


def logarithm(builder, x):
    """Of a normal positive double; -inf at 0 and below."""
    m, one = _mantissa(builder, x), constant(1.0)
    s = builder.fdiv(builder.fsub(m, one), builder.fadd(m, one))
    series = _polynomial(builder, builder.fmul(s, s), [1.0 / i for i in range(21, 0, -2)])  # of atanh
    double = builder.fmul(builder.fadd(s, s), series)
    value = call(builder, "llvm.fmuladd", _exponent(builder, x), constant(0.693147180559945309), double)
    return builder.select(builder.fcmp_ordered(">", x, constant(0.0)), value, constant(-math.inf))


exp = shared("semicrf_exp", _exp)
"""e^x; 0 below -700, also for -inf; x <= 700 is the caller's business."""
log = shared("semicrf_log", logarithm)
"""Natural logarithm of a normal positive double; -inf at 0."""
