"""Hidden semi-Markov models: segments with their own durations that emit what is observed, learned by exact EM.

The joint probability of a record and its segmentation is a product of an initial, transition, duration and emission
probabilities, so its logarithm is a `FactoredPotentials`, and the likelihood of the record is `log_partition`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semicrf._validation import count
from semicrf.censoring import censored
from semicrf.distribution import SemiCRFDistribution
from semicrf.durations import Free, duration_module
from semicrf.errors import bad_input
from semicrf.potentials import FactoredPotentials, Potentials

__all__ = ["Categorical", "Gaussian", "HiddenSemiMarkov"]

inf = float("inf")
Lengths = Tensor | Sequence[int] | None


class Categorical(nn.Module):
    """Symbols ``0..V - 1``: ``log_prob`` ``(C, V)``, normalised where it is read. Starts near uniform, at random."""

    def __init__(self, num_labels: int, num_symbols: int, generator: torch.Generator | None = None):
        super().__init__()
        shape = count("num_labels", num_labels, 1), count("num_symbols", num_symbols, 1)
        self.log_prob = nn.Parameter(0.5 * torch.randn(shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities ``(..., T, C)`` of symbols ``(..., T)``, integers."""
        return self.log_prob.log_softmax(-1).T[x.long().clamp(0, self.log_prob.shape[1] - 1)]

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor) -> None:
        """The most likely parameters where each position counts for each label as `weight` ``(..., T, C)`` says."""
        total = torch.zeros_like(self.log_prob.T)
        total.index_add_(0, x.long().clamp(0, len(total) - 1).flatten(), weight.flatten(0, -2).to(total.dtype))
        self.log_prob.copy_(_normalised(total.T, self.log_prob))


