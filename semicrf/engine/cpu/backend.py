"""`scan` and `scan_vjp` on the CPU: the linear domain where a semiring and its models allow it, elements elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.cpu import generic, linear
from semicrf.engine.cpu.draw import draw
from semicrf.engine.cpu.generic import choices
from semicrf.engine.cpu.path import best
from semicrf.engine.reference import State

__all__ = ["best", "choices", "draw", "scan", "scan_vjp", "serves"]


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether this engine runs a semiring over models with these parts: any, on the CPU."""
    return device.type == "cpu"


def stored(models: Sequence[Mapping[str, Tensor]]) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes of a state: of elements and of choices."""
    return torch.float64, torch.int32


def _engine(program: Program, models: list[dict[str, Tensor]], device: torch.device) -> ModuleType:
    """The same for a sweep and its reverse, as it depends on names alone."""
    return linear if linear.serves(program, {n for m in models for n in m}, device) else generic


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    return _engine(program, models, lengths.device).scan(program, models, lengths, T, K, C, keep)


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    engine = _engine(program, models, lengths.device)
    return engine.scan_vjp(program, models, lengths, T, K, C, state, cotangent, wanted)
