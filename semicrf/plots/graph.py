"""What follows what, as a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from semicrf.errors import bad_input
from semicrf.plots import _canvas
from semicrf.plots._canvas import MEDIUM, SMALL, hatch, ink, ink_on, paper
from semicrf.terminal import label_names, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["transitions"]

_NODE = 0.17  # radius; the circle of nodes has 1
_BEND = 0.22  # how far an arrow bends, in its length


def transitions(
    weights: Tensor, names: Sequence[str] | None = None, ax: Axes | None = None, *, least: float = 0.01
) -> Axes:
    """The graph of labels: an arrow from each to those that follow it, as wide as the probability written beside it.

    Args:
        weights: ``(C, C)``, ``[previous, next]``, not negative; rows are divided by their sums. Expected counts
            (``marginals.transition``), probabilities, or exponentiated scores.
        names: of the labels; letters by default.
        ax: where to draw; by default on a new pyplot figure.
        least: arrows of smaller probability are left out.

    Returns:
        The axes. It has an arrow (`FancyArrowPatch`) and a text for each probability of at least `least`.

    Raises:
        InputError: a table that is not square, or values that are no weights.
        ImportError: matplotlib is not installed.
    """
    if weights.dim() != 2 or weights.shape[0] != weights.shape[1]:
        raise bad_input("weights", f"shape {tuple(weights.shape)}", "(C, C), [previous, next]")
    table = weights.detach().double().cpu()
    if not bool((table >= 0).all()) or bool(table.isinf().any()):
        raise bad_input("weights", "negative or infinite values", "weights", "table.exp() of scores.")
    C = len(table)
    names = label_names(names, C)
    if ax is None:
        ax = _canvas.figure(4.2, 4.4, layout="constrained").add_subplot()
    turns = [math.pi / 2 - 2 * math.pi * c / C for c in range(C)]
    places = [(math.cos(a), math.sin(a)) if C > 1 else (0.0, 0.0) for a in turns]
    probability = (table / table.sum(1, keepdim=True).clamp(min=1e-300)).tolist()
    for i in range(C):
        for j in range(C):
            if probability[i][j] >= least:
                (_loop if i == j else _arrow)(ax, places[i], places[j], probability[i][j])
    for c, (x, y) in enumerate(places):
        circle = _canvas.module("patches").Circle(
            (x, y), _NODE, facecolor=shade(c).hex, edgecolor=paper(), hatch=hatch(c), zorder=4
        )
        ax.add_patch(circle)
        inside = len(names[c]) <= 6
        ax.text(
            x, y if inside else y - _NODE - 0.03, names[c], ha="center", va="center" if inside else "top",
            fontsize=MEDIUM, color=ink_on(c) if inside else ink(), zorder=5,
        )  # fmt: skip
    ax.set(xlim=(-1.6, 1.6), ylim=(-1.55, 1.55), aspect="equal")
    ax.axis("off")
    return ax


def _draw(ax: Axes, path: Sequence[tuple[float, float]], at: tuple[float, float], p: float) -> None:
    """An arrow along a curve through control points, and its probability."""
    Path = _canvas.module("path").Path
    codes = [Path.MOVETO] + [Path.CURVE3 if len(path) == 3 else Path.CURVE4] * (len(path) - 1)
    ax.add_patch(
        _canvas.module("patches").FancyArrowPatch(
            path=Path(path, codes), arrowstyle="-|>", mutation_scale=7 + 5 * p, linewidth=0.5 + 3 * p, color=ink(),
            alpha=0.35 + 0.6 * p, zorder=2, joinstyle="miter",
        )
    )  # fmt: skip
    ax.text(
        *at, f"{p:.2f}".lstrip("0") if p < 0.995 else "1", ha="center", va="center", fontsize=SMALL, color=ink(),
        zorder=3, bbox={"facecolor": paper(), "linewidth": 0, "pad": 0.8},
    )  # fmt: skip


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], p: float) -> None:
    """Bent to the left of its way, so that there and back are two."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    bend = (
        (start[0] + end[0]) / 2 - dy * _BEND,
        (start[1] + end[1]) / 2 + dx * _BEND,
    )

    def rim(a: tuple[float, float], radius: float) -> tuple[float, float]:
        away = math.hypot(bend[0] - a[0], bend[1] - a[1])
        return a[0] + (bend[0] - a[0]) * radius / away, a[1] + (bend[1] - a[1]) * radius / away

    first, last = rim(start, _NODE), rim(end, _NODE + 0.02)
    t = 0.36 if length > 1.5 else 0.5  # long arrows cross in the middle
    at = tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for a, b, c in zip(first, bend, last, strict=True))
    _draw(ax, [first, bend, last], (at[0], at[1]), p)


def _loop(ax: Axes, place: tuple[float, float], _: tuple[float, float], p: float) -> None:
    """From a label to itself, on the outer side."""
    x, y = place
    radius = math.hypot(x, y)
    out = (x / radius, y / radius) if radius else (0.0, 1.0)
    across = (-out[1], out[0])

    def point(along: float, aside: float) -> tuple[float, float]:
        return x + along * out[0] + aside * across[0], y + along * out[1] + aside * across[1]

    path = [point(0.13, -0.11), point(0.55, -0.32), point(0.55, 0.32), point(0.14, 0.12)]
    _draw(ax, path, point(0.44, 0.0), p)
