"""Time cut into chunks: the same answer as in one piece, whatever the input, and the junctions say how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tables import LONG, assert_same_bits_on_threads
from torch import Tensor

import semicrf
from benchmarks import families
from benchmarks.families import FAMILIES
from semicrf.algebra import KL, CrossEntropy, Entropy, Expectation, KMax, Log, LogCount, Max, Semiring, Std, standard
from semicrf.compile import compiled, dual
from semicrf.compile.loglinear import loglinear
from semicrf.engine import chunks, reference
from semicrf.engine.chunks import Report, agreement, burn_in, cuts
from semicrf.engine.dispatch import BACKENDS
from semicrf.engine.reference import State

pytestmark = pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed")

inf = float("inf")
Parts = dict[str, Tensor]
T, K, C = 1200, 12, 4


def random(seed: int, T: int = T, K: int = K, C: int = C, B: int = 1) -> Parts:
    return families.random(seed, T, K, C, B)


TIED = ("sticky", "stickier", "forgets at first", "forgets at last")
"""Nothing tells labels apart here, and a segment may end anywhere."""


# ------------------------------------------------------------------ running in chunks
@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of so few positions that tests have many."""
    monkeypatch.setattr(chunks, "WORK", 1)
    monkeypatch.setattr(chunks, "SHARE", 1)


def run(semiring: type[Semiring], models: list[Parts], lengths: Tensor) -> tuple[State, list[Parts], list[Report]]:
    program, engine = compiled(semiring), BACKENDS["cpu"]
    size = models[0]["emission"].shape[1], models[0]["duration"].shape[1], models[0]["emission"].shape[2]
    wanted = [{n for n, t in m.items() if t.is_floating_point()} for m in models]
    with chunks.recording() as reports:
        state = engine.scan(program, models, lengths, *size, True)
        cotangent = torch.linspace(0.5, 1.0, program.width, dtype=torch.float64)[:, None].expand_as(state.value)
        return state, engine.scan_vjp(program, models, lengths, *size, state, cotangent, wanted), reports


def in_one_piece(semiring: type[Semiring], models: list[Parts], lengths: Tensor) -> tuple[State, list[Parts]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "WORK", inf)
        state, gradients, reports = run(semiring, models, lengths)
    assert not reports
    return state, gradients


def assert_same(got: tuple, wanted: tuple, scale: float) -> None:
    for x, y in ((got[0].value, wanted[0].value), (got[0].alpha, wanted[0].alpha), (got[0].g, wanted[0].g)):
        finite = y.isfinite() & (y[0] > -inf)  # of nothing there is no mean
        assert torch.equal(x[0] > -inf, y[0] > -inf)
        assert ((x - y)[finite].abs() <= LONG[scale] * (1 + y[finite].abs())).all()
    for x, y in zip(got[1], wanted[1], strict=True):
        for name in y:
            assert x[name].isfinite().all()
            assert (x[name] - y[name]).abs().max() <= LONG[scale] * (1 + y[name].abs().max()), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("semiring", [Log, Entropy, KL])
def test_chunks_are_one_piece(short, semiring, family):
    change, scale = FAMILIES[family]
    models = [change(random(i)) for i in range(semiring.potentials)]
    lengths = torch.tensor([T])
    got = run(semiring, models, lengths)
    assert_same(got, in_one_piece(semiring, models, lengths), scale)
    assert all(r.disagreements == [] or max(r.disagreements) < 1e-9 for r in got[2])
    assert all(r.deviation < LONG[scale] * (1 + got[0].value[0].abs().max()) for r in got[2])


@pytest.mark.parametrize("semiring", [Std, LogCount, CrossEntropy, Expectation])
def test_other_sums(short, semiring):
    models = [random(i) for i in range(semiring.potentials)]
    lengths = torch.tensor([T])
    got = run(semiring, models, lengths)
    assert got[2]
    assert_same(got, in_one_piece(semiring, models, lengths), 1.0)


@pytest.mark.parametrize("size", [(700, 1, 3), (400, 2, 9), (1200, 40, 2), (900, 17, 17)])
def test_sizes(short, size):
    models, lengths = [random(3, *size)], torch.tensor([size[0]])
    got = run(Entropy, models, lengths)
    assert got[2]
    assert_same(got, in_one_piece(Entropy, models, lengths), 1.0)


