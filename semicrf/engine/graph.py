"""The graph of sums of one sequence, for numba: its nodes, the arcs that lead on from them, and which one Viterbi took.

A segmentation is a walk from the end to the beginning: the node ``F`` chose the final label, ``A(t, c)`` the duration
of the segment of label c that ends at t, ``G(s, c)`` the label before one that starts at s. Nodes are numbered: first
those of A, then those of G, by position, duration and label, then F.

Where durations are told apart, those inside a run of equal labels must not increase towards the end: ``A(t, c, k)``
chooses between duration k and ``A(t, c, k + 1)``, so it is the best of all durations from k on; ``G(s, c, k)`` leads
into a segment of duration k, and from its own label takes ``A(s, c, k)``, from another one ``A(s, c', 1)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

INF = float("inf")

kernel = njit(nogil=True, cache=True, error_model="numpy")
part = njit(forceinline=True, error_model="numpy")
called = njit(error_model="numpy")
"""For what is long and called once for many steps: inlined, it would take long to compile. None of these has fast-math:
a value has to come out the same wherever it is computed.
"""


class Graph(NamedTuple):
    """One sequence. `run`: K where durations are told apart, else 1."""

    length: Any
    run: Any
    alpha: Any  # (T + 1, C, run)
    g: Any  # (C, T, columns): what leads into a segment, with what its start scores
    duration: Any  # (C, K)
    segment: Any  # (T, K, C), or 0 of them
    ends: Any  # (T + 1, C): what the end of a segment scores, where alpha is not given; else 0 of them
    lo: Any  # (T + 1, C): where a segment that ends at t may start at the earliest; or 0 of them
    lead: Any  # (1 or T, columns of lead, C, C)
    final: Any  # (C,)
    alpha_id: Any  # (T + 1, C), where run is 1
    g_id: Any  # (T, columns, C), likewise
    end_id: Any


@part
def sizes(graph):
    """Columns of g, labels, the first node of G, and F."""
    C, T, columns = graph.g.shape
    first = (T + 1) * C * graph.run
    return columns, C, first, first + T * C * columns


@part
def span(graph, t, c, k):
    """What a segment of label c and duration k that ends at t scores, with all before it, relative to (t, c)."""
    s = t - k
    if graph.lo.shape[0] > 0 and s < graph.lo[t, c]:
        return -INF
    value = graph.g[c, s, min(k - 1, graph.g.shape[2] - 1)] + graph.duration[c, k - 1]
    if graph.segment.shape[0] > 0:
        value += graph.segment[s, k - 1, c]
    return value + graph.ends[t, c] if graph.ends.shape[0] > 0 else value


@part
def before(graph, s, column, c, previous):
    """What leads from the label before it into a segment of label c that starts at s."""
    kept = column if previous == c and graph.run > 1 else 0
    at, by = min(s, graph.lead.shape[0] - 1), min(column, graph.lead.shape[1] - 1)
    return graph.alpha[s, previous, kept] + graph.lead[at, by, previous, c]


@part
def choices(graph, node):
    """How many arcs lead on from a node."""
    columns, C, first, end = sizes(graph)
    if node < first:
        t, k = node // (C * graph.run), node % graph.run + 1
        longest = min(graph.duration.shape[1], t)
        return longest if graph.run == 1 else 1 + (k < longest)
    return C if node == end or node >= first + C * columns else 0  # nothing comes before the first segment


@part
def value(graph, node, arc):
    """What an arc scores with the best walk behind it, up to a constant of the node."""
    columns, C, first, end = sizes(graph)
    if node == end:
        return graph.alpha[graph.length, arc, 0] + graph.final[arc]
    if node < first:
        t, c, k = node // (C * graph.run), node // graph.run % C, node % graph.run
        if graph.run == 1:
            return span(graph, t, c, arc + 1)
        return span(graph, t, c, k + 1) if arc == 0 else graph.alpha[t, c, k + 1]
    s, column, c = (node - first) // (C * columns), (node - first) // C % columns, (node - first) % C
    return before(graph, s, column, c, arc)


@part
def source(graph, node, arc):
    """The node that an arc leads to."""
    columns, C, first, end = sizes(graph)
    if node == end:
        return (graph.length * C + arc) * graph.run
    if node < first:
        t, c, k = node // (C * graph.run), node // graph.run % C, node % graph.run
        if graph.run > 1 and arc == 1:
            return node + 1
        k = arc if graph.run == 1 else k
        return first + ((t - k - 1) * columns + min(k, columns - 1)) * C + c
    s, column, c = (node - first) // (C * columns), (node - first) // C % columns, (node - first) % C
    return (s * C + arc) * graph.run + (column if arc == c and graph.run > 1 else 0)


@part
def best(graph, node):
    """The arc that the best walk takes: what Viterbi stored, or the first of the largest."""
    columns, C, first, end = sizes(graph)
    if graph.run == 1:
        if node == end:
            return graph.end_id
        if node < first:
            return graph.alpha_id[node // C, node % C]
        return graph.g_id[(node - first) // (C * columns), (node - first) // C % columns, (node - first) % C]
    found, top = -1, -INF
    for arc in range(choices(graph, node)):
        v = value(graph, node, arc)
        if v > top:
            found, top = arc, v
    return found


@part
def other(graph, node, taken, last, top):
    """The sidetrack that follows arc `last` of value `top`, in order of values, then of arcs; its value; and the value
    of the arc that is taken.
    """
    columns, C, first, end = sizes(graph)
    found, most, own = -1, -INF, -INF
    inside, between = graph.run == 1 and node < first, node >= first and node < end
    t, c = node // C, node % C
    s, column = (node - first) // (C * columns), (node - first) // C % columns
    for arc in range(choices(graph, node)):
        if inside:
            v = span(graph, t, c, arc + 1)
        elif between:
            v = before(graph, s, column, (node - first) % C, arc)
        else:
            v = value(graph, node, arc)
        if arc == taken:
            own = v
        elif v > most and (v < top or (v == top and arc > last)):
            found, most = arc, v
    return found, most, own


@kernel
def forward(graph):
    """Viterbi where nodes are told apart by duration: fills alpha (-inf at first) and g (its starts at first)."""
    C, _, columns = graph.g.shape
    K = graph.duration.shape[1]
    for t in range(1, graph.length + 1):
        for c in range(C):
            longest = min(K, t)
            top = -INF
            for k in range(longest, 0, -1):
                top = max(top, span(graph, t, c, k))
                graph.alpha[t, c, k - 1] = top
        for c in range(C if t < graph.length else 0):
            top = -INF
            for column in range(columns):
                if column < graph.lead.shape[1]:  # the same for every later one where the lead has one column
                    top = -INF
                    for previous in range(C):
                        if previous != c:
                            top = max(top, before(graph, t, column, c, previous))
                graph.g[c, t, column] += max(top, before(graph, t, column, c, c))
