"""The probability of each label at each position, as shades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from semicrf.errors import bad_input
from semicrf.plots import _canvas
from semicrf.plots._canvas import MEDIUM, faint, ink, triples
from semicrf.segments import Segments
from semicrf.terminal import label_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from semicrf.distribution import SemiCRFDistribution

__all__ = ["heatmap"]

_ROW, _BOTTOM = 0.34, 0.9  # heights, inches


@torch.no_grad()
def heatmap(
    distribution: SemiCRFDistribution,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    boundaries: Segments | None = None,
    window: tuple[int, int] | None = None,
) -> Axes:
    """P(label at position), a row per label, from white (0) to dark blue (1), and the boundaries of a segmentation.

    Every shade is darker than those of smaller probabilities, also in grey. A segmentation is a line through the rows
    of its labels, and a dotted one at each of its boundaries.

    Args:
        distribution: batch shape ``()``.
        names: of the labels; letters by default.
        ax: where to draw; by default on a new pyplot figure with a bar of shades.
        boundaries: the segmentation, batch shape ``()``; the best one by default.
        window: positions ``[start, end)``; all by default.

    Raises:
        InputError: a batch, a window outside the sequence, no segmentation, or fewer names than labels.
        ImportError: matplotlib is not installed.
    """
    _canvas.one_sequence(tuple(distribution.batch_shape))
    C, length = distribution.C, int(distribution.lengths)
    names = label_names(names, C)
    low, high = (0, length) if window is None else window
    if not 0 <= low < high <= length:
        raise bad_input("window", window, f"0 <= start < end <= {length}, the length of the sequence")
    found = triples(distribution.argmax if boundaries is None else boundaries)
    own = ax is None
    if ax is None:
        ax = _canvas.figure(_ROW * C + _BOTTOM, layout="constrained").add_subplot()
    table = distribution.marginals.position[low:high].T.double().cpu().numpy()
    image = ax.imshow(
        table, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=(low, high, C - 0.5, -0.5)
    )
    _path(ax, [(s, e, c) for s, e, c in found if s < high and e > low], C)
    _canvas.plain(ax, "left")
    ax.set(xlim=(low, high), ylim=(C - 0.5, -0.5), yticks=range(C))
    ax.set_yticklabels(names, fontsize=MEDIUM, color=ink())
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("position", fontsize=MEDIUM, color=ink())
    if own:
        bar = ax.figure.colorbar(image, ax=ax, ticks=[0, 0.5, 1], pad=0.01, fraction=0.03)
        bar.set_label("P(label)", fontsize=MEDIUM, color=ink())
        bar.ax.tick_params(labelsize=MEDIUM, labelcolor=ink(), color=faint())
        bar.outline.set_visible(False)
    return ax


def _path(ax: Axes, found: Sequence[tuple[int, int, int]], C: int) -> None:
    """A line in the row of each segment, and one from row to row at each boundary; dark with a light rim."""
    rim = [_canvas.module("patheffects").withStroke(linewidth=3.2, foreground="white")]
    starts, ends, labels = zip(*found, strict=True)
    ax.hlines(labels, starts, ends, colors="#D55E00", linewidth=1.6, path_effects=rim, label="segments")
    inner = starts[1:]
    ax.vlines(inner, -0.5, C - 0.5, colors="#222222", linewidth=0.6, linestyles=(0, (1, 2)), label="boundaries")
