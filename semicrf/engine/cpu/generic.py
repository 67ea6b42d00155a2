"""`scan` and `scan_vjp` on the CPU for any semiring over any model: runs of `elements` and `elements_vjp`."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.cpu import build
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.cutting import divided, run_in_chunks
from semicrf.engine.cpu.elements import forward
from semicrf.engine.cpu.elements_cut import Elements
from semicrf.engine.cpu.elements_map import COLUMNS, mapped, memory
from semicrf.engine.cpu.elements_vjp import backward
from semicrf.engine.cpu.places import KEPT_AXES, held_as_read, places_of
from semicrf.engine.cpu.pool import groups
from semicrf.engine.layout import BY_DURATION, PARTS, shared
from semicrf.engine.reference import State

Parts = list[dict[str, Tensor]]
inf = float("inf")


def _mapped(program: Program, models: Parts, K: int, C: int, *, positions: int = 0, back: bool = False) -> np.ndarray:
    names = {n for m in models for n in m}
    by_duration, scratch = bool(BY_DURATION & names), build.scratch(program, max(K, C))
    return mapped(program, names, K, C, by_duration=by_duration, scratch=scratch, positions=positions, back=back)


def _room(program: Program, B: int, T: int, C: int, columns: int, rows: bool) -> State:
    """Room for what a scan leaves behind, zeros of the semiring where no sequence goes; without rows, for choices."""
    d, p, ids = program.width, program.potentials, program.ids
    state = State.of(torch.empty(d, B, dtype=torch.float64), torch.int32)
    if rows:
        zero = torch.tensor(program.semiring.zero, dtype=torch.float64).view(-1, 1, 1, 1, 1)
        g = zero.expand(d, B, T, columns, C).clone(memory_format=torch.contiguous_format)
        alpha = zero[..., 0].expand(d, B, T + 1, C).clone(memory_format=torch.contiguous_format)
        state = state._replace(alpha=alpha, g=g, offset=torch.zeros(p, B, T + 1, dtype=torch.float64))
    alpha_id, g_id, end_id = (
        torch.full((ids, *shape), -1, dtype=torch.int32) for shape in ((B, T + 1, C), (B, T, columns, C), (B,))
    )
    return state._replace(alpha_id=alpha_id, g_id=g_id, end_id=end_id)


def scan(program: Program, models: Parts, lengths: Tensor, T: int, K: int, C: int, keep: bool) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    return _scan(program, models, lengths, T, K, C, keep, keep)


def choices(program: Program, models: Parts, lengths: Tensor, T: int, K: int, C: int) -> State:
    """The forward sweep for a walk along the best path: values and choices, no elements."""
    return _scan(program, models, lengths, T, K, C, True, False)


def _scan(program: Program, models: Parts, lengths: Tensor, T: int, K: int, C: int, ids: bool, rows: bool) -> State:
    B, models = lengths.shape[0], held_as_read(models)
    at = _mapped(program, models, K, C)
    if ids:
        state = _room(program, B, T, C, int(at[COLUMNS]), rows)
    else:
        state = State.of(torch.empty(program.width, B, dtype=torch.float64), torch.int32)
    places = places_of(models, state)
    total, scale = build.function(program, "total"), build.function(program, "scale")

    def sweep(table: np.ndarray, first: int, last: int) -> None:
        m = memory(program, at)
        forward(total, scale, m.ctypes.data, at.ctypes.data, places.ctypes.data, table.ctypes.data, ids, first, last)

    whole = np.array([(b, L, 0, L, 0, 0) for b, L in enumerate(lengths.tolist())])
    work = int(lengths.sum()) * C * (K + C) * program.width
    cut, others = divided(lengths, K, C) if _divisible(program, models) else ({}, groups(B))
    run_kernel(forward, [partial(sweep, whole, a, b) for a, b in others], work)
    run_in_chunks(forward, [Elements(sweep, state, b, int(lengths[b]), K, C, c) for b, c in cut.items()])
    return state


def _divisible(program: Program, models: Parts) -> bool:
    """Whether time may be cut: elements are one number that a potential is added to, so windows differ by a constant;
    and what leads into a segment does not depend on its duration.
    """
    one = program.width == 1 and program.levels == {0: 0} and hasattr(program.semiring, "divide")
    return one and not any(BY_DURATION & set(m) for m in models)


def _bounded(models: Parts) -> bool:
    """Whether anything forbids a label or a source at a position."""
    forbidden = any(bool((m["emission"] == -inf).any()) for m in models if "emission" in m)
    return forbidden or any(bool(m["required"].any()) for m in models if "required" in m)


def scan_vjp(
    program: Program, models: Parts, lengths: Tensor, T: int, K: int, C: int, state: State, cotangent: Tensor,
    wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    assert program.reverse is not None  # raises here, with the reason, where a semiring has no reverse rule
    B, held = lengths.shape[0], held_as_read(models)
    bounded = _bounded(held)
    at = _mapped(program, held, K, C, positions=T + 1 if bounded else 0, back=True)
    sizes = {"B": B, "T": T, "K": K, "C": C}
    out = [{n: torch.zeros(*(sizes[a] for a in PARTS[n]), dtype=torch.float64) for n in want} for want in wanted]
    kept = [s.detach().contiguous() for s in state[: len(KEPT_AXES)]]
    seed = cotangent.detach().double()
    places, rows = places_of(held, kept, out, seed), lengths.numpy()
    total, reverse = build.function(program, "total"), build.function(program, "reverse")

    def task(first: int, last: int) -> None:
        m = memory(program, at)
        backward(total, reverse, m.ctypes.data, at.ctypes.data, places.ctypes.data, rows, bounded, first, last)

    work = 3 * int(lengths.sum()) * C * (K + C) * program.width
    run_kernel(backward, [partial(task, a, b) for a, b in groups(B)], work)
    return [{n: shared(sums, m[n]) for n, sums in made.items()} for made, m in zip(out, models, strict=True)]
