"""What a loss is given: segments, labels, labels of which some are missing, or evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from semicrf._checks import check_shape, check_tensor, check_tiling
from semicrf._nested import at
from semicrf.constraints import Evidence, as_segments
from semicrf.distribution import SemiCRFDistribution
from semicrf.errors import InputError, bad_input
from semicrf.potentials import Potentials
from semicrf.segments import Segments

inf = float("inf")


def as_target(
    target: object, p: SemiCRFDistribution, split: str | None, ignore_index: int | None, check: bool
) -> Segments | Evidence:
    """The target as something that ``log_prob`` takes exactly; ``negative_log_likelihood`` says what it may be."""
    if split not in (None, "K"):
        raise bad_input("split", repr(split), "None or 'K'")
    if ignore_index is not None and not isinstance(target, Tensor):
        raise bad_input("ignore_index", f"{ignore_index} with a {type(target).__name__}", "None", "it is for labels.")
    if isinstance(target, Evidence):
        if split is not None:
            raise bad_input("split", "'K' with Evidence", "None", "leave split out: Evidence has no runs to cut.")
        return target
    if isinstance(target, Tensor):
        check_tensor("target", target, "integer", p.lengths.device)
        check_shape("target", target, (*p.batch_shape, p.T), "(..., T) as hidden")
        if ignore_index is not None:
            return _partial(target.long(), p, ignore_index, split is not None, check)
        if split is not None and not check:
            first = torch.arange(p.T, device=target.device) == 0
            return _cut(first | (target != target.roll(1, -1)), target, p)
        segments = Segments.from_labels(target, p.lengths)
    elif isinstance(target, Segments | list | tuple):
        segments = as_segments(target, p.lengths.device)
        check_shape("target.count", segments.count, p.batch_shape, "one segmentation for each sequence")
    else:
        raise bad_input("target", f"a {type(target).__name__}", "Segments, integer labels (..., T) or Evidence")
    if split is None:
        return segments
    if check:
        check_tiling(segments, p.lengths, p.T, p.C)
    return _cut(segments.to_boundaries(p.T), segments.to_labels(p.T), p)


def _cut(starts: Tensor, labels: Tensor, p: SemiCRFDistribution) -> Segments:
    """Segments by their starts and labels ``(..., T)``; those longer than K in pieces of K, the last one shorter."""
    t = torch.arange(p.T, device=starts.device)
    since = t - torch.where(starts, t, 0).cummax(-1).values
    return Segments.from_boundaries(starts | (since % p.K == 0), labels, p.lengths)


def _partial(labels: Tensor, p: SemiCRFDistribution, ignored: int, split: bool, check: bool) -> Evidence:
    """Labels of which some are missing: between two that are known a segment starts where they differ, and only there.

    Beside a missing one it may or may not. A known run of more than K is an error, or with `split` cut in any way.
    """
    t = torch.arange(p.T, device=labels.device)
    inside, known = t < p.lengths[..., None], labels != ignored
    wrong = inside & known & ((labels < 0) | (labels >= p.C))
    if check and bool(wrong.any()):
        value = int(labels[wrong][0])
        raise bad_input("target", f"label {value}", f"0..{p.C - 1}, or ignore_index = {ignored} where it is missing")
    both = known & known.roll(1, -1) & (t > 0)
    same = both & (labels == labels.roll(1, -1))
    run = (~same).long().cumsum(-1) - 1  # which run of known, equal labels a position is in; a missing one is its own
    counted = (inside & known).long()
    long = torch.zeros_like(labels).scatter_add(-1, run, counted).gather(-1, run) > p.K
    if check and not split and bool((long & inside).any()):
        i = int((long & inside).flatten(0, -2).any(-1).nonzero()[0]) if labels.dim() > 1 else 0
        name = at("target", i, p.batch_shape)
        fix = 'raise max_duration, or pass split="K": such a run is any number of segments.'
        raise bad_input(name, f"a run of more than {p.K} equal labels", "a duration of at most K", fix)
    starts = torch.where(both, (~same).long(), -1)
    starts = torch.where(same & long, -1, torch.where(t == 0, 1, starts))
    # A wrong label that was not looked for agrees with nothing; below 0 it would stand for a missing one.
    labels = torch.where(known, torch.where(labels < 0, p.C, labels), -1)
    return Evidence(labels=labels, boundary=starts)


def forbidden(model: Potentials, value: Segments | Evidence, i: int) -> InputError:
    """The error for a target of probability 0, the ``i``-th of the flattened batch."""
    name, expected = at("target", i, model.batch_shape), "one that the constraints and the scores allow"
    fix = "correct the target, or what forbids it: the head's constraints, or -inf in its scores."
    if isinstance(value, Evidence):
        return bad_input(name, "evidence that no segmentation of non-zero weight agrees with", expected, fix)
    count = int(value.count.flatten()[i])
    columns = (x.reshape(-1, x.shape[-1])[i, :count].tolist() for x in (value.start, value.end, value.label))
    parts = {part: t[i if len(t) > 1 else 0] for part, t in model.parts.items()}
    previous: list[int] = []
    for j, (start, end, label) in enumerate(zip(*columns, strict=True)):
        reads = [("emission", (t, label)) for t in range(start, end)]
        reads += [("duration", (end - start - 1, label)), ("segment_start", (start, label))]
        reads += [("transition", (*previous, label)) if previous else ("start", (label,))]
        reads += [("end", (label,))] if j == count - 1 else []
        for part, index in reads:
            if part in parts and parts[part][index] == -inf:
                got = f"{(start, end, label)}, where {part}[{', '.join(map(str, index))}] is -inf"
                return bad_input(f"{name}, segment {j}", got, expected, fix)
        previous = [label]
    return bad_input(name, f"count {count} and probability 0", expected, fix)
