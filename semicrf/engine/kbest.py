"""The k best segmentations of a batch: Viterbi on the model's backend, then `engine.cpu.sidetracks` on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from semicrf.engine import ops
from semicrf.engine.arcs import Arcs
from semicrf.engine.cpu.build import Announced
from semicrf.engine.cpu.graph import Graph, forward
from semicrf.engine.cpu.linking import collector_off
from semicrf.engine.cpu.pool import run
from semicrf.engine.cpu.sidetracks import FULL, SPINE, Heap, Queue, Room, Walks, search, segments
from semicrf.engine.layout import Spec

inf = float("inf")
ROOM = 16  # sidetracks in heaps, per position, to begin with


def k_best(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor], k: int, canonical: bool) -> tuple[Tensor, ...]:
    """The k best segmentations of every sequence, in order: start, end, label (k, B, N), -1 past the end; count (k, B)
    and float64 score (k, B), 0 and -inf where there are no more. All on the host. `spec` names Max and one model.

    `canonical`: of those that differ in the order of durations inside a run of equal labels, only the one in which
    they do not increase.
    """
    lengths, tensors = lengths.cpu(), [t.detach().cpu() for t in tensors]
    if canonical and spec.K > 1:
        graphs, values = _by_duration(spec, lengths, tensors)
    else:
        graphs, values = _of_viterbi(spec, lengths, tensors)
    size, counts = len(graphs), np.zeros((len(graphs), k), np.int64)
    score, arrivals = np.full((k, size), -inf), [np.empty((0, 0), np.int64)] * size

    def find(b: int) -> None:
        walks, arrivals[b] = _search(graphs[b], k, counts[b])
        score[: len(walks.loss), b] = values[b] - walks.loss

    work = int(lengths.sum()) * (spec.K + spec.C) * spec.C
    with _first() if not segments.overloads else nullcontext():
        run([lambda b=b: find(b) for b in range(size)], work)
        N = int(counts.max(initial=1))
        (out,) = together(((3, k, size, N), np.int64))
        start, end, label = out
        run([lambda b=b: segments(graphs[b], arrivals[b], b, start, end, label) for b in range(size)], work)
    return tuple(map(torch.from_numpy, (start, end, label, np.ascontiguousarray(counts.T), score)))


@contextmanager
def _first() -> Iterator[None]:
    """What surrounds the first call in a process."""
    with Announced("compiling the search for the k best (once; numba keeps it)"), collector_off():
        yield


def _search(graph: Graph, k: int, count: np.ndarray) -> tuple[Walks, np.ndarray]:
    """The k walks that lose least, or as many as there are; where each comes to its segments; how many these are."""
    nodes, room, most = graph.alpha.size + graph.g.size + 1, ROOM * (graph.length + 64), 4 * k + 4
    number = np.int32 if nodes < 2**31 else np.int64
    while True:
        loss, side, heads, arrivals, lost, link, wait, entry, path, spine, arcs = together(
            ((k,), np.float64), ((k, 3), np.int64), ((nodes,), np.int32), ((k, graph.length + 1), number),
            ((room,), np.float64), ((room, 5), np.int64),
            ((most,), np.float64), ((most, 5), np.int64),  # each walk brings four others at most
            ((3 * graph.length + 4,), np.int64), ((SPINE,), np.int64), ((max(graph.duration.shape),), np.float64),
        )  # fmt: skip
        heap, queue, scratch = Heap(lost, link), Queue(wait, entry), Room(path, spine, arcs)
        found = search(graph, Walks(loss, side), heads, heap, queue, scratch, arrivals, count)
        if found != FULL:
            break
        room *= 4
    return Walks(loss[:found], side[:found]), arrivals[:found]


def together(*arrays: tuple[tuple[int, ...], type]) -> list[np.ndarray]:
    """Arrays of these shapes and types in one piece of memory. New memory comes page by page, which takes longer than
    filling it; for a large piece NumPy asks for large pages.
    """
    sizes = [-(-math.prod(shape) * np.dtype(kind).itemsize // 64) * 64 for shape, kind in arrays]
    block, at, found = np.empty(max(sum(sizes), 1 << 22), np.uint8), 0, []
    for (shape, kind), size in zip(arrays, sizes, strict=True):
        found.append(block[at : at + math.prod(shape) * np.dtype(kind).itemsize].view(kind).reshape(shape))
        at += size
    return found


def _of_viterbi(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor]) -> tuple[list[Graph], np.ndarray]:
    """The graphs and the best scores, from what Viterbi stored. On the host, in float64, whatever the backend."""
    backend = "auto" if spec.backend == "triton" else spec.backend
    tensors = [t.double() if t.is_floating_point() else t for t in tensors]
    with torch.no_grad():
        state = ops.scan(replace(spec, backend=backend), lengths, tensors, keep=True)
    arcs = Arcs(spec.models(tensors)[0], lengths, spec.T, spec.K, spec.C)
    g = state.g[0] + (state.offset[0, :, :-1, None] + _at_start(arcs))[:, :, None]
    ends = torch.zeros(1, 0, spec.C, dtype=torch.float64)
    choices = [i[0].long() for i in (state.alpha_id, state.g_id, state.end_id)]
    return _graphs(arcs, 1, state.alpha[0][..., None], g, ends, *choices), state.value[0].numpy()


def _by_duration(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor]) -> tuple[list[Graph], np.ndarray]:
    """The same where a segment is told apart by its duration: O(T K C) numbers, and a Viterbi pass of their own."""
    T, K, C, B = spec.T, spec.K, spec.C, len(lengths)
    arcs = Arcs(spec.models(tensors)[0], lengths, T, K, C)
    alpha = torch.full((B, T + 1, C, K), -inf, dtype=torch.float64)
    g = _at_start(arcs)[:, :, None].repeat(1, 1, K, 1).expand(B, -1, -1, -1).clone()
    g[:, 0] += arcs.initial()
    ends = arcs.prefix if arcs.prefix is not None else torch.zeros(1, T + 1, C, dtype=torch.float64)
    if "segment_end" in arcs.parts:
        ends = ends + torch.nn.functional.pad(arcs.parts["segment_end"], (0, 0, 1, 0))
    nothing = torch.zeros(B, 0, 0, dtype=torch.int64), torch.zeros(B, 0, 0, 0, dtype=torch.int64)
    graphs = _graphs(arcs, K, alpha, g, ends, *nothing, torch.zeros(B, dtype=torch.int64))
    run([lambda graph=graph: forward(graph, np.empty(max(K, C))) for graph in graphs], int(lengths.sum()) * K * C)
    values = [(graph.alpha[graph.length, :, 0] + graph.final).max() for graph in graphs]
    return graphs, np.array(values)


def _at_start(arcs: Arcs) -> Tensor:
    """(B or 1, T, C): what the start of a segment scores by itself, less the emissions before it."""
    start = arcs.parts.get("segment_start", torch.zeros(1, arcs.T, arcs.C, dtype=torch.float64))
    return start if arcs.prefix is None else start - arcs.prefix[:, :-1]


def _graphs(
    arcs: Arcs, told_apart: int, alpha: Tensor, g: Tensor, ends: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor
) -> list[Graph]:
    parts, T, K, C = arcs.parts, arcs.T, arcs.K, arcs.C
    lead = torch.zeros(1, 1, 1, C, C, dtype=torch.float64)
    for name, shape in (("transition", (1, 1)), ("duration_transition", (1, K)), ("edge", (T, K))):
        if name in parts:
            lead = lead + parts[name].reshape(-1, *shape, C, C)
    duration = parts.get("duration", torch.zeros(1, K, C, dtype=torch.float64)).mT
    segment = parts.get("segment", torch.zeros(1, 0, K, C, dtype=torch.float64))
    lo = torch.zeros(1, 0, C, dtype=torch.int64) if arcs.lo is None else arcs.lo.expand(-1, -1, C)
    rows = {
        "alpha": alpha, "g": g.permute(0, 3, 1, 2), "duration": duration, "segment": segment, "ends": ends, "lo": lo,
        "lead": lead, "final": arcs.final(), "alpha_id": alpha_id, "g_id": g_id,
    }  # fmt: skip

    def own(b: int) -> dict[str, np.ndarray]:
        return {name: x[min(b, len(x) - 1)].contiguous().numpy() for name, x in rows.items()}

    lengths = arcs.lengths.tolist()
    return [Graph(length=n, run=told_apart, end_id=int(end_id[b]), **own(b)) for b, n in enumerate(lengths)]
