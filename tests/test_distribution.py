"""Every member of the distribution against enumeration: values, and gradients in every tensor given."""

from __future__ import annotations

import math
from typing import Any

import oracle
import pytest
import tables
import torch
from models import (
    BATCH_SHAPES,
    CLASSES,
    EXACT,
    GRID,
    Case,
    allowing,
    case,
    check,
    enumerated,
    f64,
    inf,
    name_of,
    nan,
    of,
    rows_of,
    seeded,
)  # fmt: skip
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from semicrf import Evidence, FactoredPotentials, SegmentPotentials, Segments, SemiCRFDistribution
from semicrf.algebra import (
    KL,
    CrossEntropy,
    Entropy,
    Expectation,
    KMax,
    Log,
    LogCount,
    Max,
    Semiring,
    Std,
    largest,
    lse,
    ratio,
    smallest,
    total,
    weigh,
)  # fmt: skip
from semicrf.engine import ops
from semicrf.errors import InputError, SemiringError

on_the_grid = pytest.mark.parametrize("c", GRID, ids=name_of)
of_every_family = pytest.mark.parametrize("family", CLASSES)
VIEWS = ("boundary", "position", "transition", "duration", "start", "end", "segments", "edge")


def companions(c: Case, n: int, **options: Any) -> list[Case]:
    """n more models like c, of the same family and shape, without holes unless asked for."""
    b, shared = c.batch, any(len(t) < c.batch.B for t in c.batch.parts.values())
    options = {"T": b.T, "shared": shared, "lengths": b.lengths.tolist()} | options
    return [case(c.family, b.K, b.C, c.batch_shape, **({"seed": 1000 + i} | options)) for i in range(n)]


# --- One model ---

ONE = {
    "log_partition": (lambda d: d.log_partition, lambda m, n: oracle.values("Log", m, n)["logz"]),
    "partition": (lambda d: d.partition, lambda m, n: oracle.values("Log", m, n)["logz"]),
    "max": (lambda d: d.max, lambda m, n: oracle.values("Max", m, n)["score"]),
    "kmax(1)": (lambda d: d.kmax(1).movedim(0, -1), lambda m, n: oracle.values("KMax", m, n, k=1)["scores"]),
    "kmax(4)": (lambda d: d.kmax(4).movedim(0, -1), lambda m, n: oracle.values("KMax", m, n, k=4)["scores"]),
    "entropy": (lambda d: d.entropy(), lambda m, n: oracle.values("Entropy", m, n)["h"]),
    "perplexity": (lambda d: d.perplexity(), lambda m, n: oracle.values("Entropy", m, n)["h"].exp()),
    "reduce(Std)": (lambda d: d.reduce(Std).z, lambda m, n: oracle.values("Std", m, n)["z"]),
}


@pytest.mark.parametrize("name", ONE)
@on_the_grid
def test_quantities_of_one_model(c, name):
    of_d, of_oracle = ONE[name]
    check(of_d(c.d), [c], of_oracle)


@on_the_grid
def test_counts(c):
    d = c.d
    check(d.log_count, [c], lambda m, n: oracle.values("LogCount", m, n)["log_count"], gradient=False)
    assert not d.log_count.requires_grad
    assert d.count.dtype == torch.float64
    assert c.flat(d.count).tolist() == [oracle.count(m, n) for m, n in c.sequences()]  # exactly


def test_large_counts():
    """2^39 exactly; 2^60, which no float64 counts up to, to rounding."""
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 60, 2), max_duration=1), [39, 60])
    assert d.count[0].item() == 2**39
    assert d.count[1].item() == pytest.approx(2.0**60, rel=EXACT)


@pytest.mark.parametrize("view", VIEWS)
@on_the_grid
def test_marginals(c, view):
    check(getattr(c.d.marginals, view), [c], lambda m, n: oracle.marginals(m, n)[view])


