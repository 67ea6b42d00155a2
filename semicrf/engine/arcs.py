"""The scores of arcs, read from a model's parts one position at a time, and the adjoint of that reading.

An arc is a segment with what leads into it: from (source, previous label) to (end, label). Its score is a sum of parts,
so reading is linear; `Counts` is its transpose and turns cotangents of arc scores into gradients of parts. All in
float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from semicrf.engine.layout import BY_DURATION, MASKS, PARTS, shared

inf = float("inf")


class Arcs:
    """Arc scores of one model, ``-inf`` where forbidden.

    Emissions enter through prefix sums. A -inf emission would poison those, so it is taken out and remembered as a
    bound: a segment of label c that ends at t must start at ``lo[t, c]`` or later. A required boundary is such a bound
    too.
    """

    def __init__(self, parts: Mapping[str, Tensor], lengths: Tensor, T: int, K: int, C: int):
        self.B, self.T, self.K, self.C = lengths.shape[0], T, K, C
        self.device, self.lengths = lengths.device, lengths
        self.parts = {n: _inside(n, t.detach().to(torch.float64), lengths) for n, t in parts.items() if n not in MASKS}
        self.columns = K if BY_DURATION & set(parts) else 1
        self.forbidden: Tensor | None = None
        self.prefix: Tensor | None = None
        if "emission" in self.parts:
            emission = self.parts["emission"]
            self.forbidden = emission == -inf
            finite = torch.where(self.forbidden, 0.0, emission)
            self.prefix = torch.nn.functional.pad(finite.cumsum(1), (0, 0, 1, 0))
        self.lo = self._bounds(parts.get("required"))

    def _bounds(self, required: Tensor | None) -> Tensor | None:
        """lo (B, T+1, C or 1), or None where nothing is bounded."""
        here = torch.arange(1, self.T + 1, device=self.device)[None, :, None]
        bounds = []
        # Where something traces or batches, no number can be asked for.
        watched = torch.compiler.is_compiling() or peek_interpreter_stack() is not None
        if self.forbidden is not None and (watched or bool(self.forbidden.any())):
            bounds.append(torch.where(self.forbidden, here, 0))
        if required is not None:
            bounds.append(torch.where(required[..., None], here - 1, 0))
        if not bounds:
            return None
        lo = bounds[0] if len(bounds) == 1 else torch.maximum(*torch.broadcast_tensors(*bounds))
        return torch.nn.functional.pad(lo, (0, 0, 1, 0)).cummax(1).values

    def sources(self, t: int) -> Tensor:
        """The starts of segments that end at t, by duration 1, 2, ..."""
        return torch.arange(t - 1, t - 1 - min(self.K, t), -1, device=self.device)

    def window(self, t: int) -> Tensor:
        """(B, m, C): segments that end at t, by duration."""
        src = self.sources(t)
        rows = torch.arange(len(src), device=self.device)
        w = torch.zeros(self.B, len(src), self.C, dtype=torch.float64, device=self.device)
        if self.prefix is not None:
            w = w + (self.prefix[:, t, None] - self.prefix[:, src])
        for name in ("duration", "segment_start", "segment_end", "segment"):
            if name in self.parts:
                part = self.parts[name]
                w = w + (
                    part[:, : len(src)] if name == "duration"
                    else part[:, src] if name == "segment_start"
                    else part[:, t - 1, None] if name == "segment_end"
                    else part[:, src, rows]
                )  # fmt: skip
        if self.lo is not None:
            w = torch.where(src[None, :, None] < self.lo[:, t, None], -inf, w)
        return w

    def transition(self, s: int) -> Tensor:
        """(B or 1, columns, C, C): what leads from each previous label into a segment that starts at s > 0."""
        w = torch.zeros(1, self.columns, self.C, self.C, dtype=torch.float64, device=self.device)
        if "transition" in self.parts:
            w = w + self.parts["transition"][:, None]
        if "duration_transition" in self.parts:
            w = w + self.parts["duration_transition"]
        if "edge" in self.parts:
            w = w + self.parts["edge"][:, s]
        return w

    def initial(self) -> Tensor:
        """(B or 1, columns, C): what leads into the first segment."""
        w = torch.zeros(1, self.columns, self.C, dtype=torch.float64, device=self.device)
        if "start" in self.parts:
            w = w + self.parts["start"][:, None]
        if "edge" in self.parts:
            w = w + self.parts["edge"][:, 0, :, 0]
        return w

    def final(self) -> Tensor:
        """(B or 1, C): what the last segment's label scores at the end."""
        return self.parts.get("end", torch.zeros(1, self.C, dtype=torch.float64, device=self.device))


