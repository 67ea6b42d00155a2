"""Semirings: the standard ones, the operations from which to write one, and the check that it keeps the laws.

>>> class Reachable(Semiring):
...     \"\"\"Is any segmentation possible at all?\"\"\"
...     fields = "b"
...     zero, one = 0.0, 1.0
...     def lift(w): return 1.0
...     def mul(a, b): return a.b * b.b
...     def sum(x): return largest(x.b)
>>> check_semiring(Reachable).semiring
'Reachable'
"""

from semicrf.algebra import (
    KL,
    CrossEntropy,
    Element,
    Entropy,
    Expectation,
    KMax,
    Log,
    LogCount,
    Max,
    Semiring,
    Std,
    best,
    exp,
    inf,
    largest,
    log,
    lookup,
    lse,
    maximum,
    minimum,
    ratio,
    register,
    registered,
    smallest,
    surprisal,
    top,
    total,
    weigh,
)
from semicrf.check import Report, canonical, check_semiring

__all__ = [
    "KL", "CrossEntropy", "Element", "Entropy", "Expectation", "KMax", "Log", "LogCount", "Max", "Report", "Semiring",
    "Std", "best", "canonical", "check_semiring", "exp", "inf", "largest", "log", "lookup", "lse", "maximum", "minimum",
    "ratio", "register", "registered", "smallest", "surprisal", "top", "total", "weigh",
]  # fmt: skip
