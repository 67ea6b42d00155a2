"""For those who come from another layer: a linear-chain CRF on emissions, tags and a mask, or flash-semicrf's head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from semicrf._checks import check_shape, check_tensor
from semicrf.distribution import SemiCRFDistribution
from semicrf.durations import Free, check_size
from semicrf.errors import bad_input
from semicrf.nn.head import SemiCRFHead
from semicrf.nn.losses import Reduction, negative_log_likelihood
from semicrf.potentials import FactoredPotentials

__all__ = ["LinearChainCRF", "from_flash_semicrf", "lengths_of"]


def lengths_of(mask: Tensor, validate: bool = True) -> Tensor:
    """int64 ``(...)``: the lengths that a mask ``(..., T)`` of ones, then zeros, stands for.

    Raises:
        InputError: when validating, a mask that is not ones, then zeros, or has none.

    >>> lengths_of(torch.tensor([[1, 1, 0], [1, 1, 1]])).tolist()
    [2, 3]
    """
    on = mask.bool()
    if (
        validate
        and not torch.compiler.is_compiling()
        and not bool((on[..., 0] & (on == on.cummin(-1).values).all(-1)).all())
    ):
        fix = "sequences begin at position 0; put padding at the end. Missing labels are ignore_index."
        raise bad_input("mask", "zeros before ones, or none", "ones, then zeros, at least one of each sequence", fix)
    return on.sum(-1)


class LinearChainCRF(nn.Module):
    """A linear-chain CRF layer as pytorch-crf has it, on this library's engine: K = 1.

    The same arguments, parameters and defaults, so that its ``state_dict`` loads. ``forward`` is the log-likelihood
    (not its negative), ``decode`` gives lists of tags. ``distribution`` gives all else.

    Args:
        num_tags: ``C``.
        batch_first: whether emissions are ``(B, T, C)``; ``(T, B, C)`` otherwise, tags and masks likewise.

    Source: Lafferty, McCallum & Pereira 2001.

    >>> crf = LinearChainCRF(3, batch_first=True)
    >>> emissions, tags = torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)
    >>> mask = torch.tensor([[True] * 4, [True, True, False, False]])
    >>> bool(crf(emissions, tags, mask) <= 0), [len(row) for row in crf.decode(emissions, mask)]
    (True, [4, 2])
    """

    def __init__(self, num_tags: int, batch_first: bool = False):
        super().__init__()
        self.num_tags, self.batch_first = check_size("num_tags", num_tags), batch_first
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in -0.1..0.1."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def distribution(self, emissions: Tensor, mask: Tensor | None = None) -> SemiCRFDistribution:
        """The distribution over tag sequences; its segments have one position each."""
        check_tensor("emissions", emissions, "floating")
        emissions = self._batch_first(emissions)
        dtype = torch.promote_types(self.transitions.dtype, torch.float32)
        potentials = FactoredPotentials(
            emissions.to(dtype), self.transitions.to(dtype), start=self.start_transitions.to(dtype),
            end=self.end_transitions.to(dtype), max_duration=1,
        )  # fmt: skip
        if mask is not None:
            check_shape("mask", self._batch_first(mask), emissions.shape[:-1], "that of emissions without C")
        return SemiCRFDistribution(potentials, None if mask is None else lengths_of(self._batch_first(mask)))

    def forward(
        self, emissions: Tensor, tags: Tensor, mask: Tensor | None = None, reduction: Reduction = "sum"
    ) -> Tensor:
        """The log-likelihood of the tags, ``()`` or, with reduction ``"none"``, ``(B,)``."""
        p = self.distribution(emissions, mask)
        return -negative_log_likelihood(p, self._batch_first(tags), reduction, split="K")

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> list[list[int]]:
        """The best tags of each sequence, as many as the mask has ones."""
        best = self.distribution(emissions, mask).argmax
        return [[tag for _, _, tag in row] for row in best.tolist()]

    def _batch_first(self, x: Tensor) -> Tensor:
        return x if self.batch_first else x.transpose(0, 1)

    def extra_repr(self) -> str:
        """Sizes and options."""
        return f"num_tags={self.num_tags}, batch_first={self.batch_first}"


@torch.no_grad()
def from_flash_semicrf(head: Any) -> SemiCRFHead:
    """A ``SemiCRFHead`` with the parameters of flash-semicrf's ``SemiMarkovCRFHead``, to train on or to decode with.

    Three things differ there, and this is what becomes of them:

    - its partition function has a free label before the first segment, which ``start`` here sums out: log Z and
      marginals are the same;
    - its loss leaves that label out of the target's score, so it was no likelihood; here it is one;
    - it takes from the scores their mean over each padded sequence. To score as it did, pass ``input_dim`` None a
      head's ``scores - scores.mean(1, keepdim=True)``; to train on, there is no need to.

    Durations become ``"free"``, whatever they were parametrised by.

    Args:
        head: with ``transition (C, C)`` of ``[previous, next]``, ``duration_bias (K, C)`` whose row ``k - 1`` is
            duration k, and ``projection``, a ``Linear`` or None.

    Raises:
        InputError: an attribute that is missing or of another shape.
    """
    parts = {name: getattr(head, name, None) for name in ("transition", "duration_bias")}
    for name, part in parts.items():
        check_tensor(f"head.{name}", part, "floating")
    transition, duration = (part.detach() for part in parts.values() if isinstance(part, Tensor))
    K, C = duration.shape
    check_shape("head.transition", transition, (C, C), "as duration_bias is (K, C)")
    projection = getattr(head, "projection", None)
    own = SemiCRFHead(C, K, None if projection is None else projection.in_features)
    own = own.to(device=transition.device, dtype=transition.dtype)
    own.transition.copy_(transition)
    own.start.copy_(transition.logsumexp(0))
    if isinstance(own.duration, Free):
        own.duration.score.copy_(duration)
    if own.projection is not None and projection is not None:
        own.projection.weight.copy_(projection.weight)
        own.projection.bias.copy_(projection.bias)
    return own
