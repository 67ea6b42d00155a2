"""What a kernel is given besides tensors: a semiring as a namespace of generated functions, and the layout of parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from semicrf.compile import Program, load
from semicrf.compile.triton import shape, triton_source
from semicrf.engine.layout import PARTS, shared
from semicrf.kernels import primitives

NAMES = (
    "FAR", "constant", "exp", "finite", "indicator", "log", "log_add", "lse", "maximum", "order", "ratio", "surprisal",
    "weigh",
)  # fmt: skip
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOGETHER = tl.constexpr(not INTERPRETED)
"""Whether tuples are reduced at once: the interpreter would take one number at a time."""
HARDWARE = {} if INTERPRETED or torch.version.hip else {"exp": primitives.exp_ptx, "log": primitives.log_ptx}
"""What generated functions call by other names on NVIDIA's GPUs: a third of the instructions for an exponential, a
tenth for a logarithm.
"""
ENVIRONMENT = {name: getattr(primitives, name) for name in NAMES} | {"triton": triton, "tl": tl, "TOGETHER": TOGETHER}
ENVIRONMENT |= HARDWARE


class Constant:
    """A namespace that a kernel takes as one constant. Triton keys its caches by ``str``: the name holds a digest."""

    def __init__(self, name: str, members: Mapping[str, Any]):
        self.name = name
        self.__dict__.update(members)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __repr__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and other.name == self.name


class Kernel:
    """A kernel that keeps what it was compiled to. Triton finds that anew at every launch, from each argument's kind,
    which takes longer than a short sequence does.
    """

    def __init__(self, function: Any):
        self.function = function
        self.made: dict[tuple, Any] = {}

    def __call__(
        self, grid: tuple[int, int, int], tensors: Sequence[Any], numbers: tuple[int, ...], constants: tuple, warps: int
    ) -> None:
        """Launch on the current stream of the tensors' device; `tensors`: the parts, then tensors or tuples of them."""
        device = tensors[-1].device
        if INTERPRETED or device.index == torch.cuda.current_device():
            self._launch(grid, tensors, (*tensors, *numbers, *constants), constants, warps)
        else:
            with torch.cuda.device(device):
                self._launch(grid, tensors, (*tensors, *numbers, *constants), constants, warps)

    def _launch(self, grid: tuple, tensors: Sequence[Any], args: tuple, constants: tuple, warps: int) -> None:
        flat = [t for x in tensors for t in (x if isinstance(x, tuple) else (x,))]
        addresses = 0
        for t in flat:
            addresses |= t.data_ptr()
        if INTERPRETED or addresses % 16:
            self.function[grid](*args, num_warps=warps)
            return
        index = flat[-1].device.index
        key = (index, warps, constants, *[t.dtype for t in flat])
        made = self.made.get(key)
        if made is None:
            self.made[key] = self.function[grid](*args, num_warps=warps)
        else:  # as made[grid](*args) does, without asking for the device and for hooks
            stream = torch._C._cuda_getCurrentRawStream(index)
            made.run(*grid, stream, made.function, made.packed_metadata, None, None, None, *args)


def _numbers(values: Sequence[float]) -> Any:
    """A tuple of numbers as a kernel passes it on to functions; bare ones are not taken by every Triton."""
    return tl.tuple([tl.constexpr(v) for v in values])


