"""Losses of a distribution, labels of which some are missing, and layers of others: by enumeration, and in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import oracle
import pytest
import torch
from heads import EXACT, LABELS, LENGTHS, RUNS, C, D, K, T, features, make, model_of

from semicrf import FactoredPotentials, Segments, SemiCRFDistribution
from semicrf.errors import InputError
from semicrf.nn import (
    LinearChainCRF,
    SemiCRFHead,
    distillation,
    entropy,
    from_flash_semicrf,
    lengths_of,
    minimum_risk,
    negative_log_likelihood,
    posterior_regularisation,
)

IGNORED = -100


def everything(i: int, n: int, **options) -> tuple[Sequence, torch.Tensor]:
    """All segmentations of the i-th sequence and their probabilities, by enumeration."""
    model = model_of(make(**options), features(3, T, D)[i])
    return oracle.paths(model, n), oracle.probabilities(model, n)


# ------------------------------------------------------------------------------------------------------ missing labels
def agrees(y, labels: list[int], longest: int | None = None) -> bool:
    """Whether segments show the labels, with a boundary between two known ones exactly where they differ.

    Inside a known run of more than `longest` there may be any.
    """
    shown = [c for s, e, c in y for _ in range(s, e)]
    starts = {s for s, _, _ in y}
    if any(known not in (IGNORED, found) for known, found in zip(labels, shown, strict=True)):
        return False
    for t in range(1, len(labels)):
        if IGNORED in labels[t - 1 : t + 1]:
            continue
        first, last = t, t
        while first > 0 and labels[first - 1] == labels[t]:
            first -= 1
        while last < len(labels) and labels[last] == labels[t]:
            last += 1
        free = longest is not None and last - first > longest and labels[t] == labels[t - 1]
        if not free and (t in starts) != (labels[t] != labels[t - 1]):
            return False
    return True


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 0, IGNORED, 1, 1], [IGNORED, 1, 1, 7, 7], [IGNORED, 0, 0, 0, 0]],
        [[IGNORED] * 5, [0, IGNORED, 0, -1, IGNORED], [1, 0, 0, 0, 0]],
        [[0, 1, 0, 0, IGNORED], [0, 0, 0, 0, 0], [0, -5, 0, 0, 0]],
    ],
)
def test_missing_labels_are_summed_over_by_enumeration(labels):
    head, hidden = make(), features(3, T, D)
    loss = head.loss(hidden, torch.tensor(labels), LENGTHS, reduction="none", ignore_index=IGNORED)
    for i, n in enumerate(LENGTHS.tolist()):
        paths, p = everything(i, n)
        mass = p[torch.tensor([agrees(y, labels[i][:n]) for y in paths])].sum()
        torch.testing.assert_close(loss[i], -mass.log(), rtol=1e-10, atol=1e-12)


def test_with_nothing_missing_it_is_the_loss_of_maximal_runs_with_its_gradients():
    head, hidden = make(boundary_scores=True), features(3, T, D)
    cases: Any = (({"ignore_index": IGNORED}, {}), ({"ignore_index": IGNORED, "split": "K"}, {"split": "K"}))
    for a, b in cases:
        found, expected = (head.loss(hidden, LABELS, LENGTHS, **options) for options in (a, b))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        grads = [torch.autograd.grad(loss, list(head.parameters())) for loss in (found, expected)]
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)


def test_a_missing_label_is_no_label_zero_and_no_position_left_out():
    head, hidden = make(), features(3, T, D)
    labels = torch.where(torch.arange(T) == 2, IGNORED, LABELS)
    loss = head.loss(hidden[:1], labels[:1], ignore_index=IGNORED)
    assert loss != head.loss(hidden[:1], labels[:1].clamp(min=0))
    hidden.requires_grad_()
    head.loss(hidden, labels, LENGTHS, ignore_index=IGNORED).backward()
    assert hidden.grad is not None
    assert (hidden.grad[0, 2] != 0).any()  # what it is still depends on its features
    assert (hidden.grad[1, 3:] == 0).all()


def test_a_long_known_run_is_an_error_or_cut_in_any_way():
    head, hidden = make(), features(1, T, D)
    labels = torch.tensor([[IGNORED, 1, 1, 1, 1]])
    with pytest.raises(InputError, match=r'target, sequence 0: got a run of more than 3 equal labels; .*split="K"'):
        head.loss(hidden, labels, ignore_index=IGNORED)
    loss = head.loss(hidden, labels, ignore_index=IGNORED, split="K")
    paths, p = everything(0, T)
    assert model_of(head, hidden[0]).T == T
    p = oracle.probabilities(model_of(head, hidden[0]), T)
    mass = p[torch.tensor([agrees(y, labels[0].tolist(), longest=K) for y in paths])].sum()
    torch.testing.assert_close(loss, -mass.log(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.tensor([[0, -1, 1, 1, 0]]), {}, r"target: got label -1; expected 0..1, or ignore_index = -100"),
        (torch.tensor([[0, 2, 1, 1, 0]]), {}, "target: got label 2"),
        (Segments.from_list([RUNS[0]]), {}, "ignore_index: got -100 with a Segments; expected None"),
        ([RUNS[0]], {}, "ignore_index: got -100 with a list"),
        (torch.tensor([[0, 0, 1, 1, 0]]), {"split": "L"}, "split: got 'L'"),
        (torch.tensor([[0, 0, 1, 1, 0]]), {"reduction": "max"}, "reduction: got 'max'"),
    ],
)
def test_errors_of_missing_labels(target, options, message):
    with pytest.raises(InputError, match=message):
        make().loss(features(1, T, D), target, ignore_index=IGNORED, **options)


def test_an_unchecked_wrong_label_is_impossible_and_never_missing():
    head = make()
    head.validate_args = False
    for wrong in (-1, 2):
        loss = head.loss(features(1, T, D), torch.tensor([[0, wrong, 1, 1, 0]]), ignore_index=IGNORED)
        assert loss == math.inf


# ------------------------------------------------------------------------------------------------------------- losses
def distributions(**options) -> SemiCRFDistribution:
    return make(**options)(features(3, T, D), LENGTHS)


def test_entropy_and_reductions():
    p = distributions()
    each = entropy(p, "none")
    for i, n in enumerate(LENGTHS.tolist()):
        _, q = everything(i, n)
        torch.testing.assert_close(each[i], -(q * q.log()).sum(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(entropy(p), each.mean())
    torch.testing.assert_close(entropy(p, "sum"), each.sum())
    torch.testing.assert_close(entropy(p, "token_mean"), each.sum() / 9)
    for call in (lambda r: entropy(p, r), lambda r: negative_log_likelihood(p, EXACT, r)):
        with pytest.raises(InputError, match="reduction: got 'max'"):
            call("max")


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_is_the_divergence_of_whole_segmentations(temperature):
    student, teacher = distributions(seed=0), distributions(seed=7)
    loss = distillation(student, teacher, temperature, "none")
    for i, n in enumerate(LENGTHS.tolist()):
        scores = [(everything(i, n, seed=seed)[1].log() / temperature).log_softmax(0) for seed in (0, 7)]
        expected = temperature**2 * (scores[1].exp() * (scores[1] - scores[0])).sum()
        torch.testing.assert_close(loss[i], expected, rtol=1e-9, atol=1e-10)
    assert distillation(student, student).abs() < 1e-12


def test_no_gradient_goes_to_the_teacher():
    student, teacher = make(seed=0), make(seed=7)
    hidden = features(3, T, D)
    distillation(student(hidden, LENGTHS), teacher(hidden, LENGTHS), 2.0).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.transition.grad is not None
    assert (student.transition.grad != 0).any()


@pytest.mark.parametrize("cost", ["position", "boundary"])
def test_minimum_risk_is_the_expected_number_of_errors(cost):
    loss = minimum_risk(distributions(), EXACT, cost, "none")
    for i, n in enumerate(LENGTHS.tolist()):
        paths, p = everything(i, n)

        def errors(y, gold=EXACT[i]) -> int:
            if cost == "boundary":
                return len({s for s, _, _ in y} ^ {s for s, _, _ in gold})
            labels = [[c for s, e, c in x for _ in range(s, e)] for x in (y, gold)]
            return sum(a != b for a, b in zip(*labels, strict=True))

        expected = (p * torch.tensor([float(errors(y)) for y in paths]).double()).sum()
        torch.testing.assert_close(loss[i], expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(InputError, match="cost: got 'segment'"):
        minimum_risk(distributions(), EXACT, "segment")  # pyright: ignore[reportArgumentType]  what is wrong is the point


def test_minimum_risk_moves_the_best_path_towards_the_truth():
    torch.manual_seed(0)
    head, hidden = SemiCRFHead(C, K, D, boundary_scores=True).double(), features(3, T, D)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    errors = []
    for _ in range(80):
        optimiser.zero_grad()
        p = head(hidden, LENGTHS)
        loss = minimum_risk(p, EXACT) + minimum_risk(p, EXACT, "boundary")
        loss.backward()
        optimiser.step()
        errors.append(loss.item())
    assert errors[0] > 2
    assert errors[-1] < 0.5
    wrong = head.decode(hidden, LENGTHS).to_labels(T) != Segments.from_list(EXACT).to_labels(T)
    assert wrong.sum() <= 1  # of 9: the risk is not convex, and its minimum here keeps one


def segments_of(p: SemiCRFDistribution) -> FactoredPotentials:
    """The number of segments, as an additive quantity."""
    zero = torch.zeros(3, T, C, dtype=torch.float64)
    return FactoredPotentials(zero, segment_start=zero + 1, max_duration=K)


def test_posterior_regularisation_is_the_distance_to_the_nearest_that_keeps_the_bound():
    p, bound = distributions(), torch.tensor([2.2, 1.4, 1.0], dtype=torch.float64)
    f = segments_of(p)
    loss = posterior_regularisation(p, f, bound, "none")
    for i, n in enumerate(LENGTHS.tolist()):
        paths, q = everything(i, n)
        number = torch.tensor([float(len(y)) for y in paths]).double()
        # The dual, by brute force: the largest over a >= 0 of -a bound - log E[exp(-a f)].
        a = torch.linspace(0, 60, 600_001, dtype=torch.float64)
        dual = -a * bound[i] - (q.log()[None] - a[:, None] * number).logsumexp(1) if n > 1 else torch.zeros(1)
        torch.testing.assert_close(loss[i], dual.max().to(loss.dtype), rtol=1e-6, atol=1e-7)
    assert (loss[:2] > 0).all()
    assert loss[2] == 0


def test_posterior_regularisation_has_the_gradient_of_its_value_and_says_when_nothing_keeps_the_bound():
    hidden = features(3, T, D).requires_grad_()
    head = make()

    def distance(x: torch.Tensor) -> torch.Tensor:
        p = head(x, LENGTHS)
        return posterior_regularisation(p, segments_of(p), torch.tensor([2.2, 1.4, 1.0]).double(), "sum")

    assert torch.autograd.gradcheck(distance, hidden, rtol=1e-4, atol=1e-6)
    p = head(hidden, LENGTHS)
    none = posterior_regularisation(p, segments_of(p), 0.5, "none")
    assert (none == math.inf).all()
    grads = torch.autograd.grad(none.sum(), hidden, allow_unused=True, materialize_grads=True)[0]
    assert (grads == 0).all()
    assert (posterior_regularisation(p, segments_of(p), 9.0, "none") == 0).all()


# ------------------------------------------------------------------------------------------------ options of the head
def test_duration_buckets_are_transitions_by_the_duration_of_the_next_segment():
    head, hidden = make(duration_buckets=(1, K)), features(1, T, D)
    table = head.duration_transition
    assert table.shape == (2, C, C)
    model = model_of(head, hidden[0], duration_transition=torch.stack([table[0], table[1], table[1]]))
    y = EXACT[0]
    expected = oracle.scores(model, T).logsumexp(0) - oracle.score(model, y)
    loss = head.loss(hidden, [y])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, table), torch.autograd.grad(expected, table), rtol=1e-10, atol=1e-12
    )
    assert "duration_transition" in head.state_dict()
    assert "duration_buckets=(1, 3)" in head.extra_repr()


def test_decoding_by_other_means():
    head, hidden = make(boundary_scores=True), features(3, T, D)
    p = head(hidden, LENGTHS)
    for method in ("segment", "position", "boundary"):
        found, expected = head.decode(hidden, LENGTHS, method), p.mbr(method)
        assert found == expected
        torch.testing.assert_close(found.score, expected.score)
        torch.testing.assert_close(found.probability, p.marginals.segment(expected))
    several = head.decode(hidden, LENGTHS, k=3)
    assert several.batch_shape == (3, 3)
    assert several[0] == head.decode(hidden, LENGTHS)
    for i, n in enumerate(LENGTHS.tolist()):
        scores = oracle.scores(model_of(head, hidden[i]), n).sort(descending=True).values[:3]
        assert several.score is not None
        assert several.probability is not None
        torch.testing.assert_close(several.score[: len(scores), i], scores)
        assert (several.count[len(scores) :, i] == 0).all()
        torch.testing.assert_close(several.probability[:, i], p.marginals.segment(several)[:, i])
    cases: Any = (("worst", None, "got 'worst'"), ("segment", 2, "got 'segment' with k = 2"))
    for method, k, message in cases:
        with pytest.raises(InputError, match=f"method: {message}"):
            head.decode(hidden, LENGTHS, method, k=k)


def test_names_and_options_that_do_not_fit():
    head = make(label_names=["rest", "speech"])
    best = head.decode(features(3, T, D), LENGTHS)
    names = ["rest", "speech"]
    assert head.named(best) == [[(s, e, names[c]) for s, e, c in row] for row in best.tolist()]
    assert head.named(best[0]) == head.named(best)[0]
    assert head.extra_repr().endswith("label_names=('rest', 'speech')")
    assert set(head.state_dict()) == set(make().state_dict())
    fast = head.decode(features(3, T, D), LENGTHS, probability=False)
    assert fast == best
    assert fast.probability is None
    cases: Any = (
        ({"label_names": ["a"]}, "label_names: got"),
        ({"label_names": "ab"}, "label_names: got 'ab'"),
        ({"label_names": ["a", "a"]}, "2 different names"),
        ({"duration_buckets": (1, 2)}, r"duration_buckets: got \(1, 2\); .*max_duration = 3"),
        ({"duration_buckets": (2, 1, 3)}, "ascending"),
        ({"duration_buckets": ()}, "duration_buckets"),
        ({"duration_buckets": (0, 3)}, "duration_buckets: got 0"),
    )
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            SemiCRFHead(C, K, D, **options)
    with pytest.raises(InputError, match="label_names: got None"):
        make().named(best)


# ------------------------------------------------------------------------------------------------------- other layers
def chain(batch_first: bool, seed: int = 0) -> tuple[LinearChainCRF, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    crf = LinearChainCRF(3, batch_first).double()
    emissions, tags = torch.randn(2, 4, 3).double(), torch.randint(0, 3, (2, 4))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.uint8)
    return (crf, emissions, tags, mask) if batch_first else (crf, emissions.transpose(0, 1), tags.T, mask.T)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_linear_chain_layer_by_enumeration(batch_first):
    crf, emissions, tags, mask = chain(batch_first)
    found, best = crf(emissions, tags, mask, reduction="none"), crf.decode(emissions, mask)
    rows, labels = (emissions, tags) if batch_first else (emissions.transpose(0, 1), tags.T)
    for i, n in enumerate((4, 2)):
        model = oracle.Model(
            emission=rows[i], transition=crf.transitions, start=crf.start_transitions, end=crf.end_transitions,
            max_duration=1,
        )  # fmt: skip
        y = tuple((t, t + 1, int(labels[i, t])) for t in range(n))
        expected = oracle.score(model, y) - oracle.scores(model, n).logsumexp(0)
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)
        assert best[i] == [c for _, _, c in oracle.best_path(model, n)]
    torch.testing.assert_close(crf(emissions, tags, mask), found.sum())
    torch.testing.assert_close(crf(emissions, tags, mask, reduction="token_mean"), found.sum() / 6)
    assert repr(crf) == f"LinearChainCRF(num_tags=3, batch_first={batch_first})"


def test_a_linear_chain_layer_against_pytorch_crf():
    torchcrf = pytest.importorskip("torchcrf", reason="pytorch-crf is not a dependency")
    crf, emissions, tags, mask = chain(batch_first=True)
    theirs = torchcrf.CRF(3, batch_first=True).double()
    theirs.load_state_dict(crf.state_dict())
    crf.load_state_dict(theirs.state_dict())
    for reduction in ("none", "sum", "mean", "token_mean"):
        ours = crf(emissions, tags, mask, reduction=reduction)
        torch.testing.assert_close(ours, theirs(emissions, tags, mask.bool(), reduction=reduction))
    assert crf.decode(emissions, mask) == theirs.decode(emissions, mask.bool())


def test_masks():
    assert lengths_of(torch.ones(2, 3)).tolist() == [3, 3]
    for mask in ([[1, 0, 1]], [[0, 1, 1]], [[0, 0, 0]]):
        with pytest.raises(InputError, match="mask: got zeros before ones, or none"):
            lengths_of(torch.tensor(mask))
    crf, emissions, tags, mask = chain(batch_first=True)
    with pytest.raises(InputError, match=r"mask: got shape \(1, 4\)"):
        crf(emissions, tags, mask[:1])


class Flash(torch.nn.Module):
    """The attributes of flash-semicrf's head that a conversion reads."""

    def __init__(self):
        super().__init__()
        self.transition = torch.nn.Parameter(torch.randn(C, C))
        self.duration_bias = torch.nn.Parameter(torch.randn(K, C))
        self.projection = torch.nn.Linear(D, C)


