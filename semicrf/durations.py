"""Scores of durations ``1..K`` for each label, as small modules with learnable parameters.

Each is constructed as ``Class(num_labels, max_duration)``, `FromFunction` with a function too, `Mixture` from others.
Its ``forward()`` takes nothing and returns the ``(K, C)`` table that ``FactoredPotentials`` takes as ``duration``,
duration ``k`` in row ``k - 1``. All but ``Free`` are log-probabilities: each label's column is normalised over
``1..K``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from semicrf._validation import count
from semicrf.errors import bad_input

__all__ = [
    "Durations", "Free", "FromFunction", "Geometric", "LogNormal", "Mixture", "NegativeBinomial", "Poisson", "Uniform",
    "duration_module",
]  # fmt: skip


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


class LogNormal(Durations):
    """``p(k) ∝ P(k - 1 < X <= k)`` of a log-normal X: ``log X`` is normal with mean ``location`` and standard deviation
    ``exp(log_scale)``. Cut off at ``K``.

    ``location`` ``(C,)`` starts at ``log(K / 2)``, where half of X lies below ``K / 2``; ``log_scale`` ``(C,)`` at 0. A
    tail heavier than those of the others (Limpert, Stahel & Abbt 2001).

    >>> table = LogNormal(num_labels=1, max_duration=3)
    >>> _ = torch.nn.init.zeros_(table.location)  # P(X <= 1) = 1/2
    >>> [round(p, 4) for p in table().exp().flatten().tolist()]
    [0.5787, 0.2962, 0.1252]
    """

    def __init__(self, num_labels: int, max_duration: int):
        super().__init__(num_labels, max_duration)
        self.location = self._per_label()
        self.log_scale = self._per_label()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A median of ``K / 2``, a scale of 1."""
        nn.init.constant_(self.location, math.log(self.max_duration / 2))
        nn.init.zeros_(self.log_scale)

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        z = ((self._rows(self.location) + 1).log() - self.location) / self.log_scale.exp()
        low, high = z[:-1], z[1:]
        above = low > 0  # there the upper tail has the digits
        near, far = torch.where(above, -low, high), torch.where(above, -high, low)
        near, far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
        return self._normalised(torch.cat([torch.special.log_ndtr(z[:1]), near + (-(far - near).expm1()).log()]))


class Mixture(Durations):
    """``p(k) = sum_i w_i p_i(k)`` of other durations, ``w = softmax(logit)``; ``logit`` ``(n, C)`` starts at zero.

    Args:
        components: modules whose ``forward()`` returns ``(K, C)``, of the same sizes; each is normalised over ``1..K``.
            Components of one kind have to start apart, or they stay alike.

    Raises:
        InputError: no components, or tables of other shapes.

    >>> mixed = Mixture([Uniform(num_labels=1, max_duration=2), Geometric(num_labels=1, max_duration=2)])
    >>> [round(p, 4) for p in mixed().exp().flatten().tolist()]
    [0.5833, 0.4167]
    """

    def __init__(self, components: Sequence[nn.Module]):
        shapes = [tuple(component().shape) for component in components]
        if not shapes or len(set(shapes)) > 1 or len(shapes[0]) != 2:
            raise bad_input("components", f"tables of shapes {shapes}", "at least one, all of one shape (K, C)")
        K, C = shapes[0]
        super().__init__(C, K)
        self.components = nn.ModuleList(components)
        self.logit = nn.Parameter(torch.zeros(len(shapes), C))

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        tables = torch.stack([self._normalised(component()) for component in self.components])
        return (self.logit.log_softmax(0)[:, None] + tables).logsumexp(0)


class FromFunction(Durations):
    """``p(k) ∝ exp(f(k))`` of any function, which may be a module with parameters of its own. Cut off at ``K``.

    Args:
        function: takes the durations ``1..K`` as a floating column ``(K, 1)``, returns ``(K, C)`` or ``(K, 1)``.

    Raises:
        InputError: the function is no callable, or returns another shape.

    >>> heavy = FromFunction(num_labels=2, max_duration=3, function=lambda k: -2 * k.log())  # k^-2
    >>> [round(p, 4) for p in heavy().exp()[:, 0].tolist()]
    [0.7347, 0.1837, 0.0816]
    """

    at: Tensor

    def __init__(self, num_labels: int, max_duration: int, function: Callable[[Tensor], Tensor]):
        super().__init__(num_labels, max_duration)
        if not callable(function):
            raise bad_input("function", f"a {type(function).__name__}", "a function of the durations (K, 1)")
        self.function = function
        self.register_buffer("at", torch.arange(1.0, self.max_duration + 1)[:, None], persistent=False)

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        scores, want = self.function(self.at), (self.max_duration, self.num_labels)
        if not isinstance(scores, Tensor) or tuple(scores.shape) not in (want, (want[0], 1)):
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise bad_input("function(k)", got, f"shape {want} or {(want[0], 1)}")
        return self._normalised(scores.expand(want))


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
    "log_normal": LogNormal,
    "uniform": Uniform,
}


def duration_module(duration: str | nn.Module, num_labels: int, max_duration: int) -> nn.Module:
    """The module of a name, made for ``C`` labels and ``K`` durations; a module is returned as it is.

    Args:
        duration: ``"free"``, ``"geometric"``, ``"poisson"``, ``"negative_binomial"``, ``"log_normal"``,
            ``"uniform"``, or an ``nn.Module`` whose ``forward()`` returns ``(K, C)``.
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
    """``value``, checked to be an integer of at least 1."""
    return count(name, value, 1)
