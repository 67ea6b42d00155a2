"""The CPU backend against the reference where enumeration cannot go: long, wide, far apart, masked."""

from __future__ import annotations

import oracle
import pytest
import torch
from tables import LONG, assert_same_bits_on_threads

from semicrf.algebra import KL, CrossEntropy, Entropy, Expectation, Log, LogCount, Max, Semiring, Std
from semicrf.compile import compiled, dual
from semicrf.compile.loglinear import Mean, Weight, loglinear
from semicrf.engine import ops, reference, walk
from semicrf.engine.dispatch import BACKENDS, serving
from semicrf.engine.layout import Spec, flat, layout
from semicrf.errors import BackendError

pytestmark = pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed")

SIZES = [(40, 7, 3), (90, 33, 2), (150, 60, 3), (100, 1, 4), (35, 100, 2)]
PARTS = tuple(name for name in oracle.FACTORED if name != "duration_transition")
inf = float("inf")


def models(semiring: type[Semiring], size: tuple[int, int, int], scale: float, holes: float, seed: int) -> list[dict]:
    """Parts for two sequences; a quantity whose mean is asked for is finite."""
    T, K, C = size
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for i in range(semiring.potentials):
        model = oracle.random_model(T, K, C, generator=generator, holes=holes, scale=scale, parts=PARTS)
        parts = {n: t.detach()[None].repeat(2, *[1] * t.dim()) for n, t in model.parts.items()}
        if i >= (compiled(semiring).gates):
            parts = {n: torch.where(t == -inf, 0.0, t) for n, t in parts.items()}
        drawn.append({n: t.requires_grad_() for n, t in parts.items()})
    return drawn


def run(semiring: type[Semiring], parts: list[dict], lengths: torch.Tensor, size: tuple, backend: str):
    spec = Spec(compiled(semiring).key, backend, layout(parts), *size)
    value = ops.scan(spec, lengths, flat(parts)).value
    finite = torch.where(value.isfinite(), value, 0.0)
    cotangent = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)
    leaves = [t for t in flat(parts) if t.is_floating_point()]
    grads = torch.autograd.grad((finite * cotangent).sum(), leaves, allow_unused=True, materialize_grads=True)
    return value.detach(), grads


def assert_like_reference(
    semiring: type[Semiring], parts: list[dict], size: tuple, scale: float, backend: str = "cpu"
) -> None:
    lengths = torch.tensor([size[0], max(1, size[0] - 3)])
    value, grads = run(semiring, parts, lengths, size, backend)
    wanted, expected = run(semiring, parts, lengths, size, "reference")
    finite = wanted.isfinite()
    assert torch.equal(value[~finite], wanted[~finite])
    assert ((value - wanted)[finite].abs() <= LONG[scale] * (1 + wanted[finite].abs())).all()
    for got, want in zip(grads, expected, strict=True):
        assert got.isfinite().all()
        assert (got - want).abs().max() <= LONG[scale] * (1 + want.abs().max())


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("semiring", [Log, Std, Entropy, CrossEntropy, KL, LogCount, Expectation, dual(Log)])
def test_long_and_far_apart(semiring, size, scale):
    assert_like_reference(semiring, models(semiring, size, scale, 0.0, seed=1), size, scale)


def test_means_where_most_positions_are_impossible():
    """Segments all of one length are a chain of positions as long: its entropy, at a length where a gauge that is not
    moved rightly would have grown out of all bounds.
    """
    n, K, C = 1000, 20, 8
    g = torch.Generator().manual_seed(0)
    emission = torch.randn(1, n * K, C, generator=g, dtype=torch.float64)
    transition = torch.randn(1, C, C, generator=g, dtype=torch.float64)
    duration = torch.full((1, K, C), -inf, dtype=torch.float64)
    duration[:, -1] = 0.0
    parts = {"emission": emission, "transition": transition, "duration": duration}
    parts = {name: t.requires_grad_() for name, t in parts.items()}
    value, grads = run(Entropy, [parts], torch.tensor([n * K]), (n * K, K, C), "cpu")
    chain = {"emission": emission.view(1, n, K, C).sum(2), "transition": transition}
    chain = {name: t.detach().requires_grad_() for name, t in chain.items()}
    expected, wanted = run(Entropy, [chain], torch.tensor([n]), (n, 1, C), "reference")
    assert ((value - expected).abs() <= LONG[1.0] * (1 + expected.abs())).all()
    blocks = grads[0].view(1, n, K, C)
    assert (blocks - wanted[0][:, :, None]).abs().max() <= LONG[1.0] * (1 + wanted[0].abs().max())
    assert (grads[1] - wanted[1]).abs().max() <= LONG[1.0] * (1 + wanted[1].abs().max())


