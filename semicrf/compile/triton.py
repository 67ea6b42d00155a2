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
from semicrf.compile.triton_text import Body, adding, function, reducing, straight
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
    bare: bool  # whether a sum can be streamed without its places
    weights: tuple[int, ...]  # the fields that are log-sums, where accumulators are framed
    scales: tuple[int, ...]  # the potential that shifts each of them, -1 for none
    gauges: tuple[int, ...]  # means: fields from which any number may be taken, as it then lacks in every sum alike
    weighing: tuple[int, ...]  # the field that weighs each of them

    @property
    def levelled(self) -> bool:
        """Whether a row's level makes the largest of every log-sum 0."""
        pairs = zip(self.scales, self.weights, strict=True)
        return bool(self.weights) and all(p >= 0 and self.levels[p] == field for p, field in pairs)

    @property
    def numbers(self) -> int:
        """How many numbers an accumulator has beside its frames."""
        return self.sums - len(self.weights)


def _act(program: Program) -> str:
    """Zero where every potential that gates an arc is -inf; no test where the sum comes out as zero by itself, or where
    a field is not read in an element of zero weight.
    """
    body, results = straight(program.act, "a[0]")
    zero, gates = program.semiring.zero, [leaf("w", g) for g in range(program.gates)]
    form = loglinear(program)
    unread = {m.field for m in form.means if not any(m.shift)} if form else set()
    fine = [
        i in unread or (zero[i] == -math.inf and any(output is Expr("add", (leaf("a", i), gate)) for gate in gates))
        for i, output in enumerate(program.act)
    ]
    if not all(fine):
        body.lines.insert(0, f"forbidden = {_test(program)}")
    written = [
        result if ok else body.let(f"tl.where(forbidden, {_literal(zero[i])}, {result})")
        for i, (result, ok) in enumerate(zip(results, fine, strict=True))
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
def _frames(program: Program) -> tuple[tuple[float, ...], list[str]]:
    """The empty accumulator and the text of a log-linear semiring's accumulator.

    It holds the frame of every weight g; then its *numbers* relative to these: the mass ``sum exp(x_g - frame_g)`` of
    every weight and the moment ``sum exp(x_f - frame_f) (x_i - sum_g c_g (x_g - frame_g))`` of every mean. In given
    frames sums are sums of numbers, and the action of a potential is a product of numbers (`times`), so there an
    exponential for every source and every potential takes the place of one for every arc.
    """
    form = loglinear(program)
    assert form is not None
    G, fields = len(form.weights), [w.field for w in form.weights]
    empty = (-math.inf,) * G + (0.0,) * (G + len(form.means))
    text = [
        reducing("highest", fields, "tl.max", "most", "The largest of every weight along an axis."),
        adding("most", G, "tl.maximum({}, {})"),
        reducing("totals", list(range(G + len(form.means))), "tl.sum", "add_numbers", "Numbers along an axis."),
        adding("add_numbers", G + len(form.means)),
        _linear(form, fields),
        _times(form),
        _group(G, G + len(form.means)),
        _single(form, fields),
        _merge(form),
        _scale(form),
        _finish(program, form, fields),
    ]
    return empty, text


def _linear(form: LogLinear, fields: Sequence[int]) -> str:
    body = Body()
    rise = [body.let(f"x[{f}] - f[{g}]") for g, f in enumerate(fields)]
    mass = [body.let(f"exp({r})") for r in rise]
    moments = [body.let(f"weigh({mass[m.weight]}, {_less(f'x[{m.field}]', m.plus, rise)})") for m in form.means]
    return function("linear", "x, f", "The numbers of elements in frames f.", body.lines, mass + moments)


def _times(form: LogLinear) -> str:
    G = len(form.weights)
    masses = [f"a[{g}] * b[{g}]" for g in range(G)]
    moments = [f"a[{G + i}] * b[{m.weight}] + a[{m.weight}] * b[{G + i}]" for i, m in enumerate(form.means)]
    return function("times", "a, b", "The numbers of a product.", [], masses + moments)


def _group(G: int, N: int) -> str:
    levels = "".join(f"tl.expand_dims(finite(m[{g}]), axis), " for g in range(G))
    lines = ["m = highest(x, axis)", f"n = totals(linear(x, ({levels})), axis)"]
    results = [f"m[{g}]" for g in range(G)] + [f"n[{i}]" for i in range(N)]
    return function("group", "x, place, axis: tl.constexpr", GROUP, lines, results)


def _single(form: LogLinear, fields: Sequence[int]) -> str:
    body = Body()
    alone = []
    for m in form.means:  # where its own weight is zero, a mean is not read
        others = tuple(0.0 if g == m.weight else c for g, c in enumerate(m.plus))
        alone.append(_less(f"x[{m.field}]", others, [f"(x[{f}] - finite(x[{f}]))" for f in fields]))
    ones = body.let(f"constant(1.0, x[{fields[0]}])")
    return function(
        "single", "x, place", SINGLE, body.lines, [f"x[{f}]" for f in fields] + [ones for _ in fields] + alone
    )


def _merge(form: LogLinear) -> str:
    body, G = Body(), len(form.weights)
    tops = [body.let(f"tl.maximum(a[{g}], b[{g}])") for g in range(G)]
    safe = [body.let(f"finite({top})") for top in tops]
    sides = []
    for side in "ab":
        down = [body.let(f"{side}[{g}] - {safe[g]}") for g in range(G)]
        sides.append(_scaled(body, form, [f"{side}[{G + i}]" for i in range(G + len(form.means))], down))
    sums = [body.let(f"{a} + {b}") for a, b in zip(*sides, strict=True)]
    return function("merge", "a, b", MERGE, body.lines, tops + sums)


def _scale(form: LogLinear) -> str:
    body, G = Body(), len(form.weights)
    results = _scaled(body, form, [f"n[{i}]" for i in range(G + len(form.means))], [f"down[{g}]" for g in range(G)])
    return function("scale", "n, down", "Numbers in frames from which their own are `down`.", body.lines, results)


def _scaled(body: Body, form: LogLinear, numbers: Sequence[str], down: Sequence[str]) -> list[str]:
    G = len(form.weights)
    shrink = [body.let(f"exp({d})") for d in down]
    masses = [f"{numbers[g]} * {shrink[g]}" for g in range(G)]
    moments = [
        f"weigh({shrink[m.weight]}, {_less(numbers[G + i], m.plus, [f'{numbers[m.weight]} * {d}' for d in down])})"
        for i, m in enumerate(form.means)
    ]
    return masses + moments


def _finish(program: Program, form: LogLinear, fields: Sequence[int]) -> str:
    body, G = Body(), len(form.weights)
    logs = [body.let(f"log(a[{G + g}])") for g in range(G)]
    results = {f: body.let(f"a[{g}] + {logs[g]}") for g, f in enumerate(fields)}
    for i, m in enumerate(form.means):
        mean = f"a[{2 * G + i}] / a[{G + m.weight}]"
        # a weight that is zero throughout has made the moment infinite already: its logarithm is left out
        value = _less(mean, tuple(-c for c in m.plus), [f"finite({x})" for x in logs])
        results[m.field] = body.let(f'tl.where(a[{m.weight}] > float("-inf"), {value}, 0.0)')
    return function("finish", "a", FINISH, body.lines, [results[i] for i in range(program.width)])


def _less(start: str, coefficients: Sequence[float], terms: Sequence[str]) -> str:
    """``start - sum_g c_g term_g`` as text."""
    for c, term in zip(coefficients, terms, strict=True):
        if c != 0:
            start += f" {'-' if c > 0 else '+'} " + (term if abs(c) == 1 else f"{abs(c)!r} * ({term})")
    return start


def _move(program: Program, form: LogLinear | None) -> str:
    body = Body()
    moved = body.call("act(x, w)", program.width)
    for i, m in enumerate(form.means if form else ()):
        weight = f"x[{form.weights[m.weight].field}]"  # pyright: ignore[reportOptionalMemberAccess]  # it has means
        gauge = f"w[{program.potentials + i}]"
        moved[m.field] = body.let(f'tl.where({weight} == float("-inf"), {moved[m.field]}, {moved[m.field]} + {gauge})')
    doc = "An element in other units: acted on by potentials, then by a number for every gauge."
    return function("move", "x, w", doc, body.lines, moved)


def _carry(program: Program, form: LogLinear | None, ids: int) -> str:
    body, results = Body(), []
    if form is None:
        results = body.call("act(a, w)", program.width) + [f"a[{program.width + i}]" for i in range(ids)]
    else:
        G = len(form.weights)
        for g, w in enumerate(form.weights):
            results.append(body.let(f"a[{g}]" + (f" + w[{w.potential}]" if w.potential is not None else "")))
        results += [f"a[{G + g}]" for g in range(G)]
        for i, m in enumerate(form.means):
            shifts = [f"{_times_number(c, f'w[{p}]')}" for p, c in enumerate(m.shift) if c]
            more = f" + weigh(a[{G + m.weight}], {' + '.join(shifts)})" if shifts else ""
            results.append(body.let(f"a[{2 * G + i}]{more}"))
    name = "carry_bare" if program.ids and not ids else "carry"
    return function(name, "a, w", "An accumulator whose terms are acted on by finite potentials.", body.lines, results)


def _times_number(c: float, text: str) -> str:
    return text if c == 1 else f"{c!r} * {text}"


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
    weights, means = (form.weights, form.means) if form else ((), ())
    empty = _frames(program)[0] if form else tuple(map(float, program.semiring.zero))
    levels = tuple(program.levels.get(m, -1) for m in range(program.potentials))
    hits = any(n.op == "hit" for n in postorder(program.sum))
    return Shape(
        width, program.potentials, program.ids, len(empty) if form else width,
        tuple(map(float, program.semiring.zero)), tuple(map(float, program.semiring.one)), empty, levels,
        bool(program.ids) and not hits, tuple(w.field for w in weights),
        tuple(-1 if w.potential is None else w.potential for w in weights), tuple(m.field for m in means),
        tuple(weights[m.weight].field for m in means),
    )  # fmt: skip


@cache
def triton_source(program: Program) -> str:
    """The generated module; raises `SemiringError`, with the reason, where the kernels cannot run a semiring."""
    made, form = shape(program), loglinear(program)
    if form is not None:
        accumulator = _frames(program)[1]
    else:
        accumulator = plain(program, ids=bool(program.ids)) + (plain(program, ids=False) if made.bare else [])
    accumulator += [_move(program, form), _carry(program, form, program.ids)]
    if program.ids:
        accumulator.append(_carry(program, form, 0))
    adders = [
        adding("add", made.sums + made.ids),
        adding("add_bare", made.sums),
        adding("add_fields", made.fields),
        adding("add_potentials", made.potentials),
    ]
    head = f'"""{program.key}: generated from the text of the semiring; do not edit."""\n'
    return "\n\n".join([head, _act(program), _act_vjp(program), *accumulator, _sum_vjp(program), *adders])
