"""What the measures share: two segmentations as lists, sequence by sequence, and how their segments overlap."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from semicrf.errors import bad_input
from semicrf.segments import Segments

Triple = tuple[int, int, int]


def pairs(gold: Segments, predicted: Segments) -> list[tuple[list[Triple], list[Triple]]]:
    """The segments of each sequence in row-major order, true and predicted; none where the count is 0.

    Raises:
        InputError: an argument is not ``Segments``, or the batch shapes differ.
    """
    for name, value in (("gold", gold), ("predicted", predicted)):
        if not isinstance(value, Segments):
            raise bad_input(
                name, f"a {type(value).__name__}", "Segments", "Segments.from_list or from_labels makes them."
            )
    if gold.batch_shape != predicted.batch_shape:
        got = f"batch shape {tuple(predicted.batch_shape)}"
        raise bad_input("predicted", got, f"{tuple(gold.batch_shape)}, as gold")
    return list(zip(_rows(gold), _rows(predicted), strict=True))


def _rows(segments: Segments) -> list[list[Triple]]:
    counts, trimmed = segments.count.flatten().tolist(), segments.trim()
    columns = [x.reshape(len(counts), x.shape[-1]).tolist() for x in (trimmed.start, trimmed.end, trimmed.label)]
    return [list(zip(*row, strict=True))[:n] for n, *row in zip(counts, *columns, strict=True)]


def overlaps(a: Sequence[Triple], b: Sequence[Triple]) -> Iterator[tuple[Triple, Triple, int]]:
    """Every pair of segments that share positions, and how many; each side is in order, without overlaps of its own.

    >>> list(overlaps([(0, 3, 1), (3, 4, 0)], [(0, 2, 1), (2, 4, 1)]))
    [((0, 3, 1), (0, 2, 1), 2), ((0, 3, 1), (2, 4, 1), 1), ((3, 4, 0), (2, 4, 1), 1)]
    """
    i = j = 0
    while i < len(a) and j < len(b):
        shared = min(a[i][1], b[j][1]) - max(a[i][0], b[j][0])
        if shared > 0:
            yield a[i], b[j], shared
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1


def boundaries(sequence: Sequence[Triple]) -> list[int]:
    """Where segments start, but for the first: the change points."""
    return [start for start, _, _ in sequence[1:]]


def wanted(labels: Collection[int] | None, label: int) -> bool:
    """Whether a label is scored."""
    return labels is None or label in labels


def check_tolerance(tolerance: int) -> int:
    """The tolerance, an integer of at least 0.

    Raises:
        InputError: it is not.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int) or tolerance < 0:
        raise bad_input("tolerance", repr(tolerance), "an integer of at least 0, in positions")
    return tolerance
