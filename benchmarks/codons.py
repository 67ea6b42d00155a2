"""What the bases of a strand say about where proteins are coded: codons that start and stop, and what is open between.

Bases are indices of ``ACGT``, 4 where unknown; ``T`` of them. All is given for both strands.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COMPLEMENT = (3, 2, 1, 0, 4)
START, STOPS = (0, 3, 2), ((3, 0, 0), (3, 0, 2), (3, 2, 0))
FEATURES, MARKS = 16, 4  # columns of `features`, and of `both_marks`, the last of them


def other_strand(bases: Tensor) -> Tensor:
    """The reverse complement."""
    return torch.tensor(COMPLEMENT)[bases].flip(0)


def begins(bases: Tensor, codons: Iterable[tuple[int, int, int]]) -> Tensor:
    """bool ``(T,)``: whether one of the codons begins here."""
    found = torch.zeros(len(bases), dtype=torch.bool)
    for codon in codons:
        found[:-2] |= (torch.stack([bases[:-2], bases[1:-1], bases[2:]], 1) == torch.tensor(codon)).all(1)
    return found


def reading_frames(bases: Tensor) -> Tensor:
    """``(T, 3)``: how many codons the stretch between two stops has that the codon which began r bases before is in."""
    stop, count = begins(bases, STOPS), torch.zeros(len(bases))
    for frame in range(3):
        run = stop[frame::3].long().cumsum(0)  # which stretch between stops each codon of the frame is in
        count[frame::3] = run.bincount()[run].float()
    return torch.stack([torch.cat([count.new_ones(r), count[: len(bases) - r]]) for r in range(3)], 1)


def marks(bases: Tensor) -> Tensor:
    """``(T, 2)``: where a coding stretch may start, the logarithm of the codons from there to the next stop in frame;
    where it may end, that of the codons since the stop before; 0 elsewhere.
    """
    T, start, stop = len(bases), begins(bases, [START]), begins(bases, STOPS)
    found = torch.zeros(T, 2)
    for frame in range(3):
        at, here = torch.arange(len(range(frame, T, 3))), stop[frame::3]
        before = torch.where(here, at, -1).cummax(0).values
        last = torch.cat([before.new_full((1,), -1), before[:-1]])  # the stop before this codon
        after = torch.where(here, at, len(at)).flip(0).cummin(0).values.flip(0)
        found[frame::3, 0] = torch.where(start[frame::3], (after - at + 1).float().log2(), 0.0)
        ends = torch.where(here, (at - last).float().log2(), 0.0)[: len(range(frame + 2, T, 3))]
        found[frame + 2 :: 3, 1] = ends  # the last base of the codon
    return found


def open_frames(bases: Tensor) -> Tensor:
    """``(T, 8)``: the open reading frames of either strand, three of each and the longest, about -1..1."""
    other = reading_frames(other_strand(bases)).flip(0)
    frames = torch.stack([reading_frames(bases), other], 1).log2() / 4 - 1
    return torch.cat([frames.flatten(1), frames.amax(2)], 1)


def both_marks(bases: Tensor) -> Tensor:
    """``(T, 4)``: `marks` of this strand and of the other one, over 4."""
    return torch.cat([marks(bases), marks(other_strand(bases)).flip(0)], 1) / 4


def features(bases: Tensor) -> Tensor:
    """``(T, 16)``: the base, one-hot, `open_frames`, `both_marks`."""
    return torch.cat([nn.functional.one_hot(bases, 5)[:, :4], open_frames(bases), both_marks(bases)], 1)


def by_rule(bases: Tensor, least: int) -> list[tuple[int, int, int]]:
    """What a rule finds: ``(start, end, strand)``, disjoint, from the first start in a frame to the stop after it.

    Of at least `least` bases, longer ones first; strand 0 is this one, 1 the other.
    """
    T, found = len(bases), []
    for strand, own in enumerate((bases, other_strand(bases))):
        starts, stops = begins(own, [START]).tolist(), begins(own, STOPS).tolist()
        for frame in range(3):
            start = None
            for t in range(frame, T - 2, 3):
                if stops[t] and start is not None:
                    found.append((start, t + 3, 0) if strand == 0 else (T - t - 3, T - start, 1))
                start = None if stops[t] else t if start is None and starts[t] else start
    kept: list[tuple[int, int, int]] = []
    for start, end, strand in sorted(found, key=lambda s: (s[0] - s[1], s)):
        if end - start >= least and all(end <= s or start >= e for s, e, _ in kept):
            kept.append((start, end, strand))
    return sorted(kept)
