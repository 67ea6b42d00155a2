"""Probabilities of segments, spans and boundaries, against enumeration: values and gradients."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import EXACT, case, check, on_the_grid
from torch import Tensor

from semicrf import Evidence, FactoredPotentials, InputError, SemiCRFDistribution

SPANS = [(0, 1, 0), (0, 3, 1), (1, 3, 0), (2, 4, 1), (3, 4, 1), (0, 4, 0)]


@pytest.mark.parametrize("where", SPANS, ids=str)
@on_the_grid
def test_span(c, where):
    start, end, label = where
    exact = lambda y: where in y  # noqa: E731  an event, beside another
    covers = lambda y: any(s <= start and end <= e and label == x for s, e, x in y)  # noqa: E731  likewise
    check(c.d.span(*where), [c], lambda m, n: oracle.probability(m, exact, n))
    check(c.d.span(*where, kind="covers"), [c], lambda m, n: oracle.probability(m, covers, n))


@pytest.mark.parametrize("t", range(4))
@pytest.mark.parametrize("w", [0, 1, 3])
@on_the_grid
def test_boundary_within(c, t, w):
    def expected(m: oracle.Model, n: int) -> Tensor:
        return oracle.probability(m, lambda y: any(t - w <= s <= t + w for s, _, _ in y), n)

    check(c.d.boundary_within(t, w), [c], expected)


def test_a_place_for_each_sequence():
    c = case("segment", batch_shape=(2,), lengths=(5, 4))
    d, start, end, label = c.d, torch.tensor([1, 0]), torch.tensor([3, 2]), torch.tensor([0, 1])
    spans, covers, near = d.span(start, end, label), d.span(start, 3, label, kind="covers"), d.boundary_within(end, 1)
    for b in range(2):
        own = d[b]
        at = int(start[b]), int(end[b]), int(label[b])
        assert spans[b] == own.span(*at)
        assert covers[b] == own.span(at[0], 3, at[2], kind="covers")
        assert near[b] == own.boundary_within(at[1], 1)


def test_they_agree_with_the_marginals_and_hold_under_evidence():
    c = case("duration_transition", batch_shape=(2,), lengths=(5, 4))
    for d in (c.d, c.d.condition(Evidence(labels=torch.tensor([[-1, 1, -1, -1, 0], [0, -1, -1, 1, -1]])))):
        table = d.marginals.segments
        for s, e, x in ((0, 2, 0), (1, 3, 1), (3, 4, 1)):
            tables.assert_values(d.span(s, e, x), table[:, s, e - s - 1, x].detach(), EXACT)
        for t in range(4):
            tables.assert_values(d.boundary_within(t, 0), d.marginals.boundary[:, t].detach(), EXACT)
            covering = sum(d.span(t, t + 1, x, kind="covers") for x in range(2))
            assert isinstance(covering, Tensor)
            tables.assert_values(covering, torch.ones(2, dtype=torch.float64), EXACT)


def test_small_probabilities_keep_their_digits():
    """A boundary with probability 1e-13 beside one with 1 - 1e-13: as exact as a difference of 1e-16 allows."""
    start = torch.zeros(3, 1, dtype=torch.float64)
    start[1] = -30.0
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(3, 1, dtype=torch.float64), segment_start=start))
    p = d.boundary_within(1, 0).item()
    q = torch.tensor(-30.0, dtype=torch.float64).exp().item()
    assert p == pytest.approx(2 * q / (2 + 2 * q), abs=1e-15)
    assert p >= 0


def test_places_are_checked():
    d = case("factored").d
    for call, message in (
        (lambda: d.span(0, 6, 0), r"end: got 6; expected 1\.\.5"),
        (lambda: d.span(-1, 2, 0), r"start: got -1; expected 0\.\.4"),
        (lambda: d.span(2, 2, 0), r"end - start: got 0; expected 1\.\.5"),
        (lambda: d.span(0, 1, 2), r"label: got 2; expected 0\.\.1"),
        (lambda: d.span(0, 1, 0, kind="part"), r"kind: got 'part'; expected 'exact' or 'covers'"),
        (
            lambda: d.span(torch.zeros(3).long(), 1, 0),
            r"start: got shape \(3,\); expected shape \(2, 3\)",
        ),
        (lambda: d.span("0", 1, 0), r"start: got a str; expected a tensor"),  # pyright: ignore[reportArgumentType]  refused
        (lambda: d.boundary_within(5, 0), r"t: got 5; expected 0\.\.4"),
        (lambda: d.boundary_within(0, -1), r"w: got -1; expected an integer of at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            call()
