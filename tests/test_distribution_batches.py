"""Distributions made from distributions, batch shapes, and sequences that are impossible."""

from __future__ import annotations

import math

import oracle
import pytest
import tables
import torch
from models import (
    CLASSES,
    EXACT,
    VIEWS,
    case,
    f64,
    inf,
    nan,
    of,
    of_every_family,
    seeded,
)
from torch.distributions import Distribution

from semicrf import Evidence, FactoredPotentials, SemiCRFDistribution
from semicrf.algebra import (
    Std,
)  # fmt: skip
from semicrf.errors import InputError

# --- Temperature, conditioning, batches ---


@of_every_family
def test_with_temperature(family):
    """Scores divided by t, one for all or one per sequence; differentiable in t, with holes too."""
    c = case(family, holes=0.05, shared=True)
    single, several = f64(0.7, requires_grad=True), f64([[0.5, 1.0, 2.0], [3.0, 0.3, 1.5]], requires_grad=True)
    for t in (single, several):
        d = c.d.with_temperature(t)
        grad_t, *grads = torch.autograd.grad((d.entropy() + d.log_partition).sum(), [t, *c.parts.values()])
        rows, values = [], []
        for b, (m, n) in enumerate(c.sequences()):
            own = t.detach().expand(2, 3).reshape(-1)[b].clone().requires_grad_()
            s = oracle.scores(m, n)
            possible = s[s.detach() > -inf] / own
            log_p = possible - possible.logsumexp(0)
            if len(possible) == 0:
                values.append(-inf)
                rows.append([torch.zeros(()), *(torch.zeros_like(m.parts[name]) for name in c.parts)])
                continue
            value = -(log_p.exp() * log_p).sum() + possible.logsumexp(0)
            values.append(value.item())
            inputs = [own, *(m.parts[name] for name in c.parts)]
            rows.append(torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True))
        tables.assert_values((d.entropy() + d.log_partition).flatten(), f64(values), EXACT)
        per_sequence = torch.stack([r[0] for r in rows]).double()
        want = per_sequence.sum() if t is single else per_sequence.reshape(2, 3)
        tables.assert_gradient("t", grad_t[None], [want], EXACT)
        for name, grad, want_rows in zip(c.parts, grads, zip(*(r[1:] for r in rows), strict=True), strict=True):
            tables.assert_gradient(name, grad.reshape(c.batch.parts[name].shape), want_rows, EXACT)


def test_with_temperature_of_numbers():
    d = case("factored", batch_shape=(2,)).d
    assert torch.equal(d.with_temperature(2).log_partition, d.with_temperature(f64([2.0, 2.0])).log_partition)
    assert torch.equal(d.with_temperature(inf).entropy(), d.with_temperature(f64(inf)).entropy())
    tables.assert_values(d.with_temperature(inf).entropy(), d.log_count, EXACT)
    for t in (0.0, -1.0, nan, f64([1.0, 0.0])):
        with pytest.raises(InputError, match=r"temperature: got .*; expected numbers above 0"):
            d.with_temperature(t)
    with pytest.raises(InputError, match=r"temperature: got shape \(3,\); expected \(\) or \(2,\)"):
        d.with_temperature(torch.ones(3))


INDICES = [0, -1, slice(1, None), (1, 2), (slice(None), 1), (..., 1), (1, ...), [1, 0], ([0, 1], [2, 0]), None]


@of_every_family
@pytest.mark.parametrize("index", [*INDICES, torch.tensor([[True, False, True], [False, True, True]])], ids=str)
def test_indexing(family, index):
    """As a tensor of the batch shape is indexed; shared parts stay shared."""
    for shared in (False, True):
        c = case(family, shared=shared)
        d, part = c.d, c.d[index]
        assert part.batch_shape == d.log_partition[index].shape
        assert torch.equal(part.lengths, d.lengths[index])
        assert torch.equal(part.log_partition, d.log_partition[index])
        wanted = d.marginals.segments.movedim((-3, -2, -1), (0, 1, 2))[(slice(None),) * 3][..., :, :]
        wanted = torch.stack([row[index] for row in wanted.flatten(0, 2)], -1)
        assert torch.equal(part.marginals.segments.flatten(-3), wanted)


