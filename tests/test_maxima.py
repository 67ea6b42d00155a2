"""Max-marginals against enumeration, and on long inputs against what has to hold."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import EXACT, VIEWS, case, inf, of_every_family, on_the_grid, seeded

from semicrf import Evidence, FactoredPotentials, SemiCRFDistribution


@on_the_grid
def test_max_marginals(c):
    views, n = c.d.max_marginals, len(c.batch_shape)
    found = {view: getattr(views, view) for view in VIEWS}
    for b, (m, length) in enumerate(c.sequences()):
        wanted = oracle.max_marginals(m, length)
        for view, value in found.items():
            assert value.shape[:n] == c.batch_shape
            assert not value.requires_grad
            tables.assert_values(c.flat(value)[b], wanted[view], EXACT)


@of_every_family
def test_ties_and_evidence(family):
    """Under evidence too: required and forbidden boundaries, labels."""
    c = case(family, batch_shape=(2,), ties=True, seed=6)
    boundary = torch.tensor([[-1, 0, 1, -1, -1], [-1, 1, -1, 0, -1]])
    labels = torch.tensor([[-1, -1, -1, 1, -1], [0, -1, -1, -1, -1]])
    d = c.d.condition(Evidence(labels=labels, boundary=boundary))
    for b, (m, n) in enumerate(c.sequences()):
        scores = oracle.scores(m, n).detach()
        agree = [oracle.consistent(y, labels=labels[b], boundary=boundary[b]) for y in oracle.paths(m, n)]
        for (s, e, x), got in (((t, t + 1, x), d.max_marginals.position[b, t, x]) for t in range(n) for x in range(2)):
            through = [
                v for v, y, ok in zip(scores.tolist(), oracle.paths(m, n), agree, strict=True)
                if ok and any(i <= s and e <= j and z == x for i, j, z in y)
            ]  # fmt: skip
            assert got.item() == max(through, default=-inf)


@of_every_family
def test_max_marginals_of_given_segments(family):
    c = case(family, batch_shape=(2,), lengths=(5, 4))
    best = c.d.argmax
    found = c.d.max_marginals.segment(best)
    want = torch.where(best.mask, c.d.max.detach()[:, None], -inf)
    tables.assert_values(found, want, EXACT)
    assert c.d.max_marginals.segment([[(0, 4, 1)], [(0, 9, 0)]]).tolist() == [[-inf], [-inf]]  # longer than K, than T


@pytest.mark.parametrize("K", [1, 7, 30])
def test_every_view_of_a_long_sequence_reaches_the_maximum(K):
    T, C = 200, 4
    emission = torch.randn(2, T, C, generator=seeded(K), dtype=torch.float64)
    d = SemiCRFDistribution(
        FactoredPotentials(emission, torch.randn(C, C).double(), torch.randn(K, C).double()), [T, 150]
    )
    views, best = d.max_marginals, d.max
    for b, n in enumerate(d.lengths.tolist()):
        for value in (views.start[b], views.end[b], views.transition[b].flatten(), views.duration[b].flatten()):
            tables.assert_values(value.amax(), best[b], tables.LONG[1.0])
        tables.assert_values(views.position[b, :n].amax(-1), best[b].expand(n), tables.LONG[1.0])
        assert (views.position[b, n:] == -inf).all()
        assert (views.boundary[b, n:] == -inf).all()
        y = d.argmax[b]
        tables.assert_values(views.boundary[b][y.start[: y.count]], best[b].expand(int(y.count)), tables.LONG[1.0])


def test_an_impossible_sequence_has_none():
    emission = torch.zeros(2, 3, 2)
    emission[0, 1] = -inf
    views = SemiCRFDistribution(FactoredPotentials(emission)).max_marginals
    for view in VIEWS:
        assert (getattr(views, view)[0] == -inf).all()
        assert (getattr(views, view)[1] > -inf).any()
