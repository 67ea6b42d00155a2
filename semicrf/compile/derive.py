"""Reverse rules and tangents, derived from a traced function.

The reverse rule of an operation is one line of a table. For a semiring whose `sum` is made of log-sums and weighted
totals the rule comes out *pointwise* in (cotangent, output, input) after simplification: one backward sweep needs no
reduction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semicrf.algebra.expr import REDUCTIONS, Expr, leaf, postorder
from semicrf.compile.simplify import ONE, ZERO, Linear, make, simplify
from semicrf.errors import SemiringError


def _n(op: str, *args: Expr, attr: tuple = ()) -> Expr:
    return make(op, args, attr)


def _best(node: Expr, g: dict[int, Expr]) -> list[Expr]:
    """What was chosen gets the cotangent: the sum over ranks of g times `found here`."""
    n = len(node.args)
    cotangents = []
    for i in range(n):
        terms = ZERO
        for rank, gr in g.items():
            found = Expr("hit", (Expr("where", (node,), (rank,)),), (i, n))
            terms = _n("add", terms, _n("mul", gr, found))
        cotangents.append(terms)
    return cotangents


# op -> (cotangent g, node e, arguments) -> cotangents of the arguments
REVERSE: dict[str, Callable[..., Sequence[Expr]]] = {
    "add": lambda g, e, a, b: (g, g),
    "neg": lambda g, e, a: (_n("neg", g),),
    "mul": lambda g, e, a, b: (_n("mul", g, b), _n("mul", g, a)),
    "weigh": lambda g, e, p, y: (_n("weigh", g, y), _n("mul", g, p)),
    "recip": lambda g, e, a: (_n("neg", _n("mul", g, _n("mul", e, e))),),
    "exp": lambda g, e, a: (_n("mul", g, e),),
    "log": lambda g, e, a: (_n("mul", g, _n("recip", a)),),
    "maximum": lambda g, e, a, b: (_n("mul", g, _n("atleast", a, b)), _n("mul", g, _n("exceeds", b, a))),
    "ratio": lambda g, e, x, t: (_n("mul", g, e), _n("neg", _n("mul", g, e))),
    "surprisal": lambda g, e, x, t: (_n("neg", g), g),
    "lse": lambda g, e, x: (_n("mul", g, _n("ratio", x, e)),),
    "total": lambda g, e, x: (g,),
    "atleast": lambda g, e, a, b: (ZERO, ZERO),
    "exceeds": lambda g, e, a, b: (ZERO, ZERO),
    "hit": lambda g, e, where: (ZERO,),
    "where": lambda g, e, best: (ZERO,),
}


def cotangents(outputs: Sequence[Expr], inputs: Sequence[Expr], seeds: Sequence[Expr], name: str) -> list[Expr]:
    """The cotangent of every input, given one for every output."""
    order = list(postorder(outputs))
    linear = Linear(order)
    acc: dict[Expr, Expr] = {}
    ranked: dict[Expr, dict[int, Expr]] = {}  # cotangents of the items of a `best`, by rank

    def give(node: Expr, g: Expr) -> None:
        if node.value is None and g is not ZERO:
            acc[node] = _n("add", acc[node], g) if node in acc else g

    for output, seed in zip(outputs, seeds, strict=True):
        give(output, seed)
    for node in reversed(order):
        if node.op == "best" and node in ranked:
            for a, g in zip(node.args, _best(node, ranked[node]), strict=True):
                give(a, linear.collect(g))
        elif node in acc and node.op == "item":
            ranked.setdefault(node.args[0], {})[node.attr[0]] = acc[node]
        elif (node in acc or node in ranked) and not node.leaf:
            if node.op not in REVERSE:
                raise SemiringError(
                    f"{name}: no reverse rule for {node.op!r} in {node!r}. Likely fix: write it with sums, lse, best."
                )
            for a, g in zip(node.args, REVERSE[node.op](acc[node], node, *node.args), strict=True):
                give(a, linear.total(g) if node.varies and not a.varies else linear.collect(g))
    return [linear.collect(acc.get(x, ZERO)) for x in inputs]


@dataclass(frozen=True)
class Reverse:
    """The reverse rule of `sum`: cotangents in terms of leaves x, y, g and id.

    `first` lists the reductions that are left, to be computed in a sweep of their own before the pointwise one;
    usually none.
    """

    outputs: tuple[Expr, ...]
    first: tuple[Expr, ...]

    @property
    def sweeps(self) -> int:
        return 2 if self.first else 1


def choices(outputs: Sequence[Expr]) -> list[Expr]:
    """The `best` nodes of a sum, in the order in which their ids are stored."""
    return [n for n in postorder(outputs) if n.op == "best"]


def stored_ids(outputs: Sequence[Expr]) -> dict[Expr, Expr]:
    """Where each rank of each choice was found, as the leaf that holds the stored id."""
    slots = [Expr("where", (node,), (rank,)) for node in choices(outputs) for rank in range(node.attr[0])]
    return {slot: leaf("id", i) for i, slot in enumerate(slots)}


def reverse(outputs: Sequence[Expr], inputs: Sequence[Expr], name: str) -> Reverse:
    """The reverse rule of a reduction, with everything already known (the outputs, the stored ids) taken from
    storage.
    """
    derived = cotangents(outputs, inputs, [leaf("g", i) for i in range(len(outputs))], name)
    known = stored_ids(outputs) | _known(outputs)
    rule = tuple(_substitute(e, known) for e in derived)
    left = tuple(n for n in postorder(rule) if n.op in REDUCTIONS)
    given = frozenset(outputs)
    inner = {k: v for k, v in known.items() if k not in given}
    forward = set(postorder([_substitute(o, inner) for o in outputs]))
    for node in left:
        inside = [n for n in postorder(node.args) if n.op in REDUCTIONS]
        if inside and node not in forward:  # what is in `sum` can be computed as it was there
            raise SemiringError(
                f"{name}: the reverse rule of sum keeps the reduction {node!r}, which is taken over another one, "
                f"{inside[0]!r}. Two sweeps cannot compute it. Likely fix: carry the inner one as a field of its own."
            )
    return Reverse(rule, left)


def _known(outputs: Sequence[Expr]) -> dict[Expr, Expr]:
    """Forward nodes whose value is an output, or an output less terms that are outputs."""
    known = {o: leaf("y", i) for i, o in enumerate(outputs) if not o.leaf}
    for i, output in enumerate(outputs):
        terms = _terms(output)
        unknown = [t for t in terms if t.op in REDUCTIONS and t not in known]
        if (
            len(terms) > 1
            and len(unknown) == 1
            and all(t in known or t.value is not None for t in terms if t is not unknown[0])
        ):
            rest = leaf("y", i)
            for t in terms:
                if t is not unknown[0]:
                    rest = rest - known.get(t, t)
            known[unknown[0]] = simplify(rest)
    return known


def _terms(node: Expr) -> list[Expr]:
    return [t for a in node.args for t in _terms(a)] if node.op == "add" else [node]


def _substitute(root: Expr, known: dict[Expr, Expr]) -> Expr:
    """Exchange known nodes from the top, so that nothing below a known node is looked at."""
    done: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr:
        if node not in done:
            if node in known:
                done[node] = known[node]
            else:
                done[node] = node if node.leaf else make(node.op, [visit(a) for a in node.args], node.attr)
        return done[node]

    return visit(root)


def tangents(outputs: Sequence[Expr], inputs: Sequence[Expr], directions: Sequence[Expr], name: str) -> list[Expr]:
    """The derivative of every output along `directions`, one per input: the reverse rule read the other way.

    A reverse rule is linear in the cotangent, so with a unit cotangent it lists the partial derivatives.
    """
    linear = Linear(postorder(outputs))
    result = []
    for j in range(len(outputs)):
        seeds = [ONE if i == j else ZERO for i in range(len(outputs))]
        tangent = ZERO
        for partial, direction in zip(cotangents(outputs, inputs, seeds, name), directions, strict=True):
            tangent = make("add", [tangent, make("weigh", [partial, direction])])
        tangent = linear.collect(tangent)
        result.append(Expr("total", (tangent,)) if tangent.varies else tangent)  # whole: means stay inside, centred
    return result