@pytest.mark.parametrize("holes", [0.0, 0.02])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("semiring", [Log, Entropy, KL])
def test_windows_that_move_on(semiring, scale, holes):
    """So long that buffers of twice the longest duration are used up some times; more labels than a vector has."""
    size = (500, 5, 9)
    assert_like_reference(semiring, models(semiring, size, scale, holes, seed=6), size, scale)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("semiring", [Log, Entropy, CrossEntropy, KL, Expectation])
def test_masks(semiring, size):
    """-inf anywhere, a least duration, required starts: windows that are cut, empty, or of the far end alone."""
    parts = models(semiring, size, 1.0, 0.1, seed=2)
    with torch.no_grad():
        for model in parts[: compiled(semiring).gates]:
            model["duration"][:, : size[1] // 2] = -inf
    assert_like_reference(semiring, parts, size, 1.0)
    if compiled(semiring).gates == 1:
        parts[0]["required"] = torch.rand(2, size[0], generator=torch.Generator().manual_seed(3)) < 0.1
        assert_like_reference(semiring, parts, size, 1.0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sticky", lambda p: p["transition"].masked_fill_(~torch.eye(3, dtype=torch.bool), -50.0)),
        ("labels never mix", lambda p: p["transition"].masked_fill_(~torch.eye(3, dtype=torch.bool), -inf)),
        ("only the longest", lambda p: p["duration"][:, :-1].fill_(-inf)),
        ("durations over 1000 nats", lambda p: p["duration"].sub_(torch.arange(30)[:, None] * 35.0)),
        ("labels drift apart", lambda p: p["emission"].add_(torch.tensor([-9.0, 0.0, 9.0]))),
        ("a cliff", lambda p: p["emission"][:, 40:60].sub_(torch.tensor([0.0, 400.0, 800.0]))),
        ("a spike", lambda p: p["emission"][:, 50, 1].add_(900.0)),
    ],
)
@pytest.mark.parametrize("semiring", [Log, Entropy])
def test_what_a_linear_domain_cannot_hold(semiring, name, change):
    """Sums that underflow beside others are done again exactly: each of these breaks a window with one fixed frame."""
    size = (120, 30, 3)
    parts = models(semiring, size, 1.0, 0.0, seed=4)
    with torch.no_grad():
        change(parts[0])
    assert_like_reference(semiring, parts, size, 10.0)


