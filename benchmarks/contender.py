"""What a contender is: something that computes a quantity of a model, ours or another package."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch

from benchmarks.cases import Case
from benchmarks.model import Array, Model

Answer = dict[str, Array]
"""In our conventions, what it has of: "value" (B,) or (k, B); "emission" (B, T, C), "transition" (C, C) and "duration"
(K, C), gradients of the sum of the values or expected counts, which for log Z are the same.
"""


class Setting(NamedTuple):
    """Where a suite runs."""

    device: str
    dtype: str


class Prepared(NamedTuple):
    """A case, ready: `run` is what is timed, `read` turns its result into an answer and is not."""

    run: Callable[[], Any]
    read: Callable[[Any], Answer]


class Contender(ABC):
    """Something that can be timed on a case. Conversions happen in `prepare`, outside the clock."""

    name: str
    quantities: ClassVar[frozenset[str]]
    dtype: str | None = None  # None: that of the suite

    def absent(self) -> str | None:
        """Why it is not there; None where it is."""
        return None

    def declines(self, case: Case, setting: Setting) -> str | None:
        """Why it does not run a case; None where it does."""
        if case.kernel or case.quantity not in self.quantities:
            return f"has no {case.quantity}"
        need, there = self.bytes(case, setting), memory(setting.device)
        return f"does not fit: {need / 1e9:.0f} of {there / 1e9:.0f} GB" if need > 0.7 * there else None

    def bytes(self, case: Case, setting: Setting) -> float:
        """A lower bound on the memory that it takes, where that may be the reason not to run."""
        return 0.0

    @abstractmethod
    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """The case, converted."""


class Package(Contender):
    """A peer that is a package of its own, imported only where it is installed."""

    distribution: ClassVar[str]
    module: ClassVar[str]

    def absent(self) -> str | None:
        """Whether the package can be found."""
        return None if importlib.util.find_spec(self.module) else f"{self.distribution} is not installed"

    def imported(self) -> Any:
        """The package."""
        return importlib.import_module(self.module)

    def version(self) -> str | None:
        """As it is installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


def memory(device: str) -> float:
    """Bytes of the device's memory."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[1])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def tensors(model: Model, setting: Setting, grad: bool = False) -> dict[str, torch.Tensor]:
    """A model's parts on the device."""
    dtype = getattr(torch, setting.dtype)
    return {
        n: torch.from_numpy(a).to(device=setting.device, dtype=dtype, copy=True).requires_grad_(grad)
        for n, a in model.parts.items()
    }


def array(t: torch.Tensor) -> Array:
    """A tensor as float64."""
    return t.detach().double().cpu().numpy()
