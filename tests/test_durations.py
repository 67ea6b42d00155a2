"""Tables of duration scores: against their formulas, their normalisation, their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from semicrf.durations import (
    Durations,
    Free,
    FromFunction,
    Geometric,
    LogNormal,
    Mixture,
    NegativeBinomial,
    Poisson,
    Uniform,
    duration_module,
)
from semicrf.errors import InputError

NAMES = {
    "free": Free,
    "geometric": Geometric,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "log_normal": LogNormal,
    "uniform": Uniform,
}
SIZES = [(1, 1), (3, 1), (1, 5), (4, 7), (2, 300)]


def perturbed(kind: type[Durations], C: int, K: int, seed: int = 0) -> Durations:
    generator = torch.Generator().manual_seed(seed)
    table = kind(C, K).double()
    for parameter in table.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return table


def weights(table: Durations) -> list[list[float]]:
    """The unnormalised weights of the definition, in plain Python, by duration and label."""
    value = {name: parameter.tolist() for name, parameter in table.named_parameters()}
    sigmoid = [1 / (1 + math.exp(-x)) for x in value.get("logit", [])]

    def weight(n: int, c: int) -> float:
        if isinstance(table, Geometric):
            return sigmoid[c] ** n
        if isinstance(table, Poisson):
            return math.exp(value["log_rate"][c]) ** n / math.factorial(n)
        if isinstance(table, NegativeBinomial):
            r = math.exp(value["log_r"][c])
            return math.gamma(n + r) / (math.factorial(n) * math.gamma(r)) * sigmoid[c] ** n
        if isinstance(table, LogNormal):
            scale = math.exp(value["log_scale"][c]) * math.sqrt(2)
            below = [math.erf((math.log(k) - value["location"][c]) / scale) if k else -1.0 for k in (n, n + 1)]
            return (below[1] - below[0]) / 2
        return 1.0

    return [[weight(n, c) for c in range(table.num_labels)] for n in range(table.max_duration)]


@pytest.mark.parametrize("kind", [Geometric, Poisson, NegativeBinomial, LogNormal, Uniform])
@pytest.mark.parametrize(("C", "K"), [(1, 1), (3, 1), (1, 5), (4, 7)])
def test_a_table_is_its_formula(kind, C, K):
    table = perturbed(kind, C, K)
    expected = torch.tensor(weights(table), dtype=torch.float64)
    torch.testing.assert_close(table().double().exp(), expected / expected.sum(0))


@pytest.mark.parametrize("kind", [Geometric, Poisson, NegativeBinomial, LogNormal, Uniform])
@pytest.mark.parametrize(("C", "K"), SIZES)
@pytest.mark.parametrize("seed", [None, 1])
def test_probabilities_add_up_to_one(kind, C, K, seed):
    table = kind(C, K).double() if seed is None else perturbed(kind, C, K, seed)
    scores = table()
    assert scores.shape == (K, C)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.double().logsumexp(0), torch.zeros(C, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("C", "K"), SIZES)
def test_free_is_its_parameter_and_starts_at_zero(C, K):
    table = Free(C, K)
    assert torch.equal(table(), torch.zeros(K, C))
    table.score.data.normal_()
    assert table() is table.score


@pytest.mark.parametrize("K", [1, 2, 9])
def test_initial_means(K):
    """Without the cut, k - 1 has mean K / 2."""
    assert Poisson(2, K).log_rate.exp().tolist() == pytest.approx([K / 2] * 2)
    for table in (Geometric(2, K), NegativeBinomial(2, K)):
        q = table.logit.sigmoid()
        assert (q / (1 - q)).tolist() == pytest.approx([K / 2] * 2)
    assert NegativeBinomial(2, K).log_r.tolist() == [0, 0]


def test_negative_binomial_is_geometric_at_one_and_near_poisson_for_large_r():
    table, geometric, poisson = NegativeBinomial(1, 12).double(), Geometric(1, 12).double(), Poisson(1, 12).double()
    torch.testing.assert_close(table(), geometric())
    r, mean = 1e7, 3.0
    table.log_r.data.fill_(math.log(r))
    table.logit.data.fill_(math.log(mean / r))  # the mean of k - 1 is r q / (1 - q)
    poisson.log_rate.data.fill_(math.log(mean))
    torch.testing.assert_close(table(), poisson(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [Free, Geometric, Poisson, NegativeBinomial, LogNormal])
@pytest.mark.parametrize(("C", "K"), [(1, 1), (3, 4)])
def test_gradients(kind, C, K):
    table = perturbed(kind, C, K)
    names, values = zip(*table.named_parameters(), strict=True)

    def call(*parameters):
        return torch.func.functional_call(table, dict(zip(names, parameters, strict=True)), ())

    assert torch.autograd.gradcheck(call, values)
    assert torch.autograd.gradgradcheck(call, values)


@pytest.mark.parametrize("kind", [Geometric, Poisson, NegativeBinomial])
def test_extreme_parameters_stay_finite(kind):
    for extreme in (-40.0, 40.0):
        table = kind(2, 6)
        for parameter in table.parameters():
            parameter.data.fill_(extreme)
        scores = table()
        scores.sum().backward()
        assert scores.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in table.parameters())


@pytest.mark.parametrize("kind", NAMES.values())
def test_reset_state_and_dtype(kind):
    table, other = perturbed(kind, 3, 4), perturbed(kind, 3, 4, seed=1)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other(), table())
    table.reset_parameters()
    torch.testing.assert_close(table(), kind(3, 4).double()())
    assert kind(3, 4)().dtype == torch.float32
    assert kind(3, 4).double()().dtype == torch.float64
    assert repr(table) == f"{kind.__name__}(num_labels=3, max_duration=4)"


def test_log_normal_tails_keep_their_digits():
    """Far above and far below its median, where a difference of distribution functions has none left."""
    table = LogNormal(2, 400).double()
    with torch.no_grad():
        table.location.copy_(torch.tensor([-6.0, 12.0]))
        table.log_scale.fill_(-0.5)
    x = torch.arange(1, 401).double()
    z = (x.log()[:, None] - table.location) / table.log_scale.exp()
    density = (
        -z.square() / 2 - x.log()[:, None]
    )  # what the mass of (k - 1, k] is close to for large k, up to a constant
    got, want = table()[200:].diff(dim=0), density[200:].diff(dim=0)
    assert table().isfinite().all()
    torch.testing.assert_close(got, want, rtol=0.02, atol=0)
    gradient = torch.autograd.grad(table().sum(), list(table.parameters()))
    assert all(g.isfinite().all() for g in gradient)


def test_a_mixture_is_the_weighted_sum_of_its_components():
    parts = [perturbed(Geometric, 3, 6, seed=1), perturbed(Poisson, 3, 6, seed=2), perturbed(Free, 3, 6, seed=3)]
    mixed = Mixture(parts).double()
    assert mixed.logit.tolist() == [[0.0] * 3] * 3
    with torch.no_grad():
        mixed.logit.copy_(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))
    weight = mixed.logit.softmax(0)
    want = sum(w * p().softmax(0) for w, p in zip(weight, parts, strict=True))
    torch.testing.assert_close(mixed().exp(), want)
    torch.testing.assert_close(mixed().exp().sum(0), torch.ones(3).double())
    assert torch.autograd.gradcheck(lambda *_: mixed(), tuple(mixed.parameters()))
    with pytest.raises(InputError, match=r"components: got tables of shapes \[\(6, 3\), \(5, 3\)\]"):
        Mixture([Geometric(3, 6), Geometric(3, 5)])
    with pytest.raises(InputError, match="components: got tables of shapes \\[\\]"):
        Mixture([])


def test_any_function_of_the_duration():
    """A plain one, shared by the labels, and a module, whose parameters are those of the table."""
    shared = FromFunction(2, 5, lambda k: -k)
    torch.testing.assert_close(shared().exp()[:, 1], torch.softmax(-torch.arange(1.0, 6.0), 0))
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    learned = FromFunction(3, 5, net).double()
    assert set(net.parameters()) == set(learned.parameters())
    torch.testing.assert_close(learned(), net(torch.arange(1.0, 6.0).double()[:, None]).log_softmax(0))
    assert not learned.state_dict().keys() & {"at"}
    with pytest.raises(InputError, match=r"function\(k\): got shape \(5,\); expected shape \(5, 2\) or \(5, 1\)"):
        FromFunction(2, 5, lambda k: k[:, 0])()
    with pytest.raises(InputError, match=r"function: got a float; expected a function"):
        FromFunction(2, 5, 1.0)  # pyright: ignore[reportArgumentType]  what is refused


def test_uniform_has_nothing_to_learn_or_to_store_but_moves():
    table = Uniform(2, 4)
    assert not list(table.parameters())
    assert not table.state_dict()
    assert table.to("meta")().is_meta


@pytest.mark.parametrize("name", NAMES)
def test_by_name(name):
    table = duration_module(name, 3, 5)
    assert type(table) is NAMES[name]
    assert table().shape == (5, 3)


def test_a_module_is_returned_as_it_is():
    module = nn.Linear(1, 1)
    assert duration_module(module, 3, 5) is module


@pytest.mark.parametrize("bad", ["gamma", "Poisson", 3, None, torch.zeros(5, 3)])
def test_other_durations_are_refused(bad):
    with pytest.raises(InputError, match=r"^duration: got .*expected one of 'free', 'geometric'"):
        duration_module(bad, 3, 5)


def test_a_class_in_place_of_a_module_is_refused_with_the_fix():
    with pytest.raises(InputError, match="make an instance"):
        duration_module(Poisson, 3, 5)  # pyright: ignore[reportArgumentType]  # the mistake under test


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "3"])
def test_bad_sizes(bad):
    with pytest.raises(InputError, match=r"num_labels: got .*at least 1"):
        Poisson(bad, 3)
    with pytest.raises(InputError, match=r"max_duration: got .*at least 1"):
        duration_module("free", 3, bad)


def test_the_base_class_is_abstract():
    with pytest.raises(NotImplementedError, match=r"Durations\.forward"):
        Durations(2, 2)()
