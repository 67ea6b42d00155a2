"""Censoring against enumeration of what lies outside a record, and EM against its textbook form by enumeration."""

from __future__ import annotations

import itertools
import math

import oracle
import pytest
import tables
import torch
from models import EXACT, f64, inf, seeded
from torch import Tensor, nn

from semicrf import FactoredPotentials, InputError, SemiCRFDistribution
from semicrf.censoring import censored, survival
from semicrf.durations import Free, FromFunction, Geometric, LogNormal, Mixture, NegativeBinomial, Poisson, Uniform
from semicrf.hsmm import Categorical, Gaussian, HiddenSemiMarkov

# --- Censoring ---


def outside(y: oracle.Segmentation, duration: Tensor, first: bool, last: bool) -> list[list[int]]:
    """Every list of whole durations that y may be what is seen of."""
    K, whole = len(duration), []
    for n, (start, end, _) in enumerate(y):
        before = range(K) if first and n == 0 else range(1)
        after = range(K) if last and n == len(y) - 1 else range(1)
        whole.append([end - start + a + b for a in before for b in after if end - start + a + b <= K])
    return [list(durations) for durations in itertools.product(*whole)]


def log_z(m: oracle.Model, n: int, first: bool, last: bool) -> Tensor:
    terms = []
    assert m.duration is not None
    for y in oracle.paths(m, n):
        bare = oracle.score(m.replace(duration=None), y)
        for durations in outside(y, m.duration, first, last):
            rows = [m.duration[k - 1, x] for k, (_, _, x) in zip(durations, y, strict=True)]
            value = bare + torch.stack(rows).sum()
            terms += [value] if value > -inf else []
    return torch.logsumexp(torch.stack(terms), 0) if terms else 0.0 * m.duration.flatten()[:1].nan_to_num().sum() - inf


