"""Evidence and Constraints against the enumeration of what agrees with them: everything computed obeys."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import tables
import torch
from models import CLASSES, EXACT, Case, case, check, f64, inf, of_every_batch_shape, of_every_family, rows_of, seeded
from torch import Tensor

from semicrf import Constraints, Evidence, FactoredPotentials, Segments, SemiCRFDistribution
from semicrf.errors import InputError

Agrees = Callable[[oracle.Segmentation], bool]


def observe(c: Case, kinds: str, seed: int = 0) -> tuple[Evidence, list[Agrees]]:
    """Evidence of the given kinds that a random segmentation of each sequence agrees with, and what agrees with it."""
    g, T, C = seeded(seed), c.batch.T, c.batch.C
    truth = [list(y) for y in (r[0] for r in rows_of(c.d.sample((1,), generator=g), c))]
    rows: list[dict[str, Any]] = []
    for y in truth:
        labels = [label for start, end, label in y for _ in range(start, end)] + [-1] * (T - y[-1][1])
        hidden = torch.rand(T, generator=g) < 0.6
        starts = [int(t in {s for s, _, _ in y}) for t in range(T)]
        allowed = torch.rand(T, C, generator=g) < 0.7
        for t, label in enumerate(labels):
            allowed[t, label] = True
        rows.append({
            "labels": torch.where(hidden, -1, torch.tensor(labels)),
            "allowed": allowed,
            "boundary": torch.where(torch.rand(T, generator=g) < 0.6, -1, torch.tensor(starts)),
            "segments": [y[int(torch.randint(len(y), (), generator=g))]],
        })  # fmt: skip
    given: dict[str, Any] = {}
    for kind in kinds.split("+"):
        values = [row[kind] for row in rows]
        if kind == "segments":
            given[kind] = c.nested(values)
        else:
            given[kind] = torch.stack(values).reshape(*c.batch_shape, *values[0].shape)
    agree = [lambda y, row=row: oracle.consistent(y, **{k: row[k] for k in given}) for row in rows]
    return Evidence(**given), agree


def check_filtered(given: SemiCRFDistribution, c: Case, agree: list[Agrees]) -> None:
    """log Z, best score, entropy, marginals, count, best segmentation and samples, by filtering all segmentations."""
    kept = []
    for (m, n), accepts in zip(c.sequences(), agree, strict=True):
        s = oracle.scores(m, n).detach()
        kept.append([i for i, y in enumerate(oracle.paths(m, n)) if accepts(y) and s[i] > -inf])
    rows = iter(kept)

    def expected(m: oracle.Model, n: int) -> Tensor:
        index = next(rows)
        if not index:
            return f64([-inf, -inf, 0.0])
        s = oracle.scores(m, n)[index]
        log_p = s.log_softmax(0)
        return torch.stack([s.logsumexp(0), s.max(), -(log_p.exp() * log_p).sum()])

    check(torch.stack([given.log_partition, given.max, given.entropy()], -1), [c], expected)
    rows = iter(kept)

    def segments(m: oracle.Model, n: int) -> Tensor:
        """The gradient of the filtered log Z in segment scores, which are added as zeros where there are none."""
        shape = oracle.shapes(c.batch.T, c.batch.K, c.batch.C)["segment"]
        part = m.segment if m.segment is not None else torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        index = next(rows)
        logz = oracle.scores(m.replace(segment=part), n)[index].logsumexp(0) if index else (part * 0.0).nansum()
        return torch.autograd.grad(logz, part, create_graph=True)[0]

    check(given.marginals.segments, [c], segments)
    assert c.flat(given.count).tolist() == [len(index) for index in kept]
    drawn, best = given.sample((20,), generator=seeded()), given.argmax
    for ys, (y,), accepts, index in zip(rows_of(drawn, c), rows_of(best[None], c), agree, kept, strict=True):
        assert all(accepts(y) if index else y == () for y in [*ys, y])
    for support in (drawn, best[None]):
        assert given.score(support).isneginf().tolist() == (support.count == 0).tolist()


# --- Evidence ---

KINDS = (
    "labels", "allowed", "boundary", "segments", "labels+boundary", "allowed+segments", "boundary+segments",
    "labels+allowed+boundary+segments",
)  # fmt: skip


@pytest.mark.parametrize("kinds", KINDS)
@of_every_family
def test_conditioning_filters_the_segmentations(family, kinds):
    c = case(family, batch_shape=(2, 3), shared=kinds == "labels")
    evidence, agree = observe(c, kinds)
    d = c.d
    check_filtered(d.condition(evidence), c, agree)
    rows = iter(agree)
    check(d.log_prob(evidence), [c], lambda m, n: oracle.log_probability(m, next(rows), n))
    joint = d.condition(evidence).log_partition - d.log_partition
    tables.assert_values(joint, d.log_prob(evidence).detach(), EXACT)
    assert (d.log_prob(evidence) <= EXACT).all()
    assert (d.log_prob(evidence) < -0.01).any()


@of_every_batch_shape
def test_evidence_in_every_batch_shape_and_with_holes(batch_shape):
    for family in CLASSES:
        c = case(family, batch_shape=batch_shape, holes=0.03, K=6, T=4, seed=3)
        assert (c.d.count > 0).all()  # by the choice of the seed
        for kinds in KINDS[:4]:
            evidence, agree = observe(c, kinds, seed=1)
            check_filtered(c.d.condition(evidence), c, agree)


def test_evidence_shared_by_the_batch():
    c = case("factored")
    labels, boundary = torch.tensor([-1, 1, -1, -1, -1]), torch.tensor([-1, -1, 1, -1, 0])
    allowed = torch.tensor([[True, True], [False, True]] * 2 + [[True] * 2])
    shared: list[dict[str, Any]] = [{"labels": labels}, {"boundary": boundary}, {"allowed": allowed}]
    for given in shared:
        agree = [lambda y, given=given: oracle.consistent(y, **given)] * 6
        check_filtered(c.d.condition(Evidence(**given)), c, agree)


def test_equal_labels_imply_no_boundary_and_a_change_implies_one():
    d = SemiCRFDistribution(FactoredPotentials(torch.zeros(4, 2, dtype=torch.float64)))
    same = d.condition(Evidence(labels=torch.tensor([1, 1, 1, 1])))
    assert same.count == 2**3  # boundaries inside are free
    changing = d.condition(Evidence(labels=torch.tensor([1, 1, 0, 0])))
    assert changing.count == 2**2
    assert changing.marginals.boundary.tolist() == [1, 0.5, 1, 0.5]


def test_evidence_composes():
    """Conditioning twice is conditioning on both; the whole observed is the segmentation's own probability."""
    c = case("duration_transition")
    d = c.d
    first, _ = observe(c, "labels", seed=2)
    second, _ = observe(c, "boundary", seed=2)
    both = Evidence(labels=first.labels, boundary=second.boundary)
    tables.assert_values(d.condition(first).condition(second).log_partition, d.condition(both).log_partition, EXACT)
    y = d.sample(generator=seeded())
    for evidence in (Evidence(segments=y), Evidence(segments=y.tolist()), Evidence(segments=y.trim())):
        tables.assert_values(d.log_prob(evidence), d.log_prob(y).detach(), EXACT)
    whole = Evidence(labels=y.to_labels(5), boundary=y.to_boundaries(5).long())
    tables.assert_values(d.log_prob(whole), d.log_prob(y).detach(), EXACT)
    assert repr(both) == "Evidence(labels, boundary)"


