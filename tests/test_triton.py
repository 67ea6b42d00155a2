"""Every kernel for every semiring against the reference: on a GPU if there is one, else in Triton's interpreter.

The interpreter is chosen before Triton is imported, by TRITON_INTERPRET=1. Where neither a GPU nor that is there, one
test runs this file again in a process with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import FAMILIES, LONG, SEMIRINGS, TOLERANCE, assert_gradient, draw, far, forbid_like

from semicrf.algebra import Log, Max
from semicrf.compile import compiled, dual
from semicrf.engine import reference, walk
from semicrf.engine.dispatch import BACKENDS, INTERPRETED, serving
from semicrf.engine.plan import TILED

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
HERE = torch.device("cpu" if INTERPRETED else "cuda")
RUNS = INTERPRETED or torch.cuda.is_available()
runs = pytest.mark.skipif(not RUNS, reason="runs in the interpreter, started by test_in_the_interpreter")
SIZES = [(6, 1, 1, (6, 1)), (7, 5, 3, (7, 6))]
"""T, K, C, lengths: two tiles of the interpreter's, a window shorter and one longer than a tile."""


@pytest.mark.slow
@pytest.mark.skipif(RUNS, reason="the tests below run in this very process")
def test_in_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def models(name: str, size: tuple, dtype: torch.dtype, family: str = "factored") -> tuple[list[dict], torch.Tensor]:
    """Ragged models with -inf among their scores, what q allows covering what p does; starts required in one."""
    row, (T, K, C, lengths) = SEMIRINGS[name], size
    p, *others = (
        draw(family, K, C, lengths, T=T, seed=seed, holes=0.05 * (K > 1)) for seed in range(1, 1 + row.models)
    )
    batches = [p, *(forbid_like(q, p) for q in others)]
    made = [{n: t.to(dtype).double() for n, t in b.parts.items()} for b in batches]
    if row.models == 1:
        required = torch.zeros(len(lengths), T, dtype=torch.bool)
        required[0, T // 2] = True
        made[0]["required"] = required
    return made, p.lengths


def there(parts: list[dict], dtype: torch.dtype) -> list[dict]:
    return [{n: t.to(HERE, dtype if t.is_floating_point() else None) for n, t in m.items()} for m in parts]


@runs
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SEMIRINGS)
def test_values_and_gradients_are_the_references(name, size):
    once = INTERPRETED and name not in ("Log", "Max", "KL")  # the interpreter takes a second or more a sweep
    for dtype in (torch.float64, torch.float32) if size is SIZES[1] and not once else (torch.float64,):
        _check(compiled(SEMIRINGS[name].semiring), *models(name, size, dtype), size, dtype)


@runs
@pytest.mark.parametrize(("name", "scale"), [("Log", 1.0), ("Log", 40.0), ("KL", 1.0)])
def test_durations_of_any_range(name, scale):
    """Sums of products where a label's durations are within 60 nats of each other, exponentials of sums elsewhere."""
    size = (24, 17, 2, (24,)) if INTERPRETED else (300, 140, 5, (300, 211))
    parts, lengths = models(name, size, torch.float64)
    parts = [{n: t if n == "required" else t.masked_fill(t.isinf(), 1.0) * scale for n, t in m.items()} for m in parts]
    assert ((parts[0]["duration"].amax(1) - parts[0]["duration"].amin(1)).max() > 60) == (scale > 1)
    program = compiled(SEMIRINGS[name].semiring)
    _check(program, parts, lengths, size, torch.float64, LONG[1.0] if scale == 1 else LONG[100.0])


