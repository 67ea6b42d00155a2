"""The k best segmentations against enumeration, and on long inputs against what has to hold."""

from __future__ import annotations

import itertools

import oracle
import pytest
import tables
import torch
from models import EXACT, Case, case, f64, inf, of_every_family, on_the_grid, rows_of, seeded

from semicrf import Evidence, FactoredPotentials, InputError, SegmentPotentials, SemiCRFDistribution
from semicrf.engine import kbest


def ordered(y: oracle.Segmentation) -> bool:
    """Whether durations never increase inside a run of equal labels."""
    return all(a[2] != b[2] or a[1] - a[0] >= b[1] - b[0] for a, b in itertools.pairwise(y))


def expected(c: Case, k: int, canonical: bool) -> list[torch.Tensor]:
    """The k best scores of each sequence, among all segmentations or those in order, filled with -inf."""
    wanted = []
    for m, n in c.sequences():
        scores = [
            s
            for s, y in zip(oracle.scores(m, n).tolist(), oracle.paths(m, n), strict=True)
            if not canonical or ordered(y)
        ]
        best = sorted((s for s in scores if s > -inf), reverse=True)[:k]
        wanted.append(f64(best + [-inf] * (k - len(best))))
    return wanted


@on_the_grid
@pytest.mark.parametrize("canonical", [False, True])
def test_topk_is_exact_distinct_and_in_order(c, canonical):
    k = 50  # more than some of the sequences have
    segments, scores = c.d.topk(k, canonical=canonical)
    assert scores.shape == segments.batch_shape == (k, *c.batch_shape)
    flat = c.flat(scores.detach(), 1)
    assert (flat[1:] <= flat[:-1]).all()
    own = c.flat(c.d.score(segments).detach(), 1)
    for b, (rows, want) in enumerate(zip(rows_of(segments, c), expected(c, k, canonical), strict=True)):
        tables.assert_values(flat[:, b], want, EXACT)
        tables.assert_values(own[:, b], want, EXACT)
        found = [y for y in rows if y]
        assert len(set(found)) == len(found) == int((want > -inf).sum())
        assert not any(rows[len(found) :])
        assert not canonical or all(map(ordered, found))


@of_every_family
def test_ties_too(family):
    """Scores that are equal exactly: every one of them once, the first as the rule for ties has it."""
    for seed in range(4):
        c = case(family, ties=True, holes=0.1, seed=seed)
        segments, scores = c.d.topk(40)
        assert segments[0] == c.d.argmax
        assert torch.equal(scores[0], c.d.max)
        for b, (rows, want) in enumerate(zip(rows_of(segments, c), expected(c, 40, False), strict=True)):
            assert torch.equal(c.flat(scores, 1)[:, b], want)
            found = [y for y in rows if y]
            assert len(set(found)) == len(found) == int((want > -inf).sum())


@of_every_family
@pytest.mark.parametrize("canonical", [False, True])
def test_the_gradient_of_a_score_is_the_indicator_of_its_segmentation(family, canonical):
    c = case(family, batch_shape=(2,), holes=0.03, seed=1)
    segments, scores = c.d.topk(6, canonical=canonical)
    for r in range(6):
        finite = torch.where(scores[r] > -inf, scores[r], 0.0)
        grads = torch.autograd.grad(finite.sum(), list(c.parts.values()), retain_graph=True, allow_unused=True)
        rows = rows_of(segments[r : r + 1], c)
        for name, grad in zip(c.parts, grads, strict=True):
            for b, (m, _) in enumerate(c.sequences()):
                want = torch.zeros(m.parts[name].shape, dtype=torch.float64)
                for part, index in oracle.terms(rows[b][0]) if rows[b][0] else ():
                    if part == name:
                        want[index] += 1
                assert grad is not None
                assert torch.equal(grad[b], want)