def best_path(m: Parts, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Report]]:
    engine, size = BACKENDS["cpu"], (m["emission"].shape[1], K, C)
    with chunks.recording() as reports:
        state = engine.choices(compiled(Max), [m], lengths, *size)
    return *engine.best(lengths, state.alpha_id, state.g_id, state.end_id), state.value, reports


def score(m: Parts, marks: Tensor, labels: Tensor) -> float:
    """Of a segmentation of the first sequence, which is not shorter than the batch."""
    starts = marks[0].nonzero().flatten().tolist()
    total, previous = float(m["start"][0, labels[0, 0]]), None
    for s, end in zip(starts, [*starts[1:], len(marks[0])], strict=True):
        c = labels[0, s]
        total += float(m["emission"][0, s:end, c].sum() + m["duration"][0, end - s - 1, c])
        total += float(m["segment_start"][0, s, c] + m["segment_end"][0, end - 1, c])
        total += 0.0 if previous is None else float(m["transition"][0, previous, c])
        previous = c
    return total + float(m["end"][0, previous])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole", [False, True])
def test_best_paths(short, family, whole):
    """The path of one piece, with ties too: a constant changes no comparison of whole numbers. Of other numbers, paths
    that are tied but for rounding are as good.
    """
    m, lengths = FAMILIES[family][0](random(0, B=2)), torch.tensor([T, T - 57])
    if whole:
        m = {n: t.round() if t.is_floating_point() else t for n, t in m.items()}
    marks, labels, value, reports = best_path(m, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "WORK", inf)
        expected = best_path(m, lengths)
    assert reports
    assert not expected[3]
    if whole or family not in TIED:
        assert torch.equal(marks, expected[0])
        assert torch.equal(labels, expected[1])
    if value[0, 0] > -inf:
        assert score(m, marks, labels) == pytest.approx(float(value[0, 0]), rel=LONG[1.0])
    torch.testing.assert_close(value, expected[2], rtol=LONG[1.0], atol=0.0)
    if whole:
        assert torch.equal(value, expected[2])


@pytest.mark.parametrize("semiring", [Max, Log])
def test_elements_of_one_number(short, semiring):
    """Over models that do not factor too; rows and gradients."""
    T_, K_, C_ = 300, 7, 9
    generator = torch.Generator().manual_seed(0)
    segment = torch.randn(1, T_, K_, C_, generator=generator, dtype=torch.float64)
    transition = torch.randn(1, C_, C_, generator=generator, dtype=torch.float64)
    models, lengths = [{"segment": segment, "transition": transition}], torch.tensor([T_])
    found = []
    for work in (1, inf):
        with pytest.MonkeyPatch.context() as patch, chunks.recording() as reports:
            patch.setattr(chunks, "WORK", work)
            engine, program = BACKENDS["cpu"], compiled(semiring)
            state = engine.scan(program, models, lengths, T_, K_, C_, True)
            one = torch.ones(1, 1, dtype=torch.float64)
            gradients = engine.scan_vjp(program, models, lengths, T_, K_, C_, state, one, [set(models[0])])
            assert bool(reports) == (work == 1)
        found.append((state.value, state.alpha + state.offset[..., None], *gradients[0].values()))
    for x, y in zip(*found, strict=True):
        finite = y.isfinite()
        assert torch.equal(x.isfinite(), finite)
        assert ((x - y)[finite].abs() <= LONG[1.0] * (1 + y[finite].abs())).all()


@pytest.mark.parametrize("semiring", [KMax(2), dual(Max)])
def test_elements_of_more_numbers_are_not_cut(short, semiring):
    models = [random(i, 200) for i in range(semiring.potentials)]
    assert not run(semiring, models, torch.tensor([200]))[2]


def test_ragged_batch(short):
    """Some sequences are cut, others too short for it."""
    models, lengths = [random(5, B=3)], torch.tensor([T, 40, T - 133])
    got = run(Entropy, models, lengths)
    assert {r.sequence for r in got[2]} == {0, 2}
    assert_same(got, in_one_piece(Entropy, models, lengths), 1.0)