class Counts:
    """The transpose of `Arcs`: cotangents of arc scores, gathered into gradients of the parts that are wanted."""

    def __init__(self, arcs: Arcs, wanted: set[str]):
        self.arcs, self.wanted = arcs, wanted
        sizes = {"B": arcs.B, "T": arcs.T, "K": arcs.K, "C": arcs.C}
        self.sums = {
            n: torch.zeros([sizes[a] for a in PARTS[n]], dtype=torch.float64, device=arcs.device)
            for n in wanted - {"emission"}
        }
        if "emission" in wanted:  # starts and ends of mass; their difference, summed up, is the mass at a position
            self.flow = torch.zeros(arcs.B, arcs.T + 1, arcs.C, dtype=torch.float64, device=arcs.device)

    def window(self, t: int, g: Tensor) -> None:
        src = self.arcs.sources(t)
        if "emission" in self.wanted:
            self.flow[:, t] += g.sum(1)
            self.flow[:, src] -= g
        if "duration" in self.wanted:
            self.sums["duration"][:, : len(src)] += g
        if "segment_start" in self.wanted:
            self.sums["segment_start"][:, src] += g
        if "segment_end" in self.wanted:
            self.sums["segment_end"][:, t - 1] += g.sum(1)
        if "segment" in self.wanted:
            self.sums["segment"][:, src, torch.arange(len(src), device=g.device)] += g

    def transition(self, s: int, g: Tensor) -> None:
        if "transition" in self.wanted:
            self.sums["transition"] += g.sum(1)
        if "duration_transition" in self.wanted:
            self.sums["duration_transition"] += g
        if "edge" in self.wanted:
            self.sums["edge"][:, s] += g

    def initial(self, g: Tensor) -> None:
        if "start" in self.wanted:
            self.sums["start"] += g.sum(1)
        if "edge" in self.wanted:
            self.sums["edge"][:, 0, :, 0] += g

    def final(self, g: Tensor) -> None:
        if "end" in self.wanted:
            self.sums["end"] += g

    def gradient(self, name: str, like: Tensor) -> Tensor:
        """The gradient of one part, in its shape and dtype; summed over the batch where the batch shares it."""
        if name == "emission":
            mass = self.flow.flip(1).cumsum(1).flip(1)[:, 1:]
            assert self.arcs.forbidden is not None  # the part is there, so it was read
            g = torch.where(self.arcs.forbidden, 0.0, mass)
        else:
            g = self.sums[name]
        return shared(g, like).contiguous()


def _inside(name: str, part: Tensor, lengths: Tensor) -> Tensor:
    """The part with zeros wherever it lies past a length, so that nothing there (NaN, say) is read."""
    axes = PARTS[name]
    if "T" not in axes:
        return part
    end = torch.arange(1, part.shape[1] + 1, device=part.device)
    if "K" in axes:
        end = end[:, None] + torch.arange(part.shape[2], device=part.device)
    inside = end <= lengths.view(-1, *[1] * end.dim())
    return torch.where(inside.view(*inside.shape, *[1] * (part.dim() - inside.dim())), part, 0.0)
