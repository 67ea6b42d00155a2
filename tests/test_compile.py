"""From a semiring's functions to code: tracing, simplification, derived rules, keys, generated text."""

from __future__ import annotations

import inspect
import math
import random
import re
import traceback
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semicrf.algebra import (
    KL,
    CrossEntropy,
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
    lse,
    maximum,
    ratio,
    surprisal,
    top,
    total,
    weigh,
)
from semicrf.algebra.expr import leaf, postorder, wrap
from semicrf.compile import Program, compiled, dual, evaluate, explain, load, program, torch_source
from semicrf.compile.derive import cotangents, stored_ids, tangents
from semicrf.compile.render import functions
from semicrf.compile.simplify import IDENTITIES, ONE, ZERO, Linear, make, simplify
from semicrf.engine.primitives import ENVIRONMENT
from semicrf.errors import SemiringError

STANDARD = [Log, Max, Std, KMax(1), KMax(2), KMax(4), Entropy, CrossEntropy, KL, LogCount, Expectation]
TWICE = {CrossEntropy: 2, KL: 2}
"""Sweeps of the reverse rule of the first dual, where it is not one: the derivative of a divergence holds a mean that
is no field. The second duals of these two would need a third sweep, and are refused."""


def name(semiring: type[Semiring]) -> str:
    return semiring.__name__


def variant(**change: Any) -> type[Semiring]:
    """Log, with something else in place of some of it."""

    # fmt: off
    class S(Semiring):
        fields, zero, one = "a", (-inf,), (0.0,)
        def lift(w): return w
        def mul(a, b): return a.a + b.a
        def sum(x): return lse(x.a)
    # fmt: on

    return type("S", (S,), change)


def written(e: Expr) -> str:
    """An expression as one writes it; terms and factors in alphabetical order, a weight before what it weighs."""
    if e.op == "add":
        terms = [t for a in e.args for t in (a.args if a.op == "add" else (a,))]
        while any(t.op == "add" for t in terms):
            terms = [t for a in terms for t in (a.args if a.op == "add" else (a,))]
        return "(" + " + ".join(sorted(map(written, terms))) + ")"
    args = [written(a) for a in e.args]
    if e.op == "mul":
        return " * ".join(sorted(args))
    if e.op == "weigh":
        return f"{args[0]} . {args[1]}"
    if e.op == "neg":
        return f"-{args[0]}"
    return repr(e) if e.leaf else f"{e.op}{list(e.attr) if e.attr else ''}({', '.join(args)})"


# ------------------------------------------------------------------ derived rules
GOLDEN = {
    Log: ["g0 * ratio(x0, y0)"],
    Max: ["g0 * hit[0, 1](id0)"],
    LogCount: ["g0 * ratio(x0, y0)"],
    Entropy: [
        "ratio(x0, y0) . (g0 + g1 . (-y1 + surprisal(x0, y0) + x1))",
        "g1 * ratio(x0, y0)",
    ],
    Expectation: [
        "ratio(x0, y0) . (g0 + g1 . (-y1 + x1))",
        "g1 * ratio(x0, y0)",
    ],
    # ratio(y0, y0) is 1, or 0 where p forbids everything: then the divergence is 0 whatever q is
    KL: [
        "ratio(x0, y0) . (g0 + g2 . (-surprisal(x0, y0) + -y2 + surprisal(x1, y1) + x2))",
        "(g1 * ratio(x1, y1) + g2 . (-ratio(x0, y0) + ratio(x1, y1) * ratio(y0, y0)))",
        "g2 * ratio(x0, y0)",
    ],
    KMax(2): [
        "(g0 * hit[0, 2](id0) + g1 * hit[0, 2](id1))",
        "(g0 * hit[1, 2](id0) + g1 * hit[1, 2](id1))",
    ],
}


@pytest.mark.parametrize("semiring", GOLDEN, ids=name)
def test_reverse_rules_read_as_one_writes_them(semiring):
    assert [written(e) for e in compiled(semiring).reverse.outputs] == GOLDEN[semiring]


