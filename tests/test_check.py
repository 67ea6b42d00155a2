"""The law suite: every standard semiring keeps every law, and what breaks one is caught by that one."""

from __future__ import annotations

import itertools
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semicrf import semirings
from semicrf.algebra import KL, CrossEntropy, Entropy, Expectation, KMax, Log, LogCount, Max, Semiring, Std
from semicrf.check import LAWS, Law, Report, canonical, check_semiring
from semicrf.compile import compiled, derive, dual, evaluate, render
from semicrf.engine import dispatch, reference
from semicrf.errors import SemiringError
from semicrf.semirings import inf, largest, log, lse, maximum, ratio, smallest, total, weigh

STANDARD = [Log, Max, Std, KMax(1), KMax(2), KMax(4), Entropy, CrossEntropy, KL, LogCount, Expectation]
SMOOTH = [Log, Std, Entropy, CrossEntropy, KL, LogCount, Expectation]


def name(semiring: type[Semiring]) -> str:
    return semiring.__name__


# ------------------------------------------------------------------ semirings as a user writes them
# fmt: off
class Moments(Semiring):
    """Mean and variance of an additive quantity; a second-order expectation semiring (Li & Eisner 2009)."""
    fields, potentials, gates, reads = ("logz", "mean", "second"), 2, 1, ("mean", "variance")
    zero, one = (-inf, 0.0, 0.0), (0.0, 0.0, 0.0)
    def lift(w, f): return w, f, f * f
    def mul(a, b): return a.logz + b.logz, a.mean + b.mean, a.second + b.second + 2 * a.mean * b.mean
    def sum(x):
        p = ratio(x.logz, lse(x.logz))
        return lse(x.logz), total(weigh(p, x.mean)), total(weigh(p, x.second))
    def read(x): return x.mean, x.second - x.mean * x.mean


class Minimum(Semiring):
    """The score of the worst segmentation: its zero is +inf, so a forbidden arc must not enter as -inf."""
    fields = "score"
    zero, one = (inf,), (0.0,)
    def lift(w): return w
    def mul(a, b): return a.score + b.score
    def sum(x): return smallest(x.score)


class Reachable(Semiring):
    """Is any segmentation possible?"""
    fields = "b"
    zero, one = (0.0,), (1.0,)
    def lift(w): return 1.0
    def mul(a, b): return a.b * b.b
    def sum(x): return largest(x.b)


class HandWritten(Semiring):
    """log Z, with the shift by the largest term as one writes it by hand; a row of zeros is guarded by hand too."""
    fields = "logz"
    zero, one = (-inf,), (0.0,)
    def lift(w): return w
    def mul(a, b): return a.logz + b.logz
    def sum(x):
        m = largest(x.logz)
        return m + log(total(ratio(x.logz, m)))


class Gauss(Semiring):
    """Plain numbers: sums are sums and products are products, with a field that holds two."""
    fields, zero, one, potentials, gates = {"pair": 2}, (0.0, 0.0), (1.0, 1.0), 2, 1
    def lift(w: Any, v): return semirings.exp(w), semirings.exp(v)
    def mul(a, b): return a.pair[0] * b.pair[0], a.pair[1] * b.pair[1]
    def sum(x): return total(x.pair[0]), total(x.pair[1])
    def divide(a, b): return a.pair[0] / b.pair[0], a.pair[1] / b.pair[1]
# fmt: on


WRITTEN = [Moments, Minimum, Reachable, HandWritten, Gauss]


# ------------------------------------------------------------------ what holds
@pytest.mark.parametrize("semiring", [*STANDARD, *WRITTEN], ids=name)
def test_a_semiring_keeps_every_law(semiring):
    report = check_semiring(semiring)
    assert report.semiring == semiring.__name__
    checked = {law.name: law for law in report.laws}
    expected = {law for law in LAWS if "divide" not in law or hasattr(semiring, "divide")}
    expected |= {f"reverse rule of {f} = its slope" for f in ("sum", "act")}
    expected |= {f"dual of {f} = its slope" for f in ("sum", "act", "lift")}
    expected |= {f"dual of {f} = its slope" for f in ("mul",) if semiring not in (KMax(2), KMax(4))}
    generated = ("lift", "mul", "act", "act_vjp", "sum", "sum_vjp", "read")
    expected |= {f"generated torch {f} = interpreter" for f in generated}
    parts = {"emission", "transition", "duration", "start", "end"}
    able = {n for n, b in dispatch.BACKENDS.items() if b.serves(compiled(semiring), parts, torch.device("cpu"))}
    assert "reference" in able
    expected |= {f"scan by {b} = sum of all segmentations" for b in able}
    expected |= {f"gradient by {b} = slope of that sum" for b in able}
    assert set(checked) == expected
    assert all(law.cases > 0 for law in report.laws)
    assert all(law.error <= (1e-6 if "slope" in law.name else 1e-12) for law in report.laws)