@cache
def namespace(program: Program, places: bool) -> Constant:
    """The functions and constants of a semiring; `places`: whether a sum also finds where its choices were."""
    made = shape(program)
    module = load(triton_source(program), "triton", ENVIRONMENT)
    bare = made.bare and not places
    functions = {f: getattr(module, f + "_bare" * bare) for f in ("group", "single", "merge", "finish", "add", "carry")}
    functions |= {f: getattr(module, f) for f in ("act", "act_vjp", "move", "sum_vjp", "add_fields", "add_potentials")}
    if made.weights:
        functions |= {f: getattr(module, f) for f in ("totals", "linear", "times", "scale")}
    members = functions | {
        "together": TOGETHER,
        "framed": tl.constexpr(bool(made.weights)),
        "fields": tl.constexpr(made.fields),
        "potentials": tl.constexpr(made.potentials),
        "ids": tl.constexpr(0 if bare else made.ids),
        "keeps_ids": tl.constexpr(bool(made.ids) and not bare),
        "zero": _numbers(made.zero),
        "one": _numbers(made.one),
        "empty": _numbers(made.empty),
        "nowhere": _numbers(() if bare else (-1,) * made.ids),
        "nothing": _numbers((0.0,) * made.fields),
        "still": _numbers((0.0,) * made.potentials),
        "unlimited": _numbers((2**31 - 1,) * made.potentials),
        "far": _numbers((2.0**30,) * made.potentials),
        "unbounded": _numbers((0,) * made.potentials),
        "levels": _numbers(made.levels),
        "levelled": tl.constexpr(made.levelled),
        "weights": _numbers(made.weights),
        "scales": _numbers(made.scales),
        "gauges": _numbers(made.gauges),
        "weighing": _numbers(made.weighing),
        "shifts": tl.constexpr(made.potentials + len(made.gauges)),
        "fixed": _numbers((0.0,) * (made.potentials + len(made.gauges))),
        "masses": _numbers((0.0,) * (made.numbers)),
    }
    return Constant(f"{module.__name__}{'.bare' * bare}", members)


@dataclass(frozen=True)
class Parts:
    """The tensors of all models, contiguous, and the constants that say which is which, to a sequence and reversed."""

    tensors: tuple[Tensor, ...]
    layout: Constant
    reversed: Constant


def parts_of(models: Sequence[Mapping[str, Tensor]]) -> Parts:
    """The parts of all models; what is not contiguous is copied."""
    tensors = tuple([t if t.is_contiguous() else t.contiguous() for model in models for t in model.values()])
    rows = tuple([int(t.shape[0] > 1) for t in tensors])
    names = tuple([tuple(model) for model in models])
    return Parts(tensors, _layout(names, rows), _layout(names, rows, True))


EXCHANGED = {"start": "end", "end": "start", "segment_start": "segment_end", "segment_end": "segment_start"}
"""What a part is to the reversed sequence."""


@cache
def _layout(models: tuple[tuple[str, ...], ...], rows: tuple[int, ...], backwards: bool = False) -> Constant:
    names = [(m, name) for m, model in enumerate(models) for name in model]
    index = {place: i for i, place in enumerate(names)}
    read = {part: EXCHANGED.get(part, part) if backwards else part for part in PARTS}
    members: dict[str, Any] = {p: _numbers([index.get((m, read[p]), -1) for m in range(len(models))]) for p in PARTS}
    members |= {"rows": _numbers(rows), "backwards": tl.constexpr(backwards)}
    digest = ";".join(" ".join(model) for model in models)
    return Constant(f"parts({digest};{''.join(map(str, rows))}{';backwards' * backwards})", members)


def gradients_of(
    wanted: Sequence[set[str]], B: int, T: int, K: int, C: int, spans: Mapping[str, int], new: Callable[..., Tensor],
    zeros: str,
) -> tuple[list[dict[str, Tensor]], Parts]:  # fmt: skip
    """Room for the gradients of the wanted parts, one row per sequence, of some per span of it too; filled with zeros
    where they have an axis in `zeros`.
    """
    sizes = {"B": B, "T": T, "K": K, "C": C}
    sums: list[dict[str, Tensor]] = []
    for want in wanted:
        rows = {}
        for name in sorted(want):
            shape = [sizes[axis] for axis in PARTS[name]]
            if name in spans:
                shape.insert(1, spans[name])
            made = new(*shape, dtype=torch.float64) if name in spans else new(*shape)
            rows[name] = made.zero_() if set(zeros) & set(PARTS[name]) else made
        sums.append(rows)
    tensors = tuple(t for rows in sums for t in rows.values())
    names = tuple(tuple(rows) for rows in sums)
    return sums, Parts(tensors, _layout(names, ()), _layout(names, (), True))


def summed(total: Tensor, like: Tensor, spans: bool) -> Tensor:
    """A gradient in the shape and dtype of its part: spans added up, and sequences where the batch shares it."""
    if spans and like.shape[0] == 1:
        total = total.flatten(0, 1)
    elif spans:
        total = total.sum(1)
    return shared(total, like)
