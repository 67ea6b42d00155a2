"""Every member of a distribution, asked of two backends: the shapes that the reference page promises, equal numbers,
equal gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions
from models import case, companions, of_every_family, seeded
from torch import Tensor

from semicrf import Evidence, Segments, SemiCRFDistribution, semirings
from semicrf.engine.dispatch import BACKENDS

B, T, K, C, LENGTHS = (2,), 4, 2, 2, (4, 3)
Ask = Callable[[Any, Any, Any, Segments], Any]
GIVEN = [[(0, 1, 1), (1, 3, 0), (3, 4, 1)], [(0, 2, 1), (2, 3, 0)]]
E = Evidence(
    labels=torch.tensor([[1, -1, -1, -1], [-1, -1, 0, -1]]), allowed=torch.ones(2, T, C, dtype=torch.bool),
    boundary=torch.tensor([[-1, 1, -1, -1], [-1, 0, -1, -1]]), segments=[[(0, 1, 1)], []],
)  # fmt: skip
VIEWS = {
    "boundary": (T,), "position": (T, C), "segments": (T, K, C), "transition": (C, C), "duration": (K, C),
    "start": (C,), "end": (C,), "edge": (T, K, C, C),
}  # fmt: skip
MEMBERS: dict[str, tuple[tuple[int, ...], Ask]] = {
    "log_partition": (B, lambda d, q, f, y: d.log_partition),
    "partition": (B, lambda d, q, f, y: d.partition),
    "max": (B, lambda d, q, f, y: d.max),
    "argmax": (B, lambda d, q, f, y: d.argmax.score),
    "mode": (B, lambda d, q, f, y: d.mode.score),
    **{f"marginals.{n}": ((*B, *s), lambda d, q, f, y, n=n: getattr(d.marginals, n)) for n, s in VIEWS.items()},
    **{f"max_marginals.{n}": ((*B, *s), lambda d, q, f, y, n=n: getattr(d.max_marginals, n)) for n, s in VIEWS.items()},
    "marginals.segment": ((*B, 3), lambda d, q, f, y: d.marginals.segment(y)),
    "max_marginals.segment": ((*B, 3), lambda d, q, f, y: d.max_marginals.segment(y)),
    "topk": ((4, *B), lambda d, q, f, y: d.topk(4)[1]),
    "topk canonical": ((4, *B), lambda d, q, f, y: d.topk(4, canonical=True)[1]),
    "kmax": ((3, *B), lambda d, q, f, y: d.kmax(3)),
    "sample": ((3, 2, *B, T), lambda d, q, f, y: d.sample((3, 2), generator=seeded()).label),
    "sample by id": ((*B, T), lambda d, q, f, y: d.sample(generator=seeded(), sequence_id=torch.tensor([5, 6])).start),
    "score": (B, lambda d, q, f, y: d.score(y)),
    "score of lists": (B, lambda d, q, f, y: d.score(GIVEN)),
    "log_prob": (B, lambda d, q, f, y: d.log_prob(y)),
    "log_prob of evidence": (B, lambda d, q, f, y: d.log_prob(E)),
    "entropy": (B, lambda d, q, f, y: d.entropy()),
    "cross_entropy": (B, lambda d, q, f, y: d.cross_entropy(q)),
    "kl": (B, lambda d, q, f, y: d.kl(q)),
    "kl_divergence": (B, lambda d, q, f, y: torch.distributions.kl_divergence(d, q)),
    "perplexity": (B, lambda d, q, f, y: d.perplexity()),
    "log_count": (B, lambda d, q, f, y: d.log_count),
    "count": (B, lambda d, q, f, y: d.count),
    "expectation": (B, lambda d, q, f, y: d.expectation(f)),
    "variance": (B, lambda d, q, f, y: d.variance(f)),
    "covariance": (B, lambda d, q, f, y: d.covariance(f, q.potentials)),
    "span": (B, lambda d, q, f, y: d.span(0, 2, 1)),
    "span covers": (B, lambda d, q, f, y: d.span(0, 1, 1, kind="covers")),
    "boundary_within": (B, lambda d, q, f, y: d.boundary_within(2, 1)),
    "mbr": (B, lambda d, q, f, y: d.mbr().score),
    "mbr cost": (B, lambda d, q, f, y: d.mbr("segment", cost=0.2).score),
    "mbr position": (B, lambda d, q, f, y: d.mbr("position").score),
    "mbr boundary": (B, lambda d, q, f, y: d.mbr("boundary", cost=0.3, tolerance=1).score),
    "condition": (B, lambda d, q, f, y: d.condition(E).log_partition),
    "renyi_entropy": (B, lambda d, q, f, y: d.renyi_entropy(2.0)),
    "mutual_information": (B, lambda d, q, f, y: d.mutual_information(0, 2)),
    "segment_count": ((*B, 4), lambda d, q, f, y: d.segment_count(4)),
    "perturbed_argmax": (B, lambda d, q, f, y: d.perturbed_argmax(1.0, seeded()).score),
    "with_temperature": (B, lambda d, q, f, y: d.with_temperature(2.0).log_partition),
    "index": ((), lambda d, q, f, y: d[1].log_partition),
    "expand": ((3, *B), lambda d, q, f, y: d.expand((3, *B)).log_partition),
    "to": (B, lambda d, q, f, y: d.to(torch.float32).log_partition),
    "detach": (B, lambda d, q, f, y: d.detach().log_partition),
    "reduce Log": (B, lambda d, q, f, y: d.reduce(semirings.Log).logz),
    "reduce Max": (B, lambda d, q, f, y: d.reduce(semirings.Max).score),
    "reduce Std": (B, lambda d, q, f, y: d.reduce(semirings.Std).z),
    "reduce KMax": ((*B, 3), lambda d, q, f, y: d.reduce(semirings.KMax(3)).scores),
    "reduce Entropy": (B, lambda d, q, f, y: d.reduce(semirings.Entropy).h),
    "reduce CrossEntropy": (B, lambda d, q, f, y: d.reduce(semirings.CrossEntropy, q).h),
    "reduce KL": (B, lambda d, q, f, y: d.reduce(semirings.KL, q.potentials).kl),
}
"""Name -> shape, and how it is asked of p, of another distribution, an additive quantity and some segments."""


def asked(backend: str, family: str, ask: Ask) -> tuple[Tensor, list[Tensor]]:
    """A value and its gradients in every tensor of the model."""
    c = case(family, K, C, B, T=T, lengths=LENGTHS, seed=3)
    q, f = (SemiCRFDistribution(o.potentials, o.lengths, backend=backend) for o in companions(c, 2))
    d = SemiCRFDistribution(c.potentials, c.lengths, backend=backend)
    value = ask(d, q, f.potentials, Segments.from_list(GIVEN))
    if not value.requires_grad:
        return value, []
    cotangent = torch.randn(value.shape, generator=seeded(1), dtype=torch.float64).to(value.dtype)
    leaves = list(c.parts.values())
    total = (torch.where(value.isfinite(), value, 0.0) * cotangent).sum()
    return value.detach(), list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))


@of_every_family
@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed")
def test_it_is_there_in_its_shape_and_the_same_on_both(name, family):
    shape, ask = MEMBERS[name]
    (one, grads), (two, others) = (asked(backend, family, ask) for backend in ("reference", "cpu"))
    assert one.shape == two.shape == shape
    assert one.dtype == two.dtype
    tolerance = 1e-9 if name != "to" else 1e-5
    assert torch.allclose(one, two, rtol=tolerance, atol=tolerance)
    assert len(grads) == len(others)
    for g, h in zip(grads, others, strict=True):
        assert torch.allclose(g, h, rtol=tolerance, atol=tolerance)