def test_what_lies_past_a_length_is_not_read():
    c = case("factored", batch_shape=(2,), lengths=(5, 3))
    labels, boundary = torch.full((2, 5), -1), torch.full((2, 5), -1)
    allowed = torch.ones(2, 5, 2, dtype=torch.bool)
    plain = c.d.condition(Evidence(labels=labels, boundary=boundary, allowed=allowed)).log_partition
    assert torch.equal(plain, c.d.log_partition)
    labels[1, 3:], boundary[1, 3:], allowed[1, 3:] = torch.tensor([0, 1]), torch.tensor([1, 0]), False
    for e in (Evidence(labels=labels), Evidence(boundary=boundary), Evidence(allowed=allowed)):
        assert torch.equal(c.d.condition(e).log_partition, plain)


CONTRADICTIONS = {
    "no label": Evidence(allowed=torch.zeros(2, 5, 2, dtype=torch.bool)),
    "no boundary at 0": Evidence(boundary=torch.zeros(2, 5).long()),
    "label against allowed": Evidence(
        labels=torch.zeros(2, 5).long(), allowed=torch.tensor([False, True]).expand(2, 5, 2)
    ),
    "change without boundary": Evidence(
        labels=torch.tensor([0, 1, -1, -1, -1]), boundary=torch.tensor([1, 0, -1, -1, -1])
    ),
    "too long": Evidence(boundary=torch.tensor([1, 0, 0, 0, -1])),
    "segment longer than K": Evidence(segments=[[(0, 4, 1)]] * 2),
    "overlap": Evidence(segments=[[(0, 3, 1), (2, 4, 1)]] * 2),
    "one within another": Evidence(segments=[[(0, 3, 1), (1, 2, 1)]] * 2),
    "one within another, by label": Evidence(segments=[[(0, 3, 1), (1, 2, 0)]] * 2),
    "the same place, two labels": Evidence(segments=[[(1, 3, 1), (1, 3, 0)]] * 2),
    "the same start, two ends": Evidence(segments=[[(1, 3, 1), (1, 2, 1)]] * 2),
    "segment against boundary": Evidence(segments=[[(1, 3, 1)]] * 2, boundary=torch.tensor([1, 1, 1, -1, -1])),
    "segment against label": Evidence(segments=[[(1, 3, 1)]] * 2, labels=torch.tensor([-1, -1, 0, -1, -1])),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
@of_every_family
def test_contradictory_evidence_is_minus_infinity(family, name):
    """Not NaN; no gradient; and nothing that the conditioned model computes is NaN."""
    c = case(family, batch_shape=(2,), lengths=(5, 4))
    given = c.d.condition(CONTRADICTIONS[name])
    log_p = c.d.log_prob(CONTRADICTIONS[name])
    assert log_p.tolist() == [-inf, -inf]
    assert given.count.tolist() == given.entropy().tolist() == [0, 0]
    assert given.argmax.count.tolist() == [0, 0]
    assert (given.marginals.segments == 0).all()
    grads = torch.autograd.grad(log_p.sum() + given.entropy().sum(), list(c.parts.values()), allow_unused=True)
    assert all((g == 0).all() for g in grads if g is not None)


def test_segments_given_twice_are_given_once():
    c = case("factored", batch_shape=(2,))
    once, twice = Evidence(segments=[[(1, 3, 1)], []]), Evidence(segments=[[(1, 3, 1), (1, 3, 1)], []])
    c = case("factored", batch_shape=(2,), lengths=(5, 4))
    assert torch.equal(c.d.log_prob(once), c.d.log_prob(twice))
    assert c.d.log_prob(once)[1] == 0  # no segment has to occur


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({"labels": torch.zeros(5).bool()}, "labels: got dtype torch.bool; expected an integer tensor"),
        ({"labels": torch.zeros(5)}, "labels: got dtype torch.float32; expected an integer tensor"),
        ({"labels": [0] * 5}, "labels: got a list; expected an integer tensor"),
        ({"labels": torch.zeros(4).long()}, r"labels: got shape \(4,\); expected \(5,\) or \(2, 5\)"),
        ({"labels": torch.tensor([0, 1, 2, 0, 0])}, r"labels: got values 0\.\.2; expected -1\.\.1"),
        ({"labels": torch.tensor([0, -100, 1, 0, 0])}, r"labels: got values -100\.\.1; expected -1\.\.1"),
        ({"allowed": torch.ones(5, 2)}, "allowed: got dtype torch.float32; expected a bool tensor"),
        ({"allowed": torch.ones(5, 2).long()}, "allowed: got dtype torch.int64; expected a bool tensor"),
        ({"allowed": torch.ones(2, 5).bool()}, r"allowed: got shape \(2, 5\); expected \(5, 2\) or \(2, 5, 2\)"),
        ({"boundary": torch.ones(5).bool()}, "boundary: got dtype torch.bool; expected an integer tensor"),
        ({"boundary": torch.full((5,), 2)}, r"boundary: got values 2\.\.2; expected -1\.\.1"),
        ({"boundary": torch.ones(3, 5).long()}, r"boundary: got shape \(3, 5\); expected \(5,\) or \(2, 5\)"),
        ({"segments": [(0, 1, 0)]}, r"evidence.segments: got batch shape \(\); expected \(2,\)"),
        ({"segments": [[(0, 1, 0)]]}, r"evidence.segments: got batch shape \(1,\); expected \(2,\)"),
        ({"segments": [[(0, 1, 2)], []]}, r"evidence.segments, label: got values 0\.\.2; expected 0\.\.1"),
        ({"segments": [[], [(2, 6, 0)]]}, r"evidence.segments, end - length: got values 0\.\.2; expected -5\.\.0"),
        ({"segments": [[], [(3, 5, 0)]]}, r"evidence.segments, end - length: got values 0\.\.1; expected -5\.\.0"),
        ({"segments": [[], [(2, 2, 0)]]}, "segments"),
        ({"segments": torch.zeros(2, 3)}, "segments: got a Tensor; expected Segments or nested lists"),
    ],
)
def test_evidence_refuses(evidence, message):
    d = case("factored", batch_shape=(2,), lengths=(5, 4)).d
    for f in (d.condition, d.log_prob):
        with pytest.raises(InputError, match=message):
            f(Evidence(**evidence))


