"""Standard deviations and entropies of other orders, against enumeration."""

from __future__ import annotations

import math

import oracle
import pytest
import tables
import torch
from models import EXACT, case, check, companions, inf, of_every_family, on_the_grid
from torch import Tensor

from semicrf import FactoredPotentials, InputError, SemiCRFDistribution


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


# --- Rényi entropies ---


def renyi(m: oracle.Model, n: int, a: float) -> Tensor:
    p = oracle.probabilities(m, n)
    p = p[p > 0]
    if not len(p):
        return p.sum()
    if a == 1:
        return -(p * p.log()).sum()
    if a == inf:
        return -p.max().log()
    if abs(a - 1) < 0.1:
        return (p * ((a - 1) * p.log()).expm1()).sum().log1p() / (1 - a)
    return (p**a).sum().log() / (1 - a)


@pytest.mark.parametrize("a", [0, 0.3, 1, 2, 7.5, inf])
@on_the_grid
def test_renyi_entropy(c, a):
    """Two log-partitions, so 1e-16 of their size over |1 - a|."""
    check(c.d.renyi_entropy(a), [c], lambda m, n: renyi(m, n, a), gradient=a != 0)


@pytest.mark.parametrize("a", [1 - 1e-3, 1 + 2e-5, 1 + 9e-6, 1 - 1e-9])
def test_renyi_entropy_close_to_order_one(a):
    """The error of the formula, 1e-16 of log Z over |1 - a|, or of its series, |1 - a|^2: both below 1e-9."""
    c = case("factored", seed=2)
    check(c.d.renyi_entropy(a), [c], lambda m, n: renyi(m, n, a), tolerance=1e-9)


def test_renyi_entropies_fall_with_their_order():
    d = case("edge", seed=5).d
    values = torch.stack([d.renyi_entropy(a) for a in (0, 0.5, 0.99999, 1, 1.00001, 2, 50, inf)])
    assert (values.diff(dim=0) <= 1e-9).all()


@pytest.mark.parametrize("a", [-1, math.nan, True, "2", None])
def test_the_order_of_an_entropy(a):
    with pytest.raises(InputError, match=r"a: got .*; expected a number of at least 0, or inf"):
        case("factored").d.renyi_entropy(a)


# --- Mutual information ---


def information(m: oracle.Model, n: int, i: int, j: int) -> Tensor:
    """sum p(a, b) log(p(a, b) / (p(a) p(b))), of the joint table of labels."""
    p = oracle.probabilities(m, n)
    if i >= n or j >= n:
        return 0.0 * p.sum()
    labels = [[next(c for s, e, c in y if s <= t < e) for y in oracle.paths(m, n)] for t in (i, j)]
    cell = torch.tensor([a * m.C + b for a, b in zip(*labels, strict=True)])
    table = torch.zeros(m.C * m.C, dtype=torch.float64).index_add(0, cell, p).view(m.C, m.C)
    value = 0.0 * p.sum()
    for sign, x in ((1, table), (-1, table.sum(0)), (-1, table.sum(1))):
        x = x[x > 0]
        value = value + sign * (x * x.log()).sum()
    return value


@pytest.mark.parametrize(("i", "j"), [(0, 2), (3, 1), (1, 1)])
@on_the_grid
def test_mutual_information(c, i, j):
    check(c.d.mutual_information(i, j), [c], lambda m, n: information(m, n, i, j))


@of_every_family
def test_mutual_information_at_places_of_each_sequence(family):
    c = case(family, batch_shape=(2, 3))
    i, j = torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.tensor([[4, 0, 2], [1, 4, 0]])
    found = c.d.mutual_information(i, j)
    for b, (m, n) in enumerate(c.sequences()):
        want = information(m, n, int(i.flatten()[b]), int(j.flatten()[b]))
        tables.assert_values(found.flatten()[b].detach(), want.detach(), EXACT)


def test_positions_are_checked():
    d = case("factored").d
    with pytest.raises(InputError, match=r"j: got 5; expected 0\.\.4"):
        d.mutual_information(0, 5)
    with pytest.raises(InputError, match=r"i: got dtype torch.float32; expected dtype integer"):
        d.mutual_information(torch.zeros(2, 3), 0)
