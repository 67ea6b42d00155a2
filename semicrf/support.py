"""Every segmentation of a tiny sequence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from torch import Tensor

from semicrf.errors import bad_input
from semicrf.segments import Segments

_LIMIT = 1_000_000

Triples = tuple[tuple[int, int, int], ...]


@lru_cache(maxsize=1024)
def number(length: int, K: int, C: int) -> int:
    """How many segmentations there are.

    >>> number(2, 2, 1), number(3, 1, 2)
    (2, 8)
    """
    return 1 if length == 0 else C * sum(number(length - k, K, C) for k in range(1, min(K, length) + 1))


def segmentations(length: int, K: int, C: int, start: int = 0) -> Iterator[Triples]:
    """Every tuple of (start, end, label) that tiles ``[start, length)``, in lexicographic order."""
    if start == length:
        yield ()
    for end in range(start + 1, min(start + K, length) + 1):
        for label in range(C):
            for rest in segmentations(length, K, C, end):
                yield ((start, end, label), *rest)


def enumerate_all(lengths: Tensor, K: int, C: int) -> Segments:
    """Segments (S, ...): all segmentations of each sequence, rows of count 0 where a sequence has fewer."""
    flat = lengths.flatten().tolist()
    most = max((number(n, K, C) for n in set(flat)), default=0)
    if most * len(flat) > _LIMIT:
        raise bad_input(
            "enumerate_support", f"{most} segmentations", f"at most {_LIMIT} in all", "use sample or argmax."
        )
    columns = {n: [list(y) for y in segmentations(n, K, C)] for n in set(flat)}
    rows = [[columns[n][s] if s < len(columns[n]) else [] for n in flat] for s in range(most)]
    found = Segments.from_list(rows, lengths.device)
    shape = (most, *lengths.shape)
    parts = {n: getattr(found, n).reshape(*shape, found.start.shape[-1]) for n in ("start", "end", "label")}
    return Segments(**parts, count=found.count.reshape(shape))