@pytest.mark.parametrize("semiring", [*SMOOTH, Moments, Gauss], ids=name)
def test_the_dual_of_a_smooth_semiring_keeps_every_law(semiring):
    report = check_semiring(dual(semiring), trials=20)
    assert all(law.cases > 0 for law in report.laws)


@pytest.mark.parametrize("semiring", [Log, Entropy, Expectation], ids=name)
def test_so_does_the_dual_of_a_dual(semiring):
    assert check_semiring(dual(dual(semiring)), trials=5).semiring == f"Dual(Dual({semiring.__name__}))"


def test_what_a_reader_is_shown():
    report = Report("Log", (Law("plus is commutative", 30, 0.0), Law("plus is associative", 5, 2.5e-16)))
    assert repr(report).splitlines() == [
        "Log keeps 2 laws. Largest error, comparisons, law:",
        "  0.0e+00    30  plus is commutative",
        "  2.5e-16     5  plus is associative",
    ]


def test_a_name_and_an_instance_will_do_and_a_seed_decides():
    report = check_semiring("entropy", trials=5)
    assert report == check_semiring(Entropy(), trials=5, seed=0)
    assert report != check_semiring(Entropy, trials=5, seed=1)
    assert [law.cases for law in report.laws if law.name == "plus is associative"] == [5]
    with pytest.raises(SemiringError, match="expected a subclass of Semiring"):
        check_semiring(int)  # pyright: ignore[reportArgumentType]  the mistake under test


@pytest.mark.parametrize(
    ("semiring", "element", "expected"),
    [
        (Log, (-inf,), (-inf,)),
        (Entropy, (-inf, 3.0), (-inf, 0.0)),
        (Entropy, (2.0, 3.0), (2.0, 3.0)),
        (KL, (-inf, 1.0, 7.0), (-inf, 1.0, 0.0)),
        (KL, (1.0, -inf, 7.0), (1.0, -inf, inf)),
        (KL, (-inf, -inf, inf), KL.zero),
        (Moments, (-inf, math.nan, inf), Moments.zero),
        (Minimum, (inf,), Minimum.zero),
        ("kl", (-inf, -inf, 5.0), KL.zero),
    ],
)
def test_canonical(semiring, element, expected):
    assert canonical(semiring, element) == expected
    assert semirings.canonical is canonical


def test_moments_of_two_outcomes():
    """log 1 and log 3, with values 2 and 6: mean 5, variance 3."""
    value = evaluate(compiled(Moments).sum, {"x": [[0.0, math.log(3.0)], [2.0, 6.0], [4.0, 36.0]]}, 2)
    assert evaluate(compiled(Moments).read, {"a": value}) == pytest.approx((5.0, 3.0), rel=1e-14)


def test_semirings_exports_what_a_user_needs():
    from semicrf import algebra

    inner = {"Expr"}  # what a symbol is, no one need know
    assert set(algebra.__all__) - inner | {"Report", "canonical", "check_semiring"} == set(semirings.__all__)
    assert all(getattr(semirings, n) is getattr(algebra, n) for n in algebra.__all__ if n not in inner)


# ------------------------------------------------------------------ what does not
class Good(Semiring):
    """Log; every semiring below changes it in one place."""

    # fmt: off
    fields, zero, one = "a", (-inf,), (0.0,)
    def lift(w): return w
    def mul(a, b): return a.a + b.a
    def sum(x): return lse(x.a)
    def divide(a, b): return a.a - b.a
    # fmt: on


class Linear(Semiring):
    """The same with plain numbers."""

    # fmt: off
    fields, zero, one = "a", (0.0,), (1.0,)
    def lift(w: Any): return semirings.exp(w)
    def mul(a, b): return a.a * b.a
    def sum(x): return total(x.a)
    # fmt: on


class Pair(Semiring):
    """Expectation."""

    # fmt: off
    fields, potentials, gates, zero, one = ("a", "m"), 2, 1, (-inf, 0.0), (0.0, 0.0)
    def lift(w, f): return w, f
    def mul(a, b): return a.a + b.a, a.m + b.m
    def sum(x): return lse(x.a), total(weigh(ratio(x.a, lse(x.a)), x.m))
    # fmt: on


def mean(x):
    return total(x.a) / total(semirings.exp(x.a - x.a))  # the second total counts the terms


