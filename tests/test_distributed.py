"""One sequence over two and four processes: the answer and the gradients of one."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from tables import LONG
from torch import Tensor

import semicrf
import semicrf.distributed
from semicrf.engine.dispatch import BACKENDS

pytestmark = [
    pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed"),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no distributed package"),
]

B, K, C = 2, 6, 3
SHARES = {2: (90, 133), 4: (70, 41, 6, 100)}
"""Positions by rank: fewer than a burn-in, and no more than the longest segment, among them."""
OF_POSITIONS = ("emission", "segment_start", "segment_end")
CASES = ("random", "float32", "sticky", "shared", "one", "holes", "impossible")


def parts(case: str, T: int) -> dict[str, Tensor]:
    """Everything, of the whole sequence."""
    g = torch.Generator().manual_seed(3)
    b = () if case == "one" else (B,)
    per = () if case == "shared" else b

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    p = {
        "emission": draw(*b, T, C), "segment_start": draw(*b, T, C), "segment_end": draw(*b, T, C),
        "transition": draw(*per, C, C), "duration": draw(*per, K, C), "start": draw(*per, C), "end": draw(*per, C),
    }  # fmt: skip
    if case == "sticky":  # labels that nothing tells apart: no guess is right
        p["transition"] = 50.0 * torch.eye(C).double().expand(*b, C, C) - 50.0
        p |= {n: torch.zeros(*b, T, C).double() for n in ("segment_start", "segment_end")}
        p |= {n: p[n][..., :1].expand_as(p[n]).clone() for n in ("emission", "duration")}
    if case == "holes":
        p["emission"] = p["emission"].masked_fill(torch.rand(p["emission"].shape, generator=g) < 0.05, -torch.inf)
    if case == "impossible":
        p["emission"][0, T // 2] = -torch.inf
    if case == "float32":
        p = {n: t.float() for n, t in p.items()}
    if case == "one":  # parts that are left out are zeros
        del p["segment_end"], p["end"], p["duration"]
        p["transition"] = p["transition"].detach()
    return {n: t.contiguous().requires_grad_() for n, t in p.items()}


def potentials(p: dict[str, Tensor]) -> semicrf.FactoredPotentials:
    return semicrf.FactoredPotentials(**p, max_duration=None if "duration" in p else K)


def answer(log_z: Tensor, entropy: Tensor, p: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both values, and gradients of a combination of them, by name."""
    total = (log_z * torch.linspace(0.5, 1.0, log_z.numel()).view_as(log_z)).sum() + 0.3 * entropy.sum()
    gradients = torch.autograd.grad(total, list(p.values()))
    return {"log_z": log_z.detach(), "entropy": entropy.detach()} | dict(zip(p, gradients, strict=True))


def work(rank: int, world: int, folder: str) -> None:
    """A rank's part of every case, saved."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    try:
        found, shares = {}, SHARES[world]
        mine = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        for case in CASES:
            p = parts(case, sum(shares))
            p = {n: t.detach()[..., mine, :].requires_grad_() if n in OF_POSITIONS else t for n, t in p.items()}
            model = potentials(p)
            found[case] = answer(semicrf.distributed.log_partition(model), semicrf.distributed.entropy(model), p)
        errors = []
        for T, longest, labels in [(30, K, C), (30, K, C + rank), (K - 1 + rank, K, C)]:
            given = semicrf.FactoredPotentials(torch.zeros(T, labels), max_duration=longest)
            try:
                semicrf.distributed.log_partition(given)
                errors.append("")
            except semicrf.InputError as error:
                errors.append(str(error))
        found["errors"] = errors
        torch.save(found, f"{folder}/{rank}.pt")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=sorted(SHARES))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank saved."""
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, daemon=True, args=(rank, world, str(folder))) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize("case", CASES)
def test_as_one_process(found: list[dict], case: str):
    shares = SHARES[len(found)]
    p = parts(case, sum(shares))
    d = semicrf.SemiCRFDistribution(potentials(p), backend="cpu")
    wanted = answer(d.log_partition, d.entropy(), p)
    tolerance = 1e-5 if case == "float32" else LONG[1.0]
    for name, value in wanted.items():
        by_rank = [rank[case][name] for rank in found]
        got = [torch.cat(by_rank, -2)] if name in OF_POSITIONS else by_rank
        for x in got:
            assert x.dtype == value.dtype
            finite = value.isfinite()
            assert torch.equal(x[~finite], value[~finite])
            assert ((x - value)[finite].abs() <= tolerance * (1 + value[finite].abs().max())).all(), name


def test_errors_are_everybodys(found: list[dict]):
    for rank in found:
        none, labels, short = rank["errors"]
        assert none == ""
        assert "the same but for T" in labels
        assert "at least 6 each" in short


def test_what_does_not_fit():
    with pytest.raises(semicrf.InputError, match="parts that factor"):
        semicrf.distributed.log_partition(
            semicrf.FactoredPotentials(torch.zeros(5, 2), duration_transition=torch.zeros(2, 2, 2))
        )
