"""`scan` and `scan_vjp` in Triton one position at a time, for every kind of arc and any number of labels."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.launch import INTERPRETED, Kernel, gradients_of, namespace, parts_of
from semicrf.engine.layout import BY_DURATION, shared
from semicrf.engine.plan import steps
from semicrf.engine.reference import State
from semicrf.kernels import arcs as forward
from semicrf.kernels import arcs_vjp as backward

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}
EVERY = 2**31 - 1
FORWARD, BACKWARD = Kernel(forward.arcs), Kernel(backward.arcs_vjp)


def _columns(models: list[dict[str, Tensor]], K: int) -> int:
    """How many durations what leads into a segment depends on."""
    return K if any(BY_DURATION & set(m) for m in models) else 1


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool,
    dtype: torch.dtype,
) -> State:  # fmt: skip
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    B, d, p, columns = lengths.shape[0], program.width, program.potentials, _columns(models, K)
    cut, parts, S = steps(K, C, d, columns > 1, INTERPRETED), parts_of(models), namespace(program, keep)

    def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    rows, ids = (T, program.ids) if keep else (cut.ring, 0)
    value, end_id = new(d, B), new(ids, B, dtype=torch.int32)
    u = new(d, B, rows, columns, C, dtype=dtype)
    alpha, offset = (
        (new(d, B, T + 1, C, dtype=dtype), new(p + len(S.gauges), B, T + 1)) if keep else (new(0, B), new(0, B))
    )
    kept = ((T + 1, C), (T, columns, C)) if keep else ((), ())
    alpha_id, g_id = (new(ids, B, *shape, dtype=torch.int32) for shape in kept)
    source, now = new(p, B, cut.ring, C), new(d, B, C, dtype=dtype)
    FORWARD(
        (B, 1, 1),
        (parts.tensors, lengths, value, alpha, g_id, offset, alpha_id, end_id, u, source, now),
        (T, K, C, columns, rows, EVERY if keep else cut.ring - 1, cut.ring - 1),
        (S, parts.layout, REAL[dtype], keep, cut.labels, cut.window, cut.previous, cut.durations),
        cut.warps,
    )
    return State(value, alpha, u if keep else new(0, B), offset, alpha_id, g_id, end_id)


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]], dtype: torch.dtype,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    B, d, p, columns = lengths.shape[0], program.width, program.potentials, _columns(models, K)
    cut = steps(K, C, d, columns > 1, INTERPRETED)
    parts, S = parts_of(models), namespace(program, True)

    def new(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    sums, grads = gradients_of(wanted, B, T, K, C, {}, new, zeros="B")
    bar, over, into = new(d, B, cut.ring, C), new(p, B, cut.ring, C, dtype=torch.float64), new(d, B, columns, C)
    BACKWARD(
        (B, 1, 1),
        (parts.tensors, grads.tensors, lengths, cotangent.contiguous(), *state[:7], bar, over, into),
        (T, K, C, columns, cut.ring - 1),
        (S, parts.layout, grads.layout, REAL[dtype], cut.labels, cut.window, cut.previous, cut.durations),
        cut.warps,
    )
    return [
        {n: shared(sums[m][n], model[n]) for n in want}
        for m, (model, want) in enumerate(zip(models, wanted, strict=True))
    ]
