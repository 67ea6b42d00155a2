"""check_tiling against the definition, position by position, and the fault that it names."""

from __future__ import annotations

import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import given
from hypothesis import strategies as st
from tilings import BATCH, columns, durations, tile

from semicrf.errors import InputError
from semicrf.segments import Segments, check_tiling


def tiles(row: list[tuple[int, int, int]], length: int, K: int, C: int) -> bool:
    """The definition, position by position."""
    covered = [t for start, end, _ in row for t in range(start, end)]
    return covered == list(range(length)) and all(1 <= e - s <= K and 0 <= c < C for s, e, c in row)


triples = st.tuples(st.integers(-1, 4), st.integers(-1, 5), st.integers(-1, 3))


@given(st.lists(st.one_of(durations.map(tile), st.lists(triples, max_size=3)), min_size=1, max_size=3), st.data())
def test_check_tiling_accepts_what_tiles_and_nothing_else(rows, data):
    lengths = [data.draw(st.sampled_from([max((e for _, e, _ in row), default=1), 3])) for row in rows]
    width = max(map(len, rows)) + 1
    start, end, label = torch.tensor([row + [(9, 9, 9)] * (width - len(row)) for row in rows]).unbind(-1)
    s = Segments(start=start, end=end, label=label, count=torch.tensor([len(row) for row in rows]))
    bad = [
        i for i, (row, length) in enumerate(zip(rows, lengths, strict=True)) if not row or not tiles(row, length, 3, 3)
    ]
    if bad:
        with pytest.raises(InputError, match=f"segments, sequence {bad[0]}[:,]"):
            check_tiling(s, torch.tensor(lengths), max_duration=3, num_labels=3)
    else:
        assert check_tiling(s, torch.tensor(lengths), max_duration=3, num_labels=3) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([(1, 3, 0), (3, 5, 1)], r"segment 0: got \(1, 3, 0\); expected start 0\."),
        ([(0, 2, 0), (3, 5, 1)], r"segment 1: got \(3, 5, 1\); expected start 2, where the segment before it ends"),
        ([(0, 3, 0), (2, 5, 1)], r"segment 1: got \(2, 5, 1\); expected start 3"),
        ([(0, 3, 0), (3, 6, 1)], r"segment 1: got \(3, 6, 1\); expected end <= 5, the length"),
        ([(0, 3, 0), (3, 6, 1), (6, 7, 0)], r"segment 1: got \(3, 6, 1\); expected end <= 5, the length"),
        (
            [(0, 1, 0), (1, 5, 0)],
            r"segment 1: got \(1, 5, 0\); expected a duration of at most 3, not 4.*raise max_duration",
        ),
        ([(0, 3, 0), (3, 5, 2)], r"segment 1: got \(3, 5, 2\); expected a label in 0..1"),
        ([(0, 3, -1), (3, 5, 1)], r"segment 0: got \(0, 3, -1\); expected a label in 0..1"),
        ([(0, 0, 0), (0, 3, 0), (3, 5, 0)], r"segment 0: got \(0, 0, 0\); expected end > start"),
        ([(0, 3, 0)], r"segment 0: got \(0, 3, 0\); expected end 5, the length, as it is the last"),
        ([(0, 2, 5), (3, 9, 9)], r"segment 0: got \(0, 2, 5\)"),
    ],
)
def test_check_tiling_names_the_first_fault(row, message):
    good = columns([(0, 3, 1), (3, 5, 0), (9, 9, 9)], count=torch.tensor(2))
    wrong = columns([*row, *[(7, 7, 7)] * (3 - len(row))], count=torch.tensor(len(row)))
    stacked = pytree.tree_map(lambda *xs: torch.stack(xs), good, wrong, wrong)
    with pytest.raises(InputError, match=f"segments, sequence 1, {message}"):
        check_tiling(stacked, torch.tensor([5, 5, 5]), max_duration=3, num_labels=2)
    with pytest.raises(InputError, match=f"segments, {message}"):
        check_tiling(wrong, torch.tensor(5), max_duration=3, num_labels=2)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "got count 0; expected a count in 1..2"),
        (-1, "got count -1; expected a count in 1..2"),
        (3, "got count 3; expected a count in 1..2"),
    ],
)
def test_check_tiling_counts(count, message):
    with pytest.raises(InputError, match=message):
        check_tiling(columns([(0, 1, 0), (1, 2, 0)], count=torch.tensor(count)), torch.tensor(2), 1, 1)


def test_check_tiling_of_impossible_sequences_only():
    with pytest.raises(InputError, match="segments, sequence 0: got count 0; expected at least one segment"):
        check_tiling(Segments.from_list([[], []]), torch.tensor([1, 1]), 1, 1)


def test_check_tiling_shares_lengths_among_samples():
    samples = Segments.from_list([[[(0, 2, 0)], [(0, 1, 0)]], [[(0, 1, 0), (1, 2, 0)], [(0, 2, 0)]]])
    with pytest.raises(InputError, match=r"segments, sequence \(1, 1\), segment 0: got \(0, 2, 0\); expected end <= 1"):
        check_tiling(samples, torch.tensor([2, 1]), max_duration=2, num_labels=1)
    assert check_tiling(samples[:1], torch.tensor([2, 1]), max_duration=2, num_labels=1) is None


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 1, 4], "lengths: got a list"),
        (torch.tensor([3.0, 1, 4]), "lengths: got dtype torch.float32"),
        (torch.tensor([3, 1]), r"lengths: got shape \(2,\); expected a shape that broadcasts to .* \(3,\)"),
        (torch.tensor([[3, 1, 4]]), r"lengths: got shape \(1, 3\)"),
        (torch.ones(3, dtype=torch.int64, device="meta"), "lengths: got device meta; expected device cpu"),
    ],
)
def test_check_tiling_lengths(lengths, message):
    with pytest.raises(InputError, match=message):
        check_tiling(Segments.from_list(BATCH), lengths, 2, 3)


def test_check_tiling_may_allow_sequences_without_segments():
    s = Segments.from_list([[], [(0, 2, 0)]])
    assert check_tiling(s, torch.tensor([2, 2]), 2, 1, allow_empty=True) is None
    with pytest.raises(InputError, match=r"segments, sequence 1, segment 0: got \(0, 2, 0\); expected end 3"):
        check_tiling(s, torch.tensor([2, 3]), 2, 1, allow_empty=True)
    with pytest.raises(InputError, match="got count -1"):
        check_tiling(columns([(0, 1, 0)], count=torch.tensor(-1)), torch.tensor(1), 1, 1, allow_empty=True)