def test_reverse_rules_of_actions():
    assert [written(e) for e in compiled(Entropy).act_reverse] == ["g0", "g1", "g0"]
    assert [written(e) for e in compiled(KL).act_reverse] == ["g0", "g1", "g2", "g0", "g1"]
    assert [written(e) for e in compiled(LogCount).act_reverse] == ["g0", "0"]
    assert [written(e) for e in compiled(KMax(3)).act_reverse] == ["g0", "g1", "g2", "(g0 + g1 + g2)"]


@pytest.mark.parametrize("semiring", STANDARD, ids=name)
def test_sweeps(semiring):
    rule = compiled(semiring).reverse
    assert (rule.sweeps, rule.first) == (1, ())
    assert compiled(dual(semiring)).reverse.sweeps == TWICE.get(semiring, 1)


@pytest.mark.parametrize("semiring", TWICE, ids=name)
def test_second_duals_that_are_refused(semiring):
    with pytest.raises(SemiringError, match=r"Dual\(Dual\(\w+\)\): the reverse rule of sum keeps .* Two sweeps cannot"):
        _ = compiled(dual(dual(semiring))).reverse


def test_a_log_sum_written_by_hand_takes_two_sweeps_and_is_right():
    def by_hand(x):
        m = largest(x.a)
        return m + log(total(exp(x.a - m)))

    p, rows = compiled(variant(sum=by_hand)), [0.3, -1.2, 700.0, 699.5]
    assert p.reverse.sweeps == 2
    assert p.ids == 1
    y = evaluate(p.sum, {"x": [rows]}, 4)
    assert y == pytest.approx(evaluate(compiled(Log).sum, {"x": [rows]}, 4), rel=1e-15)
    ids = evaluate(tuple(stored_ids(p.sum)), {"x": [rows]}, 4)
    got = evaluate(p.reverse.outputs, {"x": [rows], "y": y, "g": [2.0], "id": ids}, 4)
    expected = evaluate(compiled(Log).reverse.outputs, {"x": [rows], "y": y, "g": [2.0]}, 4)
    assert got[0] == pytest.approx(expected[0], rel=1e-12)


def test_a_rule_that_would_need_a_third_sweep_is_refused_with_the_reason():
    # fmt: off
    class Shifted(Semiring):
        fields, zero, one = ("a", "b"), (0.0, 0.0), (0.0, 0.0)
        def lift(w): return w, w
        def mul(a, b): return a.a + b.a, a.b
        def sum(x):
            v = exp(x.a + total(x.b))
            return total(v), total(v * v * x.b)
    # fmt: on

    reason = r"Shifted: the reverse rule of sum keeps the reduction total\(.+\), which is taken over another one, "
    with pytest.raises(SemiringError, match=reason + r"total\(x1\)\. Two sweeps cannot.*Likely fix: carry the inner"):
        _ = compiled(Shifted).reverse
    assert re.search(reason, explain(Shifted))  # the generated text says so where the function would stand


def test_what_chooses_pointwise_has_no_reverse_rule_and_never_a_zero_one():
    def product(a, b):
        return top((a.p + b.p, a.q + b.q), 2)

    # fmt: off
    class Crossed(Semiring):
        fields, zero, one = ("p", "q"), (-inf, -inf), (0.0, 0.0)
        def lift(w: Any): return w, 2 * w
        mul = product
        def sum(x): return largest(x.p), largest(x.q)
    # fmt: on

    with pytest.raises(SemiringError, match=r"Crossed: no reverse rule for 'top' in top\[2\]"):
        _ = compiled(Crossed).act_reverse
    with pytest.raises(SemiringError, match=r"KMax\(2\)\.mul: no reverse rule for 'top'"):
        _ = compiled(dual(KMax(2))).mul
    assert [repr(e) for e in compiled(dual(KMax(2))).act] == [
        "add(a0, w0)",
        "add(a1, w0)",
        "add(a2, w1)",
        "add(a3, w1)",
    ]


