"""A sum streamed through elements: an accumulator is a partial sum and the places of its choices, `merge` is ``sum`` of
two terms. Any semiring has this form whose choices rank what a partial sum ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

from semicrf.algebra.expr import Expr, leaf, postorder
from semicrf.compile.derive import choices, stored_ids
from semicrf.compile.program import Program
from semicrf.compile.simplify import simplify
from semicrf.compile.triton_text import Body, combining, function, straight

GROUP = "The accumulator of the terms along an axis."
SINGLE = "The accumulator of one term."
MERGE = "The accumulator of the terms of two."
FINISH = "The element that an accumulator stands for, then the places of its choices."


def _tuple(kind: str, indices: Sequence[int]) -> list[str]:
    return [f"{kind}[{i}]" for i in indices]


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


def plain(program: Program, ids: bool) -> list[str]:
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
        _, (name,) = straight([value], "x[0]", one)
        singles.append(one.let(f'tl.where({name} == float("-inf"), -1, {spot})'))
    fields = _tuple("x", width)
    size = program.width + (program.ids if ids else 0)
    acc = _tuple("a", range(size))
    return [
        _group(program, axis.body.lines, grouped[0] + grouped[1], suffix, size),
        function(f"single{suffix}", "x, place", SINGLE, one.lines, fields + singles),
        function(f"merge{suffix}", "a, b", MERGE, pair.body.lines, merged[0] + merged[1]),
        function(f"finish{suffix}", "a", FINISH, [], acc),
    ]


def _group(program: Program, lines: Sequence[str], results: Sequence[str], suffix: str, size: int) -> str:
    """Lists are merged in one reduction, or ranked by one maximum after another where that is slow (`TOGETHER`)."""
    name, parameters = f"group{suffix}", "x, place, axis: tl.constexpr"
    if size == 1 or any(n.op == "lse" for n in postorder(program.sum)):
        return function(name, parameters, GROUP, lines, results)
    left, right = ([f"{side}{i}" for i in range(size)] for side in "ab")
    pair = combining(f"merged{suffix}", left, right, f"merge{suffix}(({', '.join(left)}), ({', '.join(right)}))")
    once = [
        "if TOGETHER:",
        f"    y = tl.reduce(single{suffix}(x, place), axis, merged{suffix})",
        "else:",
        *[f"    {line}" for line in lines],
        f"    y = ({', '.join(results)})",
    ]
    return pair + "\n\n" + function(name, parameters, GROUP, once, [f"y[{i}]" for i in range(size)])


def _outputs(program: Program, kind: str) -> dict[Expr, Expr]:
    return {o: leaf(kind, i) for i, o in enumerate(program.sum) if not o.leaf}
