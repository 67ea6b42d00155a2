"""The one place that knows which backends there are, and which serves a semiring over a kind of model."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import torch

from semicrf.compile import Program
from semicrf.engine import blocked, reference
from semicrf.errors import BackendError

BACKENDS: dict[str, ModuleType] = {"reference": reference, "blocked": blocked}
"""Name -> a module with `serves`, `scan` and `scan_vjp`, as `semicrf.engine.reference` has them; the fastest last."""

if importlib.util.find_spec("numba") is not None:
    from semicrf.engine.cpu import backend as cpu

    BACKENDS["cpu"] = cpu

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