@runs
@pytest.mark.parametrize("kind", ["near", "apart", "forbidden"])
@pytest.mark.parametrize("name", ["Log", "KL"] if INTERPRETED else ["Log", "Entropy", "CrossEntropy", "KL", "Max"])
def test_transitions_of_any_range(name, kind):
    """With many labels, sums of products where those into a label are within 60 nats of each other."""
    size = (6, 2, 18, (6, 4)) if INTERPRETED else (50, 4, 24, (50, 31))
    parts, lengths = models(name, size, torch.float64)
    for m in parts:
        w = m["transition"].masked_fill(m["transition"].isinf(), 1.0)
        apart = w + 70.0 * (torch.arange(size[2]) % 2)[:, None]
        m["transition"] = {"near": w, "apart": apart, "forbidden": w.masked_fill(w > 1.0, -float("inf"))}[kind]
    assert parts[0]["transition"].isinf().any() == (kind == "forbidden")
    _check(compiled(SEMIRINGS[name].semiring), parts, lengths, size, torch.float64, LONG[1.0])


@runs
def test_the_reverse_sweep_of_log_sums(monkeypatch):
    """Many sequences take it, instead of both directions at once."""
    monkeypatch.setattr(BACKENDS["triton"], "BOTH", 0)
    _check(compiled(Log), *models("Log", SIZES[1], torch.float64), SIZES[1], torch.float64)


@runs
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "factored"])
@pytest.mark.parametrize("name", ["Max", "KL"] if INTERPRETED else SEMIRINGS)
def test_arcs_that_do_not_factor(name, family):
    """Whole segments, edges and transitions by duration."""
    size = (4, 3, 2, (4, 3)) if INTERPRETED else SIZES[1]
    for dtype in (torch.float64,) if INTERPRETED else (torch.float64, torch.float32):
        _check(compiled(SEMIRINGS[name].semiring), *models(name, size, dtype, family), size, dtype)


@runs
@pytest.mark.parametrize("labels", [3] if INTERPRETED else [65, 100, 256])
@pytest.mark.parametrize("name", ["Entropy"] if INTERPRETED else ["Log", "Max", "KMax(3)", "Entropy", "KL"])
def test_more_labels_than_a_tile_holds(name, labels, monkeypatch):
    monkeypatch.setattr(BACKENDS["triton"], "TILED", min(labels - 1, TILED))
    size = (4, 3, labels, (4, 3)) if INTERPRETED else (*SIZES[1][:2], labels, SIZES[1][3])
    _check(compiled(SEMIRINGS[name].semiring), *models(name, size, torch.float64), size, torch.float64)


@runs
@pytest.mark.parametrize("name", ["CrossEntropy", "KL"])
def test_infinite_divergences(name):
    """q forbids some of what p allows, in one sequence; p forbids everything in another."""
    size = (6, 3, 2, (6, 5, 6))
    batches = [draw("factored", 3, 2, size[3], seed=seed, holes=(0.0, 0.1, 0.2)) for seed in range(2)]
    parts = [dict(b.parts) for b in batches]
    state = reference.scan(compiled(SEMIRINGS[name].semiring), parts, batches[0].lengths, 6, 3, 2, False)
    assert state.value[2].isinf().any()
    _check(compiled(SEMIRINGS[name].semiring), parts, batches[0].lengths, size, torch.float64)


@runs
@pytest.mark.parametrize("base", [Log, Max])
def test_duals(base):
    """The derivative along a direction, and its gradient: the Hessian-vector product of Log."""
    size, program = SIZES[1], compiled(dual(base))
    parts, lengths = models("Expectation", size, torch.float64)
    parts[1] = {n: torch.where(t == -float("inf"), 0.5, t) for n, t in parts[1].items()}
    _check(program, parts, lengths, size, torch.float64)


