"""Potentials: what shapes are taken and refused, what errors say, and the two converters against formulas of their own."""

from __future__ import annotations

import itertools

import oracle
import pytest
import tables
import torch
from models import CLASSES, EXACT, case, f64, inf, of_every_batch_shape, seeded
from torch import Tensor

from semicrf import EdgePotentials, FactoredPotentials, Potentials, SegmentPotentials, SemiCRFDistribution
from semicrf.errors import InputError

T, K, C = 5, 3, 2
OWN = oracle.shapes(T, K, C)
MAIN = {"factored": "emission", "duration_transition": "emission", "segment": "segment", "edge": "edge"}


def zeros(*names: str, batch: tuple[int, ...] = ()) -> dict[str, Tensor]:
    return {n: torch.zeros(*batch, *OWN[n]) for n in names}


# --- Shapes that are taken ---


@of_every_batch_shape
@pytest.mark.parametrize("family", CLASSES)
def test_every_part_alone_shared_or_per_sequence(family, batch_shape):
    """It lands in the normal form: one row for each sequence, or one for all."""
    main = MAIN[family]
    for name in tables.FAMILIES[family]:
        for own in {(), batch_shape} if name not in oracle.POSITIONAL else {batch_shape}:
            given = zeros(main, batch=batch_shape) | {name: torch.randn(*own, *OWN[name], generator=seeded())}
            options = (
                {"max_duration": K}
                if main == "emission" and not {"duration", "duration_transition"} & set(given)
                else {}
            )
            p = CLASSES[family](**given, **options)
            assert isinstance(p, Potentials)
            assert (p.batch_shape, p.T, p.K, p.C) == (batch_shape, T, K, C)
            assert set(p.parts) == set(given)
            B = torch.Size(batch_shape).numel() if own == batch_shape else 1
            assert torch.equal(p.parts[name], given[name].reshape(B, *OWN[name]))
            assert torch.equal(p.full(name), given[name].expand(*batch_shape, *OWN[name]).reshape(-1, *OWN[name]))


def test_where_the_longest_segment_is_read_from():
    emission = torch.zeros(2, T, C)
    assert FactoredPotentials(emission).K == T  # nothing says it: no limit
    assert FactoredPotentials(emission, max_duration=9).K == 9
    assert FactoredPotentials(emission, duration=torch.zeros(4, C)).K == 4
    assert FactoredPotentials(emission, duration=torch.zeros(2, 4, C)).K == 4
    assert FactoredPotentials(emission, duration_transition=torch.zeros(4, C, C)).K == 4
    assert FactoredPotentials(emission, duration_transition=torch.zeros(4, C, C), max_duration=4).K == 4
    assert SegmentPotentials(torch.zeros(T, 7, C)).K == 7  # beyond T
    assert EdgePotentials(torch.zeros(T, 7, C, C)).K == 7


def test_absent_parts_are_zeros():
    c = case("duration_transition", batch_shape=(2,), lengths=(T, T))
    for name in set(oracle.FACTORED) - {"emission"}:
        given = {n: t.detach() for n, t in c.parts.items() if n != name}
        absent, explicit = (
            FactoredPotentials(**given),
            FactoredPotentials(**given, **{name: torch.zeros_like(c.parts[name])}),
        )
        for p in (absent, explicit):
            assert p.K == K
        a, b = (SemiCRFDistribution(p) for p in (absent, explicit))
        tables.assert_values(a.log_partition, b.log_partition, EXACT)
        tables.assert_values(a.marginals.edge, b.marginals.edge, EXACT)
        assert not SemiCRFDistribution(absent).potentials.full(name).any()


def test_transition_and_duration_can_be_given_by_position():
    transition, duration = torch.randn(C, C), torch.randn(K, C)
    p = FactoredPotentials(torch.zeros(T, C), transition, duration)
    assert torch.equal(p.parts["transition"][0], transition)
    assert torch.equal(p.parts["duration"][0], duration)
    assert torch.equal(SegmentPotentials(torch.zeros(T, K, C), transition).parts["transition"][0], transition)


def test_any_floating_dtype():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        p = FactoredPotentials(torch.zeros(T, C, dtype=dtype), torch.zeros(C, C, dtype=dtype))
        assert p.dtype == dtype
        assert p.device == torch.device("cpu")


