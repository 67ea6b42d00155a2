"""What a semiring is: expressions, the base class, the standard ones. Standard library only."""

from semicrf.algebra.expr import (
    Expr,
    best,
    exp,
    inf,
    largest,
    log,
    lse,
    maximum,
    minimum,
    ratio,
    smallest,
    surprisal,
    top,
    total,
    weigh,
)
from semicrf.algebra.semiring import Element, Semiring, lookup, register, registered
from semicrf.algebra.standard import KL, CrossEntropy, Entropy, Expectation, KMax, Log, LogCount, Max, Std

__all__ = [
    "KL", "CrossEntropy", "Element", "Entropy", "Expectation", "Expr", "KMax", "Log", "LogCount", "Max", "Semiring", "Std",
    "best", "exp", "inf", "largest", "log", "lookup", "lse", "maximum", "minimum", "ratio", "register", "registered",
    "smallest", "surprisal", "top", "total", "weigh",
]
