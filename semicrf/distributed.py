"""One sequence over several processes of a `torch.distributed` group, each with the positions it holds.

A sequence that no device holds, or that one would take too long over, is cut into as many chunks as the group has
processes, in the order of their ranks. Each runs its own positions from a guess of what enters them; at the cuts they
exchange windows, all that the recurrence remembers, and compare; what does not agree is run again. So every process
has the answer that one device would have, and the gradients of what it holds.

    import semicrf.distributed

    # on every rank, with the emissions of its own positions:
    potentials = semicrf.FactoredPotentials(head(my_part), transition, duration)
    log_z = semicrf.distributed.log_partition(potentials)      # of the whole sequence, on all ranks
    log_z.sum().backward()                                     # in my emissions, and in all of transition, duration
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from semicrf.algebra import Entropy, Log, Semiring
from semicrf.compile import compiled
from semicrf.engine.chunks import burn_in
from semicrf.errors import BackendError, bad_input
from semicrf.potentials import FactoredPotentials

POSITIONS = ("emission", "segment_start", "segment_end")


class Group:
    """A process group as the engine uses it: float64 and int64 tensors, in the order of ranks."""

    def __init__(self, group: dist.ProcessGroup | None):
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

    def gather(self, mine: Tensor) -> Tensor:
        """(size, ...): everybody's."""
        found = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(found, mine.contiguous(), group=self.group)
        return torch.stack(found)

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """That of one of them."""
        tensor = tensor.contiguous().clone()
        dist.broadcast(tensor, group=self.group, group_src=source)
        return tensor


def log_partition(potentials: FactoredPotentials, group: dist.ProcessGroup | None = None) -> Tensor:
    """``(...)``: log Z of the sequence whose positions the processes of a group hold, in the order of their ranks.

    Args:
        potentials: of this process's positions, ``T`` of them, which may differ from rank to rank; batch shape, K, C
            and the parts that belong to no position are the same on all.
        group: the default group where it is None.

    Returns:
        The same on every rank. Its gradient in parts of positions is that of this rank's; in others it is that of the
        whole sequence, on every rank, so it is not to be summed over ranks again. Every rank has to call backward.

    Raises:
        InputError: shapes differ between ranks, or a rank holds fewer positions than K; the same error on all.
        BackendError: the tensors are not on the CPU, or numba is not installed.

    Source: Maleki, Musuvathi & Mytkowicz 2014.
    """
    return _total(Log, potentials, group)[0]


def entropy(potentials: FactoredPotentials, group: dist.ProcessGroup | None = None) -> Tensor:
    """``(...)`` nats: the Shannon entropy of the same distribution; see `log_partition`."""
    return _total(Entropy, potentials, group)[1]


def _total(semiring: type[Semiring], potentials: FactoredPotentials, group: dist.ProcessGroup | None) -> Tensor:
    if "duration_transition" in potentials.parts:
        raise bad_input("potentials", "duration_transition", "parts that factor", "leave it out, or use one process.")
    if potentials.device.type != "cpu":
        raise BackendError(f"distributed: got tensors on {potentials.device}; expected cpu, the one device it has yet.")
    link = Group(group)
    _same_shapes(potentials, link)
    parts = {"transition": potentials.full("transition"), "duration": potentials.full("duration"), **potentials.parts}
    value = _Total.apply(semiring, link, tuple(parts), *parts.values())
    dtype = potentials.dtype if potentials.dtype in (torch.float32, torch.float64) else torch.float32
    return value.to(dtype).reshape(-1, *potentials.batch_shape)


def _same_shapes(p: FactoredPotentials, link: Group) -> None:
    """An error on all ranks where any of them does not fit."""
    mine = torch.tensor([p.T, p.K, p.C, p.B, sum(1 << i for i, n in enumerate(sorted(p.parts)))])
    found = link.gather(mine)
    if (found[:, 1:] != found[0, 1:]).any():
        raise bad_input("potentials", f"(T, K, C, B, parts) of {found.tolist()} by rank", "the same but for T")
    if (found[:, 0] < p.K).any():
        fix = "give each rank at least K positions, or use fewer ranks."
        raise bad_input("potentials", f"{found[:, 0].tolist()} positions by rank", f"at least {p.K} each", fix)


def _extended(parts: dict[str, Tensor], link: Group) -> tuple[dict[str, Tensor], tuple[int, int, int]]:
    """The parts with what neighbours hold next to them, and how many positions each side and the middle have."""
    own = parts["emission"].shape[1]
    most = burn_in(parts["duration"].shape[1])
    sizes = link.gather(torch.tensor([own])).flatten().tolist()
    reach = [min(most, n) for n in sizes]
    before = reach[link.rank - 1] if link.rank > 0 else 0
    after = reach[link.rank + 1] if link.rank + 1 < link.size else 0
    held, n = dict(parts), reach[link.rank]
    for name in [p for p in POSITIONS if p in parts]:
        part = parts[name].detach()
        ends = part.new_zeros(2, part.shape[0], most, part.shape[2])
        ends[0, :, :n], ends[1, :, :n] = part[:, :n], part[:, own - n :]
        around = link.gather(ends)
        head = around[link.rank - 1, 1, :, :before] if before else part[:, :0]
        tail = around[link.rank + 1, 0, :, :after] if after else part[:, :0]
        held[name] = torch.cat([head, part, tail], 1)
    return {n: t.detach() for n, t in held.items()}, (before, own, after)


class _Total(torch.autograd.Function):
    """(semiring, link, names, *parts) -> value (d, B)."""

    @staticmethod
    def forward(ctx: Any, semiring: type[Semiring], link: Group, names: tuple[str, ...], *tensors: Tensor):
        try:
            from semicrf.engine.cpu import across  # here, as numba's loops are loaded when they are first needed
        except ModuleNotFoundError as error:
            raise BackendError("distributed: needs numba. Likely fix: pip install numba.") from error
        parts, sides = _extended(dict(zip(names, tensors, strict=True)), link)
        held = across.Held(*sides)
        kept = across.scan(compiled(semiring), parts, held, link)
        ctx.given = across, compiled(semiring), parts, held, link, kept
        return kept.value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor):
        across, program, parts, held, link, kept = ctx.given
        gradients = across.scan_vjp(program, parts, held, link, kept, cotangents[0])
        return None, None, None, *gradients.values()
