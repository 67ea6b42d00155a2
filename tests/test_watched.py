"""Questions under torch.compile and torch.func.vmap: they give what they give elsewhere, or say why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from semicrf import BackendError, FactoredPotentials, Segments, SemiCRFDistribution

Ask = Callable[[SemiCRFDistribution], Tensor]
F = FactoredPotentials(torch.arange(12.0).double().reshape(6, 2), max_duration=3)
TRACED: dict[str, Ask] = {
    "argmax": lambda d: d.argmax.start,
    "mbr": lambda d: d.mbr().start,
    "mbr position": lambda d: d.mbr("position").start,
    "mbr boundary": lambda d: d.mbr("boundary", tolerance=1).start,
    "kmax": lambda d: d.kmax(3).transpose(0, -1),
    "marginals": lambda d: d.marginals.position,
    "segment": lambda d: d.marginals.segment(Segments.from_list([(0, 1, 1)])),
    "segment_count": lambda d: d.segment_count(3),
    "span": lambda d: d.span(0, 1, 1),
    "boundary_within": lambda d: d.boundary_within(1, 1),
    "mutual_information": lambda d: d.mutual_information(0, 2),
    "renyi_entropy": lambda d: d.renyi_entropy(2.0),
    "expectation": lambda d: d.expectation(F),
    "variance": lambda d: d.variance(F),
    "count": lambda d: d.count,
    "first_impossible": lambda d: d.first_impossible,
}
STORED: dict[str, Ask] = {
    "argmax": lambda d: d.argmax.start,
    "topk": lambda d: d.topk(2)[1],
    "sample": lambda d: d.sample((2,)).start,
    "mbr": lambda d: d.mbr("position").start,
    "perturbed_argmax": lambda d: d.perturbed_argmax().start,
    "max_marginals": lambda d: d.max_marginals.position,
}
"""What follows choices that a sweep has stored."""


@pytest.fixture(autouse=True)
def compiled_anew():
    """torch gives up on a function that it has compiled many times."""
    torch.compiler.reset()


def asked(ask: Ask) -> Callable[[Tensor], Tensor]:
    transition = torch.tensor([[0.3, -1.0], [0.7, 0.1]], dtype=torch.float64)

    def run(emission: Tensor) -> Tensor:
        return ask(SemiCRFDistribution(FactoredPotentials(emission, transition, max_duration=3)))

    return run


def emissions(*shape: int) -> Tensor:
    return torch.randn(*shape, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by torch itself
@pytest.mark.parametrize("name", TRACED)
def test_one_graph(name):
    ask, emission = asked(TRACED[name]), emissions()
    found = torch.compile(ask, backend="eager", fullgraph=True)(emission)
    assert torch.allclose(found, ask(emission), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in TRACED if n not in STORED and not n.startswith("mbr")])
def test_vmap(name):
    ask, emission = asked(TRACED[name]), emissions(3)
    found = torch.func.vmap(ask)(emission)
    assert torch.allclose(found, torch.stack([ask(e) for e in emission]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STORED)
def test_what_vmap_has_no_rule_for(name):
    with pytest.raises(BackendError, match=r"not under torch\.func\.vmap. Likely fix: give the batch as leading axes"):
        torch.func.vmap(asked(STORED[name]))(emissions(3))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_topk_stays_outside_of_a_graph():
    ask, emission = asked(STORED["topk"]), emissions()
    assert torch.equal(torch.compile(ask, backend="eager")(emission), ask(emission))
    torch.compiler.reset()
    with pytest.raises(Exception, match="topk: the search runs on the host"):
        torch.compile(ask, backend="eager", fullgraph=True)(emission)
