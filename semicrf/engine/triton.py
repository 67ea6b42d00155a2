"""`scan` and `scan_vjp` in Triton, for every semiring whose sums stream; models that do not factor, and those of many
labels, go to `semicrf.engine.triton_arcs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import torch
import triton.language as tl
from torch import Tensor

from semicrf.algebra.expr import Expr, leaf
from semicrf.compile import Program
from semicrf.compile.loglinear import loglinear
from semicrf.compile.triton import shape, triton_source
from semicrf.engine import triton_arcs
from semicrf.engine.launch import INTERPRETED, Kernel, gradients_of, namespace, parts_of
from semicrf.engine.layout import UNFACTORED, shared
from semicrf.engine.plan import SHORT, TILED, known, plan, squares
from semicrf.engine.reference import State
from semicrf.errors import SemiringError
from semicrf.kernels import counts, walk
from semicrf.kernels import scan as forward
from semicrf.kernels import scan_vjp as backward

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}
FORWARD, BOTH_WAYS, BACKWARD, ROWS, TRANSITIONS, DURATIONS, WALK = map(
    Kernel, (forward.scan, forward.scan_both, backward.scan_vjp, counts.meet, counts.transition_counts,
             counts.duration_counts, walk.best)
)  # fmt: skip
BOTH = 256
"""The most sequences that are swept in both directions at once."""
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


def both(program: Program, models: Sequence[Mapping[str, Tensor]], B: int, C: int) -> bool:
    """Whether a scan that is kept runs over the reversed sequences beside it: where elements are logarithms of sums,
    gradients need no sweep of their own then. Many sequences fill a GPU without that.
    """
    return B <= BOTH and program.width == 1 and _log_sum(program) and _tiled(models, C)


@cache
def _log_sum(program: Program) -> bool:
    a, b, w, x = (leaf(kind, 0) for kind in "abwx")
    product, action = (Expr("add", (a, other)) for other in (b, w))
    return (program.sum, program.mul, program.act) == ((Expr("lse", (x,)),), (product,), (action,))


@lru_cache(maxsize=64)
def _none(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor without entries, for all states that lack one."""
    return torch.empty(shape, dtype=dtype, device=device)


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    if not _tiled(models, C):
        return triton_arcs.scan(program, models, lengths, T, K, C, keep, dtype)
    cut, parts, S = plan(K, C, d, INTERPRETED), parts_of(models), namespace(program, keep)
    sides = 2 if keep and both(program, models, B, C) else 1

    def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    def places(*shape: int) -> Tensor:
        ids = program.ids if keep else 0
        return new(ids, *shape, dtype=torch.int32) if ids else _none(lengths.device, torch.int32, 0, *shape)

    value, real = new(d, B), _none(lengths.device, torch.float64, 0, B)
    state = State(value, real, real, real, places(B), places(B), places(B))
    if keep:
        ids = places(B, T + 1, C), places(B, T, 1, C), state.end_id
        alpha, g = new(d, B, T + 1, C, dtype=dtype), new(d, B, T, 1, C, dtype=dtype)
        state = State(value, alpha, g, new(p, B, T + 1), *ids)
        if sides == 2:
            state = state._replace(ahead=new(2, B, T + 1, C, dtype=dtype), ahead_offset=new(1, B, T + 1))
    rows = 2 * K + cut.table
    u = new(sides, d, B, cut.ring, cut.labels, dtype=dtype)
    frames = new(sides, p, B, cut.ring // cut.rows, cut.labels)
    sums = loglinear(program) is not None and cut.sums(K)
    planes = max(p, shape(program).numbers) if sums else p
    table = new(sides, planes, B, rows, cut.labels + 1, dtype=dtype)
    given = (parts.tensors, lengths, *state[: 7 if sides == 1 else 9], u, frames, table)
    tile = sums, cut.labels, cut.rows, cut.group
    if sides == 2:
        layouts = parts.layout, parts.reversed
        BOTH_WAYS((B, 2, 1), given, (T, K, C, cut.ring - 1, rows), (S, *layouts, REAL[dtype], *tile), cut.warps)
    else:
        constants = S, parts.layout, REAL[dtype], keep, *tile
        FORWARD((B, 1, 1), given, (T, K, C, cut.ring - 1), constants, cut.warps)
    return state


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    if not _tiled(models, C):
        return triton_arcs.scan_vjp(program, models, lengths, T, K, C, state, cotangent, wanted, dtype)
    meets = both(program, models, B, C)
    cut = known(K, C, INTERPRETED) if meets else plan(K, C, d, INTERPRETED, reverse=True)
    parts, S = parts_of(models), namespace(program, True)

    def new(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    spans = {"duration": -(-T // SPAN)} | ({"transition": -(-T // SHORT)} if meets else {})
    sums, grads = gradients_of(wanted, B, T, K, C, spans, new, zeros="" if meets else "T")
    limit = new(p, B, T + 1, C, dtype=torch.int16 if K <= 32767 else torch.int32)
    frames = new(p, B, T // cut.rows + 1, C, dtype=torch.float64)
    arc = new(d + p, B, T + 1, C), limit, frames, new(p, B, 2 * K + cut.table, cut.labels + 1)
    layouts, tile = (S, parts.layout, grads.layout, REAL[dtype], cut.labels), (cut.rows, cut.group)
    given = parts.tensors, grads.tensors, lengths
    seeds = *given, cotangent.contiguous()
    if meets:
        rows = (*seeds, *state[:6], *state[7:])
        ROWS((B, 1, 1), (*rows, *arc), (T, K, C), (*layouts, *tile), cut.warps)
        if "transition" in wanted[0]:
            grid = B, spans["transition"], 1
            TRANSITIONS(grid, rows, (T, C, SHORT), (*layouts, squares(C)), 4)
    else:
        BACKWARD((B, 1, 1), (*seeds, *state[:7], *arc), (T, K, C), (*layouts, *tile), cut.warps)
    if any("duration" in w for w in wanted):
        read = *given, state.alpha, state.g, state.alpha_id, *arc
        numbers = T, K, C, 2 * K + cut.table, SPAN
        DURATIONS((B, -(-K // 4), spans["duration"]), read, numbers, (*layouts, cut.rows, 4, 4), 4)
    return [
        {n: _shared(sums[m][n], model[n], n in spans) for n in want}
        for m, (model, want) in enumerate(zip(models, wanted, strict=True))
    ]


def _shared(total: Tensor, like: Tensor, spans: bool) -> Tensor:
    """A gradient in the shape and dtype of its part: spans added up, and sequences where the batch shares it."""
    if spans and like.shape[0] == 1:
        total = total.flatten(0, 1)
    elif spans:
        total = total.sum(1)
    return shared(total, like)


def best(lengths: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor) -> tuple[Tensor, Tensor]:
    """Marks (B, T) of the best path and labels there, as `semicrf.engine.walk.best` has them, without a round trip."""
    B, T, columns, C = g_id.shape[1:]
    marks = torch.zeros(B, T, dtype=torch.uint8, device=lengths.device)
    labels = torch.full((B, T), -1, device=lengths.device)
    WALK((B, 1, 1), (lengths, alpha_id, g_id, end_id, marks, labels), (T, C, columns), (), 1)
    return marks.view(torch.bool), labels
