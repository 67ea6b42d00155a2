"""A semiring as text for the CPU: plain Python over rows of vectors, in the subset that numba compiles.

A vector holds one scalar of eight labels, so what is written for one label is done to eight. What varies along the axis
of `sum` becomes one loop of straight-line code per reduction, and nothing else loops: positions, labels and durations
belong to the engine. Which duration, which label, which array an element comes from is the engine's business too: all
lie in one memory `m`, and a function is told in which rows. Potentials come as three addends (of the label, of the
source, of the term).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from semicrf.algebra.expr import REDUCTIONS, Expr, postorder
from semicrf.compile.derive import stored_ids
from semicrf.compile.program import Program
from semicrf.errors import SemiringError

CPU = {
    "add": "{0} + {1}", "neg": "-{0}", "mul": "{0} * {1}", "recip": "fill(1.0) / {0}",
    "exp": "exp({0})", "log": "log({0})", "maximum": "upper({0}, {1})",
    "atleast": "atleast({0}, {1})", "exceeds": "exceeds({0}, {1})",
    "ratio": "ratio({0}, {1})", "weigh": "weigh({0}, {1})", "surprisal": "surprisal({0}, {1})",
    "hit": "hit({0}, i * {k[1]} + {k[0]})",
}  # fmt: skip
"""How each pointwise operation is written."""


class Text:
    """One function while it is written: its lines, the name of every node that has a value, the scratch in use."""

    def __init__(self, program: Program, names: dict[Expr, str]):
        self.program, self.names = program, names
        self.lines: list[str] = []
        self.fresh = 0
        self.rows = 0  # of scratch, for every term
        self.reads_products = False
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
            names[node] = f"fill({_number(node.attr[0])})"
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

    def loop(self, roots: Sequence[Expr], names: dict[Expr, str], first: Sequence[str] = ()) -> None:
        """Open a loop over terms: some lines, then the fields that the roots read and what lies below the roots."""
        self.lines += ["for i in range(n):", *(f"    {line}" for line in first)]
        for node in list(postorder(roots, names)):
            if node.op == "x":
                self.reads_products = True
                names[node] = f"x{node.attr[0]}"
                self.lines.append(f"    {names[node]} = get(m, x + i * D + {node.attr[0]})")
            else:
                self._statement(node, names, self.lines, "    ")

    def _totals(self, nodes: list[Expr]) -> None:
        inner = dict(self.names)
        for node in nodes:
            self._scalars(node, inner)
            self.names[node] = self.name()
            self.lines.append(f"{self.names[node]} = fill(0.0)")
        terms = [node.args[0] for node in nodes]
        self.loop(terms, inner)
        for node, term in zip(nodes, terms, strict=True):
            total = self.names[node]
            self.lines.append(f"    {total} = {total} + {inner[term]}")

    def _written(self, node: Expr) -> int:
        """Write `node` for every term into a row of scratch of its own: which one."""
        inner = dict(self.names)
        self.loop([node], inner)
        self.rows += 1
        self.lines.append(f"    put(m, x + (D + {self.rows - 1}) * n + i, {inner[node]})")
        return self.rows - 1

    def _terms(self, nodes: Sequence[Expr]) -> tuple[str, str, str]:
        """Where scalars of every term lie: the first of them, how far terms are apart, and scalars of a term."""
        fields = [a.attr[0] if a.op == "x" else -1 for a in nodes]
        if fields[0] >= 0 and fields == list(range(fields[0], fields[0] + len(fields))):
            self.reads_products = True
            return f"x + {fields[0]}", "D", "1"
        first, *_ = [self._written(a) for a in nodes]
        return f"x + (D + {first}) * n", "1", "n"

    def _lse(self, node: Expr) -> None:
        self._scalars(node, self.names)
        first, step, _ = self._terms(node.args)
        self.names[node] = self.name()
        self.lines.append(f"{self.names[node]} = lse(m, {first}, {step}, n)")

    def _best(self, node: Expr) -> None:
        (k,), slot, name = node.attr, self.slots[node], self.name()
        self._scalars(node, self.names)
        self.names[node] = name
        first, step, aside = self._terms(node.args)
        if k == 1 and len(node.args) == 1:
            self.lines.append(f"{name}_0, id{slot} = largest(m, {first}, {step}, n)")
        else:
            fields = tuple(a.attr[0] if a.op == "x" else -1 for a in node.args)
            ordered = any(fields == run[: len(fields)] for run in self.program.descending)
            lists = f"lists{slot}"
            self.lines.append(f"{lists} = local({2 * k})")
            self.lines.append(f"best(m, {first}, {step}, {aside}, {len(fields)}, n, {k}, {ordered}, {lists})")
            for r in range(k):
                self.lines.append(f"{name}_{r}, id{slot + r} = get({lists}, {r}), get({lists}, {k + r})")
        self.lines += [f"put(m, ids + {slot + r}, id{slot + r})" for r in range(k)]

    def _top(self, node: Expr, names: dict[Expr, str], lines: list[str], indent: str) -> None:
        """The k largest of a few scalars: an insertion network."""
        name = self.name()
        names[node] = name
        lines += [f"{indent}{name}_{r} = fill(-INF)" for r in range(node.attr[0])]
        for a in node.args:
            lines.append(f"{indent}{name}_c = {names[a]}")
            for r in range(node.attr[0]):
                held, rest = f"{name}_{r}", f"{name}_c"
                lines.append(f"{indent}{held}, {rest} = upper({held}, {rest}), lower({held}, {rest})")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    return repr(value) if math.isfinite(value) else "INF" if value > 0 else "-INF"


def _known(program: Program) -> tuple[dict[Expr, str], list[str]]:
    """What is known of a sum as a whole, by name: cotangents, results, stored places."""
    sizes = {"g": (program.width, "g"), "y": (program.width, "y"), "id": (program.ids, "ids")}
    names = {Expr(kind, (), (i,)): f"{kind}{i}" for kind, (n, _) in sizes.items() for i in range(n)}
    return names, [f"{kind}{i} = get(m, {row} + {i})" for kind, (n, row) in sizes.items() for i in range(n)]


def _term(program: Program) -> tuple[dict[Expr, str], list[str], list[str]]:
    """What a loop over terms reads, by name; lines before it, and in it: elements, potentials, and the largest of those
    that can forbid a term.
    """
    d, p = range(program.width), range(program.potentials)
    names = {Expr("a", (), (f,)): f"a{f}" for f in d} | {Expr("w", (), (q,)): f"w{q}" for q in p}
    before = [f"b{q}, m{q} = get(m, here + {q}), get(m, bound + {q})" for q in p]
    inside = [f"a{f} = get(m, element + i * D + {f})" for f in d]
    for q in p:
        score = f"b{q} + (get(m, source + i * step + {q}) + get(m, term + i * P + {q}))"
        inside.append(f"w{q} = within(i, m{q}, {score})")
    gate = "w0"
    for q in range(1, program.gates):
        gate = f"highest({gate}, w{q})"
    return names, before, [*inside, f"gate = {gate}"]


TERMS = "element, here, source, step, term, bound, n, x"


def _act(program: Program) -> Text:
    names, before, inside = _term(program)
    text = Text(program, names)
    text.lines += before
    text.loop(program.act, names, inside)
    for f, (output, zero) in enumerate(zip(program.act, program.semiring.zero, strict=True)):
        text.lines.append(f"    put(m, x + i * D + {f}, where_forbidden(gate, fill({_number(zero)}), {names[output]}))")
    return text


def _sum(program: Program) -> Text:
    text = Text(program, {})
    text.reductions(program.sum)
    text.lines += [f"put(m, y + {f}, {text.names[output]})" for f, output in enumerate(program.sum)]
    return text


def _pull(program: Program) -> Text:
    d, p = range(program.width), range(program.potentials)
    known, lines = _known(program)
    text = Text(program, known)
    text.lines += lines
    text.reductions([*program.reverse.first, *(n for n in postorder(program.reverse.outputs) if not n.varies)])
    names, before, inside = _term(program)
    inner = text.names | names
    text.lines += before
    text.loop(program.reverse.outputs, inner, inside)
    inner = names | {Expr("g", (), (f,)): inner[o] for f, o in enumerate(program.reverse.outputs)}
    text.pointwise(program.act_reverse, inner, text.lines, "    ")
    nothing = "where_forbidden(gate, fill(0.0), {0})"
    for f in d:
        row, pulled = f"into + i * D + {f}", nothing.format(inner[program.act_reverse[f]])
        text.lines.append(f"    put(m, {row}, get(m, {row}) + {pulled})")
    for q in p:
        pulled = nothing.format(inner[program.act_reverse[len(d) + q]])
        text.lines.append(f"    put(m, out + i * P + {q}, {pulled})")
    return text


def _shift(program: Program) -> Text:
    names = {Expr("a", (), (f,)): f"a{f}" for f in range(program.width)}
    names |= {Expr("w", (), (q,)): f"w{q}" for q in range(program.potentials)}
    text = Text(program, names)
    text.lines += [f"a{f} = get(m, element + {f})" for f in range(program.width)]
    text.lines += [f"w{q} = get(m, by + {q})" for q in range(program.potentials)]
    text.pointwise(program.act, names, text.lines, "")
    text.lines += [f"put(m, out + {f}, {names[output]})" for f, output in enumerate(program.act)]
    return text


FUNCTIONS = {
    "act": (_act, f"m, {TERMS}", "x: products of n elements with the potentials here + source + term."),
    "sum": (_sum, "m, x, n, y, ids", "y: the sum of n terms x; ids: where its choices were found."),
    "pull": (
        _pull, f"m, g, y, ids, element, into, {TERMS.removeprefix('element, ')}, out",
        "Add to `into` the cotangents of the elements, put into `out` those of the potentials, given g of y.",
    ),
    "shift": (_shift, "m, element, by, out", "out: the product of one element with finite potentials."),
}  # fmt: skip


def cpu_source(program: Program) -> str:
    """The generated module for the CPU; a function a semiring lacks says why, when it is called."""
    made, rows, products = [], 0, False
    for name, (write, parameters, doc) in FUNCTIONS.items():
        try:
            text = write(program)
            lines, rows = text.lines, max(rows, text.rows)
            products = (name == "pull" and text.reads_products) or products
        except SemiringError as error:
            lines, doc = ["raise NotImplementedError"], f"Not defined: {error}"
        made += ["", "", f"def {name}({parameters}):", f'    """{doc}"""', *(f"    {line}" for line in lines)]
    head = [f'"""{program.key}: generated from the text of the semiring; do not edit."""', ""]
    head += [f"D, P, IDS = {program.width}, {program.potentials}, {program.ids}  # scalars, potentials, choices"]
    head += [f"ZERO = ({', '.join(_number(z) for z in program.semiring.zero)},)"]
    head += [f"PRODUCTS = {products}  # whether `pull` reads those that `act` makes"]
    head += [f"TERM_ROWS = {program.width + rows}  # of x, for every term"]
    return "\n".join([*head, *made]) + "\n"
