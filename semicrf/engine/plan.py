"""How a sweep is cut into tiles: pure Python, from shapes alone, so that the same shapes give the same plan anywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes of one sweep. Every size but the ring is a constant of the compiled kernel."""

    labels: int  # C, filled up to a power of two
    rows: int  # positions in a tile
    group: int  # sources (or destinations) read at once from outside the tile
    ring: int  # positions that are kept in memory, a power of two
    warps: int


def power(n: int) -> int:
    """The least power of two that is not less than n."""
    return 1 << max(0, n - 1).bit_length()


def plan(K: int, C: int, width: int, interpreted: bool = False) -> Plan:
    """The plan for elements of `width` scalars. `interpreted`: small tiles, which is all that an interpreter can do."""
    labels = power(max(C, 2))
    if interpreted:
        rows, group, warps = 4, 2, 1
    else:
        rows = 4 if labels > 64 else 8 if labels > 32 or K <= 8 else 16
        group = 4 if labels <= 64 else 2
        warps = 1 if labels * labels <= 256 and K <= 32 else 8 if labels > 64 else 4
    return Plan(labels, rows, group, power(K + 2 * rows + group), warps)
