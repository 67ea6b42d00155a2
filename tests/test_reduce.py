"""`reduce`: the standard semirings and a user's own, one model or two."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import (
    BATCH_SHAPES,
    EXACT,
    case,
    check,
    f64,
    inf,
    on_the_grid,
)
from torch import Tensor

from semicrf import FactoredPotentials, SemiCRFDistribution
from semicrf.algebra import (
    KL,
    CrossEntropy,
    Entropy,
    Expectation,
    KMax,
    Log,
    LogCount,
    Max,
    Semiring,
    Std,
    largest,
    lse,
    ratio,
    smallest,
    total,
    weigh,
)  # fmt: skip
from semicrf.errors import InputError, SemiringError

# --- reduce ---


class Extremes(Semiring):
    """The lowest and the highest score."""

    fields = "low", "high"
    zero, one = (inf, -inf), (0.0, 0.0)
    lift = lambda w: (w, w)  # noqa: E731  a formula
    mul = lambda a, b: (a.low + b.low, a.high + b.high)  # noqa: E731  a formula
    sum = lambda x: (smallest(x.low), largest(x.high))  # noqa: E731  a formula


class Moments(Semiring):
    """Mean and mean square of a quantity that the second model holds; reads them as a pair and the log-partition."""

    fields = "logz", "mean", "square"
    reads = {"moments": 2, "logz": 1}  # noqa: RUF012  read once, at class creation
    potentials, gates = 2, 1
    zero, one = (-inf, 0.0, 0.0), (0.0, 0.0, 0.0)

    def lift(w, f):
        return w, f, f * f

    def mul(a, b):
        return a.logz + b.logz, a.mean + b.mean, a.square + 2 * a.mean * b.mean + b.square

    def sum(x):
        logz = lse(x.logz)
        p = ratio(x.logz, logz)
        return logz, total(weigh(p, x.mean)), total(weigh(p, x.square))

    def read(a):
        return (a.mean, a.square), a.logz


@pytest.mark.parametrize(
    ("semiring", "fields"),
    [
        (Log, "logz"), (Max, "score"), (Std, "z"), (KMax(3), "scores"), (Entropy, "logz h"), (LogCount, "logcount"),
        (CrossEntropy, "logp logq h"), (KL, "logp logq kl"), (Expectation, "logz mean"),
    ],
)  # fmt: skip
def test_reduce_with_the_standard_semirings(semiring, fields):
    """A NamedTuple with the fields of the table, whether a class, an instance or a name is given."""
    for batch_shape in BATCH_SHAPES:
        c, q = case("factored", batch_shape=batch_shape), case("edge", batch_shape=batch_shape, seed=1)
        others = [q] * (semiring.potentials - 1)
        result = c.d.reduce(semiring, *(o.potentials for o in others))
        assert isinstance(result, tuple)
        assert getattr(result, "_fields", None) == tuple(fields.split())
        for value in result:
            assert value.shape == (batch_shape if semiring is not KMax(3) else (*batch_shape, 3))
            assert value.dtype == torch.float64
        spellings = [semiring(), *([semiring.__name__, semiring.__name__.lower()] if semiring is not KMax(3) else [])]
        for spelling in spellings:
            again = c.d.reduce(spelling, *(o.d for o in others))
            assert all(torch.equal(a, b) for a, b in zip(again, result, strict=True))
        row = next(r for r in tables.SEMIRINGS.values() if r.semiring is semiring)
        columns = [v if v.dim() > len(batch_shape) else v[..., None] for v in result]
        check(torch.cat(columns, -1), [c, *others], lambda *m, row=row: row.enumerate(m[:-1], m[-1]))


@on_the_grid
def test_reduce_with_a_user_semiring(c):
    def lowest_and_highest(m: oracle.Model, n: int) -> Tensor:
        s = oracle.scores(m, n)
        possible = s[s.detach() > -inf]
        none = (s[:0].sum() + f64([inf, -inf])).unbind()
        return torch.stack((possible.min(), possible.max()) if len(possible) else none)

    found = c.d.reduce(Extremes)
    assert found._fields == ("low", "high")
    check(torch.stack(found, -1), [c], lowest_and_highest)


def test_reduce_with_a_user_semiring_of_two_models():
    """Gradients flow to both; a field of two scalars has an axis of its own."""
    c, f = case("factored", holes=0.05), case("duration_transition", seed=1)
    found = c.d.reduce(Moments, f.potentials)
    assert found._fields == ("moments", "logz")
    assert found.moments.shape == (2, 3, 2)

    def moments(m: oracle.Model, f: oracle.Model, n: int) -> Tensor:
        p, v = oracle.probabilities(m, n), oracle.scores(f, n)
        return torch.stack([(p * v).sum(), (p * v * v).sum()])

    check(found.moments, [c, f], moments)
    tables.assert_values(found.moments[..., 1] - found.moments[..., 0] ** 2, c.d.variance(f.potentials).detach(), EXACT)


def test_reduce_refuses():
    p, q = case("factored").d, case("factored", K=2).d
    for others, message in [
        ((), r"reduce\(KL\): got 1 models; expected 2\. Likely fix: give the second"),
        ((p, p), "got 3 models; expected 2"),
        ((q,), r"other model: got \(batch, T, K, C, dtype\).*pad durations"),
        ((p[0],), "other model: got"),
        ((p.to(torch.float32),), "other model: got"),
        ((3,), "other model: got a int; expected potentials or a SemiCRFDistribution"),
        ((SemiCRFDistribution(p.potentials, validate_args=False),), "other model: got lengths"),
    ]:
        with pytest.raises(InputError, match=message):
            p.reduce(KL, *others)
    for semiring in ("entropie", int, 3):
        with pytest.raises(SemiringError, match="expected"):
            p.reduce(semiring)  # pyright: ignore[reportArgumentType]  the mistake under test
    for k in (0, 17):
        with pytest.raises(SemiringError, match=f"got k = {k}; expected an integer in 1..16"):
            p.kmax(k)


@pytest.mark.parametrize("k", [1, 2])
def test_k_best_scores_have_an_axis_of_k_also_for_one(k):
    p = SemiCRFDistribution(FactoredPotentials(torch.randn(3, 4, 2, dtype=torch.float64)))
    assert p.reduce(KMax(k)).scores.shape == (3, k)
    assert torch.equal(p.reduce(KMax(k)).scores.T, p.kmax(k))
