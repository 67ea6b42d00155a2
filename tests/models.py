"""Batches of models, as the public classes take them and as the oracle does; shared by tests of the distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import oracle
import pytest
import tables
import torch
from tables import TOLERANCE, Batch
from torch import Tensor

from semicrf import EdgePotentials, FactoredPotentials, SegmentPotentials, Segments, SemiCRFDistribution
from semicrf.potentials import Potentials

inf, nan = float("inf"), float("nan")
EXACT = TOLERANCE[torch.float64]
CLASSES: dict[str, Any] = {
    "factored": FactoredPotentials,
    "duration_transition": FactoredPotentials,
    "segment": SegmentPotentials,
    "edge": EdgePotentials,
}
BATCH_SHAPES = ((), (2,), (2, 3))


VIEWS = ("boundary", "position", "transition", "duration", "start", "end", "segments", "edge")
of_every_family = pytest.mark.parametrize("family", CLASSES)
of_every_batch_shape = pytest.mark.parametrize("batch_shape", BATCH_SHAPES, ids=str)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def f64(values: object, requires_grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def ragged(T: int, batch_shape: Sequence[int]) -> list[int]:
    """A length for each sequence: T first, then others, 1 among them."""
    return [(-b * (T - 1)) % T or T for b in range(torch.Size(batch_shape).numel())]


@dataclass(frozen=True, repr=False)
class Case:
    """A batch of models: leaves in the public shapes, the potentials made of them, and each sequence for the oracle."""

    family: str
    batch: Batch
    batch_shape: tuple[int, ...]
    parts: dict[str, Tensor]

    @property
    def lengths(self) -> Tensor:
        return self.batch.lengths.reshape(self.batch_shape)

    @property
    def potentials(self) -> Potentials:
        return CLASSES[self.family](**self.parts)

    @property
    def d(self) -> SemiCRFDistribution:
        return SemiCRFDistribution(self.potentials, self.lengths)

    def __repr__(self) -> str:
        return f"{name_of(self)}-lengths{self.batch.lengths.tolist()}"

    def _repr_pretty_(self, printer, cycle: bool) -> None:  # for hypothesis, which prints every field otherwise
        printer.text(repr(self))

    def sequences(self) -> list[tuple[oracle.Model, int]]:
        """Model (with leaves of its own) and length of every sequence, in row-major order."""
        return [(self.batch.sequence(b), n) for b, n in enumerate(self.batch.lengths.tolist())]

    def nested(self, rows: Sequence) -> list:
        """A list with one item per sequence, nested as the batch axes are."""
        for size in reversed(self.batch_shape):
            rows = [list(rows[i : i + size]) for i in range(0, len(rows), size)]
        return rows[0]

    def flat(self, value: Tensor, leading: int = 0) -> Tensor:
        """The batch axes, which stand after `leading` others, as one."""
        shape = list(value.shape)
        shape[leading : leading + len(self.batch_shape)] = [self.batch.B]
        return value.reshape(shape)


def public(batch: Batch, batch_shape: Sequence[int]) -> dict[str, Tensor]:
    """The parts as a user gives them: one row for each sequence in the batch's shape, or none where shared."""
    parts = {}
    for name, part in batch.parts.items():
        shape = () if name not in oracle.POSITIONAL and len(part) == 1 else batch_shape
        parts[name] = part.reshape(*shape, *part.shape[1:]).clone().requires_grad_()
    return parts


def case(
    family: str, K: int = 3, C: int = 2, batch_shape: Sequence[int] = (2, 3), *, T: int = 5, shared: bool = False,
    seed: int = 0, holes: float | Sequence[float] = 0.0, ties: bool = False, lengths: Sequence[int] | None = None,
) -> Case:  # fmt: skip
    """A random case of ragged lengths, NaN wherever nothing is read."""
    lengths = tuple(ragged(T, batch_shape) if lengths is None else lengths)
    holes = tuple(holes) if isinstance(holes, Sequence) else holes
    batch = tables.draw(family, K, C, lengths, T=T, shared=shared, seed=seed, holes=holes, ties=ties, unread=nan)
    return of(family, batch, batch_shape)


def of(family: str, batch: Batch, batch_shape: Sequence[int]) -> Case:
    return Case(family, batch, tuple(batch_shape), public(batch, batch_shape))


def allowing(q: Case, p: Case) -> Case:
    """q with -inf in the very places where p has it; NaN where nothing is read stays."""
    return of(q.family, tables.forbid_like(q.batch, p.batch), q.batch_shape)