def test_evidence_of_nothing_and_what_is_no_evidence():
    with pytest.raises(InputError, match="evidence: got nothing; expected labels, allowed, boundary or segments"):
        Evidence()
    d = case("factored").d
    with pytest.raises(
        InputError, match=r"evidence: got a Constraints; expected Evidence\. Likely fix: .*constraints.apply"
    ):
        d.condition(Constraints())  # pyright: ignore[reportArgumentType]  the mistake under test


def test_evidence_unchecked():
    """With validation off nothing is read; what is out of range contradicts everything, in its own sequence."""
    c = case("factored", batch_shape=(2,), lengths=(5, 4))
    d = SemiCRFDistribution(c.potentials, c.lengths, validate_args=False)
    for bad in ([(3, 5, 0)], [(2, 9, 0)], [(0, 1, 2)]):
        log_p = d.log_prob(Evidence(segments=[[(0, 1, 0)], bad]))
        assert log_p[1] == -inf
        assert log_p[0] == c.d.log_prob(Evidence(segments=[[(0, 1, 0)], []]))[0]
    log_p = d.log_prob(Evidence(labels=torch.tensor([[0, -1, -1, -1, -1], [7, -1, -1, -1, -1]])))
    assert log_p[1] == -inf
    assert log_p[0] > -inf
    minus = torch.tensor([[-1], [-1]])
    by_hand = Segments(start=minus + 1, end=minus + 1, label=minus + 1, count=torch.tensor([0, 1]))
    assert d.log_prob(Evidence(segments=by_hand)).tolist() == [0, -inf]


