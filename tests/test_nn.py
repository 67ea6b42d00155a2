"""SemiCRFHead: its loss against enumeration, targets, reductions, decoding, training, dtypes and compile."""

from __future__ import annotations

import copy

import oracle
import pytest
import torch
import torch.utils._pytree as pytree
from heads import EXACT, LABELS, LENGTHS, RUNS, C, D, K, T, features, make, model_of, negative_log_prob

from semicrf.constraints import Constraints, Evidence
from semicrf.errors import InputError
from semicrf.nn import SemiCRFHead
from semicrf.segments import Segments


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
        agrees = oracle.log_probability(model, lambda y, i=i: oracle.consistent(y, labels=partial[i].tolist()), n)
        torch.testing.assert_close(loss[i], -agrees, rtol=1e-10, atol=1e-12)


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
