"""The one place that knows which backends there are, and which serves a semiring over a kind of model."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine import blocked, reference, walk
from semicrf.engine.reference import State
from semicrf.errors import BackendError

BACKENDS: dict[str, ModuleType] = {"reference": reference, "blocked": blocked}
"""Name -> a module with `serves`, `scan` and `scan_vjp`, as `semicrf.engine.reference` has them; the fastest last."""

if importlib.util.find_spec("numba") is not None:
    from semicrf.engine.cpu import backend as cpu

    BACKENDS["cpu"] = cpu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if importlib.util.find_spec("triton") is not None and (torch.backends.cuda.is_built() or INTERPRETED):
    from semicrf.engine import triton

    BACKENDS = {"triton": triton, **BACKENDS} if INTERPRETED else {**BACKENDS, "triton": triton}

KNOWN = ("auto", "reference", "blocked", "cpu", "triton")


def choose(backend: str) -> str:
    """The name, if it is "auto" or a backend that is here; raises `BackendError` otherwise, never falls back."""
    if backend not in KNOWN:
        raise BackendError(f"backend: got {backend!r}; expected one of {KNOWN}.")
    if backend not in ("auto", *BACKENDS):
        raise BackendError(
            f"backend: got {backend!r}, which this installation does not have; expected one of {('auto', *BACKENDS)}. "
            "Likely fix: backend='auto'."
        )
    return backend


def serving(backend: str, semiring: Program, parts: set[str], device: torch.device) -> ModuleType:
    """The module that runs a semiring over models with these parts; "auto" is the fastest of those that can.

    The answer depends on these four alone, so that a sweep and its reverse always meet in the same module.
    """
    if backend == "auto":
        return next(m for m in reversed(BACKENDS.values()) if m.serves(semiring, parts, device))
    if not BACKENDS[backend].serves(semiring, parts, device):
        raise BackendError(
            f"backend {backend!r} does not run {semiring.name} over models with the parts {sorted(parts)} on {device}. "
            "Likely fix: backend='auto', which takes one that does."
        )
    return BACKENDS[backend]


def stored(module: ModuleType, models: Sequence[Mapping[str, Tensor]]) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes of a module's `State`, of elements and of choices: float64 and int64 unless it says otherwise."""
    return module.stored(models) if hasattr(module, "stored") else (torch.float64, torch.int64)


def choices(
    module: ModuleType, semiring: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int
) -> State:
    """A scan for a walk along the best path: of its state, values and choices are read, and a module may leave out the
    rest.
    """
    if hasattr(module, "choices"):
        return module.choices(semiring, models, lengths, T, K, C)
    return module.scan(semiring, models, lengths, T, K, C, True)


def rows(
    module: ModuleType, semiring: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int
) -> State:
    """A scan with both alpha and g, where a module's `scan` may keep what else its gradients need."""
    if hasattr(module, "rows"):
        return module.rows(semiring, models, lengths, T, K, C)
    return module.scan(semiring, models, lengths, T, K, C, True)


def best(lengths: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor) -> tuple[Tensor, Tensor]:
    """The walk along the stored choices of the best path, on the device where they lie."""
    if "triton" in BACKENDS and lengths.device.type == "cuda":
        return BACKENDS["triton"].best(lengths, alpha_id, g_id, end_id)
    if "cpu" in BACKENDS and lengths.device.type == "cpu":
        return BACKENDS["cpu"].best(lengths, alpha_id, g_id, end_id)
    blank = lengths.new_empty(0, dtype=torch.float64)
    return walk.best(lengths, State(blank, blank, blank, blank, alpha_id, g_id, end_id))
