"""Moments of what a segmentation adds up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf import _validation
from semicrf.algebra import Expectation, Semiring
from semicrf.compile import dual
from semicrf.potentials import Potentials

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution


def _quantity(p: SemiCRFDistribution, f: Potentials) -> dict[str, Tensor]:
    """The parts of an additive quantity, 0 where this model's part forbids."""
    p._others([f])
    kept = f.ignoring(p.potentials)
    if p._checked:
        _validation.values(kept, p._lengths)
    return kept.parts


def expectation(self: SemiCRFDistribution, f: Potentials) -> Tensor:
    """``(...)``: the mean of an additive quantity whose values `f` holds; ignored where the probability is 0.

    Args:
        f: any potentials class of this model's shape and dtype; what a segmentation "scores" under it is the quantity.

    Raises:
        InputError: f is of another shape or dtype, or holds NaN or +inf.

    >>> import torch
    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(3, 1)))
    >>> segments = FactoredPotentials(torch.zeros(3, 1), torch.zeros(1, 1), torch.ones(3, 1))  # 1 for each
    >>> p.expectation(segments)  # of 1, 2, 2 and 3
    tensor(2.)
    """
    return self._shaped(self._inference.total(Expectation, _quantity(self, f))[1])


def covariance(self: SemiCRFDistribution, f: Potentials, g: Potentials) -> Tensor:
    """``(...)``: the covariance of two additive quantities: the derivative of E[f] when the scores move along g."""
    return self._shaped(self._inference.total(_derivative(), _quantity(self, f), _quantity(self, g), {})[3])


@torch.compiler.assume_constant_result  # making a semiring is no work for a tensor compiler
def _derivative() -> type[Semiring]:
    return dual(Expectation)


def root(x: Tensor) -> Tensor:
    """The square root, without gradient where there is nothing to take it of."""
    positive = x > 0
    return x.where(positive, 1.0).sqrt().where(positive, 0.0)
