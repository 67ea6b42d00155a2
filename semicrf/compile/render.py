"""Expressions as text. A target is a table: how each operation is written there, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from semicrf.algebra.expr import REDUCTIONS, Expr, postorder
from semicrf.compile.derive import stored_ids
from semicrf.compile.program import Program
from semicrf.errors import SemiringError


@dataclass(frozen=True)
class Function:
    """One generated function: its name, its parameters, what its leaves are called, and what it returns."""

    name: str
    parameters: str
    outputs: tuple[Expr, ...]
    doc: str
    also: tuple[Expr, ...] = ()  # returned as a second tuple (where choices were found)


TORCH = {
    "add": "{0} + {1}", "neg": "-{0}", "mul": "{0} * {1}", "recip": "1.0 / {0}",
    "exp": "torch.exp({0})", "log": "torch.log({0})",
    "maximum": "maximum({0}, {1})", "atleast": "indicator({0} >= {1}, {0})", "exceeds": "indicator({0} > {1}, {0})",
    "ratio": "ratio({0}, {1})", "weigh": "weigh({0}, {1})", "surprisal": "surprisal({0}, {1})",
    "lse": "lse({0}, dim)", "total": "total({0}, dim)", "best": "best(({all}), {k}, dim)", "top": "top(({all}), {k})",
    "item": "{0}[0][{k}]", "where": "{0}[1][{k}]", "hit": "hit({0}, {k}, x[0], dim)",
}  # fmt: skip

LATEX = {
    "add": "{0} + {1}", "neg": "-{0}", "mul": r"{0}\,{1}", "recip": r"\frac{{1}}{{{0}}}",
    "exp": "e^{{{0}}}", "log": r"\log {0}",
    "maximum": r"\max({0}, {1})", "atleast": r"[{0} \ge {1}]", "exceeds": "[{0} > {1}]",
    "ratio": "e^{{{0} - {1}}}", "weigh": r"{0}\,({1})", "surprisal": "({1} - {0})",
    "lse": r"\log\sum_i e^{{{0}}}", "total": r"\sum_i {0}",
    "best": r"\max_i^{{({k})}}({all})", "top": r"\max^{{({k})}}({all})",
    "item": "{0}_{{{k}}}", "where": r"\arg {0}_{{{k}}}", "hit": "[{0} = i]",
}  # fmt: skip


def functions(program: Program) -> list[Function]:
    """The functions an engine calls, in the order in which they are printed."""
    places = tuple(stored_ids(program.sum))
    return [
        Function("lift", "w", program.lift, "Potentials as an element."),
        _where_defined("mul", "a, b", lambda: program.mul, "The product of two elements."),
        Function("act", "a, w", program.act, "The product of an element and lifted potentials."),
        Function("act_vjp", "g, a, w", program.act_reverse, "Cotangents of the element, then of the potentials."),
        Function("sum", "x, dim", program.sum, "The sum over an axis, and where its choices were found.", also=places),
        _where_defined(
            "sum_vjp",
            "g, y, x, id, dim",
            lambda: program.reverse.outputs,
            "Cotangents of the terms; {sweeps}.",
            program,
        ),
        Function("read", "a", program.read, "What `reduce` reports."),
    ]


def _where_defined(
    name: str, parameters: str, outputs: Callable[[], tuple[Expr, ...]], doc: str, program: Program | None = None
) -> Function:
    """A function that some semirings lack (a product of k-best lists, say): its text says why."""
    try:
        made = outputs()
        return Function(name, parameters, made, doc.format(sweeps=_sweeps(program)) if program else doc)
    except SemiringError as error:
        return Function(name, parameters, (), f"Not defined: {error}")


def _sweeps(program: Program) -> str:
    left = program.reverse.first
    return "two sweeps, the first for the reductions it keeps" if left else "one sweep, no reduction of its own"


def torch_source(program: Program) -> str:
    """The generated module for eager torch. Elements are tuples of tensors; reductions keep their axis."""
    lines = [f'"""{program.key}: generated from the text of the semiring; do not edit."""']
    for f in functions(program):
        like = f"{f.parameters.split(',')[0]}[0]" + (".narrow(dim, 0, 1)" if f.name == "sum" else "")
        body, names = _statements([*f.outputs, *f.also])
        lines += ["", "", f"def {f.name}({f.parameters}):", f'    """{f.doc}"""', *(f"    {b}" for b in body)]
        returned = ", ".join(f"constant({names[o]}, {like})" if o.value is not None else names[o] for o in f.outputs)
        also = f", ({', '.join(names[o] for o in f.also)}{',' if f.also else ''})" if f.name == "sum" else ""
        lines.append(f"    return ({returned},){also}" if f.outputs else f"    raise NotImplementedError({f.doc!r})")
    return "\n".join(lines) + "\n"


def _statements(outputs: Sequence[Expr]) -> tuple[list[str], dict[Expr, str]]:
    """Straight-line code, one statement for every node that is used, and the name of each node."""
    names: dict[Expr, str] = {}
    body: list[str] = []
    for node in postorder(outputs):
        if node.op == "const":
            names[node] = _number(node.attr[0])
        elif node.leaf:
            names[node] = f"{node.op}[{node.attr[0]}]"
        else:
            names[node] = f"t{len(body)}"
            constants = [a for a in node.args if node.op in REDUCTIONS and a.value is not None]  # once for every term
            written = {**names, **{a: f"constant({names[a]}, x[0])" for a in constants}} if constants else names
            body.append(f"{names[node]} = {_write(node, TORCH, written)}")
    return body, names


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _write(node: Expr, table: Mapping[str, str], names: Mapping[Expr, str]) -> str:
    args = [names[a] for a in node.args]
    every = ", ".join(args) + ("," if len(args) == 1 and table is TORCH else "")
    return table[node.op].format(*args, all=every, k=", ".join(map(str, node.attr)))


def latex_source(program: Program) -> str:
    """The semiring as LaTeX: product, sum and reverse rule, one line per field."""
    fields = [n if w == 1 else f"{n}_{{{i}}}" for n, w in program.semiring.fields for i in range(w)]
    lines = [r"\begin{aligned}", rf"&\textbf{{{program.name}}}\\"]
    for symbol, outputs in ((r"w", program.lift), (r"a \otimes b", program.mul), (r"\bigoplus_i x_i", program.sum)):
        lines += [
            rf"({symbol})_{{\mathrm{{{f}}}}} &= {_latex(o, program)} \\" for f, o in zip(fields, outputs, strict=True)
        ]
    lines += [
        rf"\bar x_{{\mathrm{{{f}}}}} &= {_latex(o, program)} \\"
        for f, o in zip(fields, program.reverse.outputs, strict=True)
    ]
    return "\n".join([*lines, r"\end{aligned}"]) + "\n"


def _latex(root: Expr, program: Program) -> str:
    fields = [n if w == 1 else f"{n}_{{{i}}}" for n, w in program.semiring.fields for i in range(w)]
    names: dict[Expr, str] = {}
    for node in postorder([root]):
        if node.op == "const":
            value = f"{node.attr[0]:g}"
            names[node] = value.replace("inf", r"\infty")
        elif node.op in ("w", "id"):
            names[node] = f"{node.op}_{{{node.attr[0]}}}"
        elif node.leaf:
            kind = r"\bar y" if node.op == "g" else node.op
            names[node] = rf"{kind}_{{\mathrm{{{fields[node.attr[0]]}}}}}"
        else:
            args = {
                a: f"({names[a]})" if a.op == "add" and node.op in ("mul", "neg", "log") else names[a]
                for a in node.args
            }
            names[node] = _write(node, LATEX, args)
    return names[root]
