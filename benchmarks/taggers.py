"""Three ways to tag entities on one encoder: segments, a linear chain over BIO tags, a softmax at each position.

Each says with which probability it finds an entity: the segment model exactly; the others, as is usual, by the product
over the entity's words of the probability of each word's tag, from the chain's marginals or from the softmax. Both CRFs
also give what is often taken for it: the softmax of their scores at each position, along the best path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.confidence import Confidence, Found
from semicrf.constraints import Constraints
from semicrf.nn import SemiCRFHead
from semicrf.segments import Segments

MARGINAL, VITERBI = "marginal", "softmax of Viterbi"


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
        """The best segmentations."""
        return head(hidden, lengths).argmax

    def confidences(self, head: Any) -> dict[str, Confidence]:
        """The probability of a segment; the product of the softmax of its label at each of its words."""

        def marginal(found: Found, temperature: float) -> Tensor:
            p = head(found.hidden, found.lengths).with_temperature(temperature)
            return p.marginals.segment(found.predicted)

        def viterbi(found: Found, temperature: float) -> Tensor:
            labels = found.predicted.to_labels(found.hidden.shape[1])
            return product(labels, emissions(head, found, temperature).softmax(-1), found.predicted)

        return {MARGINAL: marginal, VITERBI: viterbi}


class BioTagger:
    """A tag for each word: ``O``, and ``B-`` and ``I-`` of each type."""

    def __init__(self, names: list[str], gold: Segments):
        self.names = names
        self.tags = ["O"] + [f"{part}-{name}" for name in names[1:] for part in "BI"]
        self.ids = {tag: i for i, tag in enumerate(self.tags)}
        self.gold = self.tags_of(gold)

    def tags_of(self, segments: Segments) -> Tensor:
        """``(B, T)``, -1 past the end."""
        rows = [torch.tensor([self.ids[tag] for tag in row]) for row in segments.to_bio(self.names)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def entities(self, tags: Tensor, lengths: Tensor) -> Segments:
        """The entities of tags ``(B, T)``; an ``I-`` that continues nothing begins one."""
        rows = [[self.tags[tag] for tag in row[:n]] for row, n in zip(tags.tolist(), lengths.tolist(), strict=True)]
        return Segments.from_bio(rows, self.names)


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
        return self.entities(p.argmax.to_labels(p.T), lengths)

    def confidences(self, head: Any) -> dict[str, Confidence]:
        """The products of each tag's marginal, and of the softmax of each tag's score."""

        def marginal(found: Found, temperature: float) -> Tensor:
            p = head(found.hidden, found.lengths).with_temperature(temperature)
            return product(self.tags_of(found.predicted), p.marginals.position, found.predicted)

        def viterbi(found: Found, temperature: float) -> Tensor:
            return product(
                self.tags_of(found.predicted), emissions(head, found, temperature).softmax(-1), found.predicted
            )

        return {MARGINAL: marginal, VITERBI: viterbi}


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
        return self.entities(head(hidden).argmax(-1), lengths)

    def confidences(self, head: Any) -> dict[str, Confidence]:
        """The product of each tag's probability."""

        def marginal(found: Found, temperature: float) -> Tensor:
            scores = head(found.hidden) / temperature
            best = torch.where(found.predicted.to_labels(scores.shape[1]) < 0, -1, scores.argmax(-1))
            return product(best, scores.softmax(-1), found.predicted)

        return {MARGINAL: marginal}


Tagger = SegmentTagger | ChainTagger | SoftmaxTagger


def emissions(head: SemiCRFHead, found: Found, temperature: float) -> Tensor:
    """``(B, T, C)``: what a head scores at each position."""
    assert head.projection is not None
    return head.projection(found.hidden)[..., : head.num_labels] / temperature  # behind them: starts, ends


def product(labels: Tensor, probability: Tensor, segments: Segments) -> Tensor:
    """``(B, N)``: over each segment, of the probability ``(B, T, C)`` of its label at each position; 0 at padding.

    Labels ``(B, T)`` are below 0 past the end.
    """
    probability = probability[:, : labels.shape[1]]
    each = probability.gather(-1, torch.where(labels < 0, 0, labels)[..., None])[..., 0].double()
    sums = nn.functional.pad(torch.where(labels >= 0, each, 1.0).log().cumsum(-1), (1, 0))  # of logs, before each word
    start, end = (torch.where(segments.mask, x, 0) for x in (segments.start, segments.end))
    total = sums.gather(-1, end) - sums.gather(-1, start)
    return torch.where(segments.mask, total.exp(), 0.0)