def companions(c: Case, n: int, **options: Any) -> list[Case]:
    """n more models like c, of the same family and shape, without holes unless asked for."""
    b, shared = c.batch, any(len(t) < c.batch.B for t in c.batch.parts.values())
    own: dict[str, Any] = {"T": b.T, "shared": shared, "lengths": b.lengths.tolist(), **options}
    return [case(c.family, b.K, b.C, c.batch_shape, **{"seed": 1000 + i, **own}) for i in range(n)]


def name_of(c: Case) -> str:
    b = c.batch
    shared = "-shared" if any(len(t) < b.B for t in b.parts.values()) else ""
    holes = "-holes" if any((t == -inf).any() for t in b.parts.values()) else ""
    return f"{c.family}-K{b.K}-C{b.C}-{'x'.join(map(str, c.batch_shape)) or 'one'}{shared}{holes}"


def grid(seed: int = 0) -> list[Case]:
    """Every family with K = 1, K within T and K beyond it, with and without holes; batch shapes and sharing rotate."""
    cases = []
    for h, (i, family), (j, K) in itertools.product(range(2), enumerate(CLASSES), enumerate((1, 3, 6))):
        shape = BATCH_SHAPES[(h + i + j) % 3]
        C, T = (2 + j % 2, 5) if K < 6 else (2, 4)
        shared, rate = (h + i + j // 2) % 2 == 1, 0.08 * h
        cases.append(case(family, K, C, shape, T=T, shared=shared, holes=rate, seed=100 * seed + 10 * i + j))
    return cases


GRID = grid()
on_the_grid = pytest.mark.parametrize("c", GRID, ids=name_of)


def check(
    actual: Tensor, cases: Sequence[Case], expected: Callable[..., Tensor], *, gradient: bool = True,
    finite: bool = False, tolerance: float = EXACT,
) -> None:  # fmt: skip
    """`actual (*batch, ...)`, and its gradient in every tensor of `cases`, against ``expected(*models, length)``.

    `finite`: the cotangent is zero where the value is infinite; otherwise infinite values have to give no gradient.
    """
    first = cases[0]
    assert actual.shape[: len(first.batch_shape)] == first.batch_shape
    actual = first.flat(actual)
    cotangent = torch.randn(actual.shape, generator=seeded(7), dtype=torch.float64)
    if finite:
        cotangent = torch.where(actual.isfinite(), cotangent, 0.0)
    names = [(c, n) for c in cases for n in c.parts]
    leaves = [c.parts[n] for c, n in names]
    rows = []
    for b, sequences in enumerate(zip(*(c.sequences() for c in cases), strict=True)):
        models, length = [m for m, _ in sequences], sequences[0][1]
        want = expected(*models, length)
        tables.assert_values(actual[b], want.detach(), tolerance)
        if gradient:
            own = [m.parts[n] for m, c in zip(models, cases, strict=True) for n in c.parts]
            want = want + sum(0.0 * t.flatten()[:0].sum() for t in own)  # has a graph, also where it is a constant
            rows.append(torch.autograd.grad(want, own, cotangent[b], allow_unused=True, materialize_grads=True))
    if not gradient:
        return
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    grads = torch.autograd.grad(actual, leaves, cotangent, **options)
    for (c, name), grad, want in zip(names, grads, zip(*rows, strict=True), strict=True):
        own = c.batch.parts[name].shape
        tables.assert_gradient(f"{c.family}.{name}", grad.reshape(own), want, tolerance)


def enumerated(c: Case) -> tuple[Segments, list[list[int | None]]]:
    """`enumerate_support`, and for each sequence where its rows stand in `oracle.paths` (None: no segmentation)."""
    support = c.d.enumerate_support()
    columns = []
    for rows, (model, length) in zip(rows_of(support, c), c.sequences(), strict=True):
        place = {y: i for i, y in enumerate(oracle.paths(model, length))}
        columns.append([place[y] if y else None for y in rows])
    return support, columns


def rows_of(segments: Segments, c: Case) -> list[list[tuple]]:
    """Samples (S, *batch) as one list per sequence of tuples of (start, end, label)."""
    S = len(segments)
    flat = [x.reshape(S, c.batch.B, -1).tolist() for x in (segments.start, segments.end, segments.label)]
    count = segments.count.reshape(S, c.batch.B).tolist()
    return [
        [tuple(zip(*(x[s][b][: count[s][b]] for x in flat), strict=True)) for s in range(S)] for b in range(c.batch.B)
    ]
