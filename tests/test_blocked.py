"""The blocked backend: its borders, what it holds, when it is chosen, and long windows against the reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from tables import SEMIRINGS, Backend, assert_same_bits_on_threads, draw
from test_cpu import assert_like_reference, models, run
from test_engine import check, cotangent_of
from torch.utils._python_dispatch import TorchDispatchMode

from semicrf.algebra import KL, Entropy, Expectation, KMax, Log, Max, Semiring
from semicrf.compile import compiled, dual
from semicrf.engine import blocked, reference
from semicrf.engine.dispatch import BACKENDS, serving
from semicrf.errors import BackendError

BLOCKED = Backend("blocked")


@pytest.mark.parametrize("tile", [1, 2**17])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["Log", "Max", "KMax(3)", "KL"])
def test_borders_of_blocks_and_tiles_against_enumeration(monkeypatch, name, n, tile):
    """Blocks shorter and longer than K and than T, and operations over one position at a time."""
    monkeypatch.setattr(blocked, "N", n)
    monkeypatch.setattr(blocked, "TILE", tile)
    row = SEMIRINGS[name]
    for family, K in itertools.product(("factored", "segment"), (1, 2, 3, 5)):
        batches = [draw(family, K, 2, (6, 1, 5), holes=(0.0, 0.0, 0.1), seed=seed) for seed in range(row.models)]
        check(row, BLOCKED, batches, cotangent_of(row, 3))


# T and K on, before and after a border: a block has 32 positions
SIZES = [(31, 32, 2), (32, 31, 2), (33, 33, 3), (65, 1, 3), (97, 64, 2), (40, 300, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("semiring", [Log, Max, Entropy, KL, Expectation, dual(Log)])
def test_sizes_around_a_block(semiring, size):
    assert_like_reference(semiring, models(semiring, size, 1.0, 0.0, seed=1), size, 1.0, "blocked")


@pytest.mark.parametrize("scale", [10.0, 100.0])
@pytest.mark.parametrize("semiring", [Log, Entropy, KL])
def test_scores_far_apart(semiring, scale):
    assert_like_reference(semiring, models(semiring, (90, 40, 3), scale, 0.0, seed=2), (90, 40, 3), scale, "blocked")


@pytest.mark.parametrize("semiring", [Log, Max, Entropy, KL])
def test_masks_and_required_starts(semiring):
    size = (100, 40, 3)
    parts = models(semiring, size, 1.0, 0.05, seed=3)
    with torch.no_grad():
        for model in parts:
            model["duration"][:, :3] = -torch.inf
    parts[0]["required"] = torch.rand(2, size[0], generator=torch.Generator().manual_seed(4)) < 0.05
    parts[0]["required"][:, [32, 64]] = True  # where a block begins
    assert_like_reference(semiring, parts, size, 1.0, "blocked")


def test_threads_change_no_bit():
    size = (64, 60, 16)  # large enough for torch to share out
    parts = models(Entropy, size, 1.0, 0.0, seed=5)
    assert_same_bits_on_threads(lambda: run(Entropy, parts, torch.tensor([64, 51]), size, "blocked"))


class Largest(TorchDispatchMode):
    """How many scalars the largest tensor made has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, list | tuple) else [out]
        self.numel = max(self.numel, *(t.numel() for t in made if isinstance(t, torch.Tensor)), 0)
        return out


def test_nothing_it_makes_grows_with_the_length():
    """Without gradients; the parts themselves are read a block at a time, so no copy of them is made either."""
    largest = []
    for T in (320, 3200):
        emission = torch.zeros(2, T, 3, dtype=torch.float32)
        parts = {"emission": emission, "duration": torch.zeros(1, 20, 3), "transition": torch.zeros(1, 3, 3)}
        with Largest() as mode:
            blocked.scan(compiled(Log), [parts], torch.tensor([T, T - 7]), T, 20, 3, False)
        largest.append(mode.numel)
    assert 0 < largest[0] == largest[1] < 2 * 320 * 3 * 20


def test_auto_takes_it_where_nothing_faster_serves(monkeypatch):
    device, parts = torch.device("cpu"), {"emission", "duration", "transition"}
    assert serving("auto", compiled(Max), parts, device) is (BACKENDS["cpu"] if _cpu_serves(Max) else blocked)
    monkeypatch.delitem(BACKENDS, "cpu", raising=False)
    assert serving("auto", compiled(Log), parts, device) is blocked
    assert serving("auto", compiled(Log), parts, torch.device("cuda")) is blocked
    assert serving("auto", compiled(Log), {"edge"}, device) is reference
    assert serving("auto", compiled(KMax(4)), parts, device) is reference
    with pytest.raises(BackendError, match=r"'blocked' does not run Log over models with the parts \['edge'\].*auto"):
        serving("blocked", compiled(Log), {"edge"}, device)


def _cpu_serves(semiring: type[Semiring]) -> bool:
    return "cpu" in BACKENDS and BACKENDS["cpu"].serves(compiled(semiring), {"emission"}, torch.device("cpu"))
