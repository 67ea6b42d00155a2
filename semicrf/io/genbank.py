"""GenBank flat files: the sequence and its annotated features (NCBI-GenBank Flat File Release, sections 3.4 and 4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from semicrf.errors import InputError, bad_input
from semicrf.io.intervals import from_intervals, to_intervals
from semicrf.io.text import Path, lines, write
from semicrf.segments import Segments

_WIDTH, _INDENT = 80, 21  # of a line; of what belongs to a feature
_BASES = re.compile(r"[a-zA-Z]*")


class Part(NamedTuple):
    """A piece of a location, half-open and from 0 on the forward strand; ``strand`` is 1 or -1.

    ``open_start`` and ``open_end`` say that it goes on beyond what is known (``<`` and ``>``).
    """

    start: int
    end: int
    strand: int
    open_start: bool = False
    open_end: bool = False


class GenBankFeature(NamedTuple):
    """A feature: its parts in the order in which they are read, 5' to 3', and its qualifiers, all values of each."""

    type: str
    parts: tuple[Part, ...]
    qualifiers: Mapping[str, Sequence[str]]


class GenBankRecord(NamedTuple):
    """One record: the name of its LOCUS line, the sequence in capitals ("" where the file has none), its features."""

    name: str
    length: int
    circular: bool
    sequence: str
    features: list[GenBankFeature]


def read_genbank(path: Path) -> list[GenBankRecord]:
    """The records of a GenBank file: LOCUS, FEATURES and ORIGIN; other parts are left out.

    Of a location, ``join``, ``order`` and ``complement`` are read, to any depth; parts on another record are an error.

    Raises:
        InputError: a record that does not begin with LOCUS or end with ``//``, a malformed location or qualifier, a
            part outside the sequence, a sequence of another length than LOCUS says.

    >>> from tempfile import TemporaryDirectory
    >>> gene = GenBankFeature("gene", (Part(1, 4, -1),), {"gene": ["abc"]})
    >>> with TemporaryDirectory() as folder:
    ...     write_genbank(f"{folder}/a.gb", [GenBankRecord("X1", 6, False, "ACGTAC", [gene])])
    ...     read_genbank(f"{folder}/a.gb")[0].features == [gene]
    True
    """
    records, block, where = [], [], str(path)
    for where, line in lines(path):
        if line.rstrip() == "//":
            records.append(_record(block, where))
            block = []
        elif line.strip() or block:
            block.append((where, line))
    if block:
        raise bad_input(where, "the end of the file", "// at the end of a record", "is the file complete?")
    return records


Lines = list[tuple[str, str]]


def _record(block: Lines, last: str) -> GenBankRecord:
    """A record from its lines, without the last, ``//``."""
    where, locus = block[0] if block else (last, "//")
    found = re.match(r"LOCUS +(\S+) +(\d+) (?:bp|rc|aa)\b", locus)
    if not found:
        raise bad_input(where, repr(locus[:60]), "'LOCUS name length bp'", "a GenBank flat file begins with it.")
    length = int(found[2])
    features, origin = (_section(block, name) for name in ("FEATURES", "ORIGIN"))
    bases = "".join(_bases(*line) for line in origin)
    if origin and len(bases) != length:
        raise bad_input(origin[-1][0], f"{len(bases)} bases", f"{length}, the length of LOCUS", "is the file complete?")
    circular = " circular " in locus
    return GenBankRecord(found[1], length, circular, bases.upper(), [_feature(f, length) for f in _split(features)])


def _section(block: Lines, name: str) -> Lines:
    """The lines of one part of a record, without its heading: up to the next line that is not indented."""
    start = next((i for i, (_, line) in enumerate(block) if line.startswith(name)), len(block))
    own = []
    for where, line in block[start + 1 :]:
        if line[:1] not in ("", " "):
            break
        own.append((where, line))
    return own


def _bases(where: str, line: str) -> str:
    number, *groups = line.split() or ["0"]
    text = "".join(groups)
    if not number.isdigit() or not _BASES.fullmatch(text):
        raise bad_input(where, repr(line[:60]), "a number, then bases in groups", "only letters stand for bases.")
    return text


