"""The k best segmentations, from one Viterbi pass: sidetracks from the best walk, in order of what they lose.

A walk through the graph of sums (`semicrf.engine.cpu.graph`) that takes what Viterbi took loses nothing; every other
arc is a *sidetrack* and loses the difference. So a segmentation is the sequence of its sidetracks, and the k best ones
are those that lose the least.

Every node that is reached keeps the best sidetrack of each node on the best walk from it in one persistent heap, built
from the heap of the next node by one insertion. That is the lazy form of Eppstein's algorithm (Eppstein 1998; Jimenez
& Marzal 2003), with one saving: the other sidetracks of a node are not sorted, the next one is looked for when the one
before it is taken. Time O(n (K + C + log n) + k (K + C + log k)) for n nodes that are reached: one walk, and what the k
walks have that is not on it. Exact, distinct, in order.

The loops are numba's; they run on the host, in float64, sequence by sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semicrf.engine.cpu.graph import INF, best, choices, other, sizes, source, values
from semicrf.engine.cpu.linking import entry, kernel, small

UNKNOWN, EMPTY, FULL = -2, -1, -1
SPINE = 64  # more than the right spine of any leftist heap that fits in memory


class Heap(NamedTuple):
    """Nodes of persistent leftist heaps, each one sidetrack: what it loses; and where, by which arc, the nodes to its
    left and right, its rank.
    """

    loss: Any  # (room,)
    link: Any  # (room, 5)


class Queue(NamedTuple):
    """Walks that may follow, in order of arrival: what each loses; and the walk that it leaves, its place in a heap or
    -1, where, by which arc. The last column is a binary heap of those that wait.
    """

    loss: Any  # (room,)
    entry: Any  # (room, 5)


class Walks(NamedTuple):
    """Each of the k walks: what it loses; and the walk that it leaves, where, by which arc."""

    loss: Any  # (k,)
    side: Any  # (k, 3)


NODE, ARC, LEFT, RIGHT, RANK = range(5)
WAITS = 4


class Room(NamedTuple):
    """Scratch of one search."""

    path: Any  # (3 T + 4,)
    spine: Any  # (SPINE,)
    arcs: Any  # (K or C,), the larger one


@kernel
def insert(heap, used, below, spine, lost, node, arc):
    """One more sidetrack in a leftist heap that stays as it was: what changes on its right spine is copied."""
    depth = 0
    while below >= 0 and heap.loss[below] < lost:
        spine[depth], depth = below, depth + 1
        below = heap.link[below, RIGHT]
    heap.loss[used], heap.link[used, NODE], heap.link[used, ARC] = lost, node, arc
    heap.link[used, LEFT], heap.link[used, RIGHT], heap.link[used, RANK] = below, EMPTY, 1
    below, used = used, used + 1
    for d in range(depth - 1, -1, -1):
        old = spine[d]
        x, y = heap.link[old, LEFT], below
        if x < 0 or heap.link[x, RANK] < heap.link[y, RANK]:
            x, y = y, x
        heap.loss[used] = heap.loss[old]
        heap.link[used, NODE], heap.link[used, ARC] = heap.link[old, NODE], heap.link[old, ARC]
        heap.link[used, LEFT], heap.link[used, RIGHT] = x, y
        heap.link[used, RANK] = 1 + (heap.link[y, RANK] if y >= 0 else 0)
        below, used = used, used + 1
    return below, used


@kernel
def reach(graph, heads, heap, used, room, node):
    """The heap of a node, with those of all nodes on the best walk from it that had none; and how much room is used."""
    n, path, m = 0, room.path, room.arcs
    while heads[node] == UNKNOWN:
        if choices(graph, node) == 0:
            heads[node] = EMPTY
        else:
            path[n], n = node, n + 1
            node = source(graph, node, best(graph, m, node))
    behind = np.int64(heads[node])
    for i in range(n - 1, -1, -1):
        taken = best(graph, m, path[i])
        arc = other(m, values(graph, m, path[i]), taken, -1, INF)
        if used + SPINE > heap.loss.shape[0]:
            return behind, FULL
        if arc >= 0:
            lost = max(0.0, m[taken] - m[arc])  # rounding may have stored one of equal arcs
            behind, used = insert(heap, used, behind, room.spine, lost, path[i], arc)
        heads[path[i]] = behind
    return behind, used


@kernel
def beside(graph, m, node, arc):
    """The sidetrack of a node that follows one of its arcs, what it loses, and where that arc leads to."""
    taken = best(graph, m, node)
    n = values(graph, m, node)
    following = other(m, n, taken, arc, m[arc])
    lost = max(0.0, m[taken] - m[following]) if following >= 0 else 0.0
    return following, lost, source(graph, node, arc)


@small
def earlier(queue, x, y):
    """Whether x comes before y: what loses less, then what came first."""
    return queue.loss[x] < queue.loss[y] or (queue.loss[x] == queue.loss[y] and x < y)


@kernel
def push(queue, n, waiting, loss, walk, head, node, arc):
    """The n-th walk that may follow; it joins those that wait."""
    queue.loss[n] = loss
    queue.entry[n, 0], queue.entry[n, 1], queue.entry[n, 2], queue.entry[n, 3] = walk, head, node, arc
    i = waiting
    while i > 0 and earlier(queue, n, queue.entry[(i - 1) // 2, WAITS]):
        queue.entry[i, WAITS] = queue.entry[(i - 1) // 2, WAITS]
        i = (i - 1) // 2
    queue.entry[i, WAITS] = n


@kernel
def pop(queue, waiting):
    """The first of those that wait, `waiting` of them; one less afterwards."""
    first, last, i, n = queue.entry[0, WAITS], queue.entry[waiting - 1, WAITS], 0, waiting - 1
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and earlier(queue, queue.entry[child + 1, WAITS], queue.entry[child, WAITS]):
            child += 1
        if earlier(queue, last, queue.entry[child, WAITS]):
            break
        queue.entry[i, WAITS] = queue.entry[child, WAITS]
        i = child
    queue.entry[i, WAITS] = last
    return first


@small
def follow(queue, n, waiting, walks, walk, heap, head):
    """The walk that leaves `walk` by the sidetrack at a place in a heap; how many have come then."""
    push(queue, n, waiting, walks.loss[walk] + heap.loss[head], walk, head, heap.link[head, NODE], heap.link[head, ARC])
    return n + 1


@kernel
def enumerate_walks(graph, walks, heads, heap, queue, room):
    """Fills in the walks that lose least, and the head of each node's heap; how many walks there are, or FULL where the
    heap has too little room.
    """
    node, k = sizes(graph)[3], walks.loss.shape[0]
    for i in range(heads.shape[0]):
        heads[i] = UNKNOWN
    used = n = waiting = 0
    walks.loss[0], walks.side[0, 0], walks.side[0, 1], walks.side[0, 2] = 0.0, -1, -1, -1
    found = 0 if best(graph, room.arcs, node) < 0 else 1
    while 0 < found < k:
        behind, used = reach(graph, heads, heap, used, room, node)
        if used == FULL:
            return FULL
        if behind >= 0:  # one sidetrack more, after the last one
            n = follow(queue, n, waiting, walks, found - 1, heap, behind)
            waiting += 1
        if waiting == 0:
            break
        e = pop(queue, waiting)
        waiting -= 1
        base, head, node, arc = queue.entry[e, 0], queue.entry[e, 1], queue.entry[e, 2], queue.entry[e, 3]
        walks.loss[found], walks.side[found, 0], walks.side[found, 1] = queue.loss[e], base, node
        walks.side[found, 2] = arc
        found += 1
        for side in range(LEFT, RIGHT + 1):  # another one in the place of the last: of another node,
            if head >= 0 and heap.link[head, side] >= 0:
                n = follow(queue, n, waiting, walks, base, heap, heap.link[head, side])
                waiting += 1
        following, more, behind = beside(graph, room.arcs, node, arc)  # or of the same one
        if following >= 0:
            push(queue, n, waiting, walks.loss[base] + more, base, -1, node, following)
            n, waiting = n + 1, waiting + 1
        node = behind
    return found


@small
def arrival(graph, m, node):
    """Where the best walk from inside a segment, or from its start, comes to the segment before it; -1 for none."""
    first = sizes(graph)[2]
    while node < first:  # its durations, one after the other where they are told apart
        node = source(graph, node, best(graph, m, node))
    return -1 if choices(graph, node) == 0 else source(graph, node, best(graph, m, node))


@kernel
def trace(graph, walks, found, arrivals, count, m):
    """In `count` how many segments each walk has, in `arrivals` (walks, length + 1) the node at which it comes to the
    segment that ends at each position, -1 where none does.

    A walk is the one that it leaves up to there, then a best walk; where that meets the walk that it left, which is
    a best walk too, both go on alike.
    """
    columns, C, first, end = sizes(graph)
    for r in range(found):
        parent, node, above = walks.side[r, 0], walks.side[r, 1] if r > 0 else end, graph.length + 1
        for t in range(graph.length + 1):
            arrivals[r, t] = arrivals[parent, t] if r > 0 else -1
        behind = source(graph, node, best(graph, m, end) if r == 0 else walks.side[r, 2])
        if node < first:
            above, behind = node // (C * graph.run), arrival(graph, m, behind)
        elif node < end:
            above = (node - first) // (C * columns) + 1
        while behind >= 0:
            t = behind // (C * graph.run)
            for i in range(t + 1, above):
                arrivals[r, i] = -1
            if arrivals[r, t] == behind:
                break
            arrivals[r, t], above = behind, t
            behind = arrival(graph, m, behind)
        if behind < 0:
            for i in range(1, above):
                arrivals[r, i] = -1
        n = 0
        for t in range(1, graph.length + 1):
            n += arrivals[r, t] >= 0
        count[r] = n


@entry
def search(graph, walks, heads, heap, queue, room, arrivals, count):
    """Fill in the walks that lose least and where they come to their segments; how many there are, or FULL where the
    heap has too little room.
    """
    found = enumerate_walks(graph, walks, heads, heap, queue, room)
    trace(graph, walks, found, arrivals, count, room.arcs)
    return found


@entry
def segments(graph, arrivals, b, start, end, label):
    """The segments of each walk, in order, from the front of row (rank, b); -1 after them."""
    C = graph.g.shape[0]
    for r in range(start.shape[0]):
        n, last = 0, 0
        for t in range(1, graph.length + 1 if r < arrivals.shape[0] else 0):
            node = arrivals[r, t]
            offset = node - t * C * graph.run  # within the nodes of t: divisions are slow
            # Written without asking, as the next one is written over what is none; the last one ends at the length.
            start[r, b, n], end[r, b, n] = last, t
            label[r, b, n] = offset if graph.run == 1 else offset // graph.run
            if node >= 0:
                n, last = n + 1, t
        for i in range(n, start.shape[2]):
            start[r, b, i], end[r, b, i], label[r, b, i] = -1, -1, -1
