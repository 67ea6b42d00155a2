"""Every backend, semiring, shape and family of models against enumeration: values, gradients, ties, -inf, lengths."""

from __future__ import annotations

import itertools
import math

import oracle
import pytest
import torch
from tables import (
    BACKEND,
    FAMILIES,
    SEMIRINGS,
    SHAPES,
    SHARING,
    Backend,
    Batch,
    Row,
    T,
    assert_gradient,
    assert_values,
    draw,
    expected,
    forbid_like,
    run,
    served,
    spec_of,
    tensors_of,
)
from torch import Tensor

from semicrf.compile import compiled
from semicrf.engine import ops
from semicrf.engine.dispatch import BACKENDS, choose
from semicrf.errors import BackendError

inf, nan = math.inf, math.nan


def cotangent_of(row: Row, B: int, whole: bool = False) -> Tensor:
    """Random cotangents of all fields; `whole`: integers, so that what counts paths comes out exact."""
    generator = torch.Generator().manual_seed(11)
    shape = (len(compiled(row.semiring).read), B)
    if whole:
        return torch.randint(1, 4, shape, generator=generator).to(torch.float64)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def forward_backward(
    row: Row, backend: Backend, batches: list[Batch], cotangent: Tensor
) -> tuple[Tensor, list[Tensor]]:
    leaves = [b.leaves(backend.device) for b in batches]
    fields = run(row, backend.name, leaves)
    grads = torch.autograd.grad(fields, tensors_of(leaves), cotangent.to(backend.device))
    return fields.detach().cpu(), [g.cpu() for g in grads]


def check(row: Row, backend: Backend, batches: list[Batch], cotangent: Tensor, exact: bool = False) -> None:
    """Values and gradients within the backend's tolerance of enumeration; `exact`: equal to it."""
    tolerance = 0.0 if exact else backend.tolerance
    fields, grads = forward_backward(row, backend, batches, cotangent)
    values, rows = expected(row, batches, cotangent)
    assert_values(fields, values, tolerance)
    for name, grad, want in zip(spec_of(row, backend.name, batches).names, grads, rows, strict=True):
        assert_gradient(name, grad, want, tolerance)


def real_batches(row: Row, family: str, K: int, C: int, shared: bool) -> list[Batch]:
    """Ragged; half of the sequences with holes; q allows all that p does."""
    lengths, holes = (T, 1, T, T - 1), (0.0, 0.0, 0.1, 0.1)
    p, *others = (
        draw(family, K, C, lengths, shared=shared, holes=holes, seed=seed) for seed in range(1, 1 + row.models)
    )
    return [p, *(forbid_like(q, p) for q in others)]


def tied_batches(row: Row, family: str, K: int, C: int, shared: bool, holes: float = 0.1) -> list[Batch]:
    """Integers, holes everywhere, NaN wherever nothing is read; q may forbid what p allows."""
    lengths = (2, T, T - 2, T)
    p, *others = (
        draw(family, K, C, lengths, shared=shared, holes=holes, ties=True, unread=nan, seed=seed)
        for seed in range(1, 1 + row.models)
    )
    return [p, *(forbid_like(q, p) if row.oracle == "Expectation" else q for q in others)]


# --- Everything against enumeration ---


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize(("K", "C"), SHAPES)
@served()
def test_values_and_gradients(name, K, C, family, sharing, backend):
    row, shared = SEMIRINGS[name], sharing == "shared"
    batches = real_batches(row, family, K, C, shared)
    check(row, backend, batches, cotangent_of(row, batches[0].B))
    if row.oracle == "KMax":
        return  # its ties: below
    batches = tied_batches(row, family, K, C, shared)
    check(row, backend, batches, cotangent_of(row, batches[0].B, whole=True), exact=row.oracle == "Max")


def test_what_the_batches_hold():
    """Of possible sequences most, of impossible ones some, +inf among the divergences, ties among the best paths."""
    possible, infinite, tied = [], 0, 0
    for family in FAMILIES:
        for K, C in SHAPES:
            p, q = tied_batches(SEMIRINGS["KL"], family, K, C, False)
            possible += p.possible()
            for b, length in enumerate(p.lengths.tolist()):
                infinite += oracle.values("KL", [p.sequence(b), q.sequence(b)], length)["kl"].isinf().item()
                scores = oracle.kbest(p.sequence(b), 2, length)[0]
                tied += bool(scores[0] == scores[1]) and scores[0].isfinite().item()
    assert len(possible) == 192
    assert 120 <= sum(possible) <= 180
    assert infinite >= 40
    assert tied >= 20


