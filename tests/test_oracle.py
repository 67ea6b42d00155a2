"""The oracle itself: numbers worked out by hand, independent recursions, and the rules for -inf and ties."""

from __future__ import annotations

import itertools
import math

import oracle
import pytest
import torch
from oracle import Model

INF = math.inf
SIZES = [(1, 1, 1), (1, 3, 2), (3, 1, 2), (4, 2, 1), (4, 6, 2), (5, 3, 3), (6, 2, 2)]
KINDS = {"factored": oracle.FACTORED, "segment": oracle.SEGMENT, "edge": oracle.EDGE}
ONE_MODEL = ["Log", "Max", "Std", "KMax", "Entropy", "LogCount"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def f64(values, requires_grad: bool = True) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def close(actual, expected, tolerance: float = 1e-11) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().double(), expected.detach(), rtol=tolerance, atol=tolerance)


def all_values(name: str, *models: Model, length: int | None = None):
    return oracle.values(name, models, length, k=4 if name == "KMax" else None)


# --- Dense recursions that share nothing with the oracle but the notation ---


def arcs(model: Model, length: int):
    """``arc(s, k, previous, label)``: score of the segment [s, s + k); ``previous`` is None for the first."""
    parts = {name: tensor.detach().double() for name, tensor in model.parts.items()}

    def read(name, *index):
        return float(parts[name][index]) if name in parts else 0.0

    def arc(s, k, previous, label):
        total = sum(read("emission", t, label) for t in range(s, s + k))
        total += read("duration", k - 1, label) + read("segment", s, k - 1, label)
        total += read("segment_start", s, label) + read("segment_end", s + k - 1, label)
        total += read("edge", s, k - 1, previous or 0, label)
        if previous is None:
            total += read("start", label)
        else:
            total += read("transition", previous, label) + read("duration_transition", k - 1, previous, label)
        return total + (read("end", label) if s + k == length else 0.0)

    return arc


def recursion(model: Model, length: int, weight, add, mul, zero, one):
    """The total over all segmentations in any semiring, by the textbook recursion over end positions."""
    arc = arcs(model, length)
    alpha = {}
    for t in range(1, length + 1):
        for label in range(model.C):
            total = zero
            for k in range(1, min(model.K, t) + 1):
                if t == k:
                    total = add(total, mul(one, weight(arc(0, k, None, label))))
                else:
                    for previous in range(model.C):
                        total = add(total, mul(alpha[t - k, previous], weight(arc(t - k, k, previous, label))))
            alpha[t, label] = total
    total = zero
    for label in range(model.C):
        total = add(total, alpha[length, label])
    return total


def viterbi_walk(model: Model, length: int):
    """The backward walk that defines the tie rule: smallest final label, then duration, then previous."""
    arc = arcs(model, length)
    alpha = {}

    def options(t, label):  # in the order of preference
        for k in range(1, min(model.K, t) + 1):
            if t == k:
                yield arc(0, k, None, label), k, None
            else:
                for previous in range(model.C):
                    yield alpha[t - k, previous] + arc(t - k, k, previous, label), k, previous

    for t in range(1, length + 1):
        for label in range(model.C):
            alpha[t, label] = max(score for score, _, _ in options(t, label))
    label = max(range(model.C), key=lambda c: alpha[length, c])  # max keeps the first of equals
    if alpha[length, label] == -INF:
        return ()
    path, t = [], length
    while t > 0:
        _, k, previous = max(options(t, label), key=lambda option: option[0])
        path.append((t - k, t, label))
        t, label = t - k, previous
    return tuple(reversed(path))


# --- By hand ---


def hand_model() -> Model:
    return Model(
        emission=f64([[0.3], [-1.1]]),
        transition=f64([[0.7]]),
        duration=f64([[0.2], [-0.4]]),
        start=f64([0.05]),
        end=f64([-0.6]),
        segment_start=f64([[0.11], [0.13]]),
        segment_end=f64([[0.17], [0.19]]),
        duration_transition=f64([[[1.5]], [[9.0]]]),
    )


