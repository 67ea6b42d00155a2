"""The distribution under torch.compile, vmap, grad and forward mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tables
import torch
from models import CLASSES, EXACT, Case, case, f64, of_every_family, seeded
from torch import Tensor

from semicrf import Evidence, SemiCRFDistribution


def rebuilt(c: Case, f: Callable[[SemiCRFDistribution], Tensor]) -> Callable[..., Tensor]:
    """A function of the parts alone."""
    names, make, lengths = list(c.parts), CLASSES[c.family], c.lengths

    def function(*tensors: Tensor) -> Tensor:
        return f(SemiCRFDistribution(make(**dict(zip(names, tensors, strict=True))), lengths))

    return function


COMPILED = {
    "log_partition": lambda d: d.log_partition,
    "entropy and kl": lambda d: d.entropy() + d.kl(d.with_temperature(2.0)),
    "loss": lambda d: -d.log_prob(d.argmax),
    "evidence": lambda d: d.log_prob(Evidence(labels=torch.tensor([[0, -1, -1, -1, 1], [1, -1, -1, -1, -1]]))),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", COMPILED)
def test_under_compile(name, backend):
    """One graph, the same values and gradients, holes included."""
    c = case("duration_transition", batch_shape=(2,), holes=0.05, seed=4)
    f, parts = rebuilt(c, COMPILED[name]), list(c.parts.values())
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend=backend)
    value, wanted = compiled(*parts), f(*parts)
    tables.assert_values(value, wanted.detach(), EXACT)
    weight = f64([0.7, -1.3])
    pairs = zip(*(torch.autograd.grad((weight * v).sum(), parts) for v in (value, wanted)), strict=True)
    for part, (grad, want) in zip(c.parts, pairs, strict=True):
        tables.assert_gradient(part, grad[None], [want], EXACT)


@of_every_family
def test_log_partition_of_every_family_under_compile(family):
    c = case(family, batch_shape=(2,))
    torch._dynamo.reset()
    f, parts = rebuilt(c, lambda d: d.log_partition), list(c.parts.values())
    value = torch.compile(f, fullgraph=True, backend="aot_eager")(*parts)
    tables.assert_values(value, f(*parts).detach(), EXACT)


VMAPPED = {
    "log_partition": lambda d: d.log_partition,
    "max": lambda d: d.max,
    "entropy": lambda d: d.entropy(),
    "position": lambda d: d.marginals.position,
    "variance": lambda d: d.variance(d.potentials),
    "kl": lambda d: d.kl(d.with_temperature(2.0)),
    "count": lambda d: d.count,
}


@of_every_family
def test_under_vmap(family):
    """Over models: all parts, or some of them with the others shared; over lengths; and around a gradient."""
    copies = [case(family, batch_shape=(2,), seed=s, lengths=(5, 3)) for s in range(3)]
    parts = [torch.stack([c.parts[n].detach() for c in copies]) for n in copies[0].parts]
    for f in VMAPPED.values():
        g = rebuilt(copies[0], f)
        wanted = torch.stack([g(*(p[i] for p in parts)) for i in range(3)])
        tables.assert_values(torch.func.vmap(g)(*parts), wanted, EXACT)
        some = (0, *[None] * (len(parts) - 1))
        wanted = torch.stack([g(parts[0][i], *(p[0] for p in parts[1:])) for i in range(3)])
        tables.assert_values(torch.func.vmap(g, in_dims=some)(parts[0], *(p[0] for p in parts[1:])), wanted, EXACT)
    h = rebuilt(copies[0], lambda d: d.entropy().sum())
    wanted = [torch.func.grad(h)(*(p[i] for p in parts)) for i in range(3)]
    tables.assert_values(torch.func.vmap(torch.func.grad(h))(*parts), torch.stack(wanted), EXACT)


def test_vmap_over_lengths():
    p = case("factored", batch_shape=(2,), lengths=(5, 5)).potentials
    lengths = torch.tensor([[5, 3], [1, 2], [4, 4]])
    f = lambda n: SemiCRFDistribution(p, n).log_partition  # noqa: E731  a formula
    tables.assert_values(torch.func.vmap(f)(lengths), torch.stack([f(n) for n in lengths]).detach(), EXACT)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's, of its own jvp
def test_forward_mode_is_not_zero():
    """The jvp of log Z is the expected score of the direction; that of entropy agrees with its gradient."""
    c = case("factored", batch_shape=(2,), lengths=(5, 5))
    parts = [t.detach() for t in c.parts.values()]
    directions = [torch.randn(t.shape, generator=seeded(5), dtype=torch.float64) for t in parts]
    moved = CLASSES["factored"](**dict(zip(c.parts, directions, strict=True)))
    quantities: list[tuple[Any, Tensor | None]] = [
        (lambda d: d.log_partition, c.d.expectation(moved)),
        (lambda d: d.entropy(), None),
    ]
    for f, known in quantities:
        g = rebuilt(c, f)
        along = torch.func.jvp(g, tuple(parts), tuple(directions))[1]
        leaves = [t.clone().requires_grad_() for t in parts]
        rows = []
        for row in g(*leaves):
            grads = torch.autograd.grad(row, leaves, retain_graph=True)
            rows.append(sum((x * v).sum() for x, v in zip(grads, directions, strict=True)))
        tables.assert_values(along, torch.stack(rows), EXACT)
        if known is not None:
            tables.assert_values(along, known.detach(), EXACT)
        assert along.abs().min() > 1e-3
