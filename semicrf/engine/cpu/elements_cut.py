"""Runs over elements of one sequence that is cut into chunks, where elements are one number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from semicrf.engine.cpu.cutting import Run, Windows
from semicrf.engine.cpu.lanes import LANES
from semicrf.engine.reference import State


def windows(n: int, K: int, labels: int) -> Windows:
    """Room for n windows, to which nothing leads: a row for each age, and one of offsets behind them."""
    room = torch.full((n, K + 1, labels), -np.inf, dtype=torch.float64).numpy()
    return Windows(room[:, :K], np.zeros((n, K, labels)), room[:, K, 0], np.zeros(n))


class Elements(Run):
    """The forward sweep; `sweep` runs rows of a table of spans."""

    def __init__(
        self, sweep: Callable[[Any, int, int], None], state: State, b: int, L: int, K: int, C: int, cuts: list[int]
    ):
        labels = -(-C // LANES) * LANES
        super().__init__(b, L, K, cuts, partial(windows, K=K, labels=labels))
        self.sweep, self.state = sweep, state

    def _span(self, first: int, last: int, entered: Windows, i: int, left: Windows, j: int) -> None:
        addresses = entered.weight[i].ctypes.data, left.weight[j].ctypes.data
        self.sweep(np.array([(self.b, self.bounds[-1], first, last, *addresses)]), 0, 1)

    def between(self, first: int, last: int, entered: Windows, left: Windows) -> None:
        self._span(first, last, entered, 0, left, 0)

    def chunk(self, i: int) -> None:
        self._span(self.bounds[i], self.bounds[i + 1], self.entered, i, self.left, i)

    def whole(self) -> None:
        self._span(0, self.bounds[-1], self.entered, 0, self.left, 0)

    def settle(self) -> None:
        super().settle()
        self.state.value[:, self.b] += self.base[-1]
        if self.state.offset.numel():
            for i in range(1, self.n):
                self.state.offset[:, self.b, self.bounds[i] + 1 : self.bounds[i + 1] + 1] += self.base[i]
