"""Scores of durations ``1..K`` for each label, as small modules with learnable parameters.

Each is constructed as ``Class(num_labels, max_duration)``. Its ``forward()`` takes nothing and returns the ``(K, C)``
table that ``FactoredPotentials`` takes as ``duration``, duration ``k`` in row ``k - 1``. All but ``Free`` are
log-probabilities: each label's column is normalised over ``1..K``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from semicrf.errors import bad_input

__all__ = ["Durations", "Free", "Geometric", "NegativeBinomial", "Poisson", "Uniform", "duration_module"]


class Durations(nn.Module):
    """Abstract base: a table of scores for ``K = max_duration`` durations and ``C = num_labels`` labels.

    Not required of a table of your own: any ``nn.Module`` whose ``forward()`` returns ``(K, C)`` will do.

    Raises:
        InputError: a size is not an integer of at least 1.
    """

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__()
        self.num_labels = check_size("num_labels", num_labels)
        self.max_duration = check_size("max_duration", max_duration)

    def forward(self) -> Tensor:
        """The scores, ``(K, C)``."""
        raise NotImplementedError(f"{type(self).__name__}.forward() returns the (K, C) table of scores")

    def reset_parameters(self) -> None:
        """Set every parameter to its initial value."""

    def extra_repr(self) -> str:
        """The sizes."""
        return f"num_labels={self.num_labels}, max_duration={self.max_duration}"

    def _per_label(self) -> nn.Parameter:
        return nn.Parameter(torch.empty(self.num_labels))

    def _normalised(self, scores: Tensor) -> Tensor:
        return scores.log_softmax(0)

    def _rows(self, like: Tensor) -> Tensor:
        """``k - 1`` as a column, ``(K, 1)``."""
        return torch.arange(self.max_duration, dtype=like.dtype, device=like.device)[:, None]


class Free(Durations):
    """One free score for every duration and label: the parameter ``score``, ``(K, C)``, not normalised.

    Starts at zero: no duration is preferred. A duration that training never shows is only pushed down.

    >>> Free(num_labels=2, max_duration=3)().tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__(num_labels, max_duration)
        self.score = nn.Parameter(torch.empty(self.max_duration, self.num_labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.score)

    def forward(self) -> Tensor:
        """The scores, ``(K, C)``."""
        return self.score


class Geometric(Durations):
    """``p(k) ∝ q^(k - 1)``: a segment goes on with probability ``q = sigmoid(logit)``, cut off at ``K``.

    ``logit`` ``(C,)`` starts where the mean of ``k - 1``, without the cut, is ``K / 2``. The durations of a hidden
    Markov model (Rabiner 1989, section IV.D).

    >>> table = Geometric(num_labels=1, max_duration=3)
    >>> _ = torch.nn.init.zeros_(table.logit)  # q = 1/2
    >>> [round(p, 6) for p in table().exp().flatten().tolist()]
    [0.571429, 0.285714, 0.142857]
    """

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__(num_labels, max_duration)
        self.logit = self._per_label()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``q / (1 - q) = K / 2``."""
        nn.init.constant_(self.logit, math.log(self.max_duration / 2))

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        return self._normalised(self._rows(self.logit) * nn.functional.logsigmoid(self.logit))


class Poisson(Durations):
    """``p(k) ∝ rate^(k - 1) / (k - 1)!`` with ``rate = exp(log_rate)``: ``k - 1`` is Poisson, cut off at ``K - 1``.

    ``log_rate`` ``(C,)`` starts where the mean of ``k - 1``, without the cut, is ``K / 2``. A usual choice for explicit
    durations in hidden semi-Markov models (Yu 2010).

    >>> table = Poisson(num_labels=1, max_duration=3)
    >>> _ = torch.nn.init.zeros_(table.log_rate)  # weights 1, 1, 1/2
    >>> [round(p, 6) for p in table().exp().flatten().tolist()]
    [0.4, 0.4, 0.2]
    """

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__(num_labels, max_duration)
        self.log_rate = self._per_label()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``rate = K / 2``."""
        nn.init.constant_(self.log_rate, math.log(self.max_duration / 2))

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        n = self._rows(self.log_rate)
        return self._normalised(n * self.log_rate - torch.lgamma(n + 1))


class NegativeBinomial(Durations):
    """``p(k) ∝ Γ(n + r) / (n! Γ(r)) q^n`` of ``n = k - 1``, with ``r = exp(log_r)`` and ``q = sigmoid(logit)``.

    Cut off at ``K``. ``r = 1`` is ``Geometric``; at a fixed mean, large ``r`` tends to ``Poisson``. ``log_r`` ``(C,)``
    starts at 0 and ``logit`` ``(C,)`` as that of ``Geometric``, so the table starts as ``Geometric`` does.

    >>> table = NegativeBinomial(num_labels=1, max_duration=3)
    >>> torch.equal(table(), Geometric(num_labels=1, max_duration=3)())
    True
    """

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__(num_labels, max_duration)
        self.log_r = self._per_label()
        self.logit = self._per_label()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``r = 1``, ``q / (1 - q) = K / 2``."""
        nn.init.zeros_(self.log_r)
        nn.init.constant_(self.logit, math.log(self.max_duration / 2))

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        n, r = self._rows(self.logit), self.log_r.exp()
        ways = torch.lgamma(n + r) - torch.lgamma(r) - torch.lgamma(n + 1)
        return self._normalised(ways + n * nn.functional.logsigmoid(self.logit))


class Uniform(Durations):
    """``p(k) = 1 / K``, without parameters and without entries in a ``state_dict``.

    >>> Uniform(num_labels=2, max_duration=4)().exp()[:, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    table: Tensor

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__(num_labels, max_duration)
        table = torch.zeros(self.max_duration, self.num_labels)  # a buffer, to move with the module
        self.register_buffer("table", table, persistent=False)

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        return self._normalised(self.table)


_BY_NAME: dict[str, type[Durations]] = {
    "free": Free,
    "geometric": Geometric,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "uniform": Uniform,
}


def duration_module(duration: str | nn.Module, num_labels: int, max_duration: int) -> nn.Module:
    """The module of a name, made for ``C`` labels and ``K`` durations; a module is returned as it is.

    Args:
        duration: ``"free"``, ``"geometric"``, ``"poisson"``, ``"negative_binomial"``, ``"uniform"``, or an
            ``nn.Module`` whose ``forward()`` returns ``(K, C)``.
        num_labels, max_duration: ``C`` and ``K``.

    Raises:
        InputError: another name, a thing that is not a module, or a size that is not an integer of at least 1.

    >>> duration_module("poisson", num_labels=3, max_duration=5)
    Poisson(num_labels=3, max_duration=5)
    """
    if isinstance(duration, nn.Module):
        return duration
    if isinstance(duration, str) and duration in _BY_NAME:
        return _BY_NAME[duration](num_labels, max_duration)
    expected = f"one of {', '.join(map(repr, _BY_NAME))}, or an nn.Module whose forward() returns (K, C)"
    fix = "make an instance of it." if isinstance(duration, type) and issubclass(duration, nn.Module) else ""
    got = repr(duration) if isinstance(duration, str | type) else f"a {type(duration).__name__}"
    raise bad_input("duration", got, expected, fix)


def check_size(name: str, value: int) -> int:
    """``value`` as an int.

    Raises:
        InputError: it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_input(name, repr(value), "an integer of at least 1")
    return value