class Gaussian(nn.Module):
    """Vectors with independent normal coordinates: ``mean`` and ``log_variance``, ``(C, D)``.

    Args:
        num_labels, size: ``C`` and ``D``.
        floor: the least variance, without which a label may settle on one observation.
    """

    def __init__(self, num_labels: int, size: int, *, floor: float = 1e-6):
        super().__init__()
        shape = count("num_labels", num_labels, 1), count("size", size, 1)
        self.floor = floor
        self.mean = nn.Parameter(torch.randn(shape))
        self.log_variance = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def initialise(self, x: Tensor, lengths: Lengths = None, generator: torch.Generator | None = None) -> Gaussian:
        """Means at observations drawn at random, the first anywhere and the others far from it (k-means++), and the
        variance of all; `self`.
        """
        seen = x[_inside(x.shape[:-1], lengths, x.device)].to(self.mean.dtype)
        if not len(seen):
            raise bad_input("x", "no observations", "some within the lengths")
        weight = torch.ones(len(seen), device=seen.device)
        for c in range(self.mean.shape[0]):
            weight = weight if weight.sum() > 0 else torch.ones_like(weight)
            self.mean[c] = seen[torch.multinomial(weight, 1, generator=generator)[0]]
            weight = torch.cdist(seen, self.mean[: c + 1]).amin(1).square()
        self.log_variance.copy_(seen.var(0, correction=0).clamp(min=self.floor).log().expand_as(self.log_variance))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Log-densities ``(..., T, C)`` of observations ``(..., T, D)``."""
        distance = (x[..., None, :].to(self.mean.dtype) - self.mean).square() / self.log_variance.exp()
        return -0.5 * (distance + self.log_variance + math.log(2 * math.pi)).sum(-1)

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor) -> None:
        """The most likely parameters where each position counts for each label as `weight` ``(..., T, C)`` says."""
        weight = weight.flatten(0, -2).to(self.mean.dtype)
        read = (weight > 0).any(-1)  # what lies past a length may be NaN
        weight, seen = weight[read], x.flatten(0, -2)[read].to(self.mean.dtype)
        total = weight.sum(0)[:, None]
        mean = torch.where(total > 0, weight.T @ seen / total, self.mean)
        spread = torch.stack([w @ (seen - m).square() for w, m in zip(weight.T, mean, strict=True)])
        variance = (spread / total).clamp(min=self.floor)
        self.log_variance.copy_(torch.where(total > 0, variance.log(), self.log_variance))
        self.mean.copy_(mean)


class HiddenSemiMarkov(nn.Module):
    """A hidden semi-Markov model with ``C = num_labels`` states and segments of up to ``K = max_duration`` positions.

    Args:
        num_labels, max_duration: ``C`` and ``K``.
        emission: a module whose ``forward(x)`` gives log-probabilities ``(..., T, C)``; for `fit` also
            ``update(x, weight)``, as `Categorical` and `Gaussian` have it.
        duration: a name or a module of `semicrf.durations`; normalised over ``1..K``.
        repeats: whether a state may follow itself. False is usual: then durations are those of whole stays.
        censored: whether the first segment may have begun before the record, and whether the last may go on after it.
            Otherwise records begin and end with a segment.
        backend: that of the distribution.

    Parameters, all log-weights that are normalised where they are read: ``initial (C,)``, ``transition (C, C)``.

    Raises:
        InputError: a size that is no count, or a single state that cannot follow itself.

    Source: Yu 2010; Rabiner 1989, section IV.D; Eisner 2016 for expected counts as gradients.

    >>> model = HiddenSemiMarkov(2, 3, Categorical(2, 4, torch.Generator().manual_seed(0)))
    >>> x = torch.tensor([[0, 0, 1, 3, 3, 2, 0, 1], [3, 2, 3, 0, 0, 1, -1, -1]])
    >>> history = model.fit(x, [8, 6], iterations=5)
    >>> history == sorted(history), len(history)
    (True, 6)
    """

    def __init__(
        self, num_labels: int, max_duration: int, emission: nn.Module, *, duration: str | nn.Module = "free",
        repeats: bool = False, censored: tuple[bool, bool] = (False, False), backend: str = "auto",
    ):  # fmt: skip
        super().__init__()
        C, K = count("num_labels", num_labels, 1), count("max_duration", max_duration, 1)
        if C == 1 and not repeats:
            raise bad_input("num_labels", 1, "at least 2 where no state may follow itself", "repeats=True.")
        self.emission, self.duration = emission, duration_module(duration, C, K)
        self.initial, self.transition = nn.Parameter(torch.zeros(C)), nn.Parameter(torch.zeros(C, C))
        self.repeats, self.censored, self.backend = repeats, censored, backend

    def tables(self) -> dict[str, Tensor]:
        """Log-probabilities: start ``(C,)``, transition ``(C, C)``, duration ``(K, C)``."""
        never = torch.eye(len(self.initial), dtype=torch.bool, device=self.initial.device) & (not self.repeats)
        transition = self.transition.masked_fill(never, -inf)
        return {
            "start": self.initial.log_softmax(0), "transition": transition.log_softmax(-1),
            "duration": self.duration().log_softmax(0),
        }  # fmt: skip

    def _potentials(self, tables: dict[str, Tensor], emission: Tensor, lengths: Tensor) -> Potentials:
        tables = {n: t.to(emission.dtype) for n, t in tables.items()}
        model = FactoredPotentials(emission, tables["transition"], tables["duration"], start=tables["start"])
        first, last = self.censored
        return censored(model, lengths, first=first, last=last) if first or last else model

    def forward(self, x: Tensor, lengths: Lengths = None) -> SemiCRFDistribution:
        """The distribution over segmentations given the record; its `log_partition` is the log-likelihood of that.

        Args:
            x: what `emission` takes.
            lengths: integers ``(...)``, T by default; nothing past a length is read.
        """
        emission = self.emission(x)
        sizes = _lengths(emission.shape[:-1], lengths, emission.device)
        return SemiCRFDistribution(self._potentials(self.tables(), emission, sizes), sizes, backend=self.backend)

    def log_likelihood(self, x: Tensor, lengths: Lengths = None) -> Tensor:
        """``(...)``: log-probability (or density) of each record, summed over segmentations."""
        return self(x, lengths).log_partition

    def fit(self, x: Tensor, lengths: Lengths = None, *, iterations: int = 100, tolerance: float = 1e-6) -> list[float]:
        """Expectation-maximisation, in place: the log-likelihood of all records before each step and after the last.

        The expected counts of a step are the gradient of the log-likelihood in the logarithms of probabilities, exact,
        also of what censoring hides. New probabilities are their shares; parameters of durations that are not free are
        the maximum of the expected log-likelihood, found by L-BFGS. So the log-likelihood never falls but by rounding.

        Args:
            x, lengths: as `forward`.
            iterations: of steps at most.
            tolerance: stop where a step gains less than this times the number of positions.

        Raises:
            InputError: records that the model cannot have produced.
        """
        count("iterations", iterations, 1)
        history: list[float] = []
        for _ in range(iterations):
            value, positions = self._step(x, lengths)
            history.append(value)
            if len(history) > 1 and history[-1] - history[-2] < tolerance * positions:
                break
        with torch.no_grad():
            history.append(self.log_likelihood(x, lengths).sum().item())
        return history

    def _step(self, x: Tensor, lengths: Lengths) -> tuple[float, int]:
        """One step; the log-likelihood before it, and the number of positions."""
        with torch.no_grad():
            emission, tables = self.emission(x), self.tables()
        with torch.enable_grad():
            leaves = {n: t.clone().requires_grad_() for n, t in (*tables.items(), ("emission", emission))}
            sizes = _lengths(emission.shape[:-1], lengths, emission.device)
            model = self._potentials({n: leaves[n] for n in tables}, leaves["emission"], sizes)
            found = SemiCRFDistribution(model, sizes, backend=self.backend)
            found.check_possible()
            value = found.log_partition.sum()
            counts = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
        with torch.no_grad():
            self.initial.copy_(_normalised(counts["start"][None], self.initial[None])[0])
            self.transition.copy_(_normalised(counts["transition"], self.transition))
        _fit_durations(self.duration, counts["duration"])
        self.emission.update(x, counts["emission"])  # pyright: ignore[reportCallIssue]  what fit asks of an emission
        return value.item(), int(sizes.sum())


def _normalised(counts: Tensor, old: Tensor) -> Tensor:
    """Logarithms of shares along the last axis; rows that count nothing stay as they are."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, (counts.clamp(min=0) / torch.where(total > 0, total, 1)).log(), old)


