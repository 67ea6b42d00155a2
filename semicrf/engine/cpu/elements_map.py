"""Which row of memory holds what, in the loops over elements.

Labels are in blocks of eight. A block's rows lie together and hold what is known of each label; behind all blocks come
the rows that labels share. What belongs to one element takes D rows, to one score P rows. A map is an array of
integers: sizes, and the first row of each kind, within its block or in all; the names below say which is which.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from semicrf.compile import Program
from semicrf.engine.cpu.lanes import LANES
from semicrf.engine.cpu.places import KEPT_AXES, NAMES

# fmt: off
(
    K, C, D, P, CHOICES, GATES, COLUMNS, BY_DURATION, SEGMENTS, EDGES, SOURCES, BLOCK, ENDS, PARTS, KEPT, GRADIENTS,
    COTANGENTS, READ, HERE, BOUND, PREFIX, LO, ALPHA, Y, IDS, DURATION, LEAD, EDGED, INITIAL, WINDOW, SOURCE, RING,
    GATHERED, SCORES, COTANGENT, INTO, MASS, RING_INTO, GATHERED_INTO, OUT, LIVE, POSITION, DURATION_SUM, LEAD_SUM,
    INITIAL_SUM, LOS, NOTHING, LABELS, SINGLE, ONE, LEVEL, ALL, ALL_INTO, FINAL, OFFSET, ORIGIN, BY, UNIT, TOTAL,
    TOTAL_IDS, TOTAL_COTANGENT, TOTAL_OUT, TOTAL_LIVE, X, ROWS, SIZE,
) = range(66)
# fmt: on


class _Sizes(NamedTuple):
    """What the numbers of rows depend on."""

    k: int
    c: int
    d: int
    p: int
    ids: int
    columns: int
    sources: int  # that a window holds
    lying: int  # of these, elements; none where they turn in a ring,
    turning: int  # which holds elements of so many sources
    segment: bool
    edge: bool


def _of_block(n: _Sizes) -> dict[int, int]:
    return {
        READ: 1,
        HERE: n.p,  # what the end of a segment scores
        BOUND: n.p,  # how many sources it may have
        PREFIX: n.p,
        LO: n.p,  # the first source a segment may start at
        ALPHA: n.d,
        Y: n.d,
        IDS: n.ids,
        DURATION: n.k * n.p,
        LEAD: n.columns * n.c * n.p,  # what leads in, by column and previous label
        EDGED: n.c * n.p * n.edge,  # the same with the edges of a position
        INITIAL: n.p,
        WINDOW: n.lying * n.d,  # elements that lead on, latest first
        SOURCE: n.sources * n.p,  # what the start of a segment scores
        RING: n.turning * n.columns * n.d,  # elements that lead on, by source modulo K and duration
        GATHERED: n.turning * n.d,  # those of a window
        SCORES: n.k * n.p * n.segment,  # SOURCE with whole segments
    }


def _of_block_in_reverse(n: _Sizes, positions: int) -> dict[int, int]:
    """Cotangents."""
    return {
        COTANGENT: n.d,  # of alpha
        INTO: n.lying * n.d,  # of WINDOW
        MASS: n.sources * n.p,  # of SOURCE
        RING_INTO: n.turning * n.columns * n.d,
        GATHERED_INTO: n.turning * n.d,
        OUT: max(n.k, n.c) * n.p,  # of the terms of the sum at hand
        LIVE: n.p,
        POSITION: n.p,  # of emissions at this position
        DURATION_SUM: n.k * n.p,
        LEAD_SUM: n.columns * n.c * n.p,
        INITIAL_SUM: n.p,
        LOS: positions * n.p,  # LO by position
    }


def _shared(n: _Sizes, scratch: int) -> dict[int, int]:
    return {
        NOTHING: n.p,
        LABELS: n.p,  # C everywhere: the bound of sums over labels
        SINGLE: n.p,  # 1 everywhere
        ONE: n.d,
        LEVEL: n.p,  # which scalar each potential moves, or -1
        ALL: n.c * n.d,  # alpha by previous label, in all lanes
        ALL_INTO: n.c * n.d,
        FINAL: n.c * n.p,
        OFFSET: n.p,  # the level of alpha, from ORIGIN
        ORIGIN: n.p,
        BY: n.p,
        UNIT: n.p,  # the offset from which a reverse window counts
        TOTAL: n.d,
        TOTAL_IDS: n.ids,
        TOTAL_COTANGENT: n.d,
        TOTAL_OUT: n.c * n.p,
        TOTAL_LIVE: n.p,
        X: scratch,
    }


def mapped(
    program: Program, parts: set[str], k: int, c: int, *, by_duration: bool, scratch: int, positions: int, back: bool
) -> np.ndarray:
    """The map of a run: of its reverse sweep where `back`, with bounds for so many positions."""
    columns, sources = k if by_duration else 1, 2 * k + 64
    lying, turning = (0, k) if by_duration else (sources, 0)
    segment, edge = "segment" in parts, "edge" in parts
    n = _Sizes(k, c, program.width, program.potentials, program.ids, columns, sources, lying, turning, segment, edge)
    at = np.zeros(SIZE, np.int64)
    for name, size in {
        K: k, C: c, D: n.d, P: n.p, CHOICES: n.ids, GATES: program.gates, COLUMNS: columns, BY_DURATION: by_duration,
        SEGMENTS: segment, EDGES: edge, SOURCES: sources,
        PARTS: len(NAMES),  # places of one potential; then those of what is kept, of gradients, of the cotangent
        KEPT: n.p * len(NAMES), GRADIENTS: n.p * len(NAMES) + len(KEPT_AXES),
        COTANGENTS: 2 * n.p * len(NAMES) + len(KEPT_AXES),
    }.items():  # fmt: skip
        at[name] = size
    end = 0
    for name, size in (_of_block(n) | (_of_block_in_reverse(n, positions) if back else {})).items():
        at[name], end = end, end + size
    at[BLOCK], at[ENDS] = end, end * -(-c // LANES)
    end = at[ENDS]
    for name, size in _shared(n, scratch).items():
        at[name], end = end, end + size
    at[ROWS] = end
    return at


def memory(program: Program, at: np.ndarray) -> np.ndarray:
    """(rows, LANES), each row in a cache line of its own, with what does not change over a run."""
    rows, d, p = int(at[ROWS]), program.width, program.potentials
    whole = np.zeros((rows + 1) * LANES)
    skip = -(whole.ctypes.data // whole.itemsize) % LANES
    m = whole[skip : skip + rows * LANES].reshape(rows, LANES)
    m[at[LABELS] : at[LABELS] + p] = at[C]
    m[at[SINGLE] : at[SINGLE] + p] = 1.0
    m[at[ONE] : at[ONE] + d] = np.array(program.semiring.one)[:, None]
    for v in range(p):
        m[at[LEVEL] + v] = program.levels.get(v, -1)
    return m
