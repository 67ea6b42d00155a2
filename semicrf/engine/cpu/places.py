"""Where tensors lie, for loops that read and write them in place, whatever their dtype and strides.

A place is eight integers: the address, strides in bytes along the leading axis (potential or field), batch, position,
duration, previous label and label, and the size of an element (0 where there is no such tensor). So one compiled loop
serves float32 and float64, contiguous or not, and counts no references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from llvmlite import ir
from numba import types
from torch import Tensor

from semicrf.engine.cpu.lanes import LANES, VECTOR, instruction, lanes
from semicrf.engine.cpu.linking import kernel, small
from semicrf.engine.cpu.vectors import get, put
from semicrf.engine.layout import PARTS

LEADING, BATCH, POSITION, DURATION, PREVIOUS, LABEL = range(1, 7)
AXES = {"d": LEADING, "B": BATCH, "T": POSITION, "K": DURATION}
EMISSION, OPEN, CLOSE, SEGMENT, EDGE, REQUIRED, DURATION, TRANSITION, TRANSITION_BY, START, END = range(11)
NAMES = (
    "emission", "segment_start", "segment_end", "segment", "edge", "required", "duration", "transition",
    "duration_transition", "start", "end",
)  # fmt: skip
"""Parts, in the order of their places; those of potential q begin at q * len(NAMES)."""
VALUE, ALPHA, G, OFFSET, ALPHA_ID, G_ID, END_ID = range(7)
KEPT_AXES = ("dB", "dBTC", "dBTKC", "dBT", "dBTC", "dBTKC", "dB")
"""What a scan leaves behind (`semicrf.engine.reference.State`); its columns are durations."""


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


def places_of(
    models: Sequence[dict[str, Tensor]], kept: Sequence[Tensor], out: Sequence[dict[str, Tensor]] = (),
    cotangent: Tensor | None = None,
) -> np.ndarray:  # fmt: skip
    """The places of the parts of every model, of what is kept, of their gradients, and of the cotangent."""
    found = [place(m.get(n), PARTS[n]) for m in models for n in NAMES]
    found += [place(t, axes) for t, axes in zip(kept, KEPT_AXES, strict=False)]
    found += [place(m.get(n), PARTS[n]) for m in out for n in NAMES]
    found.append(place(cotangent, "dB"))
    return np.array(found, np.int64)


def held_as_read(models: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The parts in a dtype that the loops read: float32, float64 or bool; to be held while addresses are in use."""
    return [{n: _readable(t.detach()) for n, t in m.items()} for m in models]


def _readable(tensor: Tensor) -> Tensor:
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
def _doubles(typing_context, address):
    """Eight float64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(builder, args[0], VECTOR), align=8)

    return lanes(types.int64), codegen


@instruction
def _singles(typing_context, address):
    """Eight float32 at an address."""

    def codegen(context, builder, signature, args):
        narrow = ir.VectorType(ir.FloatType(), LANES)
        return builder.fpext(builder.load(_pointer(builder, args[0], narrow), align=4), VECTOR)

    return lanes(types.int64), codegen


@instruction
def _put_doubles(typing_context, address, values):
    """Put eight float64 at an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], VECTOR), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, lanes), codegen


@instruction
def _poke(typing_context, address, value):
    """Put a float64 at an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], ir.DoubleType()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), codegen


@instruction
def _poke_whole(typing_context, address, value):
    """Put an int32 at an address."""

    def codegen(context, builder, signature, args):
        narrow = builder.trunc(args[1], ir.IntType(32))
        builder.store(narrow, _pointer(builder, args[0], narrow.type), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@instruction
def _peek_whole(typing_context, address):
    """The int32 at an address."""

    def codegen(context, builder, signature, args):
        narrow = builder.load(_pointer(builder, args[0], ir.IntType(32)), align=4)
        return builder.sext(narrow, ir.IntType(64))

    return types.int64(types.int64), codegen


@small
def given(places, i):
    """Whether there is such a tensor."""
    return places[8 * i + 7] != 0


@small
def where(places, i, leading, b, t, k, previous):
    """The address of a row of labels."""
    at = places[8 * i + 0] + leading * places[8 * i + 1] + b * places[8 * i + 2]
    return at + t * places[8 * i + 3] + k * places[8 * i + 4] + previous * places[8 * i + 5]


@small
def number(places, i, leading, b, t):
    """One number, where there are no labels."""
    return _peek(where(places, i, leading, b, t, 0, 0), places[8 * i + 7])


@small
def put_number(places, i, leading, b, t, x):
    """Put one float64, where there are no labels."""
    _poke(where(places, i, leading, b, t, 0, 0), x)


@small
def put_whole(places, i, leading, b, t, x):
    """Put one int32, where there are no labels."""
    _poke_whole(where(places, i, leading, b, t, 0, 0), np.int64(x))


@kernel
def read(places, i, address, m, row, block, C):
    """A row of C labels from an address into m[row], eight labels a block."""
    step, size = places[8 * i + 6], places[8 * i + 7]
    for first in range(0, C, LANES):
        n = min(LANES, C - first)
        if n == LANES and step == size and size > 1:
            put(m, row, _doubles(address) if size == 8 else _singles(address))
        else:
            for lane in range(n):
                m[row * LANES + lane] = _peek(address + lane * step, size)
        address += LANES * step
        row += block


@kernel
def read_whole(places, i, address, m, row, block, C):
    """The same of int32."""
    step = places[8 * i + 6]
    for first in range(0, C, LANES):
        for lane in range(min(LANES, C - first)):
            m[row * LANES + lane] = _peek_whole(address + lane * step)
        address += LANES * step
        row += block


@kernel
def write(places, i, address, m, row, block, C):
    """A row of m to float64 at an address."""
    step = places[8 * i + 6]
    for first in range(0, C, LANES):
        n = min(LANES, C - first)
        if n == LANES and step == 8:
            _put_doubles(address, get(m, row))
        else:
            for lane in range(n):
                _poke(address + lane * step, m[row * LANES + lane])
        address += LANES * step
        row += block


@kernel
def write_whole(places, i, address, m, row, block, C):
    """The same to int32."""
    step = places[8 * i + 6]
    for first in range(0, C, LANES):
        for lane in range(min(LANES, C - first)):
            _poke_whole(address + lane * step, np.int64(m[row * LANES + lane]))
        address += LANES * step
        row += block