def test_shares_add_up_to_one_or_to_zero_where_there_is_nothing_to_share():
    x = leaf("x", 0)
    share = ratio(x, lse(x))
    summed = Linear([]).total(3.0 * share * leaf("g", 0))
    assert not any(n.op == "total" for n in postorder([summed]))
    for column, expected in (([0.5, -inf, 2.0], 6.0), ([-inf, -inf], 0.0)):
        assert evaluate((summed,), {"x": [column], "g": [2.0]}, len(column)) == (expected,)
    for other in (ratio(x, lse(leaf("x", 1))), ratio(leaf("x", 1), lse(x)), share * share):
        assert Linear([]).total(other) is total(other)


def test_the_rule_of_a_divergence_is_zero_where_the_first_model_forbids_everything():
    for S in (KL, CrossEntropy):
        x = [[-inf, -inf], [0.5, 1.5], [0.0, 0.0]]
        y = evaluate(compiled(S).sum, {"x": x}, 2)
        rule = evaluate(compiled(S).reverse.outputs, {"x": x, "y": y, "g": [1.0, 0.0, 1.0]}, 2)
        assert rule == ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])


def test_a_derivative_goes_to_what_was_chosen_first():
    x, y = leaf("x", 0), leaf("a", 0)
    for e, expected in ((maximum(y, 1.0), 1.0), (maximum(1.0, y), 0.0), (maximum(y, y - 0.0), 1.0)):
        assert evaluate(cotangents([e], [y], [ONE], "f"), {"a": [1.0]}) == (expected,)
    (rule,) = cotangents([largest(x)], [x], [wrap(3.0)], "f")
    assert evaluate((rule,), {"x": [[2.0, 5.0, 5.0]]}, 3) == ([0.0, 3.0, 0.0],)


