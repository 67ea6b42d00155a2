"""Praat TextGrids: tiers of labelled intervals and points, in seconds (Praat manual, "TextGrid file formats")."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from os import fspath
from typing import NamedTuple

from semicrf.errors import bad_input
from semicrf.io.intervals import from_intervals, label_ids, to_intervals
from semicrf.io.text import Path, write
from semicrf.segments import Segments


class Tier(NamedTuple):
    """One tier: ``marks`` are ``(start, end, text)`` in seconds; in a tier of points, start and end are the same."""

    name: str
    start: float
    end: float
    marks: list[tuple[float, float, str]]
    points: bool = False


# What Praat reads of either format: texts in quotes, numbers and flags that stand free. All else is comment.
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?\d[\d.eE+-]*)(?!\S)|(<exists>|<absent>)|(!.*)|(")')


class _Tokens:
    """The texts, numbers and flags of a file, one after the other."""

    def __init__(self, path: str, text: str):
        self._path, self._text, self.where = path, text, f"{path}, line 1"
        self._found = (m for m in _TOKEN.finditer(text) if not m[4])

    def _next(self, expected: str) -> re.Match[str]:
        match = next(self._found, None)
        if match is None:
            raise bad_input(f"{self._path}, at its end", "no more", expected, "is the file complete?")
        self.where = f"{self._path}, line {self._text.count(chr(10), 0, match.start()) + 1}"
        if match[5]:
            raise bad_input(self.where, "a quote that is not closed", expected, 'write " within a text as "".')
        return match

    def text(self, what: str) -> str:
        match = self._next(f"{what}, in quotes")
        if match[1] is None:
            raise bad_input(self.where, match[0], f"{what}, in quotes", "put it in quotes.")
        return match[1].replace('""', '"')

    def number(self, what: str) -> float:
        match = self._next(f"{what}, a number")
        try:
            return float(match[2])
        except (TypeError, ValueError):
            raise bad_input(self.where, match[0], f"{what}, a number", "leave out no number before it.") from None

    def count(self, what: str) -> int:
        value = self.number(what)
        if value != int(value) or value < 0:
            raise bad_input(self.where, value, f"{what}, an integer of at least 0")
        return int(value)

    def flag(self) -> bool:
        match = self._next("<exists>")
        if not match[3]:
            raise bad_input(
                self.where, match[0], "<exists> or <absent>", "after the end of the whole, before the tiers."
            )
        return match[3] == "<exists>"


def read_textgrid(path: Path) -> list[Tier]:
    """The tiers of a TextGrid in Praat's long or short text format, in UTF-8 or UTF-16.

    Raises:
        InputError: not a TextGrid, something missing, intervals of a tier that leave gaps or overlap.

    >>> from tempfile import TemporaryDirectory
    >>> words = Tier("words", 0.0, 0.5, [(0.0, 0.2, "ah"), (0.2, 0.5, "")])
    >>> with TemporaryDirectory() as folder:
    ...     write_textgrid(f"{folder}/a.TextGrid", [words])
    ...     read_textgrid(f"{folder}/a.TextGrid") == [words]
    True
    """
    return _parsed(fspath(path), _decoded(path))


def _parsed(path: str, text: str) -> list[Tier]:
    tokens = _Tokens(path, text)
    for expected in ("ooTextFile", "TextGrid"):
        found = tokens.text(f'"{expected}"')
        if found != expected:
            raise bad_input(tokens.where, repr(found), f'"{expected}"', "save it in Praat as a text file.")
    for edge in ("start", "end"):
        tokens.number(f"the {edge} of the whole")
    if not tokens.flag():
        return []
    return [_tier(tokens) for _ in range(tokens.count("the number of tiers"))]


def _decoded(path: Path) -> str:
    with open(path, "rb") as file:
        raw = file.read()
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return raw.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        where = f"{fspath(path)}, line {raw.count(bytes([10]), 0, error.start) + 1}"
        raise bad_input(where, f"bytes {raw[error.start : error.end]!r}", encoding, "save it in UTF-8.") from None


def _tier(tokens: _Tokens) -> Tier:
    kind = tokens.text("the class of a tier")
    if kind not in ("IntervalTier", "TextTier"):
        raise bad_input(
            tokens.where, repr(kind), '"IntervalTier" or "TextTier"', "is the number of marks before it right?"
        )
    name, points = tokens.text("the name of a tier"), kind == "TextTier"
    start, end = tokens.number("the start of a tier"), tokens.number("the end of a tier")
    marks, last = [], start
    for _ in range(tokens.count("the number of marks")):
        first = tokens.number("a point" if points else "the start of an interval")
        stop = first if points else tokens.number("the end of an interval")
        if not points and (first != last or stop <= first or stop > end):
            fix = f"intervals follow each other without gaps, up to {end}, the end of the tier."
            raise bad_input(tokens.where, f"interval {first}..{stop} of tier {name!r}", f"one from {last}", fix)
        marks.append((first, stop, tokens.text("the text of a mark")))
        last = stop
    if not points and last != end:
        raise bad_input(tokens.where, f"a tier {name!r} up to {last}", f"intervals up to its end, {end}", "add one.")
    return Tier(name, start, end, marks, points)


def write_textgrid(path: Path, tiers: Sequence[Tier]) -> None:
    """A TextGrid in the long text format, in UTF-8.

    Raises:
        InputError: no tiers, or one whose intervals leave gaps or overlap; nothing is written then.
    """
    if not tiers:
        raise bad_input("tiers", "none", "at least one")
    text = "\n".join(_text(tiers)) + "\n"
    for tier, found in zip(
        tiers, _parsed("tiers", text), strict=True
    ):  # raises where a tier is not what a file may hold
        if found != tier:
            raise bad_input("tiers", f"tier {tier.name!r}", "one that reads back as it is", "numbers are floats.")
    write(path, text)


def _text(tiers: Sequence[Tier]) -> Iterator[str]:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    yield from ('File type = "ooTextFile"', 'Object class = "TextGrid"', "")
    yield from (f"xmin = {min(t.start for t in tiers)}", f"xmax = {max(t.end for t in tiers)}", "tiers? <exists>")
    yield from (f"size = {len(tiers)}", "item []:")
    for i, tier in enumerate(tiers, 1):
        kind, what = ("TextTier", "points") if tier.points else ("IntervalTier", "intervals")
        yield from (f"    item [{i}]:", f'        class = "{kind}"', f"        name = {quoted(tier.name)}")
        yield from (f"        xmin = {tier.start}", f"        xmax = {tier.end}")
        yield f"        {what}: size = {len(tier.marks)}"
        for j, (start, end, text) in enumerate(tier.marks, 1):
            yield f"        {what} [{j}]:"
            yield from (
                (f"            number = {start}",)
                if tier.points
                else (
                    f"            xmin = {start}",
                    f"            xmax = {end}",
                )
            )
            yield f"            {'mark' if tier.points else 'text'} = {quoted(text)}"


def tier_to_segments(tier: Tier, hop: float, names: Sequence[str]) -> Segments:
    """A tier of intervals as ``Segments`` of batch shape ``(1,)``, with one position for each ``hop`` seconds.

    A time goes to the nearest edge of a frame. Texts are label names; ``""`` is one where it is in names.

    Args:
        tier: of intervals.
        hop: the length of a frame, seconds.
        names: label names, each text of the tier among them.

    Raises:
        InputError: a tier of points, an interval shorter than the frames can show, a text that is not in names.

    >>> tier_to_segments(Tier("words", 0.0, 0.5, [(0.0, 0.2, "ah"), (0.2, 0.5, "")]), 0.1, ["", "ah"]).tolist()
    [[(0, 2, 1), (2, 5, 0)]]
    """
    label_ids(names)
    if tier.points or not tier.marks:
        raise bad_input("tier", f"{tier.name!r}, of points or without intervals", "a tier of intervals")
    if not hop > 0:
        raise bad_input("hop", hop, "seconds above 0", "0.01.")
    edges = [round((t - tier.start) / hop) for t in (*(start for start, _, _ in tier.marks), tier.end)]
    row = []
    for (first, last, text), start, end in zip(tier.marks, edges, edges[1:], strict=False):
        if start == end:
            got = f"interval {first}..{last} of tier {tier.name!r}"
            raise bad_input("hop", f"{hop} for {got}", "a frame or more for each interval", "a smaller hop.")
        row.append((start, end, text))
    return from_intervals([row], [edges[-1]], names)


def segments_to_tier(segments: Segments, hop: float, names: Sequence[str], name: str = "segments") -> Tier:
    """One segmentation, batch shape ``()`` or ``(1,)``, as a tier of intervals, with ``hop`` seconds for each position.

    Raises:
        InputError: a batch of more, a sequence of count 0, labels that are not in names.

    >>> segments_to_tier(Segments.from_list([(0, 2, 1), (2, 5, 0)]), 0.5, ["", "ah"]).marks
    [(0.0, 1.0, 'ah'), (1.0, 2.5, '')]
    """
    one = segments[None] if not segments.batch_shape else segments
    if tuple(one.batch_shape) != (1,):
        raise bad_input("segments", f"batch shape {tuple(segments.batch_shape)}", "() or (1,)", "one tier for each.")
    marks = [(start * hop, end * hop, text) for start, end, text in to_intervals(one, names, background=True)[0]]
    return Tier(name, 0.0, marks[-1][1], marks)
