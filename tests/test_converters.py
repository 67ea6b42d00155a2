"""The two converters against the score formulas of the conventions that they read, with a free label at first."""

from __future__ import annotations

import itertools

import oracle
import pytest
import tables
import torch
from models import EXACT, f64, inf, seeded
from torch import Tensor

from semicrf import EdgePotentials, FactoredPotentials, SemiCRFDistribution
from semicrf.errors import InputError

T, K, C = 4, 3, 2


# --- Converters ---


def every_path(n: int) -> list[tuple[int, oracle.Segmentation]]:
    """A free label before the first segment, and a segmentation."""
    return list(itertools.product(range(C), oracle.segmentations(n, K, C)))


def check_converter(d: SemiCRFDistribution, scores: list[Tensor], first: str) -> None:
    """log Z and marginals with the free label summed out, or the best segmentation with it maximised."""
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
    """score = sum of log_potentials[start, duration, label, previous], a free label first; duration row 0 is dead."""
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
    """A label that none leads to stays forbidden, with gradient 0; of equal ones before it, the smallest has it all."""
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
        (torch.zeros(T, C, C), r"log_potentials: got shape \(4, 2, 2\)"),
        (
            torch.zeros(T, 1, C, C),
            r"log_potentials: got shape \(4, 1, 2, 2\); expected \(\.\.\., T, K \+ 1, C, C\) with K >= 1",
        ),
        (torch.zeros(T, K, C, 4), r"log_potentials: got shape \(4, 3, 2, 4\); expected .* equal last axes"),
        (torch.zeros(T, K, C, C).long(), "log_potentials: got dtype torch.int64"),
    ],
)
def test_from_torch_struct_refuses(given, message):
    with pytest.raises(InputError, match=message):
        EdgePotentials.from_torch_struct(given)
    with pytest.raises(InputError, match="first: got 1; expected 'sum' or 'max'"):
        EdgePotentials.from_torch_struct(torch.zeros(T, K, C, C), first=1)  # pyright: ignore[reportArgumentType]  the mistake under test