def test_two_positions_one_label_by_hand():
    model = hand_model()
    emission, edges = 0.3 - 1.1, 0.05 - 0.6
    one = emission + edges - 0.4 + 0.11 + 0.19  # one segment of duration 2
    two = emission + edges + 0.2 + 0.2 + 0.11 + 0.17 + 0.13 + 0.19 + 0.7 + 1.5  # two of duration 1, 9.0 never read
    z = math.exp(one) + math.exp(two)
    p, q = math.exp(one) / z, math.exp(two) / z
    assert set(oracle.segmentations(2, 2, 1)) == {((0, 2, 0),), ((0, 1, 0), (1, 2, 0))}
    close(oracle.score(model, [(0, 2, 0)]), one)
    close(oracle.score(model, [(0, 1, 0), (1, 2, 0)]), two)
    close(oracle.values("Log", model)["logz"], math.log(z))
    close(oracle.values("Std", model)["z"], z)
    close(oracle.values("Max", model)["score"], max(one, two))
    close(oracle.values("KMax", model, k=3)["scores"], [two, one, -INF])
    close(oracle.values("LogCount", model)["log_count"], math.log(2))
    close(oracle.values("Entropy", model)["h"], -p * math.log(p) - q * math.log(q))
    (gradient,) = oracle.gradients(oracle.values("Log", model)["logz"], model)
    close(gradient["emission"], [[1.0], [1.0]])
    close(gradient["duration"], [[2 * q], [p]])
    close(gradient["transition"], [[q]])
    close(gradient["duration_transition"], [[[q]], [[0.0]]])
    close(gradient["segment_start"], [[1.0], [q]])
    close(gradient["segment_end"], [[q], [1.0]])
    marginals = oracle.marginals(model)
    close(marginals["boundary"], [1.0, q])
    close(marginals["segments"], [[[q], [p]], [[q], [0.0]]])
    close(marginals["edge"], f64([[q, p], [q, 0.0]]).view(2, 2, 1, 1))


