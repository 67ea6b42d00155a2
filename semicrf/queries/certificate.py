"""How an answer came about: whether time was cut into chunks, and how well these met."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from semicrf.engine.chunks import Report, recording

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution


class Diagnostics(NamedTuple):
    """What happened to each sequence of a batch, ``(...)`` each."""

    chunks: Tensor  #: into how many time was cut, int64; 1 where it was not
    burn_in: Tensor  #: positions before a cut from which the guess of what enters there was made, int64
    repairs: Tensor  #: cuts, of both directions, where the guess was wrong and the chunk was run again, int64
    disagreement: Tensor  #: nats: the largest difference at a cut between guess and truth that was accepted
    disagreement_sum: Tensor  #: nats: of all cuts of both directions, an upper bound of their effect on a logarithm
    cut_deviation: Tensor  #: nats: the most that log Z as the paths through a cut have it differs from log Z


def diagnostics(self: SemiCRFDistribution) -> Diagnostics:
    """What the engine does for `log_partition` and its gradients, run once more to be watched.

    Where a batch has fewer sequences than a machine can work on, time is cut into chunks that run at once. Each starts
    from a guess; what the chunk before arrives at is compared with it, and where the two differ by more than rounding
    the chunk is run again, so the answer does not depend on the guess. How many chunks there are depends on shapes
    alone. Sequences that do not forget how they began are not cut.

    Returns:
        `Diagnostics`; every field has the batch shape. Zeros, and one chunk, where nothing was cut.

    Source: Maleki, Musuvathi & Mytkowicz 2014 (rank convergence).

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> emission = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0))
    >>> d = SemiCRFDistribution(FactoredPotentials(emission, max_duration=30)).diagnostics
    >>> d.chunks.item() >= 1, d.disagreement_sum.item() < 1e-9
    (True, True)
    """
    inference = self._inference
    wanted = [n for n, t in inference.potentials.parts.items() if t.is_floating_point()]
    with recording() as reports, torch.no_grad():
        inference.log_z_gradients(wanted)
    return Diagnostics(*(x.view(self.batch_shape) for x in _summed(reports, inference.lengths.shape[0])))


def _summed(reports: list[Report], B: int) -> tuple[Tensor, ...]:
    """The fields of `Diagnostics`, (B,) each."""
    chunks, whole = torch.ones(3, B, dtype=torch.int64), torch.zeros(3, B, dtype=torch.float64)
    chunks[1:] = 0
    for r in reports:
        b = r.sequence
        chunks[0, b] = max(int(chunks[0, b]), r.chunks)
        chunks[1, b] = max(int(chunks[1, b]), r.burn_in if r.chunks > 1 else 0)
        chunks[2, b] += r.repairs
        whole[0, b] = max(float(whole[0, b]), *r.disagreements, 0.0)
        whole[1, b] += sum(r.disagreements)
        whole[2, b] = max(float(whole[2, b]), r.deviation)
    return *chunks, *whole
