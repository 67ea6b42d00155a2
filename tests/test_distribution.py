"""Every member of the distribution against enumeration: values, and gradients in every tensor given."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import (
    BATCH_SHAPES,
    CLASSES,
    EXACT,
    VIEWS,
    case,
    check,
    enumerated,
    inf,
    nan,
    of_every_family,
    on_the_grid,
    rows_of,
    seeded,
)
from torch import Tensor

from semicrf import Evidence, FactoredPotentials, SegmentPotentials, Segments, SemiCRFDistribution
from semicrf.algebra import (
    Std,
)  # fmt: skip
from semicrf.engine import ops

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


@on_the_grid
def test_marginals(c):
    """Every view: its values, then the gradient of all of them in one."""
    views, n = {view: getattr(c.d.marginals, view) for view in VIEWS}, len(c.batch_shape)
    for (m, length), b in zip(c.sequences(), range(c.batch.B), strict=True):
        wanted = oracle.marginals(m, length)
        for view, value in views.items():
            tables.assert_values(c.flat(value)[b], wanted[view].detach(), EXACT)

    def together(of: dict[str, Tensor], lead: int) -> Tensor:
        return torch.cat([of[view].flatten(lead) for view in VIEWS], -1)

    check(together(views, n), [c], lambda m, length: together(oracle.marginals(m, length), 0))


@on_the_grid
def test_expected_numbers_of_segments_and_of_positions_per_label(c):
    def counted(weight):
        def expected(m: oracle.Model, n: int) -> Tensor:
            rows = [
                [sum(weight(s, e) for s, e, x in y if x == label) for label in range(m.C)] for y in oracle.paths(m, n)
            ]
            return oracle.probabilities(m, n) @ torch.tensor(rows, dtype=torch.float64)

        return expected

    check(c.d.marginals.segments_per_label, [c], counted(lambda s, e: 1))
    check(c.d.marginals.positions_per_label, [c], counted(lambda s, e: e - s))


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
        return oracle.log_probability(m, lambda y: oracle.consistent(y, labels=observed.tolist()), n)

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
    """One reverse sweep for all views of the inputs' size; what no_grad computed serves no graph, nor the reverse."""
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
