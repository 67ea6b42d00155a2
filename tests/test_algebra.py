"""Expressions, the base class of semirings, and the standard semirings against the definitions of the field."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
import subprocess
import sys
from typing import Any

import pytest

import semicrf
from semicrf import algebra
from semicrf.algebra import (
    KL,
    CrossEntropy,
    Element,
    Entropy,
    Expectation,
    Expr,
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
from semicrf.algebra.expr import LEAVES, REDUCTIONS, leaf, postorder, traced, wrap
from semicrf.algebra.semiring import _registry, flatten
from semicrf.compile import compiled, evaluate
from semicrf.errors import SemiringError

nan = math.nan
a, b = leaf("a", 0), leaf("a", 1)
x, y = leaf("x", 0), leaf("x", 1)


def value(expression: Expr, *numbers: float) -> float:
    return evaluate((expression,), {"a": numbers})[0]


def over(expression: Expr, *columns: list[float]) -> float:
    return evaluate((expression,), {"x": columns}, len(columns[0]))[0]


# ------------------------------------------------------------------ expressions
@pytest.mark.parametrize(
    "build",
    [
        lambda: a + 2.0 * b,
        lambda: weigh(ratio(x, lse(x)), y - 1),
        lambda: best((x, y), 3)[2],
        lambda: wrap(-inf),
        lambda: leaf("id", 4),
    ],
)
def test_nodes_that_are_built_alike_are_one_object_through_copies_too(build):
    node = build()
    assert build() is node
    assert pickle.loads(pickle.dumps(node)) is node
    assert copy.copy(node) is node
    assert copy.deepcopy(node) is node


def test_nodes_that_differ_are_different():
    nodes = [a, b, x, a + b, b + a, a * b, a - b, wrap(1.0), wrap(2.0), *best((x,), 2), *best((x,), 3), *top((a, b), 2)]
    assert len(set(nodes)) == len(nodes) == 16


def test_a_pickle_is_read_by_another_process():
    """Where the leaves were created in another order, and other nodes before them."""
    node = weigh(ratio(x, lse(x)), y - surprisal(x, lse(x)))
    code = (
        "import pickle, sys, types; semicrf = sys.modules['semicrf'] = types.ModuleType('semicrf');"  # spares it torch
        "semicrf.__path__ = [sys.argv[2]]; from semicrf.algebra.expr import *; from semicrf.algebra.expr import leaf;"
        "leaf('x', 1);"
        "node = pickle.loads(bytes.fromhex(sys.argv[1])); x = leaf('x', 0);"
        "assert node is weigh(ratio(x, lse(x)), leaf('x', 1) - surprisal(x, lse(x))); print(node)"
    )
    command = [sys.executable, "-c", code, pickle.dumps(node).hex(), *semicrf.__path__]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == repr(node)


def test_a_node_reads_like_what_it_is():
    node = weigh(ratio(x, lse(x)), best((x, y), 2)[1] - 0.5)
    assert repr(node) == "weigh(ratio(x0, lse(x0)), add(item[1](best[2](x0, x1)), neg(0.5)))"


def test_which_nodes_vary_along_the_axis():
    assert [n.varies for n in (x, x + a, ratio(x, lse(x)), x * lse(x))] == [True] * 4
    assert [n.varies for n in (a, lse(x), total(x * y), largest(x), lse(x) + a, wrap(1.0))] == [False] * 6
    assert Expr("hit", (Expr("where", (Expr("best", (x,), (1,)),), (0,)),), (0, 1)).varies
    assert {n.op for n in (a, x, wrap(2.0))} <= LEAVES
    assert {n.op for n in (lse(x), total(x), Expr("best", (x,), (1,)))} == REDUCTIONS


def test_leaves_and_values():
    assert (a.leaf, wrap(3).leaf, (a + b).leaf) == (True, True, False)
    assert (wrap(3).value, a.value, (a + 1).value) == (3.0, None, None)
    assert wrap(a) is a


def test_arguments_come_before_the_nodes_that_use_them_and_once():
    shared = a * b
    order = list(postorder([shared + shared, exp(shared)]))
    assert order == [a, b, shared, shared + shared, exp(shared)]
    deep = a
    for _ in range(5000):
        deep = deep + b
    assert len(list(postorder([deep]))) == 5002


COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("use", COMPARISONS)
@pytest.mark.parametrize("other", [b, -inf, 0])
def test_no_comparison_in_the_functions_of_a_semiring(use, other):
    """It would be decided once, for all numbers; == alone would fall back to identity, in silence."""
    for left, right in ((a, other), (other, a)):
        with pytest.raises(TypeError, match=r"cannot be compared with .*Likely fix: maximum .* ratio.* weigh"):
            traced(use, left, right)


@pytest.mark.parametrize("use", COMPARISONS)
def test_symbols_are_never_compared_with_numbers(use):
    for left, right in ((a, 0.0), (0.0, a)):
        with pytest.raises(TypeError, match=r"a0 cannot be compared with 0\.0"):
            use(left, right)


def test_elsewhere_equality_is_identity():
    assert a == leaf("a", 0)
    assert a != b
    assert [a, b].index(b) == 1
    assert (a, b) == (leaf("a", 0), leaf("a", 1))
    with pytest.raises(TypeError):
        traced(lambda: a == b)
    assert a != b  # also after an error


def test_nodes_are_hashed_by_identity():
    assert leaf("a", 0) is a
    assert {a: 1, b: 2}[leaf("a", 1)] == 2
    assert leaf("a", 0) in {a}
    assert b not in {a}


@pytest.mark.parametrize("use", [bool, lambda e: e or b, lambda e: 1 if e else 0, lambda e: e and b, lambda e: not e])
def test_a_symbol_has_no_truth_value(use):
    with pytest.raises(TypeError, match=r"a0 has no truth value.*Likely fix: use maximum, minimum, ratio or weigh"):
        use(a)


OPERATIONS = {
    "add": (a + b, [(1.5, 2.0, 3.5), (-inf, 2.0, -inf), (inf, -inf, nan)]),
    "radd": (3 + a, [(1.5, 4.5)]),
    "sub": (a - b, [(1.5, 2.0, -0.5), (-inf, -inf, nan)]),
    "rsub": (3 - a, [(1.5, 1.5)]),
    "mul": (a * b, [(1.5, 2.0, 3.0), (0.0, inf, nan)]),
    "rmul": (3 * a, [(1.5, 4.5)]),
    "div": (a / b, [(3.0, 2.0, 1.5), (1.0, 0.0, inf), (-1.0, 0.0, -inf)]),
    "rdiv": (3 / a, [(2.0, 1.5)]),
    "neg": (-a, [(1.5, -1.5), (inf, -inf)]),
    "exp": (exp(a), [(0.0, 1.0), (-inf, 0.0), (inf, inf), (1e9, inf), (-1e9, 0.0)]),
    "log": (log(a), [(1.0, 0.0), (0.0, -inf), (inf, inf), (-1.0, nan)]),
    "maximum": (maximum(a, b), [(1.0, 2.0, 2.0), (-inf, -inf, -inf), (inf, 1.0, inf)]),
    "minimum": (minimum(a, b), [(1.0, 2.0, 1.0), (-inf, inf, -inf), (2.0, 2.0, 2.0)]),
    "ratio": (ratio(a, b), [(0.0, 0.0, 1.0), (-inf, 0.0, 0.0), (-inf, -inf, 0.0), (1.0, math.log(2) + 1, 0.5)]),
    "weigh": (weigh(a, b), [(2.0, 3.0, 6.0), (0.0, inf, 0.0), (0.0, nan, 0.0), (1.0, -inf, -inf), (inf, 0.0, nan)]),
    "surprisal": (surprisal(a, b), [(1.0, 3.0, 2.0), (-inf, 3.0, inf), (-inf, -inf, inf)]),
    "top": (top((a, b), 1)[0], [(1.0, 2.0, 2.0), (-inf, -inf, -inf)]),
    "second of top": (top((a, b), 2)[1], [(1.0, 2.0, 1.0), (2.0, 2.0, 2.0), (1.0, -inf, -inf)]),
    "beyond top": (top((a, b), 3)[2], [(1.0, 2.0, -inf)]),
}


@pytest.mark.parametrize(("expression", "points"), OPERATIONS.values(), ids=OPERATIONS)
def test_operations_on_every_kind_of_float(expression, points):
    for *numbers, expected in points:
        assert value(expression, *numbers) == pytest.approx(expected, rel=1e-15, abs=0, nan_ok=True), numbers


OVER = {
    "lse": (
        lse(x),
        [
            ([0.0, 0.0], math.log(2)),
            ([-inf, 1.0], 1.0),
            ([-inf, -inf], -inf),
            ([1e5, 1e5], 1e5 + math.log(2)),
            ([inf, 0.0], inf),
            ([-1e5, 0.0], 0.0),
        ],
    ),
    "total": (total(x), [([1.0, 2.0, 3.5], 6.5), ([5.0], 5.0)]),
    "largest": (largest(x), [([1.0, 3.0, 2.0], 3.0), ([-inf], -inf), ([-inf, -5.0], -5.0)]),
    "smallest": (smallest(x), [([1.0, -3.0, 2.0], -3.0), ([inf, inf], inf)]),
    "second best": (best((x,), 2)[1], [([1.0, 3.0, 2.0], 2.0), ([3.0, 3.0], 3.0), ([3.0], -inf)]),
}


@pytest.mark.parametrize(("expression", "points"), OVER.values(), ids=OVER)
def test_reductions(expression, points):
    for column, expected in points:
        assert over(expression, column) == pytest.approx(expected, rel=1e-15)


def test_a_choice_is_found_at_its_first_place_counted_by_term_then_column():
    node = best((x, y), 4)[0].args[0]
    places = [Expr("where", (node,), (r,)) for r in range(4)]
    assert evaluate(places, {"x": [[1.0, 5.0], [5.0, -inf]]}, 2) == (1, 2, 0, -1)
    hits = [Expr("hit", (places[0],), (column, 2)) for column in (0, 1)]
    assert evaluate(hits, {"x": [[1.0, 5.0], [5.0, -inf]]}, 2) == ([0.0, 0.0], [1.0, 0.0])


# ------------------------------------------------------------------ the base class
def lift(w):
    return w


def mul(p, q):
    return p.a + q.a


def add(terms):
    return lse(terms.a)


WHOLE = {"fields": "a", "zero": -inf, "one": 0.0, "lift": lift, "mul": mul, "sum": add}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("a", (("a", 1),)),
        (("a", "b"), (("a", 1), ("b", 1))),
        (["a", "b"], (("a", 1), ("b", 1))),
        ({"a": 3, "b": 1}, (("a", 3), ("b", 1))),
        ((("a", 2), "b"), (("a", 2), ("b", 1))),
    ],
)
def test_fields_may_be_given_in_any_of_these_ways(fields, expected):
    n = sum(width for _, width in expected)
    S = type("S", (Semiring,), {**WHOLE, "fields": fields, "zero": (0.0,) * n, "one": tuple(range(n))})
    assert S.fields == S.reads == expected
    assert S.width() == n
    assert S.zero == (0.0,) * n
    assert S.one == tuple(map(float, range(n)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": ()}, r"S\.fields: got \(\); expected one or more different field names"),
        ({"fields": ("a", "a"), "zero": (0, 0), "one": (0, 0)}, r"S\.fields: got \('a', 'a'\)"),
        ({"fields": "2a"}, r"S\.fields: got \('2a',\)"),
        ({"fields": "scalars"}, r"S\.fields: got \('scalars',\)"),
        ({"reads": ("r", "r")}, r"S\.reads: got \('r', 'r'\)"),
        ({"zero": (0.0, 0.0)}, r"S\.zero has 2 scalars; expected 1.*Likely fix: give one number per scalar field"),
        ({"one": ()}, r"S\.one has 0 scalars; expected 1"),
        ({"sum": None}, r"S has no sum; expected a function"),
        ({"mul": 3}, r"S has no mul"),
    ],
)
def test_a_declaration_that_is_wrong_is_an_error_at_class_creation(change, message):
    with pytest.raises(SemiringError, match=message):
        type("S", (Semiring,), WHOLE | change)


@pytest.mark.parametrize("missing", ["lift", "mul", "sum"])
def test_so_is_one_that_is_missing(missing):
    with pytest.raises(SemiringError, match=f"S has no {missing}"):
        type("S", (Semiring,), {k: v for k, v in WHOLE.items() if k != missing})


def test_functions_take_no_self_and_are_inherited():
    class Child(Log):
        """Log with another sum."""

        # fmt: off
        def sum(x): return largest(x.logz)
        # fmt: on

    assert Child().lift is Child.lift is Log.lift
    symbols: Any = Element(Child.fields, (x,))
    assert Child.sum(symbols) is largest(x)
    assert Child.fields == Log.fields
    assert Child.zero == Log.zero
    assert Child.sum is not Log.sum


def test_an_element_gives_its_scalars_by_name_by_index_and_in_order():
    e = Element((("p", 1), ("q", 2)), (1, 2, 3))
    assert (e.p, e.q, e[2], list(e)) == (1, (2, 3), 3, [1, 2, 3])
    with pytest.raises(AttributeError, match="no field 'r'; expected one of: p, q"):
        e.r  # noqa: B018  reading it raises


def test_flatten():
    assert flatten(1.0) == (1.0,)
    assert flatten((1, [2, (3,)], Element((("p", 2),), (4, 5)))) == (1, 2, 3, 4, 5)


def test_lookup_by_class_instance_and_name():
    assert lookup(Log) is lookup(Log()) is lookup("log") is lookup("Log") is Log
    assert lookup("crossentropy") is CrossEntropy
    for unknown in ("kmax", "", "semiring"):
        with pytest.raises(SemiringError, match="is not known; expected one of"):
            lookup(unknown)
    for wrong in (int, 3, Semiring, None, Semiring()):
        with pytest.raises(SemiringError, match="expected a subclass of Semiring"):
            lookup(wrong)  # pyright: ignore[reportArgumentType]  the mistake under test


def test_registering_makes_a_name(monkeypatch):
    names = {"log", "max", "std", "entropy", "crossentropy", "kl", "logcount", "expectation"}
    assert names <= set(registered())
    S = type("Mine", (Semiring,), WHOLE)
    monkeypatch.setitem(_registry, "mine", None)  # so that it is taken out again
    assert register(S) is S
    assert lookup("MINE") is S
    registered().clear()
    assert lookup("mine") is S


def test_everything_exported_is_there():
    assert all(hasattr(algebra, n) for n in algebra.__all__)
    assert len(set(algebra.__all__)) == len(algebra.__all__)


# ------------------------------------------------------------------ the standard semirings
P, Q = [0.5, 0.25, 0.25, 0.0], [0.125, 0.25, 0.5, 0.125]
logs = lambda ps, shift: [math.log(p) + shift if p else -inf for p in ps]  # noqa: E731  a formula


def summed(S: type[Semiring], *columns: list[float]) -> tuple[float, ...]:
    return evaluate(compiled(S).sum, {"x": columns}, len(columns[0]))


def close(expected) -> object:
    return pytest.approx(expected, rel=1e-14)


def test_sums_are_what_the_field_defines():
    nothing = [0.0] * 4
    assert summed(Log, logs(P, 2.0)) == close((2.0,))
    assert summed(Std, logs(P, 2.0)) == close((2.0,))
    assert evaluate(compiled(Std).read, {"a": (2.0,)}) == close((math.exp(2.0),))
    assert summed(Max, logs(P, 2.0)) == close((math.log(0.5) + 2.0,))
    assert summed(LogCount, [0.0, 0.0, -inf, 0.0]) == close((math.log(3),))
    assert summed(Entropy, logs(P, 2.0), nothing) == close((2.0, 1.5 * math.log(2)))
    cross = sum(-p * math.log(q) for p, q in zip(P, Q, strict=True))
    assert summed(CrossEntropy, logs(P, 2.0), logs(Q, -1.0), nothing) == close((2.0, -1.0, cross))
    assert summed(KL, logs(P, 2.0), logs(Q, -1.0), nothing) == close((2.0, -1.0, cross - 1.5 * math.log(2)))
    assert summed(Expectation, logs(P, 2.0), [1.0, 2.0, 3.0, nan]) == close((2.0, 1.75))


def test_a_divergence_is_infinite_where_the_second_forbids_what_the_first_allows():
    for S in (CrossEntropy, KL):
        assert summed(S, logs(P, 0.0), logs([0.0, 0.5, 0.5, 0.0], 0.0), [0.0] * 4)[2] == inf
        assert summed(S, logs([0.0] * 4, 0.0), logs(Q, 0.0), [0.0] * 4) == close((-inf, 0.0, 0.0))


def test_chain_rule():
    """Entropies of parts add up, weighted: H(1/2, 1/4, 1/4) = H(1/2, 1/2) + H(1/2, 1/2) / 2."""
    inner = summed(Entropy, logs([0.25, 0.25], 0.0), [0.0, 0.0])
    outer = summed(Entropy, [math.log(0.5), inner[0]], [0.0, inner[1]])
    assert outer[1] == close(1.5 * math.log(2))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_k_best_of_sums_and_products(k):
    S = KMax(k)
    pad = lambda scores: tuple((sorted(scores, reverse=True) + [-inf] * k)[:k])  # noqa: E731  a formula
    assert (S.__name__, S.zero, S.one) == (f"KMax({k})", pad([]), pad([0.0]))
    p, q = [3.0, 1.5, 1.5, -2.0][:k], [2.5, 1.5][:k]
    assert summed(S, *map(list, zip(pad(p), pad(q), strict=True))) == pad(p + q)
    product = evaluate(compiled(S).mul, {"a": pad(p), "b": pad(q)})
    assert product == pad([s + t for s, t in itertools.product(p, q)])
    assert evaluate(compiled(S).act, {"a": pad(p), "w": [0.5]}) == pad([s + 0.5 for s in p])


def test_k_best_is_one_class_per_k_and_k_is_bounded():
    assert KMax(3) is KMax(3)
    assert KMax(2).width() == 2
    for k in (0, 17, -1):
        with pytest.raises(SemiringError, match=rf"KMax: got k = {k}; expected an integer in 1\.\.16"):
            KMax(k)


@pytest.mark.parametrize("S", [Log, Std, LogCount, Entropy, CrossEntropy, KL, Expectation], ids=lambda S: S.__name__)
def test_each_standard_definition_is_short(S):
    """`test_check` shows that they keep the laws; here: nothing but functions of symbols, and few potentials."""
    assert S.potentials == (2 if S in (CrossEntropy, KL, Expectation) else 1)
    assert compiled(S).gates == (1 if S is Expectation else S.potentials)
    assert S.__doc__