# --- Constraints ---


def rule_of(rules: dict[str, Tensor]) -> Agrees:
    """What one sequence's masks accept, read off their definition."""

    def accepts(y: oracle.Segmentation) -> bool:
        ok = [rules["start"][y[0][2]], rules["end"][y[-1][2]]]
        for j, (start, end, label) in enumerate(y):
            ok += [rules["duration"][end - start - 1, label], rules["boundary"][start]]
            ok += [rules["labels"][t, label] for t in range(start, end)]
            if j:
                ok.append(rules["transition"][y[j - 1][2], label])
        return all(map(bool, ok))

    return accepts


FIELDS = {"transition": (2, 2), "duration": (3, 2), "labels": (5, 2), "boundary": (5,), "start": (2,), "end": (2,)}


@pytest.mark.parametrize("fields", [*FIELDS, "transition+duration+boundary", "labels+start+end"])
@pytest.mark.parametrize("shared", [True, False])
@of_every_family
def test_constraints_filter_the_segmentations(family, fields, shared):
    c = case(family, batch_shape=(2,), shared=not shared, T=5, K=3, C=2, lengths=(5, 4))
    g = seeded(4)
    masks = {n: torch.rand((1 if shared else 2, *own), generator=g) < 0.7 for n, own in FIELDS.items()}
    masks["boundary"][:, 0] = True
    given = {n: masks[n][0] if shared else masks[n] for n in fields.split("+")}
    rules = Constraints(**given)
    everything = {n: torch.ones(own, dtype=torch.bool) for n, own in FIELDS.items()}
    agree = [rule_of(everything | {n: (x if shared else x[b]) for n, x in given.items()}) for b in range(2)]
    d = SemiCRFDistribution(rules.apply(c.potentials), c.lengths)
    check_filtered(d, c, agree)
    assert repr(rules) == f"Constraints({', '.join(n for n in FIELDS if n in given)})"


