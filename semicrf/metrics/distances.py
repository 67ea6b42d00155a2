"""How far a segmentation is from the true one, labels aside: covering and Hausdorff distance."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from semicrf.metrics.pairs import boundaries, overlaps, pairs
from semicrf.segments import Segments

inf = float("inf")


def covering(gold: Segments, predicted: Segments) -> Tensor:
    """float64 ``(...)``: how well the predicted segments cover the true ones, from 0 to 1; 1 where they are the same.

    The mean over positions of the largest overlap of its true segment with a predicted one, ``|A and B| / |A or B|``; 0
    where either has no segment.

    Args:
        gold, predicted: ``Segments`` of one batch shape ``(...)``; segments in order, without overlaps.

    Raises:
        InputError: batch shapes differ.

    Source: Arbelaez et al. 2011, for change points van den Burg & Williams 2020.

    >>> gold, predicted = (Segments.from_list([(0, n, 0), (n, 8, 1)]) for n in (4, 6))
    >>> round(covering(gold, predicted).item(), 4)  # (4 * 4/6 + 4 * 2/4) / 8
    0.5833
    """
    values = []
    for a, b in pairs(gold, predicted):
        best = dict.fromkeys(a, 0.0)
        for x, y, shared in overlaps(a, b):
            union = x[1] - x[0] + y[1] - y[0] - shared
            best[x] = max(best[x], shared / union)
        total = sum(end - start for start, end, _ in a)
        values.append(sum((x[1] - x[0]) * j for x, j in best.items()) / total if total else 0.0)
    return torch.tensor(values, dtype=torch.float64, device=gold.device).reshape(gold.batch_shape)


def hausdorff(gold: Segments, predicted: Segments) -> Tensor:
    """float64 ``(...)``: the largest distance, in positions, of a boundary of either to the nearest one of the other.

    A boundary is where a segment starts, but for the first one. Where neither has one it is 0; where one has none, or
    count 0, it is ``inf``.

    Args:
        gold, predicted: ``Segments`` of one batch shape ``(...)``; segments in order.

    Raises:
        InputError: batch shapes differ.

    Source: for change points Boysen et al. 2009; Truong, Oudre & Vayatis 2020, section 3.

    >>> gold = Segments.from_list([(0, 4, 0), (4, 8, 1)])
    >>> hausdorff(gold, Segments.from_list([(0, 3, 0), (3, 6, 1), (6, 8, 0)])).item()
    2.0
    """
    values = []
    for a, b in pairs(gold, predicted):
        known = bool(a) == bool(b)
        values.append(
            max(_farthest(boundaries(a), boundaries(b)), _farthest(boundaries(b), boundaries(a))) if known else inf
        )
    return torch.tensor(values, dtype=torch.float64, device=gold.device).reshape(gold.batch_shape)


def _farthest(points: Sequence[int], others: Sequence[int]) -> float:
    """The largest distance of a point to the nearest of the others, which are in order."""
    farthest = 0.0
    for point in points:
        i = bisect_left(others, point)
        near = others[max(i - 1, 0) : i + 1]
        farthest = max(farthest, min((abs(point - x) for x in near), default=inf))
    return farthest
