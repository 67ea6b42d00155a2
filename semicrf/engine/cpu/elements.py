"""The forward sweep of any semiring on the CPU: one position at a time, all labels at once.

The recurrence of `semicrf.engine.reference`, line by line: what differs is where things lie. For each label the window
holds the last sources in descending order, so the place of a term is its duration, and the score of a segment is a sum
of what belongs to its end (`here`), to its source and to its duration. Emissions enter through prefix sums and levels
through offsets, both counted from where the window was last moved, so they stay small.

The semiring comes as two compiled functions, `total` and `scale` of `semicrf.engine.cpu.rows`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.cpu.elementary import kernel, part

INF = float("inf")


class Model(NamedTuple):
    """Scores in float64: potential first, then sequence (one row where the batch shares them); 0 rows where absent."""

    emission: Any  # (p, b, q, C), q from the chunk's first position
    segment_start: Any
    segment_end: Any
    segment: Any  # (p, b, q, K, C), q from K - 1 positions before the chunk
    edge: Any  # (p, b, q, columns, previous, next)
    required: Any  # (p, b, q)
    duration: Any  # (b, C, p, K)
    lead: Any  # (b, columns or 1, next, p, previous): what leads in wherever it is
    initial: Any  # (b, C, p)
    final: Any  # (b, p, C)


class Algebra(NamedTuple):
    """What the loops know of the semiring."""

    zero: Any  # (d,)
    one: Any  # (d,)
    level: Any  # (p,): the field whose largest value each potential follows, or -1
    gates: int
    ids: int
    rows: int  # of scratch


class State(NamedTuple):
    """Where the sweep of each sequence stands; O(K C) numbers each."""

    window: Any  # (b, C, d, W) elements that lead on, latest first
    source: Any  # (b, C, p, W) what the start of a segment scores
    ring: Any  # (b, K, columns, C, d): the same elements where they depend on the duration, by source modulo K
    alpha: Any  # (b, 1, d, C)
    prefix: Any  # (b, p, C)
    offset: Any  # (b, p), from the origin
    origin: Any  # (b, p)
    lo: Any  # (b, p, C): the first source a segment may start at
    at: Any  # (b,): where the window begins


class Work(NamedTuple):
    """Scratch of one thread."""

    x: Any
    rows: Any
    gathered: Any  # (C, d, K): a window of elements that depend on the duration
    scores: Any  # (C, p, K)
    lead: Any  # (C, p, C)
    here: Any  # (C, p)
    bound: Any
    count: Any
    y: Any  # (C, d)
    at: Any  # (C, ids)
    by: Any  # (p,)
    nothing: Any  # (C, p), zeros
    nothings: Any  # (C, p, max(K, C)), zeros
    labels: Any  # (C, p), C everywhere
    label_count: Any  # (C,)
    single: Any  # (C, p), 1 everywhere
    single_count: Any  # (C,)


class Kept(NamedTuple):
    """What a scan leaves behind; see `semicrf.engine.reference.State`."""

    value: Any
    alpha: Any
    g: Any
    offset: Any
    alpha_id: Any
    g_id: Any
    end_id: Any


@kernel
def workspace(algebra, K, C, p):
    """Scratch for one thread."""
    d, n = algebra.zero.shape[0], max(K, C, 16)
    return Work(
        np.empty((d, n)), np.empty((algebra.rows, n)), np.empty((C, d, K)), np.empty((C, p, K)), np.empty((C, p, C)),
        np.empty((C, p)), np.empty((C, p), np.int64), np.empty(C, np.int64), np.empty((C, d)),
        np.empty((C, algebra.ids), np.int64), np.empty(p), np.zeros((C, p)), np.zeros((C, p, n)),
        np.full((C, p), C), np.full(C, C), np.full((C, p), 1), np.full(C, 1),
    )  # fmt: skip


@part
def row(part, b):
    """The row of a sequence in a part that the batch may share."""
    return min(b, part.shape[0] - 1)


@part
def leading(model, work, b, q, column):
    """What leads from each previous label into a segment that starts at q > 0."""
    lead = model.lead[row(model.lead, b), min(column, model.lead.shape[1] - 1)]
    if model.edge.shape[0] == 0:
        return lead
    e = min(b, model.edge.shape[1] - 1)
    for c in range(lead.shape[0]):
        for p in range(lead.shape[1]):
            for previous in range(lead.shape[2]):
                work.lead[c, p, previous] = lead[c, p, previous] + model.edge[p, e, q, column, previous, c]
    return work.lead


@part
def starting(model, work, b, column):
    """(C, p, 1): what leads into the first segment."""
    first = model.initial[row(model.initial, b)]
    for c in range(first.shape[0]):
        for p in range(first.shape[1]):
            work.lead[c, p, 0] = first[c, p]
            if model.edge.shape[0] > 0:
                work.lead[c, p, 0] += model.edge[p, min(b, model.edge.shape[1] - 1), 0, column, 0, c]
    return work.lead


@part
def extend(total, model, algebra, state, work, b, s, q, column):
    """What leads into a segment that starts at s (row q of the chunk), by label: work.y and its ids in work.at."""
    if s == 0:
        elements, lead = algebra.one.reshape((1, -1, 1)), starting(model, work, b, column)
        bound, count = work.single, work.single_count
    else:
        elements, lead = state.alpha[b], leading(model, work, b, q, column)
        bound, count = work.labels, work.label_count
    total(elements, 0, 0, work.nothing, lead, 0, work.nothings, bound, count, work.x, work.rows, work.y, work.at)
    if s == 0:
        work.at[:] = -1


@kernel
def make_room(state, b, K):
    """Move the window to the end of its buffer, and count prefixes and offsets from here."""
    window, source, at = state.window[b], state.source[b], state.at[b]
    C, p = source.shape[0], source.shape[1]
    to = source.shape[2] - K
    for c in range(C):
        for i in range(K - 1, -1, -1):
            if window.shape[2] > 0:
                window[c, :, to + i] = window[c, :, at + i]
            for v in range(p):
                source[c, v, to + i] = source[c, v, at + i] + (state.prefix[b, v, c] - state.offset[b, v])
    state.at[b] = to
    for v in range(p):
        state.origin[b, v] += state.offset[b, v]
        state.offset[b, v] = 0.0
        state.prefix[b, v, :] = 0.0


@part
def push(total, model, algebra, state, work, kept, keep, b, row_, s, q, K, L):
    """Put what leads on from s into the window."""
    if state.at[b] == 0:
        make_room(state, b, K)
    state.at[b] -= 1
    at, columns = state.at[b], state.ring.shape[2]
    for column in range(max(columns, 1)):
        if s + column + 1 > L:  # no segment: what is past the length is not read
            break
        extend(total, model, algebra, state, work, b, s, q, column)
        for c in range(work.y.shape[0]):
            for f in range(work.y.shape[1]):
                if columns > 0:
                    state.ring[b, s % K, column, c, f] = work.y[c, f]
                else:
                    state.window[b, c, f, at] = work.y[c, f]
        if keep:
            for c in range(work.y.shape[0]):
                for f in range(work.y.shape[1]):
                    kept.g[f, row_, s, column, c] = work.y[c, f]
                for f in range(work.at.shape[1]):
                    kept.g_id[f, row_, s, column, c] = work.at[c, f]
    for v in range(state.source.shape[2]):
        for c in range(state.source.shape[1]):
            score = state.offset[b, v] - state.prefix[b, v, c]
            if model.segment_start.shape[0] > 0:
                score += model.segment_start[v, min(b, model.segment_start.shape[1] - 1), q, c]
            state.source[b, c, v, at] = score


@part
def read(model, state, algebra, work, b, s, q, K):
    """Read row q: how many terms a segment of each label that ends after s may have, and what its end scores."""
    t = s + 1
    C, p = work.here.shape
    for v in range(p):
        if model.required.shape[0] > 0 and s > 0 and model.required[v, min(b, model.required.shape[1] - 1), q]:
            for c in range(C):
                state.lo[b, v, c] = max(state.lo[b, v, c], s)
        for c in range(C):
            if model.emission.shape[0] > 0:
                e = model.emission[v, min(b, model.emission.shape[1] - 1), q, c]
                if e == -INF:
                    state.lo[b, v, c] = t
                else:
                    state.prefix[b, v, c] += e
            work.here[c, v] = state.prefix[b, v, c] - state.offset[b, v]
            if model.segment_end.shape[0] > 0:
                work.here[c, v] += model.segment_end[v, min(b, model.segment_end.shape[1] - 1), q, c]
            work.bound[c, v] = min(K, t - state.lo[b, v, c])
    for c in range(C):
        work.count[c] = 0
        for v in range(algebra.gates):
            work.count[c] = max(work.count[c], work.bound[c, v])


@part
def scored(segment, source, at, out, count, b, q):
    """What belongs to a source, with the scores of whole segments that end after row q, in `out`."""
    e = min(b, segment.shape[1] - 1)
    for c in range(source.shape[0]):
        for v in range(source.shape[1]):
            for i in range(count[c]):
                out[c, v, i] = source[c, v, at + i] + segment[v, e, q - i, i, c]


@part
def gather(ring, s, count, out):
    """(C, d, K): the window where what leads in depends on the duration."""
    K = ring.shape[0]
    for c in range(out.shape[0]):
        for i in range(count[c]):
            for f in range(out.shape[1]):
                out[c, f, i] = ring[(s - i) % K, i, c, f]


@part
def arrive(total, scale, model, algebra, state, work, b, s, q, K):
    """alpha at s + 1, in units of its own level: work.y, work.at and state.alpha."""
    read(model, state, algebra, work, b, s, q, K)
    elements, at_element, source, at_source = state.window[b], state.at[b], state.source[b], state.at[b]
    if state.ring.shape[2] > 0:
        gather(state.ring[b], s, work.count, work.gathered)
        elements, at_element = work.gathered, 0
    if model.segment.shape[0] > 0:
        scored(model.segment, source, at_source, work.scores, work.count, b, q + K - 1)
        source, at_source = work.scores, 0
    duration = model.duration[row(model.duration, b)]
    total(
        elements, at_element, 1, work.here, source, at_source, duration, work.bound, work.count, work.x, work.rows,
        work.y, work.at,
    )  # fmt: skip
    moved = False
    for v in range(work.by.shape[0]):
        top = -INF
        if algebra.level[v] >= 0:
            for c in range(work.y.shape[0]):
                top = max(top, work.y[c, algebra.level[v]])
        work.by[v] = -top if abs(top) < INF else 0.0
        state.offset[b, v] -= work.by[v]
        moved = moved or work.by[v] != 0.0
    if moved:
        scale(work.y, work.by)
    for c in range(work.y.shape[0]):
        for f in range(work.y.shape[1]):
            state.alpha[b, 0, f, c] = work.y[c, f]


@part
def finish(total, scale, model, algebra, state, work, b):
    """The sum over final labels: work.y[0], in absolute terms, and work.at[0]."""
    final = model.final[row(model.final, b)]
    p, C = final.shape
    y, at, count = work.y[:1], work.at[:1], work.count[:1]
    count[0] = C
    total(
        state.alpha[b], 0, 0, work.nothing, final.reshape((1, p, C)), 0, work.nothings, work.labels, count, work.x,
        work.rows, y, at,
    )  # fmt: skip
    for v in range(p):
        work.by[v] = state.origin[b, v] + state.offset[b, v]
    scale(y, work.by)


@kernel
def forward(total, scale, model, algebra, state, kept, keep, lengths, first, s0, s1):
    """Take the sequences first, first + 1, ... from position s0 to s1; values where a sequence ends."""
    b, _, p, K = model.duration.shape
    C, d = state.alpha.shape[3], state.alpha.shape[2]
    work = workspace(algebra, K, C, p)
    for b, L in enumerate(lengths[first : first + state.at.shape[0]]):
        for s in range(s0, min(s1, L)):
            push(total, model, algebra, state, work, kept, keep, b, first + b, s, s - s0, K, L)
            arrive(total, scale, model, algebra, state, work, b, s, s - s0, K)
            if keep:
                for c in range(C):
                    for f in range(d):
                        kept.alpha[f, first + b, s + 1, c] = work.y[c, f]
                    for f in range(algebra.ids):
                        kept.alpha_id[f, first + b, s + 1, c] = work.at[c, f]
                for v in range(p):
                    kept.offset[v, first + b, s + 1] = state.origin[b, v] + state.offset[b, v]
        if s0 < L <= s1:
            finish(total, scale, model, algebra, state, work, b)
            kept.value[:, first + b] = work.y[0]
            if keep:
                kept.end_id[:, first + b] = work.at[0]