def test_indexing_twice_and_iterating():
    d = case("factored").d
    assert torch.equal(d[1][2].log_partition, d[1, 2].log_partition)
    assert len(d) == 2
    assert len(d[0]) == 3
    assert torch.equal(torch.stack([x.log_partition for x in d]), d.log_partition)
    for index in (2, (0, 3)):
        with pytest.raises(IndexError):
            d[index]
    one = d[0, 0]
    with pytest.raises(InputError, match=r"index: got 0; expected a batch to index"):
        one[0]
    with pytest.raises(TypeError, match=r"batch shape \(\)"):
        len(one)


def test_conditioning_keeps_its_marks_under_indexing_and_expansion():
    d = case("factored").d
    boundary = torch.full((2, 3, 5), -1)
    boundary[0, 1, 0], boundary[1, 2, 2], boundary[0, 0, 3] = 1, 1, 1
    given = d.condition(Evidence(boundary=boundary))
    assert torch.equal(given[1, 2].log_partition, given.log_partition[1, 2])
    assert torch.equal(given[0].expand((4, 3)).log_partition, given.log_partition[0].expand(4, 3))
    assert torch.equal(given.to(torch.float32).marginals.boundary[1, 2, 2], torch.ones(()))


@of_every_family
@pytest.mark.parametrize(("before", "after"), [((), (2, 3)), ((2,), (3, 2)), ((2, 1), (2, 3)), ((1,), (4,))])
def test_expand(family, before, after):
    for shared in (False, True):
        c = case(family, batch_shape=before, shared=shared)
        wide = c.d.expand(after)
        assert wide.batch_shape == after
        assert torch.equal(wide.log_partition, c.d.log_partition.expand(after))
        assert torch.equal(wide.marginals.position, c.d.marginals.position.expand(*after, -1, -1))
        parts = list(c.parts.values())
        weight = torch.rand(after, generator=seeded(), dtype=torch.float64)
        grads = torch.autograd.grad((weight * wide.entropy()).sum(), parts)
        wanted = torch.autograd.grad((weight * c.d.entropy().expand(after)).sum(), parts)
        for name, grad, want in zip(c.parts, grads, wanted, strict=True):
            tables.assert_gradient(name, grad[None], [want], EXACT)


def test_to_and_detach():
    c = case("duration_transition")
    d = c.d
    single = d.to(torch.float32)
    assert single.dtype == single.log_partition.dtype == torch.float32
    tables.assert_values(single.log_partition, d.log_partition.detach(), tables.TOLERANCE[torch.float32])
    grads = torch.autograd.grad(single.log_partition.sum(), list(c.parts.values()))
    assert all(g.dtype == torch.float64 and g.isfinite().all() for g in grads)
    assert d.to("cpu").dtype == torch.float64
    detached = d.detach()
    assert d.entropy().requires_grad
    assert not detached.entropy().requires_grad
    assert torch.equal(detached.entropy(), d.entropy())
    assert torch.equal(detached.lengths, d.lengths)


def test_repr():
    p = FactoredPotentials(torch.zeros(2, 5, 3), duration=torch.zeros(4, 3))
    d = SemiCRFDistribution(p, backend="reference")
    wanted = "SemiCRFDistribution(batch_shape=(2,), T=5, K=4, C=3, dtype=torch.float32, device=cpu, backend=reference)"
    assert repr(d) == wanted
    assert repr(p) == "FactoredPotentials(batch_shape=(2,), T=5, K=4, C=3, parts=['emission', 'duration'])"
    assert "torch.bfloat16" in repr(d.to(torch.bfloat16))
    assert repr(d.condition(Evidence(boundary=torch.ones(2, 5).long()))) == wanted


def test_it_is_a_torch_distribution():
    d = case("factored").d
    assert isinstance(d, Distribution)
    assert d.batch_shape == (2, 3)
    assert d.event_shape == ()
    assert d.has_enumerate_support


