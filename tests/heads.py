"""Heads with random parameters, targets for them, and what they should score by enumeration."""

from __future__ import annotations

import oracle
import torch

from semicrf.nn import SemiCRFHead

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
    model = oracle.Model(
        emission=scores[:, :C], start=head.start, end=head.end, duration=head.duration(), transition=head.transition
    )
    return model.replace(**parts)


def negative_log_prob(model: oracle.Model, length: int, y) -> torch.Tensor:
    return oracle.scores(model, length).logsumexp(0) - oracle.score(model, y)
