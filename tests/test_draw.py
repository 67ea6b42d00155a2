"""The walks that draw samples: every backend draws what the reference draws."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from models import case, f64, inf, of_every_family, seeded
from tables import draw as model
from torch import Tensor

from semicrf import FactoredPotentials, SemiCRFDistribution
from semicrf.algebra import Log
from semicrf.compile import compiled
from semicrf.engine import reference, walk
from semicrf.engine.dispatch import BACKENDS, INTERPRETED, rows

HERE = torch.device("cpu" if INTERPRETED else "cuda")
TRITON = importlib.util.find_spec("triton") is not None
RUNS = TRITON and (INTERPRETED or torch.cuda.is_available())
runs = pytest.mark.skipif(not RUNS, reason="runs in the interpreter, started by test_in_the_interpreter")
IDS = torch.tensor([3, 2**40 + 1, -7])
LENGTHS = (7, 6, 1)


def drawn(backend: str, parts: dict[str, Tensor], size: tuple, seed: int, samples: int, on: Any = "cpu") -> tuple:
    """Samples of one backend, from a sweep of its own."""
    (T, K, C), module, lengths = size, BACKENDS[backend], torch.tensor(LENGTHS).to(on)
    there = {n: t.to(on) for n, t in parts.items()}
    state = rows(module, compiled(Log), [there], lengths, T, K, C)
    pick = getattr(module, "draw", walk.draw)
    return tuple(
        x.cpu() for x in pick(compiled(Log), [there], lengths, T, K, C, state, seed, samples, IDS.to(on))
    )  # fmt: skip


def parts_of(family: str, K: int, C: int, **options: Any) -> dict[str, Tensor]:
    """A ragged model with -inf among its scores, NaN where nothing is read, and a start required in one sequence."""
    unread = float("nan") if C == 2 else None  # finding what is not read lists all segmentations
    batch = model(family, K, C, LENGTHS, T=LENGTHS[0], unread=unread, **options)
    required = torch.zeros(3, LENGTHS[0], dtype=torch.bool)
    required[0, 4] = True
    return {n: t.detach() for n, t in batch.parts.items()} | {"required": required}


def same(one: tuple, two: tuple) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@of_every_family
@pytest.mark.parametrize(("K", "C", "shared"), [(3, 2, False), (1, 9, True), (11, 3, True)])
def test_compiled_draws_are_the_references(family, K, C, shared):
    """K of one, within T and beyond it; labels and durations of more than one vector."""
    found = 0
    for seed in range(4):
        parts = parts_of(family, K, C, shared=shared, seed=seed, holes=0.05)
        expected = drawn("reference", parts, (7, K, C), 2**61 + seed, 40)
        assert same(drawn("cpu", parts, (7, K, C), 2**61 + seed, 40), expected)
        found += int((expected[3] > 0).any())
    assert found


@pytest.mark.slow
@pytest.mark.skipif(RUNS or not TRITON, reason="the tests below run in this very process, or Triton is not installed")
def test_in_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernel", str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@runs
@of_every_family
@pytest.mark.parametrize(("K", "C", "shared"), [(3, 2, False), (37, 3, True)])
def test_draws_of_the_kernel_are_the_references(family, K, C, shared):
    """Durations of more than one window too."""
    samples = 3 if INTERPRETED else 200
    parts = parts_of(family, K, C, shared=shared, seed=1, holes=0.05)
    expected = drawn("reference", parts, (7, K, C), -5, samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes both sides of every `where`
        assert same(drawn("triton", parts, (7, K, C), -5, samples, HERE), expected)
    assert (expected[3] > 0).any()


@runs
@pytest.mark.skipif(INTERPRETED, reason="takes hours there")
def test_float32_draws_hardly_differ():
    """From the reference's on the same numbers: at most 1 of 100,000."""
    T, K, C, S = 400, 60, 11, 400
    g = seeded(3)
    emission, transition, duration = (torch.randn(s, generator=g) for s in ((1, T, C), (C, C), (K, C)))
    p = FactoredPotentials(emission, transition, duration)
    expected = SemiCRFDistribution(p, backend="cpu").sample((S,), generator=seeded(1))
    here = p.to(HERE)
    found = SemiCRFDistribution(here, backend="triton").sample((S,), generator=seeded(1)).to("cpu")
    differ = (found.to_labels(T) != expected.to_labels(T)) | (found.to_boundaries(T) != expected.to_boundaries(T))
    first = T - differ.flip(-1).float().argmax(-1)  # walks go from the end, and follow from a draw that differs
    walks = differ.any(-1)
    assert int(expected.count.sum()) > 1e5 / 2
    assert walks.sum() <= 1 + 2e-5 * expected.count.sum(), (walks.sum(), first[walks])


def test_long_windows_are_drawn_from_their_ends():
    """The last duration of a long window, that of a certain segmentation, in every backend that is here."""
    T, K = 150, 70
    duration = torch.full((K, 1), -inf, dtype=torch.float64)
    duration[[9, 69]] = 0.0
    p = FactoredPotentials(torch.zeros(T, 1, dtype=torch.float64), duration=duration)
    for backend in ("reference", "cpu"):
        y = SemiCRFDistribution(p, backend=backend).sample((5,), generator=seeded(2))
        assert ((y.durations == 70) | (y.durations == 10) | ~y.mask).all()
        assert (y.durations == 70).any()


def test_the_reference_state_serves_every_walk():
    """A walk reads the state's elements relative to their offsets, whatever module left them."""
    c = case("factored", 4, 3, (3,), T=7, lengths=LENGTHS, seed=4)
    parts = {n: t.detach() for n, t in c.batch.parts.items()}
    state = reference.scan(compiled(Log), [parts], torch.tensor(LENGTHS), 7, 4, 3, True)
    options = (compiled(Log), [parts], torch.tensor(LENGTHS), 7, 4, 3, state, 1, 30, IDS)
    assert same(BACKENDS["cpu"].draw(*options), walk.draw(*options))


def test_scores_far_apart_and_long_sequences():
    """Sums of 1e6 and more, in which 1e-16 is 1e-10."""
    g = seeded(5)
    emission = 1000 * torch.rand(2000, 3, generator=g, dtype=torch.float64)
    p = FactoredPotentials(emission, f64([[0.0, 1.0, -inf], [2.0, 0.0, 0.0], [0.5, 0.0, -1.0]]), max_duration=5)
    one, two = (SemiCRFDistribution(p, backend=b).sample((8,), generator=seeded()) for b in ("reference", "cpu"))
    assert one == two


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_walks_end_whatever_the_scores(backend):
    """Without checks, NaN gives something, after as many steps as there are positions at most."""
    emission = torch.zeros(2, 6, 2, dtype=torch.float64)
    emission[0, 3] = float("nan")
    d = SemiCRFDistribution(FactoredPotentials(emission, max_duration=3), backend=backend, validate_args=False)
    y = d.sample((4,), generator=seeded())
    assert (y.count[:, 1] > 0).all()
    assert (y.count <= 6).all()
