"""Random segmentations: exact samples, and the best segmentation of perturbed scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf import _validation
from semicrf.engine.walk import uniform
from semicrf.errors import bad_input
from semicrf.inference import Inference
from semicrf.segments import Segments

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

EULER = 0.5772156649015329  # the mean of a standard Gumbel variable


def sample(
    p: SemiCRFDistribution, sample_shape: object, generator: torch.Generator | None, sequence_id: Tensor | None
) -> Segments:
    """Exact samples: backward sampling (Scott 2002) on the stored sums."""
    p._inference.refuse_vmap("samples")
    shape = _validation.shape("sample_shape", sample_shape)
    ids = _validation.sequence_ids(sequence_id, p.potentials)
    drawn = p._inference.sample(_validation.seed(generator), shape.numel(), ids)
    start, end, label, count = (x.reshape((*shape, *p.batch_shape, *x.shape[2:])) for x in drawn)
    return Segments(start=start, end=end, label=label, count=count)


def perturbed_argmax(
    self: SemiCRFDistribution, scale: float = 1.0, generator: torch.Generator | None = None, *,
    sequence_id: Tensor | None = None,
) -> Segments:  # fmt: skip
    """The best segmentation after Gumbel noise has been added to every emission: perturb and MAP.

    One draw: not a sample of this distribution, but of one like it that costs no more than `argmax`. With scale 0 it is
    `argmax`. The noise of a position depends on the seed, the sequence's id, the position and the label alone; its mean
    is 0 and its variance ``(pi scale)^2 / 6``. Constraints hold. `score` is that of the perturbed model.

    Args:
        scale: of the noise, at least 0.
        generator: where the one 64-bit seed of this call comes from; torch's default generator otherwise.
        sequence_id: int64 ``(...)``, what a sequence's draws are keyed by; its index in the batch by default.

    Raises:
        InputError: a scale that is not a finite number of at least 0, or ids that are not one integer per sequence.

    Source: Papandreou & Yuille 2011.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.tensor([[0.0, 2.0], [0.0, 3.0]])))
    >>> p.perturbed_argmax(0.0) == p.argmax
    True
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
        raise bad_input("scale", repr(scale), "a finite number of at least 0")
    self._inference.refuse_vmap("perturbed_argmax")
    ids = _validation.sequence_ids(sequence_id, self.potentials)
    place = torch.arange(self.T * self.C, device=ids.device)
    u, _ = uniform(_validation.seed(generator), torch.zeros_like(place), ids[:, None], place)
    open_interval = (u * 2.0**52).floor() * 2.0**-52 + 2.0**-53  # never 0 or 1
    noise = -(-open_interval.log()).log() - EULER
    model = self.potentials
    emission = model.full("emission") + (scale * noise.view(-1, self.T, self.C)).to(model.dtype)
    perturbed = Inference(model.replace({**model.parts, "emission": emission}), self._lengths, self.backend)
    marks, labels, best = perturbed.best()
    return self._segments(marks, labels, (), score=self._shaped(best))