def _split(section: Lines) -> list[Lines]:
    """The lines of each feature: one begins where its key stands, in column 6."""
    features: list[Lines] = []
    for where, line in section:
        if line[5:6].strip() and not line[:5].strip():
            features.append([])
        elif not line.strip():
            continue
        elif not features or line[:_INDENT].strip():
            fix = f"a feature's key stands in column 6, all else of it from column {_INDENT + 1}."
            raise bad_input(where, repr(line[:60]), "a feature", fix)
        features[-1].append((where, line))
    return features


def _feature(own: Lines, length: int) -> GenBankFeature:
    where, first = own[0]
    kind, _, location = first[5:].partition(" ")
    values: list[tuple[str, str]] = []  # where each qualifier begins, and its text
    for place, line in own[1:]:
        text = line[_INDENT:].rstrip()
        if values and not _complete(values[-1][1]):
            name = values[-1][1].partition("=")[0]
            values[-1] = (values[-1][0], values[-1][1] + _joint(name) + text)
        elif text.startswith("/"):
            values.append((place, text))
        elif values:
            raise bad_input(place, repr(text), "/qualifier=value", "a value of several lines stands in quotes.")
        else:
            location += text
    qualifiers: dict[str, list[str]] = {}
    for place, text in values:
        name, _, value = text[1:].partition("=")
        if not name or not _complete(text):
            raise bad_input(place, repr(text[:60]), '/qualifier="value"', "close the quotes.")
        quoted = value.startswith('"')
        qualifiers.setdefault(name, []).append(value[1:-1].replace('""', '"') if quoted else value)
    try:
        parts = tuple(_location(location.replace(" ", ""), length))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return GenBankFeature(kind, parts, qualifiers)


def _complete(text: str) -> bool:
    """Whether a qualifier ends here: quotes are closed."""
    value = text.partition("=")[2]
    return not value.startswith('"') or (value.count('"') % 2 == 0)


def _joint(name: str) -> str:
    """What stands for a line's end inside a value: a protein is one word."""
    return "" if name == "/translation" else " "


def _location(text: str, length: int) -> list[Part]:
    """The parts of a location, 5' to 3'."""
    for operator in ("complement", "join", "order"):
        if text.startswith(f"{operator}(") and text.endswith(")"):
            inner = [part for item in _arguments(text[len(operator) + 1 : -1]) for part in _location(item, length)]
            return [p._replace(strand=-p.strand) for p in reversed(inner)] if operator == "complement" else inner
    found = re.fullmatch(r"(<?)(\d+)(?:\.\.(>?)(\d+))?", text)
    if not found:
        fix = "first..last, also in complement(...), join(...) and order(...); parts on other records are not read."
        raise bad_input("location", repr(text), "a location on this record", fix)
    first, last = int(found[2]), int(found[4] or found[2])
    if not 1 <= first <= last <= length:
        fix = "a part around a circular sequence is two, in join(...)."
        raise bad_input("location", repr(text), f"1 <= first <= last <= {length}, the length", fix)
    return [Part(first - 1, last, 1, bool(found[1]), bool(found[3]))]


def _arguments(text: str) -> list[str]:
    """The items between commas that stand in no parentheses."""
    items, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            items.append("")
        else:
            items[-1] += c
    return items


def write_genbank(path: Path, records: Iterable[GenBankRecord]) -> None:
    """A file with the LOCUS, FEATURES and ORIGIN of each record.

    Raises:
        InputError: a record that would not read back as it is; nothing is written then.
    """
    text = "".join(_text(i, record) for i, record in enumerate(records))
    write(path, text)