def test_constraints_on_labels_for_all_positions():
    c = case("factored", batch_shape=(2,), lengths=(5, 5))
    one = SemiCRFDistribution(Constraints(labels=torch.tensor([True, False])).apply(c.potentials))
    assert torch.equal(one.marginals.position[..., 1], torch.zeros(2, 5))
    each = SemiCRFDistribution(Constraints(labels=torch.tensor([True, False]).expand(5, 2)).apply(c.potentials))
    assert torch.equal(one.log_partition, each.log_partition)


def test_constraints_apply_beside_evidence_and_twice():
    c = case("duration_transition")
    rules = Constraints(
        transition=~torch.eye(2, dtype=torch.bool), duration=torch.tensor([[True], [True], [False]]).expand(3, 2)
    )
    evidence, agree = observe(c, "labels", seed=6)
    once, twice = rules.apply(c.potentials), rules.apply(rules.apply(c.potentials))
    d = SemiCRFDistribution(once, c.lengths)
    assert torch.equal(d.log_partition, SemiCRFDistribution(twice, c.lengths).log_partition)
    both = [
        lambda y, a=a: a(y) and all(e - s < 3 for s, e, _ in y) and all(p[2] != q[2] for p, q in itertools.pairwise(y))
        for a in agree
    ]
    check_filtered(d.condition(evidence), c, both)


def test_constraints_that_leave_nothing():
    c = case("factored")
    d = SemiCRFDistribution(Constraints(start=torch.tensor([False, False])).apply(c.potentials), c.lengths)
    assert d.log_partition.isneginf().all()
    assert (d.entropy() == 0).all()
    assert torch.equal(
        SemiCRFDistribution(Constraints().apply(c.potentials), c.lengths).log_partition, c.d.log_partition
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"transition": torch.ones(2, 2)}, "transition: got dtype torch.float32; expected a bool tensor"),
        (
            {"transition": torch.ones(3, 3).bool()},
            r"transition: got shape \(3, 3\); expected \(2, 2\) or \(2, 3, 2, 2\)",
        ),
        ({"duration": torch.ones(4, 2).bool()}, r"duration: got shape \(4, 2\); expected \(3, 2\) or \(2, 3, 3, 2\)"),
        ({"labels": torch.ones(3).bool()}, r"labels: got shape \(3,\); expected \(5, 2\) or \(2, 3, 5, 2\)"),
        ({"boundary": torch.ones(5).long()}, "boundary: got dtype torch.int64; expected a bool tensor"),
        ({"boundary": torch.ones(4).bool()}, r"boundary: got shape \(4,\); expected \(5,\) or \(2, 3, 5\)"),
        ({"start": torch.ones(2, 3).bool()}, r"start: got shape \(2, 3\); expected \(2,\) or \(2, 3, 2\)"),
        ({"end": [True, True]}, "end: got a list; expected a bool tensor"),
        ({"labels": [True, True]}, "labels: got a list; expected a bool tensor"),
    ],
)
def test_constraints_refuse(rules, message):
    with pytest.raises(InputError, match=message):
        Constraints(**rules).apply(case("factored").potentials)


def test_evidence_past_a_length_is_not_read():
    p = SemiCRFDistribution(FactoredPotentials(torch.randn(2, 3, 2)), [3, 2])
    labels, boundary = torch.tensor([[0, -1, 1], [0, -1, -1]]), torch.tensor([[-1, 0, -1], [-1, 1, -1]])
    plain = p.log_prob(Evidence(labels=labels, boundary=boundary))
    labels[1, 2], boundary[1, 2] = -100, 7
    assert torch.equal(p.log_prob(Evidence(labels=labels, boundary=boundary)), plain)
    with pytest.raises(InputError, match=r"labels: got values -100\.\.1"):
        p.condition(Evidence(labels=torch.tensor([[0, -100, 1], [0, -1, 0]])))