def shifted_by_hand(x):
    m = largest(x.a)
    return m + log(total(semirings.exp(x.a - m)))


def bonus_for_three(x):
    n = total(ratio(x.a, x.a))  # counts the terms that are not zero
    return lse(x.a) + (n - 1) * (n - 2)


(
    NAN,
    COMMUTATIVE,
    ASSOCIATIVE,
    FOLDED,
    PLUS_ZERO,
    MUL_ONE,
    ANNIHILATES,
    DIFFER,
    MUL,
    DISTRIBUTES,
    SINGLE,
    HOLES,
    EMPTY,
) = (
    "a row of zeros holds no NaN",
    "plus is commutative",
    "plus is associative",
    "sum = plus folded",
    "zero is the identity of plus",
    "one is the identity of mul",
    "zero annihilates",
    "zero is not one",
    "mul is associative",
    "mul distributes over sum",
    "the sum of one element stands for it",
    "a row with zeros = the row without",
    "a row of zeros = zero",
)
LIFT, LIFT_ZERO, ACT, DIVIDE = (
    "lift(v + w) = mul(lift(v), lift(w))",
    "lift(0) = one",
    "act(a, w) = mul(a, lift(w))",
    "divide(mul(a, d), d) = a",
)

BROKEN = {
    "plus that halves": (Good, {"sum": lambda x: lse(x.a) - log(2.0)}, [ASSOCIATIVE, FOLDED, PLUS_ZERO, SINGLE]),
    "a mean": (Linear, {"sum": mean}, [ASSOCIATIVE, FOLDED, PLUS_ZERO, HOLES]),
    "a sum of three that is more than plus twice": (Good, {"sum": bonus_for_three}, [FOLDED]),
    "zero that is one": (Good, {"zero": 0.0}, [PLUS_ZERO, ANNIHILATES, DIFFER, HOLES, EMPTY, LIFT, ACT]),
    "zero that is only very small": (Good, {"zero": -1e9}, [PLUS_ZERO, ANNIHILATES, ...]),
    "one that is not": (Good, {"one": 1.0}, [MUL_ONE, LIFT_ZERO]),
    "a sum that forgets its terms": (Good, {"sum": lambda x: 0.0 * lse(x.a)}, [DIFFER, EMPTY]),
    "a field that is summed without its weight": (
        Pair,
        {"sum": lambda x: (lse(x.a), total(weigh(ratio(x.a, x.a), x.m)))},
        [DISTRIBUTES],
    ),
    "max for mul": (
        Good,
        {"mul": lambda a, b: maximum(a.a, b.a)},
        [MUL_ONE, ANNIHILATES, DISTRIBUTES, HOLES, EMPTY, LIFT, ACT, DIVIDE],
    ),
    "mul that is not associative": (
        Linear,
        {"mul": lambda a, b: a.a * b.a + 0.1 * (a.a - a.a * a.a) * (b.a - b.a * b.a)},
        [MUL, DISTRIBUTES, LIFT],
    ),
    "lift that squares": (Good, {"lift": lambda w: w * w}, [LIFT]),
    "lift that adds": (Good, {"lift": lambda w: w + 1.0}, [LIFT, LIFT_ZERO]),
    "an action that is not the product": (Good, {"act": staticmethod(lambda a, w: a.a + 2 * w)}, [ACT]),
    "divide that multiplies": (Good, {"divide": lambda a, b: a.a + b.a}, [DIVIDE]),
    "exp(x - total) where all terms are -inf": (
        Pair,
        {"sum": lambda x: (lse(x.a), total(weigh(semirings.exp(x.a - lse(x.a)), x.m)))},
        [NAN, ...],
    ),
    "a largest term taken out where there is none": (Good, {"sum": shifted_by_hand}, [NAN, ...]),
}


def broken_laws(semiring: type[Semiring]) -> list[str]:
    with pytest.raises(SemiringError) as error:
        check_semiring(semiring)
    found = re.fullmatch(
        r"Broken breaks the law '(.+?)': (?:for .+ )?got \(.+\); expected \(.+?\)\.(?: It breaks these too: (.+)\.)?",
        str(error.value),
    )
    assert found, str(error.value)
    return [found[1], *(found[2].split("; ") if found[2] else [])]


