"""What only a GPU shows: graphs, compilation, streams, dtypes and layouts of inputs, sizes past 32 bits."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tables import draw, far

from semicrf import FactoredPotentials, SegmentPotentials, SemiCRFDistribution
from semicrf.engine import ops
from semicrf.engine.dispatch import BACKENDS, INTERPRETED
from semicrf.engine.layout import Spec, flat, layout

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device"),
]
T, K, C = 50, 7, 5
Leaves = list[torch.Tensor]


def leaves(B: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Leaves:
    g = torch.Generator(device="cuda").manual_seed(seed)
    shapes = ((B, T, C), (C, C), (K, C))
    return [torch.randn(s, generator=g, device="cuda", dtype=torch.float32).to(dtype).requires_grad_() for s in shapes]


def model(parts: Leaves, lengths: torch.Tensor | None = None) -> SemiCRFDistribution:
    return SemiCRFDistribution(FactoredPotentials(*parts), lengths, validate_args=False)


def everything(parts: Leaves) -> list[torch.Tensor]:
    """Log Z with gradients, entropy with gradients, and the best path's score."""
    d = model(parts)
    out = []
    for value in (d.log_partition, d.entropy()):
        out += [value.detach(), *torch.autograd.grad(value.sum(), parts)]
    return [*out, d.argmax.start, d.argmax.label]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_run_is_captured_in_a_graph_and_replayed_on_other_numbers():
    parts = leaves()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            everything(parts)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(parts)
    for seed in (1, 2):
        others = leaves(seed=seed)
        with torch.no_grad():
            for part, other in zip(parts, others, strict=True):
                part.copy_(other)
        graph.replay()
        assert same(captured, everything(others))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by torch itself
def test_it_compiles_in_one_graph():
    def loss(*parts: torch.Tensor) -> torch.Tensor:
        d = model(list(parts))
        return (d.log_partition - 0.1 * d.entropy()).sum()

    parts = leaves()
    expected = loss(*parts)
    grads = torch.autograd.grad(expected, parts)
    found = torch.compile(loss, fullgraph=True)(*parts)
    assert not far(found, expected.cpu(), 1e-6).any()
    for a, b in zip(torch.autograd.grad(found, parts), grads, strict=True):
        assert not far(a, b.cpu(), 1e-6).any()


