"""How a sweep is cut into tiles: pure Python, from shapes alone, so the same shapes give the same plan anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Plan:
    """Sizes of one sweep. Every size but the ring is a constant of the compiled kernel."""

    labels: int  # C, filled up to a power of two
    rows: int  # positions in a tile
    group: int  # sources (or destinations) read at once from outside the tile
    ring: int  # positions that are kept in memory, a power of two
    warps: int

    @property
    def table(self) -> int:
        """Rows that a table of durations has beyond 2 K: before duration 1, past K, and for a square of labels."""
        return 2 * (3 * self.rows + self.group + 1) + self.labels

    def sums(self, K: int) -> bool:
        """Whether a window is long enough that sums of products pay for the exponentials they need beforehand."""
        return 4 * self.rows <= K


MANY = 1 << 30


def power(n: int) -> int:
    """The least power of two that is not less than n."""
    return 1 << max(0, n - 1).bit_length()


# Measured on an H100: longest K, most labels of a row, then (rows, group, warps) of the forward and the reverse sweep.
Tiling = tuple[int, int, int]
TABLE: tuple[tuple[int, int, Tiling, Tiling], ...] = (
    (4, 32, (4, 2, 1), (16, 4, 8)),
    (24, 16, (8, 8, 1), (16, 4, 8)),
    (48, 32, (16, 16, 4), (16, 8, 8)),
    (256, 32, (16, 16, 4), (16, 8, 8)),
    (MANY, 32, (32, 16, 8), (16, 4, 8)),
    (MANY, 64, (8, 4, 8), (8, 4, 8)),
    (MANY, 128, (4, 2, 8), (4, 2, 8)),
    (MANY, MANY, (4, 2, 16), (4, 2, 16)),
)


def _wide(tiling: Tiling, width: int, reverse: bool) -> Tiling:
    """What elements of several scalars leave of a tiling: an accumulator of theirs needs more registers."""
    rows, group, warps = tiling
    if width == 2:
        return rows, min(group, 4 if reverse else 8), warps
    if width <= 4 and not reverse:
        return rows, min(group, 4), max(warps, 4)
    return min(rows, 8), min(group, 2), max(warps, 4 if reverse else 8)


@lru_cache(maxsize=256)
def plan(K: int, C: int, width: int, interpreted: bool = False, reverse: bool = False) -> Plan:
    """The plan for elements of `width` scalars. `interpreted`: small tiles, which is all that an interpreter can do."""
    labels = power(max(C, 2))
    longest = next(row for row in TABLE if row[0] >= K and labels <= row[1])
    tiling = (4, 2, 1) if interpreted else longest[3] if reverse else longest[2]
    rows, group, warps = _wide(tiling, width, reverse) if width > 1 and not interpreted else tiling
    return Plan(labels, rows, group, power(K + 2 * rows + group), warps)


def known(K: int, C: int, interpreted: bool = False) -> Plan:
    """The plan for rows that are all known: large tiles, as only a running sum has an order."""
    cut = plan(K, C, 1, interpreted)
    rows = cut.rows if interpreted else max(16, min(64, 1024 // cut.labels))
    return Plan(cut.labels, rows, rows, power(K + 3 * rows), 8 if not interpreted else 1)


SHORT = 64
"""Positions whose transitions one program counts."""


def squares(C: int) -> int:
    """How many positions' transitions are held at once."""
    return min(SHORT, max(1, 4096 // power(max(C, 2)) ** 2))


TILED = 64
"""The most labels whose transitions one program holds in registers."""


@dataclass(frozen=True)
class Steps:
    """Sizes of a sweep that takes one position at a time, for arcs of any kind and any number of labels."""

    labels: int  # C, filled up to a power of two
    window: int  # durations read at once
    previous: int  # previous labels in a tile of what leads on
    durations: int  # durations in such a tile, where what leads on depends on them
    ring: int  # positions that are kept in memory, a power of two
    warps: int


def steps(K: int, C: int, width: int, by_duration: bool, interpreted: bool = False) -> Steps:
    """The plan of a sweep over arcs; `by_duration`: whether what leads into a segment depends on its duration."""
    labels = power(max(C, 2))
    entries = 4 * labels if interpreted else 2048 if width == 1 else 1024  # arcs in registers at once
    previous = min(labels // 2 if interpreted else labels, entries // labels, 32)
    durations = min(entries // (labels * previous), 16) if by_duration else 1
    return Steps(labels, min(entries // labels, 64), previous, durations, power(K + 2), 8)
