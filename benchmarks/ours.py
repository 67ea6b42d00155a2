"""The library as a contender: quantities from the public interface, and the backend's sweep alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from benchmarks.cases import GRADIENTS, Case
from benchmarks.contender import Answer, Contender, Prepared, Setting, array, tensors
from benchmarks.model import Model, draw
from benchmarks.step import STEPS
from semicrf import FactoredPotentials, SemiCRFDistribution
from semicrf.algebra import KL, CrossEntropy, Entropy, KMax, Log, Max, Semiring, Std
from semicrf.compile import compiled
from semicrf.engine.dispatch import BACKENDS, serving


@dataclass(frozen=True)
class Quantity:
    """One line of the table below: how a user asks for it, of a distribution p and, where it takes two, of q."""

    semiring: type[Semiring]
    ask: Callable[[SemiCRFDistribution, SemiCRFDistribution], Tensor]
    first: Literal["sum", "max"] = "sum"  # how the free first label is collapsed
    centred: bool = False  # Z is brought to 1, as it overflows otherwise

    @property
    def models(self) -> int:
        """How many it reads."""
        return self.semiring.potentials


def best_path(p: SemiCRFDistribution, q: SemiCRFDistribution) -> Tensor:
    """The path is what takes the time; its score is what can be compared."""
    score = p.argmax.score
    assert score is not None  # argmax always has one
    return score


def samples(p: SemiCRFDistribution, q: SemiCRFDistribution) -> Tensor:
    """What a seed gives; their mean number of segments can be compared."""
    return p.sample((1000,), generator=torch.Generator().manual_seed(0)).count.double().mean(0)


NO_GRADIENTS = ("marginals", "best path", "max-marginals", "1000 samples")
QUANTITIES = {
    "log-partition": Quantity(Log, lambda p, q: p.log_partition),
    "marginals": Quantity(Log, lambda p, q: p.marginals.position),
    "entropy": Quantity(Entropy, lambda p, q: p.entropy()),
    "cross-entropy": Quantity(CrossEntropy, lambda p, q: p.cross_entropy(q)),
    "KL": Quantity(KL, lambda p, q: p.kl(q)),
    "max": Quantity(Max, lambda p, q: p.max, first="max"),
    "best path": Quantity(Max, best_path, first="max"),
    "top 100": Quantity(Max, lambda p, q: p.topk(100)[1], first="max"),
    "max-marginals": Quantity(Max, lambda p, q: p.max_marginals.position, first="max"),
    "1000 samples": Quantity(Log, samples),
    "KMax(4)": Quantity(KMax(4), lambda p, q: p.kmax(4), first="max"),
    "Std": Quantity(Std, lambda p, q: p.reduce("std").z, centred=True),
}


def quantity_of(case: Case) -> Quantity:
    """What a case asks of a distribution; for a step of training, what the loss of the head needs."""
    return QUANTITIES["log-partition" if case.name in STEPS else case.name]


def potentials(parts: dict[str, Tensor]) -> FactoredPotentials:
    """As the public class takes them."""
    return FactoredPotentials(parts["emission"], parts["transition"], parts["duration"], start=parts["start"])


def model_of(case: Case, seed: int = 0) -> Model:
    """The model of a case."""
    quantity = quantity_of(case)
    model = draw(case.shape, quantity.first, case.data, seed)
    if not quantity.centred:
        return model
    parts = tensors(model, Setting("cpu", "float64"))
    log_z = SemiCRFDistribution(potentials(parts)).log_partition
    return model.shifted(-array(log_z) / case.shape.T)


def backend_of(case: Case, device: str, backend: str = "auto") -> str:
    """The backend that serves a case."""
    parts = {"emission", "transition", "duration", "start"}
    module = serving(backend, compiled(quantity_of(case).semiring), parts, torch.device(device))
    return next(name for name, other in BACKENDS.items() if other is module)


class Ours(Contender):
    """End to end from the public interface: potentials, distribution, dispatch, sweep, results."""

    quantities: ClassVar[frozenset[str]] = frozenset(
        {*QUANTITIES, *(q + GRADIENTS for q in QUANTITIES if q not in NO_GRADIENTS)}
    )

    def __init__(
        self, name: str = "ours", *, backend: str = "auto", validate: bool | None = None, longest: int | None = None
    ):
        self.name, self.backend, self.validate, self.longest = name, backend, validate, longest

    def declines(self, case: Case, setting: Setting) -> str | None:
        """Steps one at a time are of no interest, and take minutes, where there are very many."""
        if self.longest is not None and self.longest < case.shape.T:
            return f"left out beyond {self.longest} positions"
        return super().declines(case, setting)

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """Tensors; everything else is in `run`."""
        quantity = QUANTITIES[case.name]
        models = [model, *(draw(case.shape, quantity.first, case.data, seed=i) for i in range(1, quantity.models))]
        given = [tensors(m, setting, case.gradients) for m in models]
        leaves = [t for parts in given for t in parts.values()] if case.gradients else []
        options: dict[str, Any] = {"backend": self.backend, "validate_args": self.validate}

        def run() -> Any:
            with torch.set_grad_enabled(case.gradients):
                distributions = [SemiCRFDistribution(potentials(parts), **options) for parts in given]
                value = quantity.ask(distributions[0], distributions[-1])
                return value, torch.autograd.grad(value.sum(), leaves) if leaves else ()

        def read(result: Any) -> Answer:
            value, grads = result
            known = {n: array(g) for n, g in zip(given[0], grads, strict=False) if n != "start"}
            return {"emission" if case.name == "marginals" else "value": array(value), **known}

        return Prepared(run, read)


class Kernel(Contender):
    """The backend's sweep and its reverse, without dispatch, autograd and checks: what the prototype has too."""

    name = "kernel"
    quantities: ClassVar[frozenset[str]] = frozenset({"log-partition", "log-partition" + GRADIENTS})

    def declines(self, case: Case, setting: Setting) -> str | None:
        """Kernel rows alone."""
        return None if case.kernel and case.quantity in self.quantities else f"has no {case.quantity}"

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """Parts as the engine holds them: with a batch axis, of one row where the batch shares them."""
        B, T, K, C = case.shape
        program = compiled(QUANTITIES[case.name].semiring)
        parts = {n: t if n == "emission" else t[None] for n, t in tensors(model, setting).items()}
        lengths = torch.full((B,), T, device=setting.device)
        module: Any = serving("auto", program, set(parts), lengths.device)
        one = torch.ones(1, B, dtype=torch.float64, device=setting.device)

        def run() -> Any:
            state = module.scan(program, [parts], lengths, T, K, C, case.gradients)
            if not case.gradients:
                return state.value, {}
            return state.value, module.scan_vjp(program, [parts], lengths, T, K, C, state, one, [set(parts)])[0]

        def read(result: Any) -> Answer:
            value, grads = result
            known = {n: array(g if n == "emission" else g[0]) for n, g in grads.items() if n != "start"}
            return {"value": array(value[0]), **known}

        return Prepared(run, read)