def _text(i: int, record: GenBankRecord) -> str:
    shape = "circular" if record.circular else "linear  "
    rows = [f"LOCUS       {record.name:<16} {record.length:>11} bp    DNA     {shape} UNK 01-JAN-1980"]
    rows += [f"{'FEATURES':<{_INDENT}}Location/Qualifiers"] if record.features else []
    for kind, parts, qualifiers in record.features:
        rows.append(f"     {kind:<{_INDENT - 5}}{_written(parts)}")
        for name, values in qualifiers.items():
            for value in values:
                quoted = value.replace('"', '""')
                rows.append(f"{'':{_INDENT}}/{name}" + (f'="{quoted}"' if value else ""))
    bases = record.sequence.lower()
    rows += ["ORIGIN"] if bases else []
    for at in range(0, len(bases), 60):
        rows.append(f"{at + 1:>9} " + " ".join(bases[j : j + 10] for j in range(at, min(at + 60, len(bases)), 10)))
    numbered = [(f"record {i}, line {n}", row) for n, row in enumerate(rows, 1)]
    kept = record._replace(features=[f._replace(qualifiers=dict(f.qualifiers)) for f in record.features])
    if _record(numbered, f"record {i}") != kept:
        raise bad_input(
            f"record {i}", record.name, "a record that reads back as it is", "names without spaces, capitals."
        )
    return "\n".join([*rows, "//", ""])


def _written(parts: Sequence[Part]) -> str:
    """The location of parts."""

    def one(p: Part) -> str:
        return f"{'<' * p.open_start}{p.start + 1}..{'>' * p.open_end}{p.end}"

    items = [f"complement({one(p)})" if p.strand < 0 else one(p) for p in parts]
    return items[0] if len(items) == 1 else f"join({','.join(items)})"


def genbank_to_segments(
    record: GenBankRecord, types: Sequence[str], strands: bool = True, background: str = "intergenic"
) -> tuple[Segments, list[str]]:
    """Features of the given types as ``Segments`` of batch shape ``(1,)``, and the label names.

    Where features overlap, what stands later in ``types`` covers what stands earlier, and of one type the later feature
    covers the earlier. What is covered in the middle falls into two segments.

    Args:
        record: as ``read_genbank`` gives it.
        types: feature keys, such as ``["gene", "CDS"]``.
        strands: whether ``gene+`` and ``gene-`` are two labels.
        background: the name of label 0.

    Raises:
        InputError: no types, or one twice.

    >>> gene = GenBankFeature("gene", (Part(1, 5, 1),), {})
    >>> exon = GenBankFeature("CDS", (Part(2, 4, 1),), {})
    >>> record = GenBankRecord("X1", 6, False, "", [gene, exon])
    >>> segments, names = genbank_to_segments(record, ["gene", "CDS"], strands=False)
    >>> names, segments.tolist()
    (['intergenic', 'gene', 'CDS'], [[(0, 1, 0), (1, 2, 1), (2, 4, 2), (4, 5, 1), (5, 6, 0)]])
    """
    if isinstance(types, str) or not types or len(set(types)) != len(types):
        raise bad_input("types", repr(types), "a list of distinct feature keys", '["gene"].')
    owner = [-1] * record.length
    chosen = [(f.type, p) for kind in types for f in record.features if f.type == kind for p in f.parts]
    for i, (_, part) in enumerate(chosen):
        owner[part.start : part.end] = [i] * (part.end - part.start)
    starts = [t for t in range(record.length) if t == 0 or owner[t] != owner[t - 1]]
    names = [background, *(k + sign for k in types for sign in ("+-" if strands else ("",)))]
    row = []
    for start, end in zip(starts, [*starts[1:], record.length], strict=True):
        if owner[start] >= 0:
            kind, part = chosen[owner[start]]
            row.append((start, end, kind + (("+" if part.strand > 0 else "-") if strands else "")))
    return from_intervals([row], [record.length], names), names


def genbank_features(segments: Segments, names: Sequence[str]) -> list[list[GenBankFeature]]:
    """Features of each sequence of ``Segments`` of batch shape ``(S,)``; a name's last ``+`` or ``-`` is its strand.

    Label 0, the background, is left out.

    Raises:
        InputError: batch shape, labels or names that do not fit.

    >>> genbank_features(Segments.from_list([[(0, 2, 1), (2, 5, 0)]]), ["intergenic", "gene-"])[0][0].parts
    (Part(start=0, end=2, strand=-1, open_start=False, open_end=False),)
    """

    def feature(start: int, end: int, name: str) -> GenBankFeature:
        return GenBankFeature(name.rstrip("+-"), (Part(start, end, -1 if name.endswith("-") else 1),), {})

    return [[feature(*interval) for interval in row] for row in to_intervals(segments, names)]
