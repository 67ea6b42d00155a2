"""Segmentations as ribbons of text, for terminals and logs; the colours of labels, here and in `semicrf.plots`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from semicrf.errors import bad_input
from semicrf.segments import Segments

__all__ = ["PALETTE", "Shade", "label_names", "ribbon", "shade", "use_color"]

_WIDEST_CELL = 4
Cell = tuple[str, int | None]
"""A character, and the label whose colour is behind it."""


class Shade(NamedTuple):
    """A colour for pictures, the nearest one of a 256-colour terminal, and whether text on it is black or white."""

    hex: str
    ansi: int
    dark_text: bool


PALETTE = (
    Shade("#0072B2", 25, False),  # blue
    Shade("#E69F00", 214, True),  # orange
    Shade("#56B4E9", 74, True),  # sky blue
    Shade("#CC79A7", 175, True),  # reddish purple
    Shade("#D55E00", 166, True),  # vermilion
    Shade("#F0E442", 227, True),  # yellow
    Shade("#009E73", 35, True),  # bluish green
    Shade("#8C8C8C", 245, True),  # grey, where the source has black
)
"""Colours that people of every kind of colour vision tell apart, the first ones best. Source: Okabe & Ito 2008."""


def shade(label: int) -> Shade:
    """The colour of a label; they repeat after eight.

    >>> shade(9) == PALETTE[1]
    True
    """
    return PALETTE[label % len(PALETTE)]


def label_names(names: Sequence[str] | None, count: int) -> list[str]:
    """Names of labels ``0..count - 1``: those given, or letters, or numbers where letters do not suffice.

    Raises:
        InputError: fewer names than labels.

    >>> label_names(None, 3)
    ['A', 'B', 'C']
    """
    if names is None:
        return [chr(ord("A") + c) if count <= 26 else str(c) for c in range(count)]
    if isinstance(names, str) or len(names) < count:
        got = repr(names) if isinstance(names, str) else f"{len(names)} names"
        raise bad_input("names", got, f"a list of {count} names, one per label")
    return list(names)


def use_color() -> bool:
    """Whether standard output is a terminal that shows colours, and nobody asked for none (https://no-color.org)."""
    encoding = getattr(sys.stdout, "encoding", None) or ""  # a coloured ribbon has one character beyond ASCII
    able = sys.stdout.isatty() and "utf" in encoding.lower() and os.environ.get("TERM") != "dumb"
    return able and not os.environ.get("NO_COLOR")


def ribbon(
    segments: Segments | Mapping[str, Segments],
    names: Sequence[str] | None = None,
    width: int = 80,
    *,
    color: bool | None = None,
) -> str:
    """Segmentations as coloured ribbons under one ruler of positions, in as many rows as `width` asks for.

    Below a ribbon stand the segments' probabilities in percent, where it has them (`Segments.probability`).

    Args:
        segments: one segmentation, or several by title, to be shown under each other; batch shape ``()``.
        names: of the labels; letters by default. What is too long for its segment is cut.
        width: of a line, in characters.
        color: 256 ANSI colours, or plain ASCII; None: as `use_color` says.

    Raises:
        InputError: a batch instead of one segmentation, a sequence without one, fewer names than labels, or no room.

    >>> print(ribbon(Segments.from_list([(0, 4, 0), (4, 5, 1), (5, 9, 1)]), ["noun", "verb"], width=40, color=False))
    0
    |------noun-----|ver|------verb-----|
    """
    rows = dict(segments) if isinstance(segments, Mapping) else {"": segments}
    known = {title: _read(title, value) for title, value in rows.items()}
    pieces = [piece for found in known.values() for piece in found]
    names = label_names(names, 1 + max((p.label for p in pieces), default=0))
    color = use_color() if color is None else color
    gutter = max((len(title) + 2 for title in rows if title), default=0)
    length = max((p.end for p in pieces), default=0)
    room = width - gutter - 1  # a mark closes the last segment
    if room < 2:
        raise bad_input("width", width, f"at least {gutter + 3}", "shorten the titles, or widen the terminal.")
    lines = math.ceil(length / (room // 2))
    step = math.ceil(length / max(lines, 1))
    cell = min(_WIDEST_CELL, room // max(step, 1))
    blocks = []
    for low in range(0, length, step):
        window = _Window(low, min(low + step, length), cell)
        block = [" " * gutter + _ruler(window)]
        for title, found in known.items():
            block.append(title.ljust(gutter) + _paint(_bar(found, names, window, color), color))
            if any(p.probability is not None for p in found):
                block.append("%".rjust(gutter - 2).ljust(gutter) + _percentages(found, window))
        blocks.append("\n".join(line.rstrip() for line in block))
    return "\n".join(blocks)


class _Piece(NamedTuple):
    start: int
    end: int
    label: int
    probability: float | None


class _Window(NamedTuple):
    """The positions ``[low, high)`` of a line, each `cell` characters wide."""

    low: int
    high: int
    cell: int

    def columns(self, piece: _Piece) -> tuple[int, int]:
        """Where the piece is in the line; an empty range where it is outside."""
        left, right = max(piece.start, self.low), min(piece.end, self.high)
        return (left - self.low) * self.cell, max(right - self.low, left - self.low) * self.cell


def _read(title: str, segments: Segments) -> list[_Piece]:
    """The segments of the one sequence."""
    name = f"segments[{title!r}]" if title else "segments"
    if not isinstance(segments, Segments):
        raise bad_input(name, f"a {type(segments).__name__}", "Segments", "Segments.from_list(...).")
    if segments.batch_shape:
        raise bad_input(name, f"batch shape {tuple(segments.batch_shape)}", "(), one segmentation", "index it.")
    triples, known = segments.tolist(), segments.probability
    probabilities = [None] * len(triples) if known is None else known[: len(triples)].tolist()
    return [_Piece(start, end, label, p) for (start, end, label), p in zip(triples, probabilities, strict=True)]


def _ruler(window: _Window) -> str:
    """Numbers above every tenth position."""
    line = ""
    for t in range(window.low + -window.low % 10, window.high, 10):
        line = line.ljust((t - window.low) * window.cell) + str(t)
    return line


def _bar(pieces: Sequence[_Piece], names: Sequence[str], window: _Window, color: bool) -> list[Cell]:
    """The ribbon as cells: a mark where a segment starts, its name in its middle; without colour, a mark at its end."""
    mark, fill = ("▏", " ") if color else ("|", "-")
    cells: list[Cell] = [(" ", None)] * ((window.high - window.low) * window.cell + 1)
    for piece in pieces:
        left, right = window.columns(piece)
        if left < right:
            opening = mark if piece.start >= window.low else fill
            text = opening + names[piece.label][: right - left - 1].center(right - left - 1, fill)
            cells[left:right] = [(character, piece.label) for character in text]
            if not color and piece.end <= window.high:
                cells[right] = (mark, None)
    return cells


def _paint(cells: Sequence[Cell], color: bool) -> str:
    """The cells as text, with one escape sequence per run of one label."""
    if not color:
        return "".join(character for character, _ in cells)
    runs = []
    for label, run in groupby(cells, lambda c: c[1]):
        text = "".join(character for character, _ in run)
        if label is not None:
            background, foreground = shade(label).ansi, 16 if shade(label).dark_text else 231
            text = f"\x1b[48;5;{background};38;5;{foreground}m{text}\x1b[0m"
        runs.append(text)
    return "".join(runs)


def _percentages(pieces: Sequence[_Piece], window: _Window) -> str:
    """Rounded percentages, each below the larger part of its segment; at most the largest number that fits."""
    line = [" "] * ((window.high - window.low) * window.cell)
    for piece in pieces:
        left, right = window.columns(piece)
        if piece.probability is not None and window.low <= (piece.start + piece.end) // 2 < window.high:
            value = min(round(100 * piece.probability), 10 ** (right - left) - 1)
            line[left:right] = str(value).center(right - left)
    return "".join(line)