def test_what_every_term_reads_is_counted_once_for_every_term():
    """The inner sum is added to each of three terms, so the outer one holds it three times."""
    x, y = leaf("x", 0), leaf("x", 1)
    rule = cotangents([total(x + total(y))], [x, y], [wrap(2.0)], "f")
    assert evaluate(rule, {"x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}, 3) == (2.0, 6.0)


def test_the_rules_of_every_pointwise_operation():
    a, b = leaf("a", 0), leaf("a", 1)
    at = (0.7, 1.9)
    for e in (
        a + b,
        a - b,
        a * b,
        a / b,
        -a,
        exp(a * b),
        log(a + b),
        ratio(a, b),
        surprisal(a, b),
        weigh(a, b),
        maximum(a, b),
    ):
        rule = evaluate(cotangents([e], [a, b], [wrap(2.0)], "f"), {"a": at})
        (along,) = evaluate(tangents([e], [a, b], [wrap(0.3), wrap(-0.5)], "f"), {"a": at})
        h = 1e-5
        (ahead,), (behind,) = (evaluate((e,), {"a": (at[0] + s * 0.3, at[1] - s * 0.5)}) for s in (h, -h))
        assert along == pytest.approx((ahead - behind) / (2 * h), rel=1e-6), e
        assert rule[0] * 0.3 - rule[1] * 0.5 == pytest.approx(2 * along, rel=1e-12), e


# ------------------------------------------------------------------ duals
def test_a_dual_is_a_semiring_of_values_and_directions():
    D = dual(KL)
    assert D is dual(KL)
    assert D.__name__ == "Dual(KL)"
    assert [n for n, _ in D.fields] == ["logp", "logq", "kl", "logp_dot1", "logq_dot1", "kl_dot1"]
    assert (D.potentials, D.gates, compiled(D).gates) == (4, 2, 2)
    assert D.zero == (*KL.zero, 0.0, 0.0, 0.0)
    assert D.one == (*KL.one, 0.0, 0.0, 0.0)
    assert dual(dual(Log)).fields == (("logz", 1), ("logz_dot1", 1), ("logz_dot2", 1), ("logz_dot1_dot2", 1))
    assert compiled(dual(Expectation)).gates == 1
    assert dual(KMax(2)).fields == (("scores", 2), ("scores_dot1", 2))


def test_the_tangent_of_a_log_sum_is_a_mean():
    assert [written(e) for e in compiled(dual(Log)).sum] == ["lse(x0)", "total(ratio(x0, lse(x0)) . x1)"]
    assert [repr(e) for e in compiled(dual(Log)).act] == ["add(a0, w0)", "add(a1, w1)"]
    assert [written(e) for e in compiled(dual(LogCount)).lift] == ["0", "0"]


def test_the_second_dual_of_a_log_sum_is_a_covariance():
    x = [[0.2, -0.4, 1.1], [1.0, 2.0, -1.0], [0.5, 0.0, 3.0], [0.0, 0.0, 0.0]]
    p = [math.exp(v) for v in x[0]]
    p = [v / sum(p) for v in p]
    mean = [sum(q * v for q, v in zip(p, column, strict=True)) for column in x[1:3]]
    cov = sum(q * (u - mean[0]) * (v - mean[1]) for q, u, v in zip(p, x[1], x[2], strict=True))
    got = evaluate(compiled(dual(dual(Log))).sum, {"x": x}, 3)
    assert got[1:] == pytest.approx((*mean, cov), rel=1e-13)


# ------------------------------------------------------------------ tracing
TRACED = r"S\.\w+ could not be traced: "
TRACING = {
    "if": ({"mul": lambda a, b: a.a if a.a else b.a}, TRACED + "TypeError: a0 has no truth value.*maximum"),
    "comparison": ({"mul": lambda a, b: a.a if a.a > b.a else b.a}, TRACED + "TypeError: a0 cannot be compared"),
    "equality": ({"lift": lambda w: 0.0 if w == -inf else w}, TRACED + "TypeError: w0 cannot be compared with -inf"),
    "math.exp": ({"mul": lambda a, b: math.exp(a.a)}, TRACED + "TypeError: must be real number, not Expr"),
    "unknown field": ({"mul": lambda a, b: a.z}, TRACED + r"AttributeError: no field 'z'; expected one of: a\."),
    "arguments": ({"lift": lambda v, w: v}, TRACED + "TypeError: .*missing 1 required positional"),
    "arguments of mul": ({"mul": lambda a: a.a}, TRACED + "TypeError: .*takes 1 positional argument"),
    "too many": ({"mul": lambda a, b: (a.a, b.a)}, r"S\.mul returned \(a0, b0\); expected 1 scalars, one per field"),
    "none": ({"mul": lambda a, b: None}, r"S\.mul returned \(None,\); expected 1 scalars"),
    "a string": ({"mul": lambda a, b: "a"}, r"S\.mul returned \('a',\); expected 1 scalars"),
    "nothing to reduce": ({"sum": lambda x: lse(2.0)}, r"S\.sum reduces lse\(2\), which does not depend on the terms"),
    "not reduced": ({"sum": lambda x: x.a}, r"S\.sum returned x0, a number for every term.*Likely fix: reduce it"),
    "half reduced": ({"sum": lambda x: lse(x.a) - x.a}, r"S\.sum returned add\(.*\), a number for every term"),
    "read": ({"reads": ("p", "q"), "read": lambda x: x.a}, r"S\.read returned \(a0,\); expected 2 scalars"),
}


@pytest.mark.parametrize(("change", "message"), TRACING.values(), ids=TRACING)
def test_tracing_errors(change, message):
    p = Program(variant(**change))
    with pytest.raises(SemiringError, match=message) as error:
        _ = getattr(p, next(n for n in ("read", "lift", "mul", "sum") if n in change))
    assert ("could not be traced" in str(error.value)) == (error.value.__cause__ is not None)


def test_a_semiring_error_inside_a_function_is_left_as_it_is():
    def mul(a, b):
        raise SemiringError("mine")

    with pytest.raises(SemiringError, match=r"^mine$"):
        _ = Program(variant(mul=mul)).mul


def test_numbers_may_be_plain():
    two = {"fields": ("a", "n"), "zero": (-inf, 0), "one": (0, 1)}
    p = compiled(variant(**two, lift=lambda w: (w, 1), mul=lambda a, b: (a.a, True), sum=lambda x: (lse(x.a), 2)))
    assert (p.lift, p.mul, p.sum[1]) == ((leaf("w", 0), ONE), (leaf("a", 0), ONE), wrap(2.0))


# ------------------------------------------------------------------ keys and modules
def test_equal_texts_share_a_program_and_a_module():
    first, second = variant(), variant()
    assert first is not second
    assert compiled(first) is compiled(second)
    p = compiled(first)
    assert program(p.key) is p
    assert re.fullmatch(r"S-[0-9a-f]{12}", p.key)
    one, other = (load(torch_source(compiled(s)), "torch", ENVIRONMENT) for s in (first, second))
    assert one is other


KEYS = {
    "lift": {"lift": lambda w: 2 * w},
    "mul, with the same action": {"mul": lambda a, b: 2 * a.a + b.a, "act": staticmethod(lambda a, w: a.a + w)},
    "sum": {"sum": lambda x: largest(x.a)},
    "zero": {"zero": (-1e9,)},
    "one": {"one": (1.0,)},
    "a field's name": {"fields": "b", "mul": lambda a, b: a.b + b.b, "sum": lambda x: lse(x.b)},
    "read": {"read": lambda a: exp(a.a)},
    "the name of what is read": {"reads": "z"},
    "gates": {"potentials": 2, "gates": 1, "lift": lambda w, v: w},
    "a constant in its last digit": {"sum": lambda x: lse(x.a) + 1e-17},
    "another constant": {"sum": lambda x: lse(x.a) + 1.0000000000000002e-17},
}


def test_other_texts_have_other_keys():
    programs = {what: compiled(variant(**change)) for what, change in {"nothing": {}, **KEYS}.items()}
    assert len({p.key for p in programs.values()}) == len(programs)
    assert len({torch_source(p) for p in programs.values()}) == len(programs)
    assert programs["zero"].semiring.zero == (-1e9,)
    assert programs["the name of what is read"].semiring.reads == (("z", 1),)


def test_two_products_with_one_action_are_not_taken_for_each_other():
    """Entropy's action adds 0 to h, so both have the same one."""
    members = {k: v for k, v in vars(Entropy).items() if k in ("zero", "one", "lift", "sum")} | {
        "fields": ("logz", "h")
    }
    S = [type("S", (Semiring,), {**members, "mul": lambda a, b, c=c: (a.logz + b.logz, a.h + c * b.h)}) for c in (1, 2)]
    assert compiled(S[0]).act == compiled(S[1]).act
    assert any(a is not b for a, b in zip(compiled(S[0]).mul, compiled(S[1]).mul, strict=True))


def test_names_make_keys_differ_and_unknown_keys_are_errors():
    assert compiled(variant()).key != compiled(type("R", (variant(),), {})).key
    with pytest.raises(SemiringError, match="no semiring is compiled under the key 'Log-0'; known here: "):
        program("Log-0")
    assert compiled("log") is compiled(Log) is compiled(Log())


def test_nothing_depends_on_what_was_built_before(monkeypatch):
    """Generated text names kernels on disk, so two processes have to agree on it."""

    def texts(first: list[Expr]) -> list[str]:
        fresh = {(n.op, n.args, n.attr): n for n in (ZERO, ONE)}
        monkeypatch.setattr(Expr, "_interned", fresh)
        for node in first:
            leaf(node.op, node.attr[0])
        return [p.key + repr(p.reverse.outputs) + torch_source(p) for p in map(Program, STANDARD)]

    kinds = [leaf(kind, i) for kind in "xygabw" for i in range(6)]
    assert texts([]) == texts(kinds[::-1]) == texts(random.Random(0).sample(kinds, len(kinds)))


def test_a_module_can_be_read_and_stepped_through():
    source = "def f(x):\n    return broken(x)\n"
    module = load(source, "mine", {})
    assert load(source, "mine", {}) is module
    assert load(source + "\n", "mine", {}) is not module
    assert inspect.getsource(module.f) == source
    with pytest.raises(NameError) as error:
        module.f(1)
    assert "    return broken(x)" in "".join(traceback.format_exception(error.value))


# ------------------------------------------------------------------ generated text
@pytest.mark.parametrize("semiring", STANDARD, ids=name)
def test_torch_text_computes_what_the_interpreter_does(semiring):
    draw, p, n = random.Random(0), compiled(semiring), 5
    assert explain(semiring, "torch") == semiring.explain() == semiring.explain("torch") == torch_source(p)
    made = load(semiring.explain("torch"), "torch", ENVIRONMENT)
    numbers = {kind: [draw.gauss(0, 1) for _ in range(p.width)] for kind in "abg"}
    numbers["w"] = [draw.gauss(0, 1) for _ in range(p.potentials)]
    columns = [[draw.gauss(0, 1) for _ in range(n)] for _ in range(p.width)]
    columns[0][2] = -inf
    y = evaluate(p.sum, {"x": columns}, n)
    ids = evaluate(tuple(stored_ids(p.sum)), {"x": columns}, n)
    tensor = {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}
    x = torch.tensor(columns, dtype=torch.float64)

    def close(got, expected):
        assert [t.tolist() for t in got] == pytest.approx(list(expected), rel=1e-13)

    close(made.lift(tensor["w"]), evaluate(p.lift, numbers))
    close(made.mul(tensor["a"], tensor["b"]), evaluate(p.mul, numbers))
    close(made.act(tensor["a"], tensor["w"]), evaluate(p.act, numbers))
    close(made.act_vjp(tensor["g"], tensor["a"], tensor["w"]), evaluate(p.act_reverse, numbers))
    close(made.read(tensor["a"]), evaluate(p.read, numbers))
    values, places = made.sum(x, 0)
    close([v.squeeze(0) for v in values], y)
    assert tuple(t.item() for t in places) == ids
    rule = made.sum_vjp(tensor["g"][:, None], torch.stack(values), x, torch.tensor(ids).view(-1, 1), -1)
    expected = evaluate(p.reverse.outputs, {"x": columns, "y": y, "g": numbers["g"], "id": ids}, n)
    for got, column in zip(rule, expected, strict=True):
        assert got.tolist() == pytest.approx(column, rel=1e-12, abs=1e-15)


def test_torch_text_is_readable():
    assert Entropy.explain("torch").rstrip().split("\n\n\n")[5] == (
        "def sum(x, dim):\n"
        '    """The sum over an axis, and where its choices were found."""\n'
        "    t0 = lse(x[0], dim)\n"
        "    t1 = ratio(x[0], t0)\n"
        "    t2 = surprisal(x[0], t0)\n"
        "    t3 = x[1] + t2\n"
        "    t4 = weigh(t1, t3)\n"
        "    t5 = total(t4, dim)\n"
        "    return (t0, t5,), ()"
    )
    assert [f.name for f in functions(compiled(Log))] == ["lift", "mul", "act", "act_vjp", "sum", "sum_vjp", "read"]
    assert '"""Cotangents of the terms; one sweep, no reduction of its own."""' in Log.explain("torch")
    assert '"""Cotangents of the terms; two sweeps, the first for the reductions it keeps."""' in dual(KL).explain()


def test_a_product_that_is_not_defined_says_so():
    made = load(dual(KMax(2)).explain(), "torch", ENVIRONMENT)
    with pytest.raises(NotImplementedError, match=r"Not defined: .*no reverse rule for 'top'"):
        made.mul(torch.zeros(4, 1), torch.zeros(4, 1))


def test_constants_are_tensors_of_the_right_shape():
    """A field that a sum leaves constant, and a reverse rule that counts the terms."""
    p = compiled(variant(
        fields=("a", "n"), zero=(0, 0), one=(0, 0), lift=lambda w: (w, 0.0), mul=lambda a, b: (a.a + b.a, -inf),
        sum=lambda x: (total(x.a + total(x.n)), math.nan),
    ))  # fmt: skip
    made = load(torch_source(p), "torch", ENVIRONMENT)
    x = torch.arange(12.0, dtype=torch.float64).view(2, 2, 3)
    values, _ = made.sum(x, -1)
    assert [v.shape for v in values] == [(2, 1), (2, 1)]
    assert values[0].tolist() == [[3.0 + 3 * 21.0], [12.0 + 3 * 30.0]]
    assert values[1].isnan().all()
    g = torch.ones(2, 2, 1, dtype=torch.float64)
    rule = made.sum_vjp(g, torch.stack(values), x, torch.empty(0, 2, 1), -1)
    assert [r.expand(2, 3).tolist() for r in rule] == [[[1.0] * 3] * 2, [[3.0] * 3] * 2]
    assert made.mul(x, x)[1].tolist() == [[-inf] * 3] * 2


@pytest.mark.parametrize("semiring", [*STANDARD, dual(Log)], ids=name)
def test_latex(semiring):
    text = semiring.explain("latex")
    assert text.startswith(r"\begin{aligned}")
    assert text.endswith("\\end{aligned}\n")
    assert text.count("{") == text.count("}")
    depth = [text[:i].count("{") - text[:i].count("}") for i in range(len(text))]
    assert min(depth) == 0
    equations = [line for line in text.splitlines() if "&=" in line]
    assert len(equations) == 4 * semiring.width()
    assert semiring.__name__ in text


def test_latex_of_log():
    assert Log.explain("latex").splitlines()[3:5] == [
        r"(a \otimes b)_{\mathrm{logz}} &= a_{\mathrm{logz}} + b_{\mathrm{logz}} \\",
        r"(\bigoplus_i x_i)_{\mathrm{logz}} &= \log\sum_i e^{x_{\mathrm{logz}}} \\",
    ]


@pytest.mark.parametrize("target", ["tex", "", "Torch", None])
def test_an_unknown_target_is_an_error(target):
    with pytest.raises(
        SemiringError, match=rf"explain: got target {target!r}; expected one of \['cpu', 'latex', 'torch', 'triton'"
    ):
        Log.explain(target)


# ------------------------------------------------------------------ simplification
A, X = [leaf("a", i) for i in range(2)], [leaf("x", i) for i in range(2)]
LOW = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0])
ANY = st.sampled_from([-inf, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0, inf])