@served(["CrossEntropy", "KL", "Expectation"])
def test_models_of_different_families(name, family, backend):
    row, lengths = SEMIRINGS[name], (T, 3, T - 1)
    for other in FAMILIES:
        if not backend.serves(row, family, other):
            continue
        batches = [draw(family, 3, 2, lengths, seed=1), draw(other, 3, 2, lengths, seed=2, shared=True)]
        check(row, backend, batches, cotangent_of(row, 3))


@served()
def test_fewer_positions_than_the_longest_segment_has(name, family, backend):
    row = SEMIRINGS[name]
    for positions, lengths in ((3, (3, 1, 2)), (1, (1,))):
        batches = [draw(family, 5, 2, lengths, T=positions, seed=seed) for seed in range(row.models)]
        check(row, backend, batches, cotangent_of(row, len(lengths)))


@served()
def test_one_model_shared_by_all_sequences(name, family, backend):
    """Every part has one row, the positional ones too."""
    row, lengths = SEMIRINGS[name], (T, 2, T - 1)
    batches = [draw(family, 3, 2, lengths, shared=True, seed=seed) for seed in range(row.models)]
    batches = [b.replace({n: t[:1] for n, t in b.parts.items()}) for b in batches]
    check(row, backend, batches, cotangent_of(row, 3))


@served(["Log", "Max", "Entropy"])
def test_required_boundaries(name, family, backend):
    """A position where a segment must start; past the length it says nothing."""
    row, lengths = SEMIRINGS[name], (T, T, 3)
    batch = draw(family, 3, 2, lengths, seed=4)
    required = torch.zeros(3, T, dtype=torch.bool)
    required[0, 2] = required[0, 5] = required[1, 0] = required[2, 1] = required[2, 4] = True
    leaves = batch.leaves(backend.device)
    marked = leaves.replace(leaves.parts | {"required": required.to(backend.device)})
    fields = run(row, backend.name, [marked])
    cotangent = cotangent_of(row, 3)
    grads = torch.autograd.grad(fields, tensors_of([leaves]), cotangent.to(backend.device))
    for b, length in enumerate(lengths):
        model = batch.sequence(b)
        paths, scores = oracle.paths(model, length), oracle.scores(model, length)
        starts = [{start for start, _, _ in y} for y in paths]
        kept = [i for i, s in enumerate(starts) if all(t in s for t in range(length) if required[b, t])]
        scores = scores[kept]
        assert 0 < len(kept) < len(paths) or b == 1
        log_p = scores - scores.logsumexp(0)
        values = {"Log": [scores.logsumexp(0)], "Max": [scores.max()]}.get(name)
        want = torch.stack(values or [scores.logsumexp(0), -(log_p.exp() * log_p).sum()])
        assert_values(fields[:, b], want.detach(), backend.tolerance)
        rows = torch.autograd.grad(want, [model.parts[n] for n in leaves.parts], cotangent[:, b])
        for part, grad, expected_row in zip(leaves.parts, grads, rows, strict=True):
            assert_gradient(part, grad[b : b + 1], [expected_row], backend.tolerance)


# --- Ties ---


@pytest.mark.parametrize("holes", [0.0, 0.15])
@pytest.mark.parametrize(("K", "C"), SHAPES)
@served(["Max"])
def test_max_marks_the_path_of_the_tie_rule(name, family, backend, K, C, holes):
    """Its gradient is the indicator of the oracle's best path, bit for bit; the walk along its choices is that path."""
    row = SEMIRINGS[name]
    for seed in range(3):
        batch = draw(family, K, C, (T, 1, T, 4), ties=True, holes=holes, seed=seed)
        fields, grads = forward_backward(row, backend, [batch], torch.ones(1, batch.B, dtype=torch.float64))
        leaves = batch.leaves(backend.device)
        walk = ops.best_path(spec_of(row, backend.name, [leaves]), leaves.lengths, tensors_of([leaves]))
        for b, length in enumerate(batch.lengths.tolist()):
            model = batch.sequence(b)
            path = oracle.best_path(model, length)
            score = oracle.score(model, path) if path else torch.tensor(-inf, dtype=torch.float64)
            assert fields[0, b].item() == walk[2][b].item() == score.item()
            (indicator,) = oracle.gradients(score, model) if path else [{}]
            for part, grad in zip(batch.parts, grads, strict=True):
                assert torch.equal(grad[b], indicator.get(part, torch.zeros_like(grad[b])))
            assert walk[0][b].nonzero()[:, 0].tolist() == [start for start, _, _ in path]
            assert walk[1][b][walk[0][b]].tolist() == [label for _, _, label in path]


