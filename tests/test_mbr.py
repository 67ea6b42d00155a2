"""Minimum Bayes risk: no segmentation that the model allows gains more, by enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable

import oracle
import pytest
import tables
import torch
from models import EXACT, Case, case, f64, inf, of_every_family, on_the_grid, rows_of, seeded

from semicrf import Constraints, Evidence, FactoredPotentials, InputError, SemiCRFDistribution


def check(c: Case, options: dict, gain: Callable[[oracle.Model, int], Callable[[oracle.Segmentation], float]]) -> None:
    """The result gains what it says, and what the best of all allowed segmentations gains."""
    found = c.d.mbr(**options)
    assert found.score is not None
    assert not found.score.requires_grad
    for b, (m, n) in enumerate(c.sequences()):
        (y,), of = rows_of(found[None], c)[b], gain(m, n)
        allowed = [x for x, s in zip(oracle.paths(m, n), oracle.scores(m, n).tolist(), strict=True) if s > -inf]
        assert bool(y) == bool(allowed)
        if y:
            assert y in allowed
            best = max(map(of, allowed))
            tables.assert_values(f64([of(y), float(found.score.flatten()[b])]), f64([best, best]), EXACT)


def marginal(m: oracle.Model, n: int, view: str) -> torch.Tensor:
    return oracle.marginals(m, n)[view].detach()


@pytest.mark.parametrize("cost", [0.0, 0.5, -1.0])
@on_the_grid
def test_expected_segments(c, cost):
    def gain(m: oracle.Model, n: int) -> Callable[[oracle.Segmentation], float]:
        p = marginal(m, n, "segments")
        return lambda y: sum(p[s, e - s - 1, x].item() - cost for s, e, x in y)

    check(c, {"cost": cost}, gain)


@on_the_grid
def test_expected_positions(c):
    def gain(m: oracle.Model, n: int) -> Callable[[oracle.Segmentation], float]:
        p = marginal(m, n, "position")
        return lambda y: sum(p[t, x].item() for s, e, x in y for t in range(s, e))

    check(c, {"loss": "position"}, gain)


@pytest.mark.parametrize(("tolerance", "cost"), [(0, 0.5), (1, 0.5), (1, 0.9), (2, -0.1), (9, 1.0)])
@on_the_grid
def test_expected_boundaries(c, tolerance, cost):
    def gain(m: oracle.Model, n: int) -> Callable[[oracle.Segmentation], float]:
        p, paths = oracle.probabilities(m, n).detach(), oracle.paths(m, n)
        near = [
            p[torch.tensor([any(abs(s - t) <= tolerance for s, _, _ in y) for y in paths])].sum().item()
            for t in range(n)
        ]
        return lambda y: sum(near[s] - cost for s, _, _ in y)

    check(c, {"loss": "boundary", "tolerance": tolerance, "cost": cost}, gain)


@of_every_family
def test_constraints_and_evidence_hold(family):
    """Forbidden neighbours, required and forbidden boundaries."""
    c = case(family, batch_shape=(2,), lengths=(5, 4), K=3)
    rules = Constraints(transition=~torch.eye(2, dtype=torch.bool)) if family != "edge" else None
    model = rules.apply(c.potentials) if rules else c.potentials
    d = SemiCRFDistribution(model, c.lengths).condition(
        Evidence(boundary=torch.tensor([[-1, -1, 1, -1, 0]]).expand(2, 5))
    )
    for loss in ("segment", "position", "boundary"):
        found = d.mbr(loss)
        assert (d.score(found) > -inf).all()
        assert found.to_boundaries(5)[:, 2].all()
        assert not found.to_boundaries(5)[0, 4]


@of_every_family
def test_what_a_loss_does_not_see_is_the_best_that_the_model_has(family):
    c = case(family, batch_shape=(2,), lengths=(5, 4), seed=8)
    by_position, by_boundary = c.d.mbr("position"), c.d.mbr("boundary")
    for b, (m, n) in enumerate(c.sequences()):
        listed = list(zip(oracle.paths(m, n), oracle.scores(m, n).tolist(), strict=True))
        (y,) = rows_of(by_position[None], c)[b]
        labels = by_position.to_labels(5)[b].tolist()
        assert y == max((s, x) for x, s in listed if oracle.consistent(x, labels=labels))[1]
        (y,) = rows_of(by_boundary[None], c)[b]
        starts = [s for s, _, _ in y]
        assert y == max((s, x) for x, s in listed if [t for t, _, _ in x] == starts)[1]


def test_a_batch_of_long_sequences():
    """The gain is that of the result, recomputed, and no sample gains more."""
    g, (T, K, C) = seeded(2), (120, 9, 3)
    parts = [torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, T, C), (C, C), (K, C))]
    d = SemiCRFDistribution(FactoredPotentials(*parts), [T, 77])
    found, drawn = d.mbr("segment", cost=0.2), d.sample((200,), generator=g)

    def gain(y):
        return (torch.where(y.mask, d.marginals.segment(y) - 0.2, 0.0)).sum(-1)

    assert found.score is not None
    tables.assert_values(gain(found), found.score, EXACT)
    assert (gain(drawn) <= found.score + 1e-12).all()
    assert (gain(d.argmax) <= found.score + 1e-12).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "labels"}, r"loss: got 'labels'; expected 'segment', 'position' or 'boundary'"),
        ({"cost": math.nan}, r"cost: got nan; expected a finite number"),
        ({"cost": "1"}, r"cost: got '1'; expected a finite number"),
        ({"tolerance": -1}, r"tolerance: got -1; expected an integer of at least 0"),
    ],
)
def test_options(options, message):
    with pytest.raises(InputError, match=message):
        case("factored").d.mbr(**options)
