"""Perturb and MAP: what the noise is, what it is keyed by, and what holds whatever it is."""

from __future__ import annotations

import math

import pytest
import torch
from models import case, inf, of_every_family, seeded

from semicrf import Evidence, FactoredPotentials, InputError, SemiCRFDistribution
from semicrf.segments import check_tiling


@of_every_family
def test_without_noise_it_is_the_best_segmentation(family):
    c = case(family, holes=0.05, seed=4)
    found = c.d.perturbed_argmax(0.0)
    assert found == c.d.argmax
    assert found.score is not None
    assert torch.equal(found.score, c.d.max)


@of_every_family
def test_it_is_a_segmentation_that_the_model_allows(family):
    """With noise that drowns the scores; -inf stays, and an impossible sequence has none."""
    c = case(family, holes=0.05, seed=4)
    found = c.d.perturbed_argmax(1e3, seeded())
    assert torch.equal(found.count > 0, c.d.max > -inf)
    check_tiling(found, c.lengths, c.batch.K, c.batch.C, allow_empty=True)
    assert torch.equal(c.d.score(found) > -inf, found.count > 0)
    assert not torch.equal(found.count, c.d.perturbed_argmax(1e3, seeded(1)).count)


def test_one_position_is_a_gumbel_draw():
    """There perturb and MAP is exact: labels come with their probabilities. By chi-square over 20,000 sequences."""
    n, logits = 20_000, torch.tensor([0.0, 0.5, -1.0, 1.0], dtype=torch.float64)
    d = SemiCRFDistribution(FactoredPotentials(logits.expand(n, 1, 4)))
    found = d.perturbed_argmax(generator=seeded(1))
    seen = torch.bincount(found.label[:, 0], minlength=4)
    wanted = n * logits.softmax(0)
    assert ((seen - wanted) ** 2 / wanted).sum() < 21.1  # p = 1e-4 at three degrees of freedom
    assert found.score is not None
    noise = found.score - logits[found.label[:, 0]]  # of the largest of four: its distribution is that of a Gumbel too
    assert abs(found.score.mean().item() - logits.logsumexp(0).item()) < 5 * math.pi / math.sqrt(6 * n)
    assert noise.isfinite().all()


def test_noise_is_keyed_by_seed_and_sequence():
    c = case("factored", batch_shape=(3,), lengths=(5, 4, 5))
    d, order, ids = c.d, [2, 0, 1], torch.arange(3)
    whole = d.perturbed_argmax(5.0, seeded(7))
    other = d[order].perturbed_argmax(5.0, seeded(7), sequence_id=ids[order])
    assert torch.equal(other.label, whole.label[order])
    assert d.perturbed_argmax(5.0, seeded(7)) == whole
    assert (
        d.condition(Evidence(labels=whole.to_labels(5)))
        .perturbed_argmax(5.0, seeded(3))
        .to_labels(5)
        .equal(whole.to_labels(5))
    )


@pytest.mark.parametrize("scale", [-1.0, inf, math.nan, "1", True])
def test_the_scale_of_noise(scale):
    with pytest.raises(InputError, match=r"scale: got .*; expected a finite number of at least 0"):
        case("factored").d.perturbed_argmax(scale)