@on_the_grid
def test_marginals_of_given_segments(c):
    """The best segmentation and two samples: the probability of each segment, 0 at padding."""
    d = c.d
    best, drawn = d.argmax, d.sample((2,), generator=seeded())
    rows = [[tuple(y)] for y in rows_of(best[None], c)]
    for b, samples in enumerate(rows_of(drawn, c)):
        rows[b] = [*rows[b][0], *samples]
    place = {id(t): b for b, t in enumerate(c.batch.lengths)}  # sequences come in order: count them
    seen = iter(range(c.batch.B))
    assert len(place) == c.batch.B

    def expected(m: oracle.Model, n: int) -> Tensor:
        table, N = oracle.marginals(m, n)["segments"], best.start.shape[-1]
        zero = table.sum() * 0.0
        values = [
            torch.stack([table[y[i][0], y[i][1] - y[i][0] - 1, y[i][2]] if i < len(y) else zero for i in range(N)])
            for y in rows[next(seen)]
        ]
        return torch.stack(values)

    given = torch.cat([d.marginals.segment(best)[None], d.marginals.segment(drawn)])
    check(given.movedim(0, -2), [c], expected)


def test_marginals_of_segments_that_no_segmentation_has():
    """Too long, past T or with a label beyond C: probability 0; lists need not tile."""
    d = case("factored", K=2, C=2, batch_shape=(2,)).d
    given = [[(0, 3, 1), (4, 6, 0), (1, 2, 2)], [(0, 1, 1)]]
    found = d.marginals.segment(given)
    assert found.shape == (2, 3)
    assert found[0].tolist() == [0, 0, 0]
    assert found[1].tolist() == [d.marginals.segments[1, 0, 0, 1].item(), 0, 0]


# --- Given segmentations ---


@on_the_grid
def test_scores_and_log_probabilities_of_every_segmentation(c):
    support, columns = enumerated(c)
    assert len(support) == max(len(oracle.paths(m, n)) for m, n in c.sequences())
    for rows, (m, n) in zip(columns, c.sequences(), strict=True):
        listed = [i for i in rows if i is not None]
        assert sorted(listed) == list(range(len(oracle.paths(m, n))))  # each once,
        assert rows[: len(listed)] == listed  # then rows of count 0
    for name in ("score", "log_prob"):
        order = iter(columns)

        def expected(m: oracle.Model, n: int, name=name, order=order) -> Tensor:
            s = oracle.scores(m, n)
            none = torch.full_like(s[0], -inf).detach()
            if name == "log_prob":
                s = s - oracle.values("Log", m, n)["logz"].nan_to_num(neginf=0.0)
            return torch.stack([none if i is None or s[i] == -inf else s[i] for i in next(order)])

        check(getattr(c.d, name)(support).movedim(0, -1), [c], expected)


@pytest.mark.parametrize("batch_shape", BATCH_SHAPES)
def test_what_a_segmentation_may_be_given_as(batch_shape):
    """Segments, nested lists, tuples, and samples with any number of leading axes."""
    c = case("factored", batch_shape=batch_shape)
    d = c.d
    drawn = d.sample((2, 3), generator=seeded())
    for f in (d.score, d.log_prob):
        values = f(drawn)
        assert values.shape == (2, 3, *batch_shape)
        assert torch.equal(values[1, 2], f(drawn[1, 2]))
        assert torch.equal(values[1, 2], f(drawn[1, 2].tolist()))
        assert torch.equal(values[0], f(drawn[0].trim()))
    if batch_shape == (2,):
        assert torch.equal(d.score(tuple(map(tuple, drawn[0, 0].tolist()))), d.score(drawn[0, 0]))


def test_log_prob_of_evidence():
    c = case("factored", batch_shape=(2,))
    labels = torch.tensor([[0, -1, -1, 1, -1], [1, -1, -1, -1, -1]])
    sequence = iter(range(2))

    def expected(m: oracle.Model, n: int) -> Tensor:
        observed = labels[next(sequence)]
        return oracle.log_probability(m, lambda y: oracle.consistent(y, labels=observed), n)

    check(c.d.log_prob(Evidence(labels=labels)), [c], expected)