def indicated(grad: dict[str, Tensor], length: int) -> oracle.Segmentation:
    """The segmentation whose indicator this is, read from the part that shows it most plainly."""
    if "segment_start" in grad:
        starts, labels = grad["segment_start"].nonzero().unbind(1)
    else:
        shown = grad["segment"] if "segment" in grad else grad["edge"].sum(2)
        starts, _, labels = shown.nonzero().unbind(1)
    ends = [*starts.tolist()[1:], length]
    return tuple(zip(starts.tolist(), ends, labels.tolist(), strict=True))


@pytest.mark.parametrize(("K", "C"), SHAPES)
@served(["KMax(1)", "KMax(3)"])
def test_kmax_marks_distinct_paths_of_the_right_score(name, family, backend, K, C):
    """Among equal scores any order, and any choice at the cut, is right; a score is that of the path it marks."""
    row, distinct = SEMIRINGS[name], 0
    k = row.k or 1
    batch = draw(family, K, C, (2, T, T - 2, T), ties=True, holes=(0.0, 0.1, 0.1, 0.1), unread=nan, seed=5)
    leaves = batch.leaves(backend.device)
    fields = run(row, backend.name, [leaves])
    models = [batch.sequence(b) for b in range(batch.B)]
    lengths = batch.lengths.tolist()
    best = [oracle.kbest(m, k, n)[0].detach() for m, n in zip(models, lengths, strict=True)]
    assert torch.equal(fields.detach().cpu(), torch.stack(best, 1))
    seen: set[tuple[int, oracle.Segmentation]] = set()
    for rank in range(k):
        grads = torch.autograd.grad(fields[rank].sum(), tensors_of([leaves]), retain_graph=True)
        for b, model in enumerate(models):
            own = {n: g[b].cpu() for n, g in zip(batch.parts, grads, strict=True)}
            if best[b][rank] == -inf:
                assert not any(g.any() for g in own.values())
                continue
            path = indicated(own, lengths[b])
            score = oracle.score(model, path)
            assert score.item() == best[b][rank].item()
            (indicator,) = oracle.gradients(score, model)
            assert all(torch.equal(own[n], indicator[n]) for n in own)
            seen.add((b, path))
            distinct += 1
    assert len(seen) == distinct > 0


# --- Impossible sequences ---


def forbid(batch: Batch, part: str, b: int, length: int) -> Batch:
    """The same batch with sequence b impossible because of one part."""
    t = batch.parts[part].clone()
    if part in ("emission", "segment_end"):
        t[b, length - 1] = -inf
    elif part == "segment_start":
        t[b, 0] = -inf
    else:  # start, end, duration, duration_transition, segment, edge; transition: length exceeds K
        t[b] = -inf
    return batch.replace(batch.parts | {part: t})


@served()
def test_an_impossible_sequence_touches_no_other(name, family, backend):
    row, lengths, dead = SEMIRINGS[name], (T, 2, 5, T), 2
    batches = [draw(family, 3, 2, lengths, seed=seed) for seed in range(row.models)]
    cotangent = cotangent_of(row, 4)
    values, grads = forward_backward(row, backend, batches, cotangent)
    others = torch.tensor([0, 1, 3])
    for part in FAMILIES[family]:
        impossible = [forbid(b, part, dead, 5) for b in batches]
        assert impossible[0].possible() == [True, True, False, True]
        got, got_grads = forward_backward(row, backend, impossible, cotangent)
        assert torch.equal(got[:, others], values[:, others])
        want = row.enumerate([b.sequence(dead) for b in impossible], 5)
        assert torch.equal(got[:, dead], want.detach())
        for before, after in zip(grads, got_grads, strict=True):
            assert torch.equal(after[others], before[others])
            assert not after[dead].any()


@served(["CrossEntropy", "KL"])
def test_infinite_where_q_forbids_what_p_allows(name, family, backend):
    """The divergence is +inf, without gradient in either model; the log-partitions and other sequences keep theirs."""
    row, lengths, B = SEMIRINGS[name], (T, 2, 5, T), 4
    p, q = (draw(family, 3, 2, lengths, seed=seed) for seed in range(2))
    main, index = {
        "segment": ("segment", (2, 2, 0, 1)),
        "edge": ("edge", (2, 2, 0, 1, 0)),
    }.get(family, ("emission", (2, 3, 1)))
    hole = q.parts[main].clone()
    hole[index] = -inf
    holed = q.replace(q.parts | {main: hole})
    assert holed.possible()[2]
    divergence = torch.zeros(3, B, dtype=torch.float64)
    divergence[2] = 1.0
    values, grads = forward_backward(row, backend, [p, q], divergence)
    got, got_grads = forward_backward(row, backend, [p, holed], divergence)
    assert got[2].isinf().tolist() == [False, False, True, False]
    assert got[2, 2] == inf
    others = torch.tensor([0, 1, 3])
    assert torch.equal(got[:, others], values[:, others])
    for before, after in zip(grads, got_grads, strict=True):
        assert torch.equal(after[others], before[others])
        assert not after[2].any()
    check(row, backend, [p, holed], cotangent_of(row, B))