def test_against_the_reference(short):
    models, lengths = [random(7, 500, 6, 3)], torch.tensor([500])
    program = compiled(Log)
    state, gradients, reports = run(Log, models, lengths)
    assert reports
    assert reports[0].chunks > 2
    expected = reference.scan(program, models, lengths, 500, 6, 3, True)
    wanted = reference.scan_vjp(
        program, models, lengths, 500, 6, 3, expected, torch.full((1, 1), 0.5, dtype=torch.float64), [set(models[0])]
    )
    assert abs(float(state.value - expected.value)) <= LONG[1.0] * (1 + abs(float(expected.value)))
    for name, gradient in wanted[0].items():
        assert (gradients[0][name] - gradient).abs().max() <= LONG[1.0] * (1 + gradient.abs().max()), name


@pytest.mark.parametrize("family", ["stickier", "forgets at first", "random"])
@pytest.mark.parametrize("penalty", [-1e6, -1e20, -3.4e38])
def test_a_label_switched_off_by_a_number_excuses_no_other(short, family, penalty):
    m = FAMILIES[family][0](random(0))
    m["emission"][:, :, 3] = penalty
    lengths = torch.tensor([T])
    assert_same(run(Entropy, [m], lengths), in_one_piece(Entropy, [m], lengths), 10.0)


def test_two_means_of_one_weight_are_not_cut(short):
    """They share the rows of that weight."""

    class Two(Expectation):
        fields = "logz", "mean", "other"
        potentials = 3
        zero, one = (-inf, 0.0, 0.0), (0.0, 0.0, 0.0)
        lift = lambda w, f, g: (w, f, g)  # noqa: E731  one line a rule, as semirings are written
        mul = lambda a, b: (a.logz + b.logz, a.mean + b.mean, a.other + b.other)  # noqa: E731
        divide = lambda a, b: (a.logz - b.logz, a.mean - b.mean, a.other - b.other)  # noqa: E731

        def sum(x: Any) -> Any:
            logz = standard.lse(x.logz)
            means = (standard.total(standard.weigh(standard.ratio(x.logz, logz), m)) for m in (x.mean, x.other))
            return logz, *means

    form = loglinear(compiled(Two))
    assert form is not None
    assert [mean.weight for mean in form.means] == [0, 0]
    models = [random(i) for i in range(3)]
    got = run(Two, models, torch.tensor([T]))
    assert not got[2]
    single = run(Expectation, models[:2], torch.tensor([T]))
    assert single[2]
    torch.testing.assert_close(got[0].value[:2], single[0].value, rtol=LONG[1.0], atol=LONG[1.0])


def test_wrong_guesses_are_mended(short):
    """Each half alone would be cut without a repair, or not at all."""
    for family, backward in (("forgets at first", False), ("forgets at last", True)):
        _, _, reports = run(Log, [FAMILIES[family][0](random(0))], torch.tensor([T]))
        found = next(r for r in reports if r.reversed == backward)
        other = next(r for r in reports if r.reversed != backward)
        assert found.chunks > 1
        assert found.repairs > 0
        assert other.chunks == 1


def test_what_does_not_forget_is_not_cut(short):
    for family in ("stickier", "never mixing", "one duration"):
        _, _, reports = run(Log, [FAMILIES[family][0](random(0))], torch.tensor([T]))
        assert [r.chunks for r in reports] == [1, 1]


