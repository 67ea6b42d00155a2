"""Named intervals and ``Segments``: gaps are segments of a background label, which is left out on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch

from semicrf.errors import bad_input
from semicrf.segments import Segments


class Interval(NamedTuple):
    """Half-open ``[start, end)`` and what it is."""

    start: int
    end: int
    name: str


class Placed(Protocol):
    """Anything on a named sequence: a line of a BED or a GFF3 file."""

    @property
    def sequence(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


Record = TypeVar("Record", bound=Placed)


def from_intervals(
    rows: Sequence[Iterable[tuple[int, int, str]]],
    lengths: Sequence[int],
    names: Sequence[str],
    device: torch.device | str | None = None,
) -> Segments:
    """Intervals of ``S`` sequences as ``Segments`` of batch shape ``(S,)``, which tile ``[0, length)``.

    Args:
        rows: for each sequence its ``(start, end, name)``, in any order.
        lengths: of each sequence, in positions.
        names: label names; ``names[0]`` is the background, the label of what lies in no interval.

    Raises:
        InputError: intervals that overlap or leave ``[0, length)``, a name that is not in names.

    >>> from_intervals([[(5, 8, "gene"), (0, 2, "gene")]], [10], ["between", "gene"]).tolist()
    [[(0, 2, 1), (2, 5, 0), (5, 8, 1), (8, 10, 0)]]
    """
    ids = label_ids(names)
    if len(rows) != len(lengths) or not rows:
        raise bad_input(
            "rows", f"{len(rows)} sequences and {len(lengths)} lengths", "one length for each of at least one"
        )
    pairs = enumerate(zip(rows, lengths, strict=True))
    return Segments.from_list([_tiling(f"sequence {i}", row, n, ids) for i, (row, n) in pairs], device)


def label_ids(names: Sequence[str]) -> dict[str, int]:
    """The label of each name: its place.

    Raises:
        InputError: names that are not distinct strings, or none.
    """
    if isinstance(names, str) or not names or len(set(names)) != len(names):
        raise bad_input("names", repr(names), "a list of distinct strings", "names[0] is the background.")
    return {name: i for i, name in enumerate(names)}


def _tiling(
    where: str, row: Iterable[tuple[int, int, str]], length: int, ids: Mapping[str, int]
) -> list[tuple[int, int, int]]:
    """The segments of one sequence."""
    tiles, before, last = [], 0, None
    for start, end, name in sorted(row):
        item = (start, end, name)
        if not 0 <= start < end <= length:
            fix = "end is exclusive; an interval that goes around a circular sequence is two."
            raise bad_input(where, f"interval {item}", f"0 <= start < end <= {length}, the length", fix)
        if start < before:
            fix = "leave one out, or make a label of what both are: segments do not overlap."
            raise bad_input(where, f"intervals {last} and {item}", "intervals without overlaps", fix)
        if name not in ids:
            raise bad_input(where, f"interval {item}", f"a name of {list(ids)}", f"add {name!r} to names.")
        if start > before:
            tiles.append((before, start, 0))
        tiles.append((start, end, ids[name]))
        before, last = end, item
    return tiles + [(before, length, 0)] * (before < length)


def to_intervals(segments: Segments, names: Sequence[str], background: bool = False) -> list[list[Interval]]:
    """The intervals of ``Segments`` of batch shape ``(S,)``, without those of label 0 unless ``background``.

    Raises:
        InputError: another batch shape, a sequence of count 0, a label that is not in names.

    >>> to_intervals(Segments.from_list([[(0, 2, 1), (2, 5, 0)]]), ["between", "gene"])
    [[Interval(start=0, end=2, name='gene')]]
    """
    label_ids(names)
    if len(segments.batch_shape) != 1:
        raise bad_input("segments", f"batch shape {tuple(segments.batch_shape)}", "(S,), one for each sequence")
    if bool((segments.mask & ((segments.label < 0) | (segments.label >= len(names)))).any()):
        raise bad_input("segments", "a label outside names", f"labels in 0..{len(names) - 1}", "give every name.")
    text = list(names)
    kept = ([s for s in row if s[2] or background] for row in segments.tolist())
    return [[Interval(start, end, text[label]) for start, end, label in row] for row in kept]


def records_to_segments(
    records: Iterable[Record],
    lengths: Mapping[str, int],
    names: Sequence[str],
    label: Callable[[Record], str | None],
    device: torch.device | str | None = None,
) -> Segments:
    """Records of BED or GFF3 files as ``Segments``, one sequence for each of ``lengths``, in its order.

    Args:
        records: with ``sequence``, ``start`` and ``end``, half-open, from 0.
        lengths: of each sequence by its name; sequences without records are all background.
        names: label names; ``names[0]`` is the background.
        label: the name of a record's label; None leaves the record out.

    Raises:
        InputError: a record on an unknown sequence, or as ``from_intervals``.

    >>> from semicrf.io import BedRecord
    >>> records = [BedRecord("chr1", 2, 5, "exon"), BedRecord("chr2", 0, 4, "exon")]
    >>> records_to_segments(records, {"chr1": 6, "chr2": 4}, ["other", "exon"], lambda r: r.name).tolist()
    [[(0, 2, 0), (2, 5, 1), (5, 6, 0)], [(0, 4, 1)]]
    """
    ids, rows = label_ids(names), {sequence: [] for sequence in lengths}
    for record in records:
        name = label(record)
        if name is None:
            continue
        if record.sequence not in rows:
            fix = f"add it, or leave it out with label: {record}."
            raise bad_input("lengths", f"no length of {record.sequence!r}", "one for each sequence with records", fix)
        rows[record.sequence].append((record.start, record.end, name))
    if not rows:
        raise bad_input("lengths", "none", "at least one sequence")
    return Segments.from_list([_tiling(s, row, lengths[s], ids) for s, row in rows.items()], device)


def placed(segments: Segments, sequences: Sequence[str], names: Sequence[str]) -> list[tuple[str, Interval]]:
    """Each interval of the segments that is not background, with the name of its sequence.

    Raises:
        InputError: not one name for each sequence, or as ``to_intervals``.
    """
    rows = to_intervals(segments, names)
    if len(rows) != len(sequences):
        raise bad_input("sequences", f"{len(sequences)} names", f"{len(rows)}, one for each sequence of the batch")
    return [(sequence, interval) for sequence, row in zip(sequences, rows, strict=True) for interval in row]
