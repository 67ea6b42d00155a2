"""`scan` and `scan_vjp` in Triton, for every semiring whose sums stream; models that do not factor, and those of many
labels, go to `semicrf.engine.triton_arcs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from semicrf.algebra.expr import Expr, leaf
from semicrf.compile import Program
from semicrf.compile.triton import shape, triton_source
from semicrf.engine import triton_arcs, triton_counts
from semicrf.engine.launch import INTERPRETED, Kernel, gradients_of, namespace, parts_of, summed
from semicrf.engine.layout import UNFACTORED
from semicrf.engine.plan import TILED, Plan, plan, power
from semicrf.engine.reference import State
from semicrf.engine.triton_draw import draw
from semicrf.errors import SemiringError
from semicrf.kernels import counts, walk
from semicrf.kernels import scan as forward
from semicrf.kernels import scan_vjp as backward

__all__ = ["best", "both", "draw", "scan", "scan_vjp", "serves", "stored"]

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}
FORWARD, BOTH_WAYS, BACKWARD, DURATIONS, WALK = map(
    Kernel, (forward.scan, forward.scan_both, backward.scan_vjp, counts.duration_counts, walk.best)
)
BOTH = 256
"""The most sequences that are swept in both directions at once."""
PROGRAMS = 1024
"""About as many as count the durations of one run, of all sequences."""
SMALL = 1 << 19
"""Entries of a scalar that are not worth another run."""


class Backward(NamedTuple):
    """How a reverse sweep is cut into runs, so that what only one of them reads is small beside the emissions; by
    shapes alone, so that sums have one order.
    """

    size: int  # positions of a run
    ring: int  # positions that are kept: those of a run and of the segments that start in it
    spans: int  # programs that share the sources of a run, for a few durations of one sequence

    @classmethod
    def of(cls, B: int, T: int, K: int, C: int, cut: Plan) -> Backward:
        reach, ring = K + 2 * cut.rows + cut.group, power(T + 1 + cut.rows)
        spans = max(1, min(PROGRAMS // (B * -(-K // 4)), T // 64))
        while ring >= 4 * (reach + 64) and B * ring * C > max(SMALL, B * T * C // 8):
            ring //= 2
        if ring > T + cut.rows:
            return cls(T + 1, ring, spans)
        return cls((ring - reach) // 64 * 64, ring, spans)


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


def shifts(program: Program) -> int:
    """How many offsets a row has: potentials, and means that are kept relative to the best label's."""
    made = shape(program)
    return made.potentials + len(made.gauges)