# --- The best segmentation ---


@of_every_family
@pytest.mark.parametrize("ties", [False, True])
def test_argmax(family, ties):
    """The oracle's best path, by the tie rule, and its score."""
    for seed in range(4):
        c = case(family, ties=ties, holes=0.1, seed=seed)
        best = c.d.argmax
        wanted = [oracle.best_path(m, n) for m, n in c.sequences()]
        assert [y[0] for y in rows_of(best[None], c)] == wanted
        assert best.score is not None
        assert torch.equal(best.score, c.d.max)
        assert best.start.shape[-1] == c.batch.T
        assert c.d.mode == best
        possible = best.count > 0
        tables.assert_values(c.d.score(best), torch.where(possible, best.score, -inf).detach(), EXACT)
        assert not best.score.requires_grad


@of_every_family
def test_gradient_of_max_and_kmax_is_the_indicator_of_their_paths(family):
    """Under ties too: 0 and 1 at the parts that the returned path reads, exactly."""
    c = case(family, ties=True, holes=0.05, seed=3)
    for value in (c.d.max, c.d.kmax(3)[0]):
        grads = torch.autograd.grad(value.sum(), list(c.parts.values()), allow_unused=True)
        for name, grad in zip(c.parts, grads, strict=True):
            assert grad is not None
            for b, (m, n) in enumerate(c.sequences()):
                want = torch.zeros(m.parts[name].shape, dtype=torch.float64)
                for part, index in oracle.terms(oracle.best_path(m, n)) if oracle.best_path(m, n) else ():
                    if part == name:
                        want[index] += 1
                assert torch.equal(grad.reshape(c.batch.B, *want.shape)[b], want)


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


POISON = "engine: NaN or +inf in f's emissions, even where p forbids, spoils the prefix sums of every later position"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        pytest.param(
            part, value, marks=[pytest.mark.xfail(reason=POISON)] if part == "emission" and value != -inf else []
        )
        for part in oracle.FACTORED
        for value in (-inf, nan, inf)
    ],
)
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


# --- reduce ---


class Extremes(Semiring):
    """The lowest and the highest score."""

    fields = "low", "high"
    zero, one = (inf, -inf), (0.0, 0.0)
    lift = lambda w: (w, w)  # noqa: E731
    mul = lambda a, b: (a.low + b.low, a.high + b.high)  # noqa: E731
    sum = lambda x: (smallest(x.low), largest(x.high))  # noqa: E731


class Moments(Semiring):
    """Mean and mean square of a quantity that the second model holds; reads them as a pair and the log-partition."""

    fields = "logz", "mean", "square"
    reads = {"moments": 2, "logz": 1}  # noqa: RUF012
    potentials, gates = 2, 1
    zero, one = (-inf, 0.0, 0.0), (0.0, 0.0, 0.0)

    def lift(w, f):
        return w, f, f * f

    def mul(a, b):
        return a.logz + b.logz, a.mean + b.mean, a.square + 2 * a.mean * b.mean + b.square

    def sum(x):
        logz = lse(x.logz)
        p = ratio(x.logz, logz)
        return logz, total(weigh(p, x.mean)), total(weigh(p, x.square))

    def read(a):
        return (a.mean, a.square), a.logz


