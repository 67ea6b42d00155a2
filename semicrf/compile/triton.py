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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from semicrf.algebra.expr import Expr, leaf, postorder
from semicrf.compile.derive import choices, stored_ids
from semicrf.compile.loglinear import LogLinear, loglinear
from semicrf.compile.program import Program
from semicrf.compile.simplify import simplify
from semicrf.errors import SemiringError

TRITON = {
    "add": "{0} + {1}", "neg": "-{0}", "mul": "{0} * {1}", "recip": "1.0 / {0}", "exp": "exp({0})", "log": "log({0})",
    "maximum": "maximum({0}, {1})", "atleast": "indicator({0} >= {1})", "exceeds": "indicator({0} > {1})",
    "ratio": "ratio({0}, {1})", "weigh": "weigh({0}, {1})", "surprisal": "surprisal({0}, {1})",
}  # fmt: skip
BARE = ("add", "neg", "mul", "recip")
"""Operations that may take a number as it is; elsewhere it becomes a tensor, so that its dtype is that of the rest."""


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


class Body:
    """The lines of one function, and the name of every node that was written."""

    def __init__(self, names: dict[Expr, str] | None = None):
        self.lines: list[str] = []
        self.names: dict[Expr, str] = dict(names or {})

    def let(self, text: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def call(self, text: str, results: int) -> list[str]:
        names = [f"t{len(self.lines)}_{i}" for i in range(results)]
        self.lines.append(f"{', '.join(names)} = {text}")
        return names

    def number(self, node: Expr, bare: bool, like: str) -> str:
        value = node.attr[0]
        if bare:
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        return f"constant({self.number(node, True, like)}, {like})"

    def pointwise(self, node: Expr, argument: Callable[[Expr], str], like: str) -> str:
        """One pointwise operation; what has no line in the table has no kernel."""
        if node.op not in TRITON:
            raise SemiringError(f"no Triton function computes {node.op!r} in {node!r}.")
        bare = node.op in BARE
        args = [self.number(a, bare, like) if a.value is not None else argument(a) for a in node.args]
        return self.let(TRITON[node.op].format(*args))


def _function(name: str, parameters: str, doc: str, lines: Sequence[str], results: Sequence[str]) -> str:
    returned = f"({', '.join(results)}{',' if len(results) == 1 else ''})"
    body = "\n".join(f"    {line}" for line in [f'"""{doc}"""', *lines, f"return {returned}"])
    return f"@triton.jit\ndef {name}({parameters}):\n{body}\n"


def _tuple(kind: str, indices: Sequence[int]) -> list[str]:
    return [f"{kind}[{i}]" for i in indices]


# ------------------------------------------------------------------ pointwise functions
def _straight(outputs: Sequence[Expr], like: str) -> tuple[Body, list[str]]:
    """Straight-line code from leaves ``kind[i]``, and the names of the outputs."""
    body = Body()

    def name(node: Expr) -> str:
        return f"{node.op}[{node.attr[0]}]" if node.leaf else body.names[node]

    for node in postorder(outputs):
        if node.op == "hit":
            i, n = node.attr
            body.names[node] = body.let(f"indicator({name(node.args[0])} == place * {n} + {i})")
        elif not node.leaf:
            body.names[node] = body.pointwise(node, name, like)
    return body, [body.number(o, False, like) if o.value is not None else name(o) for o in outputs]


def _act(program: Program) -> str:
    """Zero where every potential that gates an arc is -inf; no test where the sum comes out as zero by itself."""
    body, results = _straight(program.act, "a[0]")
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
    return _function("act", "a, w", "The product of an element and lifted potentials.", body.lines, written)


def _test(program: Program) -> str:
    return " & ".join(f'(w[{i}] == float("-inf"))' for i in range(program.gates))


def _literal(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _act_vjp(program: Program) -> str:
    body, results = _straight(program.act_reverse, "g[0]")
    body.lines.insert(0, f"forbidden = {_test(program)}")
    results = [body.let(f"tl.where(forbidden, 0.0, {r})") for r in results]
    doc = "Cotangents of the element, then of the potentials."
    return _function("act_vjp", "g, a, w", doc, body.lines, results)


def _sum_vjp(program: Program) -> str:
    rule = program.reverse
    if rule.first:
        raise SemiringError(f"{program.name}: the reverse rule of sum takes two sweeps; the kernels make one.")
    body, results = _straight(rule.outputs, "x[0]")
    live = " | ".join(f"(g[{i}] != 0.0)" for i in range(program.width))
    body.lines.insert(0, f"live = {live}")
    results = [body.let(f"tl.where(live, {r}, 0.0)") for r in results]
    doc = "Cotangents of the terms of a sum; where nothing is pulled back, nothing arrives."
    return _function("sum_vjp", "g, y, x, id, place", doc, body.lines, results)


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
        _function("group", "x, place, axis: tl.constexpr", _GROUP, group.lines, pairs + moments),
        _function("single", "x, place", _SINGLE, one.lines, singles + alone),
        _function("merge", "a, b", _MERGE, merge.lines, tops),
        _function("finish", "a", _FINISH, finish.lines, [results[i] for i in range(program.width)]),
    ]
    return form, empty, text


_GROUP = "The accumulator of the terms along an axis."
_SINGLE = "The accumulator of one term."
_MERGE = "The accumulator of the terms of two."
_FINISH = "The element that an accumulator stands for, then the places of its choices."


def _less(start: str, coefficients: Sequence[float], terms: Sequence[str]) -> str:
    """``start - sum_g c_g term_g`` as text."""
    for c, term in zip(coefficients, terms, strict=True):
        if c != 0:
            start += f" {'-' if c > 0 else '+'} " + (term if abs(c) == 1 else f"{abs(c)!r} * ({term})")
    return start


# ------------------------------------------------------------------ plain accumulators
class _Terms:
    """Writes a semiring's `sum`, either along an axis or of two accumulators."""

    def __init__(self, program: Program, ids: bool):
        self.program, self.ids, self.body = program, ids, Body()
        self.slots = {node: i for i, node in enumerate(stored_ids(program.sum))}  # (where, rank) -> id slot
        self.sides: dict[Expr, tuple[str, ...]] = {}  # the names of a node that varies, one for every side
        self.places: dict[Expr, list[str]] = {}

    def write(self) -> tuple[list[str], list[str]]:
        outputs = self.program.sum
        for node in postorder([*outputs, *self.slots]):
            if node.op in ("lse", "total", "best"):
                self._reduction(node)
            elif node.op in ("item", "where"):
                rank, best = node.attr[0], node.args[0]
                if node.op == "item":
                    self.body.names[node] = self.body.names[Expr("item", (best,), (rank,))]
            elif node.op == "hit":
                self._hit(node)
            elif node.varies:
                if node.leaf:
                    self.sides[node] = self._leaf(node.attr[0])
                else:
                    self.sides[node] = tuple(
                        self.body.pointwise(node, lambda a, s=s: self.term(a, s), self.term(leaf("x", 0), s))
                        for s in range(self.count)
                    )
            elif node.value is None:
                self.body.names[node] = self.body.pointwise(node, lambda a: self.body.names[a], self.like)
        results = [
            self.body.number(o, False, self.like) if o.value is not None else self.body.names[o] for o in outputs
        ]
        return results, [p for n in choices(outputs) for p in self.places[n]] if self.ids else []

    count: int
    like: str

    def _leaf(self, i: int) -> tuple[str, ...]:
        raise NotImplementedError

    def term(self, node: Expr, side: int) -> str:
        raise NotImplementedError

    def _reduction(self, node: Expr) -> None:
        raise NotImplementedError

    def _hit(self, node: Expr) -> None:
        raise NotImplementedError

    def _rank(self, node: Expr, values: Sequence[str], places: Sequence[str]) -> None:
        for rank, value in enumerate(values):
            self.body.names[Expr("item", (node,), (rank,))] = value
        self.places[node] = list(places)


class _Axis(_Terms):
    """Along an axis: terms are tensors with that axis, whose numbers are in `place`."""

    count, like = 1, "tl.max(x[0], axis)"

    def _leaf(self, i: int) -> tuple[str, ...]:
        return (f"x[{i}]",)

    def term(self, node: Expr, side: int) -> str:
        if node.varies:
            return self.sides[node][0]
        return f"tl.expand_dims({self.body.names[node]}, axis)"

    def _value(self, node: Expr) -> str:
        return self.body.number(node, False, "x[0]") if node.value is not None else self.term(node, 0)

    def _reduction(self, node: Expr) -> None:
        if node.op != "best":
            call = "lse({}, axis)" if node.op == "lse" else "tl.sum({}, axis)"
            self.body.names[node] = self.body.let(call.format(self._value(node.args[0])))
            return
        n, values = len(node.args), [self._value(a) for a in node.args]
        spots = [self.body.let(f"place * {n} + {i} + tl.zeros_like({values[i]}).to(tl.int32)") for i in range(n)]
        kept, found = [], []
        for rank in range(node.attr[0]):
            tops = [f"tl.max({v}, axis)" for v in values]
            top = self.body.let(_fold("tl.maximum", tops))
            kept.append(top)
            if not self.ids and n == 1 and node.attr[0] == 1:
                break
            wide = self.body.let(f"tl.expand_dims({top}, axis)")
            where = [f"tl.min(tl.where({v} == {wide}, {s}, FAR), axis)" for v, s in zip(values, spots, strict=True)]
            spot = self.body.let(_fold("tl.minimum", where))
            found.append(self.body.let(f'tl.where({top} == float("-inf"), -1, {spot})'))
            if rank + 1 < node.attr[0]:
                taken = self.body.let(f"tl.expand_dims({spot}, axis)")
                values = [
                    self.body.let(f'tl.where({s} == {taken}, float("-inf"), {v})')
                    for v, s in zip(values, spots, strict=True)
                ]
        self._rank(node, kept, found)

    def _hit(self, node: Expr) -> None:
        (where,), (i, n) = node.args, node.attr
        place = self.places[where.args[0]][where.attr[0]]
        self.sides[node] = (self.body.let(f"indicator(tl.expand_dims({place}, axis) == place * {n} + {i})"),)


class _Pair(_Terms):
    """Of two accumulators ``a`` and ``b``, whose numbers are followed by places."""

    count, like = 2, "a[0]"

    def _leaf(self, i: int) -> tuple[str, ...]:
        return f"a[{i}]", f"b[{i}]"

    def term(self, node: Expr, side: int) -> str:
        return self.sides[node][side] if node.varies else self.body.names[node]

    def _both(self, node: Expr) -> list[str]:
        if node.value is not None:
            return [self.body.number(node, False, self.like)] * 2
        return [self.term(node, side) for side in (0, 1)]

    def _reduction(self, node: Expr) -> None:
        if node.op == "best":
            k, base = node.attr[0], self.slots[Expr("where", (node,), (0,))] + self.program.width
            both = [self._both(a) for a in node.args]
            sides = [
                [(both[r][n], f"{side}[{base + r}]" if self.ids else "") for r in range(k)]
                for n, side in enumerate("ab")
            ]
            ranked = _merged(self.body, sides[0], sides[1], self.ids)
            self._rank(node, [v for v, _ in ranked], [p for _, p in ranked])
        else:
            call = "log_add({}, {})" if node.op == "lse" else "{} + {}"
            self.body.names[node] = self.body.let(call.format(*self._both(node.args[0])))

    def _hit(self, node: Expr) -> None:
        (where,), (i, _) = node.args, node.attr
        base = self.slots[Expr("where", where.args, (0,))] + self.program.width
        place = self.places[where.args[0]][where.attr[0]]
        spots = [f"{side}[{base + i}]" for side in "ab"]
        self.sides[node] = tuple(self.body.let(f"indicator(({s} >= 0) & ({place} == {s}))") for s in spots)


def _fold(function: str, terms: Sequence[str]) -> str:
    text = terms[0]
    for term in terms[1:]:
        text = f"{function}({text}, {term})"
    return text


Ranked = list[tuple[str, str]]


def _merged(body: Body, a: Ranked, b: Ranked, ids: bool) -> Ranked:
    """The k largest of two descending lists of k, descending (Batcher 1968): the largest are ``max(a_i, b_{k-1-i})``,
    a bitonic sequence once both lists are filled up to a power of two with -inf, which is left out again here.
    """
    k, size = len(a), 1 << (len(a) - 1).bit_length()

    def order(x: tuple[str, str] | None, y: tuple[str, str] | None) -> list[tuple[str, str] | None]:
        if x is None or y is None:
            return [x or y, None]
        if not ids:
            return [(body.let(f"tl.maximum({x[0]}, {y[0]})"), ""), (body.let(f"tl.minimum({x[0]}, {y[0]})"), "")]
        r = body.call(f"order({x[0]}, {x[1]}, {y[0]}, {y[1]})", 4)
        return [(r[0], r[1]), (r[2], r[3])]

    left: list[tuple[str, str] | None] = [*a, *[None] * (size - k)]
    right: list[tuple[str, str] | None] = [*b, *[None] * (size - k)]
    rows = [order(x, y)[0] for x, y in zip(left, reversed(right), strict=True)]
    step = size // 2
    while step:
        for i in range(size):
            if not i & step:
                rows[i], rows[i + step] = order(rows[i], rows[i + step])
        step //= 2
    return [r for r in rows[:k] if r is not None]


def _plain(program: Program, ids: bool) -> list[str]:
    """The text of an accumulator that is an element with its places; `ids`: whether those are kept."""
    suffix = "" if ids or not program.ids else "_bare"
    axis, pair = _Axis(program, ids), _Pair(program, ids)
    grouped, merged = axis.write(), pair.write()
    width = range(program.width)
    spots = []
    if ids:
        for node in choices(program.sum):
            values = [simplify(a, _outputs(program, "x")) for a in node.args]
            spots += [(f"place * {len(values)} + {r}", v) for r, v in enumerate(values)]
    one = Body()
    singles = []
    for spot, value in spots:
        straight, (name,) = _straight([value], "x[0]")
        one.lines += straight.lines
        singles.append(one.let(f'tl.where({name} == float("-inf"), -1, {spot})'))
    fields = _tuple("x", width)
    acc = _tuple("a", range(program.width + (program.ids if ids else 0)))
    return [
        _function(f"group{suffix}", "x, place, axis: tl.constexpr", _GROUP, axis.body.lines, grouped[0] + grouped[1]),
        _function(f"single{suffix}", "x, place", _SINGLE, one.lines, fields + singles),
        _function(f"merge{suffix}", "a, b", _MERGE, pair.body.lines, merged[0] + merged[1]),
        _function(f"finish{suffix}", "a", _FINISH, [], acc),
    ]


def _outputs(program: Program, kind: str) -> dict[Expr, Expr]:
    return {o: leaf(kind, i) for i, o in enumerate(program.sum) if not o.leaf}


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
    framed = loglinear(program) is not None
    empty = _frames(program)[1] if framed else tuple(map(float, program.semiring.zero))
    levels = tuple(program.levels.get(m, -1) for m in range(program.potentials))
    hits = any(n.op == "hit" for n in postorder(program.sum))
    return Shape(
        width, program.potentials, program.ids, len(empty) if framed else width,
        tuple(map(float, program.semiring.zero)), tuple(map(float, program.semiring.one)), empty, levels,
        bool(program.ids) and not hits,
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
    if loglinear(program) is not None:
        accumulator = _frames(program)[2]
    else:
        accumulator = _plain(program, ids=bool(program.ids)) + (_plain(program, ids=False) if made.bare else [])
    adders = [
        _adder("add", made.sums + made.ids),
        _adder("add_bare", made.sums),
        _adder("add_fields", made.fields),
        _adder("add_potentials", made.potentials),
    ]
    head = f'"""{program.key}: generated from the text of the semiring; do not edit."""\n'
    return "\n\n".join([head, _act(program), _act_vjp(program), *accumulator, _sum_vjp(program), *adders])