@pytest.mark.parametrize("semiring", [Log, KL])
def test_parts_are_read_as_they_lie(semiring):
    """float32 and views with any strides give what their contiguous float64 copies give, bit for bit."""
    size = (90, 7, 5)
    wide = models(semiring, size, 1.0, 0.05, seed=7)
    with torch.no_grad():
        narrow = [{n: t.float().transpose(1, -1).contiguous().transpose(1, -1) for n, t in m.items()} for m in wide]
        for m in narrow:
            m["emission"] = torch.stack([m["emission"], m["emission"]], -1)[..., 1]
        copies = [{n: t.double().contiguous() for n, t in m.items()} for m in narrow]
    assert not any(m["emission"].is_contiguous() for m in narrow)
    lengths = torch.tensor([90, 88])
    found = []
    for parts in (narrow, copies):
        leaves = [{n: t.requires_grad_() for n, t in m.items()} for m in parts]
        value, grads = run(semiring, leaves, lengths, size, "cpu")
        found.append([value, *(g.float() for g in grads)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("semiring", [Log, Entropy])
def test_tables_that_sequences_share(semiring):
    """Made once for a run of sequences, they give what each sequence's own give, bit for bit; a score that is NaN is
    seen in each sequence that reads it.
    """
    size = (90, 11, 9)
    parts = {n: t.detach().repeat(3, *[1] * (t.dim() - 1)) for n, t in models(semiring, size, 1.0, 0.05, 8)[0].items()}
    lengths = torch.tensor([90, 3, 1, 88, 50, 13])
    shared = {n: t[:1] if n in ("duration", "transition") else t for n, t in parts.items()}
    own = {n: t.expand(6, *t.shape[1:]).clone() for n, t in shared.items()}
    found = [
        run(semiring, [{n: t.requires_grad_() for n, t in m.items()}], lengths, size, "cpu") for m in (shared, own)
    ]
    assert torch.equal(found[0][0], found[1][0])
    for name, a, b in zip(shared, found[0][1], found[1][1], strict=True):
        assert torch.equal(a, b.sum(0, keepdim=True) if len(a) == 1 else b), name
    with torch.no_grad():
        shared["emission"][3, 2, 1] = torch.nan
        assert run_values(semiring, shared, lengths, size).isnan().tolist() == [False, False, False, True, False, False]
        shared["duration"][0, 4, 1] = torch.nan
        assert run_values(semiring, shared, lengths, size).isnan().all()


def run_values(semiring: type[Semiring], parts: dict, lengths: torch.Tensor, size: tuple) -> torch.Tensor:
    spec = Spec(compiled(semiring).key, "cpu", layout([parts]), *size)
    return ops.scan(spec, lengths, flat([parts])).value[0]


def test_threads_change_no_bit():
    size = (400, 50, 8)
    parts = models(Entropy, size, 1.0, 0.0, seed=5)
    assert_same_bits_on_threads(lambda: run(Entropy, parts, torch.tensor([400, 371]), size, "cpu"))


@pytest.mark.parametrize("names", [PARTS, (*PARTS, "duration_transition")])
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_the_walk_is_that_of_the_reference(names, holes):
    """Also where the label before depends on the duration, and where there is no path."""
    T, K, C = 23, 4, 3
    generator = torch.Generator().manual_seed(8)
    drawn = [oracle.random_model(T, K, C, generator=generator, holes=holes, parts=names).parts for _ in range(6)]
    parts = {n: torch.stack([d[n].detach() for d in drawn]) for n in drawn[0]}
    with torch.no_grad():
        parts["emission"][5] = -inf
    lengths = torch.tensor([23, 1, 4, 17, 22, 9])
    state = reference.scan(compiled(Max), [parts], lengths, T, K, C, True)
    marks, labels = BACKENDS["cpu"].best(lengths, state.alpha_id, state.g_id, state.end_id)
    expected, wanted = walk.best(lengths, state)
    assert torch.equal(marks, expected)
    assert torch.equal(labels, wanted)
    assert not marks[5].any()
    assert marks[0, 0] == (state.value[0, 0] > -inf)


def test_a_part_of_the_loops_refuses_to_run_alone():
    """It is compiled without a wrapper for Python: a call must not end at an address of nothing."""
    from semicrf.engine.cpu.counts import summed
    from semicrf.engine.cpu.sweep import dyadic

    with pytest.raises(KeyError, match="dyadic is a part"):
        dyadic(1.0)
    with pytest.raises(KeyError, match="summed is a part"):
        summed(3, 2)


def test_the_form_is_read_off_the_functions():
    assert loglinear(compiled(Max)) is None
    form = loglinear(compiled(KL))
    assert form is not None
    assert form.weights == (Weight(0, 0), Weight(1, 1))
    assert form.means == (Mean(2, 0, payload=(1.0, -1.0), plus=(-1.0, 1.0), shift=(0.0, 0.0)),)


def test_what_it_serves_and_says_of_the_rest():
    device = torch.device("cpu")
    assert serving("auto", compiled(Entropy), {"emission", "duration"}, device) is BACKENDS["cpu"]
    assert serving("auto", compiled(Max), {"segment", "edge"}, device) is BACKENDS["cpu"]
    with pytest.raises(BackendError, match=r"'cpu' does not run Log over models with the parts \['segment'\].*auto"):
        serving("cpu", compiled(Log), {"segment"}, torch.device("meta"))
