"""flash-semicrf: a streaming Triton kernel on a GPU, a loop in PyTorch elsewhere.

Conventions: it reads prefix sums of the emissions, ``(B, T + 1, C)`` from a row of zeros; row k - 1 of the durations is
duration k; the transition ``[previous, next]`` also leads from a free label into the first segment, which is why our
models have the collapse of that as their start: its sum for log Z, its max for the best path. Centring the emissions,
as its guide advises, would be another model and is not done.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.contender import Answer, Package, Prepared, Setting, array, tensors
from benchmarks.model import Model


def prefix_sums(emission: Tensor) -> Tensor:
    """(B, T + 1, C), added up in float64."""
    sums = emission.double().cumsum(1)
    return torch.cat([sums.new_zeros(sums[:, :1].shape), sums], 1)


def emission_gradient(gradient: Tensor) -> Tensor:
    """Of the emissions (B, T, C), given that of their prefix sums: position t is part of every sum after it."""
    return gradient[:, 1:].flip(1).cumsum(1).flip(1)


class FlashSemicrf(Package):
    """`flash_semicrf.semi_crf_streaming_forward`, in float32 or in float64, which is its accumulators' default."""

    distribution, module = "flash-semicrf", "flash_semicrf"
    quantities: ClassVar[frozenset[str]] = frozenset({"log-partition", "log-partition + gradients", "marginals", "max"})

    def __init__(self, dtype: str):
        self.name, self.dtype = "flash-semicrf" if dtype == "float32" else f"flash-semicrf {dtype}", dtype

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """Prefix sums, as they are its input."""
        forward: Any = self.imported().semi_crf_streaming_forward
        B, T, K, _ = case.shape
        differentiate = case.gradients or case.name == "marginals"
        own = tensors(model, Setting(setting.device, "float64"))
        dtype = getattr(torch, self.dtype or setting.dtype)
        given = [prefix_sums(own["emission"]), own["transition"], own["duration"]]
        given = [t.to(dtype).requires_grad_(differentiate) for t in given]
        lengths = torch.full((B,), T, device=setting.device)
        semiring = "max" if case.name == "max" else "log"

        def run() -> Any:
            with torch.set_grad_enabled(differentiate):
                value = forward(*given, lengths, K, semiring=semiring)
                return value.detach(), torch.autograd.grad(value.sum(), given) if differentiate else ()

        def read(result: Any) -> Answer:
            value, grads = result
            if not grads:
                return {"value": array(value)}
            sums, _, duration = grads
            # The gradient of its transition also counts the step into the first segment, which ours does not.
            known = {"emission": array(emission_gradient(sums.double())), "duration": array(duration)}
            return known if case.name == "marginals" else {"value": array(value), **known}

        return Prepared(run, read)