def test_two_positions_one_label_divergences_by_hand():
    p, q = Model(duration=f64([[0.0], [math.log(3.0)]])), Model(duration=f64([[0.0], [0.0]]))
    # p = 1/4 on two segments, 3/4 on one; q = 1/2 on each
    close(oracle.values("CrossEntropy", (p, q), 2)["h"], math.log(2))
    close(oracle.values("KL", (p, q), 2)["kl"], 0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    close(oracle.values("KL", (p, q), 2)["logp"], math.log(4))
    close(oracle.values("KL", (p, q), 2)["logq"], math.log(2))
    close(oracle.values("KL", (q, p), 2)["kl"], 0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_labels_and_axes_by_hand():
    model = Model(
        emission=f64([[1, 2], [4, 8], [16, 32]]),
        transition=f64([[0, 100], [1000, 0]]),
        duration=f64([[0.1, 0.2], [0.3, 0.4]]),
        duration_transition=torch.arange(8).view(2, 2, 2) * 1e4,
        start=f64([0.01, 0.02]),
        end=f64([0.001, 0.002]),
    )
    y = ((0, 2, 1), (2, 3, 0))
    close(oracle.score(model, y), (2 + 8) + 16 + 0.4 + 0.1 + 1000 + 2e4 + 0.02 + 0.001)
    close(oracle.score(model, ((0, 1, 0), (1, 3, 1))), 1 + (8 + 32) + 0.1 + 0.4 + 100 + 5e4 + 0.01 + 0.002)
    segment = torch.arange(3 * 2 * 2, dtype=torch.float64).view(3, 2, 2)
    close(oracle.score(Model(segment=segment), y), segment[0, 1, 1] + segment[2, 0, 0])
    edge = torch.arange(3 * 2 * 4, dtype=torch.float64).view(3, 2, 2, 2)
    close(oracle.score(Model(edge=edge), y), edge[0, 1, 0, 1] + edge[2, 0, 1, 0])


# --- Against the recursions ---


@pytest.mark.parametrize(("T", "K", "C"), [*SIZES, (7, 5, 3)])
def test_list_of_segmentations(T, K, C):
    number = [0] * (T + 1)
    for t in range(1, T + 1):  # f(t) = C * (1 at k = t, else f(t - k)), summed over k
        number[t] = sum(C * (1 if k == t else number[t - k]) for k in range(1, min(K, t) + 1))
    listed = oracle.segmentations(T, K, C)
    assert len(listed) == len(set(listed)) == number[T]
    assert oracle.count(Model(max_duration=K, start=f64([0.0] * C)), T) == number[T]
    for y in listed:
        assert [start for start, _, _ in y] == [0] + [end for _, end, _ in y[:-1]]
        assert y[-1][1] == T
        assert all(1 <= end - start <= K and 0 <= label < C for start, end, label in y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.15])
@pytest.mark.parametrize(("T", "K", "C"), SIZES)
def test_totals_against_recursions(T, K, C, holes, kind):
    model = oracle.random_model(T, K, C, generator=seeded(T * K + C), parts=KINDS[kind], holes=holes)
    for length in range(1, T + 1):
        z = recursion(model, length, math.exp, lambda a, b: a + b, lambda a, b: a * b, 0.0, 1.0)
        close(oracle.values("Std", model, length)["z"], z)
        close(oracle.values("Log", model, length)["logz"], math.log(z) if z else -INF)
        best = recursion(model, length, float, max, lambda a, b: a + b, -INF, 0.0)
        close(oracle.values("Max", model, length)["score"], best)
        number = recursion(model, length, lambda w: int(w > -INF), lambda a, b: a + b, lambda a, b: a * b, 0, 1)
        assert oracle.count(model, length) == number
        close(oracle.values("LogCount", model, length)["log_count"], math.log(number) if number else -INF)
        close(oracle.probabilities(model, length).sum(), 1.0 if number else 0.0)
        for y, expected in zip(oracle.paths(model, length), oracle.scores(model, length), strict=True):
            close(oracle.score(model, y), expected)


# --- Ties ---


def test_ties_by_hand():
    def best(length, K, C, **parts):
        return oracle.best_path(Model(max_duration=K, **({"start": f64([0.0] * C)} | parts)), length)

    assert best(3, 3, 2) == ((0, 1, 0), (1, 2, 0), (2, 3, 0))  # everything ties: final label 0, duration 1, previous 0
    assert best(2, 2, 2, end=f64([0.0, 1.0])) == ((0, 1, 0), (1, 2, 1))
    assert best(2, 2, 2, transition=f64([[-INF, 0.0], [0.0, -INF]])) == ((0, 1, 1), (1, 2, 0))
    # durations 1 + 2 and 2 + 1 tie; the last one is the shorter one
    assert best(3, 2, 1, duration=f64([[-1.0], [1.0]])) == ((0, 2, 0), (2, 3, 0))
    # one segment of 2 against previous label 1 then duration 1: the smallest duration wins over the previous label
    assert best(2, 2, 2, transition=f64([[-1.0, -1.0], [0.0, -1.0]])) == ((0, 1, 1), (1, 2, 0))
    # at the end the smallest label wins, although label 1 has the shorter last segment
    tied = best(2, 2, 2, start=f64([0.0, 0.0]), transition=f64([[-1.0, 0.0], [-1.0, -1.0]]))
    assert tied == ((0, 2, 0),)
    assert best(2, 2, 2, start=f64([-INF, -INF])) == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_best_path_is_the_backward_walk(kind, holes):
    for seed, (T, K, C) in itertools.product(range(6), SIZES):
        model = oracle.random_model(T, K, C, generator=seeded(seed), parts=KINDS[kind], holes=holes, ties=True)
        for length in range(1, T + 1):
            path = oracle.best_path(model, length)
            assert path == viterbi_walk(model, length)
            value = oracle.values("Max", model, length)["score"]
            (gradient,) = oracle.gradients(value, model)
            if path:
                assert value.item() == oracle.score(model, path).item()
                (indicator,) = oracle.gradients(oracle.score(model, path), model)
                assert all(torch.equal(gradient[name], indicator[name]) for name in gradient)
            else:
                assert all(not g.any() for g in gradient.values())


def test_kbest():
    model = oracle.random_model(4, 3, 2, generator=seeded(1), ties=True, holes=0.1, hole_parts=("emission",))
    scores, paths = oracle.kbest(model, 200)
    number = oracle.count(model)
    assert 0 < number == len(paths) == len(set(paths)) < 200
    assert paths[0] == oracle.best_path(model)
    assert torch.isneginf(scores[number:]).all()
    assert (scores[: number - 1] >= scores[1:number]).all()
    assert [s.item() for s in scores[:number]] == [oracle.score(model, y).item() for y in paths]
    assert torch.equal(scores[:5], oracle.values("KMax", model, k=5)["scores"])
    for rank in (0, 3, number):
        (gradient,) = oracle.gradients(scores[rank], model)
        expected = oracle.gradients(oracle.score(model, paths[rank]), model)[0] if rank < number else None
        for name, g in gradient.items():
            assert torch.equal(g, expected[name]) if expected else not g.any()


# --- Gradients ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_gradient_of_log_is_the_marginals(kind, holes):
    views = {"emission": "position", "segment": "segments"}
    for T, K, C in SIZES:
        model = oracle.random_model(T, K, C, generator=seeded(7), parts=KINDS[kind], holes=holes)
        for length in range(1, T + 1):
            (gradient,) = oracle.gradients(oracle.values("Log", model, length)["logz"], model)
            marginals = oracle.marginals(model, length)
            for name, g in gradient.items():
                assert not g[torch.isneginf(model.parts[name])].any()
                if name == "segment_start":
                    close(g.sum(-1), marginals["boundary"])
                if views.get(name, name) in marginals:
                    close(g, marginals[views.get(name, name)])
            alive = 1.0 if oracle.count(model, length) else 0.0
            close(marginals["position"][:length].sum(-1), torch.full((length,), alive))
            close(marginals["segments"].sum((1, 2)), marginals["boundary"])
            close(marginals["edge"].sum(2), marginals["segments"])
            close(marginals["edge"][1:].sum((0, 1)), marginals["transition"])
            close(marginals["segments"].sum(0), marginals["duration"])
            close(marginals["start"].sum(), alive)
            close(marginals["end"].sum(), alive)
            assert all(not marginals[name][length:].any() for name in ("position", "boundary", "segments", "edge"))


@pytest.mark.parametrize("name", [*ONE_MODEL, "CrossEntropy", "KL"])
def test_gradients_against_differences(name):
    two = name in ("CrossEntropy", "KL")
    kwargs = {"holes": 0.1, "hole_parts": ("transition", "emission")}
    p = oracle.random_model(4, 3, 2, generator=seeded(3), parts=oracle.PARTS, **kwargs)
    holes = {part: torch.isneginf(tensor) for part, tensor in p.parts.items()}
    q = oracle.random_model(4, 3, 2, generator=seeded(4), parts=oracle.PARTS)
    q = q.replace(**{part: t.detach().masked_fill(holes[part], -INF).requires_grad_() for part, t in q.parts.items()})
    assert oracle.count(p) > 1
    assert any(hole.any() for hole in holes.values())
    models = (p, q) if two else (p,)
    for field, value in all_values(name, *models).items():
        direction = [{n: torch.randn_like(t) for n, t in model.parts.items()} for model in models]
        slope = sum(
            (g[n] * d[n]).sum() for g, d in zip(oracle.gradients(value, *models), direction, strict=True) for n in d
        )

        def moved(step, field=field, direction=direction):
            at = [
                m.replace(**{n: t.detach() + step * d[n] for n, t in m.parts.items()})
                for m, d in zip(models, direction, strict=True)
            ]
            return all_values(name, *at)[field].sum()

        close(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7)


def test_second_derivatives_exist():
    model = oracle.random_model(3, 2, 2, generator=seeded(5), holes=0.1, hole_parts=("duration_transition",))
    (gradient,) = oracle.gradients(oracle.values("Entropy", model)["h"], model, create_graph=True)
    for g in oracle.gradients(gradient["emission"].square().sum(), model)[0].values():
        assert torch.isfinite(g).all()
    marginals = oracle.marginals(model)
    for view in marginals.values():
        for g in oracle.gradients(view.square(), model)[0].values():
            assert torch.isfinite(g).all()


def test_gradient_of_scores_is_zero_at_a_hole():
    emission = f64([[0.5, -INF], [0.0, 1.0]])
    model = Model(emission=emission, max_duration=1)
    assert oracle.scores(model).isneginf().tolist() == [False, True, False, True]
    for value in (oracle.scores(model), oracle.score(model, ((0, 1, 1), (1, 2, 0)))):
        gradient = oracle.gradients(value, model)[0]["emission"]
        assert gradient[0, 1] == 0
        assert gradient[1, 0] > 0


# --- Impossible models, forbidden mass, entries that are not read ---


def test_impossible():
    dead = oracle.random_model(3, 2, 2, generator=seeded(0), holes=1.0, hole_parts=("start",))
    live = oracle.random_model(3, 2, 2, generator=seeded(1))
    expected = {"logz": -INF, "score": -INF, "z": 0.0, "scores": -INF, "h": 0.0, "log_count": -INF}
    for name in ONE_MODEL:
        for field, value in all_values(name, dead).items():
            assert (value == expected[field]).all()
            assert all(not g.any() for g in oracle.gradients(value, dead)[0].values())
    for name, field in (("CrossEntropy", "h"), ("KL", "kl")):
        for models, value in (((dead, live), 0.0), ((live, dead), INF), ((dead, dead), 0.0)):
            result = oracle.values(name, models)
            assert result[field].item() == value
            assert result["logp"].item() == oracle.values("Log", models[0])["logz"].item()
            assert result["logq"].item() == oracle.values("Log", models[1])["logz"].item()
            assert all(not g.any() for grads in oracle.gradients(result[field], *models) for g in grads.values())
    for view in oracle.marginals(dead).values():
        assert not view.any()
        assert all(not g.any() for g in oracle.gradients(view, dead)[0].values())
    assert all(torch.isneginf(view).all() for view in oracle.max_marginals(dead).values())
    assert oracle.kbest(dead, 3)[1] == []
    assert oracle.count(dead) == 0
    assert oracle.best_path(dead) == ()
    assert oracle.expectation(dead, live).item() == oracle.covariance(dead, live, live).item() == 0.0
    assert oracle.log_probability(dead, lambda y: True).item() == -INF


def test_divergence_where_q_forbids():
    q = Model(emission=f64([[0.1, -INF], [0.2, 0.3]]), max_duration=2)
    p = Model(emission=f64([[0.4, 0.5], [0.6, 0.7]]), max_duration=2)
    for name, field in (("CrossEntropy", "h"), ("KL", "kl")):
        value = oracle.values(name, (p, q))[field]
        assert value.item() == INF
        assert all(not g.any() for grads in oracle.gradients(value, p, q) for g in grads.values())
        value = oracle.values(name, (q, p))[field]
        assert 0 < value.item() < INF
        for grads in oracle.gradients(value, q, p):
            assert torch.isfinite(grads["emission"]).all()
            assert grads["emission"].any()
        assert oracle.gradients(value, q, p)[0]["emission"][0, 1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_past_the_length_is_read(kind):
    T, K, C = 5, 3, 2
    p, q = (oracle.random_model(T, K, C, generator=seeded(s), parts=KINDS[kind]) for s in (0, 1))
    for length, name in itertools.product(range(1, T + 1), [*ONE_MODEL, "CrossEntropy", "KL"]):
        clean = (p, q) if name in ("CrossEntropy", "KL") else (p,)
        spoilt = [oracle.spoil(model, length) for model in clean]
        if length < T or kind == "edge":
            assert any(tensor.isnan().any() for tensor in spoilt[0].parts.values())
        for before, after in zip(
            all_values(name, *clean, length=length).values(),
            all_values(name, *spoilt, length=length).values(),
            strict=True,
        ):
            assert torch.equal(before, after)
            for g, h in zip(oracle.gradients(before, *clean), oracle.gradients(after, *spoilt), strict=True):
                assert all(torch.equal(g[part], h[part]) for part in g)


def test_unread_is_what_passes_the_length():
    edge = oracle.spoil(Model(edge=torch.zeros(4, 3, 2, 2)), 3).parts["edge"]
    for s, k, previous, label in itertools.product(range(4), (1, 2, 3), range(2), range(2)):
        unread = s + k > 3 or (s == 0 and previous > 0)
        assert bool(edge[s, k - 1, previous, label].isnan()) == unread


def test_float32_potentials_are_summed_in_float64():
    model = oracle.random_model(3, 2, 2, generator=seeded(2), dtype=torch.float32)
    value = oracle.values("Log", model)["logz"]
    assert value.dtype == torch.float64
    assert oracle.gradients(value, model)[0]["emission"].dtype == torch.float32


# --- The rest ---


def test_expectation_and_covariance():
    model = oracle.random_model(4, 3, 2, generator=seeded(0))
    f, g = (oracle.random_model(4, 3, 2, generator=seeded(s), parts=oracle.PARTS) for s in (1, 2))
    listed = oracle.paths(model)
    p = oracle.probabilities(model).tolist()
    f_values = [oracle.score(f, y).item() for y in listed]
    g_values = [oracle.score(g, y).item() for y in listed]
    f_mean, g_mean = (sum(a * b for a, b in zip(p, v, strict=True)) for v in (f_values, g_values))
    close(oracle.expectation(model, f), f_mean)
    product = sum(a * b * c for a, b, c in zip(p, f_values, g_values, strict=True))
    close(oracle.covariance(model, f, g), product - f_mean * g_mean)
    close(oracle.expectation(model, Model(start=f64([1.0, 0.0]))), oracle.marginals(model)["start"][0])
    # the derivative of E[f] along g is the covariance
    (gradient,) = oracle.gradients(oracle.expectation(model, f), model)
    along = model.replace(**{name: g.parts[name].detach() for name in model.parts})
    slope = sum((gradient[name] * along.parts[name]).sum() for name in gradient)
    close(slope, oracle.covariance(model, f, along))


def test_expectation_ignores_what_has_probability_zero():
    model = Model(emission=f64([[0.0, -INF], [0.0, 0.5]]), max_duration=1)
    f = Model(emission=f64([[1.0, math.nan], [2.0, 4.0]]))
    value = oracle.expectation(model, f)
    p = 1 / (1 + math.exp(0.5))
    close(value, 1 + p * 2 + (1 - p) * 4)
    for gradient in oracle.gradients(value, model, f):
        assert torch.isfinite(gradient["emission"]).all()
        assert gradient["emission"][0, 1] == 0


def test_max_marginals():
    model = oracle.random_model(4, 3, 2, generator=seeded(3), holes=0.2, hole_parts=("emission",))
    views = oracle.max_marginals(model)
    best = oracle.values("Max", model)["score"]
    for name in ("position", "segments", "edge", "start", "end", "boundary", "duration"):
        close(views[name].max(), best)
    for t, label in itertools.product(range(4), range(2)):
        through = [y for y in oracle.paths(model) if any(s <= t < e and c == label for s, e, c in y)]
        close(views["position"][t, label], max(oracle.score(model, y).item() for y in through))


def test_consistent():
    y = ((0, 2, 1), (2, 3, 0), (3, 4, 0))
    assert oracle.consistent(y)
    assert oracle.consistent(y, labels=[1, 1, 0, 0])
    assert oracle.consistent(y, labels=torch.tensor([-1, 1, -1, 0]))
    assert not oracle.consistent(y, labels=[1, 0, 0, 0])
    assert oracle.consistent(((0, 2, 1), (2, 4, 0)), labels=[1, 1, 0, 0])  # equal labels imply no boundary
    assert oracle.consistent(y, allowed=[[False, True], [True, True], [True, False], [True, True]])
    assert not oracle.consistent(y, allowed=torch.tensor([[True, True], [True, False], [True, True], [True, True]]))
    assert oracle.consistent(y, boundary=[1, 0, 1, 1])
    assert oracle.consistent(y, boundary=[-1, 0, -1, -1])
    assert not oracle.consistent(y, boundary=[-1, 1, -1, -1])
    assert not oracle.consistent(y, boundary=[0, -1, -1, -1])
    assert oracle.consistent(y, segments=[(2, 3, 0), (0, 2, 1)])
    assert not oracle.consistent(y, segments=[(2, 4, 0)])
    assert not oracle.consistent(y, segments=[(2, 3, 1)])
    assert not oracle.consistent(y, labels=[1, 1, 0, 0], segments=[(2, 4, 0)])


def agrees_with(**evidence):
    return lambda y: oracle.consistent(y, **evidence)


def test_probability_of_events():
    model = oracle.random_model(4, 3, 2, generator=seeded(0))
    marginals = oracle.marginals(model)
    close(oracle.probability(model, lambda y: (1, 3, 0) in y), marginals["segments"][1, 1, 0])
    event = agrees_with(labels=[-1, 1, -1, -1])
    close(oracle.log_probability(model, event).exp(), marginals["position"][1, 1])
    close(oracle.probability(model, event), marginals["position"][1, 1])
    whole = oracle.log_probability(model, lambda y: oracle.consistent(y, segments=[(0, 1, 0), (1, 4, 1)]))
    y = ((0, 1, 0), (1, 4, 1))
    close(whole, oracle.score(model, y) - oracle.values("Log", model)["logz"])
    assert oracle.log_probability(model, lambda y: False).item() == -INF


def test_model_checks_its_shapes():
    with pytest.raises(ValueError, match="duration"):
        Model(emission=f64([[0.0]]), duration=f64([[0.0, 1.0]]))
    with pytest.raises(ValueError, match="transition"):
        Model(transition=f64([0.0]))
    with pytest.raises(ValueError, match="length 3"):
        oracle.scores(Model(emission=f64([[0.0]]), max_duration=1), 3)
