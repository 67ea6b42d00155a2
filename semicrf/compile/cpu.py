"""A semiring as text for the CPU: plain Python over rows of terms, in the subset that numba compiles.

A row holds one scalar of all the terms of a sum, so what varies along the axis of `sum` becomes one loop of
straight-line code per reduction, and nothing else loops: positions, labels and durations belong to the engine. Which
duration, which label, which array an element comes from is the engine's business too; potentials reach a row as three
addends (of the row, of the source, of the term).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from semicrf.algebra.expr import REDUCTIONS, Expr, postorder
from semicrf.compile.derive import stored_ids
from semicrf.compile.program import Program
from semicrf.errors import SemiringError

CPU = {
    "add": "{0} + {1}", "neg": "-{0}", "mul": "{0} * {1}", "recip": "1.0 / {0}",
    "exp": "exp({0})", "log": "log({0})",
    "maximum": "{0} if {0} >= {1} else {1}",
    "atleast": "1.0 if {0} >= {1} else 0.0", "exceeds": "1.0 if {0} > {1} else 0.0",
    "ratio": "ratio({0}, {1})", "weigh": "weigh({0}, {1})", "surprisal": "surprisal({0}, {1})",
    "hit": "1.0 if {0} == i * {k[1]} + {k[0]} else 0.0",
}  # fmt: skip
"""How each pointwise operation is written."""


class Text:
    """One function while it is written: its lines, the name of every node that has a value, the scratch rows in use."""

    def __init__(self, program: Program, names: dict[Expr, str]):
        self.program, self.names = program, names
        self.lines: list[str] = []
        self.fresh = 0
        self.rows = 0
        self.slots: dict[Expr, int] = {}  # the first of the places of each choice
        for i, where in enumerate(stored_ids(program.sum)):
            self.slots.setdefault(where.args[0], i)

    def name(self) -> str:
        self.fresh += 1
        return f"t{self.fresh - 1}"

    def reductions(self, roots: Sequence[Expr]) -> None:
        """Write every reduction below `roots`, and what does not vary along the axis; those whose inputs are ready
        share a loop.
        """
        order = list(postorder(roots, self.names))
        for node in order:
            if node in self.names or node.varies:
                continue
            if node.op == "total":
                ready = [n for n in order if n.op == "total" and n not in self.names and self._ready(n)]
                self._totals(ready)
            elif node.op in REDUCTIONS:
                {"lse": self._lse, "best": self._best}[node.op](node)
            else:
                self._statement(node, self.names, self.lines, "")

    def pointwise(self, roots: Sequence[Expr], names: dict[Expr, str], lines: list[str], indent: str) -> None:
        """Statements for all that lies below `roots` and has no name yet."""
        for node in list(postorder(roots, names)):
            self._statement(node, names, lines, indent)

    def _statement(self, node: Expr, names: dict[Expr, str], lines: list[str], indent: str) -> None:
        if node.op == "const":
            names[node] = _number(node.attr[0])
        elif node.op == "top":
            self._top(node, names, lines, indent)
        elif node.op == "item":
            names[node] = f"{names[node.args[0]]}_{node.attr[0]}"
        elif node.op == "where":
            names[node] = f"id{self.slots[node.args[0]] + node.attr[0]}"
        elif node.op not in CPU:
            raise SemiringError(f"{self.program.name}: no CPU text for {node.op!r} in {node!r}.")
        else:
            names[node] = self.name()
            written = CPU[node.op].format(*(names[a] for a in node.args), k=node.attr)
            lines.append(f"{indent}{names[node]} = {written}")

    def _ready(self, node: Expr) -> bool:
        """Whether all that `node` is a reduction of, other than terms, has a value."""
        return not any(n.op in REDUCTIONS for n in postorder(node.args, self.names))

    def _scalars(self, node: Expr, names: dict[Expr, str]) -> None:
        """Write what does not vary below `node` before the loop."""
        for n in list(postorder(node.args, self.names)):
            if not n.varies:
                self._statement(n, self.names, self.lines, "")
                names[n] = self.names[n]

    def _totals(self, nodes: list[Expr]) -> None:
        inner = dict(self.names)
        for node in nodes:
            self._scalars(node, inner)
            self.names[node] = self.name()
            self.lines.append(f"{self.names[node]} = 0.0")
        self.lines.append("for i in range(n):")
        for node in nodes:
            self.pointwise(node.args, inner, self.lines, "    ")
            total, term = self.names[node], inner[node.args[0]]
            self.lines.append(f"    {total} = plus({total}, {term})")

    def _row(self, node: Expr) -> str:
        """The row that holds `node` for every term: one of the inputs, or written out."""
        if node.op == "x":
            return f"x{node.attr[0]}"
        inner, row = dict(self.names), f"r{self.rows}"
        self.lines += [f"{row} = rows[{self.rows}]", "for i in range(n):"]
        self.rows += 1
        self.pointwise([node], inner, self.lines, "    ")
        self.lines.append(f"    {row}[i] = {inner[node]}")
        return row

    def _lse(self, node: Expr) -> None:
        self._scalars(node, self.names)
        row = self._row(node.args[0])
        self.names[node] = self.name()
        self.lines.append(f"{self.names[node]} = lse({row}, n)")

    def _best(self, node: Expr) -> None:
        (k,), slot, name = node.attr, self.slots[node], self.name()
        self._scalars(node, self.names)
        self.names[node] = name
        if k == 1 and len(node.args) == 1:
            self.lines.append(f"{name}_0, id{slot} = largest({self._row(node.args[0])}, n)")
            self.lines.append(f"at[{slot}] = id{slot}")
            return
        fields = [a.attr[0] if a.op == "x" else -1 for a in node.args]
        first, columns = fields[0], len(fields)
        if first >= 0 and fields == list(range(first, first + columns)):
            rows = f"x[{first}:{first + columns}]"
        else:
            first = self.rows
            for a in node.args:
                row = self._row(a)
                if row != f"r{self.rows - 1}":  # an input: beside the others
                    self.lines += [f"for i in range(n):\n    rows[{self.rows}, i] = {row}[i]"]
                    self.rows += 1
            rows = f"rows[{first}:{first + columns}]"
        ordered = any(tuple(fields) == run[:columns] for run in self.program.descending)
        out = f"rows[{self.rows}]"
        self.rows += 1
        self.lines.append(f"best({rows}, n, {k}, {ordered}, {out}, at[{slot}:{slot + k}])")
        self.lines += [f"{name}_{r}, id{slot + r} = {out}[{r}], at[{slot + r}]" for r in range(k)]

    def _top(self, node: Expr, names: dict[Expr, str], lines: list[str], indent: str) -> None:
        """The k largest of a few scalars: an insertion network."""
        name = self.name()
        names[node] = name
        lines += [f"{indent}{name}_{r} = -INF" for r in range(node.attr[0])]
        for a in node.args:
            lines.append(f"{indent}{name}_c = {names[a]}")
            for r in range(node.attr[0]):
                held = f"{name}_{r}"
                lines.append(
                    f"{indent}{held}, {name}_c = ({held}, {name}_c) if {held} >= {name}_c else ({name}_c, {held})"
                )


def _number(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    return repr(value) if math.isfinite(value) else "INF" if value > 0 else "-INF"


def _known(program: Program) -> tuple[dict[Expr, str], list[str]]:
    """What is known of a sum as a whole, by name: cotangents, results, stored places."""
    sizes = {"g": (program.width, "g"), "y": (program.width, "y"), "id": (program.ids, "at")}
    names = {Expr(kind, (), (i,)): f"{kind}{i}" for kind, (n, _) in sizes.items() for i in range(n)}
    return names, [f"{kind}{i} = {array}[{i}]" for kind, (n, array) in sizes.items() for i in range(n)]


def _term(program: Program) -> tuple[list[str], list[str]]:
    """What opens a loop over terms that reads elements and potentials: lines before it, lines in it."""
    d, p = range(program.width), range(program.potentials)
    before = [f"a{f} = elements[{f}, at_element : at_element + n]" for f in d]
    before += [f"u{q}, d{q}, b{q} = source[{q}, at_source : at_source + n], term[{q}, :n], here[{q}]" for q in p]
    inside = [f"    w{q} = b{q} + (u{q}[i] + d{q}[i])" for q in p]
    if len(p) > 1:  # a single potential's bound is that of the row
        before += [f"m{q} = bound[{q}]" for q in p]
        inside = [f"{line} if i < m{q} else -INF" for q, line in enumerate(inside)]
    inside.append("    gone = " + " and ".join(f"w{q} == -INF" for q in range(program.gates)))
    return before, inside


TERMS = "elements, at_element, here, source, at_source, term, bound, n"


def _act(program: Program) -> tuple[list[str], int]:
    before, inside = _term(program)
    names = {Expr("a", (), (f,)): f"a{f}[i]" for f in range(program.width)}
    names |= {Expr("w", (), (q,)): f"w{q}" for q in range(program.potentials)}
    text = Text(program, names)
    text.lines += before
    for f, (output, zero) in enumerate(zip(program.act, program.semiring.zero, strict=True)):
        own = dict(names)  # a loop for every scalar: few enough arrays in each that it vectorises
        text.lines += [f"x{f} = x[{f}]", "for i in range(n):", *inside]
        text.pointwise([output], own, text.lines, "    ")
        text.lines.append(f"    x{f}[i] = {_number(zero)} if gone else {own[output]}")
    return text.lines, text.rows


def _sum(program: Program) -> tuple[list[str], int]:
    text = Text(program, {Expr("x", (), (f,)): f"x{f}[i]" for f in range(program.width)})
    text.lines += [f"x{f} = x[{f}]" for f in range(program.width)]
    text.reductions(program.sum)
    text.lines += [f"y[{f}] = {text.names[output]}" for f, output in enumerate(program.sum)]
    return text.lines, text.rows


def _pull(program: Program) -> tuple[list[str], int]:
    d, p = range(program.width), range(program.potentials)
    before, inside = _term(program)
    names, known = _known(program)
    text = Text(program, names | {Expr("x", (), (f,)): f"x{f}[i]" for f in d})
    text.lines += [*known, *before, *(f"x{f}, e{f} = x[{f}], into[{f}, at_element : at_element + n]" for f in d)]
    text.lines += [f"o{q} = out[{q}]" for q in p]
    text.reductions([*program.reverse.first, *(n for n in postorder(program.reverse.outputs) if not n.varies)])
    text.lines += ["for i in range(n):", *inside]
    text.pointwise(program.reverse.outputs, text.names, text.lines, "    ")
    names = {Expr("g", (), (f,)): text.names[o] for f, o in enumerate(program.reverse.outputs)}
    names |= {Expr("a", (), (f,)): f"a{f}[i]" for f in d} | {Expr("w", (), (q,)): f"w{q}" for q in p}
    text.pointwise(program.act_reverse, names, text.lines, "    ")
    pulled = [names[o] for o in program.act_reverse]
    text.lines += [f"    e{f}[i] += 0.0 if gone else {pulled[f]}" for f in d]
    text.lines += [f"    o{q}[i] = 0.0 if gone else {pulled[len(d) + q]}" for q in p]
    return text.lines, text.rows


def _shift(program: Program) -> tuple[list[str], int]:
    names = {Expr("a", (), (f,)): f"element[{f}]" for f in range(program.width)}
    names |= {Expr("w", (), (q,)): f"by[{q}]" for q in range(program.potentials)}
    text = Text(program, names)
    text.pointwise(program.act, names, text.lines, "")
    outputs = ", ".join(names[o] for o in program.act)
    return [*text.lines, f"return ({outputs},)"], text.rows


FUNCTIONS = {
    "act": (_act, f"{TERMS}, x", "x: products of n elements with the potentials here + source + term."),
    "sum": (_sum, "x, n, rows, y, at", "y: the sum of n terms x; at: where its choices were found."),
    "pull": (
        _pull, f"g, y, at, x, rows, {TERMS}, into, out",
        "Add to `into` the cotangents of the elements, put into `out` those of the potentials, given g of y.",
    ),
    "shift": (_shift, "element, by", "The product of one element with finite potentials."),
}  # fmt: skip


def cpu_source(program: Program) -> str:
    """The generated module for the CPU; a function a semiring lacks says why, when it is called."""
    made, rows = [], 0
    for name, (write, parameters, doc) in FUNCTIONS.items():
        try:
            lines, used = write(program)
        except SemiringError as error:
            lines, used, doc = ["raise NotImplementedError"], 0, f"Not defined: {error}"
        body = [line for written in lines for line in written.split("\n")]
        made += ["", "", f"def {name}({parameters}):", f'    """{doc}"""', *(f"    {line}" for line in body)]
        rows = max(rows, used)
    head = [f'"""{program.key}: generated from the text of the semiring; do not edit."""', ""]
    head += [f"ZERO = ({', '.join(_number(z) for z in program.semiring.zero)},)", f"ROWS = {rows}  # of scratch"]
    return "\n".join([*head, *made]) + "\n"
