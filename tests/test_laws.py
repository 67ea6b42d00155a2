"""Laws that hold for every model, on random ones: no oracle, and no two computations alike."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CLASSES, EXACT, Case, allowing, case, inf, of
from tables import assert_values
from torch import Tensor

from semicrf import FactoredPotentials, SemiCRFDistribution


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


laws = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@st.composite
def cases(draw: st.DrawFn, models: int = 1, holes: bool = True) -> tuple[Case, ...]:
    """Batches of three ragged sequences; scores of every size from 0 to 30; several models are of the same shape."""
    T, K, C = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    lengths = tuple(draw(st.lists(st.integers(1, T), min_size=3, max_size=3)))
    options = {"T": T, "lengths": lengths, "holes": draw(st.sampled_from([0.0, 0.1])) if holes else 0.0}
    found = []
    for _ in range(models):
        family, shared = draw(st.sampled_from(list(CLASSES))), draw(st.booleans())
        c = case(family, K, C, (3,), shared=shared, seed=draw(st.integers(0, 99)), **options)
        scale = draw(st.sampled_from([0.0, 1.0, 30.0]))
        parts = {n: torch.where(t.isneginf(), t, scale * t) for n, t in c.batch.parts.items()}
        found.append(of(family, c.batch.replace(parts), (3,)))
    return tuple(found)


def at_most(low: Tensor, high: Tensor) -> None:
    """low <= high, up to rounding."""
    high = high.double()
    slack = EXACT * high.abs().clamp(min=1)
    assert (low <= torch.where(high.isfinite(), high + slack, high)).all(), (low, high)


@laws
@given(cases())
def test_entropy_is_between_zero_and_the_logarithm_of_the_count(cs):
    (c,) = cs
    d = c.d
    h = d.entropy()
    at_most(torch.zeros(3), h)
    at_most(h, d.log_count.clamp(min=0.0))
    assert_values(d.perplexity(), h.exp(), EXACT)
    assert_values(d.log_count.exp(), d.count, EXACT)


@laws
@given(cases())
def test_entropy_is_the_cross_entropy_with_itself_and_kl_is_zero(cs):
    (c,) = cs
    d = c.d
    assert_values(d.cross_entropy(d), d.entropy(), EXACT)
    assert_values(d.kl(d), torch.zeros(3), EXACT)
    energy = d.log_partition - d.expectation(d.potentials)  # H = log Z - E[score]
    possible = d.count > 0
    scale = d.log_partition[possible].abs().clamp(min=1)
    assert_values(d.entropy()[possible] / scale, (energy[possible] / scale), EXACT)


@laws
@given(cases(models=2, holes=False))
def test_kl_is_not_negative_and_is_cross_entropy_less_entropy(cs):
    p, q = (c.d for c in cs)
    kl, ce = p.kl(q), p.cross_entropy(q)
    at_most(torch.zeros(3), kl)
    scale = ce.abs().clamp(min=1)
    assert_values(kl / scale, ((ce - p.entropy()) / scale), EXACT)
    at_most(p.entropy(), ce)


@laws
@given(cases(models=2))
def test_kl_with_holes(cs):
    """Finite exactly where q allows all that p allows; never negative, never NaN."""
    p, q = cs
    kl = p.d.kl(q.d)
    assert (kl >= -EXACT).all()
    if p.family == q.family:
        tamed = p.d.kl(allowing(q, p).d)
        assert tamed.isfinite().all()
        at_most(torch.zeros(3), tamed)
    assert torch.equal(kl.isfinite(), p.d.cross_entropy(q.d).isfinite())


@laws
@given(cases())
def test_marginals_tile(cs):
    (c,) = cs
    d = c.d
    m, possible = d.marginals, (d.count > 0).double()
    inside = (torch.arange(c.batch.T) < d.lengths[:, None]) * possible[:, None]
    assert_values(m.position.sum(-1), inside, EXACT)  # one label at each position
    assert (m.position * (1 - inside[..., None]) == 0).all()  # exactly 0 past the length
    assert_values(m.boundary[:, 0], possible, EXACT)
    at_most(m.boundary, torch.ones(3, c.batch.T))
    for view in (m.start, m.end):
        assert_values(view.sum(-1), possible, EXACT)
    number = m.boundary.sum(-1)  # the expected number of segments, said in five ways:
    for view in (
        m.duration.flatten(1),
        m.segments.flatten(1),
        m.edge.flatten(1),
        torch.cat([m.transition.flatten(1), possible[:, None]], 1),
    ):
        assert_values(view.sum(-1), number, EXACT)
    assert_values(m.edge.sum(-2), m.segments, EXACT)
    assert_values(m.segments.sum((-2, -1)), m.boundary, EXACT)
    assert_values(m.segments.sum(-3), m.duration, EXACT)
    assert_values(m.edge[:, 1:].sum((1, 2)), m.transition, EXACT)
    rows = torch.arange(1, d.K + 1)[:, None]
    assert_values((m.duration * rows).sum((-2, -1)), d.lengths * possible, EXACT)
    for view in (m.boundary, m.segments, m.edge, m.transition, m.duration):
        assert (view >= 0).all()
    assert (m.position >= -EXACT).all()  # a running sum of what begins less what ends


@laws
@given(cases())
def test_probabilities_of_the_support_sum_to_one(cs):
    """And the best score is the best of the enumerated ones, at the best segmentation; a loss is never negative."""
    (c,) = cs
    d = c.d
    support = d.enumerate_support()
    log_p, scores = d.log_prob(support), d.score(support)
    possible = (d.count > 0).double()
    assert_values(log_p.exp().sum(0), possible, EXACT)
    at_most(log_p, torch.zeros(3))
    slack = 1e-12 * d.log_partition.abs().clamp(min=1)
    assert (-log_p >= -torch.where(possible > 0, slack, 0.0)).all()
    at_most(scores, d.max)
    assert_values(scores.amax(0), d.max, EXACT)
    assert_values(d.score(d.argmax), d.max, EXACT)
    at_most(d.max, d.log_partition)
    at_most(d.log_partition, torch.where(possible > 0, d.max + d.log_count, -inf))
    best = d.kmax(4)
    assert (best[:-1] >= best[1:]).all()
    assert_values(
        best, torch.nn.functional.pad(scores, (0, 0, 0, 4), value=-inf).sort(0, descending=True).values[:4], EXACT
    )
    mean = (log_p.exp() * torch.where(log_p.isfinite(), -log_p, 0.0)).sum(0)
    assert_values(d.entropy(), mean, EXACT)


@laws
@given(cases())
def test_temperature_limits(cs):
    """t -> 0: the mass is on the best; t -> infinity: uniform over what is possible; p(y)^(1/t) in between."""
    (c,) = cs
    d = c.d
    assert_values(d.with_temperature(inf).entropy(), d.log_count.clamp(min=0.0), EXACT)
    assert_values(d.with_temperature(1.0).log_partition, d.log_partition, 0.0)
    best, runner_up = d.kmax(2)
    clear = (best - runner_up > 1e-3) & best.isfinite()
    cold = d.with_temperature(1e-5)
    size, none = cold.log_partition[clear].abs().clamp(min=1), torch.zeros(int(clear.sum()))
    for value in (cold.entropy(), cold.log_prob(d.argmax)):  # differences of scores of this size
        assert_values(value[clear] / size, none, EXACT)
    entropies = torch.stack([d.with_temperature(t).entropy() for t in (0.25, 0.5, 1.0, 2.0, 4.0)])
    for low, high in itertools.pairwise(entropies):
        at_most(low, high)
    support, log_z = d.enumerate_support(), d.log_partition
    warm = d.with_temperature(2.0)
    halved = d.score(support) / 2
    assert_values(warm.score(support), halved, EXACT)
    assert (
        warm.log_partition
        <= torch.where(log_z.isfinite(), log_z / 2 + d.log_count / 2 + EXACT * log_z.abs() + EXACT, log_z)
    ).all()


@laws
@given(cases(), st.floats(-50, 50))
def test_a_constant_added_to_the_scores_changes_no_probability(cs, x):
    """To emissions (or to every segment's score, times its duration): log Z moves by x times the length."""
    (c,) = cs
    name, k = (
        next(n for n in ("emission", "segment", "edge") if n in c.parts),
        torch.arange(1.0, c.batch.K + 1).double(),
    )
    step = {"emission": x, "segment": x * k[:, None], "edge": x * k[:, None, None]}[name]
    moved = of(c.family, c.batch.replace(c.batch.parts | {name: c.batch.parts[name] + step}), (3,))
    d, e = c.d, moved.d
    scale = (abs(x) * 5 + d.log_partition.abs().nan_to_num(posinf=0.0)).clamp(min=1)
    assert_values(e.log_partition / scale, ((d.log_partition + x * d.lengths.double()) / scale), EXACT)
    assert_values(e.entropy() / scale, (d.entropy() / scale), EXACT)
    assert_values(
        e.marginals.segments / scale[:, None, None, None], (d.marginals.segments / scale[:, None, None, None]), EXACT
    )
    assert_values(d.kl(e) / scale, torch.zeros(3), EXACT)


@laws
@given(cases(models=3, holes=False))
def test_moments_are_linear_and_covariance_is_an_inner_product(cs):
    p, f, g = cs
    d, F, G = p.d, f.potentials, g.potentials
    size = 1 + d.variance(F) + d.variance(G)
    assert_values(d.covariance(F, G) / size, d.covariance(G, F) / size, EXACT)
    assert (d.variance(F) >= -EXACT * (1 + d.expectation(F).abs() ** 2)).all()
    bound = (d.variance(F) * d.variance(G)).clamp(min=0).sqrt()
    assert (d.covariance(F, G).abs() <= bound + EXACT * (1 + d.variance(F) + d.variance(G) + bound)).all()
    ones = FactoredPotentials(torch.ones(3, d.T, d.C, dtype=torch.float64), max_duration=d.K)
    assert_values(d.expectation(ones), d.lengths.double(), EXACT)
    assert_values(d.variance(ones), torch.zeros(3), EXACT)


def test_entropy_of_a_uniform_model():
    """2^(T-1) segmentations of one label: H = (T - 1) log 2, boundaries with probability one half."""
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(10, 1, dtype=torch.float64)))
    assert_values(d.entropy(), torch.tensor(9 * math.log(2)), 1e-7)
    assert_values(d.marginals.boundary, torch.tensor([1.0, *[0.5] * 9]), EXACT)
    assert_values(d.marginals.boundary.sum(), torch.tensor(5.5), EXACT)
