"""synjax: a jit-compiled scan over a materialised tensor of all arcs; the tensor's construction is not timed.

Conventions: ``log_potentials[i, j, previous, next]`` is the arc that *enters* position i from position ``i - j - 1``,
so a segment of duration k that starts at s has i = s + k - 1 and j = k - 1; the state before position 0 is label 0.
float32, which is jax's default.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks.cases import Case
from benchmarks.contender import Answer, Package, Prepared, Setting
from benchmarks.model import Array, Model, counts, edges


def entering(edge: Array) -> Array:
    """Our ``(B, T, K, C, C)``, indexed by start, as synjax's, indexed by last position; 0 where a start is before 0."""
    out = np.zeros_like(edge)
    for k in range(1, min(edge.shape[1], edge.shape[2]) + 1):
        out[:, k - 1 :, k - 1] = edge[:, : edge.shape[1] - k + 1, k - 1]
    return out


def starting(entered: Array) -> Array:
    """The way back."""
    out = np.zeros_like(entered)
    for k in range(1, min(entered.shape[1], entered.shape[2]) + 1):
        out[:, : entered.shape[1] - k + 1, k - 1] = entered[:, k - 1 :, k - 1]
    return out


class Synjax(Package):
    """`synjax.SemiMarkovCRF`."""

    name, distribution, module, dtype = "synjax", "synjax", "synjax", "float32"
    quantities: ClassVar[frozenset[str]] = frozenset(
        {"log-partition", "log-partition + gradients", "marginals", "entropy", "max", "best path"}
    )

    def bytes(self, case: Case, setting: Setting) -> float:
        """The arcs, and their gradient where it is taken."""
        B, T, K, C = case.shape
        return 4.0 * B * T * K * C * C * (1 if case.quantity in ("log-partition", "max") else 2)

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """One function of the arcs, compiled; they go to jax's default device."""
        jax, crf = importlib.import_module("jax"), self.imported().SemiMarkovCRF
        if jax.default_backend() != ("gpu" if setting.device == "cuda" else "cpu"):
            raise RuntimeError(f"jax computes on {jax.default_backend()!r}, the suite on {setting.device!r}")
        potentials = jax.numpy.asarray(entering(edges(model, "float32")))
        functions: dict[str, Callable[[Any], Any]] = {
            "log-partition": lambda x: crf(x).log_partition(),
            "log-partition + gradients": lambda x: crf(x).marginals(),
            "marginals": lambda x: crf(x).marginals(),
            "entropy": lambda x: crf(x).entropy(),
            "max": lambda x: crf(x).argmax_and_max()[1],
            "best path": lambda x: crf(x).argmax_and_max(),
        }
        compiled = jax.jit(functions[case.quantity])

        def run() -> Any:
            return jax.block_until_ready(compiled(potentials))

        def read(result: Any) -> Answer:
            value = np.asarray(result[1] if case.quantity == "best path" else result, np.float64)
            return counts(starting(value)) if value.ndim > 1 else {"value": value}

        return Prepared(run, read)