def test_enumerate_support():
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 3, 1), max_duration=2), [3, 1])
    assert d.enumerate_support()[:, 0].tolist() == [
        [(0, 1, 0), (1, 2, 0), (2, 3, 0)],
        [(0, 1, 0), (1, 3, 0)],
        [(0, 2, 0), (2, 3, 0)],
    ]
    assert d.enumerate_support().count.tolist() == [[3, 1], [2, 0], [2, 0]]
    assert d.enumerate_support(expand=False) == d.enumerate_support()
    for c in (case("segment"), case("edge", batch_shape=())):
        assert c.d.enumerate_support().batch_shape[1:] == c.batch_shape
    with pytest.raises(InputError, match=r"enumerate_support: got \d+ segmentations; expected at most 1000000"):
        SemiCRFDistribution(FactoredPotentials(torch.zeros(20, 3))).enumerate_support()


def test_batch_shapes_hold_the_same_sequences():
    """A batch (2, 3), its rows and its sequences alone: the same numbers, shared parameters or not."""
    for family in CLASSES:
        for shared in (False, True):
            c = case(family, shared=shared, holes=0.05)
            for b, (i, j) in enumerate((i, j) for i in range(2) for j in range(3)):
                alone = {n: (t if t.dim() == c.batch.parts[n].dim() - 1 else t[i, j]) for n, t in c.parts.items()}
                d = SemiCRFDistribution(CLASSES[family](**alone), c.batch.lengths[b])
                assert d.batch_shape == ()
                for f in (lambda d: d.log_partition, lambda d: d.entropy(), lambda d: d.marginals.position):
                    tables.assert_values(f(d), f(c.d)[i, j].detach(), EXACT)


def test_an_empty_batch():
    p = FactoredPotentials(torch.zeros(0, 4, 2), torch.zeros(2, 2, requires_grad=True))
    d = SemiCRFDistribution(p, torch.zeros(0, dtype=torch.int64))
    assert d.log_partition.shape == d.entropy().shape == d.max.shape == d.count.shape == (0,)
    assert d.marginals.edge.shape == (0, 4, 4, 2, 2)
    assert d.argmax.batch_shape == (0,)
    assert d.log_prob(d.argmax).shape == (0,)
    assert d.log_prob(d.sample((3,))).shape == (3, 0)
    assert case("factored").d.sample((0,)).batch_shape == (0, 2, 3)
    d.log_partition.sum().backward()


# --- Impossible sequences ---


