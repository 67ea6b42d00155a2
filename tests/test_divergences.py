"""Several models at once: divergences and moments of additive quantities."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import (
    CLASSES,
    EXACT,
    allowing,
    case,
    check,
    companions,
    inf,
    nan,
    of,
    of_every_family,
    on_the_grid,
)
from torch.distributions import kl_divergence

from semicrf.algebra import (
    Expectation,
)  # fmt: skip

# --- Two models and more ---

TWO = {
    "cross_entropy": (lambda p, q: p.cross_entropy(q), lambda *m: oracle.values("CrossEntropy", m[:2], m[2])["h"]),
    "kl": (lambda p, q: p.kl(q), lambda *m: oracle.values("KL", m[:2], m[2])["kl"]),
}


@pytest.mark.parametrize("name", TWO)
@on_the_grid
def test_cross_entropy_and_kl(c, name):
    of_d, of_oracle = TWO[name]
    (q,) = companions(c, 1)
    q = allowing(q, c)
    check(of_d(c.d, q.d), [c, q], of_oracle)


@pytest.mark.parametrize("name", TWO)
@of_every_family
def test_where_the_other_model_forbids_what_this_one_allows(family, name):
    """+inf and no gradient there; the other sequences of the batch as ever. 0 where this model is impossible."""
    of_d, of_oracle = TWO[name]
    p = case(family, seed=5, holes=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    (q,) = companions(p, 1, holes=(0.0, 1.0, 0.05, 0.0, 0.0, 0.0))
    value = of_d(p.d, q.d)
    assert value.flatten()[1] == inf
    assert value.flatten()[5] == 0
    assert value.isfinite().sum() >= 3
    check(value, [p, q], of_oracle)


@of_every_family
def test_divergences_from_models_of_other_families(family):
    p = case(family, batch_shape=(2,))
    for other in CLASSES:
        q = case(other, batch_shape=(2,), seed=1, shared=True)
        for of_d, of_oracle in TWO.values():
            check(of_d(p.d, q.d), [p, q], of_oracle)
        assert torch.equal(kl_divergence(p.d, q.d), p.d.kl(q.d))


@on_the_grid
def test_moments(c):
    """Mean, variance and covariance of additive quantities, differentiable in the model and in the quantities."""
    f, g = companions(c, 2)
    d = c.d
    check(d.expectation(f.potentials), [c, f], oracle.expectation)
    check(d.variance(f.potentials), [c, f], lambda m, f, n: oracle.covariance(m, f, f, n))
    check(d.covariance(f.potentials, g.potentials), [c, f, g], oracle.covariance)
    check(d.expectation(d.potentials), [c], lambda m, n: oracle.expectation(m, m, n))
    check(d.variance(d.potentials), [c], lambda m, n: oracle.covariance(m, m, m, n))


@of_every_family
def test_moments_of_quantities_of_other_families(family):
    p = case(family, batch_shape=(2,))
    for other in CLASSES:
        f = case(other, batch_shape=(2,), seed=2)
        check(p.d.expectation(f.potentials), [p, f], oracle.expectation)
        check(p.d.covariance(f.potentials, p.potentials), [p, f], lambda m, f, n: oracle.covariance(m, f, m, n))


def test_a_quantity_given_as_a_distribution_is_its_potentials():
    p, f = case("factored"), case("segment", seed=1)
    assert torch.equal(p.d.expectation(f.potentials), p.d.reduce(Expectation, f.d).mean)


@pytest.mark.parametrize("value", [-inf, nan, inf])
@pytest.mark.parametrize("part", oracle.FACTORED)
def test_what_a_quantity_holds_at_probability_zero_is_ignored(part, value):
    p = case("duration_transition", batch_shape=(2,), shared=True)
    f = case("duration_transition", batch_shape=(2,), shared=True, seed=1)
    where = {"emission": (..., 0, 1), "segment_start": (..., 0, 1), "segment_end": (..., 0, 1)}.get(part, (..., 1))
    spoilt = f.batch.parts[part].clone()
    spoilt[where] = value
    holed = p.batch.parts[part].clone()
    holed[where] = -inf
    p = of(p.family, p.batch.replace(p.batch.parts | {part: holed}), p.batch_shape)
    g = of(f.family, f.batch.replace(f.batch.parts | {part: spoilt}), f.batch_shape)
    clean, dirty = (p.d.expectation(x.potentials) for x in (f, g))
    assert clean.isfinite().all()
    tables.assert_values(dirty, clean.detach(), EXACT)
    tables.assert_values(p.d.variance(g.potentials), p.d.variance(f.potentials).detach(), EXACT)
