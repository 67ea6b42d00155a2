"""Where constraints leave no segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf._nested import at
from semicrf.algebra import Max
from semicrf.errors import bad_input

if TYPE_CHECKING:
    from semicrf.distribution import SemiCRFDistribution


@property
def first_impossible(self: SemiCRFDistribution) -> Tensor:
    """int64 ``(...)``: where a sequence has no segmentation, the position at which it becomes impossible, that is how
    many leading positions can be segmented; its length where only the last label is forbidden. -1 where there are some.

    >>> from semicrf import FactoredPotentials, SemiCRFDistribution
    >>> forbidden = torch.zeros(2, 4, 1)
    >>> forbidden[1, 2] = -float("inf")
    >>> SemiCRFDistribution(FactoredPotentials(forbidden)).first_impossible
    tensor([-1,  2])
    """
    state, t = self._inference.state(Max), torch.arange(self.T + 1, device=self._lengths.device)
    reached = (state.alpha[0] > -float("inf")).any(-1) & (t > 0) & (t <= self._lengths[:, None])
    furthest = torch.where(reached, t, 0).amax(-1)
    return torch.where(state.value[0] > -float("inf"), -1, furthest).reshape(self.batch_shape)


def check_possible(self: SemiCRFDistribution) -> None:
    """Raise where a sequence has no segmentation, with the position at which it becomes impossible. One read.

    Nothing else raises for that: a log-partition is -inf, a decoded or sampled segmentation has count 0.

    Raises:
        InputError: naming the first such sequence, and how far the segmentations of its front get.

    >>> from semicrf import Evidence, FactoredPotentials, SemiCRFDistribution
    >>> p = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 5, 1), max_duration=2))
    >>> p.check_possible()
    >>> p.condition(Evidence(boundary=torch.tensor([[-1] * 5, [-1, 1, 0, 0, -1]]))).check_possible()
    Traceback (most recent call last):
    semicrf.errors.InputError: constraints, sequence 1: got none that gets past position 3 of 5; expected at least one \
segmentation. Likely fix: look for what forbids position 3 or the segments that hold it: -inf, evidence, rules, K = 2.
    """
    furthest = self.first_impossible.flatten().tolist()
    for i, n in enumerate(furthest):
        if n >= 0:
            length = int(self._lengths[i])
            there = "the label of the last segment" if n == length else f"position {n} or the segments that hold it"
            fix = f"look for what forbids {there}: -inf, evidence, rules, K = {self.K}."
            got = f"none that gets past position {n} of {length}"
            raise bad_input(at("constraints", i, self.batch_shape), got, "at least one segmentation", fix)