@lru_cache(maxsize=64)
def _none(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor without entries, for all states that lack one."""
    return torch.empty(shape, dtype=dtype, device=device)


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`. Where gradients take both directions, its state has no g:
    `rows` has.
    """
    if not _tiled(models, C):
        return triton_arcs.scan(program, models, lengths, T, K, C, keep, _real(models))
    return _sweep(program, models, lengths, T, K, C, _ends(program, models, lengths.shape[0], C) if keep else NOTHING)


def rows(program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int) -> State:
    """The forward sweep with all that it finds, for who draws from it."""
    if not _tiled(models, C):
        return triton_arcs.scan(program, models, lengths, T, K, C, True, _real(models))
    return _sweep(program, models, lengths, T, K, C, ALL)


def choices(program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int) -> State:
    """The forward sweep with its choices alone, for the walk along them."""
    if not _tiled(models, C):
        return triton_arcs.scan(program, models, lengths, T, K, C, True, _real(models))
    return _sweep(program, models, lengths, T, K, C, CHOICES)


NOTHING, ALL, ENDS, CHOICES = range(4)
"""What a sweep keeps, as `semicrf.kernels.scan` has it."""


def _ends(program: Program, models: list[dict[str, Tensor]], B: int, C: int) -> int:
    return ENDS if both(program, models, B, C) else ALL


def _sweep(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: int
) -> State:
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    cut, parts, S = plan(K, C, d, INTERPRETED), parts_of(models), namespace(program, keep != NOTHING)
    sides = 2 if keep == ENDS else 1

    def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    def places(*shape: int) -> Tensor:
        ids = program.ids if keep else 0
        return new(ids, *shape, dtype=torch.int32) if ids else _none(lengths.device, torch.int32, 0, *shape)

    value, real = new(d, B), _none(lengths.device, torch.float64, 0, B)
    state = State(value, real, real, real, places(B), places(B), places(B))
    if keep:
        state = state._replace(alpha_id=places(B, T + 1, C), g_id=places(B, T, 1, C))
    if keep in (ALL, ENDS):
        state = state._replace(alpha=new(d, B, T + 1, C, dtype=dtype), offset=new(shifts(program), B, T + 1))
    if keep == ALL:
        state = state._replace(g=new(d, B, T, 1, C, dtype=dtype))
    if keep == ENDS:
        state = state._replace(ahead=new(1, B, T + 1, C, dtype=dtype), ahead_offset=new(1, B, T + 1))
    rows = 2 * K + cut.table
    sums = shape(program).levelled and cut.sums(K)
    u = new(sides, d, B, cut.ring, cut.labels)
    frames = new(sides, shifts(program), B, cut.ring // cut.rows, cut.labels)
    table = new(sides, max(p, shape(program).numbers) if sums else p, B, rows, cut.labels + 1, dtype=dtype)
    blank = state.alpha if keep in (ALL, ENDS) else _none(lengths.device, dtype, 0, B)
    stored = (value, blank, blank if keep != ALL else state.g, *state[3:7])
    scratch = u, frames, table
    tile = sums, cut.labels, cut.rows, cut.group
    if keep == ENDS:
        layouts = parts.layout, parts.reversed
        given = parts.tensors, lengths, *stored, *state[7:], *scratch
        BOTH_WAYS((B, 2, 1), given, (T, K, C, cut.ring - 1, rows), (S, *layouts, REAL[dtype], *tile), cut.warps)
    else:
        constants = S, parts.layout, REAL[dtype], keep, *tile
        FORWARD((B, 1, 1), (parts.tensors, lengths, *stored, *scratch), (T, K, C, cut.ring - 1), constants, cut.warps)
    return state


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    B, d, p, dtype = lengths.shape[0], program.width, program.potentials, _real(models)
    if not _tiled(models, C):
        return triton_arcs.scan_vjp(program, models, lengths, T, K, C, state, cotangent, wanted, dtype)
    if both(program, models, B, C):
        return triton_counts.gradients(models, lengths, T, K, C, state, cotangent, wanted, dtype).grads
    cut = plan(K, C, d, INTERPRETED, reverse=True)
    parts, S = parts_of(models), namespace(program, True)

    def new(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    back = Backward.of(B, T, K, C, cut)
    spans = {"duration": back.spans}
    sums, grads = gradients_of(wanted, B, T, K, C, spans, new, zeros="TK")
    arc = (
        new(d, B, back.ring, C),
        new(p, B, back.ring, C, dtype=torch.float64),
        new(p, B, back.ring, C, dtype=torch.int16 if K <= 32767 else torch.int32),
    )
    carry, table = new(p, B, C + 3, C, dtype=torch.float64), new(p, B, 2 * K + cut.table, cut.labels + 1)
    layouts, tile = (S, parts.layout, grads.layout, REAL[dtype], cut.labels), (cut.rows, cut.group)
    given, seed = (parts.tensors, grads.tensors, lengths), cotangent.contiguous()
    for first in reversed(range(0, T + 1, back.size)):
        numbers = first, min(first + back.size, T + 1), back.ring - 1
        BACKWARD(
            (B, 1, 1), (*given, seed, *state[:7], *arc, carry, table), (T, K, C, *numbers), (*layouts, *tile), cut.warps
        )
        if any("duration" in w for w in wanted):
            read = *given, state.alpha, state.g, state.offset, state.alpha_id, *arc, table
            numbers = T, K, C, 2 * K + cut.table, *numbers, -(-back.size // (4 * back.spans)) * 4
            DURATIONS((B, -(-K // 4), back.spans), read, numbers, (*layouts, cut.rows, 4, 4), 4)
    return [
        {n: summed(sums[m][n], model[n], n in spans) for n in want}
        for m, (model, want) in enumerate(zip(models, wanted, strict=True))
    ]


def best(lengths: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor) -> tuple[Tensor, Tensor]:
    """Marks (B, T) of the best path and labels there, as `semicrf.engine.walk.best` has them, without a round trip."""
    B, T, columns, C = g_id.shape[1:]
    marks = torch.zeros(B, T, dtype=torch.uint8, device=lengths.device)
    labels = torch.full((B, T), -1, device=lengths.device)
    WALK((B, 1, 1), (lengths, alpha_id, g_id, end_id, marks, labels), (T, C, columns), (), 1)
    return marks.view(torch.bool), labels
