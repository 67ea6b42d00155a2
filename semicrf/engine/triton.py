"""`scan` and `scan_vjp` in Triton, for every semiring whose sums stream, over models that factor."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from semicrf.compile import Program
from semicrf.compile.triton import triton_source
from semicrf.engine.launch import namespace, parts_of
from semicrf.engine.plan import plan
from semicrf.engine.reference import State
from semicrf.errors import SemiringError
from semicrf.kernels import scan as forward

INTERPRETED = bool(triton.knobs.runtime.interpret)
STREAMED = frozenset({"segment", "edge", "duration_transition"})
WIDEST = 64
"""Labels that one program's transition matrix holds."""


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether the kernels run a semiring over models with these parts: on a GPU, or in Triton's interpreter."""
    if device.type != ("cpu" if INTERPRETED else "cuda") or parts & STREAMED:
        return False
    try:
        triton_source(program)
    except SemiringError:
        return False
    return True


def _real(models: list[dict[str, Tensor]]) -> torch.dtype:
    """The dtype that a sweep computes in: float64 for float64 inputs, float32 for others."""
    return torch.float64 if any(t.dtype == torch.float64 for m in models for t in m.values()) else torch.float32


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    cut, parts, S = plan(K, C, d, INTERPRETED), parts_of(models), namespace(program, keep)

    def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    value = new(d, B)
    alpha, g = (new(d, B, T + 1, C, dtype=dtype), new(d, B, T, 1, C, dtype=dtype)) if keep else (new(0, B), new(0, B))
    offset = new(p, B, T + 1) if keep else new(0, B)
    ids = program.ids if keep else 0
    alpha_id, g_id = (new(ids, B, *s, dtype=torch.int32) for s in (((T + 1, C), (T, 1, C)) if keep else ((), ())))
    end_id = new(ids, B, dtype=torch.int32)
    u, frames = new(d, B, cut.ring, C, dtype=dtype), new(p, B, cut.ring // cut.rows, C)
    real = forward.tl.float64 if dtype == torch.float64 else forward.tl.float32
    forward.scan[(B,)](
        parts.tensors, lengths, value, alpha, g, offset, alpha_id, g_id, end_id, u, frames, T, K, C, cut.ring - 1,
        S, parts.layout, real, keep, cut.labels, cut.rows, cut.group, num_warps=cut.warps,
    )  # fmt: skip
    return State(value, alpha, g, offset, alpha_id, g_id, end_id)
