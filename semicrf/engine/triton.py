"""`scan` and `scan_vjp` in Triton, for every semiring whose sums stream; models that do not factor, and those of many
labels, go to `semicrf.engine.triton_arcs`.
"""

# pyright: reportCallIssue=false
# (a launch takes options such as num_warps beside the kernel's own parameters)
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton.language as tl
from torch import Tensor

from semicrf.compile import Program
from semicrf.compile.triton import triton_source
from semicrf.engine import triton_arcs
from semicrf.engine.launch import INTERPRETED, Parts, gradients_of, namespace, parts_of
from semicrf.engine.layout import UNFACTORED, shared
from semicrf.engine.plan import TILED, Plan, plan
from semicrf.engine.reference import State
from semicrf.errors import SemiringError
from semicrf.kernels import scan as forward
from semicrf.kernels import scan_vjp as backward
from semicrf.kernels import state as tables
from semicrf.kernels import walk

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}
SPAN = 1024
"""Sources whose durations one program counts: a constant, so that sums have one order."""


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether the kernels run a semiring over models with these parts: on a GPU, or in Triton's interpreter."""
    if device.type != ("cpu" if INTERPRETED else "cuda"):
        return False
    try:
        triton_source(program)
    except SemiringError:
        return False
    return True


def _tiled(models: Sequence[Mapping[str, Tensor]], C: int) -> bool:
    """Whether the blocked sweeps take these models: they factor, and a tile holds their transitions."""
    return C <= TILED and not any(UNFACTORED & set(m) for m in models)


def stored(models: Sequence[Mapping[str, Tensor]]) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes of a state: of elements and of choices."""
    return _real(models), torch.int32


def _real(models: Sequence[Mapping[str, Tensor]]) -> torch.dtype:
    """The dtype that a sweep computes in: float64 for float64 inputs, float32 for others."""
    return torch.float64 if any(t.dtype == torch.float64 for m in models for t in m.values()) else torch.float32


def _table(parts: Parts, K: int, C: int, cut: Plan, p: int, B: int, like: Tensor) -> tuple[Tensor, int, int]:
    """The scores of durations by model, sequence (or one for all) and duration, padded with -inf; and its sizes."""
    layout, rows = parts.layout, K + cut.table
    batch = B if any(i >= 0 and layout.rows[i] for i in map(int, layout.duration)) else 1
    table = like.new_empty(p, batch, rows, cut.labels + 1)
    tables.tabulate[(batch, -(-rows // 16))](
        parts.tensors, table, K, C, rows, layout, REAL[table.dtype], cut.labels, cut.rows, 16, num_warps=4
    )
    return table, rows, batch


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    if not _tiled(models, C):
        return triton_arcs.scan(program, models, lengths, T, K, C, keep, dtype)
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
    table, rows, batch = _table(parts, K, C, cut, p, B, u)
    forward.scan[(B,)](
        parts.tensors, lengths, value, alpha, g, offset, alpha_id, g_id, end_id, u, frames, table, T, K, C,
        cut.ring - 1, rows, batch, S, parts.layout, REAL[dtype], keep, cut.labels, cut.rows, cut.group,
        num_warps=cut.warps,
    )  # fmt: skip
    return State(value, alpha, g, offset, alpha_id, g_id, end_id)


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    if not _tiled(models, C):
        return triton_arcs.scan_vjp(program, models, lengths, T, K, C, state, cotangent, wanted, dtype)
    cut, parts, S = plan(K, C, d, INTERPRETED, reverse=True), parts_of(models), namespace(program, True)

    def new(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    spans = -(-T // SPAN)
    sums, grads = gradients_of(wanted, B, T, K, C, spans, new)
    bar, z, begin = new(d, B, T + 1, C), new(p, B, T + 1, C), new(p, B, T + 1, C)
    limit, frames = new(p, B, T + 1, C, dtype=torch.int32), new(p, B, T // cut.rows + 1, C, dtype=torch.float64)
    table, rows, batch = _table(parts, K, C, cut, p, B, bar)
    sizes = S, parts.layout, grads.layout, REAL[dtype], cut.labels, cut.rows
    backward.scan_vjp[(B,)](
        parts.tensors, grads.tensors, lengths, cotangent.contiguous(), state.value, state.alpha, state.g, state.offset,
        state.alpha_id, state.g_id, state.end_id, bar, z, begin, limit, frames, table, T, K, C, rows,
        batch, *sizes, cut.group,
        num_warps=cut.warps,
    )  # fmt: skip
    if any("duration" in w for w in wanted):
        backward.duration_counts[(B, -(-K // 4), spans)](
            parts.tensors, grads.tensors, lengths, state.alpha, state.g, state.alpha_id, bar, z, begin, limit, frames,
            table, T, K, C, rows, batch, SPAN, *sizes, 4, 4, num_warps=4,
        )  # fmt: skip
    return [
        {n: _shared(n, sums[m][n], model[n]) for n in want}
        for m, (model, want) in enumerate(zip(models, wanted, strict=True))
    ]


def _shared(name: str, total: Tensor, like: Tensor) -> Tensor:
    """A gradient in the shape and dtype of its part: spans added up, and sequences where the batch shares it."""
    if name == "duration":
        total = total.sum(1) if total.shape[1] > 1 else total[:, 0]
    return shared(total, like)


def best(lengths: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor) -> tuple[Tensor, Tensor]:
    """Marks (B, T) of the best path and labels there, as `semicrf.engine.walk.best` has them, without a round trip."""
    B, T, columns, C = g_id.shape[1:]
    marks = torch.zeros(B, T, dtype=torch.uint8, device=lengths.device)
    labels = torch.full((B, T), -1, device=lengths.device)
    walk.best[(B,)](lengths, alpha_id, g_id, end_id, marks, labels, T, C, columns, num_warps=1)
    return marks.view(torch.bool), labels
