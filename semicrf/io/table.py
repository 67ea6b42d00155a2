"""CSV: tables of numbers, one row a position, and tables of segments, one row a segment."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from os import fspath
from typing import NamedTuple

import torch
from torch import Tensor

from semicrf.errors import bad_input
from semicrf.io.intervals import label_ids
from semicrf.io.text import Path, integer, lines, write
from semicrf.segments import Segments

_HEAD = ("sequence", "start", "end", "label")


class Table(NamedTuple):
    """Columns of numbers: their names, and the values, float64 ``(T, F)``; an empty field is NaN."""

    names: list[str]
    values: Tensor


def _rows(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Where each row begins, and its fields; the header first."""
    where = [fspath(path)]

    def text() -> Iterator[str]:
        for place, line in lines(path):
            where[0] = place
            yield line + "\n"

    try:
        for row in csv.reader(text(), delimiter=delimiter, strict=True):
            if row:
                yield where[0], row
    except csv.Error as error:
        raise bad_input(
            where[0], str(error), "CSV (RFC 4180)", "close quotes; write a quote in a field twice."
        ) from None


def read_table(path: Path, columns: Sequence[str] | None = None, delimiter: str = ",") -> Table:
    r"""Columns of numbers of a CSV file with a header, one row a position.

    Args:
        path: the file.
        columns: which, by name; by default those in which every field is a number or empty.
        delimiter: what stands between fields.

    Raises:
        InputError: no header or no rows, a row of another width, an unknown column, a field that is no finite number in
            one of ``columns``, no columns of numbers.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with open(f"{folder}/a.csv", "w", encoding="utf-8") as file:
    ...         _ = file.write("day,flow\nmonday,1.5\ntuesday,2\n")
    ...     read_table(f"{folder}/a.csv")
    Table(names=['flow'], values=tensor([[1.5000],
            [2.0000]], dtype=torch.float64))
    """
    rows = list(_rows(path, delimiter))
    if len(rows) < 2:
        raise bad_input(fspath(path), f"{len(rows)} lines with fields", "a header and at least one row")
    (_, names), *body = rows
    for where, row in body:
        if len(row) != len(names):
            fix = "quote fields that hold the delimiter, or pass another delimiter."
            raise bad_input(where, f"{len(row)} fields", f"{len(names)}, as in the header", fix)
    missing = [name for name in columns or () if name not in names]
    if missing:
        raise bad_input("columns", missing, f"names of the header: {names}")
    wanted = (
        [n for n in names if all(_is_number(row[names.index(n)]) for _, row in body)] if columns is None else columns
    )
    if not wanted:
        raise bad_input(fspath(path), "no column of numbers", "at least one", "pass another delimiter.")
    values = [[_number(where, name, row[names.index(name)]) for name in wanted] for where, row in body]
    return Table(list(wanted), torch.tensor(values, dtype=torch.float64))


def _is_number(text: str) -> bool:
    try:
        return not text.strip() or math.isfinite(float(text))
    except ValueError:
        return False


def _number(where: str, name: str, text: str) -> float:
    if not _is_number(text):
        raise bad_input(where, f"{text!r} in column {name!r}", "a finite number, or nothing where it is missing")
    return float(text) if text.strip() else math.nan


def read_segments(path: Path, names: Sequence[str] | None = None) -> tuple[Segments, list[str]]:
    """Segments of a CSV file with the columns ``sequence,start,end,label`` in any order; others are left out.

    Args:
        path: the file.
        names: label names, of which each label is one; integers by default.

    Returns:
        ``Segments`` of batch shape ``(S,)``, and the names of the sequences in the order of their first rows.

    Raises:
        InputError: a missing column, a row of another width, a start, end or label that does not fit.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_segments(f"{folder}/a.csv", Segments.from_list([[(0, 2, 1), (2, 5, 0)]]), ["x"], ["off", "on"])
    ...     read_segments(f"{folder}/a.csv", ["off", "on"])[0].tolist()
    [[(0, 2, 1), (2, 5, 0)]]
    """
    rows = _rows(path, ",")
    where, header = next(rows, (fspath(path), []))
    if not set(_HEAD) <= set(header):
        raise bad_input(where, f"the columns {header}", f"among them {list(_HEAD)}", "the first line is the header.")
    ids = None if names is None else label_ids(names)
    found: dict[str, list[tuple[int, int, int]]] = {}
    for where, row in rows:
        if len(row) != len(header):
            raise bad_input(
                where, f"{len(row)} fields", f"{len(header)}, as in the header", "quote fields with commas."
            )
        sequence, *span, label = (row[header.index(name)] for name in _HEAD)
        start, end = (integer(where, name, text) for name, text in zip(_HEAD[1:3], span, strict=True))
        if end <= start:
            raise bad_input(where, f"start {start} and end {end}", "start < end", "end is exclusive.")
        if ids is not None and label not in ids:
            raise bad_input(where, f"label {label!r}", f"one of {list(ids)}", f"add {label!r} to names.")
        found.setdefault(sequence, []).append(
            (start, end, integer(where, "label", label) if ids is None else ids[label])
        )
    if not found:
        raise bad_input(fspath(path), "no rows", "at least one segment")
    return Segments.from_list([sorted(row) for row in found.values()]), list(found)


def write_segments(
    path: Path, segments: Segments, sequences: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> None:
    """A CSV file of ``Segments`` of batch shape ``(S,)``, one row a segment, with its probability where there is one.

    Args:
        path: the file.
        segments: batch shape ``(S,)``.
        sequences: the name of each, by default its index.
        names: label names; the labels themselves by default.

    Raises:
        InputError: another batch shape, a sequence of count 0, not one name for each, a label that is not in names.
    """
    rows = segments.tolist() if len(segments.batch_shape) == 1 else None
    if rows is None:
        raise bad_input("segments", f"batch shape {tuple(segments.batch_shape)}", "(S,), one for each sequence")
    keys = [str(i) for i in range(len(rows))] if sequences is None else list(sequences)
    if len(set(keys)) != len(rows):
        raise bad_input("sequences", f"{len(set(keys))} different names", f"{len(rows)}, one for each sequence")
    label = int(segments.label.max()) if rows else 0
    if names is not None and label >= len(names):
        raise bad_input("segments", f"label {label}", f"labels in 0..{len(names) - 1}", "give every name.")
    probability = segments.probability
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_HEAD, "probability"] if probability is not None else _HEAD)
    for i, (key, row) in enumerate(zip(keys, rows, strict=True)):
        for j, (start, end, c) in enumerate(row):
            more = [] if probability is None else [repr(float(probability[i, j]))]
            writer.writerow([key, start, end, c if names is None else names[c], *more])
    write(path, file.getvalue())