def test_a_head_from_flash_semicrf_has_its_distribution_with_the_free_label_summed_out():
    torch.manual_seed(0)
    theirs = Flash()
    head, hidden = from_flash_semicrf(theirs), features(3, T, D).float()
    expected = FactoredPotentials.from_cumulative_scores(
        torch.nn.functional.pad(theirs.projection(hidden), (0, 0, 1, 0)).cumsum(1),
        theirs.transition,
        theirs.duration_bias,
    )
    torch.testing.assert_close(head(hidden).log_partition, SemiCRFDistribution(expected).log_partition)
    assert head.loss(hidden, LABELS.clamp(0, 1), split="K") >= 0
    with pytest.raises(InputError, match=r"head.transition: got a NoneType"):
        from_flash_semicrf(object())


def test_a_head_from_flash_semicrf_itself():
    flash = pytest.importorskip("flash_semicrf", reason="flash-semicrf is not a dependency")
    torch.manual_seed(0)
    theirs = flash.SemiMarkovCRFHead(num_classes=C, max_duration=K)
    scores, lengths = torch.randn(2, T, C), torch.full((2,), T)
    wanted = theirs(scores, lengths)["partition"]
    head = from_flash_semicrf(theirs)
    found = head(scores - scores.mean(1, keepdim=True), lengths).log_partition
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5)
