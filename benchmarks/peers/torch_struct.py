"""torch-struct: products of semiring matrices over durations and labels, in a tree over positions.

Conventions: ``log_potentials[n, k, next, previous]`` is the segment that starts at n, in row k of K + 1 (row 0 is not
read). The label before the first segment is free, and a sum over it would give it an entropy of its own, so all but
label 0 are forbidden there, by torch-struct's own finite zero: its entropy is NaN with -inf.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.cases import Case
from benchmarks.contender import Answer, Package, Prepared, Setting, array
from benchmarks.model import Array, Model, counts, edges

ZERO = -1e5  # as in torch_struct.semirings


def destination_first(edge: Array) -> Array:
    """Our ``(B, T, K, C, C)`` as torch-struct's ``(B, T, K + 1, C, C)``."""
    B, T, K, C, _ = edge.shape
    out = np.zeros((B, T, K + 1, C, C), edge.dtype)
    out[:, :, 1:] = edge.swapaxes(-1, -2)
    out[:, 0, 1:, :, 1:] = ZERO
    return out


class TorchStruct(Package):
    """`torch_struct.SemiMarkovCRF`."""

    name, distribution, module, dtype = "torch-struct", "torch-struct", "torch_struct", "float32"
    quantities: ClassVar[frozenset[str]] = frozenset(
        {"log-partition", "log-partition + gradients", "marginals", "entropy", "max", "best path"}
    )

    def bytes(self, case: Case, setting: Setting) -> float:
        """The broadcast product of the first level of the tree: T / 2 pairs of matrices of side K C."""
        B, T, K, C = case.shape
        return 4.0 * B * T / 2 * (K * C) ** 3

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """A distribution anew in each run, as it keeps its results."""
        crf: Any = self.imported().SemiMarkovCRF
        given = torch.from_numpy(destination_first(edges(model, "float32"))).to(setting.device)

        def run() -> Any:
            d = crf(given)
            if case.quantity in ("log-partition", "entropy", "max"):
                with torch.no_grad():
                    return getattr(d, {"log-partition": "partition"}.get(case.name, case.name))
            return d.argmax if case.quantity == "best path" else d.marginals

        def read(result: Any) -> Answer:
            value = array(result)
            if value.ndim == 1:
                return {"value": value}
            if case.quantity == "best path":  # which arcs it takes: their scores add up to that of the path
                return {"value": (value * array(given)).reshape(len(value), -1).sum(1)}
            return counts(value[:, :, 1:].swapaxes(-1, -2))

        return Prepared(run, read)