@pytest.mark.parametrize(("base", "change", "laws"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_law_is_caught_by_that_law(base, change, laws):
    found: list[Any] = broken_laws(type("Broken", (base,), change))
    if laws[-1] is ...:
        found[len(laws) - 1 :] = [...]
    assert found == laws


def test_an_error_says_the_law_the_inputs_and_both_values():
    class Doubled(Good):
        def divide(a, b):
            return 2 * (a.a - b.a)

    with pytest.raises(SemiringError) as error:
        check_semiring(Doubled)
    number = r"(-?[0-9.e-]+|-?inf)"
    message = rf"Doubled breaks the law 'divide\(mul\(a, d\), d\) = a': for a = \({number},\), d = \({number},\) "
    found = re.fullmatch(message + rf"got \({number},\); expected \({number},\)\.", str(error.value))
    assert found, str(error.value)
    a, _, got, expected = map(float, found.groups())
    assert (got, expected) == (pytest.approx(2 * a, rel=1e-14), a)


numbers = itertools.count(1)


def fresh() -> type[Semiring]:
    """A semiring that nothing has compiled yet: each call adds another number to what is read."""
    n = next(numbers)
    return type("Broken", (Good,), {"read": lambda x: x.a + n})


def broken_by(patch, table: dict, key: str, value: object) -> list[str]:
    with patch.context() as m:
        m.setitem(table, key, value)
        return broken_laws(fresh())


def test_a_wrong_reverse_rule_is_caught(monkeypatch):
    def twice(g, e, x):
        return (2 * right(g, e, x)[0],)

    right = derive.REVERSE["lse"]
    expected = ["reverse rule of sum = its slope", "dual of sum = its slope"]
    assert broken_by(monkeypatch, derive.REVERSE, "lse", twice) == expected


def test_wrong_generated_code_is_caught(monkeypatch):
    text = render.TORCH["lse"] + " * (1 + 1e-9)"
    assert broken_by(monkeypatch, render.TORCH, "lse", text) == ["generated torch sum = interpreter"]


@pytest.mark.parametrize("what", ["scan", "gradient"])
def test_a_wrong_backend_is_caught(monkeypatch, what):
    def scan(*args):
        state = reference.scan(*args)
        return state._replace(value=state.value * (1 + 1e-9 * (what == "scan")))

    def scan_vjp(*args):
        return [{n: g * (1 + 1e-4) for n, g in grads.items()} for grads in reference.scan_vjp(*args)]

    backend = SimpleNamespace(serves=reference.serves, scan=scan, scan_vjp=scan_vjp)
    expected = {"scan": "scan by fake = sum of all segmentations", "gradient": "gradient by fake = slope of that sum"}
    assert broken_by(monkeypatch, dispatch.BACKENDS, "fake", backend) == [expected[what]]


def test_a_gradient_of_what_is_forbidden_is_caught(monkeypatch):
    """NaN where a potential is -inf, or past a length, is what this check is for."""

    def scan_vjp(program, models, *args):
        grads = reference.scan_vjp(program, models, *args)
        return [
            {n: torch.where(m[n].isfinite(), g, math.nan) for n, g in gs.items()}
            for m, gs in zip(models, grads, strict=True)
        ]

    backend = SimpleNamespace(serves=reference.serves, scan=reference.scan, scan_vjp=scan_vjp)
    assert broken_by(monkeypatch, dispatch.BACKENDS, "fake", backend) == ["gradient by fake = slope of that sum"]


# fmt: off
class Squares(Semiring):
    """Its sum squares a shifted term, so its reverse rule needs a sum over something that holds another sum."""
    fields, zero, one = ("a", "b"), (0.0, 0.0), (0.0, 0.0)
    def lift(w): return w, w
    def mul(a, b): return a.a + b.a, a.b
    def sum(x):
        v = x.a + total(x.b)
        return total(semirings.exp(v)), total(semirings.exp(v) * semirings.exp(v) * x.b)
# fmt: on


def test_laws_come_before_the_refusal_of_a_reverse_rule():
    with pytest.raises(SemiringError, match="Squares breaks the law"):
        check_semiring(Squares)
    with pytest.raises(SemiringError, match=r"Dual\(HandWritten\): the reverse rule of sum keeps the reduction"):
        check_semiring(dual(HandWritten), trials=2)
    with pytest.raises(SemiringError, match="no reverse rule for 'top'"):
        check_semiring(dual(KMax(2)), trials=2)


def test_entropy_is_what_the_field_defines():
    """The checks above compare a semiring with its own text; this one compares the text with -sum p log p."""
    p = [0.5, 0.25, 0.125, 0.125]
    x = [[math.log(v) + 3.0 for v in p], [0.0] * 4]
    assert evaluate(compiled(Entropy).sum, {"x": x}, 4) == pytest.approx((3.0, 1.75 * math.log(2)), rel=1e-14)
