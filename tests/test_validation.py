"""Bad input is refused in words that help; good input is left alone."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import CLASSES, VIEWS, case, inf, nan, of_every_family, seeded
from torch import Tensor

from semicrf import BackendError, Evidence, FactoredPotentials, Segments, SemiCRFDistribution
from semicrf.engine import dispatch
from semicrf.errors import InputError

SINGLE = tables.TOLERANCE[torch.float32]


def everything(d: SemiCRFDistribution, q: SemiCRFDistribution) -> dict[str, Tensor]:
    """Every floating result of a distribution."""
    m, best = d.marginals, d.argmax
    assert best.score is not None
    return {
        "log_partition": d.log_partition, "max": d.max, "kmax": d.kmax(3), "entropy": d.entropy(),
        "perplexity": d.perplexity(), "cross_entropy": d.cross_entropy(q), "kl": d.kl(q), "log_count": d.log_count,
        "score": d.score(best),
        "log_prob": d.log_prob(best), "argmax.score": best.score, "expectation": d.expectation(q.potentials),
        "variance": d.variance(q.potentials), "evidence": d.log_prob(Evidence(segments=best)),
        "temperature": d.with_temperature(2.0).entropy(), "segment": m.segment(best),
        **{v: getattr(m, v) for v in VIEWS},
        **{f"reduce({s}).{k}": v for s in ("log", "entropy", "std") for k, v in d.reduce(s)._asdict().items()},
    }  # fmt: skip


# --- Lengths ---


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5, 0], r"lengths: got values 0\.\.5; expected 1\.\.5, T of the potentials. Likely fix: drop empty sequences"),
        ([5, 6], r"lengths: got values 5\.\.6; expected 1\.\.5"),
        ([-1, 2], r"lengths: got values -1\.\.2; expected 1\.\.5"),
        (
            torch.tensor([5.0, 2.0]),
            r"lengths: got dtype torch.float32; expected an integer dtype. Likely fix: lengths.long\(\)",
        ),
        (torch.tensor([True, True]), "lengths: got dtype torch.bool; expected an integer dtype"),
        (torch.ones(2) * 1j, "lengths: got dtype torch.complex64"),
        ([1.5, 2.0], "lengths: got dtype torch.float32"),
        (
            torch.tensor([5, 2, 1]),
            r"lengths: got shape \(3,\); expected \(2,\), the batch shape. Likely fix: one length per",
        ),
        (5, r"lengths: got shape \(\); expected \(2,\)"),
        (torch.tensor([[5, 2]]), r"lengths: got shape \(1, 2\); expected \(2,\)"),
        (
            torch.tensor([5, 2], device="meta"),
            r"lengths: got device meta; expected cpu. Likely fix: lengths.to\('cpu'\)",
        ),
        ("ab", r"lengths: got 'ab'; expected integers of shape \(2,\)"),
        ([[1], [2, 3]], r"lengths: got \[\[1\], \[2, 3\]\]; expected integers"),
    ],
)
def test_lengths_that_do_not_fit(lengths, message):
    with pytest.raises(InputError, match=message):
        SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 5, 3)), lengths)


def test_lengths_of_any_integer_dtype():
    p = case("factored", batch_shape=(2,), lengths=(5, 2)).potentials
    wanted = SemiCRFDistribution(p, [5, 2]).log_partition
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        d = SemiCRFDistribution(p, torch.tensor([5, 2], dtype=dtype))
        assert torch.equal(d.log_partition, wanted)
        assert d.lengths.dtype == torch.int64
    assert SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 5, 3))).lengths.tolist() == [5, 5]
    assert SemiCRFDistribution(FactoredPotentials(torch.zeros(5, 3)), torch.tensor(4)).lengths.item() == 4


# --- Values ---


@of_every_family
@pytest.mark.parametrize(("value", "kind"), [(nan, "NaN"), (inf, r"\+inf")])
def test_nan_and_plus_infinity_are_refused_where_they_are_read(family, value, kind):
    """In every part, at its first and last entry that is read; the error names the part."""
    c = case(family, batch_shape=(2,), lengths=(5, 3))
    for name in c.parts:
        for b in (0, 1):
            read = oracle.marginals(*c.sequences()[b])
            places = {
                "emission": read["position"] > 0, "segment_start": read["position"] > 0,
                "segment_end": read["position"] > 0, "segment": read["segments"] > 0, "edge": read["edge"] > 0,
            }.get(name, torch.ones(c.parts[name].shape[1:], dtype=torch.bool)).nonzero()  # fmt: skip
            for place in (places[0], places[-1]):
                bad = {n: t.detach().clone() for n, t in c.parts.items()}
                bad[name][(b, *place.tolist())] = value
                p = CLASSES[family](**bad)
                with pytest.raises(
                    InputError, match=f"{name}: got {kind} within the lengths; expected finite numbers or -inf"
                ):
                    SemiCRFDistribution(p, c.lengths)
                with pytest.raises(InputError, match=name):
                    SemiCRFDistribution(p, c.lengths, validate_args=True)
                SemiCRFDistribution(p, c.lengths, validate_args=False)


@of_every_family
def test_what_lies_past_a_length_changes_no_bit(family):
    """NaN, +inf, -inf or a number: all results and gradients are the same, bit for bit, and the gradient there is 0."""
    results = []
    for value in (0.25, nan, inf, -inf):
        cases = []
        for seed in (0, 1):
            c = case(family, seed=seed)
            parts = {}
            for name, part in c.parts.items():
                filled = part.detach().clone()
                parts[name] = filled.masked_fill(filled.isnan(), value).requires_grad_()  # NaN marks what is not read
            cases.append((c, parts))
        (c, parts), (_, others) = cases
        d, q = (SemiCRFDistribution(CLASSES[family](**x), c.lengths) for x in (parts, others))
        values = everything(d, q)
        smooth = [v for n, v in values.items() if v.requires_grad]
        grads = torch.autograd.grad([v.sum() for v in smooth], list(parts.values()))
        for name, grad in zip(parts, grads, strict=True):
            assert (grad[c.parts[name].isnan()] == 0).all()
        results.append([*values.values(), *grads, d.count, d.argmax.start, d.sample((3,), generator=seeded()).start])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_without_validation_nothing_is_checked():
    """NaN goes through, and is seen in the result; shapes, dtypes and devices are checked all the same."""
    emission = torch.zeros(2, 5, 3)
    emission[0, 1, 1] = nan
    p = FactoredPotentials(emission, max_duration=2)
    assert SemiCRFDistribution(p, validate_args=False).log_partition.isnan().tolist() == [True, False]
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 5, 3), max_duration=2), validate_args=False)
    assert d.score([[(0, 2, 1), (4, 5, 1)], [(0, 1, 0)]]).tolist() == [0, 0]  # they do not tile
    with pytest.raises(InputError, match="lengths: got dtype"):
        SemiCRFDistribution(p, torch.ones(2), validate_args=False)
    with pytest.raises(InputError, match="lengths: got shape"):
        SemiCRFDistribution(p, [1], validate_args=False)
    derived = (
        d[0],
        d.expand((3, 2)),
        d.detach(),
        d.to(torch.float64),
        d.condition(Evidence(labels=torch.zeros(5).long())),
    )
    for e in derived:  # they do as they were told
        spoilt = e.potentials.map(lambda x: x + nan)
        assert e._with(spoilt).log_partition.isnan().all()
    checked = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 5, 3)), validate_args=True)
    with pytest.raises(InputError, match="emission: got NaN"):
        checked.to(torch.float64)._with(checked.potentials.map(lambda x: x + nan))


# --- Segmentations ---


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [[(0, 2, 0), (3, 5, 1)], [(0, 2, 0)]],
            r"sequence 0, segment 1: got \(3, 5, 1\); expected start 2, where the segment before",
        ),
        (
            [[(0, 3, 0), (2, 5, 1)], [(0, 2, 0)]],
            r"got \(2, 5, 1\); expected start 3.*Likely fix: leave no gap and no overlap",
        ),
        ([[(1, 3, 0), (3, 5, 1)], [(0, 2, 0)]], r"got \(1, 3, 0\); expected start 0"),
        ([[(0, 3, 0)], [(0, 2, 0)]], r"got \(0, 3, 0\); expected end 5, the length, as it is the last"),
        (
            [[(0, 3, 0), (3, 5, 1)], [(0, 3, 0)]],
            r"sequence 1, segment 0: got \(0, 3, 0\); expected end <= 2, the length",
        ),
        (
            [[(0, 4, 0), (4, 5, 1)], [(0, 2, 0)]],
            r"got \(0, 4, 0\); expected a duration of at most 3.*raise max_duration to 4",
        ),
        ([[(0, 3, 2), (3, 5, 1)], [(0, 2, 0)]], r"got \(0, 3, 2\); expected a label in 0\.\.1"),
        (
            [(0, 3, 0), (3, 5, 1)],
            r"value: got batch shape \(\); expected \(\.\.\., 2\). Likely fix: one segmentation for every",
        ),
        ([[(0, 3, 0), (3, 5, 1)]], r"value: got batch shape \(1,\); expected \(\.\.\., 2\)"),
        (torch.zeros(2, 5), r"segments: got a Tensor; expected Segments or nested lists of \(start, end, label\)"),
        (3, "segments: got a int; expected Segments"),
        ([[(0, 3)], [(0, 2, 0)]], "segments"),
        ([[(0, 3, -1), (3, 5, 1)], [(0, 2, 0)]], "segments"),
    ],
)
def test_segmentations_that_do_not_fit(value, message):
    d = case("factored", K=3, C=2, batch_shape=(2,), lengths=(5, 2)).d
    for f in (d.score, d.log_prob):
        with pytest.raises(InputError, match=message):
            f(value)


def test_segments_by_hand_are_checked_too():
    minus = torch.tensor([[0, 3], [0, -1]])
    d = case("factored", K=3, C=2, batch_shape=(2,), lengths=(5, 2)).d
    good = Segments(start=minus, end=torch.tensor([[3, 5], [2, -1]]), label=minus % 2, count=torch.tensor([2, 1]))
    assert d.log_prob(good).isfinite().all()
    for count in ([2, 3], [2, -1]):
        bad = Segments(start=good.start, end=good.end, label=good.label, count=torch.tensor(count))
        with pytest.raises(InputError, match="sequence 1: got count"):
            d.log_prob(bad)
    none = Segments(start=good.start, end=good.end, label=good.label, count=torch.tensor([2, 0]))
    assert d.log_prob(none).isneginf().tolist() == [False, True]


# --- Kinds of arguments ---


def test_arguments_of_the_wrong_kind():
    d = case("factored").d
    with pytest.raises(InputError, match=r"potentials: got a Tensor; expected .*FactoredPotentials"):
        SemiCRFDistribution(torch.zeros(2, 5, 3))  # pyright: ignore[reportArgumentType]  the mistake under test
    for f in (d.kl, d.cross_entropy, d.expectation, d.variance):
        with pytest.raises(InputError, match="other model: got a Tensor; expected potentials or a SemiCRFDistribution"):
            f(torch.zeros(2, 3, 5, 2))  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(
        InputError, match=r"other model: got \(batch, T, K, C, dtype\).*pad durations with -inf to one K"
    ):
        d.kl(case("factored", K=4).d)
    for other in (case("factored", C=3), case("factored", T=4), case("factored", batch_shape=(2,))):
        with pytest.raises(InputError, match="other model: got"):
            d.covariance(d.potentials, other.potentials)
    with pytest.raises(InputError, match=r"other model: got lengths \[\[5, .*; expected \[\[5"):
        d.kl(case("factored", lengths=(5, 5, 5, 5, 5, 5)).d)


@pytest.mark.parametrize("backend", ["cuda", "Reference", "", None])
def test_unknown_backends(backend):
    with pytest.raises(
        BackendError,
        match=rf"backend: got {backend!r}; expected one of \('auto', 'reference', 'blocked', 'cpu', 'triton'\)",
    ):
        SemiCRFDistribution(FactoredPotentials(torch.zeros(5, 2)), backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_backends_that_are_not_there_do_not_fall_back(backend, monkeypatch):
    monkeypatch.delitem(dispatch.BACKENDS, backend, raising=False)
    with pytest.raises(
        BackendError, match=f"backend: got '{backend}', which this installation does not have; expected one of"
    ):
        SemiCRFDistribution(FactoredPotentials(torch.zeros(5, 2)), backend=backend)


def test_every_error_of_the_library_is_also_python_s_own():
    for error, own in ((InputError, ValueError), (BackendError, RuntimeError)):
        assert issubclass(error, own)


# --- Good input is left alone ---


@of_every_family
def test_inputs_are_never_modified(family):
    p, q = case(family, holes=0.05), case(family, seed=1)
    inputs = [*p.parts.values(), *q.parts.values(), p.batch.lengths]
    before, versions = [x.detach().clone() for x in inputs], [x._version for x in inputs]
    d = p.d
    results = everything(d, q.d)
    labels = torch.zeros(2, 3, 5).long()
    d.condition(Evidence(labels=labels, boundary=labels - 1, allowed=torch.ones(2, 3, 5, 2).bool())).sample((2,))
    torch.autograd.grad([v.nansum() for v in results.values() if v.requires_grad], list(p.parts.values()))
    assert torch.equal(labels, torch.zeros_like(labels))
    for x, old, version in zip(inputs, before, versions, strict=True):
        assert torch.equal(x.nan_to_num(nan=-7.0), old.nan_to_num(nan=-7.0))
        assert x._version == version
        assert x.grad is None


@of_every_family
def test_no_graph_is_held_under_no_grad(family):
    p, q = case(family), case(family, seed=1)
    with torch.no_grad():
        results = everything(p.d, q.d)
    for name, value in results.items():
        assert not value.requires_grad, name
        assert value.grad_fn is None, name
    for name, value in everything(p.d, q.d).items():
        assert value.requires_grad == (name not in ("log_count", "argmax.score")), name
    constants = p.potentials.map(Tensor.detach)
    for name, value in everything(SemiCRFDistribution(constants, p.lengths), q.d.detach()).items():
        assert not value.requires_grad, name


@of_every_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_in_gives_float32_out(family, dtype):
    """Of the numbers that were given, as good as from float64; gradients in the dtype of the inputs."""
    low = {n: t.detach().to(dtype).requires_grad_() for n, t in case(family).parts.items()}
    other = {n: t.detach().to(dtype) for n, t in case(family, seed=1).parts.items()}
    lengths, make = case(family).lengths, CLASSES[family]
    d, q = (SemiCRFDistribution(make(**x), lengths) for x in (low, other))
    wide, wide_q = (SemiCRFDistribution(make(**{n: t.double() for n, t in x.items()}), lengths) for x in (low, other))
    assert d.dtype == torch.float32
    exact = everything(wide, wide_q)
    for name, value in everything(d, q).items():
        if name == "temperature" and dtype != torch.float32:
            continue  # scores divided by two are exact; others round
        assert value.dtype == torch.float32, name
        tables.assert_values(value, exact[name], SINGLE)
    assert d.count.dtype == torch.float64
    assert torch.equal(d.count, wide.count)
    assert d.sample((5,), generator=seeded()) == wide.sample((5,), generator=seeded())
    for grad, want in zip(
        *(torch.autograd.grad(x.entropy().sum(), list(low.values())) for x in (d, wide)), strict=True
    ):
        assert grad.dtype == dtype
        tables.assert_values(grad, want, {torch.float32: SINGLE}.get(dtype, torch.finfo(dtype).eps))


def test_a_loss_is_never_negative_in_float32():
    """The difference is taken in float64, for a segmentation that is as good as certain and for a long sequence."""
    emission = torch.randn(3000, 3, generator=seeded()) + 30 * torch.nn.functional.one_hot(
        torch.arange(3000) // 9 % 3, 3
    )
    d = SemiCRFDistribution(FactoredPotentials(emission, duration=torch.randn(12, 3, generator=seeded(1))))
    loss = -d.log_prob(d.argmax)
    assert loss.dtype == torch.float32
    assert loss >= -1e-12 * d.log_partition.abs()
    assert loss < 3000


def test_a_dtype_or_device_of_one_part_that_differs():
    for wrong, message in [
        (
            {"transition": torch.zeros(3, 3).double()},
            "transition: got torch.float64 on cpu; expected torch.float32 on cpu",
        ),
        ({"start": torch.zeros(3).half()}, "start: got torch.float16 on cpu"),
        ({"end": torch.zeros(3, device="meta")}, "end: got torch.float32 on meta"),
        ({"duration": torch.zeros(4, 3).long()}, "duration: got dtype torch.int64; expected a floating tensor"),
    ]:
        with pytest.raises(InputError, match=message):
            CLASSES["factored"](torch.zeros(2, 5, 3), **wrong)
