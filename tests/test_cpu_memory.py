"""How the CPU backend's memory grows with the sequence, in multiples of the emissions; in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semicrf.engine.dispatch import BACKENDS

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps a mark that can be reset"),
]

SHORT, LONG, B, K, C = 16_000, 64_000, 4, 40, 16  # emissions of 8 and 32 MB, and both in as many chunks
CHILD = f"""
import json
import torch
from benchmarks.memory import peak
from semicrf import FactoredPotentials, SemiCRFDistribution

torch.set_num_threads(1)

def model(T, gradients):
    g = torch.Generator().manual_seed(0)
    shapes = dict(emission=({B}, T, {C}), transition=({C}, {C}), duration=({K}, {C}))
    return {{n: torch.randn(*s, generator=g).double().requires_grad_(gradients) for n, s in shapes.items()}}

def run(parts, quantity, gradients):
    with torch.set_grad_enabled(gradients):
        value = getattr(SemiCRFDistribution(FactoredPotentials(**parts)), quantity)
        value = value if quantity == "log_partition" else value()
        return value, torch.autograd.grad(value.sum(), list(parts.values())) if gradients else ()

found = {{}}
for quantity in ("log_partition", "entropy"):
    for gradients in (False, True):
        run(model({LONG}, gradients), quantity, gradients)  # all loops there are, compiled and loaded
        inputs = [model(T, gradients) for T in ({SHORT}, {LONG})]
        peaks = [peak(lambda: run(parts, quantity, gradients), "cpu") for parts in inputs]
        growth = (peaks[1] - peaks[0]) / (8 * {B} * {C} * ({LONG} - {SHORT}))
        found[f"{{quantity}} {{gradients}}"] = growth
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def growth() -> dict[str, float]:
    from benchmarks.memory import SETTINGS

    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | SETTINGS, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "limit"),
    [("log_partition False", 0.05), ("entropy False", 0.05), ("log_partition True", 4), ("entropy True", 6)],
)
def test_memory_beyond_the_inputs(growth, case, limit):
    """None without gradients, checks of the arguments included; with them 4, and 2 d + 2 with d fields."""
    assert growth[case] <= limit
    assert growth[case] >= 2 or limit < 1  # or it was not measured: the rows alone are as much
