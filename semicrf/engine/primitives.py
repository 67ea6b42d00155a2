"""The operations that generated torch text calls by name: the torch half of the table in `semicrf.compile.render`.

Reductions keep their axis. Each agrees with `semicrf.compile.interpret` on every float, infinities included.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from semicrf.compile import Program, load, torch_source

inf = float("inf")


def lse(x: Tensor, dim: int) -> Tensor:
    """log sum exp; -inf where every term is."""
    return torch.logsumexp(x, dim, keepdim=True)


def total(x: Tensor, dim: int) -> Tensor:
    """The sum."""
    return x.sum(dim, keepdim=True)


def ratio(x: Tensor, total_: Tensor) -> Tensor:
    """exp(x - total), 0 where x is -inf."""
    return torch.where(x == -inf, 0.0, torch.exp(x - total_))


def weigh(p: Tensor, y: Tensor) -> Tensor:
    """p * y with 0 * anything = 0."""
    return torch.where(p == 0, 0.0, p * y)


def surprisal(x: Tensor, total_: Tensor) -> Tensor:
    """total - x, +inf where x is -inf."""
    return torch.where(x == -inf, inf, total_ - x)


def maximum(a: Tensor | float, b: Tensor | float) -> Tensor:
    """The larger of two, the first on ties."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return torch.where(a >= b, a, b)


def indicator(truth: Tensor | bool, like: Tensor | float) -> Tensor:
    """1 where true, 0 elsewhere, in the dtype of `like`."""
    return torch.as_tensor(truth).to(torch.as_tensor(like).dtype)


def constant(value: float, like: Tensor) -> Tensor:
    """A number as a tensor of the shape of `like`."""
    return torch.full_like(like, value)


def best(columns: Sequence[Tensor], k: int, dim: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The k largest over an axis and over `columns`, and their places (place along the axis times columns, plus
    column).

    Ties go to the smallest place. What is -inf is nobody's choice: its place is -1.
    """
    values = torch.stack(tuple(columns), -1).movedim(dim if dim >= 0 else dim - 1, -2).flatten(-2)
    if k == 1:
        places = values.argmax(-1, keepdim=True)
        top = values.gather(-1, places)
    else:
        top, places = torch.sort(values, dim=-1, descending=True, stable=True)
        top, places = top[..., :k], places[..., :k]
        missing = k - top.shape[-1]
        if missing > 0:
            top = torch.nn.functional.pad(top, (0, missing), value=-inf)
            places = torch.nn.functional.pad(places, (0, missing), value=-1)
    places = torch.where(top == -inf, -1, places)
    axis = dim if dim >= 0 else columns[0].dim() + dim
    return (
        tuple(top[..., r].unsqueeze(axis) for r in range(k)),
        tuple(places[..., r].unsqueeze(axis) for r in range(k)),
    )


def top(candidates: Sequence[Tensor | float], k: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The k largest of some scalars, elementwise."""
    like = next(c for c in candidates if isinstance(c, Tensor))
    rows = [c if isinstance(c, Tensor) else torch.full_like(like, c) for c in candidates]
    stacked = torch.stack(torch.broadcast_tensors(*rows), 0)
    values, places = best((stacked,), k, 0)
    return tuple(v.squeeze(0) for v in values), tuple(p.squeeze(0) for p in places)


def hit(place: Tensor, column: int, columns: int, like: Tensor, dim: int) -> Tensor:
    """1 where a stored choice was found, 0 elsewhere: `place` against every place along the axis."""
    axis = dim if dim >= 0 else like.dim() + dim
    shape = [1] * like.dim()
    shape[axis] = like.shape[axis]
    here = torch.arange(like.shape[axis], device=like.device).view(shape) * columns + column
    return (place == here).to(like.dtype)


ENVIRONMENT = {
    f.__name__: f
    for f in (lse, total, ratio, weigh, surprisal, maximum, indicator, constant, best, top, hit)
} | {"torch": torch}  # fmt: skip


@cache
def generated(program: Program) -> Any:
    """The module of a semiring's functions for torch: rendered and loaded once."""
    return load(torch_source(program), "torch", ENVIRONMENT)
