"""Questions that are answered in part on the host, asked of a model on a GPU."""

from __future__ import annotations

import pytest
import torch
from models import f64, seeded

from semicrf import FactoredPotentials, SemiCRFDistribution

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def pair() -> tuple[SemiCRFDistribution, SemiCRFDistribution]:
    """A model on the host, and the same on the GPU; -inf among its scores."""
    g = seeded(2)
    emission, transition, duration = (torch.randn(s, generator=g).double() for s in ((2, 60, 5), (5, 5), (9, 5)))
    transition[0, 1] = emission[1, 7, 2] = -float("inf")
    p = FactoredPotentials(emission, transition, duration)
    return SemiCRFDistribution(p, [60, 41]), SemiCRFDistribution(p, [60, 41]).to("cuda")


@pytest.mark.parametrize("canonical", [False, True])
def test_the_k_best(canonical):
    """Both are searched on the host, from the same numbers."""
    here, there = (d.topk(30, canonical) for d in pair())
    assert there[1].is_cuda
    assert there[0].start.is_cuda
    assert torch.equal(there[1].cpu(), here[1])
    assert there[0].to("cpu") == here[0]


@pytest.mark.parametrize(
    "options", [{}, {"cost": 0.1}, {"loss": "position"}, {"loss": "boundary", "tolerance": 2}], ids=str
)
def test_minimum_bayes_risk(options):
    here, there = (d.mbr(**options) for d in pair())
    assert there.start.is_cuda
    assert here.score is not None
    assert there.score is not None
    assert (there.score.cpu() - here.score).abs().max() < 1e-10


def test_segment_marginals():
    here, there = pair()
    y = here.argmax
    found = there.marginals.segment(y.to("cuda"))
    assert found.is_cuda
    assert (found.cpu() - here.marginals.segment(y)).abs().max() < 1e-10


def test_samples_wait_for_nothing():
    p = FactoredPotentials(f64([[0.0, 1.0]] * 30), max_duration=4).to("cuda")
    d = SemiCRFDistribution(p, validate_args=False)
    d.sample((2,))  # compiled before
    torch.cuda.set_sync_debug_mode("error")
    try:
        d.sample((2,))
    finally:
        torch.cuda.set_sync_debug_mode("default")
