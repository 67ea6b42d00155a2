"""Segments to and from lists, labels, boundaries and BIO tags, against plain Python over lists."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tilings import BATCH, NAMES, nested_tilings, tile

from semicrf._nested import nest, unnest
from semicrf.errors import InputError
from semicrf.segments import Segments, check_tiling


def runs(labels: list[int]) -> list[tuple[int, int, int]]:
    """The maximal runs of a list, by groupby."""
    return tile([(len(list(group)), label) for label, group in itertools.groupby(labels)])


@st.composite
def ragged_labels(draw) -> list[list[int]]:
    return draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=4))


def padded(rows: list[list[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    labels = torch.tensor([row + [fill] * (width - len(row)) for row in rows])
    return labels, torch.tensor([len(row) for row in rows])


# Lists


def test_from_list_pads_with_minus_one():
    s = Segments.from_list(BATCH)
    assert s.start.tolist() == [[0, 2, -1], [0, -1, -1], [0, 1, 2]]
    assert s.end.tolist() == [[2, 3, -1], [1, -1, -1], [1, 2, 4]]
    assert s.label.tolist() == [[1, 0, -1], [2, -1, -1], [0, 0, 1]]
    assert s.count.tolist() == [2, 1, 3]
    assert {x.dtype for x in (s.start, s.end, s.label, s.count)} == {torch.int64}
    assert all(x.is_contiguous() for x in (s.start, s.end, s.label))
    assert s.score is None
    assert s.probability is None


@given(nested_tilings())
def test_from_list_and_tolist_are_inverse(shape_and_value):
    shape, value = shape_and_value
    s = Segments.from_list(value)
    assert s.batch_shape == shape
    assert s.tolist() == value


@pytest.mark.parametrize(
    ("value", "shape", "counts"),
    [
        ([], (), 0),
        ([[]], (1,), [0]),
        ([[], [(0, 1, 0)]], (2,), [0, 1]),
        ([(0, 1, 0)], (), 1),
        ([[[(0, 1, 0)], []], [[], []]], (2, 2), [[1, 0], [0, 0]]),
    ],
)
def test_the_innermost_list_is_a_sequence(value, shape, counts):
    s = Segments.from_list(value)
    assert s.batch_shape == shape
    assert s.count.tolist() == counts


@pytest.mark.parametrize("item", [[0, 2, 1], np.array([0, 2, 1]).tolist(), tuple(np.array([0, 2, 1]))])
def test_from_list_takes_integers_of_any_kind(item):
    assert Segments.from_list([item]).tolist() == [(0, 2, 1)]


def test_from_list_takes_scalar_tensors():
    assert Segments.from_list([[tuple(torch.tensor([0, 2, 1]))]]).tolist() == [[(0, 2, 1)]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "segments: got 3; expected nested lists"),
        ("abc", "segments: got 'abc'; expected nested lists"),
        ([[(0, 1, 0)], 5], r"segments: got an item \[\[\(0, 1, 0\)\], 5\]; expected nested lists"),
        ([[(0, 1, 0), (1, 2)]], r"segments, sequence 0, segment 1: got \(1, 2\)"),
        ([[(0, 1, 0)], (0, 1, 0)], r"segments, segment 0: got \[\(0, 1, 0\)\]"),
        ([[(0, 1, 0)], [(0, 1, 0), (1, 2.0, 0)]], r"segments, sequence 1, segment 1: got \(1, 2.0, 0\)"),
        ([(0, 0, 1)], r"segments, segment 0: got \(0, 0, 1\)"),
        ([(2, 1, 1)], r"segments, segment 0: got \(2, 1, 1\)"),
        ([(-1, 1, 1)], r"segments, segment 0: got \(-1, 1, 1\)"),
        ([[[(0, 1, 0)], [(0, 1, -1)]]], r"segments, sequence \(0, 1\), segment 0: got \(0, 1, -1\)"),
        ([[[(0, 1, 0)]], [[(0, 1, 0)], [(0, 1, 0)]]], r"shapes \[\(1,\), \(2,\)\] side by side"),
        ([[[(0, 1, 0)]], []], r"expected batch axes of one size"),
        ([[[[(0, 1, 0)]]], []], r"expected batch axes of one size"),
    ],
)
def test_from_list_errors(value, message):
    with pytest.raises(InputError, match=message):
        Segments.from_list(value)


def test_an_impossible_sequence_is_an_error_only_in_lists_and_tags():
    s = Segments.from_list([[[(0, 2, 1)], []]])
    assert s.to_labels(3).tolist() == [[[1, 1, -1], [-1, -1, -1]]]
    assert s.to_boundaries(3).tolist() == [[[True, False, False], [False] * 3]]
    for convert in (s.tolist, lambda: s.to_bio(NAMES)):
        with pytest.raises(
            InputError, match=r"segments, sequence \(0, 1\): got count 0; expected at least one segment"
        ):
            convert()
    assert s[:, 0].tolist() == [[(0, 2, 1)]]


# Labels and boundaries


@given(ragged_labels(), st.integers(-3, 5))
def test_from_labels_gives_maximal_runs_and_reads_nothing_past_the_lengths(rows, junk):
    labels, lengths = padded(rows, junk)
    s = Segments.from_labels(labels, lengths)
    assert s.start.shape == labels.shape
    assert s.tolist() == [runs(row) for row in rows]
    assert bool((torch.stack([s.start, s.end, s.label])[:, ~s.mask] == -1).all())


@given(ragged_labels(), st.integers(0, 3))
def test_labels_there_and_back(rows, more):
    labels, lengths = padded(rows, -1)
    T = labels.shape[-1] + more
    expected = torch.nn.functional.pad(labels, (0, more), value=-1)
    assert torch.equal(Segments.from_labels(labels, lengths).to_labels(T), expected)
    assert torch.equal(Segments.from_labels(labels).to_labels(T), expected)


@given(nested_tilings())
def test_labels_and_boundaries_rebuild_any_tiling(shape_and_value):
    s = Segments.from_list(shape_and_value[1])
    T = int(s.end.max())
    rebuilt = Segments.from_boundaries(s.to_boundaries(T), s.to_labels(T), s.end.amax(-1))
    assert rebuilt == s
    assert rebuilt.start.shape == (*s.batch_shape, T)
    check_tiling(rebuilt, s.end.amax(-1), max_duration=4, num_labels=4)


def test_without_lengths_labels_stop_at_the_first_negative_one():
    labels = torch.tensor([[0, 0, -100, 1], [-1, 2, 2, 2], [1, 1, 1, 1]])
    assert Segments.from_labels(labels).to_labels(4).tolist() == [[0, 0, -1, -1], [-1] * 4, [1] * 4]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_labels_and_lengths_of_any_integer_dtype(dtype):
    s = Segments.from_labels(torch.tensor([3, 3, 1], dtype=dtype), torch.tensor(2, dtype=dtype))
    assert s.tolist() == [(0, 2, 3)]
    assert s.label.dtype == s.end.dtype == torch.int64


def test_from_boundaries_ignores_marks_past_the_length_and_labels_inside():
    marks = torch.tensor([[[True, True, False, True]], [[False, False, False, True]]])
    labels = torch.tensor([[[4, 5, 99, 99]], [[7, 7, 7, 7]]])
    s = Segments.from_boundaries(marks, labels, torch.tensor([[3], [2]]))
    assert s.count.tolist() == [[2], [0]]
    assert s[0].tolist() == [[(0, 1, 4), (1, 3, 5)]]
    assert s.start.tolist() == [[[0, 1, -1, -1]], [[-1] * 4]]
    assert s.end.tolist() == [[[1, 3, -1, -1]], [[-1] * 4]]
    assert s.label.tolist() == [[[4, 5, -1, -1]], [[-1] * 4]]


def test_from_boundaries_without_lengths_ends_at_T():
    s = Segments.from_boundaries(torch.tensor([True, False, True]), torch.tensor([1, 0, 2]))
    assert s.tolist() == [(0, 2, 1), (2, 3, 2)]


def test_conversions_of_partial_segments_leave_gaps_and_need_no_order():
    s = Segments.from_list([[(4, 6, 1), (1, 3, 2)]])
    assert s.to_labels(7).tolist() == [[-1, 2, 2, -1, 1, 1, -1]]
    assert s.to_boundaries(7).tolist() == [[False, True, False, False, True, False, False]]


def test_conversions_read_neither_padding_nor_starts_outside():
    start, end, label = torch.tensor([[0, -3, 2, 1], [2, 0, 4, 2], [7, 9, 8, 9]])
    s = Segments(start=start, end=end, label=label, count=torch.tensor(3))
    assert s.to_labels(3).tolist() == [7, 7, 8]
    assert s.to_boundaries(3).tolist() == [True, False, True]


def test_conversions_cut_at_T_and_may_be_empty():
    s = Segments.from_list(BATCH)
    assert s.to_labels(2).tolist() == [[1, 1], [2, -1], [0, 0]]
    assert s.to_boundaries(2).tolist() == [[True, False], [True, False], [True, True]]
    assert s.to_labels(0).shape == s.to_boundaries(0).shape == (3, 0)
    assert Segments.from_labels(torch.zeros(2, 0, dtype=torch.int64)).count.tolist() == [0, 0]


def test_conversions_read_no_value():
    # On "meta" there are no values: whatever would synchronise on a GPU raises here.
    labels, lengths = torch.zeros(2, 5, dtype=torch.int64, device="meta"), torch.ones(2, device="meta").long()
    s = Segments.from_labels(labels, lengths)
    outputs = [s.to_labels(5), s.to_boundaries(5), s.mask, s.durations, s[0].start, Segments.from_labels(labels).end]
    assert {x.device.type for x in outputs} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        s.trim()


A_LIST: Any = [0, 1]
LABELS, MARKS = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Segments.from_labels(A_LIST), "labels: got a list; expected a tensor, integer"),
        (lambda: Segments.from_labels(LABELS.float()), "labels: got dtype torch.float32; expected dtype integer"),
        (lambda: Segments.from_labels(MARKS), "labels: got dtype torch.bool; expected dtype integer"),
        (lambda: Segments.from_labels(torch.tensor(1)), r"labels: got shape \(\); expected shape \(..., T\)"),
        (lambda: Segments.from_labels(LABELS, torch.ones(2)), "lengths: got dtype torch.float32; expected"),
        (lambda: Segments.from_labels(LABELS, A_LIST), "lengths: got a list; expected a tensor"),
        (lambda: Segments.from_labels(LABELS, torch.tensor([1])), r"lengths: got shape \(1,\); expected shape \(2,\)"),
        (lambda: Segments.from_labels(LABELS, torch.tensor(1)), r"lengths: got shape \(\); expected shape \(2,\)"),
        (
            lambda: Segments.from_labels(LABELS, torch.ones(2, dtype=torch.int64, device="meta")),
            "lengths: got device meta; expected device cpu",
        ),
        (lambda: Segments.from_boundaries(LABELS, LABELS), "is_start: got dtype torch.int64; expected dtype bool"),
        (lambda: Segments.from_boundaries(MARKS, MARKS), "label: got dtype torch.bool; expected dtype integer"),
        (lambda: Segments.from_boundaries(MARKS, LABELS[0]), r"label: got shape \(3,\); expected shape \(2, 3\)"),
        (lambda: Segments.from_boundaries(MARKS, LABELS.to("meta")), "label: got device meta; expected device cpu"),
        (lambda: Segments.from_boundaries(MARKS[0, 0], LABELS[0, 0]), r"is_start: got shape \(\)"),
    ],
)
def test_errors_of_labels_and_boundaries(build, message):
    with pytest.raises(InputError, match=message):
        build()


# BIO tags


@given(nested_tilings())
def test_bio_there_and_back(shape_and_value):
    names = [*NAMES, "org-x"]
    shape, sequences = unnest("segments", shape_and_value[1], lambda x: isinstance(x, tuple))
    split = [  # as tags know it: each O a segment
        [piece for s, e, c in row for piece in ([(s, e, c)] if c else [(t, t + 1, 0) for t in range(s, e)])]
        for row in sequences
    ]
    s = Segments.from_list(shape_and_value[1])
    assert Segments.from_bio(s.to_bio(names), names).tolist() == nest(split, shape)


@given(
    st.lists(st.lists(st.sampled_from(["O", "B-loc", "I-loc", "B-per", "I-per"]), min_size=1, max_size=8), min_size=1)
)
def test_tags_come_back_in_iob2(tags):
    expected = [
        ["B" + tag[1:] if tag[0] == "I" and (t == 0 or row[t - 1][2:] != tag[2:]) else tag for t, tag in enumerate(row)]
        for row in tags
    ]
    assert Segments.from_bio(tags, NAMES).to_bio(NAMES) == expected


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["O", "O"], [(0, 1, 0), (1, 2, 0)]),
        (["B-loc", "I-loc", "I-loc"], [(0, 3, 1)]),
        (["B-loc", "B-loc"], [(0, 1, 1), (1, 2, 1)]),
        (["I-loc", "I-loc"], [(0, 2, 1)]),
        (["B-loc", "I-per"], [(0, 1, 1), (1, 2, 2)]),
        (["I-loc", "O", "I-loc"], [(0, 1, 1), (1, 2, 0), (2, 3, 1)]),
        ([], []),
    ],
)
def test_from_bio_splits_as_conlleval_does(tags, spans):
    s = Segments.from_bio([tags, ["O"]], NAMES)
    assert s.count.tolist() == [len(spans), 1]
    assert [tuple(x) for x in torch.stack([s.start, s.end, s.label], -1)[0, : len(spans)].tolist()] == spans


def test_bio_of_one_sentence_and_of_two_axes():
    one = Segments.from_bio(["B-loc", "O"], NAMES)
    assert one.batch_shape == ()
    assert one.to_bio(NAMES) == ["B-loc", "O"]
    two = Segments.from_bio([[["O"], ["B-per", "I-per"]]], NAMES)
    assert two.batch_shape == (1, 2)
    assert two.to_bio(NAMES) == [[["O"], ["B-per", "I-per"]]]


@pytest.mark.parametrize(
    ("tags", "names", "message"),
    [
        ([["O"], ["O", "B-org"]], NAMES, "tags, sequence 1, token 1: got tag 'B-org'; .*loc, per.* add 'org' to names"),
        ([["B-x"]], ["O"], "expected a type of names: none"),
        ([["S-loc"]], NAMES, "tags, sequence 0, token 0: got tag 'S-loc'; expected O, B-type or I-type"),
        ([["B"]], NAMES, "got tag 'B'; expected O, B-type or I-type"),
        ([["B-"]], NAMES, "got tag 'B-'"),
        ([[""]], NAMES, "got tag ''"),
        ([["-loc"]], NAMES, "got tag '-loc'"),
        ([["O-loc"]], NAMES, "got tag 'O-loc'"),
        ([["B-O"]], NAMES, "got tag 'B-O'"),
        ([["O", 3]], NAMES, "token 1: got tag 3"),
        ("O", NAMES, "tags: got 'O'; expected nested lists"),
        ([["O"]], ["loc"], r"names: got \['loc'\]; expected a list of names that begins with \"O\""),
        ([["O"]], [], r"names: got \[\]"),
        ([["O"]], "O", "names: got 'O'"),
        ([["O"]], ["O", "loc", "loc"], "names: .*; expected distinct strings"),
        ([["O"]], ["O", 3], "names: .*; expected distinct strings"),
    ],
)
def test_from_bio_errors(tags, names, message):
    with pytest.raises(InputError, match=message):
        Segments.from_bio(tags, names)


@pytest.mark.parametrize(
    ("value", "names", "message"),
    [
        (
            [[(0, 1, 0)], [(0, 1, 0), (2, 3, 1)]],
            NAMES,
            r"segments, sequence 1, segment 1: got \(2, 3, 1\); expected start 1",
        ),
        ([(1, 2, 0)], NAMES, r"segments, segment 0: got \(1, 2, 0\); expected start 0"),
        ([(0, 1, 3)], NAMES, r"segment 0: got \(0, 1, 3\); expected start 0 and a label in 0..2"),
        ([(0, 1, 0)], ["loc"], "names: got"),
    ],
)
def test_to_bio_errors(value, names, message):
    with pytest.raises(InputError, match=message):
        Segments.from_list(value).to_bio(names)
