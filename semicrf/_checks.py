"""What ``Segments`` checks: kinds and shapes of tensors, lengths, and whether segments tile their sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from semicrf._nested import at
from semicrf.errors import InputError, bad_input

if TYPE_CHECKING:
    from semicrf.segments import Segments

Kind = Literal["bool", "int64", "integer", "floating"]


def check_tensor(name: str, value: object, kind: Kind, device: torch.device | None = None) -> Tensor:
    """``value``, checked to be a tensor of the given kind, on ``device`` unless that is None.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, Tensor):
        raise bad_input(name, f"a {type(value).__name__}", f"a tensor, {kind}")
    fits = {
        "bool": value.dtype == torch.bool,
        "int64": value.dtype == torch.int64,
        "integer": value.dtype != torch.bool and not (value.is_floating_point() or value.is_complex()),
        "floating": value.is_floating_point(),
    }
    if not fits[kind]:
        raise bad_input(name, f"dtype {value.dtype}", f"dtype {kind}", f"convert {name}.")
    if device is not None and value.device != device:
        raise bad_input(name, f"device {value.device}", f"device {device}", f"move {name} with .to({str(device)!r}).")
    return value


def check_last_axis(name: str, value: Tensor, kind: Kind, axis: str) -> None:
    """Check that ``value`` is a tensor of the given kind with a last axis, called ``axis`` in the error.

    Raises:
        InputError: it is not, or it is a scalar.
    """
    check_tensor(name, value, kind)
    if value.ndim == 0:
        raise bad_input(name, "shape ()", f"shape (..., {axis})", f"add the axis {axis}.")


def check_shape(name: str, value: Tensor, shape: Sequence[int], of: str) -> None:
    """Check the shape of ``value``; ``of`` says in the error where the expected shape comes from.

    Raises:
        InputError: it is another one.
    """
    if tuple(value.shape) != tuple(shape):
        raise bad_input(name, f"shape {tuple(value.shape)}", f"shape {tuple(shape)}, {of}")


def check_lengths(lengths: Tensor | None, positions: Tensor) -> Tensor:
    """``lengths`` as int64 ``(...)`` for ``positions (..., T)``; ``T`` everywhere if None. Values are not checked.

    Raises:
        InputError: a wrong shape, dtype or device.
    """
    *batch, T = positions.shape
    if lengths is None:
        return torch.full(batch, T, dtype=torch.int64, device=positions.device)
    check_tensor("lengths", lengths, "integer", positions.device)
    check_shape("lengths", lengths, batch, "one length for each sequence")
    return lengths.long()


def check_tiling(
    segments: Segments, lengths: Tensor, max_duration: int, num_labels: int, allow_empty: bool = False
) -> None:
    """Check that each sequence's segments tile ``[0, length)``. Synchronises with the device once.

    Args:
        segments: of batch shape ``(...)``.
        lengths: integer, of a shape that broadcasts to ``(...)``, so that samples share the lengths of their batch.
        max_duration: the longest segment allowed.
        num_labels: labels are ``0..num_labels - 1``.
        allow_empty: accept count 0, which stands for `no segmentation`.

    Raises:
        InputError: naming the first sequence, and its first segment, at fault; or lengths that do not fit.

    >>> from semicrf.segments import Segments
    >>> check_tiling(Segments.from_list([(0, 2, 1), (3, 4, 0)]), torch.tensor(4), max_duration=3, num_labels=2)
    Traceback (most recent call last):
    semicrf.errors.InputError: segments, segment 1: got (3, 4, 0); expected start 2, where the segment before it ends. \
Likely fix: leave no gap and no overlap.
    """
    check_tensor("lengths", lengths, "integer", segments.device)
    try:
        lengths = lengths.expand(segments.batch_shape)
    except RuntimeError:
        expected = f"a shape that broadcasts to the segments' batch shape {tuple(segments.batch_shape)}"
        raise bad_input("lengths", f"shape {tuple(lengths.shape)}", expected) from None
    start, end, label, count = segments.start, segments.end, segments.label, segments.count
    n = torch.arange(start.shape[-1], device=start.device)
    ends_before = torch.cat([torch.zeros_like(end[..., :1]), end[..., :-1]], -1)
    fault = (start != ends_before) | (end <= start) | (end - start > max_duration) | (end > lengths[..., None])
    fault |= (label < 0) | (label >= num_labels) | ((n == count[..., None] - 1) & (end != lengths[..., None]))
    fault &= segments.mask
    at_fault = fault.any(-1) | (count < (0 if allow_empty else 1)) | (count > start.shape[-1])
    if at_fault.any():
        i = int(at_fault.flatten().nonzero()[0])
        name, length = at("segments", i, segments.batch_shape), int(lengths.flatten()[i])
        rows = [x.reshape(count.numel(), x.shape[-1])[i].tolist() for x in (fault, start, end, label)]
        raise _tiling_error(name, rows, int(count.flatten()[i]), length, max_duration, num_labels)


def _tiling_error(name: str, rows: list[list], count: int, length: int, max_duration: int, labels: int) -> InputError:
    """The error for the first fault of one sequence; ``rows`` holds its fault marks, starts, ends and labels."""
    fault, starts, ends, ids = rows
    if not 0 < count <= len(starts):
        expected = f"a count in 1..{len(starts)}" if starts else "at least one segment"
        return bad_input(name, f"count {count}", expected, "count 0 means impossible: leave such sequences out.")
    n = fault.index(True)
    start, end, label = starts[n], ends[n], ids[n]
    before = ends[n - 1] if n else 0
    if start != before and n == 0:
        expected, fix = "start 0", "the first segment starts its sequence."
    elif start != before:
        expected, fix = f"start {before}, where the segment before it ends", "leave no gap and no overlap."
    elif end <= start:
        expected, fix = "end > start", "end is exclusive: one position t is (t, t + 1)."
    elif end > length:
        expected, fix = f"end <= {length}, the length", "end is exclusive; else the length is too small."
    elif end - start > max_duration:
        expected = f"a duration of at most {max_duration}, not {end - start}"
        fix = f'raise max_duration to {end - start} or more, or cut the segment (split="K" in SemiCRFHead.loss).'
    elif not 0 <= label < labels:
        expected, fix = f"a label in 0..{labels - 1}", "labels count from 0; padding is left out by count."
    else:
        expected, fix = f"end {length}, the length, as it is the last", "the segments cover their sequence to its end."
    return bad_input(f"{name}, segment {n}", (start, end, label), expected, fix)
