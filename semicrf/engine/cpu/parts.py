"""A model's parts as the loops read them: in place, whatever their dtype and strides, a row at a time.

A part is five integers: address, strides in bytes (batch, row, column) and the size of an element, 0 where the part is
absent. So one compiled loop serves float32 and float64, contiguous or not, and nothing of the size of the emissions is
ever copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from torch import Tensor

from semicrf.engine.cpu.lanes import instruction
from semicrf.engine.cpu.linking import cold, entry, kernel, small
from semicrf.engine.layout import MASKS

NAMES = ("emission", "segment_start", "segment_end", "duration", "transition", "start", "end", "required")
EMISSION, OPEN, CLOSE, DURATION, TRANSITION, START, END, REQUIRED = range(8)
SCALARS, FLAW = 11, 4  # where in a run's memory it says NaN once a score was read that is none, else 0
inf = np.inf


class Job(NamedTuple):
    """One weight and at most one payload over a batch, as the loops take them."""

    parts: Any  # (models, 8, 5) int64
    coefficients: Any  # (models,) float64: the payload
    lengths: Any  # (B,) int64
    weight: int  # which model
    counting: bool  # the weight is 0 wherever it is finite
    payload: bool
    reversed: bool  # seen from the end
    marks: bool  # the payload counts what models with a coefficient forbid and the weight does not
    K: int
    C: int


def described(models: Sequence[Mapping[str, Tensor]]) -> np.ndarray:
    """(models, 8, 5): where the parts lie, for tensors that outlive the call."""
    table = np.zeros((len(models), len(NAMES), 5), np.int64)
    for m, parts in enumerate(models):
        for name, t in parts.items():
            size, strides = t.element_size(), t.stride()
            if t.numel() > 1 and not any(strides) and not t.flatten()[0]:
                continue  # one zero, expanded: no score, wanted for its gradient alone
            batch = strides[0] * size if t.shape[0] > 1 else 0
            row = strides[1] * size if t.dim() == 3 else 0
            table[m, NAMES.index(name)] = (t.data_ptr(), batch, row, strides[-1] * size, size)
            assert (t.dtype == torch.bool) == (name in MASKS)
    return table


def _reader(kind: ir.Type, generate):
    def codegen(context, builder, signature, args):
        return generate(builder, builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=1))

    return codegen


@instruction
def _double(typing_context, address):
    return types.float64(types.int64), _reader(ir.DoubleType(), lambda builder, x: x)


@instruction
def _single(typing_context, address):
    return types.float64(types.int64), _reader(ir.FloatType(), lambda builder, x: builder.fpext(x, ir.DoubleType()))


@instruction
def _byte(typing_context, address):
    return types.int64(types.int64), _reader(ir.IntType(8), lambda builder, x: builder.zext(x, ir.IntType(64)))


@instruction
def add_at(typing_context, address, value):
    """Add a number to the float64 at an address."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.DoubleType().as_pointer())
        builder.store(builder.fadd(builder.load(pointer), args[1]), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), codegen


@small
def required(job, b, i):
    """Whether a segment must start at position i."""
    parts = job.parts
    w = job.weight
    if parts[w, REQUIRED, 4] == 0:
        return False
    return _byte(parts[w, REQUIRED, 0] + b * parts[w, REQUIRED, 1] + i * parts[w, REQUIRED, 3]) != 0


@kernel
def read(parts, m, p, b, i, C, out, j):
    """out[j, :C] = row i of a part; False, and nothing written, where it is absent."""
    size = parts[m, p, 4]
    at = parts[m, p, 0] + b * parts[m, p, 1] + i * parts[m, p, 2]
    step = parts[m, p, 3]
    row = out[j]
    if size == 8:
        for c in range(C):
            row[c] = _double(at + c * step)
    elif size == 4:
        for c in range(C):
            row[c] = _single(at + c * step)
    return size != 0


@cold
def weight_rows(job, p, b, i, step, n, out, j):
    """Rows i, i + step, ... (n) of a part of the weight into out[j], ...; nothing is written where it is absent."""
    if job.parts[job.weight, p, 4] == 0:
        return
    for q in range(n):
        read(job.parts, job.weight, p, b, i + q * step, job.C, out, j + q)
        flawed = False
        for c in range(job.C):
            flawed |= not out[j + q, c] < inf
        if flawed:
            out[SCALARS, FLAW] = np.nan
        if job.counting:
            for c in range(job.C):
                out[j + q, c] = 0.0 if out[j + q, c] > -inf else -inf


@kernel
def weight_row(job, p, b, i, out, j):
    """The same for one row."""
    weight_rows(job, p, b, i, 1, 1, out, j)


@cold
def payload_rows(job, p, b, i, step, n, out, j, scratch):
    """The same rows of the payload; 0 where it is not finite, as no path with weight goes there."""
    given = False
    for m in range(job.parts.shape[0]):
        given = given or (job.coefficients[m] != 0.0 and job.parts[m, p, 4] != 0)
    if not given:
        return
    for q in range(n):
        for c in range(job.C):
            out[j + q, c] = 0.0
        if job.marks:
            _mark(job, p, b, i + q * step, out, j + q, scratch)
            continue
        for m in range(job.parts.shape[0]):
            x = job.coefficients[m]
            if x != 0.0 and read(job.parts, m, p, b, i + q * step, job.C, out, scratch):
                for c in range(job.C):
                    out[j + q, c] += x * out[scratch, c]
        for c in range(job.C):
            if not abs(out[j + q, c]) < inf:
                out[j + q, c] = 0.0


@kernel
def payload_row(job, p, b, i, out, j, scratch):
    """The same for one row."""
    payload_rows(job, p, b, i, 1, 1, out, j, scratch)


@cold
def _mark(job, p, b, i, out, j, scratch):
    """Count, in out[j], the models with a coefficient that forbid what the weight allows."""
    for m in range(job.parts.shape[0]):
        if m == job.weight or job.coefficients[m] == 0.0:
            continue
        if read(job.parts, m, p, b, i, job.C, out, scratch):
            for c in range(job.C):
                out[j, c] += 1.0 if out[scratch, c] == -inf else 0.0
    if read(job.parts, job.weight, p, b, i, job.C, out, scratch):
        for c in range(job.C):
            if out[scratch, c] == -inf:
                out[j, c] = 0.0


@entry
def forbids_more(job, T, m, rows):
    """Whether model m forbids anything that the weight allows; rows (2, C): scratch."""
    for b in range(job.lengths.shape[0]):
        for p, n in (
            (EMISSION, T),
            (OPEN, T),
            (CLOSE, T),
            (DURATION, job.K),
            (TRANSITION, job.C),
            (START, 1),
            (END, 1),
        ):
            for i in range(n):
                if not read(job.parts, m, p, b, i, job.C, rows, 1):
                    break
                if not read(job.parts, job.weight, p, b, i, job.C, rows, 0):
                    rows[0] = 0.0
                for c in range(job.C):
                    if rows[1, c] == -inf and rows[0, c] > -inf:
                        return True
    return False
