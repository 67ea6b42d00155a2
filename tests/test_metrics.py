"""Measures of segmentations: by hand, by brute force over what they define, and against other libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tilings import NAMES

from semicrf.errors import InputError
from semicrf.metrics import (
    Scores,
    boundary_scores,
    calibration,
    confusion,
    covering,
    entity_scores,
    hausdorff,
    matches,
    position_scores,
    reliability,
    segment_scores,
)
from semicrf.segments import Segments

inf = float("inf")


@st.composite
def labels(draw, size: int | None = None, num_labels: int = 3):
    """Labels of 1 to 14 positions, or of `size`."""
    n = draw(st.integers(1, 14)) if size is None else size
    return draw(st.lists(st.integers(0, num_labels - 1), min_size=n, max_size=n))


@st.composite
def two(draw, num_labels: int = 3):
    """Two tilings of one length: nested lists."""
    n = draw(st.integers(1, 14))

    def one() -> list:
        starts = [0, *sorted(draw(st.sets(st.integers(1, n - 1)))), n] if n > 1 else [0, 1]
        return [(s, e, draw(st.integers(0, num_labels - 1))) for s, e in pairwise(starts)]

    return one(), one()


def largest_matching(edges: list[list[int]]) -> int:
    """Kuhn's augmenting paths: row i may take the columns edges[i]."""
    taken: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j in edges[i]:
            if j not in seen:
                seen.add(j)
                if j not in taken or place(taken[j], seen):
                    taken[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(edges)))


# ------------------------------------------------------------------------------------- precision, recall and F1
@given(two(), st.integers(0, 4), st.sampled_from([None, [1], [0, 2]]))
def test_segment_scores_are_those_of_the_largest_matching(rows, tolerance, of):
    gold, predicted = ([s for s in row if of is None or s[2] in of] for row in rows)
    near = [
        [j for j, p in enumerate(predicted) if p[2] == g[2] and max(abs(p[0] - g[0]), abs(p[1] - g[1])) <= tolerance]
        for g in gold
    ]
    expected = Scores.of(len(gold), len(predicted), largest_matching(near))
    assert segment_scores(*map(Segments.from_list, rows), tolerance=tolerance, labels=of) == expected


@given(two(), st.integers(0, 4))
def test_boundary_scores_are_those_of_the_largest_matching(rows, tolerance):
    gold, predicted = ([s[0] for s in row if s[0] > 0] for row in rows)
    near = [[j for j, p in enumerate(predicted) if abs(p - g) <= tolerance] for g in gold]
    expected = Scores.of(len(gold), len(predicted), largest_matching(near))
    assert boundary_scores(*map(Segments.from_list, rows), tolerance=tolerance) == expected


@given(two())
def test_positions_are_counted_one_by_one(rows):
    gold, predicted = ([label for s, e, label in row for _ in range(s, e)] for row in rows)
    table = torch.zeros(3, 3, dtype=torch.int64)
    for a, b in zip(gold, predicted, strict=True):
        table[a, b] += 1
    segments = [Segments.from_list(row) for row in rows]
    assert torch.equal(confusion(*segments, num_labels=3), table)
    for of in ([0], [1, 2]):
        expected = Scores.of(int(table[of].sum()), int(table[:, of].sum()), int(table.diagonal()[of].sum()))
        assert position_scores(*segments, labels=of) == expected


def test_scores_sum_over_the_batch_and_a_sequence_without_segments_holds_none():
    gold = Segments.from_list([[(0, 2, 1), (2, 5, 0)], [(0, 3, 1)], [(0, 1, 0), (1, 2, 0)]])
    predicted = Segments.from_list([[(0, 2, 1), (2, 4, 0), (4, 5, 0)], [], [(0, 2, 0)]])
    assert segment_scores(gold, predicted) == Scores.of(gold=5, predicted=4, correct=1)
    assert boundary_scores(gold, predicted) == Scores.of(gold=2, predicted=2, correct=1)
    assert position_scores(gold, predicted, [0, 1]) == Scores.of(gold=10, predicted=7, correct=7)
    assert matches(gold, predicted).tolist() == [[True, False, False], [False] * 3, [False] * 3]
    assert Scores.of(0, 0, 0)[:3] == (0.0, 0.0, 0.0)