@pytest.mark.parametrize(
    ("semiring", "fields"),
    [
        (Log, "logz"), (Max, "score"), (Std, "z"), (KMax(3), "scores"), (Entropy, "logz h"), (LogCount, "logcount"),
        (CrossEntropy, "logp logq h"), (KL, "logp logq kl"), (Expectation, "logz mean"),
    ],
)  # fmt: skip
def test_reduce_with_the_standard_semirings(semiring, fields):
    """A NamedTuple with the fields of the table, whether a class, an instance or a name is given."""
    for batch_shape in BATCH_SHAPES:
        c, q = case("factored", batch_shape=batch_shape), case("edge", batch_shape=batch_shape, seed=1)
        others = [q] * (semiring.potentials - 1)
        result = c.d.reduce(semiring, *(o.potentials for o in others))
        assert isinstance(result, tuple)
        assert result._fields == tuple(fields.split())
        for value in result:
            assert value.shape == (batch_shape if semiring is not KMax(3) else (*batch_shape, 3))
            assert value.dtype == torch.float64
        spellings = [semiring(), *([semiring.__name__, semiring.__name__.lower()] if semiring is not KMax(3) else [])]
        for spelling in spellings:
            again = c.d.reduce(spelling, *(o.d for o in others))
            assert all(torch.equal(a, b) for a, b in zip(again, result, strict=True))
        row = next(r for r in tables.SEMIRINGS.values() if r.semiring is semiring)
        columns = [v if v.dim() > len(batch_shape) else v[..., None] for v in result]
        check(torch.cat(columns, -1), [c, *others], lambda *m, row=row: row.enumerate(m[:-1], m[-1]))


@on_the_grid
def test_reduce_with_a_user_semiring(c):
    def lowest_and_highest(m: oracle.Model, n: int) -> Tensor:
        s = oracle.scores(m, n)
        possible = s[s.detach() > -inf]
        none = (s[:0].sum() + f64([inf, -inf])).unbind()
        return torch.stack((possible.min(), possible.max()) if len(possible) else none)

    found = c.d.reduce(Extremes)
    assert found._fields == ("low", "high")
    check(torch.stack(found, -1), [c], lowest_and_highest)


def test_reduce_with_a_user_semiring_of_two_models():
    """Gradients flow to both; a field of two scalars has an axis of its own."""
    c, f = case("factored", holes=0.05), case("duration_transition", seed=1)
    found = c.d.reduce(Moments, f.potentials)
    assert found._fields == ("moments", "logz")
    assert found.moments.shape == (2, 3, 2)

    def moments(m: oracle.Model, f: oracle.Model, n: int) -> Tensor:
        p, v = oracle.probabilities(m, n), oracle.scores(f, n)
        return torch.stack([(p * v).sum(), (p * v * v).sum()])

    check(found.moments, [c, f], moments)
    tables.assert_values(found.moments[..., 1] - found.moments[..., 0] ** 2, c.d.variance(f.potentials).detach(), EXACT)