def test_impossible_sequences(short):
    m = random(0)
    m["emission"][:, T // 2] = -inf
    state, gradients, _ = run(Entropy, [m], torch.tensor([T]))
    assert state.value[0] == -inf
    assert all((g == 0).all() for g in gradients[0].values())


def test_a_score_that_is_none_is_seen(short):
    """NaN in any chunk."""
    for t in (5, T // 2, T - 1):
        m = random(0)
        m["emission"][:, t, 1] = torch.nan
        state, _, _ = run(Log, [m], torch.tensor([T]))
        assert state.value.isnan().all()


def test_bits_do_not_depend_on_threads(short):
    models, lengths = [random(11)], torch.tensor([T])

    def tensors() -> list[Tensor]:
        state, gradients, _ = run(Entropy, models, lengths)
        return [state.value, state.alpha, *gradients[0].values()]

    assert_same_bits_on_threads(tensors)


@pytest.mark.parametrize("family", ["drifting", "peaked", "planted"])
def test_a_million_positions(family):
    """float32 in: the sequence seen from its end has the same totals, and every position has one label."""
    m = {n: t.float() for n, t in FAMILIES[family][0](random(0, 1_000_000, 10, 3)).items()}
    m["emission"].requires_grad_()
    log_z, entropy, mass = [], [], []
    for flip in (False, True):
        parts = m
        if flip:
            parts = {"emission": m["emission"].flip(1), "duration": m["duration"], "transition": m["transition"].mT}
            parts |= {"segment_start": m["segment_end"].flip(1), "segment_end": m["segment_start"].flip(1)}
            parts |= {"start": m["end"], "end": m["start"]}
        state, _, reports = run(Entropy, [parts], torch.tensor([1_000_000]))
        assert all(r.chunks == 2 and r.repairs == 0 and r.deviation < 1e-7 for r in reports)
        log_z.append(state.value[0])
        entropy.append(state.value[1])
        one: dict[str, Any] = {n: t[0] for n, t in parts.items()}
        d = semicrf.SemiCRFDistribution(semicrf.FactoredPotentials(**one))
        (gradient,) = torch.autograd.grad(d.log_partition, [m["emission"]])
        mass.append(gradient[0])
    assert abs(log_z[0] - log_z[1]) <= 1e-12 * abs(log_z[0])
    assert abs(entropy[0] - entropy[1]) <= 1e-9 * abs(entropy[0])
    assert (mass[0].sum(-1) - 1.0).abs().max() < 1e-6  # in float32
    assert (mass[0] - mass[1]).abs().max() < 1e-6


# ------------------------------------------------------------------ the plan and the certificate
def test_cuts_depend_on_shapes_alone():
    assert cuts(1000, 1, 16, 4) == []  # too little work
    assert cuts(100_000, 32, 100, 24) == []  # enough sequences
    assert cuts(100_000, 1, 1000, 24) == [50_000]
    assert len(cuts(1_000_000, 1, 100, 24)) == 7
    assert len(cuts(1_000_000, 4, 100, 24)) == 1
    for T_, B, K_ in [(123_457, 1, 100), (999_999, 3, 7), (50_001, 2, 1)]:
        at = [0, *cuts(T_, B, K_, 24), T_]
        assert min(np.diff(at)) >= burn_in(K_)


def test_agreement():
    rows = np.log(np.random.default_rng(0).random((5, 3)))
    means = np.random.default_rng(1).random((5, 3))
    rows[2, 1] = -inf
    same = agreement(rows + 7.0, means - 2.0, rows, means)
    assert same.accepted
    assert (abs(same.weight - 7.0), abs(same.mean + 2.0)) < (1e-12, 1e-12)
    for weight, mean in [(1e-6, 0.0), (0.0, 1e-6)]:
        other, moved = rows.copy(), means.copy()
        other[0, 0] += weight
        moved[0, 0] += mean
        found = agreement(other, moved, rows, means)
        assert not found.accepted
        assert found.disagreement == pytest.approx(1e-6, rel=1e-3)
    more = rows.copy()
    more[2, 1] = 0.0
    assert not agreement(more, means, rows, means).accepted
    more[2, 1] = np.nan
    assert not agreement(more, means, rows, means).accepted
    nothing = np.full_like(rows, -inf)
    assert agreement(nothing, means, nothing, means).accepted


def test_diagnostics(short):
    emission = random(0, B=2)["emission"]
    d = semicrf.SemiCRFDistribution(
        semicrf.FactoredPotentials(emission, max_duration=K), lengths=torch.tensor([T, 30]), backend="cpu"
    ).diagnostics
    assert d.chunks.tolist() == [4, 1]
    assert d.burn_in.tolist() == [burn_in(K), 0]
    assert d.repairs.tolist() == [0, 0]
    assert 0 < d.disagreement[0] < 1e-11
    assert d.disagreement[0] <= d.disagreement_sum[0] < 1e-9
    assert d.cut_deviation[0] < 1e-9
    assert d.disagreement[1] == d.disagreement_sum[1] == d.cut_deviation[1] == 0


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_diagnostics_where_nothing_is_cut(backend):
    d = semicrf.SemiCRFDistribution(semicrf.FactoredPotentials(torch.zeros(2, 3, 5, 2)), backend=backend)
    found = d.diagnostics
    assert found.chunks.tolist() == [[1] * 3] * 2
    assert all(x.shape == (2, 3) for x in found)
    assert all((x == 0).all() for x in found[1:])
