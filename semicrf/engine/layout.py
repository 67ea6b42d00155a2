"""The normal form of a model: named parts that add up to the score of an arc, and how operators name them.

Every potentials class is some of these parts; the others are absent, which means zero. An operator is given the parts
of all its models as one flat list of tensors and a *layout* that names them, ``"emission transition|emission"`` for two
models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

PARTS: dict[str, str] = {
    "emission": "BTC",
    "transition": "BCC",
    "duration": "BKC",
    "duration_transition": "BKCC",
    "start": "BC",
    "end": "BC",
    "segment_start": "BTC",
    "segment_end": "BTC",
    "segment": "BTKC",
    "edge": "BTKCC",
    "required": "BT",  # true where a segment must start; not a score, has no gradient
}
"""Part -> axes. The first axis is the batch, or 1 where the batch shares the part."""

MASKS = frozenset({"required"})
BY_DURATION = frozenset({"edge", "duration_transition"})
"""Parts by which what leads into a segment depends on its duration."""
UNFACTORED = BY_DURATION | {"segment"}

Model = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """What a run of the dynamic programme needs to know besides tensors; hashable, plain values."""

    semiring: str
    backend: str
    layout: str
    T: int
    K: int
    C: int

    def models(self, tensors: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The flat list of tensors as one dictionary of parts per model."""
        flat = iter(tensors)
        return [{name: next(flat) for name in model.split()} for model in self.layout.split("|")]

    @property
    def names(self) -> list[str]:
        return self.layout.replace("|", " ").split()

    def tangent(self, semiring: str, given: Sequence[bool]) -> Spec:
        """The run of the dual semiring whose second half of models are directions, for the parts that are `given`."""
        flags = iter(given)
        directions = "|".join(" ".join(n for n in model.split() if next(flags)) for model in self.layout.split("|"))
        return replace(self, semiring=semiring, layout=f"{self.layout}|{directions}")


def layout(models: Sequence[Model]) -> str:
    """The layout that names the parts of these models."""
    return "|".join(" ".join(model) for model in models)


def flat(models: Sequence[Model]) -> list[Tensor]:
    """The tensors of these models in the layout's order."""
    return [t for model in models for t in model.values()]


def shared(sums: Tensor, like: Tensor) -> Tensor:
    """Gradients by sequence in the shape and dtype of their part: summed over the batch where the batch shares it."""
    if like.shape[0] == 1 and sums.shape[0] != 1:
        sums = sums.sum(0, keepdim=True)
    return sums.to(like.dtype)