def test_reduce_refuses():
    p, q = case("factored").d, case("factored", K=2).d
    for others, message in [
        ((), r"reduce\(KL\): got 1 models; expected 2\. Likely fix: give the second"),
        ((p, p), "got 3 models; expected 2"),
        ((q,), r"other model: got \(batch, T, K, C, dtype\).*pad durations"),
        ((p[0],), "other model: got"),
        ((p.to(torch.float32),), "other model: got"),
        ((3,), "other model: got a int; expected potentials or a SemiCRFDistribution"),
        ((SemiCRFDistribution(p.potentials, validate_args=False),), "other model: got lengths"),
    ]:
        with pytest.raises(InputError, match=message):
            p.reduce(KL, *others)
    for semiring in ("entropie", int, 3):
        with pytest.raises(SemiringError, match="expected"):
            p.reduce(semiring)  # pyright: ignore[reportArgumentType]
    for k in (0, 17):
        with pytest.raises(SemiringError, match=f"got k = {k}; expected 1..16"):
            p.kmax(k)


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
        with pytest.raises(InputError, match="temperature: got .*; expected numbers above 0"):
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
    with pytest.raises(RuntimeError):
        case(family, batch_shape=(2,)).d.expand((3,))


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
    assert [y for y in d.enumerate_support()[:, 0].tolist()] == [
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
                d = SemiCRFDistribution(CLASSES[family](**alone), int(c.batch.lengths[b]))
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
        "log_partition": (d.log_partition, -inf), "max": (d.max, -inf), "log_count": (d.log_count, -inf), "count": (d.count, 0),
        "kmax": (d.kmax(2).movedim(0, -1), -inf), "entropy": (d.entropy(), 0), "kl": (d.kl(f.d), 0),
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


# --- How it computes ---


def test_nothing_is_computed_until_asked(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    for name in ("scan", "scan_vjp", "best_path", "sample"):
        monkeypatch.setattr(ops, name, refuse)
    d = case("factored").d
    e = Evidence(labels=torch.zeros(2, 3, 5).long())
    for lazy in (
        d,
        d[0],
        d.expand((4, 2, 3)),
        d.condition(e),
        d.with_temperature(2.0),
        d.to(torch.float32),
        d.detach(),
    ):
        assert lazy.marginals is not None
        for eager in (
            lambda d: d.log_partition,
            lambda d: d.marginals.position,
            lambda d: d.argmax,
            lambda d: d.sample(),
        ):
            with pytest.raises(AssertionError, match="computed"):
                eager(lazy)


def test_marginals_keep_what_they_have_computed(monkeypatch):
    """One reverse sweep for all views of the inputs' size; but what no_grad computed does not serve a graph, nor the reverse."""
    sweeps, original = [], ops.scan_vjp
    monkeypatch.setattr(ops, "scan_vjp", lambda *a: sweeps.append(1) or original(*a))
    marginals = case("factored").d.marginals
    with torch.no_grad():
        assert not marginals.position.requires_grad
        assert not marginals.transition.requires_grad
    assert len(sweeps) == 1
    assert marginals.position.requires_grad
    assert marginals.start.requires_grad
    assert len(sweeps) == 2
    with torch.no_grad():
        assert not marginals.position.requires_grad
    assert len(sweeps) == 2


def test_segment_potentials_equal_the_factored_scores_they_add_up():
    """The same model written in three classes: the same distribution."""
    c = case("factored", batch_shape=(2,), lengths=(5, 5))
    p, (T, K, C) = c.parts, (5, 3, 2)
    segment = torch.full((2, T, K, C), nan, dtype=torch.float64)
    for s in range(T):
        for k in range(1, min(K, T - s) + 1):
            content = p["emission"][:, s : s + k].sum(1) + p["duration"][:, k - 1]
            segment[:, s, k - 1] = (content + p["segment_start"][:, s] + p["segment_end"][:, s + k - 1]).detach()
    ends = {n: p[n].detach() for n in ("start", "end")}
    by_segment = SemiCRFDistribution(SegmentPotentials(segment, p["transition"].detach(), **ends))
    edge = segment[:, :, :, None] + p["transition"].detach()[:, None, None]
    edge[:, 0, :, 0] = segment[:, 0] + ends["start"][:, None]
    by_edge = SemiCRFDistribution(CLASSES["edge"](edge, end=ends["end"]))
    for d in (by_segment, by_edge):
        tables.assert_values(d.log_partition, c.d.log_partition.detach(), EXACT)
        tables.assert_values(d.marginals.segments, c.d.marginals.segments.detach(), EXACT)
        tables.assert_values(c.d.kl(d), torch.zeros(2), EXACT)


def test_second_derivatives():
    """The Hessian of log Z is the covariance of what the parts count; a penalty on its gradient trains."""
    c = case("factored", batch_shape=(2,))

    def penalty(logz: Tensor, leaves: list[Tensor]) -> Tensor:
        grads = torch.autograd.grad(logz, leaves, create_graph=True)
        return torch.stack([(g**3).sum() for g in grads]).sum()

    parts = list(c.parts.values())
    found = torch.autograd.grad(penalty(c.d.log_partition.sum(), parts), parts)
    rows = []
    for m, n in c.sequences():
        own = [m.parts[name] for name in c.parts]
        value = penalty(oracle.values("Log", m, n)["logz"], own)
        rows.append(torch.autograd.grad(value, own))
    for name, grad, want in zip(c.parts, found, zip(*rows, strict=True), strict=True):
        tables.assert_gradient(name, grad, want, EXACT)


def test_results_are_segments():
    assert isinstance(case("factored").d.argmax, Segments)
    assert isinstance(case("factored").d.sample((2,)), Segments)
