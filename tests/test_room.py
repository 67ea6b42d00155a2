"""Memory: questions about segments take what the inputs take, or say that they do not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import EXACT, case, inf, of_every_family, on_the_grid

from semicrf import FactoredPotentials, Segments, SemiCRFDistribution, SizeError, _room
from semicrf.censoring import censored
from semicrf.engine.dispatch import BACKENDS

ROOT = Path(__file__).parent.parent


def every_segment(T: int, K: int, C: int) -> list[tuple[int, int, int]]:
    """Also those that pass the end or are too long, of which none is possible."""
    return [(s, s + k, c) for s in range(T) for k in range(1, K + 2) for c in range(C)]


@on_the_grid
def test_without_a_graph_segments_have_the_same_probabilities(c):
    T, K, C = c.batch.T, c.batch.K, c.batch.C
    asked = Segments.from_list(c.nested([every_segment(T, K, C)] * c.batch.B)) if c.batch_shape else Segments.from_list(
        every_segment(T, K, C)
    )  # fmt: skip
    expected = c.d.marginals.segment(asked)
    assert expected.requires_grad
    with torch.no_grad():
        marginals = c.d.marginals
        found = marginals.segment(asked)
        assert "segment" not in {name for name, _ in marginals._known}  # no table was made
    assert found.shape == expected.shape
    assert (found - expected.detach()).abs().max() < EXACT
    assert (found >= 0).all()


@of_every_family
def test_durations_without_a_table(family):
    for holes in (0.0, 0.1):
        c = case(family, holes=holes, seed=3)
        table = c.d.detach().marginals.segments.sum(-1)
        found = c.d.detach()._inference.by_duration()
        assert (found - c.flat(table)).abs().max() < EXACT


@pytest.mark.parametrize("cost", [0.0, 0.4])
@on_the_grid
def test_both_ways_to_decode_matches_gain_the_same(c, cost):
    """With a table of all segments, as the reference does it, and without."""
    lengths = c.lengths
    one, two = (SemiCRFDistribution(c.potentials, lengths, backend=b).mbr(cost=cost) for b in ("reference", "cpu"))
    assert one.score is not None
    assert two.score is not None
    assert torch.equal(one.count > 0, two.count > 0)
    possible = one.score > -inf
    assert ((one.score - two.score).abs()[possible] < EXACT).all()


LARGE = FactoredPotentials(torch.zeros(2, 3000, 20, dtype=torch.float64), max_duration=2000)
ASKED = Segments.from_list([[(0, 1, 1)]] * 2)


@pytest.mark.parametrize(
    "ask",
    [
        lambda d: d.marginals.segments,
        lambda d: d.marginals.edge,
        lambda d: d.max_marginals.segments,
        lambda d: d.max_marginals.edge,
        lambda d: d.max_marginals.segment(ASKED),
        lambda d: d.topk(2, canonical=True),
        lambda d: d.segment_count(3),
        lambda d: censored(FactoredPotentials(torch.zeros(9000, 20), duration=torch.zeros(2000, 20))),
        lambda d: SemiCRFDistribution(LARGE, backend="reference").mbr(),
    ],
    ids=["segments", "edge", "max segments", "max edge", "max segment", "canonical", "count", "censored", "mbr"],
)
def test_what_does_not_fit_says_so(ask, monkeypatch):
    """Before anything of that size is made."""
    monkeypatch.setattr(_room, "available", lambda device: 1 << 29)
    message = r"got a table of shape \(.*\), .* GiB; expected at most the 0.5"
    with torch.no_grad(), pytest.raises(SizeError, match=message):
        ask(SemiCRFDistribution(LARGE))


def test_what_is_free_is_known_here():
    free = _room.available(torch.device("cpu"))
    assert free is None or free > 1 << 20
    assert _room.available(torch.device("meta")) is None


SHORT, LONG, K, C = 2_000, 8_000, 300, 4  # a table of every segment: 19 and 77 MB; emissions: 64 and 256 kB
CHILD = f"""
import json
import torch
from benchmarks.memory import peak
from semicrf import FactoredPotentials, Segments, SemiCRFDistribution

torch.set_num_threads(1)

def model(T):
    g = torch.Generator().manual_seed(0)
    shapes = dict(emission=(T, {C}), transition=({C}, {C}), duration=({K}, {C}))
    parts = {{n: torch.randn(*s, generator=g).double() for n, s in shapes.items()}}
    return SemiCRFDistribution(FactoredPotentials(**parts))

segment = Segments.from_list([(3, 9, 1)])
asked = {{"mbr": lambda d: d.mbr(), "segment": lambda d: d.marginals.segment(segment), "sample": lambda d: d.sample()}}
found = {{}}
for name, ask in asked.items():
    ask(model(500))
    inputs = [model(T) for T in ({SHORT}, {LONG})]
    peaks = [peak(lambda: ask(d), "cpu") for d in inputs]
    found[name] = (peaks[1] - peaks[0]) / (8 * {C} * ({LONG} - {SHORT}))
print(json.dumps(found))
"""


@pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps a mark that can be reset")
def test_memory_is_of_the_inputs_size():
    """In multiples of the emissions; a table of every segment is 300 of them."""
    from benchmarks.memory import SETTINGS

    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | SETTINGS, stdout=subprocess.PIPE, text=True, check=True)
    growth = json.loads(done.stdout.splitlines()[-1])
    assert all(multiple < 40 for multiple in growth.values()), growth
