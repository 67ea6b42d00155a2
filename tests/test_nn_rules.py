"""SemiCRFHead: constraints hold everywhere, and every error says what is wrong."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from heads import EXACT, LABELS, LENGTHS, RUNS, C, D, K, T, features, make, model_of, negative_log_prob
from torch import nn

from semicrf.constraints import Constraints, Evidence
from semicrf.errors import InputError
from semicrf.nn import SemiCRFHead

# --------------------------------------------------------------------------------------------------------- constraints
O, B, I = 0, 1, 2  # noqa: E741  the names of the tags
BIO = Constraints(
    transition=torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool),  # I follows B or I
    start=torch.tensor([True, True, False]),
)


def test_constraints_hold_in_loss_marginals_samples_and_decoding():
    head, hidden, lengths = make(3, 1, None, constraints=BIO), 3 * features(40, 6, 3), torch.arange(40) % 6 + 1
    free = make(3, 1, None)
    free.load_state_dict(head.state_dict())

    def breaks(rows: list) -> int:
        return sum(s[2] == I and (j == 0 or row[j - 1][2] == O) for row in rows for j, s in enumerate(row))

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
    assert "constraints=Constraints(transition, start)" in repr(head)
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
