"""What is asked of a distribution, on every backend, in float32, under transforms, and with batches of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tables
import torch
from models import EXACT, case, of_every_family, seeded
from tables import BACKEND
from torch import Tensor

from semicrf import BackendError, FactoredPotentials, Segments, SemiCRFDistribution
from semicrf.potentials import Potentials

Asked = Callable[[SemiCRFDistribution], Any]

NUMBERS: dict[str, Asked] = {
    "stddev": lambda d: d.stddev(_like(d)),
    "renyi_entropy(0.5)": lambda d: d.renyi_entropy(0.5),
    "renyi_entropy(inf)": lambda d: d.renyi_entropy(float("inf")),
    "mutual_information": lambda d: d.mutual_information(0, 3),
    "span": lambda d: d.span(1, 3, 1),
    "span, covers": lambda d: d.span(1, 3, 1, kind="covers"),
    "boundary_within": lambda d: d.boundary_within(2, 1),
    "segment_count": lambda d: d.segment_count(4).exp(),
    "with_segment_count": lambda d: d.with_segment_count(2).entropy(),
    "segments_per_label": lambda d: d.marginals.segments_per_label,
    "positions_per_label": lambda d: d.marginals.positions_per_label,
    "topk": lambda d: d.topk(4)[1],
}
"""Differentiable."""
CONSTANTS: dict[str, Asked] = {
    **{f"max_marginals.{v}": lambda d, v=v: getattr(d.max_marginals, v) for v in ("position", "boundary", "edge")},
    "first_impossible": lambda d: d.first_impossible,
}
DECODED: dict[str, Asked] = {
    "topk": lambda d: d.topk(3)[0],
    "topk, canonical": lambda d: d.topk(3, canonical=True)[0],
    "mbr(segment)": lambda d: d.mbr("segment"),
    "mbr(position)": lambda d: d.mbr("position"),
    "mbr(boundary)": lambda d: d.mbr("boundary", tolerance=1),
    "perturbed_argmax": lambda d: d.perturbed_argmax(0.7, seeded(1)),
}


def _like(d: SemiCRFDistribution) -> Potentials:
    """An additive quantity of the model's shape: how long its segments are, in squares."""
    squares = torch.arange(1, d.K + 1, device=d.lengths.device, dtype=d.potentials.dtype).square()
    return Potentials({"duration": squares[None, :, None].expand(1, d.K, d.C)}, d.batch_shape, d.T, d.K, d.C)


def on(c, backend: str, device: str = "cpu") -> SemiCRFDistribution:
    return SemiCRFDistribution(c.potentials.to(device), c.lengths.to(device), backend=backend)


@of_every_family
@pytest.mark.parametrize("backend", BACKEND, ids=lambda b: b.name)
def test_every_backend_gives_the_same(family, backend):
    """Those that do not serve a kind of model say so."""
    c = case(family, batch_shape=(2,), lengths=(5, 4), seed=2)
    for name, ask in [*NUMBERS.items(), *CONSTANTS.items(), *DECODED.items()]:
        try:
            found = ask(on(c, backend.name, backend.device))
        except BackendError:
            assert backend.name in ("triton", "blocked"), name
            continue
        want = ask(c.d)
        if isinstance(found, Segments):
            assert found.to("cpu") == want, name
        else:
            tables.assert_values(found.detach().cpu(), want.detach(), EXACT)


@of_every_family
def test_results_in_float32(family):
    """In the inputs' dtype, close to float64's."""
    c = case(family, batch_shape=(2,), lengths=(5, 4), seed=2)
    single = c.d.to(torch.float32)
    for name, ask in {**NUMBERS, **CONSTANTS}.items():
        found, want = ask(single), ask(c.d)
        if want.is_floating_point():
            assert found.dtype == torch.float32, name
            tables.assert_values(found.detach().double(), want.detach(), tables.TOLERANCE[torch.float32])
    for name, ask in DECODED.items():
        assert ask(single) == ask(c.d), name


@of_every_family
def test_every_batch_shape_holds_the_same_sequences(family):
    c = case(family, batch_shape=(2, 3), shared=True)
    for name, ask in [*NUMBERS.items(), *CONSTANTS.items(), *DECODED.items()]:
        whole = ask(c.d)
        whole = whole[:, 1, 2] if name in ("topk", "topk, canonical") else whole[1, 2]
        if name == "perturbed_argmax":
            own = c.d[1, 2].perturbed_argmax(0.7, seeded(1), sequence_id=torch.tensor(5))
        else:
            own = ask(c.d[1, 2])
        if isinstance(own, Segments) or isinstance(whole, Segments):
            assert own == whole, name
        else:
            tables.assert_values(own.detach().double(), whole.detach().double(), EXACT)


@pytest.mark.parametrize("name", NUMBERS)
def test_transforms(name):
    """torch.func's gradient is autograd's, and forward mode agrees with it; without a graph where none is wanted."""
    c = case("factored", batch_shape=(2,), lengths=(5, 4), seed=1)
    emission = c.parts["emission"].detach().nan_to_num(0.0)
    others: dict[str, Any] = {n: t.detach() for n, t in c.parts.items() if n != "emission"}

    def value(e: Tensor) -> Tensor:
        p = FactoredPotentials(e, **others)
        return NUMBERS[name](SemiCRFDistribution(p, c.lengths, validate_args=False)).sum()

    leaf = emission.clone().requires_grad_()
    (want,) = torch.autograd.grad(value(leaf), leaf)
    with torch.no_grad():
        assert not value(leaf).requires_grad
    if name == "topk":  # its search reads numbers
        return
    direction = torch.randn(emission.shape, generator=seeded(), dtype=torch.float64)
    tables.assert_gradient(name, torch.func.grad(value)(emission), [*want], EXACT)
    along = torch.func.jvp(value, (emission,), (direction,))[1]
    tables.assert_values(along, (want * direction).sum(), EXACT)
