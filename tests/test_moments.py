"""Standard deviations and entropies of other orders, against enumeration."""

from __future__ import annotations

import oracle
import torch
from models import check, companions, on_the_grid
from torch import Tensor

from semicrf import FactoredPotentials, SemiCRFDistribution


@on_the_grid
def test_standard_deviation(c):
    (f,) = companions(c, 1)

    def expected(m: oracle.Model, g: oracle.Model, n: int) -> Tensor:
        v = oracle.covariance(m, g, g, n)
        return v.sqrt() if v > 0 else 0.0 * v

    check(c.d.stddev(f.potentials), [c, f], expected)


def test_no_deviation_no_gradient():
    """A single segmentation, which nothing can move: 0 and 0, not NaN."""
    emission = torch.randn(1, 1, 1, requires_grad=True)
    d = SemiCRFDistribution(FactoredPotentials(emission))
    d.stddev(d.potentials).sum().backward()
    assert emission.grad is not None
    assert emission.grad.item() == d.stddev(d.potentials).item() == 0.0