def _fit_durations(durations: nn.Module, counts: Tensor) -> None:
    """The parameters under which expected counts ``(K, C)`` of durations are most likely."""
    if isinstance(durations, Free):
        with torch.no_grad():
            durations.score.copy_(_normalised(counts.T, durations.score.T).T)
        return
    parameters = [p for p in durations.parameters() if p.requires_grad]
    if not parameters:
        return
    before = [p.detach().clone() for p in parameters]
    share = counts / counts.sum().clamp(min=1e-300)

    def loss() -> Tensor:
        table = durations().log_softmax(0)
        return -(share * torch.where(share > 0, table, 0.0)).sum()

    search = torch.optim.LBFGS(
        parameters, max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def evaluate() -> Tensor:
        search.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        start = loss().item()
        search.step(evaluate)
    search.zero_grad()
    with torch.no_grad():
        if not loss().item() <= start:  # a search that went astray
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)


def _lengths(shape: torch.Size, lengths: Lengths, device: torch.device) -> Tensor:
    """int64 (...): T where None, for records of shape (..., T)."""
    if lengths is None:
        return torch.full(shape[:-1], shape[-1], dtype=torch.int64, device=device)
    return torch.as_tensor(lengths, device=device)


def _inside(shape: torch.Size, lengths: Lengths, device: torch.device) -> Tensor:
    """bool (..., T): positions within the lengths."""
    return torch.arange(shape[-1], device=device) < _lengths(shape, lengths, device)[..., None]
