"""Which row of memory holds what, in the loops over elements; their tables of places.

Labels are in blocks of eight. A block's rows lie together, `R` of them, and hold what is known of each label; behind all
blocks come the rows that labels share. Rows that belong to one element are its d scalars, those of a score its p
potentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.cpu.lanes import LANES
from semicrf.engine.cpu.places import place
from semicrf.engine.layout import PARTS

EMISSION, OPEN, CLOSE, SEGMENT, EDGE, REQUIRED, DURATION, TRANSITION, TRANSITION_BY, START, END = range(11)
NAMES = (
    "emission", "segment_start", "segment_end", "segment", "edge", "required", "duration", "transition",
    "duration_transition", "start", "end",
)  # fmt: skip
"""Parts, in the order of their places; those of potential q begin at q * len(NAMES)."""
VALUE, ALPHA, G, OFFSET, ALPHA_ID, G_ID, END_ID = range(7)
KEPT = ("dB", "dBTC", "dBTKC", "dBT", "dBTC", "dBTKC", "dB")
"""What a scan leaves behind (`semicrf.engine.reference.State`); its columns are durations."""


class Map(NamedTuple):
    """Sizes, and the first row of each kind."""

    K: int
    C: int
    d: int
    p: int
    ids: int
    gates: int
    columns: int  # of elements that lead on from a position: K where that depends on the duration, else 1
    by_duration: int
    segments: int  # whether whole segments have scores
    edges: int
    window: int  # sources that it holds
    blocks: int
    R: int
    parts: int  # places of one potential
    kept: int  # the first place of what is kept
    out: int  # the first place of gradients, behind which is that of the cotangent
    # of a block of labels
    READ: int
    HERE: int  # what the end of a segment scores
    BOUND: int  # how many sources it may have
    PREFIX: int
    LO: int  # the first source a segment may start at
    ALPHA: int
    Y: int
    IDS: int
    DURATION: int
    LEAD: int  # by column and previous label
    EDGED: int  # the same with edges
    INITIAL: int
    WINDOW: int  # elements that lead on, latest first
    SOURCE: int  # what the start of a segment scores
    RING: int  # elements that lead on where they depend on the duration, by source modulo K
    GATHERED: int  # those of a window
    SCORES: int  # of sources with whole segments
    # of a block in the reverse sweep: cotangents
    COTANGENT: int
    INTO: int  # of WINDOW
    MASS: int  # of SOURCE
    RING_INTO: int
    GATHERED_INTO: int
    OUT: int  # of the terms of the sum at hand
    LIVE: int
    POSITION: int
    DURATION_SUM: int
    LEAD_SUM: int
    INITIAL_SUM: int
    LOS: int  # LO by position
    # shared
    NOTHING: int
    LABELS: int  # C
    SINGLE: int  # 1
    ZERO: int
    ONE: int
    LEVEL: int  # which scalar each potential moves, or -1
    ALL: int  # alpha by previous label
    ALL_INTO: int
    FINAL: int
    OFFSET: int
    ORIGIN: int
    BY: int
    UNIT: int
    TOTAL: int
    TOTAL_IDS: int
    TOTAL_COTANGENT: int
    TOTAL_OUT: int
    SEEN: int
    X: int
    rows: int


def mapped(
    program: Program, parts: set[str], K: int, C: int, *, by_duration: bool, scratch: int, positions: int, back: bool
) -> Map:
    """The map of a run: of its reverse sweep where `back`, with bounds for so many positions."""
    d, p, ids = program.width, program.potentials, program.ids
    columns, n = K if by_duration else 1, max(K, C)
    window = 2 * K + 64
    ring, segment, edge = columns * K * by_duration, K * ("segment" in parts), C * ("edge" in parts)
    block = [
        1, p, p, p, p, d, d, max(ids, 1), K * p, columns * C * p, edge * p, p, window * d * (not by_duration),
        window * p, ring * d, K * d * by_duration, segment * p,
    ]  # fmt: skip
    block += [
        size * back
        for size in (
            d, window * d * (not by_duration), window * p, ring * d, K * d * by_duration, n * p, p, p, K * p,
            columns * C * p, p, positions * p,
        )
    ]  # fmt: skip
    blocks = -(-C // LANES)
    shared = [p, p, p, d, d, p, C * d, C * d, C * p, p, p, p, p, d, max(ids, 1), d, n * p, p, scratch]
    ends = np.cumsum([0, *block])
    commons = blocks * ends[-1] + np.cumsum([0, *shared])
    flags = int(by_duration), int("segment" in parts), int("edge" in parts)
    sizes = (K, C, d, p, ids, program.gates, columns, *flags, window, blocks, int(ends[-1]))
    places = len(NAMES), p * len(NAMES), p * len(NAMES) + len(KEPT)
    return Map(*sizes, *places, *map(int, ends[:-1]), *map(int, commons))


def memory(program: Program, at: Map) -> np.ndarray:
    """(rows, LANES), each row in a cache line of its own, with what does not change over a run."""
    whole = np.zeros(at.rows * LANES + LANES)
    skip = -(whole.ctypes.data // whole.itemsize) % LANES
    m = whole[skip : skip + at.rows * LANES].reshape(at.rows, LANES)
    m[at.LABELS : at.LABELS + at.p], m[at.SINGLE : at.SINGLE + at.p] = at.C, 1.0
    m[at.ZERO : at.ZERO + at.d] = np.array(program.semiring.zero)[:, None]
    m[at.ONE : at.ONE + at.d] = np.array(program.semiring.one)[:, None]
    for v in range(at.p):
        m[at.LEVEL + v] = program.levels.get(v, -1)
    return m


def places_of(
    models: Sequence[dict[str, Tensor]], kept: Sequence[Tensor], out: dict[str, Tensor] | None = None,
    cotangent: Tensor | None = None,
) -> np.ndarray:  # fmt: skip
    """The places of the parts of every model, of what is kept, of gradients (a potential leads) and the cotangent."""
    found = [place(m.get(n), PARTS[n]) for m in models for n in NAMES]
    found += [place(t, axes) for t, axes in zip(kept, KEPT, strict=True)]
    found += [place((out or {}).get(n), "d" + PARTS[n]) for n in NAMES]
    found.append(place(cotangent, "dB"))
    return np.array(found, np.int64)
