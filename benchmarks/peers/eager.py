"""What one writes in an afternoon: the recursion as a loop of torch operations, gradients by autograd.

It knows nothing of this library, so it also checks our values. Its one idea is the factoring over the previous label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.contender import Answer, Contender, Prepared, Setting, array, tensors
from benchmarks.model import Model

inf = float("inf")


def total(
    emission: Tensor, transition: Tensor, duration: Tensor, start: Tensor, over: Callable[..., Tensor] = torch.logsumexp
) -> Tensor:
    """(B,): log Z, or the best score with ``over=torch.amax``."""
    B, T, C = emission.shape
    K = duration.shape[-2]
    # window[:, j]: all that ends before the segment which began j positions ago, and that segment's emissions so far
    window = emission.new_full((B, K, C), -inf)
    entering, alpha = start.expand(B, C), start.expand(B, C)
    for t in range(T):
        window = torch.cat([entering[:, None], window[:, :-1]], 1) + emission[:, t, None]
        alpha = over(window + duration, 1)
        entering = over(alpha[:, :, None] + transition, 1)
    return over(alpha, -1)


class Eager(Contender):
    """The loop above."""

    name = "eager"
    quantities: ClassVar[frozenset[str]] = frozenset(
        {"log-partition", "log-partition + gradients", "marginals", "max", "max + gradients", "entropy"}
    )

    def bytes(self, case: Case, setting: Setting) -> float:
        """Autograd keeps two windows a step, and what each label led to."""
        B, T, K, C = case.shape
        item = 8 if setting.dtype == "float64" else 4
        return 0.0 if case.quantity in ("log-partition", "max") else float(B * T * C * (2 * K + C)) * item

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """Leaves that want gradients where those are used."""
        differentiate = case.quantity not in ("log-partition", "max")
        parts = tensors(model, setting, differentiate)
        if case.name == "entropy":  # a row for each sequence, as its own mean score is wanted
            B = case.shape.B
            rows = {n: p.detach() if n == "emission" else p.detach().expand(B, *p.shape) for n, p in parts.items()}
            parts = {n: p.clone().requires_grad_() for n, p in rows.items()}
        over = torch.amax if case.name == "max" else torch.logsumexp

        def run() -> Any:
            if not differentiate:
                with torch.no_grad():
                    return total(**parts, over=over), ()
            value = total(**parts, over=over)
            return value.detach(), torch.autograd.grad(value.sum(), list(parts.values()))

        def entropy() -> Any:
            value, grads = run()  # H = log Z - E[score], and the mean of a score linear in theta is theta . gradient
            mean = sum((p.detach() * g).flatten(1).sum(1) for p, g in zip(parts.values(), grads, strict=True))
            return value - mean, ()

        def read(result: Any) -> Answer:
            value, grads = result
            known = {n: array(g) for n, g in zip(parts, grads, strict=bool(grads)) if n != "start"}
            if case.name == "marginals":
                return {"emission": known["emission"]}
            return {"value": array(value), **known}

        return Prepared(entropy if case.name == "entropy" else run, read)
