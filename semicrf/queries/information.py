"""Entropies, divergences and mutual information, all in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf.algebra import KL, CrossEntropy, Entropy, LogCount, Max
from semicrf.constraints import Evidence
from semicrf.errors import bad_input
from semicrf.inference import Inference
from semicrf.queries.events import Place, places
from semicrf.queries.moments import covariance

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")
NEAR = 1e-5
"""Closer to 1 than this the order of an entropy makes its formula a difference of equals, and two terms of its series
are exact to 1e-10: the third has the square of this.
"""


def entropy(self: SemiCRFDistribution) -> Tensor:
    """``(...)`` nats: Shannon entropy."""
    return self._shaped(self._inference.total(Entropy)[1])


def perplexity(self: SemiCRFDistribution) -> Tensor:
    """``(...)``: exp of the entropy, the effective number of segmentations."""
    return entropy(self).exp()


def cross_entropy(self: SemiCRFDistribution, q: SemiCRFDistribution) -> Tensor:
    """``(...)`` nats: -E_p log q; +inf, without gradient, where q forbids what p allows."""
    return self._shaped(self._inference.total(CrossEntropy, *self._others([q]))[2])


def kl(self: SemiCRFDistribution, q: SemiCRFDistribution) -> Tensor:
    """``(...)`` nats: KL(p || q); +inf, without gradient, where q forbids what p allows."""
    return self._shaped(self._inference.total(KL, *self._others([q]))[2])


def renyi_entropy(self: SemiCRFDistribution, a: float) -> Tensor:
    """``(...)`` nats: the Rényi entropy of order a, ``log sum_y p(y)^a / (1 - a)``; differentiable.

    Order 0 is `log_count` (without gradient), 1 the Shannon entropy, 2 minus the log-probability that two samples are
    the same, inf minus the log-probability of `argmax`. 0 where no segmentation is possible.

    Args:
        a: the order, at least 0, inf included.

    Raises:
        InputError: a is not such a number.

    Source: Rényi 1961.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.tensor([[0.0, 1.0]])))
    >>> [round(p.renyi_entropy(a).item(), 4) for a in (0, 1, 2, float("inf"))]
    [0.6931, 0.5822, 0.4996, 0.3133]
    """
    if isinstance(a, bool) or not isinstance(a, int | float) or not a >= 0:
        raise bad_input("a", repr(a), "a number of at least 0, or inf")
    log_z = self._inference.log_z()
    if a == 0:
        value = self._inference.total(LogCount)[0].detach()
    elif a == inf:
        value = log_z - self._inference.total(Max)[0]
    elif abs(a - 1) < NEAR:
        value = self._inference.total(Entropy)[1]
        value = (
            value - (a - 1) / 2 * covariance(self, self.potentials, self.potentials).reshape(-1) if a != 1 else value
        )
    else:
        exact = self.potentials.to(torch.float64)  # float32 would round the product
        order = torch.full((1,), a, dtype=torch.float64, device=exact.device)
        powers = Inference(exact.scaled(order), self._lengths, self.backend)
        value = (powers.log_z() - a * log_z) / (1 - a)
    return self._shaped(torch.where(log_z > -inf, value, 0.0))


def mutual_information(self: SemiCRFDistribution, i: Place, j: Place) -> Tensor:
    """``(...)`` nats: the mutual information of the labels at two positions; differentiable. 0 past a length.

    At ``i = j`` it is the entropy of the label there. One run for each label, all in one batch.

    Args:
        i, j: positions, ``0 <= i, j < T``: ints, or int64 ``(...)``.

    Raises:
        InputError: a number out of range, or a tensor of another shape or dtype.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> stay = torch.eye(2).log()
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(3, 2), stay))
    >>> round(p.mutual_information(0, 2).item(), 4)  # log 2: one label says the other
    0.6931
    """
    at, other = (places(self, n, x, 0, self.T - 1).reshape(-1) for n, x in (("i", i), ("j", j)))
    t, label = torch.arange(self.T, device=self._lengths.device), torch.arange(self.C, device=self._lengths.device)
    many = (self.C, *self.batch_shape)
    known = torch.where(t == at[:, None], label[:, None, None], -1).reshape(*many, self.T)
    given = self.expand(many).condition(Evidence(labels=known))
    log_z, joint = self._inference.log_z(), given._inference.log_z().reshape(self.C, -1)
    possible = joint > -inf
    share = torch.where(possible, joint - torch.where(possible, log_z, 0.0), -inf).exp()
    position = given._inference.log_z_gradients(["emission"])["emission"].reshape(self.C, -1, self.T, self.C)
    there = position.gather(2, other[None, :, None, None].expand(self.C, -1, 1, self.C))[:, :, 0]
    table = share[..., None] * there.double()  # (C at i, B, C at j)

    def negentropy(p: Tensor) -> Tensor:
        return (p * torch.where(p > 0, p, 1.0).log()).sum(0)

    own = [negentropy(table.sum(2)), negentropy(table.sum(0).mT)]
    value = negentropy(table.movedim(1, -1).flatten(0, 1)) - own[0] - own[1]
    return self._shaped(torch.where((at < self._lengths) & (other < self._lengths), value, 0.0))