def test_streams_do_not_disturb_each_other():
    batches = [leaves(B=20, seed=seed) for seed in range(6)]
    expected = [everything(parts) for parts in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in batches]
    found = []
    for _ in range(3):
        for stream, parts in zip(streams, batches, strict=True):
            with torch.cuda.stream(stream):
                found.append(everything(parts))
    torch.cuda.synchronize()
    assert all(same(got, want) for got, want in zip(found, expected * 3, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    half = leaves(dtype=dtype)
    single = [p.detach().float().requires_grad_() for p in half]
    values = [model(p).log_partition for p in (half, single)]
    assert values[0].dtype == torch.float32
    assert torch.equal(*values)
    grads = [torch.autograd.grad(v.sum(), p) for v, p in zip(values, (half, single), strict=True)]
    assert [g.dtype for g in grads[0]] == [dtype] * 3
    assert same(list(grads[0]), [g.to(dtype) for g in grads[1]])


def test_any_strides():
    """Transposed, every other entry, expanded, and at an address that is not aligned."""
    parts = leaves()
    strided = [
        parts[0].detach().transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([parts[1].detach(), parts[1].detach()], -1)[..., 1],
        torch.cat([parts[2].detach().flatten()[:1], parts[2].detach().flatten()])[1:].view(K, C),
    ]
    assert [p.is_contiguous() for p in strided] == [False, False, True]
    assert strided[2].data_ptr() % 16
    assert same(everything([p.requires_grad_() for p in strided]), everything(parts))
    d = [SemiCRFDistribution(FactoredPotentials(p)) for p in (parts[0][:1].expand(3, T, C), parts[0][[0, 0, 0]])]
    assert torch.equal(d[0].log_partition, d[1].log_partition)


def on_both(batch, semiring_key: str, seed: int = 5) -> float:
    """The largest difference between the GPU and the CPU, in values and gradients."""
    results = []
    for device in ("cuda", "cpu"):
        b = batch.leaves(device)
        spec = Spec(semiring_key, "auto", layout([b.parts]), b.T, b.K, b.C)
        value = ops.scan(spec, b.lengths, flat([b.parts])).value
        cotangent = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        grads = torch.autograd.grad(value, list(b.parts.values()), cotangent.to(device))
        results.append([value.detach().cpu(), *(g.cpu() for g in grads)])
    scale = [max(1.0, float(w[w.isfinite()].abs().max())) for w in results[1]]
    return max(float((a - b).abs().max()) / s for a, b, s in zip(*results, scale, strict=True))


@pytest.mark.parametrize("semiring", ["log", "max", "entropy"])
@pytest.mark.parametrize(("K", "C", "T"), [(8192, 2, 9000), (1000, 24, 1500), (1, 256, 60), (40, 200, 100)])
def test_long_segments_and_many_labels(semiring, K, C, T):
    from semicrf.compile import compiled

    batch = draw("factored", K, C, (T, T // 2), T=T, seed=1)
    assert on_both(batch, compiled(semiring).key) < 1e-9


@pytest.mark.parametrize("semiring", ["log", "max"])
def test_many_sequences_take_the_reverse_sweep(semiring, monkeypatch):
    from semicrf.compile import compiled

    batch = draw("factored", 9, 4, (70, 33, 1), T=70, seed=2, holes=0.02)
    both = on_both(batch, compiled(semiring).key)
    monkeypatch.setattr(BACKENDS["triton"], "BOTH", 0)
    assert max(both, on_both(batch, compiled(semiring).key)) < 1e-10


def test_more_elements_than_32_bits_count(monkeypatch):
    """The last sequences of a batch are far beyond 2^31: they are what they are alone."""
    B, T, K, C = 3300, 20480, 2, 32
    assert B * T * C > 2**31
    if torch.cuda.mem_get_info()[0] < 74 * 2**30:
        pytest.skip("needs 74 GiB of free memory on the GPU")
    monkeypatch.setattr(BACKENDS["triton"], "BOTH", 0)
    g = torch.Generator(device="cuda").manual_seed(0)
    emission = torch.randn(B, T, C, generator=g, device="cuda").requires_grad_()
    rest = [torch.randn(s, generator=g, device="cuda") for s in ((C, C), (K, C))]
    whole = model([emission, *rest]).log_partition
    (grad,) = torch.autograd.grad(whole.sum(), [emission])
    last = emission.detach()[-2:].clone().requires_grad_()
    alone = model([last, *rest]).log_partition
    assert torch.equal(whole[-2:], alone)
    assert torch.equal(grad[-2:], torch.autograd.grad(alone.sum(), [last])[0])
    segment = emission.detach().view(B, T // 2, 2, C)
    value = SemiCRFDistribution(SegmentPotentials(segment, rest[0]), validate_args=False).log_partition
    alone = SemiCRFDistribution(SegmentPotentials(segment[-2:], rest[0]), validate_args=False).log_partition
    assert torch.equal(value[-2:], alone)


# ------------------------------------------------------------------ length
def long(family: str, T: int, K: int, C: int) -> dict[str, torch.Tensor]:
    """One sequence of a family that is hard for float32, on the GPU."""
    g = torch.Generator().manual_seed(0)
    emission, transition = torch.randn(T, C, generator=g), torch.randn(C, C, generator=g)
    duration = 0.3 * torch.randn(K, C, generator=g) - 0.02 * torch.arange(K)[:, None]
    if family.startswith("x"):
        emission *= int(family[1:])
    elif family == "means apart":
        emission += 4.0 * (torch.arange(C) - (C - 1) / 2)
    elif family == "log softmax":
        emission = torch.log_softmax(3 * emission, -1)
    elif family == "planted":
        label = torch.randint(0, C, (T // 20 + 1,), generator=g).repeat_interleave(20)[:T]
        emission = 0.3 * emission + 2.0 * torch.nn.functional.one_hot(label, C)
    elif family.startswith("sticky"):
        transition = -float(family.split()[1]) * (1 - torch.eye(C))
    elif family == "forbidden":
        transition = torch.where(torch.rand(C, C, generator=g) + torch.eye(C) < 0.5, -float("inf"), transition)
    elif family == "no mixing":
        transition = torch.where(torch.eye(C) > 0, 0.0, -float("inf"))
    return {"emission": emission[None].cuda(), "transition": transition[None].cuda(), "duration": duration[None].cuda()}


def solved(parts: dict[str, torch.Tensor], semiring: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """The last field, and its gradient in the emissions."""
    from semicrf.compile import compiled

    parts = {n: t.to(dtype) for n, t in parts.items()}
    parts["emission"].requires_grad_()
    T, C = parts["emission"].shape[1:]
    spec = Spec(compiled(semiring).key, "triton", layout([parts]), T, parts["duration"].shape[1], C)
    value = ops.scan(spec, torch.tensor([T], device="cuda"), flat([parts])).value[-1]
    return [value.detach(), torch.autograd.grad(value.sum(), parts["emission"])[0].double()]


EASY, HARD = (
    ("x1", "log softmax", "planted", "sticky 8"),
    ("x10", "x100", "means apart", "sticky 50", "forbidden", "no mixing"),
)


@pytest.mark.parametrize("family", [*EASY, *HARD])
def test_single_precision_is_true_at_length(family):
    """Against the float64 kernels: log Z to 1e-7 of it, probabilities of positions everywhere along the sequence."""
    parts = long(family, 100_000, 50, 8)
    (single, marginals), (double, expected) = (solved(parts, "log", d) for d in (torch.float32, torch.float64))
    assert (single - double).abs() <= 1e-7 * double.abs()
    assert (marginals - expected).abs().max() <= 3e-5
    assert (marginals.sum(-1) - 1).abs().max() <= 3e-5
    entropies = [solved(parts, "entropy", d)[0] for d in (torch.float32, torch.float64)]
    assert (entropies[0] - entropies[1]).abs() <= 1e-6 * entropies[1].abs() + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "K", "C"), [("x1", 50, 8), ("means apart", 50, 8), ("x1", 100, 24), ("x100", 100, 24)]
)
def test_single_precision_is_true_at_a_million_positions(family, K, C):
    parts = long(family, 1_000_000, K, C)
    (single, marginals), (double, expected) = (solved(parts, "log", d) for d in (torch.float32, torch.float64))
    assert (single - double).abs() <= 1e-6 * double.abs()
    assert (marginals - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(("semiring", "times"), [("log", 4.0), ("entropy", 6.0)])
def test_memory_of_gradients(semiring, times):
    parts = long("x1", 300_000, 100, 24)
    solved(parts, semiring, torch.float32)
    torch.cuda.synchronize()
    from semicrf.compile import compiled

    parts["emission"].requires_grad_()
    spec = Spec(compiled(semiring).key, "triton", layout([parts]), 300_000, 100, 24)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    value = ops.scan(spec, torch.tensor([300_000], device="cuda"), flat([parts])).value[-1]
    torch.autograd.grad(value.sum(), parts["emission"])
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= times * parts["emission"].nbytes


def test_memory_of_the_best_path():
    parts = long("x1", 300_000, 100, 24)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    d = SemiCRFDistribution(
        FactoredPotentials(*(parts[n] for n in ("emission", "transition", "duration"))), validate_args=False
    )
    assert d.argmax.start.numel() > 0
    assert torch.cuda.max_memory_allocated() - before <= 3 * parts["emission"].nbytes
