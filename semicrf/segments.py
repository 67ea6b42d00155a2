"""Segmentations as padded tensors, and their conversions to lists, labels, boundaries and BIO tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# A private module, because torch has no public way to register a pytree whose leaves may be anything (a shape, a spec)
# while a transform runs: torch.export.register_dataclass calls the constructor, and ours checks that it gets tensors.
import torch.utils._pytree as pytree
from torch import Tensor

from semicrf._checks import check_last_axis, check_lengths, check_shape, check_tensor, check_tiling
from semicrf._nested import at, bio_spans, bio_tags, check_triples, entity_ids, is_triple, nest, unnest
from semicrf.engine.marks import listed
from semicrf.errors import bad_input

__all__ = ["Segments", "check_tiling"]

_FIELDS = ("start", "end", "label", "count", "score", "probability")
_OPTIONAL = ("score", "probability")
_PER_SEQUENCE = ("count", "score")  # the others have an axis of segments


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Segments:
    """A batch of segmentations: half-open ``[start, end)`` segments with labels, padded to ``N`` per sequence.

    ``(...)`` is any leading batch shape, ``()`` included. A sequence with ``count`` 0 has no segmentation: the model
    allowed none. Values are trusted (to check them would synchronise); ``check_tiling`` checks them. A pytree.

    Args:
        start, end, label: int64 ``(..., N)``, -1 past the end.
        count: int64 ``(...)``, how many of the ``N`` are segments.
        score: floating ``(...)``, optional.
        probability: floating ``(..., N)``, optional.

    Raises:
        InputError: a tensor has another shape, dtype or device.

    >>> s = Segments.from_list([[(0, 2, 1), (2, 3, 0)], [(0, 1, 1)]])
    >>> s
    Segments(batch_shape=(2,), N=2, device=cpu)
    >>> s.to_labels(4).tolist()
    [[1, 1, 0, -1], [1, -1, -1, -1]]
    >>> s[1].tolist()
    [(0, 1, 1)]
    """

    start: Tensor
    end: Tensor
    label: Tensor
    count: Tensor
    score: Tensor | None = None
    probability: Tensor | None = None

    def __post_init__(self) -> None:
        check_last_axis("start", self.start, "int64", "N")
        for name in _FIELDS:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                value = check_tensor(name, value, "floating" if name in _OPTIONAL else "int64", self.device)
                shape = self.start.shape[:-1] if name in _PER_SEQUENCE else self.start.shape
                check_shape(name, value, shape, "as start is (..., N)")

    @classmethod
    def from_list(cls, value: Sequence, device: torch.device | str | None = None) -> Segments:
        """Segments from nested lists of ``(start, end, label)``; ``N`` is the longest sequence's count.

        ``[(0, 2, 1)]`` has batch shape ``()``, ``[[(0, 2, 1)]]`` has ``(1,)``. The innermost list is a sequence, so
        ``[]`` is one without segments. Segments need not tile (see ``check_tiling``).

        Raises:
            InputError: uneven batch axes, or a segment that is not integers, ``0 <= start < end`` and ``0 <= label``.

        >>> Segments.from_list([[[(0, 2, 1)], [(0, 1, 0), (1, 2, 0)]]]).batch_shape
        torch.Size([1, 2])
        """
        shape, sequences = unnest("segments", value, is_triple)
        rows = [check_triples(at("segments", i, shape), sequence) for i, sequence in enumerate(sequences)]
        width = max(map(len, rows))
        padded = [row + [(-1, -1, -1)] * (width - len(row)) for row in rows]
        count = torch.tensor([len(row) for row in rows], device=device).reshape(shape)
        triples = torch.tensor(padded, dtype=torch.int64, device=device).reshape(*shape, width, 3)
        start, end, label = (x.contiguous() for x in triples.unbind(-1))
        return cls(start=start, end=end, label=label, count=count)

    @classmethod
    def from_boundaries(cls, is_start: Tensor, label: Tensor, lengths: Tensor | None = None) -> Segments:
        """Segments from start marks, with ``N = T`` and no synchronisation.

        Args:
            is_start: bool ``(..., T)``, true where a segment starts; it ends at the next start or at the length.
            label: integer ``(..., T)``; the label at a start is its segment's, the others are not read.
            lengths: integer ``(...)``, in ``0..T`` (not checked), ``T`` by default; marks past it are ignored.

        Raises:
            InputError: a wrong shape, dtype or device.

        >>> marks = torch.tensor([True, False, True, True])
        >>> Segments.from_boundaries(marks, torch.tensor([5, 9, 6, 7]), torch.tensor(3)).tolist()
        [(0, 2, 5), (2, 3, 6)]
        """
        check_last_axis("is_start", is_start, "bool", "T")
        check_tensor("label", label, "integer", is_start.device)
        check_shape("label", label, is_start.shape, "that of is_start")
        lengths = check_lengths(lengths, is_start)
        inside = torch.arange(is_start.shape[-1], device=is_start.device) < lengths[..., None]
        start, end, label, count = listed(is_start & inside, label, lengths)
        return cls(start=start, end=end, label=label, count=count)

    @classmethod
    def from_labels(cls, labels: Tensor, lengths: Tensor | None = None) -> Segments:
        """The maximal runs of equal labels, with ``N = T`` and no synchronisation.

        Args:
            labels: integer ``(..., T)``.
            lengths: integer ``(...)``, in ``0..T`` (not checked); by default up to the first negative label.

        Raises:
            InputError: a wrong shape, dtype or device.

        >>> Segments.from_labels(torch.tensor([1, 1, 0, 2, -1])).tolist()
        [(0, 2, 1), (2, 3, 0), (3, 4, 2)]
        """
        check_last_axis("labels", labels, "integer", "T")
        if lengths is None:
            lengths = (labels >= 0).long().cumprod(-1).sum(-1)
        first = torch.arange(labels.shape[-1], device=labels.device) == 0
        return cls.from_boundaries(first | (labels != labels.roll(1, -1)), labels, lengths)

    @classmethod
    def from_bio(cls, tags: Sequence, names: Sequence[str], device: torch.device | str | None = None) -> Segments:
        """Segments from nested lists of BIO (IOB2) tags: one per entity, and one per token tagged ``O``.

        An ``I-`` tag that does not continue an entity of its type starts one, as in conlleval.

        Args:
            tags: nested lists of str, one list per sequence.
            names: label names: ``names[0]`` is ``"O"``, the others are entity types without ``B-`` or ``I-``.

        Raises:
            InputError: a tag that is not ``O``, ``B-type`` or ``I-type`` with a type in names; a bad ``names``.

        >>> Segments.from_bio([["B-per", "I-per", "O", "I-loc"]], ["O", "loc", "per"]).tolist()
        [[(0, 2, 2), (2, 3, 0), (3, 4, 1)]]
        """
        ids = entity_ids(names)
        shape, sequences = unnest("tags", tags, lambda item: isinstance(item, str))
        spans = [bio_spans(sequence, ids, at("tags", i, shape)) for i, sequence in enumerate(sequences)]
        return cls.from_list(nest(spans, shape), device)

    def tolist(self) -> list:
        """Nested lists of ``(start, end, label)``, one list per sequence.

        Raises:
            InputError: a sequence has count 0: there is no segmentation to list.
        """
        return nest(self._sequences(), self.batch_shape)

    def to_labels(self, T: int) -> Tensor:
        """int64 ``(..., T)``: the label at each position, -1 where no segment is; segments are cut at ``T``."""
        t, slot = torch.arange(T, device=self.device), self._slots(T)
        starts = torch.where(self._at(slot, torch.ones_like(self.start, dtype=torch.bool), T, False), t, 0)
        last = starts.cummax(-1).values if T else starts  # cummax refuses an empty axis
        label, end = (self._at(slot, x, T, -1).gather(-1, last) for x in (self.label, self.end))
        return torch.where(t < end, label, -1)

    def to_boundaries(self, T: int) -> Tensor:
        """bool ``(..., T)``: true where a segment starts; starts at ``T`` or later are dropped."""
        return self._at(self._slots(T), torch.ones_like(self.start, dtype=torch.bool), T, False)

    def to_bio(self, names: Sequence[str]) -> list:
        """Nested lists of BIO tags; a segment of label 0 gives ``O`` at each of its positions.

        Raises:
            InputError: a sequence has count 0 or is not tiled from 0, a label is not in names, or a bad ``names``.

        >>> Segments.from_list([(0, 2, 1), (2, 4, 0)]).to_bio(["O", "per"])
        ['B-per', 'I-per', 'O', 'O']
        """
        entity_ids(names)
        shape = self.batch_shape
        tags = [bio_tags(spans, names, at("segments", i, shape)) for i, spans in enumerate(self._sequences())]
        return nest(tags, shape)

    def trim(self) -> Segments:
        """The same with ``N`` = the largest count. Synchronises with the device."""
        n = int(self.count.max()) if self.count.numel() else 0
        return self._map(lambda name, x: x if name in _PER_SEQUENCE else x[..., :n])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Segments:
        """The same with every tensor on ``device``."""
        return self._map(lambda _, x: x.to(device, non_blocking=non_blocking))

    @property
    def device(self) -> torch.device:
        """The device of every tensor."""
        return self.start.device

    @property
    def batch_shape(self) -> torch.Size:
        """The leading shape ``(...)``."""
        return self.count.shape

    @property
    def mask(self) -> Tensor:
        """bool ``(..., N)``: true at segments, false at padding."""
        return torch.arange(self.start.shape[-1], device=self.device) < self.count[..., None]

    @property
    def durations(self) -> Tensor:
        """int64 ``(..., N)``: ``end - start``, 0 at padding."""
        return torch.where(self.mask, self.end - self.start, 0)

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("len() of Segments with batch shape (): the number of its segments is .count")
        return self.batch_shape[0]

    def __iter__(self) -> Iterator[Segments]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Segments:
        """Index the leading axes, as a tensor of shape ``batch_shape`` is indexed; the axis of segments stays whole."""
        index = index if isinstance(index, tuple) else (index,)
        return self._map(lambda name, x: x[index] if name in _PER_SEQUENCE else x[(*index, slice(None))])

    def __eq__(self, other: object) -> bool:
        """Whether the segmentations are the same: padding, score and probability are not compared."""
        if not isinstance(other, Segments):
            return NotImplemented
        a, b = self.trim(), other.trim().to(self.device)
        if not torch.equal(a.count, b.count):
            return False
        return all(torch.equal(getattr(a, x)[a.mask], getattr(b, x)[a.mask]) for x in ("start", "end", "label"))

    def __repr__(self) -> str:
        extra = "".join(f", {name}" for name, _ in _present(self) if name in _OPTIONAL)
        shape = f"batch_shape={tuple(self.batch_shape)}, N={self.start.shape[-1]}"
        return f"Segments({shape}, device={self.device}{extra})"

    def _repr_html_(self) -> str:
        from semicrf import _html  # which imports this module

        return _html.segments(self)

    def _sequences(self) -> list[list[tuple[int, int, int]]]:
        """The segments of each sequence in row-major order; an error where one has none."""
        counts, trimmed = self.count.flatten().tolist(), self.trim()
        if 0 in counts:
            fix = "check_possible() of the distribution says where it is impossible; or select the others (count > 0)."
            raise bad_input(at("segments", counts.index(0), self.batch_shape), "count 0", "at least one segment", fix)
        columns = [x.reshape(len(counts), x.shape[-1]).tolist() for x in (trimmed.start, trimmed.end, trimmed.label)]
        return [list(zip(*row, strict=True))[:n] for n, *row in zip(counts, *columns, strict=True)]

    def _map(self, f: Callable[[str, Tensor], Tensor]) -> Segments:
        return Segments(**{name: f(name, x) for name, x in _present(self)})

    def _slots(self, T: int) -> Tensor:
        """int64 ``(..., N)``: where each segment starts; ``T``, past the end, for what starts nowhere in ``[0, T)``."""
        return torch.where(self.mask & (self.start >= 0) & (self.start < T), self.start, T)

    def _at(self, slot: Tensor, values: Tensor, T: int, fill: int | bool) -> Tensor:
        """``(..., T)``: the value of the segment that starts at each position, ``fill`` elsewhere."""
        return values.new_full((*self.batch_shape, T + 1), fill).scatter(-1, slot, values)[..., :T]


def _present(segments: Segments) -> list[tuple[str, Any]]:
    """Name and value of every field that is given."""
    return [(name, x) for name in _FIELDS if (x := getattr(segments, name)) is not None]


def _flatten(segments: Segments) -> tuple[list[Any], list[str]]:
    return [x for _, x in _present(segments)], [name for name, _ in _present(segments)]


def _flatten_with_keys(segments: Segments) -> tuple[list[tuple[Any, Any]], list[str]]:
    leaves, names = _flatten(segments)
    return [(pytree.GetAttrKey(name), x) for name, x in zip(names, leaves, strict=True)], names


def _unflatten(leaves: Iterable[Any], names: list[str]) -> Segments:
    segments = object.__new__(Segments)  # not the constructor: leaves need not be tensors
    for name, leaf in zip(names, leaves, strict=True):
        object.__setattr__(segments, name, leaf)
    return segments


pytree.register_pytree_node(
    Segments, _flatten, _unflatten, serialized_type_name="semicrf.Segments", flatten_with_keys_fn=_flatten_with_keys
)
torch.serialization.add_safe_globals([Segments])  # torch.load and torch.export.load take it without being told
