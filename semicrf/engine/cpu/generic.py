"""`scan` and `scan_vjp` on the CPU for any semiring over any model: runs of `elements` and `elements_vjp`."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.cpu import build
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.elements import Algebra, Kept, Model, State, forward
from semicrf.engine.cpu.elements_vjp import Gradients, backward
from semicrf.engine.cpu.pool import groups
from semicrf.engine.layout import BY_DURATION, PARTS, shared
from semicrf.engine.reference import State as Stored

Parts = list[dict[str, Tensor]]
CHUNK = 1 << 19  # numbers that are read at once where they are not float64 as they lie
POSITIONAL = ("emission", "segment_start", "segment_end", "segment", "edge")
inf = float("inf")


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether this engine runs a semiring over models with these parts: any, on the CPU."""
    return device.type == "cpu"


def _algebra(program: Program) -> Algebra:
    level = np.array([program.levels.get(v, -1) for v in range(program.potentials)])
    zero, one = np.array(program.semiring.zero), np.array(program.semiring.one)
    return Algebra(zero, one, level, program.gates, program.ids, build.scratch(program))


def _stack(models: Parts, name: str, rows: slice, sequences: slice, fill: float = 0.0) -> NDArray:
    """One part of every model, (potential, sequence or 1, ...), float64 (bool for masks); no rows where no model has
    it.
    """
    found = [m.get(name) for m in models]
    dtype = torch.bool if name == "required" else torch.float64
    axes = PARTS[name]
    if all(f is None for f in found):
        return np.zeros((0, *[0] * len(axes)), np.bool_ if dtype == torch.bool else np.float64)
    cut = []
    for part in found:
        if part is not None:
            part = part[sequences] if part.shape[0] > 1 else part
            cut.append((part[:, rows] if "T" in axes else part).detach())
    shape = torch.broadcast_shapes(*(c.shape for c in cut))
    cut = iter(cut)
    made = [torch.full(shape, fill, dtype=dtype) if f is None else next(cut).to(dtype).expand(shape) for f in found]
    return (made[0][None] if len(made) == 1 else torch.stack(made)).contiguous().numpy()


def _tables(models: Parts, K: int, C: int, sequences: slice) -> tuple[NDArray, ...]:
    """duration (b, C, p, K), lead (b, columns, next, p, previous), initial (b, C, p) and final (b, p, C)."""
    p = len(models)

    def one(name: str, *shape: int) -> NDArray:
        made = _stack(models, name, slice(None), sequences)
        return made if made.shape[0] else np.zeros((p, 1, *shape))

    duration = one("duration", K, C).transpose(1, 3, 0, 2)
    lead = one("transition", C, C)[:, :, None] + one("duration_transition", 1, C, C)
    lead = lead.transpose(1, 2, 4, 0, 3)
    initial, final = one("start", C).transpose(1, 2, 0), one("end", C).transpose(1, 0, 2)
    return tuple(np.ascontiguousarray(t) for t in (duration, lead, initial, final))


def _model(models: Parts, tables: tuple[NDArray, ...], sequences: slice, s0: int, s1: int, K: int) -> Model:
    rows = {n: slice(s0, s1) for n in (*POSITIONAL, "required")}
    ahead = max(0, K - 1 - s0)  # rows before the first position, never read
    rows["segment"] = slice(max(0, s0 - K + 1), s1)
    emission, start, end, segment, edge = (_stack(models, n, rows[n], sequences) for n in POSITIONAL)
    if ahead and segment.shape[0]:
        segment = np.pad(segment, ((0, 0), (0, 0), (ahead, 0), (0, 0), (0, 0)))
    required = _stack(models, "required", rows["required"], sequences)
    duration, lead, initial, final = tables
    return Model(emission, start, end, segment, edge, required, duration, lead, initial, final)


def _begin(program: Program, n: int, K: int, C: int, columns: int) -> State:
    d, p, W = program.width, program.potentials, 2 * K + 64
    alpha = np.empty((n, 1, d, C))
    alpha[:] = np.array(program.semiring.zero)[:, None]
    return State(
        np.empty((n, C, d, W if not columns else 0)),
        np.zeros((n, C, p, W)),
        np.empty((n, K if columns else 0, columns, C, d)),
        alpha,
        np.zeros((n, p, C)),
        np.zeros((n, p)),
        np.zeros((n, p)),
        np.zeros((n, p, C), np.int64),
        np.full(n, W),
    )


