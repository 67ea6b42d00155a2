"""Durations as curves, and the reliability of probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semicrf.errors import bad_input
from semicrf.metrics import Calibration
from semicrf.plots import _canvas
from semicrf.plots._canvas import DASHES, MARKERS, MEDIUM, SMALL, faint, ink
from semicrf.terminal import label_names, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["durations", "reliability"]

_LINES = (0, 4, 6, 3, 2, 7)  # of the palette: those dark enough for a line on white and light enough for one on black


def durations(
    tables: Mapping[str, Tensor], names: Sequence[str] | None = None, *, figure: Figure | None = None
) -> Figure:
    """Distributions of durations, a panel per label, a curve per table.

    Args:
        tables: by title: ``(K, C)``, row ``k - 1`` is duration k. Columns are weights, which are divided by their sum:
            probabilities (a module of `semicrf.durations`, exponentiated) or expected counts (``marginals.duration``).
        names: of the labels; letters by default.
        figure: what to draw on; by default a new pyplot figure of a fitting size.

    Returns:
        The figure, with an axes per label; an axes has a line per table whose column is not all zero.

    Raises:
        InputError: no table, tables of different shapes, or values that are no weights.
        ImportError: matplotlib is not installed.
    """
    shapes = {tuple(table.shape) for table in tables.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise bad_input("tables", f"tables of shapes {sorted(shapes)}", "at least one, all of one shape (K, C)")
    (K, C) = next(iter(shapes))
    names = label_names(names, C)
    columns = min(C, 4)
    if figure is None:
        figure = _canvas.figure(2.0 * ceil(C / columns) + 0.4, min(2.6 * columns + 1, 11), layout="constrained")
    panels = figure.subplots(ceil(C / columns), columns, squeeze=False, sharex=True).flatten().tolist()
    for panel in panels[C:]:
        panel.remove()
    for i, (title, table) in enumerate(tables.items()):
        weights = table.detach().double().cpu()
        if not bool((weights >= 0).all()) or bool(weights.isinf().any()):
            raise bad_input(f"tables[{title!r}]", "negative or infinite values", "weights", "table.exp() of scores.")
        for c, total in enumerate(weights.sum(0).tolist()):
            if total > 0:
                _curve(panels[c], (weights[:, c] / total).tolist(), i, title)
    for c, panel in enumerate(panels[:C]):
        _canvas.plain(panel)
        panel.set_title(names[c], fontsize=MEDIUM, color=ink())
        panel.set(xlim=(0.5, K + 0.5), ylim=(0, None))
        panel.set_xlabel("duration" if c >= C - columns else "", fontsize=MEDIUM, color=ink())
    panels[0].set_ylabel("probability", fontsize=MEDIUM, color=ink())
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside upper right", ncols=len(texts), fontsize=MEDIUM, frameon=False, labelcolor=ink()
    )  # fmt: skip
    return figure


def _curve(ax: Axes, values: Sequence[float], i: int, title: str) -> None:
    ax.plot(
        range(1, len(values) + 1), values, color=shade(_LINES[i % len(_LINES)]).hex, marker=MARKERS[i % len(MARKERS)],
        markersize=3, markevery=max(1, len(values) // 12), linewidth=1.5, linestyle=DASHES[i % len(DASHES)],
        label=title,
    )  # fmt: skip


def reliability(curves: Calibration | Mapping[str, Calibration], ax: Axes | None = None) -> Axes:
    """How often what has a probability comes true: a point per bin, its area as the count; honest on the diagonal.

    Args:
        curves: of `semicrf.metrics.calibration` or `reliability`; several by title.
        ax: where to draw; by default on a new pyplot figure.

    Returns:
        The axes. It has a line per curve, whose label ends in its expected calibration error, after the diagonal.

    Raises:
        InputError: no curve.
        ImportError: matplotlib is not installed.
    """
    known = {"": curves} if isinstance(curves, Calibration) else dict(curves)
    if not known:
        raise bad_input("curves", "none", "at least one Calibration")
    if ax is None:
        ax = _canvas.figure(3.6, 3.8, layout="constrained").add_subplot()
    ax.plot([0, 1], [0, 1], color=faint(), linewidth=1, zorder=0, label="honest")
    for i, (title, curve) in enumerate(known.items()):
        x, y = curve.confidence.tolist(), curve.accuracy.tolist()
        color, dashes = shade(_LINES[i % len(_LINES)]).hex, DASHES[i % len(DASHES)]
        label = f"{title}, ECE {curve.ece:.3f}".lstrip(", ")
        ax.plot(x, y, color=color, linewidth=1.3, label=label, linestyle=dashes)
        share = (curve.count / curve.count.max().clamp(min=1)).to(torch.float64)
        ax.scatter(x, y, s=(8 + 90 * share).tolist(), color=color, marker=MARKERS[i % len(MARKERS)], zorder=3,
                   edgecolors=_canvas.paper(), linewidths=0.6)  # fmt: skip
    _canvas.plain(ax)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    ax.set_xlabel("probability given", fontsize=MEDIUM, color=ink())
    ax.set_ylabel("part that came true", fontsize=MEDIUM, color=ink())
    ax.legend(loc="best", fontsize=SMALL, frameon=False, labelcolor=ink())
    return ax
