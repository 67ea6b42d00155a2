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

from semicrf.engine.cpu.linking import cold, entry, kernel, small

INF = float("inf")


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


@small
def sizes(graph):
    """Columns of g, labels, the first node of G, and F."""
    C, T, columns = graph.g.shape
    first = (T + 1) * C * graph.run
    return columns, C, first, first + T * C * columns


@small
def choices(graph, node):
    """How many arcs lead on from a node."""
    columns, C, first, end = sizes(graph)
    if node < first:
        t, k = node // (C * graph.run), node % graph.run + 1
        longest = min(graph.duration.shape[1], t)
        return longest if graph.run == 1 else 1 + (k < longest)
    return C if node == end or node >= first + C * columns else 0  # nothing comes before the first segment


@kernel
def spans(graph, m, t, c, first, n):
    """Into m[0], m[1], ... what segments of label c and durations first + 1 to n score that end at t, with all before
    them, relative to (t, c).
    """
    wide = graph.g.shape[2] > 1
    if wide:
        for k in range(first, n):
            m[k - first] = graph.g[c, t - 1 - k, k] + graph.duration[c, k]
    else:
        for k in range(first, n):
            m[k - first] = graph.g[c, t - 1 - k, 0] + graph.duration[c, k]
    if graph.segment.shape[0] > 0:
        for k in range(first, n):
            m[k - first] += graph.segment[t - 1 - k, k, c]
    if graph.ends.shape[0] > 0:
        for k in range(first, n):
            m[k - first] += graph.ends[t, c]
    if graph.lo.shape[0] > 0:
        for k in range(max(first, t - graph.lo[t, c]), n):
            m[k - first] = -INF


@kernel
def leads(graph, m, s, column, c):
    """Into m what leads from each label before it into a segment of label c that starts at s."""
    at, by = min(s, graph.lead.shape[0] - 1), min(column, graph.lead.shape[1] - 1)
    for previous in range(graph.alpha.shape[1]):
        m[previous] = graph.alpha[s, previous, 0] + graph.lead[at, by, previous, c]
    if graph.run > 1:
        m[c] = graph.alpha[s, c, column] + graph.lead[at, by, c, c]


@kernel
def values(graph, m, node):
    """Into m what each arc of a node scores with the best walk behind it, up to a constant of the node; how many there
    are.
    """
    columns, C, first, end = sizes(graph)
    n = choices(graph, node)
    if node == end:
        for c in range(C):
            m[c] = graph.alpha[graph.length, c, 0] + graph.final[c]
    elif node >= first:
        leads(graph, m, (node - first) // (C * columns), (node - first) // C % columns, (node - first) % C)
    elif graph.run == 1:
        spans(graph, m, node // C, node % C, 0, n)
    else:
        t, c, k = node // (C * graph.run), node // graph.run % C, node % graph.run
        spans(graph, m, t, c, k, k + 1)
        if n > 1:
            m[1] = graph.alpha[t, c, k + 1]
    return n


@small
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


@small
def best(graph, m, node):
    """The arc that the best walk takes: what Viterbi stored, or the first of the largest."""
    columns, C, first, end = sizes(graph)
    if graph.run == 1:
        if node == end:
            return graph.end_id
        if node < first:
            return graph.alpha_id[node // C, node % C]
        return graph.g_id[(node - first) // (C * columns), (node - first) // C % columns, (node - first) % C]
    return largest(m, values(graph, m, node))


@kernel
def largest(m, n):
    """The first of the largest of n numbers, -1 where all are -inf."""
    found, top = -1, -INF
    for arc in range(n):
        if m[arc] > top:
            found, top = arc, m[arc]
    return found


@kernel
def other(m, n, taken, last, top):
    """The sidetrack that follows arc `last` of value `top`, in order of values, then of arcs."""
    found, most = -1, -INF
    for arc in range(n):
        v = m[arc]
        if v > most and arc != taken and (v < top or (v == top and arc > last)):
            found, most = arc, v
    return found


@cold
def _between(graph, m, t, c):
    """g of label c at t, for every column, from what its starts score."""
    top = -INF
    for column in range(graph.g.shape[2]):
        if column < graph.lead.shape[1] or column == 0:  # the same for every later one where the lead has one column
            leads(graph, m, t, column, c)
            top = -INF
            for previous in range(graph.g.shape[0]):
                if previous != c:
                    top = max(top, m[previous])
        by = min(column, graph.lead.shape[1] - 1)
        own = graph.alpha[t, c, column] + graph.lead[min(t, graph.lead.shape[0] - 1), by, c, c]
        graph.g[c, t, column] += max(top, own)


@entry
def forward(graph, m):
    """Viterbi where nodes are told apart by duration: fills alpha (-inf at first) and g (its starts at first). m: room
    for K or C numbers.
    """
    for t in range(1, graph.length + 1):
        for c in range(graph.g.shape[0]):
            n, top = min(graph.duration.shape[1], t), -INF
            spans(graph, m, t, c, 0, n)
            for k in range(n - 1, -1, -1):
                top = max(top, m[k])
                graph.alpha[t, c, k] = top
        for c in range(graph.g.shape[0] if t < graph.length else 0):
            _between(graph, m, t, c)
