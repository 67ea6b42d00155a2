"""Segments as an object: its checks, axes, equality, copies, and its life as a pytree under torch's compilers."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import is_dataclass

import pytest
import torch
import torch.utils._pytree as pytree
from tilings import BATCH, NAMES, columns
from torch.nn.parallel.distributed import _find_tensors

from semicrf.errors import InputError
from semicrf.segments import Segments, check_tiling


def scored() -> Segments:
    s = Segments.from_list(BATCH)
    score, probability = torch.tensor([0.5, 1.5, 2.5], requires_grad=True), torch.rand(3, 3)
    return Segments(
        start=s.start, end=s.end, label=s.label, count=s.count, score=score, probability=probability * s.mask
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": [0]}, "start: got a list; expected a tensor, int64"),
        ({"start": torch.tensor([0], dtype=torch.int32)}, "start: got dtype torch.int32; expected dtype int64"),
        ({"start": torch.tensor(0)}, r"start: got shape \(\); expected shape \(..., N\)"),
        ({"end": torch.tensor([1.0])}, "end: got dtype torch.float32; expected dtype int64"),
        ({"end": torch.tensor([1, 2])}, r"end: got shape \(2,\); expected shape \(1,\)"),
        ({"label": torch.tensor([[1]])}, r"label: got shape \(1, 1\); expected shape \(1,\)"),
        ({"label": torch.tensor([True])}, "label: got dtype torch.bool"),
        ({"label": None}, "label: got a NoneType; expected a tensor, int64"),
        ({"count": torch.tensor([1])}, r"count: got shape \(1,\); expected shape \(\)"),
        ({"count": torch.tensor(1, device="meta")}, "count: got device meta; expected device cpu"),
        ({"score": torch.tensor(1)}, "score: got dtype torch.int64; expected dtype floating"),
        ({"score": torch.tensor([1.0])}, r"score: got shape \(1,\); expected shape \(\)"),
        ({"probability": torch.tensor(1.0)}, r"probability: got shape \(\); expected shape \(1,\)"),
        ({"probability": 0.5}, "probability: got a float; expected a tensor, floating"),
    ],
)
def test_constructor_errors(change, message):
    with pytest.raises(InputError, match=message):
        columns([(0, 1, 0)], **change)


def test_fields_cannot_be_set_or_passed_by_position():
    s = Segments.from_list(BATCH)
    with pytest.raises(AttributeError):
        s.start = s.end  # pyright: ignore[reportAttributeAccessIssue]  the mistake under test
    with pytest.raises(TypeError):
        Segments(s.start, s.end, s.label, s.count)  # pyright: ignore[reportCallIssue]  the mistake under test


def test_mask_durations_device_and_shape():
    s = Segments.from_list(BATCH)
    assert s.mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert s.durations.tolist() == [[2, 1, 0], [1, 0, 0], [1, 1, 2]]
    assert s.device == torch.device("cpu")
    assert s.batch_shape == torch.Size([3])
    junk = Segments(start=s.start, end=s.end.where(s.mask, torch.tensor(7)), label=s.label, count=s.count)
    assert torch.equal(junk.durations, s.durations)


def test_to_moves_every_tensor():
    s = scored()
    moved = s.to("meta")
    assert {x.device.type for x in pytree.tree_leaves(moved)} == {"meta"}
    assert len(pytree.tree_leaves(moved)) == 6
    assert Segments.from_list(BATCH, device="meta").device.type == "meta"
    assert Segments.from_bio([["O"]], NAMES, device="meta").device.type == "meta"
    assert s.to("cpu", non_blocking=True) == s


def test_trim_keeps_the_longest_and_every_field():
    s = Segments.from_labels(torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]]))
    wide = Segments(
        start=s.start, end=s.end, label=s.label, count=s.count, score=torch.rand(2), probability=torch.rand(2, 4)
    )
    t = wide.trim()
    assert t.start.shape == t.end.shape == t.label.shape == (2, 2)
    assert t == wide
    assert torch.equal(t.score, wide.score)  # pyright: ignore[reportArgumentType]  it is given here
    assert t.probability is not None
    assert wide.probability is not None
    assert torch.equal(t.probability, wide.probability[:, :2])
    assert Segments.from_list([[], []]).trim().start.shape == (2, 0)


def test_empty_batches():
    s = Segments.from_list(BATCH)[:0]
    assert len(s) == 0
    assert s.trim().start.shape == (0, 0)
    assert s.tolist() == s.to_bio(NAMES) == []
    assert s.to_labels(4).shape == (0, 4)
    assert s == s[:0]
    check_tiling(s, torch.zeros(0, dtype=torch.int64), 1, 1)
    assert Segments.from_labels(torch.zeros(2, 0, 3, dtype=torch.int64)).tolist() == [[], []]


def test_length_and_iteration():
    s = Segments.from_list(BATCH)
    assert len(s) == 3
    assert [row.tolist() for row in s] == BATCH
    with pytest.raises(TypeError, match=r"batch shape \(\)"):
        len(s[0])
    with pytest.raises(TypeError, match=r"batch shape \(\)"):
        list(s[0])


INDICES = [
    0,
    -1,
    slice(1, None),
    (1, 0),
    (slice(None), 1),
    (Ellipsis, 0),
    (0, Ellipsis),
    Ellipsis,
    (),
    None,
    (None, 1),
    [1, 0],
    torch.tensor([1, 1, 0]),
    torch.tensor(1),
    torch.tensor([True, False]),
    torch.tensor([[True, False, True], [False, False, True]]),
    (torch.tensor([0, 1]), torch.tensor([2, 0])),
    (Ellipsis, torch.tensor([2, 0])),
    (slice(None), torch.tensor([[2, 0]])),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_that_of_a_tensor_of_the_batch_shape(index):
    labels = torch.randint(0, 2, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    s = Segments.from_labels(labels)
    where = torch.arange(6).reshape(2, 3)
    s = Segments(
        start=s.start, end=s.end, label=s.label, count=s.count, score=where.float(), probability=torch.rand(2, 3, 5)
    )
    picked, rows = s[index], where[index]
    assert picked.batch_shape == rows.shape
    assert torch.equal(picked.score, rows.float())  # pyright: ignore[reportArgumentType]  it is given here
    for name in ("start", "end", "label", "probability"):
        assert torch.equal(getattr(picked, name), getattr(s, name).flatten(0, 1)[rows]), name


@pytest.mark.parametrize("index", [3, (0, 0), (Ellipsis, 0, 0), torch.tensor([True])], ids=str)
def test_an_index_too_far_is_an_error(index):
    with pytest.raises(IndexError):
        Segments.from_list(BATCH)[index]


def test_equality_ignores_padding_scores_and_width():
    s = Segments.from_list(BATCH)
    wide = Segments.from_boundaries(s.to_boundaries(9), s.to_labels(9), s.end.amax(-1))
    junk = wide.start.where(wide.mask, torch.tensor(5))
    other = Segments(start=junk, end=wide.end, label=wide.label, count=wide.count, score=torch.rand(3))
    assert s == wide
    assert s == other
    assert (s != other) is False
    assert isinstance(s == wide, bool)
    assert Segments.from_list([[], []]) == Segments.from_labels(torch.full((2, 3), -1))


@pytest.mark.parametrize(
    "other",
    [
        Segments.from_list(BATCH[:2]),
        Segments.from_list([BATCH]),
        Segments.from_list([BATCH[0], BATCH[1], BATCH[0]]),
        Segments.from_list([[(0, 1, 1), (1, 3, 0)], *BATCH[1:]]),
        Segments.from_list([[(0, 2, 1), (2, 3, 1)], *BATCH[1:]]),
        Segments.from_list([[(0, 2, 1), (2, 4, 0)], *BATCH[1:]]),
        Segments.from_list([[(0, 2, 1)], *BATCH[1:]]),
        BATCH,
        None,
    ],
)
def test_inequality(other):
    assert Segments.from_list(BATCH) != other


def test_unhashable():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Segments.from_list(BATCH))


def test_repr_reads_no_value():
    assert repr(Segments.from_list(BATCH)) == "Segments(batch_shape=(3,), N=3, device=cpu)"
    assert repr(scored()) == "Segments(batch_shape=(3,), N=3, device=cpu, score, probability)"
    assert repr(scored().to("meta")[0]) == "Segments(batch_shape=(), N=3, device=meta, score, probability)"


# Copies, pytrees and compilers


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies(copied):
    s = Segments.from_list(BATCH)
    assert copied(s) == s
    assert copied(s).score is None


def test_torch_save_and_load():
    file = io.BytesIO()
    torch.save({"s": scored()}, file)
    file.seek(0)
    loaded = torch.load(file)["s"]
    assert loaded == scored()
    assert loaded.score.tolist() == [0.5, 1.5, 2.5]


def test_pytree_leaves_are_the_tensors_that_are_there():
    bare, full = Segments.from_list(BATCH), scored()
    assert [str(path[0]) for path, _ in pytree.tree_flatten_with_path(bare)[0]] == [
        ".start",
        ".end",
        ".label",
        ".count",
    ]
    leaves, spec = pytree.tree_flatten(full)
    assert [x is y for x, y in zip(leaves, (full.start, full.end, full.label, full.count), strict=False)] == [True] * 4
    assert leaves[4:] == [full.score, full.probability]
    back = pytree.tree_unflatten(leaves, spec)
    assert back == full
    assert back.score is full.score
    assert pytree.tree_map(lambda x: x, bare).score is None
    assert pytree.tree_structure(bare) != spec
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def test_pytree_leaves_may_be_anything():
    shapes = pytree.tree_map(lambda x: tuple(x.shape), scored())
    assert shapes.count == shapes.score == (3,)
    assert shapes.probability == (3, 3)


def test_gathering_replicas_by_tree_map():
    full = scored()
    parts = [pytree.tree_map(lambda x, i=i: x[i : i + 1], full) for i in range(3)]
    gathered = pytree.tree_map(lambda *xs: torch.cat(xs), *parts)
    assert gathered == full
    assert gathered.score.tolist() == [0.5, 1.5, 2.5]


def test_data_parallel_finds_the_tensors_of_an_output():
    assert is_dataclass(Segments)  # so DistributedDataParallel and FSDP look inside
    assert len(list(_find_tensors([scored()]))) == 6


def test_vmap():
    labels = torch.tensor([[1, 1, 0], [2, 2, 2]])
    s = torch.vmap(Segments.from_labels)(labels)
    assert s == Segments.from_labels(labels)
    assert torch.equal(torch.vmap(lambda x: x.to_labels(3))(s), labels)


def double(s: Segments) -> Segments:
    """Takes and returns Segments, through every conversion that does not synchronise."""
    again = Segments.from_labels(s.to_labels(6), s.end.amax(-1))
    score = None if s.score is None else 2 * s.score
    return Segments(start=again.start, end=again.end, label=again.label, count=s.mask.sum(-1), score=score)[...]


@pytest.mark.parametrize("make", [scored, lambda: Segments.from_list(BATCH[:2])])
@pytest.mark.parametrize("dynamic", [None, True])
def test_compile_takes_and_returns_segments(make, dynamic):
    torch._dynamo.reset()
    s = make()
    compiled = torch.compile(double, fullgraph=True, backend="eager", dynamic=dynamic)
    expected, got = double(s), compiled(s)
    assert torch.equal(got.start, expected.start)
    assert torch.equal(got.end, expected.end)
    assert torch.equal(got.count, expected.count)
    assert (got.score is None) == (s.score is None)
    if got.score is not None and s.score is not None:
        got.score.sum().backward()
        assert s.score.grad.tolist() == [2.0, 2.0, 2.0]


def test_compile_traces_pytree_maps():
    torch._dynamo.reset()
    halve = torch.compile(lambda s: pytree.tree_map(lambda x: x[:1], s), fullgraph=True, backend="eager")
    assert halve(scored()) == Segments.from_list(BATCH[:1])


class Relabel(torch.nn.Module):
    def forward(self, s: Segments, labels: torch.Tensor, lengths: torch.Tensor) -> tuple[Segments, Segments]:
        return double(s), Segments.from_labels(labels, lengths)


def test_export_with_a_dynamic_length_and_its_file():
    labels, lengths = torch.tensor([[1, 1, 0, 0], [2, 2, 2, 2]]), torch.tensor([3, 4])
    dynamic = {"s": [{}] * 6, "labels": {1: torch.export.Dim("T", min=2)}, "lengths": None}
    program = torch.export.export(Relabel(), (scored(), labels, lengths), dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for exported in (program, torch.export.load(file)):
        first, second = exported.module()(scored(), torch.tensor([[0, 1, 1, 2, 2], [3] * 5]), torch.tensor([5, 2]))
        assert first == double(scored())
        assert first.score.tolist() == [1.0, 3.0, 5.0]
        assert second.tolist() == [[(0, 1, 0), (1, 3, 1), (3, 5, 2)], [(0, 2, 3)]]
