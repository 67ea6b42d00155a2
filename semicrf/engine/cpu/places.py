"""Where tensors lie, for loops that read and write them in place, whatever their dtype and strides.

A place is eight integers: the address, strides in bytes along the leading axis (potential or field), batch, position,
duration, previous label and label, and the size of an element (0 where there is no such tensor). So one compiled loop
serves float32 and float64, contiguous or not, and counts no references.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types
from torch import Tensor

from semicrf.engine.cpu.lanes import LANES, instruction, kernel, small

LEADING, BATCH, POSITION, DURATION, PREVIOUS, LABEL = range(1, 7)
AXES = {"d": LEADING, "B": BATCH, "T": POSITION, "K": DURATION}


def place(tensor: Tensor | None, axes: str) -> list[int]:
    """The place of a tensor with these axes (as `semicrf.engine.layout.PARTS` names them; d leads); a batch of one is
    everybody's.
    """
    if tensor is None or tensor.numel() == 0:
        return [0] * 8
    assert tensor.dim() == len(axes)
    found = [tensor.data_ptr(), *[0] * 6, tensor.element_size()]
    for i, axis in enumerate(axes):
        at = (PREVIOUS if "C" in axes[i + 1 :] else LABEL) if axis == "C" else AXES[axis]
        found[at] = tensor.stride(i) * tensor.element_size() if tensor.shape[i] > 1 else 0
    return found


def readable(tensor: Tensor) -> Tensor:
    """In a dtype that the loops read: float32, float64 or bool."""
    if tensor.dtype in (torch.float32, torch.float64, torch.bool):
        return tensor
    return tensor.to(torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else torch.float64)


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


@instruction
def _peek(typing_context, address, size):
    """The number at an address, of 8, 4 or 1 bytes."""

    def codegen(context, builder, signature, args):
        address, size = args
        double, single, byte = ir.DoubleType(), ir.FloatType(), ir.IntType(8)
        after = builder.append_basic_block("peeked")
        other, whole = builder.append_basic_block("other"), builder.append_basic_block("double")
        flag, half = builder.append_basic_block("byte"), builder.append_basic_block("single")
        builder.cbranch(builder.icmp_signed("==", size, ir.Constant(size.type, 8)), whole, other)
        builder.position_at_end(other)
        builder.cbranch(builder.icmp_signed("==", size, ir.Constant(size.type, 4)), half, flag)
        found = []
        for block, kind, convert in (
            (whole, double, lambda x: x),
            (half, single, lambda x: builder.fpext(x, double)),
            (flag, byte, lambda x: builder.uitofp(x, double)),
        ):
            builder.position_at_end(block)
            found.append((convert(builder.load(_pointer(builder, address, kind), align=1)), block))
            builder.branch(after)
        builder.position_at_end(after)
        value = builder.phi(double)
        for x, block in found:
            value.add_incoming(x, block)
        return value

    return types.float64(types.int64, types.int64), codegen


@instruction
def _poke(typing_context, address, value):
    """Put a float64 at an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], ir.DoubleType()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), codegen


@instruction
def _poke_whole(typing_context, address, value):
    """Put an int64 at an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], ir.IntType(64)), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@instruction
def _peek_whole(typing_context, address):
    """The int64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(builder, args[0], ir.IntType(64)), align=8)

    return types.int64(types.int64), codegen


@small
def given(places, i):
    """Whether there is such a tensor."""
    return places[i, 7] != 0


@small
def where(places, i, leading, b, t, k, previous):
    """The address of a row of labels."""
    at = places[i, 0] + leading * places[i, 1] + b * places[i, 2]
    return at + t * places[i, 3] + k * places[i, 4] + previous * places[i, 5]


@small
def number(places, i, leading, b, t):
    """One number, where there are no labels."""
    return _peek(where(places, i, leading, b, t, 0, 0), places[i, 7])


@small
def put_number(places, i, leading, b, t, x):
    """Put one float64, where there are no labels."""
    _poke(where(places, i, leading, b, t, 0, 0), x)


@small
def put_whole(places, i, leading, b, t, x):
    """Put one int64, where there are no labels."""
    _poke_whole(where(places, i, leading, b, t, 0, 0), np.int64(x))


@kernel
def read(places, i, address, m, row, block, C):
    """A row of C labels from an address into m[row], eight labels a block."""
    step, size = places[i, 6], places[i, 7]
    for c in range(C):
        m[row + (c // LANES) * block, c % LANES] = _peek(address + c * step, size)


@kernel
def read_whole(places, i, address, m, row, block, C):
    """The same of int64."""
    for c in range(C):
        m[row + (c // LANES) * block, c % LANES] = _peek_whole(address + c * places[i, 6])


@kernel
def write(places, i, address, m, row, block, C):
    """A row of m to float64 at an address."""
    for c in range(C):
        _poke(address + c * places[i, 6], m[row + (c // LANES) * block, c % LANES])


@kernel
def write_whole(places, i, address, m, row, block, C):
    """The same to int64."""
    for c in range(C):
        _poke_whole(address + c * places[i, 6], np.int64(m[row + (c // LANES) * block, c % LANES]))