def pairs(numbers):
    return st.lists(numbers, min_size=2, max_size=2)


def pointwise(children):
    one = [exp, log, lambda e: -e, lambda e: 1 / exp(e), lambda e: Expr("recip", (exp(e),))]
    two = [
        Expr.__add__, Expr.__sub__, Expr.__mul__, ratio, weigh, surprisal, maximum,
        lambda p, q: Expr("atleast", (p, q)), lambda p, q: Expr("exceeds", (p, q)),
        lambda p, q: top((p, q, p), 2)[1],
    ]  # fmt: skip
    return st.one_of(
        st.builds(lambda f, e: f(e), st.sampled_from(one), children),
        st.builds(lambda f, p, q: f(p, q), st.sampled_from(two), children, children),
    )


constants = ANY.map(wrap)
inner = st.recursive(st.one_of(constants, st.sampled_from(A + X)), pointwise, max_leaves=6)
reduced = st.builds(
    lambda f, e: f(e + X[0] * 1.0), st.sampled_from([lse, total, largest, lambda e: best((e, X[1]), 2)[1]]), inner
)
expressions = st.recursive(st.one_of(inner, reduced), pointwise, max_leaves=6)


@settings(max_examples=600, deadline=None)
@given(expressions, pairs(ANY), pairs(st.lists(ANY, min_size=3, max_size=3)))
def test_simplification_changes_no_value(e, a, x):
    """Exactly, infinities included, wherever no step of the original is NaN."""
    inputs = {"a": a, "x": x}
    steps = evaluate(list(postorder([e])), inputs, 3)
    flat = [v for s in steps for v in (s if isinstance(s, list) else [s]) if isinstance(v, float)]
    assume(not any(math.isnan(v) for v in flat))
    was, now = steps[-1], evaluate((simplify(e),), inputs, 3)[0]
    assert now == was or [now] * 3 == was  # what is found to be a constant is one number


