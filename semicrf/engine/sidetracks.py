"""The k best segmentations, from one Viterbi pass: sidetracks from the best walk, in order of what they lose.

A walk through the graph of sums (`semicrf.engine.graph`) that takes what Viterbi took loses nothing; every other arc is
a *sidetrack* and loses the difference. So a segmentation is the sequence of its sidetracks, and the k best ones are
those that lose the least.

Every node that is reached keeps the best sidetrack of each node on the best walk from it in one persistent heap, built
from the heap of the next node by one insertion. That is the lazy form of Eppstein's algorithm (Eppstein 1998; Jimenez
& Marzal 2003), with one saving: the other sidetracks of a node are not sorted, the next one is looked for when the one
before it is taken. Time O(n (K + C + log n) + k (K + C + log k)) for n nodes that are reached: one walk, and what the k
walks have that is not on it. Exact, distinct, in order.

The loops are numba's; they run on the host, in float64, sequence by sequence.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.graph import INF, best, choices, kernel, other, part, sizes, source, value

UNKNOWN, EMPTY = -2, -1
SPINE = 64  # more than the right spine of any leftist heap that fits in memory


class Heap(NamedTuple):
    """Nodes of persistent leftist heaps, each one sidetrack: what it loses, where, by which arc."""

    loss: Any
    node: Any
    arc: Any
    left: Any
    right: Any
    rank: Any


class Walks(NamedTuple):
    """Each of the k walks: the one that it leaves, where, by which arc, and what it loses in all."""

    base: Any
    node: Any
    arc: Any
    loss: Any


@part
def longer(x):
    """The same with room for as much again."""
    y = np.empty(2 * x.shape[0], x.dtype)
    y[: x.shape[0]] = x
    return y


@part
def insert(heap, used, below, spine, lost, node, arc):
    """One more sidetrack in a leftist heap that stays as it was: what changes on its right spine is copied."""
    depth = 0
    while below >= 0 and heap.loss[below] < lost:
        spine[depth], depth = below, depth + 1
        below = heap.right[below]
    heap.loss[used], heap.node[used], heap.arc[used] = lost, node, arc
    heap.left[used], heap.right[used], heap.rank[used] = below, EMPTY, 1
    below, used = used, used + 1
    for d in range(depth - 1, -1, -1):
        old = spine[d]
        x, y = heap.left[old], np.int32(below)
        if x < 0 or heap.rank[x] < heap.rank[y]:
            x, y = y, x
        heap.loss[used], heap.node[used], heap.arc[used] = heap.loss[old], heap.node[old], heap.arc[old]
        heap.left[used], heap.right[used] = x, y
        heap.rank[used] = 1 + (heap.rank[y] if y >= 0 else 0)
        below, used = used, used + 1
    return below, used


@part
def reach(graph, heads, heap, used, path, spine, node):
    """The heap of a node, with those of all nodes on the best walk from it that had none."""
    n = 0
    while heads[node] == UNKNOWN:
        if choices(graph, node) == 0:
            heads[node] = EMPTY
        else:
            path = longer(path) if n == path.shape[0] else path
            path[n], n = node, n + 1
            node = source(graph, node, best(graph, node))
    behind = np.int64(heads[node])
    for i in range(n - 1, -1, -1):
        taken = best(graph, path[i])
        arc, v = other(graph, path[i], taken, -1, INF)
        if arc >= 0:
            if used + SPINE > heap.loss.shape[0]:
                heap = Heap(
                    longer(heap.loss), longer(heap.node), longer(heap.arc), longer(heap.left), longer(heap.right),
                    longer(heap.rank),
                )  # fmt: skip
            lost = max(0.0, value(graph, path[i], taken) - v)  # rounding may have stored one of equal arcs
            behind, used = insert(heap, used, behind, spine, lost, path[i], arc)
        heads[path[i]] = behind
    return behind, heap, used, path


@part
def push(queue, entries, loss, walk, head, node, arc):
    """A walk that may follow: what it loses, the walk that it leaves, its place in a heap or -1, where and by which
    arc.
    """
    heapq.heappush(queue, (loss, len(entries)))  # equal ones in order of arrival
    entries.append((walk, head, node, arc))


@kernel
def enumerate_walks(graph, k):
    """The k walks that lose least, or as many as there are."""
    node = sizes(graph)[3]
    walks = Walks(np.full(k, -1), np.full(k, -1), np.full(k, -1), np.zeros(k))
    heads = np.full(node + 1, UNKNOWN, np.int32)
    heap = Heap(
        np.empty(SPINE), np.empty(SPINE, np.int64), np.empty(SPINE, np.int32), np.empty(SPINE, np.int32),
        np.empty(SPINE, np.int32), np.empty(SPINE, np.int32),
    )  # fmt: skip
    used, path, spine = 0, np.empty(SPINE, np.int64), np.empty(SPINE, np.int64)
    queue, entries = [(0.0, 0)], [(0, 0, 0, 0)]
    queue.pop()
    found = 0 if best(graph, node) < 0 else 1
    while 0 < found < k:
        behind, heap, used, path = reach(graph, heads, heap, used, path, spine, node)
        if behind >= 0:  # one sidetrack more, after the last one
            loss = walks.loss[found - 1] + heap.loss[behind]
            push(queue, entries, loss, found - 1, behind, heap.node[behind], np.int64(heap.arc[behind]))
        if len(queue) == 0:
            break
        loss, e = heapq.heappop(queue)
        base, head, node, arc = entries[e]
        walks.base[found], walks.node[found], walks.arc[found], walks.loss[found] = base, node, arc, loss
        found += 1
        if head >= 0:  # another one in the place of the last: of another node,
            for child in (np.int64(heap.left[head]), np.int64(heap.right[head])):
                if child >= 0:
                    loss = walks.loss[base] + heap.loss[child]
                    push(queue, entries, loss, base, child, heap.node[child], np.int64(heap.arc[child]))
        taken = best(graph, node)  # or of the same one
        following, v = other(graph, node, taken, arc, value(graph, node, arc))
        if following >= 0:
            loss = walks.loss[base] + max(0.0, value(graph, node, taken) - v)
            push(queue, entries, loss, base, -1, node, following)
        node = source(graph, node, arc)
    return Walks(walks.base[:found], walks.node[:found], walks.arc[:found], walks.loss[:found])


@part
def arrival(graph, node):
    """Where the best walk from inside a segment, or from its start, comes to the segment before it; -1 for none."""
    while node < sizes(graph)[2]:
        node = source(graph, node, best(graph, node))
    return source(graph, node, best(graph, node)) if choices(graph, node) > 0 else -1


@kernel
def trace(graph, walks):
    """(walks, length + 1): the node at which a walk comes to the segment that ends at each position, -1 where none
    does.

    A walk is the one that it leaves up to there, then a best walk; where that meets the walk that it left, which is
    a best walk too, both go on alike.
    """
    columns, C, first, end = sizes(graph)
    arrivals = np.full((walks.base.shape[0], graph.length + 1), -1)
    for r in range(walks.base.shape[0]):
        row, node, above = arrivals[r], end, graph.length + 1
        if r > 0:
            row[:], node = arrivals[walks.base[r]], walks.node[r]
        behind = source(graph, node, best(graph, end) if r == 0 else walks.arc[r])
        if node < first:
            above, behind = node // (C * graph.run), arrival(graph, behind)
        elif node < end:
            above = (node - first) // (C * columns) + 1
        while behind >= 0:
            t = behind // (C * graph.run)
            row[t + 1 : above] = -1
            if row[t] == behind:
                break
            row[t], above = behind, t
            behind = arrival(graph, behind)
        if behind < 0:
            row[1:above] = -1
    return arrivals


@kernel
def segments(graph, arrivals, start, end, label, count):
    """The segments of each walk, in order, from the front of its row."""
    C = graph.g.shape[0]
    for r in range(arrivals.shape[0]):
        n, last = 0, 0
        for t in range(1, graph.length + 1):
            node = arrivals[r, t]
            if node >= 0:
                start[r, n], end[r, n], label[r, n] = last, t, node // graph.run % C
                n, last = n + 1, t
        count[r] = n
