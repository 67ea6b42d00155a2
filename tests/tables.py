"""What the engine's tests run over: tolerances, semirings, backends, shapes, families of models, batches drawn of them.

A backend, a semiring or a family of models is one more row here and nothing else: every test reads these tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import oracle
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from semicrf.algebra import KL, CrossEntropy, Entropy, Expectation, KMax, Log, LogCount, Max, Semiring, Std
from semicrf.compile import compiled, load, torch_source
from semicrf.engine import ops
from semicrf.engine.dispatch import BACKENDS, INTERPRETED
from semicrf.engine.layout import Spec, flat, layout
from semicrf.engine.primitives import ENVIRONMENT

inf = float("inf")

TOLERANCE = {
    # Enumeration and recursion add the same few thousand terms of size O(10) in another order: some tens of roundings
    # of 1.1e-16, so 1e-14 is what is seen. A term that is wrong or missing shows at 1e-3.
    torch.float64: 1e-12,
    # The same tens of roundings of 6e-8, where a backend accumulates in float32.
    torch.float32: 1e-5,
}
"""By the dtype in which a backend accumulates. Values: relative to max(1, |expected|). Gradients: relative to the
largest entry of the sequence's gradient, or to 1 where that is less (cotangents are of size 1), because small entries
are differences of large ones.
"""


LONG = {1.0: 1e-10, 10.0: 1e-9, 100.0: 1e-8}
"""Between two float64 backends on long inputs, by the scale of the scores. Log Z is of size T x scale, up to 4e4 here,
so its rounding is 1e-16 x 4e4; a gradient of a mean is a difference of means of that size, summed over T positions.
"""


# ------------------------------------------------------------------ semirings
@dataclass(frozen=True)
class Row:
    semiring: type[Semiring]
    oracle: str  # its name there
    k: int | None = None

    @property
    def models(self) -> int:
        return self.semiring.potentials

    @property
    def key(self) -> str:
        return compiled(self.semiring).key

    @property
    def chooses(self) -> bool:
        """Piecewise linear: its value is that of some paths."""
        return self.oracle in ("Max", "KMax")

    def enumerate(self, models: Sequence[oracle.Model], length: int) -> Tensor:
        """What `read` gives, by enumeration: every field's scalars in one vector."""
        if self.oracle == "Expectation":
            model, f = models
            logz, mean = oracle.values("Log", model, length)["logz"], oracle.expectation(model, f, length)
            return torch.stack([logz, mean])
        values = oracle.values(self.oracle, models, length, k=self.k)
        return torch.cat([v.reshape(-1) for v in values.values()])


SEMIRINGS = {
    "Log": Row(Log, "Log"),
    "Max": Row(Max, "Max"),
    "Std": Row(Std, "Std"),
    "KMax(1)": Row(KMax(1), "KMax", 1),
    "KMax(3)": Row(KMax(3), "KMax", 3),
    "Entropy": Row(Entropy, "Entropy"),
    "CrossEntropy": Row(CrossEntropy, "CrossEntropy"),
    "KL": Row(KL, "KL"),
    "LogCount": Row(LogCount, "LogCount"),
    "Expectation": Row(Expectation, "Expectation"),
}

# ------------------------------------------------------------------ shapes and families
SHAPES = list(itertools.product((1, 2, 3, 5), (1, 2, 3)))
"""(K, C)"""
T = 6
"""Longer than every K; at most 3072 segmentations."""

FAMILIES = {
    "factored": tuple(name for name in oracle.FACTORED if name != "duration_transition"),
    "duration_transition": oracle.FACTORED,
    "segment": oracle.SEGMENT,
    "edge": oracle.EDGE,
}
SHARING = ("per_batch", "shared")
"""Whether what does not depend on the position has one row per sequence or one for all."""


# ------------------------------------------------------------------ backends
@dataclass(frozen=True)
class Backend:
    name: str
    device: str = "cpu"
    accumulates: torch.dtype = torch.float64  # whatever its inputs are

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.accumulates]

    def serves(self, row: Row, *families: str) -> bool:
        parts = {part for family in families for part in FAMILIES[family]}
        if self.name == "auto":
            return True
        return BACKENDS[self.name].serves(compiled(row.semiring), parts, torch.device(self.device))


ROWS = {"triton": Backend("triton", "cpu" if INTERPRETED else "cuda")}
"""Backends that are not as `Backend` has it by default."""

BACKEND = [
    backend
    for backend in (ROWS.get(name, Backend(name)) for name in BACKENDS)
    if backend.device == "cpu" or torch.cuda.is_available()
]
AUTO = Backend("auto")


def served(
    names: Sequence[str] = tuple(SEMIRINGS),
    families: Sequence[str] = tuple(FAMILIES),
    backends: Sequence[Backend] = tuple(BACKEND),
) -> pytest.MarkDecorator:
    """Parametrizes (name, family, backend) over all that the backends run."""
    cases = [
        pytest.param(name, family, backend, id=f"{name}-{family}-{backend.name}")
        for name, family, backend in itertools.product(names, families, backends)
        if backend.serves(SEMIRINGS[name], family)
    ]
    return pytest.mark.parametrize(("name", "family", "backend"), cases)