@of_every_family
@pytest.mark.parametrize("shared", [False, True])
def test_one_impossible_sequence_of_a_batch(family, shared):
    """All as the contract says; the others are untouched, to the bit."""
    whole = case(family, shared=shared, lengths=(5, 4, 5, 3, 5, 2))
    dead = {n: t.clone() for n, t in whole.batch.parts.items()}
    for name in set(dead) & set(oracle.POSITIONAL):
        dead[name][2, 1] = -inf  # no segment starts at 1, holds it or ends with it:
        dead[name][2, 0] = -inf  # nor at 0
    c = of(family, whole.batch.replace(dead), whole.batch_shape)
    d, f = c.d, case(family, seed=1, lengths=c.batch.lengths.tolist())
    dirty, others = (0, 2), torch.ones(2, 3, dtype=torch.bool)
    others[dirty] = False
    values = {
        "log_partition": (d.log_partition, -inf), "max": (d.max, -inf), "log_count": (d.log_count, -inf),
        "count": (d.count, 0), "kmax": (d.kmax(2).movedim(0, -1), -inf), "entropy": (d.entropy(), 0),
        "kl": (d.kl(f.d), 0),
        "cross_entropy": (d.cross_entropy(f.d), 0), "expectation": (d.expectation(f.potentials), 0),
        "variance": (d.variance(f.potentials), 0), "z": (d.reduce(Std).z, 0),
        "log_prob": (d.log_prob(d.argmax), -inf), "score": (d.score(d.argmax), -inf),
        **{view: (getattr(d.marginals, view), 0) for view in VIEWS},
    }  # fmt: skip
    healthy = whole.d
    for name, (value, wanted) in values.items():
        assert (value[dirty] == wanted).all(), name
        assert not value.isnan().any(), name
        if value.requires_grad:
            grads = torch.autograd.grad(
                value[dirty].sum(), list(c.parts.values()), retain_graph=True, allow_unused=True
            )
            assert all((g == 0).all() for g in grads if g is not None), name
    for value, clean in [
        (d.log_partition, healthy.log_partition), (d.max, healthy.max), (d.entropy(), healthy.entropy()),
        (d.marginals.segments, healthy.marginals.segments), (d.variance(f.potentials), healthy.variance(f.potentials)),
    ]:  # fmt: skip
        assert torch.equal(value[others], clean[others])
    best = d.argmax
    assert best.count[dirty] == 0
    assert (best.start[dirty] == -1).all()
    assert best.score is not None
    assert best.score[dirty] == -inf
    assert best[others] == healthy.argmax[others]
    for x in (best, best[dirty], d.sample(generator=seeded())):
        with pytest.raises(InputError, match="count 0; expected at least one segment"):
            x.tolist()
    assert d.perplexity()[dirty] == 1
    given = d.condition(Evidence(labels=torch.zeros(2, 3, 5).long()))
    assert given.log_partition[dirty] == -inf
    assert d.log_prob(Evidence(labels=torch.zeros(2, 3, 5).long()))[dirty] == -inf


def test_a_forbidden_segmentation_of_a_possible_model():
    """log_prob -inf, without gradient: an infinite loss moves nothing."""
    emission = torch.zeros(4, 2, dtype=torch.float64)
    emission[1, 0] = -inf
    emission.requires_grad_()
    d = SemiCRFDistribution(FactoredPotentials(emission, max_duration=2))
    for value in ([(0, 2, 0), (2, 4, 1)], Evidence(labels=torch.tensor([0, 0, -1, -1]))):
        log_p = d.log_prob(value)
        assert log_p == -inf
        assert (torch.autograd.grad(log_p, emission)[0] == 0).all()


def test_a_minimum_duration_longer_than_a_sequence():
    """A hole in shared parameters makes one sequence impossible, as minimum durations do."""
    duration = torch.zeros(4, 2)
    duration[0] = -inf
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(3, 4, 2), duration=duration), [1, 2, 3])
    assert d.count.tolist() == [0, 2, 2]
    assert d.entropy().tolist() == pytest.approx([0, math.log(2), math.log(2)])


# --- Arguments that torch would refuse in words of its own ---


def test_a_sample_shape_is_a_tuple():
    d = case("factored", batch_shape=(2,)).d
    with pytest.raises(InputError, match=r"sample_shape: got 3; expected a tuple of sizes\. Likely fix: \(3,\)"):
        d.sample(3)  # pyright: ignore[reportArgumentType]  what is refused
    for bad in ((2.0,), "3", (-1,), None, torch.ones(1)):
        with pytest.raises(InputError, match=r"sample_shape: got .*; expected a tuple of sizes"):
            d.sample(bad)  # pyright: ignore[reportArgumentType]  what is refused
    assert d.sample([2]).batch_shape == d.sample(torch.Size((2,))).batch_shape == (2, 2)


def test_expand_to_a_shape_that_does_not_fit():
    d = case("factored", batch_shape=(2, 1)).d
    assert d.expand((3, 2, 4)).batch_shape == (3, 2, 4)
    for bad in ((2,), (3, 1), (3, 3, 1), ()):
        with pytest.raises(InputError, match=r"batch_shape: got \(.*expected a shape that \(2, 1\) broadcasts to"):
            d.expand(bad)
    with pytest.raises(InputError, match=r"batch_shape: got 4; expected a tuple of sizes\. Likely fix: \(4,\)"):
        d.expand(4)  # pyright: ignore[reportArgumentType]  what is refused
