"""GFF3, the General Feature Format (Sequence Ontology, version 1.26): inclusive and from 1 in the file, not here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from semicrf.errors import bad_input
from semicrf.io.intervals import placed
from semicrf.io.text import Path, integer, lines, write
from semicrf.segments import Segments

_COLUMNS = ("seqid", "source", "type", "start", "end", "score", "strand", "phase", "attributes")


class GffFeature(NamedTuple):
    """A line of a GFF3 file, half-open and from 0 here; None and ``"."`` are columns that are not used."""

    sequence: str
    source: str
    type: str
    start: int
    end: int
    score: float | None = None
    strand: str = "."
    phase: int | None = None
    attributes: Mapping[str, Sequence[str]] = {}


class Gff(NamedTuple):
    """The features of a file, and the end of each ``##sequence-region``: the length of a sequence that begins at 1."""

    features: list[GffFeature]
    lengths: dict[str, int]


def read_gff3(path: Path) -> Gff:
    """The features of a GFF3 file; comments and other directives are left out, and what follows ``##FASTA``.

    Raises:
        InputError: the first line is not ``##gff-version 3``, or a line breaks the format.

    >>> from tempfile import TemporaryDirectory
    >>> gene = GffFeature("chr1", "me", "gene", 2, 5, strand="+", attributes={"ID": ["a;b"]})
    >>> with TemporaryDirectory() as folder:
    ...     write_gff3(f"{folder}/a.gff3", [gene], {"chr1": 9})
    ...     read_gff3(f"{folder}/a.gff3") == Gff([gene], {"chr1": 9})
    True
    """
    features, lengths, opened = [], {}, False
    for where, line in lines(path):
        if not opened:
            opened = bool(re.fullmatch(r"##gff-version\s+3(\.\S*)?\s*", line))
            if not opened:
                raise bad_input(
                    where, repr(line[:60]), "'##gff-version 3' as the first line", "GTF and GFF2 are not GFF3."
                )
        elif line.startswith(("##FASTA", ">")):
            break
        elif line.startswith("##sequence-region"):
            region = line.split()
            if len(region) != 4:
                raise bad_input(where, repr(line), "'##sequence-region seqid start end'", "separate them by spaces.")
            integer(where, "start", region[2], 1)
            lengths[unquote(region[1])] = integer(where, "end", region[3], 1)
        elif line.strip() and not line.startswith("#"):
            features.append(_feature(where, line))
    if not opened:
        raise bad_input(str(path), "an empty file", "'##gff-version 3' as the first line")
    return Gff(features, lengths)


def _feature(where: str, line: str) -> GffFeature:
    columns = line.split("\t")
    if len(columns) != 9:
        fix = "separate columns by one tab each; a column that is not used is a dot."
        raise bad_input(where, f"{len(columns)} columns in {line[:80]!r}", f"9: {', '.join(_COLUMNS)}", fix)
    sequence, source, kind, first, last, score, strand, phase, attributes = columns
    start, end = integer(where, "start", first, 1) - 1, integer(where, "end", last, 1)
    if end <= start:
        raise bad_input(
            where, f"start {first} and end {last}", "start <= end", "exchange them; the strand is column 7."
        )
    if strand not in ("+", "-", ".", "?"):
        raise bad_input(where, f"strand {strand!r}", "+, -, . or ?", "check the order of the columns.")
    if phase not in ("0", "1", "2", ".") or (kind == "CDS" and phase == "."):
        fix = "the phase says how many bases to leave out to reach a codon."
        raise bad_input(where, f"phase {phase!r} of a {kind}", "0, 1 or 2, or . where it is no CDS", fix)
    return GffFeature(
        unquote(sequence), unquote(source), unquote(kind), start, end, _score(where, score), strand,
        None if phase == "." else int(phase), _attributes(where, attributes),
    )  # fmt: skip


def _score(where: str, text: str) -> float | None:
    try:
        return None if text == "." else float(text)
    except ValueError:
        raise bad_input(where, f"score {text!r}", "a number or a dot", "check the order of the columns.") from None


def _attributes(where: str, text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in text.strip(" ").split(";") if text != "." else ():
        name, equals, values = item.strip(" ").partition("=")
        if not item.strip(" "):
            continue  # after a last semicolon
        if not equals or not name or unquote(name) in found:
            fix = 'write tag=value pairs, each tag once, with ; between them; GTF writes tag "value".'
            raise bad_input(where, f"attribute {item!r}", "tag=value", fix)
        found[unquote(name)] = [unquote(value) for value in values.split(",")]
    return found


def write_gff3(path: Path, features: Iterable[GffFeature], lengths: Mapping[str, int] | None = None) -> None:
    """A GFF3 file of the features, with a ``##sequence-region`` for each of ``lengths``.

    Raises:
        InputError: a feature that is empty or has a bad strand, phase or score; nothing is written then.
    """
    text = ["##gff-version 3\n"]
    text += [f"##sequence-region {_escape(name, ' ')} 1 {n}\n" for name, n in (lengths or {}).items()]
    for i, f in enumerate(features):
        if not 0 <= f.start < f.end:
            raise bad_input(f"feature {i}", f"start {f.start} and end {f.end}", "0 <= start < end", "end is exclusive.")
        score, phase = ("." if x is None else str(x) for x in (f.score, f.phase))
        attributes = ";".join(f"{_escape(k)}={','.join(map(_escape, v))}" for k, v in f.attributes.items()) or "."
        names = (_escape(x, " >" if j == 0 else "") for j, x in enumerate((f.sequence, f.source, f.type)))
        line = "\t".join([*names, str(f.start + 1), str(f.end), score, f.strand, phase, attributes])
        if _feature(f"feature {i}", line) != f._replace(attributes={k: list(v) for k, v in f.attributes.items()}):
            raise bad_input(f"feature {i}", f, "a feature that reads back as it is", "empty names and values do not.")
        text.append(line + "\n")
    write(path, "".join(text))


def _escape(text: str, more: str = "") -> str:
    """With what has a meaning in GFF3 percent-encoded."""
    ends = (0, len(text) - 1)  # where a space would be taken for one between attributes
    coded = [
        c in ";=&,%#" + more or ord(c) < 32 or ord(c) == 127 or (c == " " and i in ends) for i, c in enumerate(text)
    ]
    return "".join(f"%{ord(c):02X}" if code else c for c, code in zip(text, coded, strict=True))


def gff_features(
    segments: Segments, sequences: Sequence[str], names: Sequence[str], source: str = "semicrf"
) -> list[GffFeature]:
    """Features of ``Segments`` of batch shape ``(S,)``, label names as types; label 0, the background, is left out.

    Back: ``records_to_segments(features, lengths, names, lambda f: f.type)``.

    Raises:
        InputError: batch shape, labels or names that do not fit.

    >>> gff_features(Segments.from_list([[(0, 2, 1), (2, 5, 0)]]), ["chr1"], ["other", "gene"])[0][2:5]
    ('gene', 0, 2)
    """
    return [GffFeature(seq, source, name, start, end) for seq, (start, end, name) in placed(segments, sequences, names)]
