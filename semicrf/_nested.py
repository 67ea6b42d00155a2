"""Nested lists of sequences, and the BIO tags of one sequence: the plain Python under ``Segments``, without tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import index as as_int
from typing import Any

from semicrf.errors import bad_input

Triple = tuple[int, int, int]


def is_triple(item: object) -> bool:
    """Whether ``item`` is ``(start, end, label)``: a list or tuple of three integers of any kind."""
    return isinstance(item, (list, tuple)) and len(item) == 3 and all(hasattr(x, "__index__") for x in item)


def check_triples(name: str, sequence: Sequence) -> list[Triple]:
    """The segments of one sequence as tuples of int.

    Raises:
        InputError: naming the first that is not ``0 <= start < end`` and ``0 <= label``; the name begins with ``name``.
    """
    for n, item in enumerate(sequence):
        if not is_triple(item) or not (0 <= item[0] < item[1] and item[2] >= 0):
            expected = "integers (start, end, label) with 0 <= start < end and 0 <= label"
            raise bad_input(f"{name}, segment {n}", repr(item), expected, "end is exclusive; leave padding out.")
    return [(as_int(start), as_int(end), as_int(label)) for start, end, label in sequence]


def at(name: str, i: int, shape: Sequence[int]) -> str:
    """The name, in an error, of the ``i``-th sequence of ``name`` in row-major order.

    >>> at("tags", 1, ()), at("tags", 1, (2,)), at("tags", 3, (2, 2))
    ('tags', 'tags, sequence 1', 'tags, sequence (1, 1)')
    """
    index: list[int] = []
    for size in reversed(shape):
        i, last = divmod(i, size)
        index.insert(0, last)
    return f"{name}, sequence {index[0] if len(index) == 1 else tuple(index)}" if index else name


def unnest(name: str, value: Any, is_item: Callable[[object], bool]) -> tuple[tuple[int, ...], list[Sequence]]:
    """The batch shape of nested lists of items, and its sequences (innermost lists) in row-major order.

    Raises:
        InputError: not nested lists, or batch axes of uneven size.

    >>> unnest("tags", [[["O"], []]], lambda item: isinstance(item, str))
    ((1, 2), [['O'], []])
    """
    return _split(name, value, _batch_axes(name, value, is_item))


def _batch_axes(name: str, value: Any, is_item: Callable[[object], bool]) -> int:
    if not isinstance(value, (list, tuple)):
        raise bad_input(name, repr(value), "nested lists, the innermost one a sequence")
    if not value or any(map(is_item, value)):
        return 0
    if not all(isinstance(v, (list, tuple)) for v in value):
        raise bad_input(
            name, f"an item {value!r}", "nested lists, the innermost one a sequence of items of the right form"
        )
    return 1 + max(_batch_axes(name, v, is_item) for v in value)


def _split(name: str, value: Sequence, axes: int) -> tuple[tuple[int, ...], list[Sequence]]:
    if axes == 0:
        return (), [value]
    parts = [_split(name, v, axes - 1) for v in value]
    shapes = {shape for shape, _ in parts}
    if len(shapes) != 1:
        got = f"nested lists of shapes {sorted(shapes)} side by side" if shapes else "an empty list above the sequences"
        raise bad_input(name, got, "batch axes of one size", "nest each sequence equally deep.")
    return (len(value), *shapes.pop()), [sequence for _, sequences in parts for sequence in sequences]


def nest(sequences: Sequence, shape: Sequence[int]) -> Any:
    """The inverse of ``unnest``.

    >>> nest(["a", "b"], (1, 2))
    [['a', 'b']]
    """
    return _fill(iter(sequences), tuple(shape))


def _fill(sequences: Iterator, shape: tuple[int, ...]) -> Any:
    return [_fill(sequences, shape[1:]) for _ in range(shape[0])] if shape else next(sequences)


def entity_ids(names: Sequence[str]) -> dict[str, int]:
    """The label of each entity type: its place in ``names``, where place 0 is ``"O"``.

    Raises:
        InputError: ``names[0]`` is not ``"O"``, or a name is not a string or comes twice.
    """
    if isinstance(names, str) or not names or names[0] != "O":
        raise bad_input("names", repr(names), 'a list of names that begins with "O"', "tag_names(sentences) makes one.")
    ids = {name: i for i, name in enumerate(names) if isinstance(name, str)}
    if len(ids) != len(names):
        raise bad_input("names", repr(names), "distinct strings", "entity types without B- or I-, each once.")
    del ids["O"]
    return ids


def parse_tag(tag: object, where: str) -> tuple[str, str]:
    """``("O", "")``, ``("B", type)`` or ``("I", type)``.

    Raises:
        InputError: the tag is none of these.
    """
    prefix, _, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    if tag != "O" and (prefix not in ("B", "I") or not kind):
        raise bad_input(where, f"tag {tag!r}", "O, B-type or I-type", "convert BIOES or bracketed tags to BIO (IOB2).")
    return prefix, kind


def bio_spans(tags: Sequence, ids: dict[str, int], where: str) -> list[Triple]:
    """The segments of one sequence of BIO tags, as ``Segments.from_bio`` says.

    Raises:
        InputError: a tag is malformed, or its type is not in ``ids``.
    """
    spans: list[Triple] = []
    previous = ""
    for t, tag in enumerate(tags):
        prefix, kind = parse_tag(tag, f"{where}, token {t}")
        if prefix != "O" and kind not in ids:
            expected = f"a type of names: {', '.join(ids) or 'none'}"
            raise bad_input(f"{where}, token {t}", f"tag {tag!r}", expected, f"add {kind!r} to names.")
        if prefix == "I" and kind == previous:
            spans[-1] = (spans[-1][0], t + 1, ids[kind])
        else:
            spans.append((t, t + 1, ids.get(kind, 0)))
        previous = kind
    return spans


def bio_tags(spans: Sequence[Triple], names: Sequence[str], where: str) -> list[str]:
    """The BIO tags of one sequence of segments that tile it from 0.

    Raises:
        InputError: a segment does not begin where the one before it ends, or its label is not in ``names``.
    """
    tags: list[str] = []
    for n, (start, end, label) in enumerate(spans):
        if start != len(tags) or not 0 <= label < len(names):
            expected = f"start {len(tags)} and a label in 0..{len(names) - 1}"
            raise bad_input(f"{where}, segment {n}", (start, end, label), expected, "tags need segments without gaps.")
        name = names[label]
        tags += [f"B-{name}", *[f"I-{name}"] * (end - start - 1)] if label else ["O"] * (end - start)
    return tags