# ------------------------------------------------------------------------------------------------------- distances
@given(two())
def test_covering_is_the_mean_over_positions_of_the_best_overlap(rows):
    gold, predicted = rows
    total = 0.0
    for s, e, _ in gold:
        a = set(range(s, e))
        total += (e - s) * max(len(a & set(range(x, y))) / len(a | set(range(x, y))) for x, y, _ in predicted)
    found = covering(Segments.from_list(gold), Segments.from_list(predicted))
    assert found.item() == pytest.approx(total / gold[-1][1], rel=1e-12)
    assert 0 < found.item() <= 1
    assert covering(Segments.from_list(gold), Segments.from_list(gold)).item() == 1


def test_covering_by_hand():
    halves, whole = Segments.from_list([(0, 3, 0), (3, 10, 1)]), Segments.from_list([(0, 10, 0)])
    assert covering(halves, whole).item() == pytest.approx((3 * 0.3 + 7 * 0.7) / 10)
    assert covering(whole, halves).item() == pytest.approx(0.7)


@given(two())
def test_hausdorff_is_the_largest_of_the_smallest_distances(rows):
    a, b = ([s[0] for s in row if s[0] > 0] for row in rows)
    if a and b:
        one_way = [max(min(abs(x - y) for y in other) for x in own) for own, other in ((a, b), (b, a))]
        expected = max(one_way)
    else:
        expected = inf if a or b else 0
    assert hausdorff(*map(Segments.from_list, rows)).item() == expected


def test_distances_are_per_sequence_and_inf_or_zero_where_nothing_is_predicted():
    gold = Segments.from_list([[[(0, 2, 1), (2, 5, 0)], [(0, 3, 1)]]])
    predicted = Segments.from_list([[[(0, 4, 1), (4, 5, 0)], []]])
    assert hausdorff(gold, predicted).tolist() == [[2.0, inf]]
    assert covering(gold, predicted).tolist() == [[pytest.approx((2 * 0.5 + 3 * 0.4) / 5), 0.0]]


# ----------------------------------------------------------------------------------------------------- calibration
def test_a_calibrated_forecast_has_no_error_and_the_brier_score_of_its_variance():
    p = torch.tensor([0.25] * 400 + [0.75] * 400, dtype=torch.float64)
    y = torch.tensor(([True] + [False] * 3) * 100 + ([True] * 3 + [False]) * 100)
    curve = reliability(p, y)
    assert curve.ece == 0
    assert curve.brier == pytest.approx(0.25 * 0.75)
    assert curve.count.tolist() == [400, 400]
    assert torch.equal(curve.confidence, curve.accuracy)
    assert reliability(p, ~y).ece == pytest.approx(0.5)


def test_bins_hold_their_upper_edge_and_rounding_above_one():
    p, y = torch.tensor([0.0, 0.5, 0.5000001, 1.0, 1.0 + 2e-6]), torch.ones(5, dtype=torch.bool)
    assert reliability(p, y, bins=2).count.tolist() == [2, 3]
    assert reliability(p, y, bins=1).count.tolist() == [5]


def test_calibration_of_segments_counts_exact_ones_and_leaves_labels_and_padding_out():
    gold = Segments.from_list([[(0, 2, 1), (2, 5, 0), (5, 6, 1)], [(0, 3, 1)]])
    predicted = Segments.from_list([[(0, 2, 1), (2, 5, 0), (5, 6, 2)], [(0, 3, 1)]])
    predicted = replace(predicted, probability=torch.tensor([[0.95, 0.6, 0.4], [0.55, 7.0, 7.0]]))
    every, some = calibration(gold, predicted, bins=2), calibration(gold, predicted, bins=2, labels=[1, 2])
    assert every.count.tolist() == [1, 3]
    assert every.ece == pytest.approx((0.4 + 3 * (1 - 2.1 / 3)) / 4)
    assert some.count.tolist() == [1, 2]
    assert some.brier == pytest.approx((0.05**2 + 0.4**2 + 0.45**2) / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: segment_scores(a, b[0]), r"predicted: got batch shape \(\); expected \(1,\), as gold"),
        (lambda a, b: covering(a.tolist(), b), "gold: got a list; expected Segments"),
        (lambda a, b: boundary_scores(a, b, tolerance=-1), "tolerance: got -1; expected an integer of at least 0"),
        (lambda a, b: segment_scores(a, b, tolerance=True), "tolerance: got True"),
        (lambda a, b: confusion(a, b, 1), r"gold: got a label outside num_labels; expected labels in 0..0"),
        (lambda a, b: calibration(a, b), "predicted: got Segments without probability.*marginals.segment"),
        (lambda a, b: reliability(torch.ones(2), torch.ones(2)), "correct: got dtype torch.float32"),
        (lambda a, b: reliability(torch.ones(2), torch.ones(3) > 0), r"correct: got shape \(3,\)"),
        (lambda a, b: reliability(torch.ones(0), torch.ones(0) > 0), "probability: got nothing"),
        (lambda a, b: reliability(torch.tensor([1.1]), torch.tensor([True])), "probability: got values 1.1"),
        (lambda a, b: reliability(torch.tensor([inf - inf]), torch.tensor([True])), "probability: got values nan"),
        (lambda a, b: reliability(torch.ones(1), torch.tensor([True]), bins=0), "bins: got 0"),
    ],
)
def test_errors(call: Callable[[Any, Any], Any], message):
    with pytest.raises(InputError, match=message):
        call(Segments.from_list([[(0, 2, 1)]]), Segments.from_list([[(0, 2, 1)]]))


