"""The head in training as people run it: compiled, checkpointed, under autocast, in two processes, saved and loaded."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path

import pytest
import torch
from heads import EXACT, LABELS, LENGTHS, C, D, K, T, features
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from semicrf import Segments
from semicrf.nn import SemiCRFHead, entropy, negative_log_likelihood

INPUTS = 6


class Tagger(nn.Module):
    """A small encoder and a head."""

    def __init__(self, **options):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(INPUTS, D), nn.Tanh(), nn.Linear(D, D))
        self.head = SemiCRFHead(C, K, D, boundary_scores=True, **options)

    def forward(self, inputs: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        return self.head.loss(self.encoder(inputs), target, lengths, reduction="sum")


def tagger(**options) -> Tagger:
    torch.manual_seed(0)
    return Tagger(**options).double()


def batch(B: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    repeat = -(-B // 3)
    return features(B, T, INPUTS), LABELS.repeat(repeat, 1)[:B], LENGTHS.repeat(repeat)[:B]


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("duration", ["free", "negative_binomial"])
def test_a_whole_training_step_compiles_without_a_break(duration):
    ours, theirs = tagger(duration=duration), tagger(duration=duration)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for model, call in ((ours, compiled), (theirs, theirs)):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            optimiser.zero_grad()
            call(*batch()).backward()
            optimiser.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_missing_labels_and_further_losses_compile():
    model = tagger()
    labels = torch.where(torch.arange(T) == 1, -100, LABELS)

    def loss(hidden: Tensor) -> Tensor:
        p = model.head(hidden, LENGTHS)
        return negative_log_likelihood(p, labels, ignore_index=-100, split="K") - 0.1 * entropy(p)

    hidden = features(3, T, D).requires_grad_()
    expected, found = loss(hidden), torch.compile(loss, backend="aot_eager", fullgraph=True)(hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, hidden), torch.autograd.grad(expected, hidden))


def test_decoding_compiles_without_a_break():
    head, hidden = tagger().head, features(3, T, D)
    expected = head.decode(hidden, LENGTHS)
    found = torch.compile(lambda h, n: head.decode(h, n), backend="aot_eager", fullgraph=True)(hidden, LENGTHS)
    assert isinstance(found, Segments)
    assert found == expected
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.probability, expected.probability)


class Decoding(nn.Module):
    """What is exported: decoding alone."""

    def __init__(self, head: SemiCRFHead):
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor, lengths: Tensor) -> Segments:
        return self.head.decode(hidden, lengths)


def test_decoding_is_exported_saved_and_loaded(tmp_path):
    model, hidden = Decoding(tagger().head), features(3, T, D)
    torch.export.save(torch.export.export(model, (hidden, LENGTHS)), tmp_path / "decode.pt2")
    loaded = torch.export.load(tmp_path / "decode.pt2").module()
    found, expected = (m(2 * hidden, LENGTHS) for m in (loaded, model))
    assert found == expected
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.probability, expected.probability)


def test_exported_decoding_takes_any_batch_and_length(tmp_path):
    model, B, T = Decoding(tagger().head), torch.export.Dim("B", min=1), torch.export.Dim("T", min=2)
    example = features(7, 11, D), torch.arange(5, 12)
    program = torch.export.export(
        model, example, dynamic_shapes={"hidden": {0: B, 1: T}, "lengths": {0: B}}
    )  # the sizes of the example differ: where two are equal, torch takes them for one
    torch.export.save(program, tmp_path / "decode.pt2")
    loaded = torch.export.load(tmp_path / "decode.pt2").module()
    for b, t in ((1, 2), (1, 9), (4, 4), (7, 11), (12, 40)):
        hidden, lengths = features(b, t, D, seed=t), torch.arange(b) % t + 1
        found, expected = loaded(hidden, lengths), model(hidden, lengths)
        assert found == expected, (b, t)
        torch.testing.assert_close(found.score, expected.score)
        torch.testing.assert_close(found.probability, expected.probability)


def test_checkpointed_encoder_and_head_give_the_same_gradients():
    plain, saving = tagger(), tagger()
    inputs, target, lengths = batch()
    plain(inputs, target, lengths).backward()
    hidden = checkpoint(saving.encoder, inputs, use_reentrant=False)
    loss = checkpoint(lambda h: saving.head.loss(h, target, lengths, reduction="sum"), hidden, use_reentrant=False)
    assert isinstance(loss, Tensor)
    loss.backward()
    for a, b in zip(gradients(saving), gradients(plain), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_encoder_under_autocast_trains_and_is_scored_in_float32(dtype):
    model = tagger().float()
    inputs, target, lengths = batch()
    wanted = model(inputs.float(), target, lengths)
    with torch.autocast("cpu", dtype=dtype):
        hidden = model.encoder(inputs.float())
        loss = model.head.loss(hidden, target, lengths, reduction="sum")
    assert hidden.dtype == dtype
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0.02)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.encoder.parameters())


NAMES = [
    "transition",
    "start",
    "end",
    "projection.weight",
    "projection.bias",
    "duration.score",
]  # fmt: skip  what stands in files that people keep: a new name is a new key, these stay


def test_the_state_dict_keeps_its_names_and_shapes_and_survives_a_file(tmp_path):
    head = tagger().head
    assert {n: tuple(t.shape) for n, t in head.state_dict().items()} == dict(
        zip(NAMES, [(C, C), (C,), (C,), (3 * C, D), (3 * C,), (K, C)], strict=True)
    )
    torch.save(head.state_dict(), tmp_path / "head.pt")
    other = SemiCRFHead(C, K, D, boundary_scores=True, label_names=["a", "b"]).double()
    other.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    hidden = features(3, T, D)
    assert torch.equal(other.loss(hidden, EXACT, LENGTHS), head.loss(hidden, EXACT, LENGTHS))
    assert copy.deepcopy(head).decode(hidden, LENGTHS) == head.decode(hidden, LENGTHS)


# -------------------------------------------------------------------------------------------------------- two processes
def wrap(model: Tagger, sharded: bool, world: int) -> nn.Module:
    """Replicated (DDP), or with parameters in shards (FSDP2)."""
    if not sharded:
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    fully_shard(model.head, mesh=mesh, reshard_after_forward=False)  # a distribution reads parameters after forward
    fully_shard(model, mesh=mesh)
    return model


def train(rank: int, world: int, folder: str, sharded: bool) -> None:
    """Two steps on this rank's half of the batch; rank 0 saves what came of them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    try:
        model = tagger()
        wrapped = wrap(model, sharded, world)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        inputs, target, lengths = (x.chunk(world)[rank] for x in batch(6))
        losses = []
        for _ in range(2):
            optimiser.zero_grad()
            loss = wrapped(inputs, target, lengths)
            loss.backward()
            optimiser.step()
            torch.distributed.all_reduce(loss := loss.detach())
            losses.append(loss / world)
        state = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in model.state_dict().items()}
        if rank == 0:
            torch.save({"losses": torch.stack(losses), "state": state}, f"{folder}/found.pt")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no distributed package")
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_take_the_steps_of_one(tmp_path: Path, sharded: bool):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=train, daemon=True, args=(rank, 2, str(tmp_path), sharded)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    model = tagger()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(2):
        optimiser.zero_grad()
        loss = model(*batch(6)) / 2  # the mean over two processes of each one's sum
        torch.testing.assert_close(found["losses"][step], loss.detach(), rtol=1e-12, atol=1e-12)
        loss.backward()
        optimiser.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found["state"][name], value, rtol=1e-11, atol=1e-12)
