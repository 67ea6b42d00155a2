"""The reverse sweep of any semiring on the CPU, from the rows a forward sweep kept.

The transpose of `semicrf.engine.cpu.elements`: cotangents wait in a window of sources, as they lie there, until the
sweep comes to the position they belong to. Where a cotangent is zero nothing is done, so a semiring that chooses
costs what its paths cost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.cpu.elementary import kernel, part
from semicrf.engine.cpu.elements import leading, row, starting, workspace

INF = float("inf")


class Gradients(NamedTuple):
    """Gradients by part, sequence first after the potential; an axis of size 0 where a part is not wanted."""

    emission: Any  # (p, B, T, C)
    segment_start: Any
    segment_end: Any
    segment: Any  # (p, B, T, K, C)
    edge: Any  # (p, B, T, K, C, C)
    transition: Any  # (p, B, C, C)
    duration_transition: Any  # (p, B, K, C, C)
    duration: Any  # (p, B, K, C)
    start: Any  # (p, B, C)
    end: Any


class Waiting(NamedTuple):
    """Sources that lie in the window, latest first, and what has come back to them so far."""

    window: Any  # (C, d, W)
    source: Any  # (C, p, W)
    into: Any  # (C, d, W): cotangents of the elements
    mass: Any  # (C, p, W): cotangents of the scores
    ring: Any  # (K, columns, C, d): cotangents where elements depend on the duration, by source modulo K
    gathered_into: Any  # (C, d, K)
    alpha: Any  # (1, d, C)
    alpha_into: Any  # (1, d, C)
    g: Any  # (C, d): cotangents of the sum at hand
    y: Any  # (C, d): its result
    at: Any  # (C, ids)
    out: Any  # (C, p, max(K, C))
    live: Any  # (C,)
    prefix: Any  # (p, C): emissions from here to where the window was filled, negative
    position: Any  # (p, C): mass at this position
    lo: Any  # (T + 1, p, C), or no rows where nothing is forbidden


@kernel
def waiting(algebra, K, C, p, columns, T, bounded):
    """An empty window, and scratch."""
    d, W, n = algebra.zero.shape[0], 2 * K + 64, max(K, C)
    return Waiting(
        np.empty((C, d, W)), np.empty((C, p, W)), np.zeros((C, d, W)), np.zeros((C, p, W)),
        np.zeros((K if columns > 0 else 0, columns, C, d)), np.empty((C, d, K)), np.empty((1, d, C)),
        np.zeros((1, d, C)), np.empty((C, d)), np.empty((C, d)), np.empty((C, algebra.ids), np.int64),
        np.empty((C, p, n)), np.empty(C, np.bool_), np.zeros((p, C)), np.zeros((p, C)),
        np.zeros((T + 1 if bounded else 0, p, C), np.int64),
    )  # fmt: skip


@kernel
def bound_sources(model, lo, b, L):
    """lo[t]: the first source from which a segment may reach t."""
    for t in range(1, L + 1):
        for v in range(lo.shape[1]):
            for c in range(lo.shape[2]):
                lo[t, v, c] = lo[t - 1, v, c]
                if model.required.shape[0] > 0 and model.required[v, min(b, model.required.shape[1] - 1), t - 1]:
                    lo[t, v, c] = max(lo[t, v, c], t - 1)
                e = model.emission[v, min(b, model.emission.shape[1] - 1), t - 1, c] if model.emission.size else 0.0
                if e == -INF:
                    lo[t, v, c] = t


@kernel
def refill(model, w, kept, b, t, done, K):
    """Fill the window with the sources t - 1, t - 2, ...; what came back to those that stay keeps its place."""
    C, d, W = w.window.shape
    p = w.source.shape[1]
    for c in range(C):
        for i in range(W):
            held = i + done < W and i < K
            for f in range(d):
                w.into[c, f, i] = w.into[c, f, i + done] if held else 0.0
            for v in range(p):
                w.mass[c, v, i] = w.mass[c, v, i + done] if held else 0.0
    for v in range(p):
        for c in range(C):
            w.prefix[v, c] = 0.0
            passed = 0.0
            for i in range(min(W, t)):
                s = t - 1 - i
                if model.emission.shape[0] > 0:
                    e = model.emission[v, min(b, model.emission.shape[1] - 1), s, c]
                    passed += e if e > -INF else 0.0
                score = kept.offset[v, b, s] - kept.offset[v, b, t] + passed
                if model.segment_start.shape[0] > 0:
                    score += model.segment_start[v, min(b, model.segment_start.shape[1] - 1), s, c]
                w.source[c, v, i] = score
    if w.ring.shape[0] == 0:
        for i in range(min(W, t)):
            for c in range(C):
                for f in range(d):
                    w.window[c, f, i] = kept.g[f, b, t - 1 - i, 0, c]


@part
def load(rows, ids, b, t, w):
    """Row t of elements (d, B, t, C) and of ids, into w.y and w.at."""
    for c in range(w.y.shape[0]):
        w.y[c] = rows[:, b, t, c]
        w.at[c] = ids[:, b, t, c]


@part
def leave(total, reverse, model, algebra, w, work, kept, out, b, s, i, L):
    """From g at s (place i of the window) back to alpha at s, or to the start."""
    C, d = w.y.shape
    columns = w.ring.shape[1]
    w.alpha_into[:] = 0.0
    for column in range(max(columns, 1)):
        if s + column + 1 > L:
            break
        any_ = False
        for c in range(C):
            for f in range(d):
                w.g[c, f] = w.ring[s % w.ring.shape[0], column, c, f] if columns > 0 else w.into[c, f, i]
                any_ = any_ or w.g[c, f] != 0.0
                if columns > 0:
                    w.ring[s % w.ring.shape[0], column, c, f] = 0.0
        if any_:
            load(kept.g[:, :, :, column], kept.g_id[:, :, :, column], b, s, w)
            if s == 0:
                leave_start(total, reverse, model, algebra, w, work, out, b, column)
            else:
                leave_label(reverse, model, w, work, out, b, s, column)
    for v in range(w.mass.shape[1]):
        for c in range(C):
            w.position[v, c] -= w.mass[c, v, i]
            if out.segment_start.shape[2] > 0:
                out.segment_start[v, b, s, c] = w.mass[c, v, i]


@part
def leave_start(total, reverse, model, algebra, w, work, out, b, column):
    """From g at 0 back to the scores of a start."""
    lead, one, count = starting(model, work, b, column), algebra.one.reshape((1, -1, 1)), work.single_count
    total(one, 0, 0, work.nothing, lead, 0, work.nothings, work.single, count, work.x, work.rows, w.y, w.at)
    reverse(
        w.g, w.y, w.at, one, 0, 0, work.nothing, lead, 0, work.nothings, work.single, count, work.x, work.rows,
        w.alpha_into, w.out, w.live,
    )  # fmt: skip
    for c in range(w.live.shape[0]):
        if w.live[c]:
            for v in range(w.out.shape[1]):
                if out.start.shape[2] > 0:
                    out.start[v, b, c] += w.out[c, v, 0]
                if out.edge.shape[2] > 0:
                    out.edge[v, b, 0, column, 0, c] += w.out[c, v, 0]


@part
def leave_label(reverse, model, w, work, out, b, s, column):
    """From g at s > 0 back to alpha at s, and to the scores of transitions."""
    lead, count = leading(model, work, b, s, column), work.label_count
    reverse(
        w.g, w.y, w.at, w.alpha, 0, 0, work.nothing, lead, 0, work.nothings, work.labels, count, work.x, work.rows,
        w.alpha_into, w.out, w.live,
    )  # fmt: skip
    C = w.live.shape[0]
    for c in range(C):
        if w.live[c]:
            for v in range(w.out.shape[1]):
                for previous in range(C):
                    if out.transition.shape[2] > 0:
                        out.transition[v, b, previous, c] += w.out[c, v, previous]
                    if out.duration_transition.shape[2] > 0:
                        out.duration_transition[v, b, column, previous, c] += w.out[c, v, previous]
                    if out.edge.shape[2] > 0:
                        out.edge[v, b, s, column, previous, c] += w.out[c, v, previous]


@part
def ending(model, algebra, w, work, b, t, K):
    """What the end of a segment at t scores, and how many terms it has; see `elements.read`."""
    C, p = work.here.shape
    for c in range(C):
        work.count[c] = 0
        for v in range(p):
            work.here[c, v] = w.prefix[v, c]
            if model.segment_end.shape[0] > 0:
                work.here[c, v] += model.segment_end[v, min(b, model.segment_end.shape[1] - 1), t - 1, c]
            work.bound[c, v] = min(K, t - w.lo[t, v, c] if w.lo.shape[0] > 0 else t)
            if v < algebra.gates:
                work.count[c] = max(work.count[c], work.bound[c, v])


@part
def depart(reverse, model, algebra, w, work, kept, out, b, t, i, K, unit):
    """From alpha at t (cotangent w.alpha_into) back to the sources, the latest at place i of the window."""
    C, d = w.y.shape
    for c in range(C):
        for f in range(d):
            w.g[c, f] = w.alpha_into[0, f, c]
    load(kept.alpha, kept.alpha_id, b, t, w)
    ending(model, algebra, w, work, b, t, K)
    for c in range(C):
        for v in range(unit.shape[0]):
            work.here[c, v] += unit[v] - kept.offset[v, b, t]
    elements, into, at_element, source, at_source = w.window, w.into, i, w.source, i
    if w.ring.shape[0] > 0:
        elements, into, at_element = work.gathered, w.gathered_into, 0
        w.gathered_into[:] = 0.0
        for c in range(C):
            for k in range(work.count[c]):
                for f in range(d):
                    work.gathered[c, f, k] = kept.g[f, b, t - 1 - k, k, c]
    if model.segment.shape[0] > 0:
        for c in range(C):
            for v in range(unit.shape[0]):
                for k in range(work.count[c]):
                    score = model.segment[v, min(b, model.segment.shape[1] - 1), t - 1 - k, k, c]
                    work.scores[c, v, k] = w.source[c, v, i + k] + score
        source, at_source = work.scores, 0
    reverse(
        w.g, w.y, w.at, elements, at_element, 1, work.here, source, at_source, model.duration[row(model.duration, b)],
        work.bound, work.count, work.x, work.rows, into, w.out, w.live,
    )  # fmt: skip
    for c in range(C):
        if w.live[c]:
            if w.ring.shape[0] > 0:
                for k in range(work.count[c]):
                    for f in range(d):
                        w.ring[(t - 1 - k) % w.ring.shape[0], k, c, f] += w.gathered_into[c, f, k]
            for v in range(unit.shape[0]):
                spread(w, out, b, t, c, v, i, work.count[c])


@part
def spread(w, out, b, t, c, v, i, n):
    """Cotangents of the scores of segments that end at t, to the parts that make them up."""
    ended = 0.0
    for k in range(n):
        ended += w.out[c, v, k]
        w.mass[c, v, i + k] += w.out[c, v, k]
    w.position[v, c] += ended
    if out.segment_end.shape[2] > 0:
        out.segment_end[v, b, t - 1, c] = ended
    if out.duration.shape[2] > 0:
        for k in range(n):
            out.duration[v, b, k, c] += w.out[c, v, k]
    if out.segment.shape[2] > 0:
        for k in range(n):
            out.segment[v, b, t - 1 - k, k, c] += w.out[c, v, k]


@part
def begin(total, reverse, model, algebra, w, work, kept, out, b, L, cotangent):
    """From the value back to alpha at the end."""
    d, C = w.alpha.shape[1], w.alpha.shape[2]
    final = model.final[row(model.final, b)].reshape((1, -1, C))
    g, y, at, count = w.g[:1], w.y[:1], w.at[:1], work.count[:1]
    count[0] = C
    for f in range(d):
        g[0, f] = cotangent[f, b] if abs(kept.value[f, b]) < INF else 0.0
        for c in range(C):
            w.alpha[0, f, c] = kept.alpha[f, b, L, c]
    total(w.alpha, 0, 0, work.nothing, final, 0, work.nothings, work.labels, count, work.x, work.rows, y, at)
    w.alpha_into[:] = 0.0
    reverse(
        g, y, at, w.alpha, 0, 0, work.nothing, final, 0, work.nothings, work.labels, count, work.x, work.rows,
        w.alpha_into, w.out, w.live[:1],
    )  # fmt: skip
    if w.live[0] and out.end.shape[2] > 0:
        for v in range(final.shape[1]):
            for c in range(C):
                out.end[v, b, c] += w.out[0, v, c]


@kernel
def backward(total, reverse, model, algebra, kept, columns, bounded, lengths, first, last, cotangent, out):
    """The gradients of the sequences first .. last - 1."""
    _, C, p, K = model.duration.shape
    T, d = kept.alpha.shape[2] - 1, algebra.zero.shape[0]
    work = workspace(algebra, K, C, p)
    for b in range(first, last):
        L = lengths[b]
        w = waiting(algebra, K, C, p, columns, T, bounded)
        if bounded:
            bound_sources(model, w.lo, b, L)
        begin(total, reverse, model, algebra, w, work, kept, out, b, L, cotangent)
        filled, unit = L, kept.offset[:, b, L].copy()
        refill(model, w, kept, b, L, 0, K)
        for t in range(L, -1, -1):
            if t < L:
                for f in range(d):
                    for c in range(C):
                        w.alpha[0, f, c] = kept.alpha[f, b, t, c]
                leave(total, reverse, model, algebra, w, work, kept, out, b, t, filled - 1 - t, L)
            if t == 0:
                break
            if filled - t + K > w.window.shape[2]:
                refill(model, w, kept, b, t, filled - t, K)
                filled, unit = t, kept.offset[:, b, t].copy()
            depart(reverse, model, algebra, w, work, kept, out, b, t, filled - t, K, unit)
            for v in range(p):
                for c in range(C):
                    if model.emission.shape[0] > 0:
                        e = model.emission[v, min(b, model.emission.shape[1] - 1), t - 1, c]
                        w.prefix[v, c] -= e if e > -INF else 0.0
                        if out.emission.shape[2] > 0:
                            out.emission[v, b, t - 1, c] = w.position[v, c] if e > -INF else 0.0