def test_simplification_is_idempotent_and_keeps_what_it_must():
    a, x = A[0], X[0]
    assert simplify(a + 0.0) is simplify(0.0 + a) is simplify(1 * a) is simplify(a * 1) is a
    assert simplify(Expr("neg", (-a,))) is a
    assert simplify(a * 0) is simplify(weigh(0.0, a)) is simplify(ratio(-inf, a)) is ZERO
    assert simplify(a * -1) is -a
    assert simplify(weigh(1.0, a)) is simplify(weigh(a, 1.0)) is a
    assert simplify(a + -inf).value == -inf
    assert simplify(exp(wrap(2.0)) + log(1.0) / 4).value == math.exp(2.0)
    for e in (a - a, x - lse(x), (a + 1) + 2, a * a, lse(x) - a):
        assert simplify(e) is e  # a user's own sums are never taken apart
    assert simplify(a + X[1], {X[1]: wrap(0.0)}) is a


@pytest.mark.parametrize(
    ("op", "number"),
    [
        ("exp", 1000.0),
        ("exp", -inf),
        ("log", -1.0),
        ("log", 0.0),
        ("recip", 0.0),
        ("recip", inf),
        ("neg", inf),
    ],
)
def test_constants_fold_to_what_the_interpreter_gives(op, number):
    assert op in IDENTITIES
    node = Expr(op, (leaf("a", 0),))
    folded = make(op, [Expr("const", (), (number,))]).value
    assert folded is not None
    assert repr(folded) == repr(evaluate((node,), {"a": [number]})[0])


