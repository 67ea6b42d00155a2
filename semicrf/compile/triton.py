"""A semiring as a module of small Triton functions: what the loops in `kernels` call, and know nothing more of.

Elements are tuples of tensors. A sum is streamed through an *accumulator*, in one of two forms:

- framed: a log-sum is kept as a running maximum and the sum of exponentials relative to it, a mean beside it as one
  more such sum; nothing is divided and no logarithm taken before the end (`Frames`);
- plain: any other semiring's partial sum is an element, beside the places of its choices, and `merge` is its ``sum`` of
  two terms.

Only text is made here, so that it can be printed and tested where there is no Triton.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from semicrf.algebra.expr import Expr, leaf, postorder
from semicrf.compile.derive import choices
from semicrf.compile.loglinear import LogLinear, loglinear
from semicrf.compile.program import Program
from semicrf.compile.simplify import simplify
from semicrf.compile.triton_plain import FINISH, GROUP, MERGE, SINGLE, plain
from semicrf.compile.triton_text import Body, function, straight
from semicrf.errors import SemiringError


@dataclass(frozen=True)
class Shape:
    """What a kernel has to know of a semiring beside its functions: sizes, and the elements that are constants."""

    fields: int
    potentials: int
    ids: int  # places that a sum stores
    sums: int  # numbers in an accumulator, without places
    zero: tuple[float, ...]
    one: tuple[float, ...]
    empty: tuple[float, ...]  # the numbers of the accumulator of no terms
    levels: tuple[int, ...]  # potential -> a field that it alone shifts, or -1
    gauges: tuple[int, ...]  # means: fields from which any number may be taken, as it then lacks in every sum alike
    weights: tuple[int, ...]  # the field that weighs each of them
    bare: bool  # whether a sum can be streamed without its places


def _act(program: Program) -> str:
    """Zero where every potential that gates an arc is -inf; no test where the sum comes out as zero by itself."""
    body, results = straight(program.act, "a[0]")
    zero, gate = program.semiring.zero, leaf("w", 0)
    by_itself = [
        program.gates == 1 and zero[i] == -math.inf and output is Expr("add", (leaf("a", i), gate))
        for i, output in enumerate(program.act)
    ]
    if not all(by_itself):
        body.lines.insert(0, f"forbidden = {_test(program)}")
    written = [
        result if fine else body.let(f"tl.where(forbidden, {_literal(zero[i])}, {result})")
        for i, (result, fine) in enumerate(zip(results, by_itself, strict=True))
    ]
    return function("act", "a, w", "The product of an element and lifted potentials.", body.lines, written)


def _test(program: Program) -> str:
    return " & ".join(f'(w[{i}] == float("-inf"))' for i in range(program.gates))


def _literal(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _act_vjp(program: Program) -> str:
    body, results = straight(program.act_reverse, "g[0]")
    body.lines.insert(0, f"forbidden = {_test(program)}")
    results = [body.let(f"tl.where(forbidden, 0.0, {r})") for r in results]
    doc = "Cotangents of the element, then of the potentials."
    return function("act_vjp", "g, a, w", doc, body.lines, results)


def _sum_vjp(program: Program) -> str:
    rule = program.reverse
    if rule.first:
        raise SemiringError(f"{program.name}: the reverse rule of sum takes two sweeps; the kernels make one.")
    body, results = straight(rule.outputs, "x[0]")
    live = " | ".join(f"(g[{i}] != 0.0)" for i in range(program.width))
    body.lines.insert(0, f"live = {live}")
    results = [body.let(f"tl.where(live, {r}, 0.0)") for r in results]
    doc = "Cotangents of the terms of a sum; where nothing is pulled back, nothing arrives."
    return function("sum_vjp", "g, y, x, id, place", doc, body.lines, results)


# ------------------------------------------------------------------ framed accumulators
def _frames(program: Program) -> tuple[LogLinear, tuple[float, ...], list[str]]:
    """The form, the empty accumulator and the text of a log-linear semiring's accumulator.

    It holds, in this order, the frame and the mass ``sum exp(x_g - frame_g)`` of every weight g, and of every mean the
    moment ``sum exp(x_f - frame_f) (x_i - sum_g c_g (x_g - frame_g))``.
    """
    form = loglinear(program)
    assert form is not None
    G, fields = len(form.weights), [w.field for w in form.weights]
    empty = tuple(v for _ in fields for v in (-math.inf, 0.0)) + (0.0,) * len(form.means)
    group, one, merge, finish = Body(), Body(), Body(), Body()
    frames, masses, rise, weight = [], [], [], []
    for f in fields:
        m = group.let(f"tl.max(x[{f}], axis)")
        rise.append(group.let(f"x[{f}] - tl.expand_dims(finite({m}), axis)"))
        weight.append(group.let(f"exp({rise[-1]})"))
        frames.append(m)
        masses.append(group.let(f"tl.sum({weight[-1]}, axis)"))
    moments = [
        group.let(f"tl.sum(weigh({weight[m.weight]}, {_less(f'x[{m.field}]', m.plus, rise)}), axis)")
        for m in form.means
    ]
    first = [one.let(f"x[{f}] - finite(x[{f}])") for f in fields]
    alone = [_less(f"x[{m.field}]", m.plus, first) for m in form.means]
    ones = one.let(f"constant(1.0, x[{fields[0]}])")
    tops, scales = [], []
    for g in range(G):
        top = merge.let(f"tl.maximum(a[{2 * g}], b[{2 * g}])")
        safe = merge.let(f"finite({top})")
        down = [merge.let(f"{side}[{2 * g}] - {safe}") for side in "ab"]
        scales.append((down, [merge.let(f"exp({d})") for d in down]))
        tops += [top, merge.let(" + ".join(f"{s}[{2 * g + 1}] * {e}" for s, e in zip("ab", scales[g][1], strict=True)))]
    for i, m in enumerate(form.means):
        terms = []
        for n, side in enumerate("ab"):
            mass = f"{side}[{2 * m.weight + 1}]"
            moved = [f"{mass} * {down[n]}" for down, _ in scales]
            terms.append(f"weigh({scales[m.weight][1][n]}, {_less(f'{side}[{2 * G + i}]', m.plus, moved)})")
        tops.append(merge.let(" + ".join(terms)))
    logs = [finish.let(f"log(a[{2 * g + 1}])") for g in range(G)]
    results = {f: finish.let(f"a[{2 * g}] + {logs[g]}") for g, f in enumerate(fields)}
    for i, m in enumerate(form.means):
        mean = f"a[{2 * G + i}] / a[{2 * m.weight + 1}]"
        # a weight that is zero throughout has made the moment infinite already: its logarithm is left out
        value = _less(mean, tuple(-c for c in m.plus), [f"finite({x})" for x in logs])
        results[m.field] = finish.let(f'tl.where(a[{2 * m.weight}] > float("-inf"), {value}, 0.0)')
    pairs = [v for pair in zip(frames, masses, strict=True) for v in pair]
    singles = [v for f in fields for v in (f"x[{f}]", ones)]
    text = [
        function("group", "x, place, axis: tl.constexpr", GROUP, group.lines, pairs + moments),
        function("single", "x, place", SINGLE, one.lines, singles + alone),
        function("merge", "a, b", MERGE, merge.lines, tops),
        function("finish", "a", FINISH, finish.lines, [results[i] for i in range(program.width)]),
    ]
    return form, empty, text


def _less(start: str, coefficients: Sequence[float], terms: Sequence[str]) -> str:
    """``start - sum_g c_g term_g`` as text."""
    for c, term in zip(coefficients, terms, strict=True):
        if c != 0:
            start += f" {'-' if c > 0 else '+'} " + (term if abs(c) == 1 else f"{abs(c)!r} * ({term})")
    return start


def _moves(program: Program, form: LogLinear | None) -> list[str]:
    """Elements and accumulators in other units: after the potentials w holds a number for every gauge."""
    first = program.potentials
    body = Body()
    moved = body.call("act(x, w)", program.width)
    for i, m in enumerate(form.means if form else ()):
        weight = f"x[{form.weights[m.weight].field}]"  # pyright: ignore[reportOptionalMemberAccess]  # it has means
        moved[m.field] = body.let(
            f'tl.where({weight} == float("-inf"), {moved[m.field]}, {moved[m.field]} + w[{first + i}])'
        )
    doc = "An element in other units: acted on by potentials, then by a number for every gauge."
    text = [function("move", "x, w", doc, body.lines, moved)]
    doc = "An accumulator in other units."
    if form is None:
        for name, ids in (("carry", program.ids), ("carry_bare", 0)):
            body = Body()
            moved = body.call("act(a, w)", program.width)
            places = [f"a[{program.width + i}]" for i in range(ids)]
            text.append(function(name, "a, w", doc, body.lines, moved + places))
        return text
    body, results = Body(), []
    for g, weight in enumerate(form.weights):
        frame = f"a[{2 * g}]" + (f" + w[{weight.potential}]" if weight.potential is not None else "")
        results += [body.let(frame), f"a[{2 * g + 1}]"]
    for i, m in enumerate(form.means):
        shift = _less(f"w[{first + i}]", tuple(-c for c in m.shift), [f"w[{p}]" for p in range(first)])
        results.append(body.let(f"a[{2 * len(form.weights) + i}] + weigh(a[{2 * m.weight + 1}], {shift})"))
    return [*text, function("carry", "a, w", doc, body.lines, results)]


def _check_choices(program: Program) -> None:
    """A partial sum can be a term again only where what it ranks are the ranks that it holds."""
    for node in choices(program.sum):
        again = {leaf("x", i): o for i, o in enumerate(program.sum)}
        values = [simplify(a, again) for a in node.args]
        if values != [Expr("item", (node,), (r,)) for r in range(node.attr[0])]:
            raise SemiringError(f"{program.name}: the terms that sum ranks are not the ranks of its result.")


def _check_shifts(program: Program) -> None:
    """The kernels split an arc's potential among its ends, which is right where every potential is added."""
    if any(n.op in ("a", "w") for n in postorder(program.act_reverse)):
        raise SemiringError(f"{program.name}: the action of a potential is not an addition to some fields.")