def _columns(models: Parts, K: int) -> int:
    """How many columns of elements lead on from a position, 0 where what leads in does not depend on the duration."""
    return K if any(BY_DURATION & set(m) for m in models) else 0


def _empty(program: Program, B: int, T: int, C: int, columns: int, keep: bool) -> Kept:
    """Arrays for what a scan leaves behind, zeros of the semiring where no sequence goes."""
    d, p, ids = program.width, program.potentials, program.ids
    value = np.empty((d, B))
    if not keep:
        none, no_ids = np.empty((0, B)), np.empty((0, B), np.int64)
        return Kept(
            value, none.reshape(0, B, 0, 0), none.reshape(0, B, 0, 0, 0), none.reshape(0, B, 0),
            no_ids.reshape(0, B, 0, 0), no_ids.reshape(0, B, 0, 0, 0), no_ids,
        )  # fmt: skip
    zero = np.array(program.semiring.zero)
    alpha, g = np.empty((d, B, T + 1, C)), np.empty((d, B, T, max(columns, 1), C))
    alpha[:], g[:] = zero[:, None, None, None], zero[:, None, None, None, None]
    alpha_id, g_id = np.full((ids, *alpha.shape[1:]), -1), np.full((ids, *g.shape[1:]), -1)
    return Kept(value, alpha, g, np.zeros((p, B, T + 1)), alpha_id, g_id, np.full((ids, B), -1))


def scan(program: Program, models: Parts, lengths: Tensor, T: int, K: int, C: int, keep: bool) -> Stored:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    B, columns, algebra = lengths.shape[0], _columns(models, K), _algebra(program)
    total, scale = build.function(program, "total"), build.function(program, "scale")
    kept, rows = _empty(program, B, T, C, columns, keep), lengths.numpy()
    plain = len(models) == 1 and all(
        m[n].dtype == torch.float64 for m in models for n in POSITIONAL if n in m and n != "segment"
    )

    def task(first: int, last: int) -> None:
        sequences = slice(first, last)
        tables, state = _tables(models, K, C, sequences), _begin(program, last - first, K, C, columns)
        longest = int(rows[first:last].max())
        step = longest if plain else max(1, CHUNK // (C * (last - first)), K)
        for s0 in range(0, longest, step):
            s1 = min(longest, s0 + step)
            model = _model(models, tables, sequences, s0, s1, K)
            forward(total, scale, model, algebra, state, kept, keep, rows, first, s0, s1)

    work = int(rows.sum()) * C * (K + C) * program.width
    run_kernel(forward, [partial(task, a, b) for a, b in groups(B)], work)
    made = [torch.from_numpy(k) for k in kept]
    return Stored(*made) if keep else Stored.of(made[0])


def scan_vjp(
    program: Program, models: Parts, lengths: Tensor, T: int, K: int, C: int, state: Stored, cotangent: Tensor,
    wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    assert program.reverse is not None  # raises here, with the reason, where a semiring has no reverse rule
    B, p, everything = lengths.shape[0], program.potentials, slice(None)
    algebra, columns = _algebra(program), _columns(models, K)
    total, reverse = build.function(program, "total"), build.function(program, "reverse")
    model = _model(models, _tables(models, K, C, everything), everything, 0, T, 1)
    kept, rows = Kept(*(s.detach().contiguous().numpy() for s in state[: len(Kept._fields)])), lengths.numpy()
    sizes, names = {"B": B, "T": T, "K": K, "C": C}, set().union(*wanted)
    out = Gradients(
        *(np.zeros((p, B, *(sizes[a] if n in names else 0 for a in PARTS[n][1:]))) for n in Gradients._fields)
    )
    bounded = bool((model.emission == -inf).any() or model.required.any())
    cot = cotangent.detach().double().contiguous().numpy()

    def task(first: int, last: int) -> None:
        backward(total, reverse, model, algebra, kept, columns, bounded, rows, first, last, cot, out)

    run_kernel(backward, [partial(task, a, b) for a, b in groups(B)], 3 * int(rows.sum()) * C * (K + C) * program.width)
    return [
        {n: shared(torch.from_numpy(getattr(out, n)[i]), m[n]) for n in want}
        for i, (m, want) in enumerate(zip(models, wanted, strict=True))
    ]