def _check(
    program, parts: list[dict], lengths: torch.Tensor, size: tuple, dtype: torch.dtype, bound: float | None = None
) -> None:
    """`bound` takes the place of the table's tolerance on long inputs."""
    (T, K, C, _), tolerance = size, bound or TOLERANCE[dtype]
    wanted = [set(m) - {"required"} for m in parts]
    cotangent = torch.randn(
        program.width, len(lengths), dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    state = reference.scan(program, parts, lengths, T, K, C, True)
    grads = reference.scan_vjp(program, parts, lengths, T, K, C, state, cotangent, wanted)
    kernels, on = BACKENDS["triton"], there(parts, dtype)
    assert kernels.serves(program, set().union(*parts), HERE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes both sides of every `where`
        got = kernels.scan(program, on, lengths.to(HERE), T, K, C, True)
        light = kernels.scan(program, on, lengths.to(HERE), T, K, C, False)
        found = kernels.scan_vjp(program, on, lengths.to(HERE), T, K, C, got, cotangent.to(HERE), wanted)
        if not INTERPRETED:
            again = kernels.scan_vjp(program, on, lengths.to(HERE), T, K, C, got, cotangent.to(HERE), wanted)
            assert all(torch.equal(x[n], y[n]) for x, y in zip(found, again, strict=True) for n in x)
    assert torch.equal(light.value, got.value)
    assert not far(got.value, state.value, tolerance).any()
    assert got.alpha.dtype == dtype
    if program.ids and dtype == torch.float64:
        reached = (torch.arange(T + 1) <= lengths[:, None])[..., None] & (state.alpha[: program.ids] > -float("inf"))
        assert reached.any()
        assert torch.equal(got.alpha_id.cpu()[reached].long(), state.alpha_id[reached])
        assert torch.equal(got.end_id.cpu().long(), state.end_id)
    for m, want in enumerate(wanted):
        for part in want:
            assert_gradient(part, found[m][part], list(grads[m][part]), tolerance)


# ------------------------------------------------------------------ long sequences
LONG_SIZE = (44, 6, 3, (44, 1, 29, 16))


def _counting() -> Any:
    return importlib.import_module("semicrf.engine.triton_counts")


def _gradients(name: str, state: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Gradients of one model at `LONG_SIZE` in float64, and the state they are from."""
    (T, K, C, _), program, kernels = LONG_SIZE, compiled(SEMIRINGS[name].semiring), BACKENDS["triton"]
    parts, lengths = models(name, LONG_SIZE, torch.float64)
    on, lengths = there(parts, torch.float64), lengths.to(HERE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        state = state or kernels.scan(program, on, lengths, T, K, C, True)
        cotangent = torch.ones(program.width, len(lengths), dtype=torch.float64, device=HERE)
        wanted = [set(parts[0]) - {"required"}]
        return kernels.scan_vjp(program, on, lengths, T, K, C, state, cotangent, wanted)[0], state


@runs
def test_log_sums_in_runs_of_positions(monkeypatch):
    """What is cut into runs gives what one run gives."""

    triton_counts = _counting()

    def cut(B, T, K, C, cuts):
        for b in range(B):
            for first in range(0, T + 1, size):
                own = min(first + size, T + 1)
                yield triton_counts.Run(b, 1, first, own, max(0, first - K) // span * span, min(T + 1, own + K + 1))

    whole, state = _gradients("Log")
    T, K, C, lengths = LONG_SIZE
    sizes = triton_counts.Cuts.of(len(lengths), T, K, C)
    size, span = max(sizes.every, sizes.starts), triton_counts.SPAN
    if not INTERPRETED:
        monkeypatch.setattr(triton_counts, "EVERY", 64)
    monkeypatch.setattr(triton_counts, "runs", cut)
    for part, got in _gradients("Log", state)[0].items():
        assert not far(got, whole[part].cpu(), 1e-12).any(), part


@runs
def test_the_reverse_sweep_in_runs_of_positions(monkeypatch):
    whole, state = _gradients("Entropy")
    size = 16 if INTERPRETED else 32
    cut: Any = BACKENDS["triton"].Backward
    monkeypatch.setattr(cut, "of", lambda *_: cut(size, 128, 2))
    for part, got in _gradients("Entropy", state)[0].items():
        assert not far(got, whole[part].cpu(), 1e-12).any(), part


@runs
def test_what_drifts_is_put_right_at_cuts():
    """Levels that drift apart, as by rounding over a million positions, change no gradient, and are reported."""
    T, K, C, lengths = LONG_SIZE
    right, state = _gradients("Log")
    drift = 1e-2 * torch.arange(T + 1, device=HERE, dtype=torch.float64) / T
    drifting = state._replace(offset=state.offset + drift)
    for part, got in _gradients("Log", drifting)[0].items():
        assert (got - right[part]).abs().max() < 1e-3 * right[part].abs().max().clamp(min=1), part
    parts, on = models("Log", LONG_SIZE, torch.float64)
    given = there(parts, torch.float64), on.to(HERE), T, K, C, drifting
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        cotangent = torch.ones(1, len(lengths), dtype=torch.float64, device=HERE)
        found = _counting().gradients(*given, cotangent, [{"emission"}], torch.float64)
    assert 5e-3 < found.deviation.abs().max() < 2e-2
    total = found.grads[0]["emission"].sum(-1)
    inside = torch.arange(T, device=HERE) < on.to(HERE)[:, None]
    assert not far(total[inside], torch.ones(int(inside.sum()), dtype=torch.float64), 1e-4).any()


FAMILY = {
    "emissions x100": lambda e, w: (100 * e, w),
    "means apart": lambda e, w: (e + 4.0 * torch.arange(e.shape[-1]), w),
    "sticky": lambda e, w: (e, torch.full_like(w, -50.0) + 50.0 * torch.eye(w.shape[-1])),
    "no mixing": lambda e, w: (e, torch.where(torch.eye(w.shape[-1]) > 0, torch.zeros_like(w), -float("inf"))),
}


@runs
@pytest.mark.parametrize("family", FAMILY)
def test_single_precision_is_true(family):
    """Gradients of log Z in float32, to what one rounding of a score leaves of them."""
    T, K, C = 40, 9, 3
    g = torch.Generator().manual_seed(0)
    emission, transition = FAMILY[family](torch.randn(1, T, C, generator=g), torch.randn(1, C, C, generator=g))
    parts = [{"emission": emission, "transition": transition, "duration": 0.3 * torch.randn(1, K, C, generator=g)}]
    program, lengths, wanted = compiled(Log), torch.tensor([T]), [{"emission", "transition", "duration"}]
    double = [{n: t.double() for n, t in parts[0].items()}]
    cotangent = torch.ones(1, 1, dtype=torch.float64)
    state = reference.scan(program, double, lengths, T, K, C, True)
    expected = reference.scan_vjp(program, double, lengths, T, K, C, state, cotangent, wanted)[0]
    kernels, on = BACKENDS["triton"], there(parts, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        got = kernels.scan(program, on, lengths.to(HERE), T, K, C, True)
        found = kernels.scan_vjp(program, on, lengths.to(HERE), T, K, C, got, cotangent.to(HERE), wanted)[0]
    assert not far(got.value, state.value, 1e-6).any()
    for part, row in expected.items():
        assert_gradient(part, found[part], list(row), 3e-6)


@runs
def test_the_walk_is_the_reference_walk():
    (T, K, C, lengths), kernels = SIZES[1], BACKENDS["triton"]
    batch = draw("factored", K, C, lengths, T=T, ties=True, holes=0.05, seed=3)
    state = reference.scan(compiled(Max), [batch.parts], batch.lengths, T, K, C, True)
    marks, labels = walk.best(batch.lengths, state)
    ids = (t.to(HERE) for t in (state.alpha_id, state.g_id, state.end_id))
    got = kernels.best(batch.lengths.to(HERE), *ids)
    assert marks.any()
    assert torch.equal(got[0].cpu(), marks)
    assert torch.equal(got[1].cpu()[marks], labels[marks])


@runs
def test_what_it_serves():
    kernels = BACKENDS["triton"]
    assert serving("triton", compiled(Log), {"emission", "duration"}, HERE) is kernels
    assert kernels.serves(compiled(Log), {"segment", "transition"}, HERE)
    assert not kernels.serves(compiled(Log), {"emission"}, torch.device("meta"))
    assert not kernels.serves(compiled(dual(SEMIRINGS["KL"].semiring)), {"emission"}, HERE)  # takes two sweeps
