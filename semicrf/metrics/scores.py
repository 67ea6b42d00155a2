"""Precision, recall and F1: of segments, of boundaries, of positions, and of entities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from semicrf._nested import entity_ids
from semicrf.errors import bad_input
from semicrf.metrics.pairs import Triple, boundaries, check_tolerance, overlaps, pairs, wanted
from semicrf.segments import Segments

Item = TypeVar("Item")


class Scores(NamedTuple):
    """Precision, recall and F1, and how many things are true, predicted and both."""

    precision: float
    recall: float
    f1: float
    gold: int
    predicted: int
    correct: int

    @classmethod
    def of(cls, gold: int, predicted: int, correct: int) -> Scores:
        """From the three counts; a score whose denominator is 0 is 0.

        >>> Scores.of(gold=4, predicted=2, correct=1)[:3]
        (0.5, 0.25, 0.3333333333333333)
        """
        precision = correct / predicted if predicted else 0.0
        recall = correct / gold if gold else 0.0
        f1 = 2 * correct / (gold + predicted) if gold + predicted else 0.0
        return cls(precision, recall, f1, gold, predicted, correct)


def segment_scores(
    gold: Segments, predicted: Segments, tolerance: int = 0, labels: Collection[int] | None = None
) -> Scores:
    """Segments found: one is correct where a true one has its label and its start and end are each within tolerance.

    Each true segment is found once at most: the number correct is that of the largest one-to-one matching.

    Args:
        gold, predicted: ``Segments`` of one batch shape ``(...)``; segments in order, without overlaps.
        tolerance: how far a start and an end may each be off, in positions.
        labels: which labels to score, all by default: leave the background out.

    Raises:
        InputError: batch shapes differ, or a bad tolerance.

    Source: the exact spans of CoNLL-2003 (Tjong Kim Sang & De Meulder) at tolerance 0.

    >>> gold = Segments.from_list([(0, 4, 1), (4, 9, 0), (9, 12, 1)])
    >>> predicted = Segments.from_list([(0, 5, 1), (5, 9, 0), (9, 12, 1)])
    >>> segment_scores(gold, predicted).correct, segment_scores(gold, predicted, tolerance=1, labels=[1])
    (1, Scores(precision=1.0, recall=1.0, f1=1.0, gold=2, predicted=2, correct=2))
    """
    check_tolerance(tolerance)

    def before(a: Triple, b: Triple) -> bool:
        return a[0] < b[0] - tolerance or a[1] < b[1] - tolerance

    true = found = correct = 0
    for a, b in pairs(gold, predicted):
        true += sum(wanted(labels, label) for _, _, label in a)
        found += sum(wanted(labels, label) for _, _, label in b)
        for label in {s[2] for s in a} & {s[2] for s in b}:
            if wanted(labels, label):
                correct += _matched([s for s in a if s[2] == label], [s for s in b if s[2] == label], before)
    return Scores.of(true, found, correct)


def boundary_scores(gold: Segments, predicted: Segments, tolerance: int = 0) -> Scores:
    """Boundaries found: one is correct within tolerance of a true one, and each true one is found once at most.

    A boundary is where a segment starts, whatever the labels; position 0, where every sequence has one, is left out.

    Args:
        gold, predicted: ``Segments`` of one batch shape ``(...)``.
        tolerance: how far a boundary may be off, in positions.

    Raises:
        InputError: batch shapes differ, or a bad tolerance.

    Source: the hit rate of boundaries in music (Turnbull et al. 2007) and of change points (van den Burg & Williams
    2020, with one-to-one matching).

    >>> gold, predicted = (Segments.from_list([(0, n, 0), (n, 9, 1)]) for n in (4, 6))
    >>> boundary_scores(gold, predicted, tolerance=1).f1, boundary_scores(gold, predicted, tolerance=2).f1
    (0.0, 1.0)
    """
    check_tolerance(tolerance)
    rows = [(boundaries(a), boundaries(b)) for a, b in pairs(gold, predicted)]
    correct = sum(_matched(a, b, lambda x, y: x < y - tolerance) for a, b in rows)
    return Scores.of(sum(len(a) for a, _ in rows), sum(len(b) for _, b in rows), correct)


def _matched(a: Sequence[Item], b: Sequence[Item], before: Callable[[Item, Item], bool]) -> int:
    """The size of the largest matching of items of which neither comes before the other; both sides in order.

    Going through both in order is enough: what an item may be matched with is a range, and ranges come in order too.
    """
    i = j = count = 0
    while i < len(a) and j < len(b):
        if before(a[i], b[j]):
            i += 1
        elif before(b[j], a[i]):
            j += 1
        else:
            i, j, count = i + 1, j + 1, count + 1
    return count


def matches(gold: Segments, predicted: Segments) -> Tensor:
    """bool ``(..., N)``: whether each predicted segment is a true one, start, end and label; false at padding.

    Raises:
        InputError: batch shapes differ.

    >>> matches(Segments.from_list([(0, 2, 1), (2, 4, 0)]), Segments.from_list([(0, 2, 1), (2, 4, 1)])).tolist()
    [True, False]
    """
    N = predicted.start.shape[-1] if isinstance(predicted, Segments) else 0
    rows = []
    for a, b in pairs(gold, predicted):
        true = set(a)
        rows.append([s in true for s in b] + [False] * (N - len(b)))
    return torch.tensor(rows, dtype=torch.bool, device=predicted.device).reshape(predicted.start.shape)


def confusion(gold: Segments, predicted: Segments, num_labels: int) -> Tensor:
    """int64 ``(C, C)``: how many positions have label ``[true, predicted]``, summed over the batch.

    Positions that either leaves out are not counted.

    Raises:
        InputError: batch shapes differ, or a label is not below ``num_labels``.

    >>> gold, predicted = (Segments.from_list([(0, n, 0), (n, 9, 1)]) for n in (4, 6))
    >>> confusion(gold, predicted, 2).tolist()
    [[4, 0], [2, 3]]
    """
    rows = pairs(gold, predicted)
    _check_labels("num_labels", num_labels, gold=gold, predicted=predicted)
    table = torch.zeros(num_labels, num_labels, dtype=torch.int64)
    for a, b in rows:
        for (_, _, true), (_, _, found), shared in overlaps(a, b):
            table[true, found] += shared
    return table


def position_scores(gold: Segments, predicted: Segments, labels: Collection[int]) -> Scores:
    """Positions labelled: those that have one of ``labels``, and the same one, in both.

    With one label, its precision and recall by position, as nucleotide-level scores of gene finders are.

    Args:
        gold, predicted: ``Segments`` of one batch shape ``(...)``.
        labels: which labels to score.

    Raises:
        InputError: batch shapes differ.

    Source: Burset & Guigó 1996.

    >>> gold, predicted = (Segments.from_list([(0, n, 0), (n, 9, 1)]) for n in (4, 6))
    >>> position_scores(gold, predicted, labels=[1])
    Scores(precision=1.0, recall=0.6, f1=0.75, gold=5, predicted=3, correct=3)
    """
    true = found = correct = 0
    for a, b in pairs(gold, predicted):
        true += sum(end - start for start, end, label in a if label in labels)
        found += sum(end - start for start, end, label in b if label in labels)
        correct += sum(n for (_, _, x), (_, _, y), n in overlaps(a, b) if x == y and x in labels)
    return Scores.of(true, found, correct)


class EntityScores(NamedTuple):
    """Micro-averaged scores, and those of each type."""

    precision: float
    recall: float
    f1: float
    per_type: dict[str, Scores]


def entity_scores(gold: Segments, predicted: Segments, names: Sequence[str]) -> EntityScores:
    """Precision, recall and F1 of exact entities: start, end and type must agree; label 0 (``O``) is no entity.

    Sums over every sequence of the batch; a sequence of count 0 holds no entity. A score whose denominator is 0 is 0.
    Neighbouring segments of one type are two entities.

    Args:
        gold, predicted: ``Segments`` of one batch shape.
        names: label names, ``names[0]`` is ``"O"``.

    Raises:
        InputError: batch shapes differ, a label is not in names, or a bad ``names``.

    >>> gold = Segments.from_bio([["B-per", "I-per", "O", "B-loc"]], ["O", "per", "loc"])
    >>> predicted = Segments.from_bio([["B-per", "I-per", "B-loc", "I-loc"]], ["O", "per", "loc"])
    >>> scores = entity_scores(gold, predicted, ["O", "per", "loc"])
    >>> scores.f1, scores.per_type["per"].f1
    (0.5, 1.0)
    """
    ids = entity_ids(names)
    pairs(gold, predicted)  # says what is wrong with the arguments before their labels are read
    _check_labels("names", len(names), gold=gold, predicted=predicted)
    per_type = {name: segment_scores(gold, predicted, labels=[label]) for name, label in ids.items()}
    return EntityScores(*segment_scores(gold, predicted, labels=list(ids.values()))[:3], per_type)


def _check_labels(of: str, num_labels: int, **given: Segments) -> None:
    for name, segments in given.items():
        if bool((segments.mask & ((segments.label < 0) | (segments.label >= num_labels))).any()):
            fix = f"pass the {of} it was made with."
            raise bad_input(name, f"a label outside {of}", f"labels in 0..{num_labels - 1}", fix)