def test_few_thousand_of_a_long_sequence():
    """As many as asked for, distinct, in order, each with the score that it says; the first ones as KMax has them."""
    T, K, C, k = 300, 20, 5, 3000
    g = seeded(3)
    parts = [torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, T, C), (C, C), (K, C))]
    d = SemiCRFDistribution(FactoredPotentials(*parts), [T, 7 * T // 10])
    for canonical in (False, True):
        segments, scores = d.topk(k, canonical=canonical)
        assert (scores[1:] <= scores[:-1]).all()
        tables.assert_values(d.score(segments), scores, tables.LONG[1.0])
        for b in range(2):
            listed = segments[:, b].tolist()
            assert len(set(map(tuple, listed))) == k
            assert not canonical or all(map(ordered, listed))
    tables.assert_values(d.topk(8)[1], d.kmax(8), tables.LONG[1.0])
    assert torch.equal(d.topk(20)[1], d.topk(k)[1][:20])
    assert d.topk(20)[0] == d.topk(k)[0][:20]


def test_what_little_is_lost_beside_large_scores():
    """K = 1 without transitions: positions are independent, so what the best lose are sums of the smallest gaps."""
    T, C, k = 20_000, 3, 20
    emission = 5 * torch.randn(T, C, generator=seeded(1), dtype=torch.float64)
    _, scores = SemiCRFDistribution(FactoredPotentials(emission, max_duration=1)).topk(k)
    gaps = emission.amax(-1, keepdim=True) - emission
    second = gaps.topk(2, -1, largest=False).values[:, 1]  # one other label at each position: the third is far away
    least = second.sort().values[:12].tolist()
    sums = sorted(sum(g) for n in range(len(least) + 1) for g in itertools.combinations(least, n))
    assert scores[0] > 4e4
    assert scores[0] - scores[-1] < 0.05
    assert (scores[0] - scores - f64(sums[:k])).abs().max() < 1e-10


@pytest.mark.parametrize("canonical", [False, True])
def test_heaps_that_need_more_room(monkeypatch, canonical):
    """The search begins anew with more of it, and finds the same."""
    emission = torch.randn(2, 40, 4, generator=seeded(2), dtype=torch.float64)
    d = SemiCRFDistribution(FactoredPotentials(emission, max_duration=6), [40, 25])
    want = d.topk(50, canonical)
    rooms: list[int] = []
    search = kbest.search
    monkeypatch.setattr(kbest, "ROOM", 1)
    monkeypatch.setattr(kbest, "search", lambda *a: rooms.append(len(a[3].loss)) or search(*a))
    segments, scores = d.topk(50, canonical)
    assert rooms[1] == 4 * rooms[0]
    assert segments == want[0]
    assert torch.equal(scores, want[1])


def test_kinds_of_models_and_evidence():
    """Evidence holds in the list; an impossible sequence has none; the batch may be empty or its models float32."""
    c = case("factored", batch_shape=(2,), T=5)
    e = Evidence(labels=torch.tensor([[0, -1, -1, 1, -1], [1, -1, -1, -1, -1]]))
    segments, scores = c.d.condition(e).topk(30)
    for b, (m, n) in enumerate(c.sequences()):
        agree = [
            s for s, y in zip(oracle.scores(m, n).tolist(), oracle.paths(m, n), strict=True)
            if oracle.consistent(y, labels=e.labels[b])  # pyright: ignore[reportOptionalSubscript]  given above
        ]  # fmt: skip
        want = sorted(agree, reverse=True)[:30]
        tables.assert_values(scores[:, b].detach(), f64(want + [-inf] * (30 - len(want))), EXACT)
    none = SemiCRFDistribution(FactoredPotentials(torch.full((1, 3, 2), -inf)))
    for canonical in (False, True):
        segments, scores = none.topk(2, canonical)
        assert segments.count.tolist() == [[0], [0]]
        assert scores.tolist() == [[-inf], [-inf]]
        empty = SemiCRFDistribution(FactoredPotentials(torch.zeros(0, 3, 2))).topk(2, canonical)
        assert empty[0].batch_shape == empty[1].shape == (2, 0)
    single = c.d.to(torch.float32).topk(5)
    assert single[1].dtype == torch.float32
    assert single[0][0] == c.d.argmax


@pytest.mark.parametrize("backend", ["reference", "blocked", "cpu"])
def test_the_same_list_whatever_the_backend(backend):
    c = case("factored", ties=True, seed=2)
    d = SemiCRFDistribution(c.potentials, c.lengths, backend=backend)
    assert d.topk(30)[0] == c.d.topk(30)[0]


def test_durations_far_beyond_the_lengths_and_single_labels():
    segment = torch.randn(3, 7, 1, generator=seeded(), dtype=torch.float64)
    d = SemiCRFDistribution(SegmentPotentials(segment))
    segments, scores = d.topk(9)
    assert (scores > -inf).tolist() == [True] * 4 + [False] * 5
    assert sorted(map(tuple, (segments[r].tolist() for r in range(4)))) == [
        ((0, 1, 0), (1, 2, 0), (2, 3, 0)), ((0, 1, 0), (1, 3, 0)), ((0, 2, 0), (2, 3, 0)), ((0, 3, 0),),
    ]  # fmt: skip


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_k_is_a_count(k):
    with pytest.raises(InputError, match=r"k: got .*; expected an integer of at least 1"):
        case("factored").d.topk(k)
