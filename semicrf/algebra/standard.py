"""The standard semirings, each the whole of its definition.

Eager torch, the kernels, the gradients, the LaTeX and the law tests all come from these lines.
"""

# fmt: off
# (one line per function: the shape of the algebra)
from __future__ import annotations

from functools import lru_cache

from semicrf.algebra.expr import best, exp, inf, largest, lse, ratio, surprisal, top, total, weigh
from semicrf.algebra.semiring import Semiring, register
from semicrf.errors import SemiringError


@register
class Log(Semiring):
    """log Z, the log-partition: log-sum-exp over segmentations. Its gradient is the marginals."""

    fields = "logz"
    zero, one = (-inf,), (0.0,)
    def lift(w): return w
    def mul(a, b): return a.logz + b.logz
    def sum(x): return lse(x.logz)
    def divide(a, b): return a.logz - b.logz


@register
class Max(Semiring):
    """The score of the best segmentation (tropical, Viterbi). Its gradient is the indicator of the best path."""

    fields = "score"
    zero, one = (-inf,), (0.0,)
    def lift(w): return w
    def mul(a, b): return a.score + b.score
    def sum(x): return largest(x.score)
    def divide(a, b): return a.score - b.score


@register
class Std(Semiring):
    """Z itself, the sum of non-negative weights exp(w), carried as a logarithm so that only the value read out may
    overflow.
    """

    fields = "logz"
    reads = "z"
    zero, one = (-inf,), (0.0,)
    def lift(w): return w
    def mul(a, b): return a.logz + b.logz
    def sum(x): return lse(x.logz)
    def read(x): return exp(x.logz)
    def divide(a, b): return a.logz - b.logz


@lru_cache(maxsize=None, typed=True)  # 2.0 is not 2
def KMax(k: int) -> type[Semiring]:
    """The scores of the k best segmentations, descending, -inf where fewer exist (Goodman 1999, section 2.5)."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 16:
        raise SemiringError(f"KMax: got k = {k!r}; expected an integer in 1..16.")

    class KMax(Semiring):
        fields = {"scores": k}  # noqa: RUF012  read once, at class creation
        lists = True
        zero, one = (-inf,) * k, (0.0,) + (-inf,) * (k - 1)
        def lift(w): return (w,) + (-inf,) * (k - 1)
        def mul(a, b): return top([s + t for s in flat(a.scores) for t in flat(b.scores)], k)
        def sum(x): return best(flat(x.scores), k)

    def flat(scores): return scores if isinstance(scores, tuple) else (scores,)
    KMax.__name__ = KMax.__qualname__ = f"KMax({k})"
    KMax.__doc__ = f"The scores of the {k} best segmentations, descending."
    return KMax


@register
class Entropy(Semiring):
    """Shannon entropy in nats beside log Z: a first-order expectation semiring (Li & Eisner 2009, section 3.2)."""

    fields = "logz", "h"
    zero, one = (-inf, 0.0), (0.0, 0.0)
    def lift(w): return w, 0.0
    def mul(a, b): return a.logz + b.logz, a.h + b.h
    def sum(x):
        logz = lse(x.logz)
        p = ratio(x.logz, logz)
        return logz, total(weigh(p, x.h + surprisal(x.logz, logz)))
    def divide(a, b): return a.logz - b.logz, a.h - b.h


@register
class CrossEntropy(Semiring):
    """Cross-entropy of the second model under the first, in nats, beside both log-partitions."""

    fields = "logp", "logq", "h"
    potentials = 2
    zero, one = (-inf, -inf, 0.0), (0.0, 0.0, 0.0)
    def lift(w, v): return w, v, 0.0
    def mul(a, b): return a.logp + b.logp, a.logq + b.logq, a.h + b.h
    def sum(x):
        logp, logq = lse(x.logp), lse(x.logq)
        p = ratio(x.logp, logp)
        return logp, logq, total(weigh(p, x.h + surprisal(x.logq, logq)))
    def divide(a, b): return a.logp - b.logp, a.logq - b.logq, a.h - b.h


@register
class KL(Semiring):
    """Kullback-Leibler divergence of the first model from the second, in nats, beside both log-partitions."""

    fields = "logp", "logq", "kl"
    potentials = 2
    zero, one = (-inf, -inf, 0.0), (0.0, 0.0, 0.0)
    def lift(w, v): return w, v, 0.0
    def mul(a, b): return a.logp + b.logp, a.logq + b.logq, a.kl + b.kl
    def sum(x):
        logp, logq = lse(x.logp), lse(x.logq)
        p = ratio(x.logp, logp)
        return logp, logq, total(weigh(p, x.kl + surprisal(x.logq, logq) - surprisal(x.logp, logp)))
    def divide(a, b): return a.logp - b.logp, a.logq - b.logq, a.kl - b.kl


@register
class LogCount(Semiring):
    """The logarithm of the number of segmentations that are not forbidden, whatever they score."""

    fields = "logcount"
    zero, one = (-inf,), (0.0,)
    def lift(w): return 0.0
    def mul(a, b): return a.logcount + b.logcount
    def sum(x): return lse(x.logcount)
    def divide(a, b): return a.logcount - b.logcount


@register
class Expectation(Semiring):
    """The expectation of an additive quantity beside log Z; the quantity's values are the second model's potentials."""

    fields = "logz", "mean"
    potentials = 2
    gates = 1
    zero, one = (-inf, 0.0), (0.0, 0.0)
    def lift(w, f): return w, f
    def mul(a, b): return a.logz + b.logz, a.mean + b.mean
    def sum(x):
        logz = lse(x.logz)
        return logz, total(weigh(ratio(x.logz, logz), x.mean))
    def divide(a, b): return a.logz - b.logz, a.mean - b.mean
