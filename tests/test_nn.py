"""SemiCRFHead: its loss against enumeration, targets, reductions, constraints, training, dtypes, compile and errors."""

from __future__ import annotations

import copy
import math

import oracle
import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

from semicrf.constraints import Constraints, Evidence
from semicrf.errors import InputError
from semicrf.nn import SemiCRFHead
from semicrf.segments import Segments

T, K, C, D = 5, 3, 2, 4
LENGTHS = torch.tensor([5, 3, 1])
LABELS = torch.tensor([[0, 0, 1, 1, 0], [1, 1, 0, -1, -1], [0, 7, -100, 7, 7]])  # what lies past a length is not read
RUNS = [[(0, 2, 0), (2, 4, 1), (4, 5, 0)], [(0, 2, 1), (2, 3, 0)], [(0, 1, 0)]]
EXACT = [[(0, 1, 0), (1, 2, 0), (2, 5, 1)], [(0, 3, 1)], [(0, 1, 1)]]  # equal neighbours: not the runs of labels


def make(
    num_labels: int = C, max_duration: int = K, input_dim: int | None = D, seed: int = 0, **options
) -> SemiCRFHead:
    """A head whose parameters are all random."""
    generator = torch.Generator().manual_seed(seed)
    head = SemiCRFHead(num_labels, max_duration, input_dim, **options).double()
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return head


