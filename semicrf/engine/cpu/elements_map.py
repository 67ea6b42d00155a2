"""Which row of memory holds what, in the loops over elements.

Labels are in blocks of eight. A block's rows lie together and hold what is known of each label; behind all blocks come
the rows that labels share. What belongs to one element takes D rows, to one score P rows. A map is an array of
integers: sizes, and the first row of each kind, within its block or in all; the names below say which is which.
"""

from __future__ import annotations

import numpy as np

from semicrf.compile import Program
from semicrf.engine.cpu.lanes import LANES
from semicrf.engine.cpu.places import KEPT_AXES, NAMES

# fmt: off
(
    K, C, D, P, CHOICES, GATES, COLUMNS, BY_DURATION, SEGMENTS, EDGES, SOURCES, BLOCKS, BLOCK, PARTS, KEPT, GRADIENTS,
    READ, HERE, BOUND, PREFIX, LO, ALPHA, Y, IDS, DURATION, LEAD, EDGED, INITIAL, WINDOW, SOURCE, RING, GATHERED,
    SCORES, COTANGENT, INTO, MASS, RING_INTO, GATHERED_INTO, OUT, LIVE, POSITION, DURATION_SUM, LEAD_SUM, INITIAL_SUM,
    LOS, NOTHING, LABELS, SINGLE, ONE, LEVEL, ALL, ALL_INTO, FINAL, OFFSET, ORIGIN, BY, UNIT, TOTAL, TOTAL_IDS,
    TOTAL_COTANGENT, TOTAL_OUT, TOTAL_LIVE, X, ROWS, SIZE,
) = range(65)
# fmt: on


def mapped(
    program: Program, parts: set[str], k: int, c: int, *, by_duration: bool, scratch: int, positions: int, back: bool
) -> np.ndarray:
    """The map of a run: of its reverse sweep where `back`, with bounds for so many positions."""
    d, p = program.width, program.potentials
    columns = k if by_duration else 1
    sources = 2 * k + 64  # that a window holds
    lying, turning = (0, k) if by_duration else (sources, 0)  # elements of a window, and of a ring
    sizes = {
        K: k, C: c, D: d, P: p, CHOICES: program.ids, GATES: program.gates, COLUMNS: columns, BY_DURATION: by_duration,
        SEGMENTS: "segment" in parts, EDGES: "edge" in parts, SOURCES: sources, BLOCKS: -(-c // LANES),
        PARTS: len(NAMES),  # places of one potential; then those of what is kept, of gradients, of the cotangent
        KEPT: p * len(NAMES), GRADIENTS: p * len(NAMES) + len(KEPT_AXES),
    }  # fmt: skip
    block = {
        READ: 1,
        HERE: p,  # what the end of a segment scores
        BOUND: p,  # how many sources it may have
        PREFIX: p,
        LO: p,  # the first source a segment may start at
        ALPHA: d,
        Y: d,
        IDS: program.ids,
        DURATION: k * p,
        LEAD: columns * c * p,  # what leads in, by column and previous label
        EDGED: c * p if "edge" in parts else 0,  # the same with the edges of a position
        INITIAL: p,
        WINDOW: lying * d,  # elements that lead on, latest first
        SOURCE: sources * p,  # what the start of a segment scores
        RING: turning * columns * d,  # elements that lead on where they depend on the duration, by source modulo K
        GATHERED: turning * d,  # those of a window
        SCORES: k * p if "segment" in parts else 0,  # SOURCE with whole segments
    }
    reverse = {  # cotangents
        COTANGENT: d,  # of alpha
        INTO: lying * d,  # of WINDOW
        MASS: sources * p,  # of SOURCE
        RING_INTO: turning * columns * d,
        GATHERED_INTO: turning * d,
        OUT: max(k, c) * p,  # of the terms of the sum at hand
        LIVE: p,
        POSITION: p,  # of emissions at this position
        DURATION_SUM: k * p,
        LEAD_SUM: columns * c * p,
        INITIAL_SUM: p,
        LOS: positions * p,  # LO by position
    }
    shared = {
        NOTHING: p,
        LABELS: p,  # C everywhere: the bound of sums over labels
        SINGLE: p,  # 1 everywhere
        ONE: d,
        LEVEL: p,  # which scalar each potential moves, or -1
        ALL: c * d,  # alpha by previous label, in all lanes
        ALL_INTO: c * d,
        FINAL: c * p,
        OFFSET: p,  # the level of alpha, from ORIGIN
        ORIGIN: p,
        BY: p,
        UNIT: p,
        TOTAL: d,
        TOTAL_IDS: program.ids,
        TOTAL_COTANGENT: d,
        TOTAL_OUT: c * p,
        TOTAL_LIVE: p,
        X: scratch,
    }
    at = np.zeros(SIZE, np.int64)
    for name, size in sizes.items():
        at[name] = size
    end = 0
    for name, size in {**block, **(reverse if back else dict.fromkeys(reverse, 0))}.items():
        at[name], end = end, end + size
    at[BLOCK], end = end, end * at[BLOCKS]
    for name, size in shared.items():
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
