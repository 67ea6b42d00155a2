"""The checks of a distribution's arguments: lengths and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor

from semicrf._checks import check_shape, check_tensor
from semicrf.engine.arcs import _inside
from semicrf.engine.layout import MASKS
from semicrf.errors import bad_input
from semicrf.potentials import Potentials


def lengths(value: Tensor | Sequence[int] | None, potentials: Potentials) -> Tensor:
    """int64 (B,): T where None. Shape, dtype and device are checked, values are not."""
    batch, B = potentials.batch_shape, potentials.B
    if value is None:
        return torch.full((B,), potentials.T, dtype=torch.int64, device=potentials.device)
    try:
        given = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        expected = f"integers of shape {tuple(batch)}"
        raise bad_input("lengths", repr(value), expected, "a tensor or nested lists.") from None
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        raise bad_input("lengths", f"dtype {given.dtype}", "an integer dtype", "lengths.long().")
    if given.shape != batch:
        raise bad_input(
            "lengths", f"shape {tuple(given.shape)}", f"{tuple(batch)}, the batch shape", "one length per sequence."
        )
    if isinstance(value, Tensor) and given.device != potentials.device:
        raise bad_input(
            "lengths", f"device {given.device}", potentials.device, f"lengths.to({str(potentials.device)!r})."
        )
    return given.to(potentials.device, torch.int64).reshape(B)


def sequence_ids(value: Tensor | None, potentials: Potentials) -> Tensor:
    """int64 (B,): what each sequence's draws are keyed by; its index in the batch where None."""
    if value is None:
        return torch.arange(potentials.B, device=potentials.device)
    check_tensor("sequence_id", value, "integer", potentials.device)
    check_shape("sequence_id", value, potentials.batch_shape, "one id per sequence")
    return value.long().reshape(potentials.B)


def count(name: str, value: object, least: int) -> int:
    """An integer that is not too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise bad_input(name, repr(value), f"an integer of at least {least}")
    return value


def shape(name: str, value: object) -> torch.Size:
    """A tuple of sizes as torch.Size.

    >>> shape("sample_shape", 3)
    Traceback (most recent call last):
    semicrf.errors.InputError: sample_shape: got 3; expected a tuple of sizes. Likely fix: (3,).
    """
    if isinstance(value, Sequence) and all(isinstance(n, int | torch.SymInt) and n >= 0 for n in value):
        return torch.Size(value)
    fix = f"({value},)." if isinstance(value, int) else ""
    raise bad_input(name, repr(value), "a tuple of sizes", fix)


def broadcast(own: torch.Size, value: object) -> torch.Size:
    """The larger batch shape, checked to be one that `own` broadcasts to."""
    larger = shape("batch_shape", value)
    fits = len(larger) >= len(own) and all(n in (1, m) for n, m in zip(own[::-1], larger[::-1], strict=False))
    if not fits:
        expected = f"a shape that {tuple(own)} broadcasts to"
        raise bad_input("batch_shape", tuple(larger), expected, "new axes come first; only axes of size 1 grow.")
    return larger


def seed(generator: torch.Generator | None) -> int:
    """One 62-bit seed, from the generator or from torch's default one."""
    return int(torch.randint(0, 2**62, (), generator=generator, device=generator.device if generator else "cpu"))


def wanted(validate_args: bool | None, potentials: Potentials, lengths: Tensor | None = None) -> bool:
    """Whether values are checked: as told, or by default wherever reading them is possible and cheap."""
    if validate_args is not None:
        return validate_args
    if torch.compiler.is_compiling():
        return False
    if any(map(_batched, potentials.parts.values())) or (lengths is not None and _batched(lengths)):
        return False
    return not (potentials.device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def _batched(tensor: Tensor) -> bool:
    """Whether vmap runs over the tensor, so that it has no value to read; torch has no public way to ask."""
    while is_functorch_wrapped_tensor(tensor):  # vmap may stand around grad or jvp
        if is_batchedtensor(tensor):
            return True
        tensor = get_unwrapped(tensor)
    return False


def values(potentials: Potentials, lengths: Tensor) -> None:
    """Raise where a length is outside 1..T, or a score that is read is NaN or +inf."""
    T = potentials.T
    if lengths.numel():
        least, most = (int(v) for v in lengths.aminmax())
        if least < 1 or most > T:
            fix = "drop empty sequences." if least < 1 else "lengths count positions: trim them to T."
            raise bad_input("lengths", f"values {least}..{most}", f"1..{T}, T of the potentials", fix)
    scores = {n: t.detach() for n, t in potentials.parts.items() if n not in MASKS and t.numel()}
    tops = torch.stack([t.aminmax().max for t in scores.values()]).tolist() if scores else []  # one read for all
    for (name, part), top in zip(scores.items(), tops, strict=True):
        if not top < float("inf"):  # NaN, too: somewhere, maybe where nothing is read
            _read_values(name, part, lengths)


def _read_values(name: str, part: Tensor, lengths: Tensor) -> None:
    """Raise where a score that is read is NaN or +inf."""
    part = _inside(name, part, lengths)
    if name == "edge":  # before the first segment only previous = 0 is read
        part = torch.cat([part[:, :1, :, :1].flatten(1), part[:, 1:].flatten(1)], 1)
    for kind, found, fix in (
        ("NaN", part.isnan(), "look for 0 / 0 or log of a negative number upstream."),
        ("+inf", part == float("inf"), "use -inf to forbid."),
    ):
        if found.any():
            raise bad_input(name, f"{kind} within the lengths", "finite numbers or -inf", fix)


def same_shape(other: object, mine: Potentials) -> None:
    """Raise unless `other` is a model of the shape and dtype of `mine`."""
    if not isinstance(other, Potentials):
        raise bad_input("other model", f"a {type(other).__name__}", "potentials or a SemiCRFDistribution")
    theirs, own = ((m.batch_shape, m.T, m.K, m.C, m.dtype) for m in (other, mine))
    if theirs != own:
        fix = "pad durations with -inf to one K."
        raise bad_input("other model", f"(batch, T, K, C, dtype) = {theirs}", own, fix)
