"""Samples: from the right distribution, valid, and a function of (seed, sample, sequence id, position) alone."""

from __future__ import annotations

import oracle
import pytest
import torch
from models import CLASSES, EXACT, Case, case, f64, inf, of, of_every_batch_shape, of_every_family, rows_of, seeded
from torch import Tensor

from semicrf import Evidence, FactoredPotentials, Segments, SemiCRFDistribution
from semicrf.engine.walk import invert, uniform
from semicrf.errors import InputError
from semicrf.segments import check_tiling

THRESHOLD = 1e-5
"""Of the p-value of a chi-square test. There are some 150 of them, so a right sampler fails this file for one of 700
choices of its seeds, which are fixed; `test_the_chi_square_test_sees_a_wrong_distribution` shows that a wrong one
gives far less.
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that share a large tensor wait for each other: a hundred times slower where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- Philox ---


@pytest.mark.parametrize(
    ("seed", "counter", "words"),
    [
        (0, (0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (2**32 - 1, -1, 2**32 - 1), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (-1, (-1, -1, -1), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        # counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0
        (
            0x299F31D0A4093822, (0x13198A2E, 0x0370734485A308D3, 0x243F6A88),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)  # fmt: skip
def test_known_answers_of_philox(seed, counter, words):
    """The vectors of Random123 (Salmon et al. 2011): counters of zeros, of ones, and of the digits of pi."""
    sample, sequence, position = (torch.tensor(x) for x in counter)
    found = uniform(seed, sample, sequence, position)
    for u, high, low in zip(found, words[::2], words[1::2], strict=True):
        assert u.dtype == torch.float64
        assert u.item() == ((high >> 5) * 2**26 + (low >> 6)) / 2**53


def test_uniforms_are_uniform_and_independent():
    """Over samples, sequences and positions alike: a 10 x 10 table of each pair of streams, and the range."""
    n = torch.arange(20_000)
    zero = torch.zeros_like(n)
    streams = {
        "sample": uniform(5, n, zero, zero),
        "sequence": uniform(5, zero, n, zero),
        "position": uniform(5, zero, zero, n),
    }
    flat = {f"{name} {i}": u for name, pair in streams.items() for i, u in enumerate(pair)}
    for name, u in flat.items():
        assert 0 <= u.min() < 1e-3, name
        assert 1 - 1e-3 < u.max() < 1, name
    names = list(flat)
    for i, a in enumerate(names):
        for b in names[i:]:
            v = flat[b].roll(1) if a == b else flat[b]
            cells = torch.bincount((flat[a] * 10).long() * 10 + (v * 10).long(), minlength=100)
            assert p_value(cells.double(), torch.full((100,), 0.01).double()) > THRESHOLD, (a, b)


def test_invert():
    """The index whose share of the cumulative sum holds u; none of weight zero, at the ends neither."""
    logits = f64([-inf, 0.0, -inf, 0.0, -inf])
    u = f64([0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53])
    assert invert(logits.expand(5, 5), u).tolist() == [1, 1, 3, 3, 3]
    assert invert(f64([[0.0, -800.0, 3.0]]), f64([1 - 2.0**-53])).tolist() == [2]
    assert invert(f64([[1e300, 1e300, -inf]]), f64([0.5])).tolist() == [1]


# --- The distribution ---


def p_value(observed: Tensor, probabilities: Tensor) -> float:
    """Of Pearson's chi-square; the rarest cells are put together until five are expected in each; 1 of one cell."""
    assert (observed[probabilities == 0] == 0).all()
    expected, order = (observed.sum() * probabilities).sort()
    rare = int((expected.cumsum(0) < 5).sum()) + 1
    rare = max(rare, int((expected < 5).sum()))
    observed, expected = (torch.cat([x[:rare].sum()[None], x[rare:]]) for x in (observed[order], expected))
    if len(expected) == 1:
        return 1.0
    statistic = ((observed - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(f64((len(expected) - 1) / 2), statistic / 2).item()


def drawn_places(y: Segments, c: Case) -> list[Tensor]:
    """For each sequence of a batch (B,), where its samples (S,) stand in `oracle.paths`."""
    base = (c.batch.C + 1) ** torch.arange(c.batch.T)
    codes = (torch.where(y.to_boundaries(c.batch.T), y.to_labels(c.batch.T) + 1, 0) * base).sum(-1)
    places = []
    for b, (m, n) in enumerate(c.sequences()):
        known = torch.tensor([sum((label + 1) * int(base[start]) for start, _, label in y) for y in oracle.paths(m, n)])
        values, order = known.sort()
        at = torch.searchsorted(values, codes[:, b].contiguous()).clamp(max=len(values) - 1)
        assert (values[at] == codes[:, b]).all()
        places.append(order[at])
    return places


def tabulated(places: Tensor, p: Tensor) -> Tensor:
    return torch.bincount(places, minlength=len(p)).double()


def independent(x: Tensor, y: Tensor, p: Tensor, q: Tensor) -> float:
    """The p-value of pairs of samples of p and q."""
    return p_value(tabulated(x * len(q) + y, torch.outer(p, q).flatten()), torch.outer(p, q).flatten())


SAMPLES = 20_000


@of_every_family
@pytest.mark.parametrize("holes", [0.0, 0.1])
@pytest.mark.parametrize(("T", "K", "C"), [(4, 3, 2), (3, 5, 3), (5, 1, 2)])
def test_every_segmentation_is_drawn_with_its_probability(family, T, K, C, holes):
    """Ragged, with and without holes: chi-square over all segmentations of each sequence, and of a pair."""
    drawn = (case(family, K, C, (3,), T=T, lengths=(T, T - 1, T), holes=holes, seed=seed) for seed in range(20))
    c = next(c for c in drawn if (c.d.count > 1).sum() >= 2)
    possible = c.d.count > 0
    places = drawn_places(c.d[possible].sample((SAMPLES,), generator=seeded(1)), picked(c, possible))
    p = [oracle.probabilities(m, n).detach() for m, n in picked(c, possible).sequences()]
    for x, q in zip(places, p, strict=True):
        assert p_value(tabulated(x, q), q) > THRESHOLD
    assert independent(places[0], places[-1], p[0], p[-1]) > THRESHOLD


def picked(c: Case, rows: Tensor) -> Case:
    """Some of the sequences of a batch (B,)."""
    return of(
        c.family,
        c.batch.replace({n: t[rows] for n, t in c.batch.parts.items()}, c.batch.lengths[rows]),
        (int(rows.sum()),),
    )


@of_every_family
def test_the_chi_square_test_sees_a_wrong_distribution(family):
    """Samples at temperature 1.1 are far from those of the model."""
    c = case(family, 3, 2, (1,), T=4, seed=9)
    p = oracle.probabilities(*c.sequences()[0]).detach()
    (wrong,) = drawn_places(c.d.with_temperature(1.1).sample((SAMPLES,), generator=seeded(1)), c)
    assert p_value(tabulated(wrong, p), p) < THRESHOLD / 1000


def test_samples_in_a_row_are_independent():
    c = case("factored", 2, 2, (1,), T=3, seed=1)
    p = oracle.probabilities(*c.sequences()[0]).detach()
    (x,) = drawn_places(c.d.sample((SAMPLES,), generator=seeded(3)), c)
    assert independent(x[::2], x[1::2], p, p) > THRESHOLD
    generator = seeded(4)
    calls = [drawn_places(c.d.sample((1,), generator=generator), c)[0] for _ in range(400)]  # one seed each
    assert p_value(tabulated(torch.cat(calls), p), p) > THRESHOLD
    assert independent(torch.cat(calls[::2]), torch.cat(calls[1::2]), p, p) > THRESHOLD


def by_hand(c: Case, seed: int, sample: int, ids: list[int]) -> list[tuple]:
    """The sample that the keys give: a final label, then for each end a duration and the label before.

    The weights are sums over enumerated beginnings, so nothing here knows the recursion.
    """
    found = []
    K, C = c.batch.K, c.batch.C
    for (m, n), i in zip(c.sequences(), ids, strict=True):

        def draw(position: int, weights: list[Tensor], which: int, i: int = i) -> int:
            u = uniform(seed, torch.tensor(sample), torch.tensor(i), torch.tensor(position))[which]
            cumulative = torch.stack(weights).cumsum(0)
            return int((cumulative <= u * cumulative[-1]).sum())

        def beginnings(t: int, final: bool, m: oracle.Model = m) -> list[tuple[oracle.Segmentation, Tensor]]:
            model = m if final or m.end is None else m.replace(end=f64([0.0] * C))
            return list(zip(oracle.paths(model, t), oracle.scores(model, t).detach().exp(), strict=True))

        def weigh(options: int, choices: list[tuple[int, Tensor]]) -> list[Tensor]:
            return [sum((w for o, w in choices if o == option), f64(0.0)) for option in range(options)]

        whole = beginnings(n, True)
        label = draw(0, weigh(C, [(y[-1][2], w) for y, w in whole]), 0)
        t, y = n, ()
        while t > 0:
            here = [(b, w) for b, w in beginnings(t, False) if b[-1][2] == label]
            k = draw(t, weigh(K, [(b[-1][1] - b[-1][0] - 1, w) for b, w in here]), 0) + 1
            y = ((t - k, t, label), *y)
            here = [(b, w) for b, w in here if b[-1][0] == t - k]
            if t > k:
                label = draw(t, weigh(C, [(b[-2][2], w) for b, w in here]), 1)
            t -= k
        found.append(y)
    return found


@of_every_family
def test_a_sample_is_what_its_keys_say(family):
    """Two uniforms for each (seed, sample, sequence id, position), inverted in the order of durations and labels."""
    c = case(family, batch_shape=(3,), T=4, lengths=(4, 3, 4), seed=2)
    seed = int(torch.randint(0, 2**62, (), generator=seeded(8)))  # the one number that a call takes
    drawn = rows_of(c.d.sample((4,), generator=seeded(8)), c)
    for s in range(4):
        assert [ys[s] for ys in drawn] == by_hand(c, seed, s, [0, 1, 2])
    ids = [5, -1, 3 * 2**40]
    drawn = rows_of(c.d.sample((2,), generator=seeded(8), sequence_id=torch.tensor(ids)), c)
    assert [ys[1] for ys in drawn] == by_hand(c, seed, 1, ids)


# --- Keys ---


@of_every_family
def test_the_same_seed_gives_the_same_sample(family):
    d = case(family).d
    first, again, other = (d.sample((5,), generator=seeded(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert d.sample((8,), generator=seeded(1))[:5] == first  # more samples leave the first ones as they are
    shaped = d.sample((5, 2), generator=seeded(1))
    assert shaped.batch_shape == (5, 2, 2, 3)
    flat = d.sample((10,), generator=seeded(1))
    assert all(shaped[i, j] == flat[2 * i + j] for i in range(5) for j in range(2))


def test_the_default_generator_is_torch_s():
    d = case("factored").d
    torch.manual_seed(3)
    first, next_one = d.sample((4,)), d.sample((4,))
    torch.manual_seed(3)
    assert d.sample((4,)) == first
    assert d.sample((4,)) == next_one
    assert first != next_one
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    d.sample((4,), generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


@of_every_family
@pytest.mark.parametrize("holes", [0.0, 0.05])
def test_the_order_of_the_batch_does_not_matter(family, holes):
    """With sequence ids: a permuted batch, a part of it, and it in another shape give each sequence its own sample."""
    c = case(family, holes=holes)
    ids = torch.tensor([[7, 1, 2**40], [3, 2**40 + 1, -9]])
    d, order = c.d, torch.tensor([2, 0, 1])
    whole = d.sample((6,), generator=seeded(1), sequence_id=ids)
    assert d[:, order].sample((6,), generator=seeded(1), sequence_id=ids[:, order]) == whole[:, :, order]
    assert d[1, :2].sample((6,), generator=seeded(1), sequence_id=ids[1, :2]) == whole[:, 1, :2]
    assert d[1, 2].sample((6,), generator=seeded(1), sequence_id=ids[1, 2]) == whole[:, 1, 2]
    assert d[0].sample((6,), generator=seeded(1), sequence_id=ids[0].int() % 5) != whole[:, 0]
    unnamed, numbered = (
        d.sample((6,), generator=seeded(1), sequence_id=i) for i in (None, torch.arange(6).reshape(2, 3))
    )
    assert unnamed == numbered


def test_padding_and_neighbours_do_not_matter():
    """The same sequence alone, without padding, is drawn alike."""
    c = case("factored", batch_shape=(2,), lengths=(5, 3))
    whole = c.d.sample((20,), generator=seeded(1))
    emission, *rest = (c.parts[n].detach()[1] for n in c.parts)
    short = {n: (t[:3] if n in oracle.POSITIONAL else t) for n, t in zip(c.parts, [emission, *rest], strict=True)}
    alone = SemiCRFDistribution(CLASSES["factored"](**short)).sample(
        (20,), generator=seeded(1), sequence_id=torch.tensor(1)
    )
    assert alone == whole[:, 1]


def test_ids_that_differ_in_any_bit_draw_differently():
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(64, 12, 3)))
    ids = torch.tensor([0, *(1 << b for b in range(63))])
    drawn = d.sample(generator=seeded(), sequence_id=ids)
    assert len({tuple(y) for y in drawn.tolist()}) == 64


# --- Valid, always ---


@of_every_batch_shape
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 3)], ids=str)
def test_samples_are_valid(batch_shape, sample_shape):
    """They tile, their log-probability is finite; of an impossible sequence there are none."""
    for family in CLASSES:
        for holes in (0.0, 0.12):
            c = case(family, batch_shape=batch_shape, holes=holes, seed=5)
            d = c.d
            y = d.sample(sample_shape, generator=seeded())
            assert y.batch_shape == (*sample_shape, *batch_shape)
            check_tiling(y, d.lengths, d.K, d.C, allow_empty=True)
            possible = (d.count > 0).expand(y.batch_shape)
            assert torch.equal(y.count > 0, possible)
            log_p = d.log_prob(y)
            assert torch.equal(log_p.isfinite(), possible)
            assert (log_p <= EXACT).all()
            assert y.score is None


def test_samples_of_a_conditioned_model_obey():
    c = case("edge")
    labels = torch.full((2, 3, 5), -1)
    labels[..., 0] = 1
    y = c.d.condition(Evidence(labels=labels)).sample((50,), generator=seeded())
    assert (y.label[..., 0] == 1).all()


def test_a_certain_segmentation_is_drawn_always():
    c = case("factored")
    y = c.d.sample(generator=seeded())
    given = c.d.condition(Evidence(segments=y))
    drawn = given.sample((30,), generator=seeded(1))
    assert all(x == y for x in drawn)


def test_long_sequences_and_scores_far_apart():
    """No uniform falls between the shares of a segmentation that is as good as certain."""
    emission = torch.full((300, 3), -1e4, dtype=torch.float64)
    emission[torch.arange(300), torch.arange(300) // 7 % 3] = 1e4
    d = SemiCRFDistribution(FactoredPotentials(emission, duration=torch.arange(9.0).double()[:, None].expand(9, 3)))
    y = d.sample((20,), generator=seeded())
    assert (y.to_labels(300) == torch.arange(300) // 7 % 3).all()
    assert d.log_prob(y).isfinite().all()


def test_sample_takes_no_gradient():
    y = case("factored").d.sample()
    assert not any(x.requires_grad for x in (y.start, y.end, y.label, y.count))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.arange(3), r"sequence_id: got shape \(3,\); expected shape \(2, 3\), one id per sequence"),
        (torch.zeros(2, 3), "sequence_id: got dtype torch.float32; expected dtype integer"),
        ([[0, 1, 2], [3, 4, 5]], "sequence_id: got a list; expected a tensor, integer"),
        (torch.zeros(2, 3, dtype=torch.int64, device="meta"), "sequence_id: got device meta; expected device cpu"),
    ],
)
def test_sequence_ids_that_do_not_fit(ids, message):
    with pytest.raises(InputError, match=message):
        case("factored").d.sample(sequence_id=ids)
