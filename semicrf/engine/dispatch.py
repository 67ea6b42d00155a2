"""The one place that knows which backends there are and which one serves a device."""

from __future__ import annotations

from types import ModuleType

import torch

from semicrf.engine import reference
from semicrf.errors import BackendError

BACKENDS: dict[str, ModuleType] = {"reference": reference}
"""Name -> a module with `scan` and `scan_vjp`, as `semicrf.engine.reference` has them."""

KNOWN = ("auto", "reference", "cpu", "triton")


def choose(backend: str, device: torch.device) -> str:
    """The backend's name, with "auto" decided. Raises `BackendError` for one that is unknown or not there; never
    falls back.
    """
    if backend not in KNOWN:
        raise BackendError(f"backend: got {backend!r}; expected one of {KNOWN}.")
    if backend == "auto":
        return "reference"
    if backend not in BACKENDS:
        raise BackendError(
            f"backend: got {backend!r}, which this installation does not have; expected one of {('auto', *BACKENDS)} "
            f"for tensors on {device}. Likely fix: backend='auto'."
        )
    return backend
