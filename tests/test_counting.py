"""The distribution of the number of segments, and what is known given it, against enumeration."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import tables
import torch
from models import EXACT, case, check, f64, inf, of_every_family, on_the_grid, rows_of, seeded
from torch import Tensor

from semicrf import Evidence, FactoredPotentials, InputError, SemiCRFDistribution


@on_the_grid
def test_segment_count(c):
    def expected(m: oracle.Model, n: int) -> Tensor:
        return torch.stack([oracle.log_probability(m, lambda y, k=k: len(y) == k, n) for k in range(1, 7)])

    check(c.d.segment_count(6), [c], expected)


@of_every_family
def test_marginals_given_the_number_of_segments(family):
    """Gradients of the log-partition over segmentations of exactly m segments."""
    c = case(family, batch_shape=(2,), lengths=(5, 4), seed=1)
    d = c.d
    joint = d.segment_count(3)[:, 2] + d.log_partition
    grads = torch.autograd.grad(joint.sum(), list(c.parts.values()))
    for name, grad in zip(c.parts, grads, strict=True):
        for b, (m, n) in enumerate(c.sequences()):
            given = torch.tensor([len(y) == 3 for y in oracle.paths(m, n)])
            total = torch.logsumexp(oracle.scores(m, n)[given], 0)
            want = torch.autograd.grad(total, m.parts[name])[0]
            tables.assert_gradient(name, grad[b : b + 1], [want], EXACT)


@pytest.mark.parametrize("m", [1, 2, 4])
@on_the_grid
def test_the_distribution_given_the_number_of_segments(c, m):
    """Log-partition and gradients; labels by segment, which give labels and their marginals back."""
    given = c.d.with_segment_count(m)

    def expected(model: oracle.Model, n: int) -> Tensor:
        of_m = torch.tensor([len(y) == m for y in oracle.paths(model, n)])
        scores = oracle.scores(model, n)
        scores = scores[of_m & (scores > -inf)]
        return torch.logsumexp(scores, 0) if len(scores) else scores.sum() - inf

    check(given.log_partition, [c], expected)
    counted = c.d.segment_count(m)[..., m - 1]
    possible = counted > -inf
    tables.assert_values(
        torch.where(possible, given.log_partition - c.d.log_partition, -inf).detach(), counted.detach(), EXACT
    )
    position = given.marginals.position.unflatten(-1, (m, c.batch.C)).sum(-2)
    rows = rows_of(given.sample((5,), generator=seeded()), c)
    for b, (model, n) in enumerate(c.sequences()):
        p = oracle.probabilities(model, n)
        paths = [(y, w) for y, w in zip(oracle.paths(model, n), p.tolist(), strict=True) if len(y) == m and w > 0]
        total = sum(w for _, w in paths)
        want = torch.zeros(c.batch.T, c.batch.C, dtype=torch.float64)
        for y, w in paths:
            for s, e, x in y:
                want[s:e, x] += w / total
        tables.assert_values(c.flat(position)[b].detach(), want, EXACT)
        for y in rows[b]:
            assert len(y) == (m if paths else 0)
            assert [x // c.batch.C for _, _, x in y] == list(range(len(y)))


def test_the_best_segmentations_given_their_number():
    c = case("segment", batch_shape=(2,), lengths=(5, 4), seed=3)
    segments, scores = c.d.with_segment_count(3).topk(4)
    for b, (m, n) in enumerate(c.sequences()):
        listed = zip(oracle.scores(m, n).tolist(), oracle.paths(m, n), strict=True)
        want = sorted(((s, y) for s, y in listed if len(y) == 3), reverse=True)[:4]
        got = [tuple((s, e, x % 2) for s, e, x in y) for y in rows_of(segments, c)[b]]
        assert got == [y for _, y in want]
        tables.assert_values(scores[:, b].detach(), f64([s for s, _ in want]), EXACT)


def test_second_derivatives_and_transforms():
    c = case("factored", batch_shape=(2,), lengths=(5, 4))
    emission = c.parts["emission"].detach().nan_to_num(0.0)
    others: dict[str, Any] = {n: t.detach() for n, t in c.parts.items() if n != "emission"}

    def value(e: Tensor) -> Tensor:
        p = FactoredPotentials(e, **others)
        return SemiCRFDistribution(p, c.lengths, validate_args=False).segment_count(3).exp()[:, 1].sum()

    direction = torch.randn(emission.shape, generator=seeded(), dtype=torch.float64)
    _, hvp = torch.autograd.functional.hvp(value, emission, direction)
    step = 1e-5
    near = [torch.func.grad(value)(emission + s * step * direction) for s in (1, -1)]
    assert ((near[0] - near[1]) / (2 * step) - hvp).abs().max() < 1e-8


def test_long_sequences():
    """Probabilities add up to one; the mean is that of the marginals; what is improbable keeps its digits."""
    g, (T, K, C) = seeded(1), (150, 8, 3)
    parts = [torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, T, C), (C, C), (K, C))]
    d = SemiCRFDistribution(FactoredPotentials(*parts), [T, 100])
    log_p = d.segment_count(T)
    p, m = log_p.exp(), torch.arange(1, T + 1)
    tables.assert_values(p.sum(-1), torch.ones(2).double(), tables.LONG[1.0])
    tables.assert_values((m * p).sum(-1), d.marginals.boundary.sum(-1), tables.LONG[1.0])
    all_single = d.log_prob(Evidence(boundary=torch.ones(2, T).long()))
    tables.assert_values(torch.stack([log_p[0, T - 1], log_p[1, 99]]), all_single, tables.LONG[1.0])
    assert (log_p[1, 100:] == -inf).all()
    assert (log_p[:, : T // K] == -inf)[0].all()
    assert log_p[0, T // K] > -inf


def test_forbidden_durations_and_an_impossible_sequence():
    duration = torch.tensor([[-inf], [0.0]])
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 4, 1), duration=duration), [4, 3])
    assert d.segment_count(3).tolist() == [[-inf, 0.0, -inf], [-inf] * 3]


@pytest.mark.parametrize("most", [0, 1.0, True, None])
def test_the_largest_number(most):
    with pytest.raises(InputError, match=r"max: got .*; expected an integer of at least 1"):
        case("factored").d.segment_count(most)