def features(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(head: SemiCRFHead, hidden: torch.Tensor, **parts: torch.Tensor) -> oracle.Model:
    """What the head should score for one sequence, put together by hand."""
    scores = hidden if head.projection is None else hidden @ head.projection.weight.T + head.projection.bias
    if head.boundary_scores:
        parts["segment_start"], parts["segment_end"] = scores[:, C : 2 * C], scores[:, 2 * C :]
    parts = {"duration": head.duration(), "transition": head.transition} | parts
    return oracle.Model(emission=scores[:, :C], start=head.start, end=head.end, **parts)


def negative_log_prob(model: oracle.Model, length: int, y) -> torch.Tensor:
    return oracle.scores(model, length).logsumexp(0) - oracle.score(model, y)


@pytest.mark.parametrize("duration", ["free", "geometric", "poisson", "negative_binomial", "uniform"])
@pytest.mark.parametrize(("input_dim", "boundary_scores"), [(None, False), (D, False), (D, True)])
@pytest.mark.parametrize("target", [EXACT, Segments.from_list(EXACT), LABELS, LABELS.to(torch.int32)])
def test_loss_is_minus_log_prob_by_enumeration_with_all_gradients(duration, input_dim, boundary_scores, target):
    head = make(input_dim=input_dim, duration=duration, boundary_scores=boundary_scores)
    hidden = features(3, T, input_dim or C).requires_grad_()
    loss = head.loss(hidden, target, LENGTHS, reduction="none")
    segments = RUNS if isinstance(target, torch.Tensor) else EXACT
    rows = zip(hidden, LENGTHS.tolist(), segments, strict=True)
    expected = torch.stack([negative_log_prob(model_of(head, h), n, y) for h, n, y in rows])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert (loss >= 0).all()
    leaves, weight = [hidden, *head.parameters()], torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = torch.autograd.grad(loss @ weight, leaves, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(expected @ weight, leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_any_batch_shape():
    head, hidden = make(), features(2, 3, T, D)
    lengths = torch.stack([LENGTHS, LENGTHS])
    both = head.loss(hidden, LABELS.expand(2, 3, T), lengths, reduction="none")
    assert both.shape == (2, 3)
    torch.testing.assert_close(both[1], head.loss(hidden[1], LABELS, LENGTHS, reduction="none"))
    one = head.loss(hidden[1, 0], LABELS[0], reduction="none")
    torch.testing.assert_close(one, both[1, 0])
    assert head.decode(hidden, lengths)[1] == head.decode(hidden[1], LENGTHS)
    assert head.decode(hidden[1, 0]).tolist() == head.decode(hidden[1], LENGTHS).tolist()[0]


def test_reductions():
    head, hidden = make(), features(3, T, D)
    each = head.loss(hidden, LABELS, LENGTHS, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(head.loss(hidden, LABELS, LENGTHS), each.mean())
    torch.testing.assert_close(head.loss(hidden, LABELS, LENGTHS, reduction="sum"), each.sum())
    torch.testing.assert_close(head.loss(hidden, LABELS, LENGTHS, reduction="token_mean"), each.sum() / 9)
    torch.testing.assert_close(head.loss(hidden[:1], LABELS[:1], reduction="token_mean"), each[0] / T)


def test_split_cuts_runs_and_segments_into_pieces_of_k():
    head, hidden = make(), features(2, 8, D)
    labels, lengths = torch.tensor([[1] * 8, [0] * 4 + [1] * 2 + [0] * 2]), torch.tensor([8, 6])
    pieces = [[(0, 3, 1), (3, 6, 1), (6, 8, 1)], [(0, 3, 0), (3, 4, 0), (4, 6, 1)]]
    runs = [[(0, 8, 1)], [(0, 4, 0), (4, 6, 1)]]
    expected = head.loss(hidden, pieces, lengths, reduction="none")
    for target in (labels, runs, Segments.from_list(pieces)):
        assert torch.equal(head.loss(hidden, target, lengths, reduction="none", split="K"), expected)
    for target in (labels, runs):
        with pytest.raises(InputError, match=r'sequence 0, segment 0: got .*split="K"'):
            head.loss(hidden, target, lengths)
    with pytest.raises(InputError, match=r"sequence 1, segment 1: got .*start 4"):
        head.loss(hidden, [pieces[0], [(0, 4, 0), (5, 6, 1)]], lengths, split="K")


def test_evidence_is_summed_over_what_agrees_with_it():
    head, hidden = make(), features(3, T, D)
    exact = Segments.from_list(EXACT)
    known = Evidence(labels=exact.to_labels(T), boundary=exact.to_boundaries(T).long())
    torch.testing.assert_close(head.loss(hidden, known, LENGTHS), head.loss(hidden, exact, LENGTHS), rtol=1e-12, atol=0)
    for reduction in ("sum", "token_mean"):
        torch.testing.assert_close(
            head.loss(hidden, known, LENGTHS, reduction), head.loss(hidden, exact, LENGTHS, reduction)
        )
    partial = torch.tensor([[-1, 0, -1, 1, -1], [-1, -1, 1, 0, 0], [-1, -1, -1, -1, -1]])
    loss = head.loss(hidden, Evidence(labels=partial), LENGTHS, reduction="none")
    for i, n in enumerate(LENGTHS.tolist()):
        model = model_of(head, hidden[i])
        agrees = oracle.log_probability(model, lambda y, i=i: oracle.consistent(y, labels=partial[i]), n)
        torch.testing.assert_close(loss[i], -agrees, rtol=1e-10, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- constraints
O, B, I = 0, 1, 2  # noqa: E741  the names of the tags
BIO = Constraints(
    transition=torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool),  # I follows B or I
    start=torch.tensor([True, True, False]),
)


def test_constraints_hold_in_loss_marginals_samples_and_decoding():
    head, hidden, lengths = make(3, 1, None, constraints=BIO), 3 * features(40, 6, 3), torch.arange(40) % 6 + 1
    free = copy.deepcopy(head)
    free.allowed_transition, free.allowed_start = None, None

    def breaks(rows: list) -> int:
        return sum(I in (s[2], s[2]) and (j == 0 or row[j - 1][2] == O) for row in rows for j, s in enumerate(row))

    p = head(hidden, lengths)
    assert breaks(free.decode(hidden, lengths).tolist()) > 0
    assert breaks(head.decode(hidden, lengths).tolist()) == 0
    assert breaks(p.sample((), generator=torch.Generator().manual_seed(0)).tolist()) == 0
    assert (p.marginals.transition[:, O, I] == 0).all()
    assert (p.marginals.start[:, I] == 0).all()
    target = p.sample((), generator=torch.Generator().manual_seed(1))
    loss = head.loss(hidden, target, lengths, reduction="none")
    assert (loss >= 0).all()
    assert (loss < free.loss(hidden, target, lengths, reduction="none")).any()
    loss.sum().backward()
    assert head.transition.grad is not None
    assert head.transition.grad[O, I] == 0


def test_constrained_loss_by_enumeration():
    allowed = torch.tensor([[True, True], [False, True], [False, True]])  # label 0 has one position
    head, hidden = make(constraints=Constraints(duration=allowed)), features(1, T, D)
    y = [(0, 1, 0), (1, 4, 1), (4, 5, 0)]
    model = model_of(head, hidden[0], duration=head.duration().masked_fill(~allowed, -math.inf))
    torch.testing.assert_close(head.loss(hidden, [y]), negative_log_prob(model, T, y), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"transition": torch.tensor([[True, True], [False, True]])},
            r"segment 2: got \(4, 5, 0\), .*transition\[1, 0\]",
        ),
        ({"duration": torch.tensor([[True, True], [False, True]])}, r"segment 0: got \(0, 2, 0\), .*duration\[1, 0\]"),
        ({"labels": torch.tensor([True, False])}, r"segment 1: got \(2, 4, 1\), where emission\[2, 1\] is -inf"),
        ({"start": torch.tensor([False, True])}, r"segment 0: got \(0, 2, 0\), where start\[0\] is -inf"),
        ({"end": torch.tensor([False, True])}, r"segment 2: got \(4, 5, 0\), where end\[0\] is -inf"),
        ({"boundary": torch.arange(5) != 2}, r"segment 1: got \(2, 4, 1\), where segment_start\[2, 1\] is -inf"),
    ],
)
def test_a_forbidden_target_is_an_error_that_names_the_rule(rules, message):
    head, hidden = make(max_duration=2, constraints=Constraints(**rules)), features(2, T, D)
    both = torch.stack([torch.ones(T, dtype=torch.int64), LABELS[0]])
    if "labels" in rules:
        both[0] = 0
    with pytest.raises(InputError, match=rf"^target, sequence [01], {message}.*constraints") as raised:
        head.loss(hidden, both, split="K")
    head.validate_args = False
    loss = head.loss(hidden, both, split="K", reduction="none")
    assert loss[int("sequence 1" in str(raised.value))] == math.inf


def test_forbidden_by_scores_evidence_or_an_impossible_model():
    head, hidden = make(input_dim=None), features(3, T, C)
    hidden[1, 1, 1] = -math.inf
    with pytest.raises(InputError, match=r"^target, sequence 1, segment 0: .*emission\[1, 1\] is -inf"):
        head.loss(hidden, LABELS, LENGTHS)
    with pytest.raises(InputError, match=r"^target, sequence 1: got evidence that no"):
        head.loss(hidden, Evidence(labels=LABELS.clamp(-1, 1)), LENGTHS)
    with pytest.raises(InputError, match=r"^target, sequence 2: got count 0"):
        head.loss(hidden[:1].expand(3, T, C), [*RUNS[:2], []], LENGTHS)
    hidden[1] = -math.inf
    best = head.decode(hidden, LENGTHS)
    assert best.count.tolist()[1] == 0
    assert best.score is not None
    assert best.score[1] == -math.inf


def test_constraints_move_with_the_module_and_are_not_state():
    head = make(3, 1, None, constraints=BIO)
    assert "allowed_transition" not in head.state_dict()
    moved = copy.deepcopy(head).to("meta").constraints
    assert moved is not None
    assert moved.transition is not None
    assert moved.transition.is_meta
    assert moved.duration is None
    assert make().constraints is None
    head.half()
    assert head.constraints is not None
    assert head.constraints.transition is not None
    assert head.constraints.transition.dtype == torch.bool


# ---------------------------------------------------------------------------------------------------- decode and train
def test_decode_is_the_best_path_with_its_score_and_probabilities():
    head, hidden = make(boundary_scores=True), features(3, T, D)
    best = head.decode(hidden, LENGTHS)
    assert best.score is not None
    assert best.probability is not None
    assert not best.score.requires_grad
    assert not best.probability.requires_grad
    for i, n in enumerate(LENGTHS.tolist()):
        model = model_of(head, hidden[i])
        y, p = oracle.best_path(model, n), oracle.probabilities(model, n)
        assert best.tolist()[i] == list(y)
        torch.testing.assert_close(best.score[i], oracle.score(model, y))
        mass = [p[torch.tensor([s in z for z in oracle.paths(model, n)])].sum() for s in y]
        torch.testing.assert_close(best.probability[i, : len(y)], torch.stack(mass))
        assert (best.probability[i, len(y) :] == 0).all()


def planted(B: int, seed: int) -> tuple[torch.Tensor, Segments, torch.Tensor]:
    """Features that show the label, and at a segment's start only that it starts."""
    generator = torch.Generator().manual_seed(seed)
    rows, hidden = [], torch.zeros(B, 12, 4)
    lengths = torch.randint(4, 13, (B,), generator=generator)
    for b, n in enumerate(lengths.tolist()):
        at, row = 0, []
        while at < n:
            k, c = (int(torch.randint(high, (), generator=generator)) for high in (4, 3))
            row.append((at, min(at + k + 1, n), c))
            hidden[b, at : row[-1][1], c], hidden[b, at, 3] = 1, 1
            at = row[-1][1]
        rows.append(row)
    return hidden, Segments.from_list(rows), lengths


@pytest.mark.parametrize("duration", ["free", "poisson"])
def test_training_on_a_planted_task(duration):
    torch.manual_seed(0)
    head = SemiCRFHead(3, 4, 4, duration=duration, boundary_scores=True)
    hidden, target, lengths = planted(64, seed=0)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = head.loss(hidden, target, lengths)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 5
    assert 0 <= losses[-1] < 0.5
    assert head.decode(hidden, lengths) == target
    fresh, truth, n = planted(16, seed=1)
    assert head.decode(fresh, n) == truth


# ----------------------------------------------------------------------------------------------------------- machinery
def test_state_dict_round_trip_and_repr():
    head, other = make(boundary_scores=True, duration="poisson"), make(boundary_scores=True, duration="poisson", seed=9)
    hidden = features(3, T, D)
    assert head.loss(hidden, LABELS, LENGTHS) != other.loss(hidden, LABELS, LENGTHS)
    other.load_state_dict(head.state_dict())
    assert torch.equal(head.loss(hidden, LABELS, LENGTHS), other.loss(hidden, LABELS, LENGTHS))
    assert set(head.state_dict()) == {
        "transition", "start", "end", "duration.log_rate", "projection.weight", "projection.bias",
    }  # fmt: skip
    assert head.extra_repr() == "num_labels=2, max_duration=3, input_dim=4, boundary_scores=True"
    assert "constraints=Constraints(transition, start)" in repr(make(3, 1, None, constraints=BIO))
    fresh = SemiCRFHead(C, K, D)
    assert all((p == 0).all() for p in (fresh.transition, fresh.start, fresh.end, fresh.duration()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("input_dim", [None, D])
def test_half_precision_features_are_scored_in_float32(dtype, input_dim):
    head, hidden = make(input_dim=input_dim).float(), features(3, T, input_dim or C).to(dtype).requires_grad_()
    expected = head.loss(hidden.float(), LABELS, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(hidden, LABELS, LENGTHS)
        best = head.decode(hidden, LENGTHS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(head.loss(hidden, LABELS, LENGTHS), expected)
    assert best.score is not None
    assert best.score.dtype == torch.float32
    loss.backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == dtype
    halved = copy.deepcopy(head).to(dtype)
    torch.testing.assert_close(halved.loss(hidden, LABELS, LENGTHS), expected, rtol=0.05, atol=0.05)
    assert halved(hidden).log_partition.dtype == torch.float32


@pytest.mark.parametrize("target", [LABELS, Segments.from_list(RUNS), Evidence(labels=LABELS.clamp(-1, 1))])
def test_loss_and_forward_under_compile(target):
    head, hidden = make(constraints=Constraints(duration=torch.ones(K, C, dtype=torch.bool))), features(3, T, D)
    expected = head.loss(hidden, target, LENGTHS)
    wanted = torch.autograd.grad(expected, tuple(head.parameters()))
    loss = torch.compile(head.loss, backend="aot_eager", fullgraph=True)(hidden, target, LENGTHS)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, tuple(head.parameters())), wanted)
    entropy = torch.compile(lambda h, n: head(h, n).entropy(), backend="aot_eager")(hidden, LENGTHS)
    torch.testing.assert_close(entropy, head(hidden, LENGTHS).entropy())


def test_decoded_segments_gather_like_tensors():
    """What data-parallel code does with the outputs of its replicas: concatenate the leaves of a pytree."""
    head, hidden = make(), features(3, T, D)
    halves = [head.decode(hidden[:2], LENGTHS[:2]), head.decode(hidden[2:], LENGTHS[2:])]
    whole = pytree.tree_map(lambda *leaves: torch.cat(leaves), *halves)
    assert whole == head.decode(hidden, LENGTHS)
    torch.testing.assert_close(whole.probability, head.decode(hidden, LENGTHS).probability)


# -------------------------------------------------------------------------------------------------------------- errors
class Wrong(nn.Module):
    def forward(self) -> torch.Tensor:
        return torch.zeros(C, K)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 3), {}, "num_labels: got 0"),
        ((2, 0), {}, "max_duration: got 0"),
        ((2, 3, 0), {}, "input_dim: got 0"),
        ((2, 3), {"boundary_scores": True}, "boundary_scores: got True with input_dim None.*pass input_dim"),
        ((2, 3), {"duration": "gamma"}, "duration: got 'gamma'; expected one of 'free'"),
        ((2, 3), {"constraints": torch.ones(2, 2)}, "constraints: got a Tensor; expected semicrf.Constraints"),
    ],
)
def test_construction_errors(arguments, options, message):
    with pytest.raises(InputError, match=message):
        SemiCRFHead(*arguments, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": features(3, T, C)}, r"hidden: got shape \(3, 5, 2\); expected shape|hidden: got shape"),
        ({"hidden": features(D)}, r"hidden: got shape \(4,\); expected \(..., T, input_dim = 4\)"),
        ({"hidden": features(3, T, D).float()}, r"hidden: got torch.float32; expected torch.float64.*head.to\("),
        ({"hidden": torch.ones(3, T, D, dtype=torch.int64)}, "hidden: got dtype torch.int64; expected dtype floating"),
        ({"hidden": [[1.0]]}, "hidden: got a list"),
        ({"hidden": torch.full((3, T, D), math.nan).double()}, "emission: got NaN"),
        ({"lengths": torch.tensor([5, 3, 0])}, r"lengths: got values 0..5; expected 1..5"),
        ({"lengths": torch.tensor([5, 3])}, r"lengths: got shape \(2,\)"),
        ({"reduction": "max"}, "reduction: got 'max'; expected 'mean', 'sum', 'none' or 'token_mean'"),
        ({"split": "k"}, "split: got 'k'; expected None or 'K'"),
        ({"split": "K", "target": Evidence(labels=LABELS.clamp(-1, 1))}, "split: got 'K' with Evidence"),
        ({"target": LABELS[:, :4]}, r"target: got shape \(3, 4\); expected shape \(3, 5\)"),
        ({"target": LABELS.double()}, "target: got dtype torch.float64; expected dtype integer"),
        ({"target": LABELS, "lengths": None}, r"segments, sequence 0, segment 0|segments, sequence 1, segment 2"),
        ({"target": 3}, r"target: got a int; expected Segments, integer labels \(..., T\) or Evidence"),
        ({"target": EXACT[:2]}, r"target.count: got shape \(2,\); expected shape \(3,\)"),
        ({"target": [*EXACT[:2], [(0, 1, 5)]]}, r"sequence 2, segment 0: got \(0, 1, 5\); expected a label in 0..1"),
    ],
)
def test_loss_errors(change, message):
    arguments = {"hidden": features(3, T, D), "target": LABELS, "lengths": LENGTHS} | change
    with pytest.raises(InputError, match=message):
        make().loss(**arguments)


def test_emissions_of_another_size_suggest_input_dim_and_a_wrong_table_names_its_shape():
    with pytest.raises(InputError, match=r"expected \(..., T, num_labels = 2\).*pass input_dim"):
        make(input_dim=None)(features(3, T, D))
    with pytest.raises(
        InputError, match=r"duration: got a module that returns shape \(2, 3\); expected \(K, C\) = \(3, 2\)"
    ):
        make(duration=Wrong())(features(3, T, D))
