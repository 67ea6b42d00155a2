"""The prototype of the CPU engine, p7_full.py, from a checkout of it: kernels without lengths, masks or safety.

It is loaded from the path that is given and never copied. Same model and conventions as ours; its buffers are made
outside the clock, ours inside.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.cases import Case
from benchmarks.contender import Answer, Contender, Prepared, Setting
from benchmarks.model import Model

TILE = 32  # positions it computes at once; the better one of the two that it was measured with


class Prototype(Contender):
    """`forward` and `fwdbwd` of the file at `path`; it imports its neighbours."""

    name, dtype = "prototype", "float64"
    quantities: ClassVar[frozenset[str]] = frozenset({"log-partition", "log-partition + gradients"})

    def __init__(self, path: Path):
        self.path = path
        self._module: Any = None

    @property
    def digest(self) -> str:
        """Which text it is, as paths are not stored."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]

    def module(self) -> Any:
        """Loaded at its first use."""
        if self._module is None:
            spec = importlib.util.spec_from_file_location("benchmarks_prototype", self.path)
            assert spec is not None  # the name ends in .py
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # numba looks a function's module up by name
            sys.path.insert(0, str(self.path.parent))
            try:
                spec.loader.exec_module(module)
            finally:
                sys.path.remove(str(self.path.parent))
            self._module = module
        return self._module

    def declines(self, case: Case, setting: Setting) -> str | None:
        """Kernel rows alone."""
        return None if case.kernel and case.quantity in self.quantities else f"has no {case.quantity}"

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """Its arrays and buffers."""
        module, (B, T, K, C) = self.module(), case.shape
        given = model.emission, model.transition, model.duration, model.start

        def buffers() -> list[Any]:
            return [np.zeros((B, T + 1, C)), np.zeros((B, T + 1, C)), np.zeros((B, C, T + 1 + K)), np.zeros((B, T + 1))]

        out, ahead = np.zeros(B), buffers()
        if not case.gradients:
            return Prepared(lambda: module.forward(*given, *ahead, TILE, out), lambda _: {"value": out.copy()})
        back = buffers()
        start, end = np.zeros((B, T + 1, C)), np.zeros((B, T + 1, C))
        transition, duration = np.zeros((B, C, C)), np.zeros((B, K, C))

        def run() -> None:
            transition[:] = 0.0  # it adds to what is there
            module.fwdbwd(*given, *ahead, *back, TILE, out, start, end, transition, duration)

        def read(_: Any) -> Answer:
            inside = (start - end).cumsum(1)[:, :T]  # a position is inside what has started and not ended
            shared = {"transition": transition.sum(0), "duration": duration.sum(0)}
            return {"value": out.copy(), "emission": inside, **shared}

        return Prepared(run, read)
