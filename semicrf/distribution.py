"""The distribution over segmentations that a model defines: p(y) = exp(score(y)) / Z."""

# pyright: reportIncompatibleMethodOverride=false
# (torch.distributions types every value as a Tensor; the values of this distribution are Segments)
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from semicrf import _html, _validation, support
from semicrf.algebra import Max, Semiring
from semicrf.compile import compiled
from semicrf.constraints import Evidence, as_segments
from semicrf.engine.dispatch import choose
from semicrf.errors import bad_input
from semicrf.inference import Inference, read
from semicrf.marginals import Marginals
from semicrf.potentials import Potentials
from semicrf.queries import certificate, counting, decoding, draws, events, information, moments, possibility
from semicrf.queries.maxima import MaxMarginals
from semicrf.scoring import flattened, score
from semicrf.segments import Segments, check_tiling

inf = float("inf")


class SemiCRFDistribution(Distribution):
    """A semi-Markov conditional random field over segmentations of ``[0, length)``.

    Args:
        potentials: `FactoredPotentials`, `SegmentPotentials` or `EdgePotentials`; their leading shape is `batch_shape`.
        lengths: integer ``(...)``, in ``1..T``; T by default. Nothing past a length is read.
        backend: ``"auto"``, ``"reference"``, ``"blocked"``, ``"cpu"`` or ``"triton"``; one that is not there raises.
        validate_args: check values (NaN, +inf, lengths); None: yes, except while compiling, capturing a CUDA graph
            or under vmap. Shapes, dtypes and devices are always checked.

    Nothing is computed until asked. Results have the potentials' dtype (float32 for half precision) and are
    differentiable in every tensor given. Where no segmentation is possible log_partition is -inf, and entropy,
    marginals and gradients are 0.

    Raises:
        InputError: what was passed, what was expected, the likely fix.
        BackendError: the backend is unknown or not installed.

    Source: Sarawagi & Cohen 2004; Li & Eisner 2009 for the semirings.

    >>> from semicrf import FactoredPotentials
    >>> d = SemiCRFDistribution(FactoredPotentials(torch.zeros(4, 2), max_duration=3))
    >>> d
    SemiCRFDistribution(batch_shape=(), T=4, K=3, C=2, dtype=torch.float32, device=cpu, backend=auto)
    >>> round(d.log_partition.exp().item())    # segmentations of 4 positions, 2 labels, at most 3 long
    52
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  as torch.distributions declares it
    has_enumerate_support = True

    def __init__(
        self, potentials: Potentials, lengths: Tensor | Sequence[int] | None = None, *,
        backend: str = "auto", validate_args: bool | None = None,
    ):  # fmt: skip
        if not isinstance(potentials, Potentials):
            got = f"a {type(potentials).__name__}"
            raise bad_input("potentials", got, "a potentials object", "FactoredPotentials(emission, ...).")
        self.potentials, self.backend = potentials, choose(backend)
        self.T, self.K, self.C = potentials.T, potentials.K, potentials.C
        self._lengths = _validation.lengths(lengths, potentials)
        self._inference = Inference(potentials, self._lengths, self.backend)
        self._checked = _validation.wanted(validate_args, potentials, self._lengths)
        if self._checked:
            _validation.values(potentials, self._lengths)
        super().__init__(potentials.batch_shape, torch.Size(), validate_args=False)

    @property
    def lengths(self) -> Tensor:
        """int64 ``(...)``."""
        return self._lengths.reshape(self.batch_shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of results: the potentials' dtype, float32 for half precision."""
        return self.potentials.dtype if self.potentials.dtype in (torch.float32, torch.float64) else torch.float32

    def _shaped(self, value: Tensor) -> Tensor:
        """A result (B, ...) in the distribution's dtype and batch shape."""
        return value.to(self.dtype).reshape((*self.batch_shape, *value.shape[1:]))

    def _others(self, others: Sequence[Potentials | SemiCRFDistribution]) -> list[dict[str, Tensor]]:
        """Other models' parts, checked to be of this one's shape."""
        models = [o.potentials if isinstance(o, SemiCRFDistribution) else o for o in others]
        for given, model in zip(others, models, strict=True):
            _validation.same_shape(model, self.potentials)
            if isinstance(given, SemiCRFDistribution) and self._checked and (given._lengths != self._lengths).any():
                raise bad_input("other model", f"lengths {given.lengths.tolist()}", self.lengths.tolist())
        return [m.parts for m in models]

    def reduce(self, semiring: type[Semiring] | Semiring | str, *others: Potentials | SemiCRFDistribution) -> Any:
        """The total of a semiring over all segmentations: a NamedTuple of its fields, each ``(...)`` or ``(..., k)``.

        Args:
            semiring: a class, an instance or a registered name.
            others: the second and later models of a semiring that reads several.

        Raises:
            InputError: not as many models as the semiring declares, or of another shape.

        >>> from semicrf import FactoredPotentials
        >>> d = SemiCRFDistribution(FactoredPotentials(torch.zeros(2, 1, dtype=torch.float64)))
        >>> [round(v.item(), 3) for v in d.reduce("entropy")]
        [0.693, 0.693]
        """
        program = compiled(semiring)
        if len(others) != program.potentials - 1:
            fix = "give the second and later potentials as further arguments."
            raise bad_input(f"reduce({program.name})", f"{1 + len(others)} models", program.potentials, fix)
        total = self._inference.total(program.semiring, *self._others(others))
        return read(program, total, self._shaped)

    @property
    def log_partition(self) -> Tensor:
        """``(...)``: log Z."""
        return self._shaped(self._inference.log_z())

    partition = log_partition

    @property
    def max(self) -> Tensor:
        """``(...)``: the score of the best segmentation; its gradient is the indicator of `argmax`."""
        return self._shaped(self._inference.total(Max)[0])

    @property
    def argmax(self) -> Segments:
        """The best segmentation and its score. Ties: smallest duration, then smallest previous label, from the end."""
        marks, labels, best = self._inference.best()
        return self._segments(marks, labels, (), score=self._shaped(best))

    mode = argmax
    topk = decoding.topk
    mbr = decoding.mbr

    def kmax(self, k: int) -> Tensor:
        """``(k, ...)``: the k best scores, descending, -inf where fewer exist; k <= 16; differentiable."""
        return self._inference.kmax(k).to(self.dtype).reshape(k, *self.batch_shape)

    entropy = information.entropy
    perplexity = information.perplexity
    cross_entropy = information.cross_entropy
    kl = information.kl
    renyi_entropy = information.renyi_entropy
    mutual_information = information.mutual_information

    log_count = counting.log_count
    count = counting.count
    segment_count = counting.segment_count
    with_segment_count = counting.with_segment_count

    @property
    def marginals(self) -> Marginals:
        """Probabilities of positions, boundaries, segments, arcs; expected counts of transitions and durations."""
        return Marginals(self)

    @property
    def max_marginals(self) -> MaxMarginals:
        """The best score through each of the same things; constants."""
        return MaxMarginals(self)

    expectation = moments.expectation
    covariance = moments.covariance
    span = events.span
    boundary_within = events.boundary_within

    def variance(self, f: Potentials) -> Tensor:
        """``(...)``: the variance of an additive quantity."""
        return moments.covariance(self, f, f)

    def stddev(self, f: Potentials) -> Tensor:
        """``(...)``: the standard deviation of an additive quantity; where it is 0, so is its gradient."""
        return moments.root(moments.covariance(self, f, f))

    def score(self, value: Segments | Sequence) -> Tensor:
        """``(..., *batch)``: the score of segmentations; -inf where forbidden or count 0.

        Raises:
            InputError: segments that do not tile ``[0, length)``, are longer than K or have no such label.
        """
        segments, extra = self._value(value)
        return score(self.potentials, segments, self._lengths).to(self.dtype).reshape((*extra, *self.batch_shape))

    def log_prob(self, value: Segments | Sequence | Evidence) -> Tensor:
        """``(..., *batch)``: log-probability of segmentations, or of evidence (summed over all that agree with it).

        Never above ``1e-12 max(1, |log Z|)``: the difference is taken in float64.

        Raises:
            InputError: as `score`.
        """
        if isinstance(value, Evidence):
            joint, extra = self.condition(value)._inference.log_z()[None], ()
        else:
            segments, extra = self._value(value)
            joint = score(self.potentials, segments, self._lengths)
        log_z = self._inference.log_z()
        difference = torch.where(joint == -inf, -inf, joint - log_z)  # where nothing agrees there is no gradient either
        return difference.to(self.dtype).reshape((*extra, *self.batch_shape))

    def _value(self, value: Segments | Sequence, tiling: bool = True) -> tuple[Segments, torch.Size]:
        """Segmentations (S, B, N), checked, and the sample axes that S stands for."""
        segments = as_segments(value, self._lengths.device)
        flat, extra = flattened(segments, self.batch_shape)
        if self._checked and tiling:
            check_tiling(segments, self.lengths, self.K, self.C, allow_empty=True)
        return flat, extra

    def _segments(self, marks: Tensor, labels: Tensor, extra: tuple[int, ...], score: Tensor | None = None) -> Segments:
        shape = (*extra, *self.batch_shape)
        lengths = self.lengths.expand(shape)
        found = Segments.from_boundaries(marks.reshape(*shape, self.T), labels.reshape(*shape, self.T), lengths)
        return Segments(start=found.start, end=found.end, label=found.label, count=found.count, score=score)

    def sample(
        self, sample_shape: Sequence[int] | torch.Size = torch.Size(), *,  # noqa: B008  torch's own signature
        generator: torch.Generator | None = None, sequence_id: Tensor | None = None,
    ) -> Segments:  # fmt: skip
        """Exact, independent samples: `Segments` with the sample axes first; count 0 where none is possible.

        A forward sweep, then a walk per sample: time grows with the segments drawn, memory by 24 bytes a position and
        sample. In float64 a seed gives the same samples on every backend, up to draws within 1e-10 of a border.

        Args:
            sample_shape: leading axes, a tuple of sizes.
            generator: where the one 64-bit seed of this call comes from; torch's default generator otherwise.
            sequence_id: int64 ``(...)``, what a sequence's draws are keyed by; its index in the batch by default.

        Raises:
            InputError: a sample_shape that is no tuple of sizes, or ids that are not one integer per sequence.
        """
        return draws.sample(self, sample_shape, generator, sequence_id)

    perturbed_argmax = draws.perturbed_argmax

    def condition(self, evidence: Evidence) -> SemiCRFDistribution:
        """The distribution given what is known: ``condition(e).log_partition - log_partition = log_prob(e)``."""
        if not isinstance(evidence, Evidence):
            fix = "Evidence(labels=...); rules go before: SemiCRFDistribution(constraints.apply(potentials), lengths)."
            raise bad_input("evidence", f"a {type(evidence).__name__}", "Evidence", fix)
        return self._with(evidence.apply(self.potentials, self._lengths, self._checked))

    first_impossible = possibility.first_impossible
    check_possible = possibility.check_possible
    diagnostics = property(certificate.diagnostics)

    def with_temperature(self, t: float | Tensor) -> SemiCRFDistribution:
        """p proportional to exp(score / t), t > 0, a number or ``(...)``."""
        value = torch.as_tensor(t, dtype=self.potentials.dtype, device=self._lengths.device)
        if value.shape not in (torch.Size(), self.batch_shape):
            raise bad_input("temperature", f"shape {tuple(value.shape)}", f"() or {tuple(self.batch_shape)}")
        if self._checked and not bool((value > 0).all()):
            raise bad_input("temperature", t, "numbers above 0")
        return self._with(self.potentials.scaled(1 / value.reshape(-1)))

    def _with(self, potentials: Potentials, lengths: Tensor | None = None) -> SemiCRFDistribution:
        same = self.lengths if lengths is None else lengths
        return SemiCRFDistribution(potentials, same, backend=self.backend, validate_args=self._checked)

    def __getitem__(self, index: Any) -> SemiCRFDistribution:
        """Index the batch axes."""
        if not self.batch_shape:
            raise bad_input("index", index, "a batch to index", "this distribution has batch shape ().")
        return self._with(self.potentials[index], self.lengths[index])

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("len() of a distribution with batch shape ()")
        return self.batch_shape[0]

    def expand(self, batch_shape: Sequence[int] | torch.Size, _instance: Any = None) -> SemiCRFDistribution:
        """The same distribution over a larger batch shape, by broadcasting.

        Raises:
            InputError: the batch shape does not broadcast to it.
        """
        n, shape = len(self.batch_shape), _validation.broadcast(self.batch_shape, batch_shape)
        larger = self.potentials.on_batch(lambda x: x.expand(*shape, *x.shape[n:]))
        return self._with(larger, self.lengths.expand(shape))

    def to(self, *args: Any, **kwargs: Any) -> SemiCRFDistribution:
        """On another device or in another dtype, as `Tensor.to`."""
        moved = self.potentials.to(*args, **kwargs)
        return self._with(moved, self.lengths.to(moved.device))

    def detach(self) -> SemiCRFDistribution:
        """The same without a graph."""
        return self._with(self.potentials.map(Tensor.detach))

    def enumerate_support(self, expand: bool = True) -> Segments:
        """Every segmentation, ``(S, ...)``; sequences with fewer have rows of count 0 at the end. Tiny T only.

        Raises:
            InputError: there are more than a million.
        """
        return support.enumerate_all(self.lengths, self.K, self.C)

    def __repr__(self) -> str:
        return (
            f"SemiCRFDistribution(batch_shape={tuple(self.batch_shape)}, T={self.T}, K={self.K}, C={self.C}, "
            f"dtype={self.potentials.dtype}, device={self._lengths.device}, backend={self.backend})"
        )

    def _repr_html_(self) -> str:
        parts = [(n, f"{tuple(x.shape)}, {x.dtype}, {x.device}") for n, x in self.potentials.parts.items()]
        return _html.table(repr(self), parts)


@register_kl(SemiCRFDistribution, SemiCRFDistribution)
def _kl(p: SemiCRFDistribution, q: SemiCRFDistribution) -> Tensor:
    return p.kl(q)
