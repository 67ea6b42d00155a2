"""Where a set of constraints becomes impossible, against enumeration of what can be segmented from the front."""

from __future__ import annotations

import oracle
import pytest
import torch
from models import Case, case, inf, of_every_family, seeded

from semicrf import Constraints, Evidence, FactoredPotentials, InputError, SemiCRFDistribution


def furthest(m: oracle.Model, n: int, labels: list[int], boundary: list[int]) -> int:
    """The longest front that has a segmentation, whatever its last label, if the whole has none; else -1."""

    def some(model: oracle.Model, t: int) -> bool:
        listed = zip(oracle.scores(model, t).tolist(), oracle.paths(model, t), strict=True)
        return any(s > -inf and oracle.consistent(y, labels=labels, boundary=boundary) for s, y in listed)

    if some(m, n):
        return -1
    return max((t for t in range(1, n + 1) if some(m.replace(end=None), t)), default=0)


def random_evidence(c: Case, seed: int) -> Evidence:
    g, shape = seeded(seed), (*c.batch_shape, c.batch.T)
    labels, boundary = torch.randint(0, 2, shape, generator=g), torch.randint(0, 2, shape, generator=g)
    unknown = torch.rand((2, *shape), generator=g) < 0.6
    return Evidence(labels=labels.masked_fill(unknown[0], -1), boundary=boundary.masked_fill(unknown[1], -1))


@of_every_family
def test_first_impossible(family):
    seen = set()
    for seed in range(6):
        c = case(family, K=2, holes=0.12, seed=seed)
        e = random_evidence(c, seed)
        assert e.labels is not None
        assert e.boundary is not None
        found = c.d.condition(e).first_impossible
        assert found.shape == c.batch_shape
        for b, (m, n) in enumerate(c.sequences()):
            want = furthest(m, n, c.flat(e.labels)[b].tolist(), c.flat(e.boundary)[b].tolist())
            assert found.flatten()[b].item() == want
            seen.add(want)
    assert {-1, 0, 1} < seen


def test_the_error_names_the_sequence_and_the_position():
    d = case("factored", batch_shape=(2, 1), lengths=(5, 4)).d
    d.check_possible()
    labels = torch.tensor([[[-1, -1, -1, -1, -1]], [[-1, 0, 1, -1, -1]]])
    apart = Constraints(transition=torch.eye(2, dtype=torch.bool))  # a label never changes
    d = SemiCRFDistribution(apart.apply(d.potentials), d.lengths).condition(Evidence(labels=labels))
    with pytest.raises(InputError, match=r"constraints, sequence \(1, 0\): got none that gets past position 2 of 4"):
        d.check_possible()
    assert d.first_impossible.tolist() == [[-1], [2]]


def test_what_forbids_only_the_end():
    end = torch.tensor([-inf])
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(3, 1), end=end))
    assert d.first_impossible.item() == 3
    with pytest.raises(InputError, match=r"past position 3 of 3.*look for what forbids the label of the last"):
        d.check_possible()


def test_durations_that_do_not_fit():
    """Only segments of three positions: five can be segmented up to the third."""
    duration = torch.tensor([[-inf], [-inf], [0.0]])
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(3, 6, 1), duration=duration), [5, 6, 2])
    assert d.first_impossible.tolist() == [3, -1, 0]