# ------------------------------------------------------------------ the module
@cache
def shape(program: Program) -> Shape:
    """Sizes and constants; raises `SemiringError`, with the reason, where the kernels cannot run a semiring."""
    _check_choices(program)
    _check_shifts(program)
    width = program.width
    form = loglinear(program)
    framed = form is not None
    empty = _frames(program)[1] if framed else tuple(map(float, program.semiring.zero))
    levels = tuple(program.levels.get(m, -1) for m in range(program.potentials))
    hits = any(n.op == "hit" for n in postorder(program.sum))
    means = form.means if form else ()
    return Shape(
        width, program.potentials, program.ids, len(empty) if framed else width,
        tuple(map(float, program.semiring.zero)), tuple(map(float, program.semiring.one)), empty, levels,
        tuple(m.field for m in means), tuple(form.weights[m.weight].field for m in means) if form else (), bool(program.ids) and not hits,
    )  # fmt: skip


def _adder(name: str, n: int) -> str:
    """What combines two tuples of n numbers in a reduction that adds each of them up."""
    left, right = ([f"{side}{i}" for i in range(n)] for side in "ab")
    sums = [f"{a} + {b}" for a, b in zip(left, right, strict=True)]
    body = f"return {', '.join(sums)}"
    return f"@triton.jit\ndef {name}({', '.join(left + right)}):\n    {body}\n"


@cache
def triton_source(program: Program) -> str:
    """The generated module; raises `SemiringError`, with the reason, where the kernels cannot run a semiring."""
    made = shape(program)
    form = loglinear(program)
    if form is not None:
        accumulator = _frames(program)[2]
    else:
        accumulator = plain(program, ids=bool(program.ids)) + (plain(program, ids=False) if made.bare else [])
    adders = [
        _adder("add", made.sums + made.ids),
        _adder("add_bare", made.sums),
        _adder("add_fields", made.fields),
        _adder("add_potentials", made.potentials),
    ]
    head = f'"""{program.key}: generated from the text of the semiring; do not edit."""\n'
    return "\n\n".join([head, _act(program), _act_vjp(program), *_moves(program, form), *accumulator, _sum_vjp(program), *adders])