@served(["CrossEntropy", "KL"], ["factored", "segment"])
def test_divergence_of_an_impossible_p_has_no_gradient_in_q(name, family, backend):
    row, lengths = SEMIRINGS[name], (T, 4)
    p, q = (draw(family, 3, 2, lengths, seed=seed) for seed in range(2))
    divergence = torch.zeros(3, 2, dtype=torch.float64)
    divergence[2] = 1.0
    values, grads = forward_backward(row, backend, [forbid(p, "start", 1, 4), q], divergence)
    assert values[2, 1] == 0
    assert not any(g[1].any() for g in grads)
    assert any(g[0].any() for g in grads)


@served(["Expectation"])
def test_expectation_ignores_what_has_no_probability(name, family, backend):
    """f may be -inf wherever p is; where only the rest of the path is impossible too."""
    row, lengths = SEMIRINGS[name], (T, 4)
    p, f = (draw(family, 3, 2, lengths, seed=seed) for seed in range(2))
    last = {"segment": "segment", "edge": "end"}.get(family, "segment_end")
    holed = {n: t.clone() for n, t in p.parts.items()}
    if last == "end":
        holed["end"][:, 1] = -inf  # no path ends with label 1
    elif last == "segment":
        holed["segment"][0, 5, :, 1] = holed["segment"][0, 4, 1, 1] = holed["segment"][0, 3, 2, 1] = -inf
    else:
        holed["segment_end"][0, 5, 1] = -inf
    p = p.replace(holed)
    cotangent = cotangent_of(row, 2)
    check(row, backend, [p, f], cotangent)
    check(row, backend, [p, forbid_like(f, p)], cotangent)
    values, grads = forward_backward(row, backend, [p, forbid_like(f, p)], cotangent)
    plain, plain_grads = forward_backward(row, backend, [p, f], cotangent)
    assert_values(values, plain, backend.tolerance)
    for name, one, two in zip([*p.parts, *f.parts], grads, plain_grads, strict=True):
        assert_gradient(name, one, list(two), backend.tolerance)


# --- Running with and without memory ---


@served()
def test_nothing_kept_changes_no_bit(name, family, backend):
    """Without gradients only the last positions are held; long enough for that window to move many times."""
    row, lengths = SEMIRINGS[name], (41, 7, 40)
    batches = [draw(family, 3, 2, lengths, T=41, holes=0.02, seed=seed).leaves(backend.device) for seed in range(2)]
    batches = batches[: row.models]
    spec = spec_of(row, backend.name, batches)
    with torch.no_grad():
        light = ops.scan(spec, batches[0].lengths, tensors_of(batches))
        full = ops.scan(spec, batches[0].lengths, tensors_of(batches), keep=True)
    assert torch.equal(light.value, full.value)
    assert light.value.isfinite().any()
    assert light.alpha.numel() == light.g.numel() == light.alpha_id.numel() == 0
    assert full.alpha.numel() > 0


def test_a_backend_that_is_not_there_or_does_not_serve_is_an_error():
    assert [choose(name) for name in ("auto", *BACKENDS)] == ["auto", *BACKENDS]
    with pytest.raises(BackendError, match=r"got 'fast'; expected one of \('auto'"):
        choose("fast")
    for name in {"cpu", "triton"} - set(BACKENDS):
        with pytest.raises(BackendError, match="which this installation does not have"):
            choose(name)
    refused = 0
    for row in SEMIRINGS.values():
        for family, backend in itertools.product(FAMILIES, BACKEND):
            batches = [draw(family, 2, 2, (3, 2)) for _ in range(row.models)]
            if backend.device != "cpu":
                batches = [b.leaves(backend.device) for b in batches]
            if not backend.serves(row, family):
                refused += 1
                with pytest.raises(BackendError, match=f"backend '{backend.name}' does not run"):
                    run(row, backend.name, batches)
            on = [b.leaves() for b in batches]
            assert torch.equal(run(row, "auto", on), run(row, serving_name(row, family), on))
    assert refused == 0 or len(BACKEND) > 1


def serving_name(row: Row, family: str) -> str:
    """What "auto" has to be: the last of the table that serves."""
    return next(b.name for b in reversed(BACKEND) if b.device == "cpu" and b.serves(row, family))