# ------------------------------------------------------------------------------------------------- other libraries
rows = st.lists(st.sampled_from(["O", "B-loc", "I-loc", "B-per", "I-per"]), min_size=8, max_size=8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(rows, rows), min_size=1, max_size=4))
def test_entities_against_seqeval(tagged):
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is in the extra dev")
    gold, predicted = ([row[i] for row in tagged] for i in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of denominators that are 0
        scorers = (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)
        expected = [float(score(gold, predicted)) for score in scorers]
    scores = entity_scores(Segments.from_bio(gold, NAMES), Segments.from_bio(predicted, NAMES), NAMES)
    assert scores[:3] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(two(), st.integers(0, 4))
def test_boundaries_against_mir_eval(pair, tolerance):
    segment = pytest.importorskip("mir_eval.segment", reason="mir_eval is in the extra dev")
    numpy = pytest.importorskip("numpy")
    intervals = [numpy.array([(s, e) for s, e, _ in row], dtype=float) for row in pair]
    if min(map(len, intervals)) < 2:
        return  # there mir_eval, trimmed, warns that there is nothing to score
    expected = segment.detection(*intervals, window=tolerance + 0.5, trim=True)
    scores = boundary_scores(*map(Segments.from_list, pair), tolerance=tolerance)
    assert scores[:3] == pytest.approx([float(x) for x in expected])


@settings(max_examples=50, deadline=None)
@given(two())
def test_hausdorff_against_ruptures(pair):
    metrics = pytest.importorskip("ruptures.metrics", reason="ruptures is in the extra dev")
    if min(map(len, pair)) < 2:
        return  # ruptures has no distance to an empty set
    ends = [[e for _, e, _ in row] for row in pair]
    assert hausdorff(*map(Segments.from_list, pair)).item() == metrics.hausdorff(*ends)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_against_scikit_learn(bins):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra dev")
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(500, generator=generator, dtype=torch.float64)
    y = torch.rand(500, generator=generator, dtype=torch.float64) < p.square()
    accuracy, confidence = curve(y.numpy(), p.numpy(), n_bins=bins)
    found = reliability(p, y, bins)
    assert found.accuracy.tolist() == pytest.approx(accuracy.tolist())
    assert found.confidence.tolist() == pytest.approx(confidence.tolist())
    assert found.brier == pytest.approx(metrics.brier_score_loss(y.numpy(), p.numpy()))


@settings(max_examples=30, deadline=None)
@given(two())
def test_positions_against_scikit_learn(pair):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra dev")
    y, z = ([label for s, e, label in row for _ in range(s, e)] for row in pair)
    segments = [Segments.from_list(row) for row in pair]
    assert confusion(*segments, num_labels=3).tolist() == metrics.confusion_matrix(y, z, labels=[0, 1, 2]).tolist()
    expected = metrics.precision_recall_fscore_support(y, z, labels=[1, 2], average="micro", zero_division=0)
    assert position_scores(*segments, labels=[1, 2])[:3] == pytest.approx([float(x) for x in expected[:3]])
