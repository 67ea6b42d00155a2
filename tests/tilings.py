"""Segmentations for the tests, as plain lists, as hypothesis draws them, and as columns that nothing has checked."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import strategies as st

from semicrf._nested import nest
from semicrf.segments import Segments

NAMES = ["O", "loc", "per"]
BATCH = [[(0, 2, 1), (2, 3, 0)], [(0, 1, 2)], [(0, 1, 0), (1, 2, 0), (2, 4, 1)]]

durations = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=6)
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def tile(pieces: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Segments from (duration, label) pairs."""
    ends = list(itertools.accumulate(duration for duration, _ in pieces))
    return [(end - k, end, c) for end, (k, c) in zip(ends, pieces, strict=True)]


@st.composite
def nested_tilings(draw) -> tuple[tuple[int, ...], list]:
    shape = draw(shapes)
    size = int(np.prod(shape, dtype=int))
    return shape, nest([tile(draw(durations)) for _ in range(size)], shape)


def columns(rows: list[tuple[int, int, int]], **extra: object) -> Segments:
    """One sequence straight from its columns, unchecked."""
    start, end, label = torch.tensor(rows).reshape(-1, 3).unbind(-1)
    return Segments(**{"start": start, "end": end, "label": label, "count": torch.tensor(len(rows)), **extra})