POWERS = st.sampled_from([-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0])
G, Y = leaf("g", 0), leaf("y", 0)
polynomials = st.recursive(
    st.one_of(LOW.map(wrap), st.sampled_from([*A, *X, G, Y]), st.sampled_from([*A, *X]).map(lambda e: 1 / e)),
    lambda inner: st.one_of(
        st.builds(Expr.__add__, inner, inner),
        st.builds(Expr.__sub__, inner, inner),
        st.builds(Expr.__mul__, inner, inner),
        st.builds(weigh, inner, inner),
    ),
    max_leaves=10,
)


def size(e: Expr) -> Expr:
    """The sum of the absolute values of all terms, from those of all leaves: what roundings are relative to."""
    if e.value is not None:
        return wrap(abs(e.value))
    return size(e.args[0]) if e.op == "neg" else Expr(e.op, [size(a) for a in e.args], e.attr)


@settings(max_examples=400, deadline=None)
@given(polynomials, st.data(), pairs(POWERS), pairs(st.lists(POWERS, min_size=3, max_size=3)))
def test_linear_normal_forms_change_no_value(e, data, a, x):
    inputs = {"a": a, "x": x, "g": [data.draw(POWERS)], "y": [data.draw(POWERS)]}
    sizes = {k: [list(map(abs, v)) if k == "x" else abs(v) for v in values] for k, values in inputs.items()}
    nodes = list(postorder([e]))
    for linear in (Linear([]), Linear(nodes), Linear(data.draw(st.lists(st.sampled_from(nodes))))):
        for before, after in ((e, linear.collect(e)), (total(e), linear.total(e))):
            (was,), (now,), (scale,) = (
                evaluate((f,), i, 3) for f, i in ((before, inputs), (after, inputs), (size(before), sizes))
            )
            columns = [v if isinstance(v, list) else [v] * 3 for v in (was, now, scale)]
            assert all(abs(p - q) <= 1e-12 * max(1.0, s) for p, q, s in zip(*columns, strict=True)), after


def test_linear_collects_cancels_and_factors():
    a, b = A
    linear = Linear([a + b])
    assert linear.collect(a - a) is ZERO
    assert linear.collect(a * b / a) is b
    assert linear.collect(a + a).args == (wrap(2.0), a)
    assert linear.collect((a + b) - (a + b)) is ZERO
    assert linear.collect((a + b) * 2) is 2.0 * (a + b)  # opaque: not taken apart
    assert written(linear.collect(G * a + G * b)) == "g0 . (a0 + a1)"
    assert written(Linear([]).total(X[0] * a * 3 + X[1] * a)) == "3 * total((0.3333333333333333 * x1 + x0)) * a0"