@pytest.mark.parametrize(("first", "last"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("holes", [0.0, 0.25])
def test_censoring_sums_over_what_lies_outside(first, last, holes):
    parts = ("emission", "transition", "duration", "start", "segment_start")
    m = oracle.random_model(5, 4, 2, generator=seeded(3), holes=holes, hole_parts=("duration",), parts=parts)
    assert m.emission is not None
    for n in (5, 3, 1):
        at_start = m.parts["segment_start"][None]
        p = FactoredPotentials(m.emission[None], m.transition, m.duration, start=m.start, segment_start=at_start)
        lengths = torch.tensor([n])
        found = SemiCRFDistribution(censored(p, lengths, first=first, last=last), lengths).log_partition[0]
        want = log_z(m, n, first, last)
        tables.assert_values(found.detach(), want.detach(), EXACT)
        leaves = list(m.parts.values())
        got, wanted = (torch.autograd.grad(v, leaves, materialize_grads=True, allow_unused=True) for v in (found, want))
        for name, g, w in zip(m.parts, got, wanted, strict=True):
            tables.assert_gradient(name, g[None], [w], EXACT)


def test_survival():
    table = f64([[0.2, 1.0], [0.0, 0.0], [0.8, 0.0]]).log().requires_grad_()
    tables.assert_values(survival(table).detach(), f64([[1.0, 1.0], [0.8, 0.0], [0.8, 0.0]]).log(), EXACT)
    (gradient,) = torch.autograd.grad(torch.where(survival(table) > -inf, survival(table), 0.0).sum(), table)
    assert gradient.isfinite().all()
    with pytest.raises(InputError, match=r"duration: got shape \(3,\)"):
        survival(torch.zeros(3))
    with pytest.raises(InputError, match=r"potentials: got parts \['emission'\]; expected a model with duration="):
        censored(FactoredPotentials(torch.zeros(2, 1)))


# --- Exact EM ---


def textbook(model: HiddenSemiMarkov, x: Tensor, lengths: list[int], K: int) -> tuple[float, dict[str, Tensor]]:
    """The log-likelihood and the new probabilities of one step, from the posterior of every segmentation."""
    t = {n: v.detach() for n, v in model.tables().items()}
    C, V = len(t["start"]), 3
    sizes = {"start": (C,), "transition": (C, C), "duration": (K, C), "emission": (C, V)}
    counts = {n: torch.zeros(size, dtype=torch.float64) for n, size in sizes.items()}
    total = 0.0
    for row, n in zip(x, lengths, strict=True):
        emission = model.emission(row).detach()
        m = oracle.Model(emission=emission, max_duration=K, transition=t["transition"], start=t["start"])
        listed = []
        for y in oracle.paths(m, n):
            for durations in outside(y, t["duration"], *model.censored):
                whole = sum(t["duration"][k - 1, z].item() for k, (_, _, z) in zip(durations, y, strict=True))
                listed.append((y, durations, oracle.score(m, y).item() + whole))
        top = max(s for *_, s in listed)
        z = top + math.log(sum(math.exp(s - top) for *_, s in listed))
        total += z
        for y, durations, s in listed:
            p = math.exp(s - z)
            counts["start"][y[0][2]] += p
            for (_, _, a), (_, _, b) in itertools.pairwise(y):
                counts["transition"][a, b] += p
            for k, (start, end, c) in zip(durations, y, strict=True):
                counts["duration"][k - 1, c] += p
                for symbol in row[start:end].tolist():
                    counts["emission"][c, symbol] += p
    axis = {"start": 0, "transition": 1, "duration": 0, "emission": 1}
    return total, {n: c / c.sum(axis[n], keepdim=True) for n, c in counts.items()}


@pytest.mark.parametrize("ends", [(False, False), (True, True), (False, True)])
@pytest.mark.parametrize("repeats", [False, True])
def test_a_step_is_that_of_the_textbook(ends, repeats):
    K, lengths = 3, [5, 3, 4]
    x = torch.randint(0, 3, (3, 5), generator=seeded(1))
    for i, n in enumerate(lengths):
        x[i, n:] = -1
    emission, durations = Categorical(2, 3, seeded(0)), Free(2, K)
    model = HiddenSemiMarkov(2, K, emission, duration=durations, repeats=repeats, censored=ends).double()
    with torch.no_grad():
        for p in (model.initial, model.transition, durations.score):
            p.copy_(torch.randn(p.shape, generator=seeded(5)))
    before, want = textbook(model, x.clamp(min=0), lengths, K)
    history = model.fit(x, lengths, iterations=1)
    assert history[0] == pytest.approx(before, rel=1e-12)
    assert history[1] > history[0]
    got = {**model.tables(), "emission": emission.log_prob.log_softmax(-1)}
    for name, value in want.items():
        assert (got[name].exp() - value).abs().max() < 1e-12, name


DURATIONS = {
    "geometric": lambda C, K: Geometric(C, K),
    "poisson": lambda C, K: Poisson(C, K),
    "negative_binomial": lambda C, K: NegativeBinomial(C, K),
    "log_normal": lambda C, K: LogNormal(C, K),
    "uniform": lambda C, K: Uniform(C, K),
    "mixture": lambda C, K: Mixture([Poisson(C, K), Geometric(C, K)]),
    "function": lambda C, K: FromFunction(C, K, nn.Linear(1, C)),
}


@pytest.mark.parametrize("duration", DURATIONS)
def test_the_likelihood_never_falls(duration):
    level = torch.randint(0, 3, (2, 10, 1), generator=seeded(3)).repeat_interleave(3, 1)
    x = level + torch.randn(2, 30, 2, generator=seeded(2), dtype=torch.float64)
    x[1, 25:] = math.nan
    lengths = [30, 25]
    torch.manual_seed(0)
    emission = Gaussian(3, 2).double().initialise(x, lengths, seeded(4))
    model = HiddenSemiMarkov(3, 8, emission, duration=DURATIONS[duration](3, 8), censored=(True, True)).double()
    history = model.fit(x, lengths, iterations=15, tolerance=0.0)
    assert len(history) > 2
    for a, b in itertools.pairwise(history):
        assert b >= a - 1e-9 * abs(a)
    assert history[-1] > history[0] + 1


def simulated(T: int, seed: int) -> tuple[Tensor, Tensor]:
    """A record of three states with Poisson durations and well separated normal observations; and its states."""
    g, rate = seeded(seed), torch.tensor([2.0, 5.0, 9.0])
    states, state = [], 0
    while len(states) < T:
        k = 1 + int(torch.poisson(rate[state], generator=g))
        states += [state] * min(k, 30)
        state = (state + 1 + int(torch.rand((), generator=g) < 0.3)) % 3
    s = torch.tensor(states[:T])
    return 3.0 * s[:, None].double() + torch.randn(T, 1, generator=g, dtype=torch.float64), s


def test_it_finds_what_made_the_data():
    x, states = simulated(3000, 1)
    emission, durations = Gaussian(3, 1).double().initialise(x, generator=seeded(0)), Poisson(3, 30)
    model = HiddenSemiMarkov(3, 30, emission, duration=durations).double()
    history = model.fit(x, iterations=60, tolerance=1e-7)
    assert all(b >= a - 1e-9 * abs(a) for a, b in itertools.pairwise(history))
    mean = emission.mean[:, 0].detach()
    order = mean.argsort()
    assert (mean[order] - torch.tensor([0.0, 3.0, 6.0])).abs().max() < 0.15
    rate = durations.log_rate.exp().detach()[order]
    assert ((rate - torch.tensor([2.0, 5.0, 9.0])) / torch.tensor([2.0, 5.0, 9.0])).abs().max() < 0.15
    found = model(x).argmax.to_labels(3000)
    assert (order.argsort()[found] == states).double().mean() > 0.97


def test_bad_models_and_records():
    with pytest.raises(InputError, match=r"num_labels: got 1; expected at least 2 where no state may follow itself"):
        HiddenSemiMarkov(1, 3, Categorical(1, 2))
    HiddenSemiMarkov(1, 3, Categorical(1, 2), repeats=True)
    durations = Free(2, 3)
    model = HiddenSemiMarkov(2, 3, Categorical(2, 2, seeded(0)), duration=durations)
    with torch.no_grad():
        durations.score[0] = -inf
    with pytest.raises(InputError, match=r"constraints, sequence 1: got none that gets past position 0 of 1"):
        model.fit(torch.zeros(2, 4), [4, 1])
    with pytest.raises(InputError, match=r"iterations: got 0; expected an integer of at least 1"):
        model.fit(torch.zeros(1, 4), iterations=0)
    with pytest.raises(InputError, match=r"x: got no observations"):
        Gaussian(2, 1).initialise(torch.zeros(1, 3, 1), [0])
