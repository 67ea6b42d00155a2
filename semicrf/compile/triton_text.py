"""Triton text: one line for every operation, straight-line code for an expression, a function around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from semicrf.algebra.expr import Expr, postorder
from semicrf.errors import SemiringError

TRITON = {
    "add": "{0} + {1}", "neg": "-{0}", "mul": "{0} * {1}", "recip": "1.0 / {0}", "exp": "exp({0})", "log": "log({0})",
    "maximum": "maximum({0}, {1})", "atleast": "indicator({0} >= {1})", "exceeds": "indicator({0} > {1})",
    "ratio": "ratio({0}, {1})", "weigh": "weigh({0}, {1})", "surprisal": "surprisal({0}, {1})",
}  # fmt: skip
BARE = ("add", "neg", "mul", "recip")
"""Operations that may take a number as it is; elsewhere it becomes a tensor, so that its dtype is that of the rest."""


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
        self.lines.append(f"{', '.join(names)}{',' * (results == 1)} = {text}")
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


def function(name: str, parameters: str, doc: str, lines: Sequence[str], results: Sequence[str]) -> str:
    """The text of a jit function that returns a tuple."""
    returned = f"({', '.join(results)}{',' if len(results) == 1 else ''})"
    body = "\n".join(f"    {line}" for line in [f'"""{doc}"""', *lines, f"return {returned}"])
    return f"@triton.jit\ndef {name}({parameters}):\n{body}\n"


def combining(name: str, left: Sequence[str], right: Sequence[str], result: str) -> str:
    """The text of what combines two tuples of scalars, in a reduction."""
    return f"@triton.jit\ndef {name}({', '.join([*left, *right])}):\n    return {result}\n"


def adding(name: str, n: int, each: str = "{} + {}") -> str:
    """What combines two tuples of n numbers, each with its own, in one reduction of them all."""
    left, right = ([f"{side}{i}" for i in range(n)] for side in "ab")
    return combining(name, left, right, ", ".join(each.format(a, b) for a, b in zip(left, right, strict=True)))


def reducing(name: str, indices: Sequence[int], each: str, combine: str, doc: str) -> str:
    """A reduction of several tensors: in one pass, or one by one where that is slow (`TOGETHER`)."""
    apart = ", ".join(f"{each}(x[{i}], axis)" for i in indices)
    if len(indices) == 1:
        return function(name, "x, axis: tl.constexpr", doc, [], [apart])
    picked = ", ".join(f"x[{i}]" for i in indices)
    lines = ["if TOGETHER:", f"    y = tl.reduce(({picked}), axis, {combine})", "else:", f"    y = ({apart})"]
    return function(name, "x, axis: tl.constexpr", doc, lines, [f"y[{i}]" for i in range(len(indices))])


def straight(outputs: Sequence[Expr], like: str, body: Body | None = None) -> tuple[Body, list[str]]:
    """Straight-line code from leaves ``kind[i]``, and the names of the outputs."""
    body = body or Body()

    def name(node: Expr) -> str:
        return f"{node.op}[{node.attr[0]}]" if node.leaf else body.names[node]

    for node in postorder(outputs):
        if node.op == "hit":
            i, n = node.attr
            body.names[node] = body.let(f"indicator({name(node.args[0])} == place * {n} + {i})")
        elif not node.leaf:
            body.names[node] = body.pointwise(node, name, like)
    return body, [body.number(o, False, like) if o.value is not None else name(o) for o in outputs]
