"""BED: one interval a line, half-open and from 0, as here (UCSC; the specification of GA4GH, version 1.0)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from semicrf.errors import bad_input
from semicrf.io.intervals import placed
from semicrf.io.text import Path, integer, lines, plain, write
from semicrf.segments import Segments

_SKIPPED = ("#", "track", "browser")


class BedRecord(NamedTuple):
    """A line of a BED file; ``"."`` is a column that is not used. ``extra`` are the columns after the strand."""

    sequence: str
    start: int
    end: int
    name: str = "."
    score: str = "."
    strand: str = "."
    extra: tuple[str, ...] = ()


def read_bed(path: Path) -> list[BedRecord]:
    r"""The records of a BED file of three columns or more; comments, ``track`` and ``browser`` lines are left out.

    Raises:
        InputError: a line with fewer columns, a start or end that is no integer, an end before its start, a strand
            other than ``+``, ``-`` and ``.``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_bed(f"{folder}/a.bed", [BedRecord("chr1", 2, 5, "exon", "0", "+")])
    ...     read_bed(f"{folder}/a.bed")
    [BedRecord(sequence='chr1', start=2, end=5, name='exon', score='0', strand='+', extra=())]
    """
    records = []
    for where, line in lines(path):
        if line.strip() and not line.startswith(_SKIPPED):
            records.append(_record(where, line))
    return records


def _record(where: str, line: str) -> BedRecord:
    columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
    if len(columns) < 3:
        fix = "separate columns by tabs; comments begin with #."
        raise bad_input(where, f"{len(columns)} columns in {line!r}", "sequence, start, end at least", fix)
    start, end = integer(where, "start", columns[1]), integer(where, "end", columns[2])
    if end < start:
        raise bad_input(where, f"start {start} and end {end}", "start <= end", "exchange them; the strand is column 6.")
    record = BedRecord(columns[0], start, end, *columns[3:6], extra=tuple(columns[6:]))
    if record.strand not in ("+", "-", "."):
        raise bad_input(
            where, f"strand {record.strand!r}", "+, - or .", "columns are name, score, strand after the end."
        )
    return record


def write_bed(path: Path, records: Iterable[BedRecord]) -> None:
    """Records as tab-separated lines, all of one number of columns; nothing is written unless all of it can be.

    Raises:
        InputError: a field that is empty or holds a tab or a line break, a sequence that reads as another kind of line.
    """
    records = list(records)
    width = max((6 + len(r.extra) if r.extra else 6 if r[3:6] != (".", ".", ".") else 3 for r in records), default=3)
    text = []
    for i, r in enumerate(records):
        where = f"record {i}"
        columns = [plain(where, "field", str(x)) for x in (*r[:6], *r.extra)]
        columns += ["."] * (width - len(columns))
        if r.sequence.startswith(_SKIPPED) or not r.sequence.strip() or not 0 <= r.start <= r.end:
            raise bad_input(
                where, r, f"a sequence that begins with none of {_SKIPPED}, 0 <= start <= end", "rename it."
            )
        text.append("\t".join(columns[:width]) + "\n")
    write(path, "".join(text))


def bed_records(segments: Segments, sequences: Sequence[str], names: Sequence[str]) -> list[BedRecord]:
    """Records of ``Segments`` of batch shape ``(S,)``, label names as names; label 0, the background, is left out.

    Back: ``records_to_segments(records, lengths, names, lambda r: r.name)``.

    Raises:
        InputError: batch shape, labels or names that do not fit.

    >>> bed_records(Segments.from_list([[(0, 2, 1), (2, 5, 0)]]), ["chr1"], ["other", "exon"])[0][:4]
    ('chr1', 0, 2, 'exon')
    """
    return [BedRecord(sequence, *interval) for sequence, interval in placed(segments, sequences, names)]
