"""Runs of the dynamic programme for one model: the engine as the distribution sees it, on a flat batch, in float64."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from semicrf.algebra import KMax, Log, Max, Semiring
from semicrf.compile import Program, compiled
from semicrf.engine import ops
from semicrf.engine.dispatch import BACKENDS
from semicrf.engine.layout import Spec, flat, layout
from semicrf.engine.marks import Lists
from semicrf.engine.operators import run_rows
from semicrf.engine.primitives import generated
from semicrf.engine.reference import State
from semicrf.engine.sums import Sums, by_duration, sums
from semicrf.errors import BackendError
from semicrf.potentials import Potentials

Model = dict[str, Tensor]


@dataclass(frozen=True)
class Inference:
    """A model, its lengths (B,) int64 and the backend that serves it."""

    potentials: Potentials
    lengths: Tensor
    backend: str

    def spec(self, semiring: type[Semiring], models: Sequence[Model]) -> Spec:
        """What the operators need to know besides tensors."""
        p = self.potentials
        return Spec(_key(semiring), self.backend, layout(models), p.T, p.K, p.C)

    def total(self, semiring: type[Semiring], *others: Model) -> Tensor:
        """The semiring's total over all segmentations, (d, B); `others` are the second and later models."""
        models = [self.potentials.parts, *others]
        return ops.scan(self.spec(semiring, models), self.lengths, flat(models)).value

    def kmax(self, k: int) -> Tensor:
        """(k, B): the k best scores."""
        return self.total(_kmax(k))

    def state(self, semiring: type[Semiring]) -> State:
        """What a forward sweep leaves at every position, without a graph; of Log, alpha and not always g."""
        models = [self.potentials.parts]
        with torch.no_grad():
            return ops.scan(self.spec(semiring, models), self.lengths, flat(models), keep=True)

    def rows(self) -> State:
        """What a forward sweep of logarithms leaves at every position, without a graph or a transform around it."""
        models = [{n: t.detach() for n, t in self.potentials.parts.items()}]
        return run_rows(self.spec(Log, models), self.lengths, flat(models))

    def log_z(self) -> Tensor:
        """(B,)."""
        return self.total(Log).squeeze(0)

    def log_z_gradients(self, wanted: Sequence[str]) -> dict[str, Tensor]:
        """The gradient of log Z in each wanted part, (B, ...); an absent part counts as zeros.

        In the model's dtype, as gradients are; in float32 where that is a half precision, which would round them.
        """
        model = self.potentials
        if model.dtype not in (torch.float32, torch.float64):
            model = model.map(torch.Tensor.float)
        parts = {**model.parts, **{n: model.full(n) for n in wanted}}
        one = torch.ones(1, self.lengths.shape[0], dtype=torch.float64, device=self.lengths.device)
        flags = [n in wanted for n in parts]
        grads = ops.scan_vjp(self.spec(Log, [parts]), self.lengths, one, list(parts.values()), flags)
        return {n: g for n, g in zip(parts, grads, strict=True) if n in wanted}

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start marks (B, T), labels at them, and the score (B,) of the best segmentation."""
        return ops.best_path(self.spec(Max, [self.potentials.parts]), self.lengths, flat([self.potentials.parts]))

    @torch.compiler.disable(reason="topk: the search runs on the host, outside of compiled functions")
    def k_best(self, k: int, canonical: bool) -> tuple[Tensor, ...]:
        """start, end, label (k, B, N), count and score (k, B) of the k best segmentations, on the host."""
        try:
            from semicrf.engine.kbest import k_best  # here, as numba's loops are loaded when they are first needed
        except ModuleNotFoundError as error:
            raise BackendError("topk: needs numba, which is not installed. Likely fix: pip install numba.") from error
        parts = self.potentials.parts
        self.refuse_vmap("topk")
        return k_best(self.spec(Max, [parts]), self.lengths, flat([parts]), k, canonical)

    def watched(self) -> bool:
        """Whether something differentiates, batches or traces what is computed."""
        return torch.compiler.is_compiling() or not ops.plain(list(self.potentials.parts.values()))

    def refuse_vmap(self, what: str) -> None:
        """Raise where vmap batches this model.

        Raises:
            BackendError: naming what was asked for, and what to do instead.
        """
        ops.refuse_vmap(what, list(self.potentials.parts.values()))

    def sums(self) -> tuple[Sums, Tensor]:
        """What a forward sweep stored, as a walk backwards weighs it, and P(a segment of each label ends behind a
        position) (B, T, C); without a graph. Together they give the probability of any segment.
        """
        p = self.potentials
        with torch.no_grad():
            stored = sums({n: t.detach() for n, t in p.parts.items()}, self.lengths, self.rows(), p.T, p.K, p.C)
            return stored, self.log_z_gradients(["segment_end"])["segment_end"]

    def by_duration(self) -> Tensor:
        """(B, T, K): the probability that a segment starts at t and lasts k, without a graph."""
        if self.watched():
            return self.log_z_gradients(["segment"])["segment"].sum(-1)
        stored, ending = self.sums()
        return by_duration(stored, ending, self.lengths)

    def most_matches(self, cost: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """Start marks (B, T), labels at them, and what is gained (B,), of the segmentation that maximises the sum of
        P(segment) - cost; None where numba, whose loops need no table of all segments, is not there or not wanted.
        """
        if "cpu" not in BACKENDS or self.backend in ("reference", "blocked") or self.watched():
            return None
        from semicrf.engine.cpu.judge import judge  # here, as numba's loops are loaded when they are first needed

        return tuple(x.to(self.lengths.device) for x in judge(*self.sums(), self.lengths, cost))  # pyright: ignore[reportReturnType]  # of as many

    def sample(self, seed: int, samples: int, sequence_id: Tensor) -> Lists:
        """start, end and label (S, B, T) of exact samples, and their count (S, B)."""
        spec = self.spec(Log, [self.potentials.parts])
        return ops.sample(spec, self.lengths, flat([self.potentials.parts]), seed, samples, sequence_id)


@torch.compiler.assume_constant_result  # tracing a semiring is no work for a tensor compiler
def _key(semiring: type[Semiring]) -> str:
    return compiled(semiring).key


@torch.compiler.assume_constant_result
def _kmax(k: int) -> type[Semiring]:
    return KMax(k)


def read(program: Program, total: Tensor, finish: Callable[[Tensor], Tensor]) -> Any:
    """What a semiring reports of its total (d, B), as a NamedTuple; `finish` is applied to each field."""
    scalars = generated(program).read(total)
    fields, at = {}, 0
    for name, width in program.semiring.reads:
        alone = width == 1 and not program.semiring.lists
        fields[name] = finish(scalars[at] if alone else torch.stack(scalars[at : at + width], -1))
        at += width
    return _result_type(program.name, tuple(fields))(**fields)


@cache
def _result_type(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple("".join(c if c.isalnum() else "_" for c in name), fields)
