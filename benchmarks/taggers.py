"""Three ways to tag entities on one encoder: segments, a linear chain over BIO tags, a softmax at each position.

Each says with which probability it finds an entity: the segment model exactly; the others, as is usual, by the product
over the entity's words of the probability of each word's tag, from the chain's marginals or from the softmax.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from semicrf.constraints import Constraints
from semicrf.nn import SemiCRFHead
from semicrf.segments import Segments


class SegmentTagger:
    """Entities as segments of up to `K` words; an entity that is longer is cut in training and cannot be found."""

    name = "semi-Markov CRF over entities"

    def __init__(self, names: list[str], gold: Segments, K: int):
        self.names, self.gold, self.K = names, gold, K

    def head(self, dim: int) -> SemiCRFHead:
        """Label 0, ``O``, has one position."""
        duration = torch.ones(self.K, len(self.names), dtype=torch.bool)
        duration[1:, 0] = False
        rules = Constraints(duration=duration)
        return SemiCRFHead(len(self.names), self.K, dim, boundary_scores=True, constraints=rules)

    def loss(self, head: Any, hidden: Tensor, index: list[int], lengths: Tensor) -> Tensor:
        """Of the sentences at `index`, the mean."""
        return head.loss(hidden, self.gold[index], lengths, split="K")

    def decode(self, head: Any, hidden: Tensor, lengths: Tensor) -> Segments:
        """The best segmentations, with the probability of each segment."""
        return head.decode(hidden, lengths)


class BioTagger:
    """A tag for each word: ``O``, and ``B-`` and ``I-`` of each type."""

    def __init__(self, names: list[str], gold: Segments):
        self.names = names
        self.tags = ["O"] + [f"{part}-{name}" for name in names[1:] for part in "BI"]
        ids = {tag: i for i, tag in enumerate(self.tags)}
        rows = [torch.tensor([ids[tag] for tag in row]) for row in gold.to_bio(names)]
        self.gold = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def entities(self, best: Tensor, probability: Tensor, lengths: Tensor) -> Segments:
        """The entities of tags ``(B, T)``, given the probability of every tag ``(B, T, C)``."""
        rows = [[self.tags[tag] for tag in row[:n]] for row, n in zip(best.tolist(), lengths.tolist(), strict=True)]
        found = Segments.from_bio(rows, self.names)
        each = probability.gather(-1, torch.where(best < 0, 0, best)[..., None])[..., 0].double()
        inside = torch.arange(best.shape[1]) < lengths[:, None]
        sums = nn.functional.pad(torch.where(inside, each, 1.0).log().cumsum(-1), (1, 0))  # of logs, before each word
        start, end = (torch.where(found.mask, x, 0) for x in (found.start, found.end))
        total = sums.gather(-1, end) - sums.gather(-1, start)
        return replace(found, probability=torch.where(found.mask, total.exp(), 0.0))


class ChainTagger(BioTagger):
    """A linear chain; ``I-`` follows only its own type."""

    name = "linear-chain CRF over BIO tags"

    def head(self, dim: int) -> SemiCRFHead:
        C = len(self.tags)
        transition, start = torch.ones(C, C, dtype=torch.bool), torch.ones(C, dtype=torch.bool)
        for i in range(2, C, 2):  # I-type, right after B-type
            transition[:, i] = False
            transition[i - 1 : i + 1, i] = True
            start[i] = False
        return SemiCRFHead(C, 1, dim, duration="uniform", constraints=Constraints(transition=transition, start=start))

    def loss(self, head: Any, hidden: Tensor, index: list[int], lengths: Tensor) -> Tensor:
        """Of the sentences at `index`, the mean."""
        return head.loss(hidden, self.gold[index, : hidden.shape[1]], lengths, split="K")

    def decode(self, head: Any, hidden: Tensor, lengths: Tensor) -> Segments:
        """The entities of the best tags."""
        p = head(hidden, lengths)
        return self.entities(p.argmax.to_labels(p.T), p.marginals.position, lengths)


class SoftmaxTagger(BioTagger):
    """Each tag on its own; an ``I-`` that continues nothing begins an entity."""

    name = "softmax over BIO tags"

    def head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, len(self.tags))

    def loss(self, head: Any, hidden: Tensor, index: list[int], lengths: Tensor) -> Tensor:
        """The sum over words, the mean over sentences."""
        gold = self.gold[index, : hidden.shape[1]]
        total = nn.functional.cross_entropy(head(hidden).transpose(1, 2), gold, ignore_index=-1, reduction="sum")
        return total / len(index)

    def decode(self, head: Any, hidden: Tensor, lengths: Tensor) -> Segments:
        """The entities of the most probable tags."""
        probability = head(hidden).softmax(-1)
        return self.entities(probability.argmax(-1), probability, lengths)