# ------------------------------------------------------------------ batches
@dataclass(frozen=True)
class Batch:
    """Models of several sequences, as the engine takes them: parts with a batch axis, or 1 where shared."""

    parts: dict[str, Tensor]
    lengths: Tensor
    T: int
    K: int
    C: int

    @property
    def B(self) -> int:
        return len(self.lengths)

    def sequence(self, b: int) -> oracle.Model:
        """One sequence as the oracle takes it, with leaves of its own."""
        rows = {n: t[min(b, len(t) - 1)].detach().cpu().clone().requires_grad_() for n, t in self.parts.items()}
        return oracle.Model(**rows, max_duration=self.K)

    def leaves(self, device: str = "cpu", dtype: torch.dtype | None = None) -> Batch:
        """A copy whose parts ask for gradients."""
        parts = {n: t.detach().clone().to(device, dtype).requires_grad_() for n, t in self.parts.items()}
        return self.replace(parts, self.lengths.to(device))

    def replace(self, parts: dict[str, Tensor], lengths: Tensor | None = None) -> Batch:
        return replace(self, parts=parts, lengths=self.lengths if lengths is None else lengths)

    def possible(self) -> list[bool]:
        return [oracle.count(self.sequence(b), n) > 0 for b, n in enumerate(self.lengths.tolist())]


@lru_cache(maxsize=128)
def draw(
    family: str,
    K: int,
    C: int,
    lengths: tuple[int, ...],
    *,
    T: int = T,
    shared: bool = False,
    seed: int = 0,
    holes: float | tuple[float, ...] = 0.0,
    ties: bool = False,
    unread: float | None = None,
) -> Batch:
    """A random batch. `holes`: how often an entry is -inf, for all or by sequence (shared parts take the first one's);
    `ties`: integers; `unread`: what stands wherever no segmentation reads. The same arguments give the same tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    rates = holes if isinstance(holes, tuple) else (holes,) * len(lengths)
    models = []
    for length, rate in zip(lengths, rates, strict=True):
        model = oracle.random_model(
            T, K, C, generator=generator, holes=rate, ties=ties, parts=FAMILIES[family], requires_grad=False
        )
        models.append(model if unread is None else oracle.spoil(model, length, unread))
    parts = {}
    for name in FAMILIES[family]:
        rows = [m.parts[name] for m in models]
        alone = shared and name not in oracle.POSITIONAL
        parts[name] = torch.stack(rows[:1] if alone else rows)
    return Batch(parts, torch.tensor(lengths), T, K, C)


def forbid_like(q: Batch, p: Batch) -> Batch:
    """q with -inf in the very places where p has them, so that q allows all that p allows; of the same family."""
    parts = {n: t.masked_fill(torch.isneginf(t), 0.5) for n, t in q.parts.items()}
    return q.replace({n: t.masked_fill(torch.isneginf(p.parts[n]), -inf) for n, t in parts.items()})


# ------------------------------------------------------------------ runs
def spec_of(row: Row, backend: str, batches: Sequence[Batch]) -> Spec:
    first = batches[0]
    return Spec(row.key, backend, layout([b.parts for b in batches]), first.T, first.K, first.C)


def tensors_of(batches: Sequence[Batch]) -> list[Tensor]:
    return flat([b.parts for b in batches])


def read(row: Row, value: Tensor) -> Tensor:
    """What `reduce` reports of a carrier (d, B), with the generated function."""
    functions: Any = load(torch_source(compiled(row.semiring)), "torch", ENVIRONMENT)
    return torch.stack(functions.read(value))


def run(row: Row, backend: str, batches: Sequence[Batch]) -> Tensor:
    """The fields (r, B), differentiable in the parts of the batches."""
    spec = spec_of(row, backend, batches)
    return read(row, ops.scan(spec, batches[0].lengths, tensors_of(batches)).value)


def expected(row: Row, batches: Sequence[Batch], cotangent: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """Fields (r, B), and for every part the gradient of ``cotangent . fields`` of every sequence, by enumeration."""
    columns, gradients = [], []
    for b, length in enumerate(batches[0].lengths.tolist()):
        models = [batch.sequence(b) for batch in batches]
        values = row.enumerate(models, length)
        leaves = [t for m, batch in zip(models, batches, strict=True) for t in (m.parts[n] for n in batch.parts)]
        grads = torch.autograd.grad(values, leaves, cotangent[:, b], allow_unused=True, materialize_grads=True)
        columns.append(values.detach())
        gradients.append(grads)
    return torch.stack(columns, 1), [list(g) for g in zip(*gradients, strict=True)]


# ------------------------------------------------------------------ comparison
def far(actual: Tensor, wanted: Tensor, tolerance: float) -> Tensor:
    """Where values differ; infinities are equal to themselves alone, NaN to nothing."""
    actual, wanted = actual.detach().double().cpu(), wanted.detach().double()
    near = (actual - wanted).abs() <= tolerance * wanted.abs().clamp(min=1)
    return ~((near & wanted.isfinite()) | (actual == wanted))


def assert_values(actual: Tensor, wanted: Tensor, tolerance: float) -> None:
    bad = far(actual, wanted, tolerance)
    assert actual.shape == wanted.shape
    assert not bad.any(), f"at {bad.nonzero().tolist()}: got {actual[bad].tolist()}, expected {wanted[bad].tolist()}"


def assert_gradient(name: str, actual: Tensor, rows: Sequence[Tensor], tolerance: float) -> None:
    """A part's gradient against those of the sequences, which add up where the part is shared."""
    actual = actual.detach().double().cpu()
    if len(actual) == 1 and len(rows) > 1:
        rows = [torch.stack(list(rows)).sum(0)]
    assert actual.shape == (len(rows), *rows[0].shape)
    for b, (got, want) in enumerate(zip(actual, rows, strict=True)):
        scale = want.abs().max().clamp(min=1)
        worst = (got - want).abs().max() / scale
        assert worst <= tolerance, f"{name}, row {b}: off by {worst:.2g} of {scale:.3g}\n{got}\n{want}"


def assert_same_bits_on_threads(run: Callable[[], Any]) -> None:
    """Whatever the number of threads, `run` gives the same tensors."""
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(tree_leaves(run()))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