# --- Shapes and kinds that are refused ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"emission": [[0.0]]}, "emission: got a list; expected a floating tensor. Likely fix: convert emission with"),
        ({"emission": torch.zeros(T, C).long()}, "emission: got dtype torch.int64; expected a floating tensor"),
        ({"emission": torch.zeros(C)}, r"emission: got shape \(2,\); expected \(\.\.\., T, C\), no axis empty"),
        (
            {"emission": torch.zeros(2, 0, C)},
            r"emission: got shape \(2, 0, 2\); expected \(\.\.\., T, C\), no axis empty",
        ),
        ({"emission": torch.zeros(2, T, 0)}, r"emission: got shape \(2, 5, 0\); expected"),
        ({"transition": torch.zeros(C, C + 1)}, r"transition: got shape \(2, 3\); expected \(2, 2\) or \(4, 2, 2\)"),
        ({"transition": torch.zeros(3, C, C)}, r"transition: got shape \(3, 2, 2\); expected \(2, 2\) or \(4, 2, 2\)"),
        ({"transition": 0.0}, "transition: got a float; expected a floating tensor"),
        ({"transition": torch.zeros(C, C).bool()}, "transition: got dtype torch.bool; expected a floating tensor"),
        ({"duration": torch.zeros(C)}, r"duration: got shape \(2,\); expected 2 axes at least"),
        (
            {"duration": torch.zeros(C, K)},
            r"duration: got shape \(2, 3\); expected .*\(K=2, C=2\). Likely fix: check the order",
        ),
        ({"duration": torch.zeros(3, K, C)}, r"duration: got shape \(3, 3, 2\); expected \(3, 2\) or \(4, 3, 2\)"),
        ({"duration": torch.zeros(0, C)}, "max_duration: got 0; expected an integer of at least 1"),
        ({"duration_transition": torch.zeros(C, C)}, r"duration_transition: got shape \(2, 2\); expected 3 axes"),
        (
            {"duration": torch.zeros(K, C), "duration_transition": torch.zeros(4, C, C)},
            r"duration_transition: got shape",
        ),
        ({"start": torch.zeros(C + 1)}, r"start: got shape \(3,\); expected \(2,\) or \(4, 2\), that is \(C=2\)"),
        ({"end": torch.zeros(1)}, r"end: got shape \(1,\); expected"),
        (
            {"segment_start": torch.zeros(4, T + 1, C)},
            r"segment_start: got shape \(4, 6, 2\); expected \(5, 2\) or \(4, 5, 2\)",
        ),
        ({"segment_end": torch.zeros(T)}, r"segment_end: got shape \(5,\); expected .*\(T=5, C=2\)"),
        ({"max_duration": 0}, "max_duration: got 0; expected an integer of at least 1"),
        ({"max_duration": 2.0}, "max_duration: got 2.0; expected an integer of at least 1"),
        (
            {"max_duration": K, "duration": torch.zeros(K, C)},
            "max_duration: got 3; expected None, as duration has K rows",
        ),
        (
            {"max_duration": 2, "duration_transition": torch.zeros(K, C, C)},
            r"duration_transition: got shape \(3, 2, 2\)",
        ),
        (
            {"transition": torch.zeros(C, C).double()},
            "transition: got torch.float64 on cpu; expected torch.float32 on cpu",
        ),
        ({"start": torch.zeros(C, device="meta")}, "start: got torch.float32 on meta; expected torch.float32 on cpu"),
    ],
)
def test_factored_potentials_refuse(given, message):
    with pytest.raises(InputError, match=message):
        FactoredPotentials(**({"emission": torch.zeros(4, T, C)} | given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SegmentPotentials(torch.zeros(K, C)), r"segment: got shape \(3, 2\); expected \(\.\.\., T, K, C\)"),
        (
            lambda: SegmentPotentials(torch.zeros(T, 0, C)),
            r"segment: got shape \(5, 0, 2\); expected \(\.\.\., T, K, C\)",
        ),
        (
            lambda: SegmentPotentials(torch.zeros(T, K, C), torch.zeros(K, K)),
            r"transition: got shape \(3, 3\); expected",
        ),
        (
            lambda: SegmentPotentials(torch.zeros(T, K, C), start=torch.zeros(2, C)),
            r"start: got shape \(2, 2\); expected \(2,\)",
        ),
        (lambda: SegmentPotentials(None), "segment: got a NoneType; expected a floating tensor"),
        (lambda: EdgePotentials(torch.zeros(T, K, C)), r"edge: got shape \(5, 3, 2\); expected \(\.\.\., T, K, C, C\)"),
        (lambda: EdgePotentials(torch.zeros(T, K, C, 4)), r"edge: got shape \(5, 3, 2, 4\); .* equal last axes"),
        (
            lambda: EdgePotentials(torch.zeros(T, K, C, C), end=torch.zeros(4)),
            r"end: got shape \(4,\); expected \(2,\)",
        ),
        (
            lambda: EdgePotentials(torch.zeros(T, K, C, C).int()),
            "edge: got dtype torch.int32; expected a floating tensor",
        ),
    ],
)
def test_the_other_classes_refuse(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- Converters ---


def every_path(n: int) -> list[tuple[int, oracle.Segmentation]]:
    """A free label before the first segment, and a segmentation."""
    return list(itertools.product(range(C), oracle.segmentations(n, K, C)))


def check_converter(d: SemiCRFDistribution, scores: list[Tensor], first: str) -> None:
    """log Z and marginals with the free label summed out, or maximum and argmax with it maximised; gradients of both."""
    for b, n in enumerate(d.lengths.tolist()):
        paths = every_path(n)
        if first == "sum":
            tables.assert_values(d.log_partition[b], scores[b].logsumexp(0).detach(), EXACT)
            for view, count in COUNTS.items():
                counts = torch.stack([count(y) for _, y in paths])
                p = scores[b].softmax(0).reshape(-1, *[1] * (counts.dim() - 1))
                tables.assert_values(getattr(d.marginals, view)[b], (p * counts).sum(0).detach(), EXACT)
            collapsed = scores[b].reshape(C, -1).logsumexp(0)
            h = -(collapsed.softmax(0) * collapsed.log_softmax(0)).sum()
            tables.assert_values(d.entropy()[b], h.detach(), EXACT)
        else:
            best = [i for i, (_, y) in enumerate(paths) if list(y) == d.argmax[b].tolist()]
            tables.assert_values(d.max[b], scores[b].max().detach(), EXACT)
            tables.assert_values(d.max[b], scores[b][best].max().detach(), EXACT)  # durations exchanged score the same


def counted(shape: tuple[int, ...], places: list[tuple[int, ...]]) -> Tensor:
    count = torch.zeros(shape, dtype=torch.float64)
    for place in places:
        count[place] += 1
    return count


COUNTS = {
    "position": lambda y: counted((T, C), [(t, c) for s, e, c in y for t in range(s, e)]),
    "transition": lambda y: counted((C, C), [(a[2], b[2]) for a, b in itertools.pairwise(y)]),
    "duration": lambda y: counted((K, C), [(e - s - 1, c) for s, e, c in y]),
}


def gradients_agree(value: Tensor, wanted: Tensor, leaves: list[Tensor]) -> None:
    for got, want in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        tables.assert_gradient("", got[None], [want], EXACT)


@pytest.mark.parametrize("first", ["sum", "max"])
@pytest.mark.parametrize("shared", [True, False])
def test_from_cumulative_scores(first, shared):
    """score = sum of cum[end] - cum[start] + bias[duration - 1] + transition[previous, label], a free label first."""
    g, lengths = seeded(1), [T, 2, T - 1]
    own = () if shared else (3,)
    emission = torch.randn(3, T, C, generator=g, dtype=torch.float64)
    cum = torch.nn.functional.pad(emission.cumsum(1), (0, 0, 1, 0)).requires_grad_()
    transition = torch.randn(*own, C, C, generator=g, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(*own, K, C, generator=g, dtype=torch.float64, requires_grad=True)
    d = SemiCRFDistribution(FactoredPotentials.from_cumulative_scores(cum, transition, bias, first=first), lengths)
    assert (d.batch_shape, d.T, d.K, d.C) == ((3,), T, K, C)
    scores = []
    for b, n in enumerate(lengths):
        trans, dur = (transition, bias) if shared else (transition[b], bias[b])
        values = []
        for before, y in every_path(n):
            total, previous = cum[b, 0, 0] * 0.0, before
            for s, e, c in y:
                total = total + cum[b, e, c] - cum[b, s, c] + dur[e - s - 1, c] + trans[previous, c]
                previous = c
            values.append(total)
        scores.append(torch.stack(values))
    check_converter(d, scores, first)
    wanted = torch.stack([s.logsumexp(0) if first == "sum" else s.max() for s in scores]).sum()
    gradients_agree((d.log_partition if first == "sum" else d.max).sum(), wanted, [cum, transition, bias])


@pytest.mark.parametrize("first", ["sum", "max"])
def test_from_torch_struct(first):
    """score = sum of log_potentials[start, duration, label, previous], a free label first; row 0 of durations is dead."""
    g, lengths = seeded(2), [T, 2, T - 1]
    given = torch.randn(3, T, K + 1, C, C, generator=g, dtype=torch.float64)
    given[:, :, 0] = torch.nan  # never read
    for b, n in enumerate(lengths):
        given[b, n:] = torch.nan
    given.requires_grad_()
    d = SemiCRFDistribution(EdgePotentials.from_torch_struct(given, first=first), lengths)
    assert (d.batch_shape, d.T, d.K, d.C) == ((3,), T, K, C)
    scores = []
    for b, n in enumerate(lengths):
        values = []
        for before, y in every_path(n):
            labels = [before, *(c for _, _, c in y)]
            terms = [given[b, s, e - s, c, previous] for (s, e, c), previous in zip(y, labels, strict=False)]
            values.append(torch.stack(terms).sum())
        scores.append(torch.stack(values))
    check_converter(d, scores, first)
    wanted = torch.stack([s.logsumexp(0) if first == "sum" else s.max() for s in scores]).sum()
    gradients_agree((d.log_partition if first == "sum" else d.max).sum(), wanted, [given])


@pytest.mark.parametrize("first", ["sum", "max"])
def test_converters_of_forbidden_and_tied_first_labels(first):
    """A label that none leads to stays forbidden, with gradient 0; of equal labels before it, the smallest has it all."""
    transition = f64([[0.0, -inf, 0.0], [0.0, -inf, -inf], [-inf, -inf, 0.0]], requires_grad=True)
    cum = torch.zeros(T + 1, 3, dtype=torch.float64)
    by_factors = FactoredPotentials.from_cumulative_scores(cum, transition, torch.zeros(K, 3).double(), first=first)
    struct = transition.mT.expand(T, K + 1, 3, 3)
    for p in (by_factors, EdgePotentials.from_torch_struct(struct, first=first)):
        d = SemiCRFDistribution(p)
        assert d.marginals.position[:, 1].abs().max() == 0
        grad = torch.autograd.grad(d.log_partition if first == "sum" else d.max, transition)[0]
        assert grad.isfinite().all()
        assert (grad[transition == -inf] == 0).all()
        if first == "max":
            best = d.argmax.tolist()
            labels = [0, *(c for _, _, c in best)]
            want = torch.zeros(3, 3)
            for a, b in itertools.pairwise(labels):
                want[a, b] += 1
            assert torch.equal(grad.float(), want)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m([0.0], *shared_arguments()), "cum_scores: got a list; expected a floating tensor"),
        (lambda m: m(torch.zeros(T + 1, C).long(), *shared_arguments()), "cum_scores: got dtype torch.int64"),
        (
            lambda m: m(torch.zeros(1, C), *shared_arguments()),
            r"cum_scores: got shape \(1, 2\); expected \(\.\.\., T \+ 1, C\)",
        ),
        (lambda m: m(torch.zeros(C), *shared_arguments()), r"cum_scores: got shape \(2,\)"),
        (
            lambda m: m(torch.zeros(T + 1, C), torch.zeros(C), torch.zeros(K, C)),
            r"transition: got shape \(2,\); expected \(2, 2\)",
        ),
        (lambda m: m(torch.zeros(T + 1, C), None, torch.zeros(K, C)), "transition: got a NoneType"),
        (lambda m: m(torch.zeros(T + 1, C), torch.zeros(C, C), torch.zeros(K)), r"duration: got shape \(3,\)"),
        (
            lambda m: m(torch.zeros(T + 1, C), *shared_arguments(), first="mean"),
            "first: got 'mean'; expected 'sum' or 'max'",
        ),
    ],
)
def test_from_cumulative_scores_refuses(make, message):
    with pytest.raises(InputError, match=message):
        make(FactoredPotentials.from_cumulative_scores)


def shared_arguments() -> tuple[Tensor, Tensor]:
    return torch.zeros(C, C), torch.zeros(K, C)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.0, "log_potentials: got a float; expected a floating tensor"),
        (torch.zeros(T, C, C), r"log_potentials: got shape \(5, 2, 2\)"),
        (
            torch.zeros(T, 1, C, C),
            r"log_potentials: got shape \(5, 1, 2, 2\); expected \(\.\.\., T, K \+ 1, C, C\) with K >= 1",
        ),
        (torch.zeros(T, K, C, 4), r"log_potentials: got shape \(5, 3, 2, 4\); expected .* equal last axes"),
        (torch.zeros(T, K, C, C).long(), "log_potentials: got dtype torch.int64"),
    ],
)
def test_from_torch_struct_refuses(given, message):
    with pytest.raises(InputError, match=message):
        EdgePotentials.from_torch_struct(given)
    with pytest.raises(InputError, match="first: got 1; expected 'sum' or 'max'"):
        EdgePotentials.from_torch_struct(torch.zeros(T, K, C, C), first=1)  # pyright: ignore[reportArgumentType]
