"""Max-marginals: for everything that a segmentation may hold, the score of the best one that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf._room import check_room
from semicrf.algebra import Max
from semicrf.engine.mirror import behind, by_start, leads, mirrored
from semicrf.engine.spans import Spans
from semicrf.inference import Inference
from semicrf.marginals import at_segments
from semicrf.segments import Segments

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution

inf = float("inf")
FIX = "ask for fewer sequences at a time, or for the views by position, boundary or duration."


class MaxMarginals:
    """The score of the best segmentation through each thing that `Marginals` gives the probability of; -inf where there
    is none. A lazy view; constants, without a graph.

    Two sweeps of Max, over the model and its mirror image in time, then one pass over durations. All but `segments` and
    `segment` (``2 B T K C`` numbers of float64) and `edge` (``2 B T K C^2``) take memory of the inputs' size, except
    where a model has parts by duration and transition: its mirror image holds a number for every arc. `SizeError` where
    a table is larger than the memory that is free.
    """

    def __init__(self, distribution: SemiCRFDistribution):
        self._distribution = distribution

    @cached_property
    def _sweeps(self) -> tuple[Spans, Tensor, Tensor, Tensor]:
        """Arcs; alpha (B, T + 1, C) and g (B, T, columns, C) of what comes before; what comes after (B, T + 1, C)."""
        own = self._distribution._inference
        own.refuse_vmap("max_marginals")
        p, lengths = own.potentials, own.lengths
        with torch.no_grad():
            arcs = Spans(p.parts, lengths, p.T, p.K, p.C)
            state = own.state(Max)
            t = torch.arange(p.T + 1, device=lengths.device)
            inside = (t <= lengths[:, None])[..., None]
            offset = state.offset[0][..., None]
            alpha = torch.where(inside, state.alpha[0].double() + offset, -inf)
            g = torch.where(inside[:, 1:, None], state.g[0].double() + offset[:, :-1, None], -inf)
            image = p.replace(mirrored(p.parts, lengths, p.T, p.K, p.C))
            after = behind(Inference(image, lengths, own.backend).state(Max), arcs, arcs.final())
        return arcs, alpha, g, after

    def _segment(self, k: int) -> tuple[Tensor, Tensor]:
        """(B, T, C): segments of duration k by start, with what comes after them; and with what comes before too."""
        arcs, _, g, after = self._sweeps
        if k > arcs.T:
            nothing = after.new_full((arcs.B, arcs.T, arcs.C), -inf)
            return nothing, nothing
        onwards = torch.nn.functional.pad(by_start(arcs, k) + after[:, k:], (0, 0, 0, k - 1), value=-inf)
        return onwards, g[:, :, min(k, g.shape[2]) - 1] + onwards

    @cached_property
    def _cheap(self) -> dict[str, Tensor]:
        """Every view of the inputs' size, in one pass over durations from the longest: `lasting` is the best segment of
        duration k or more by start, so the one that starts k - 1 before a position covers it.
        """
        arcs, alpha, g, _ = self._sweeps
        B, T, K, C = arcs.B, arcs.T, arcs.K, arcs.C
        lasting, onwards, position = (alpha.new_full((B, T, C), -inf) for _ in range(3))
        duration, transition = alpha.new_full((B, K, C), -inf), alpha.new_full((B, C, C), -inf)

        def follow(k: int, onwards: Tensor) -> None:
            lead = leads(arcs, k)
            for previous in range(C if T > 1 else 0):
                arc = alpha[:, 1:T, previous, None] + lead[:, 1:, previous] + onwards[:, 1:]
                transition[:, previous] = torch.maximum(transition[:, previous], arc.amax(1))

        for k in range(K, 0, -1):
            here, through = self._segment(k)
            duration[:, k - 1] = through.amax(1)
            lasting, onwards = torch.maximum(lasting, through), torch.maximum(onwards, here)
            if k <= T:
                position[:, k - 1 :] = torch.maximum(position[:, k - 1 :], lasting[:, : T - k + 1])
            if g.shape[2] > 1:
                follow(k, here)
        if g.shape[2] == 1:
            follow(1, onwards)
        last = alpha[torch.arange(B, device=alpha.device), arcs.lengths] + arcs.final()
        return {
            "boundary": lasting.amax(-1), "position": position, "transition": transition, "duration": duration,
            "start": lasting[:, 0], "end": last,
        }  # fmt: skip

    def _view(self, name: str) -> Tensor:
        return self._distribution._shaped(self._cheap[name])

    @property
    def boundary(self) -> Tensor:
        """(..., T): the best score of a segmentation in which a segment starts at t."""
        return self._view("boundary")

    @property
    def position(self) -> Tensor:
        """(..., T, C): the best score where position t has label c."""
        return self._view("position")

    @property
    def transition(self) -> Tensor:
        """(..., C, C): the best score in which label c follows c' somewhere, ``[c', c]``."""
        return self._view("transition")

    @property
    def duration(self) -> Tensor:
        """(..., K, C): the best score with a segment of this duration (row k - 1) and label."""
        return self._view("duration")

    @property
    def start(self) -> Tensor:
        """(..., C): the best score by the label of the first segment."""
        return self._view("start")

    @property
    def end(self) -> Tensor:
        """(..., C): the best score by the label of the last segment."""
        return self._view("end")

    @cached_property
    def _segments(self) -> Tensor:
        d = self._distribution
        check_room("max_marginals, segments", (d._lengths.shape[0], d.T, d.K, d.C), d._lengths.device, FIX, 16)
        return torch.stack([self._segment(k)[1] for k in range(1, self._distribution.K + 1)], 2)

    @property
    def segments(self) -> Tensor:
        """(..., T, K, C): the best score with the segment that starts at t, of duration row k - 1, with label c."""
        return self._distribution._shaped(self._segments)

    @property
    def edge(self) -> Tensor:
        """(..., T, K, C, C): the best score with the arc ``[s, k - 1, previous, next]``; at s = 0 in previous = 0."""
        arcs, alpha, _, _ = self._sweeps
        check_room("max_marginals, edge", (arcs.B, arcs.T, arcs.K, arcs.C, arcs.C), alpha.device, FIX, 16)
        rows = []
        for k in range(1, arcs.K + 1):
            onwards = self._segment(k)[0][:, :, None]
            row = alpha[:, :-1, :, None] + leads(arcs, k) + onwards
            row[:, 0] = -inf
            row[:, 0, 0] = arcs.initial()[:, min(k, arcs.columns) - 1] + onwards[:, 0, 0]
            rows.append(row)
        return self._distribution._shaped(torch.stack(rows, 2))

    def segment(self, segments: Segments | Sequence) -> Tensor:
        """(..., N): the best score with each given segment, -inf at padding; sample axes may stand in front of the
        batch.

        Raises:
            InputError: the batch shapes do not fit.
        """
        table = self._segments
        found = at_segments(self._distribution, lambda row, s, k, c: table[row, s, k, c], segments, -inf)
        return found.to(self._distribution.dtype)
