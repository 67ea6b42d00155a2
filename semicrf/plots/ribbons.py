"""Segmentations as ribbons, alone, below one another, and below the probabilities that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semicrf.errors import bad_input
from semicrf.plots import _canvas
from semicrf.plots._canvas import MEDIUM, SMALL, faint, hatch, ink, ink_on, paper, points_per_position, side, triples
from semicrf.segments import Segments
from semicrf.terminal import label_names, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from semicrf.distribution import SemiCRFDistribution

_CHARACTER = 0.66  # the width of a character, in font sizes
_ROW, _BOUNDARY, _POSITION = 0.3, 0.8, 1.3  # heights, inches
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 1.05, 0.15, 0.5, 0.46, 0.14  # margins, inches
_APART = 0.35  # between what is known and samples, in rows


def segments(
    value: Segments,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    y: float = 0.0,
    height: float = 0.8,
) -> Axes:
    """One segmentation as a ribbon: a box per segment, with its label's name, and in percent its probability if known.

    Text that does not fit its box is left out.

    Args:
        value: batch shape ``()``.
        names: of the labels; letters by default.
        ax: where to draw; by default on a new pyplot figure, whose axes are then set up for one ribbon.
        y, height: of the ribbon, in data coordinates, so that several fit on one axes.

    Returns:
        The axes. It has one rectangle (``ax.patches``) more per segment.

    Raises:
        InputError: a batch instead of one segmentation, a sequence without one, or fewer names than labels.
        ImportError: matplotlib is not installed.
    """
    found = triples(value)
    names = label_names(names, 1 + max(c for _, _, c in found))
    ax = _strip(found[-1][1], y, height) if ax is None else ax
    starts, ends, labels = zip(*found, strict=True)
    durations = [e - s for s, e in zip(starts, ends, strict=True)]
    colors, hatches = [shade(c).hex for c in labels], [hatch(c) for c in labels]
    position = points_per_position(ax)
    gap = min(1.2, 0.15 * position)
    ax.barh(
        [y] * len(found), durations, height, starts, color=colors, hatch=hatches, edgecolor=paper(), linewidth=gap
    )  # fmt: skip
    probabilities = [None] * len(found) if value.probability is None else value.probability.tolist()
    for (start, end, label), p in zip(found, probabilities[: len(found)], strict=True):
        room = (end - start) * position / (SMALL * _CHARACTER)
        ax.text(
            (start + end) / 2, y, _fitting(names[label], p, room), ha="center", va="center_baseline", fontsize=SMALL,
            color=ink_on(label), clip_on=True,
            bbox={"facecolor": shade(label).hex, "linewidth": 0, "pad": 1} if hatch(label) else None,
        )  # fmt: skip
    return ax


def ribbons(rows: Mapping[str, Segments], names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Segmentations below one another, each as `segments` draws it, with its title to the left.

    Args:
        rows: by title, from top to bottom; batch shape ``()``. A value with sample axes ``(S,)`` becomes S rows.
        names: of the labels; letters by default.
        ax: where to draw; by default on a new pyplot figure.

    Raises:
        InputError: no row, more than one batch axis, a sequence without segmentation, or fewer names than labels.
        ImportError: matplotlib is not installed.
    """
    single: dict[str, Segments] = {}
    for title, value in rows.items():
        many = len(value.batch_shape) == 1
        single |= {f"{title} {i + 1}": part for i, part in enumerate(value)} if many else {title: value}
    if not single:
        raise bad_input("rows", "none", "at least one segmentation")
    found = [triples(value) for value in single.values()]
    names = label_names(names, 1 + max(c for row in found for _, _, c in row))
    if ax is None:
        height = _ROW * (len(single) + 0.5)
        figure = _canvas.figure(height + _BOTTOM)
        left, bottom = _LEFT / _canvas.WIDTH, _BOTTOM / (height + _BOTTOM)
        ax = figure.add_axes((left, bottom, 1 - left - _RIGHT / _canvas.WIDTH, 1 - bottom))
    ax.set_xlim(0, max(row[-1][1] for row in found))
    _canvas.plain(ax)
    _rows(ax, {title: (float(i), value) for i, (title, value) in enumerate(single.items())}, names)
    return ax


@torch.no_grad()
def posterior(
    distribution: SemiCRFDistribution,
    names: Sequence[str] | None = None,
    *,
    samples: int = 4,
    truth: Segments | None = None,
    generator: torch.Generator | None = None,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """What a distribution believes of one sequence.

    From top to bottom: the probability of a boundary before each position (dark where the best segmentation has one);
    the probabilities of the labels at each position; the best segmentation with the probability of each of its
    segments, in percent; the true one if given; exact samples, which show what goes together.

    Args:
        distribution: batch shape ``()``.
        names: of the labels; letters by default.
        samples: how many to draw.
        truth: batch shape ``()``.
        generator: for the samples.
        title: above everything.
        figure: what to draw on, at its size; by default a new pyplot figure of a fitting size.

    Returns:
        The figure; its axes are boundary probabilities, position marginals, ribbons.

    Raises:
        InputError: a batch of distributions, one without segmentations, or fewer names than labels.
        ImportError: matplotlib is not installed.
    """
    _canvas.one_sequence(tuple(distribution.batch_shape))
    names, length = label_names(names, distribution.C), int(distribution.lengths)
    marginals, best = distribution.marginals, distribution.argmax
    triples(best)  # an error where no segmentation is possible, before anything is drawn
    drawn = distribution.sample((samples,), generator=generator)
    rows = {"best, %": (0.0, replace(best, probability=marginals.segment(best)))}
    rows |= {} if truth is None else {"truth": (1.0, truth)}
    rows |= {f"sample {i + 1}": (len(rows) + _APART + i, drawn[i]) for i in range(samples)}

    heights = [_BOUNDARY, _POSITION, _ROW * (1 + max(y for y, _ in rows.values()))]
    figure = _canvas.figure(sum(heights) + 2 * _GAP + _TOP + _BOTTOM) if figure is None else figure
    axes = share_positions(figure, heights, length)
    _boundaries(axes[0], marginals.boundary[:length].cpu(), best.to_boundaries(length).cpu())
    _positions(axes[1], marginals.position[:length].double().cpu(), names)
    _rows(axes[2], rows, names)
    _heading(figure, axes[1], title)
    return figure


def _strip(length: int, y: float, height: float) -> Axes:
    """Axes for one ribbon, on a new figure."""
    ax: Axes = _canvas.figure(1.1, layout="constrained").add_subplot()
    ax.set(xlim=(0, length), yticks=[], ylim=(y - height / 2, y + height / 2), xlabel="position")
    ax.spines[["left", "right", "top"]].set_visible(False)
    return ax


def share_positions(figure: Figure, heights: Sequence[float], length: int) -> list[Axes]:
    """Axes below one another that share the positions, with a tick between every two."""
    ticker = _canvas.module("ticker")
    width, height = figure.get_size_inches()
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=_GAP * len(heights) / sum(heights), left=_LEFT / width,
        right=1 - _RIGHT / width, top=1 - _TOP / height, bottom=_BOTTOM / height,
    )  # fmt: skip
    axes = [figure.add_subplot(grid[i]) for i in range(len(heights))]
    for ax in axes:
        ax.set_xlim(0, length)
        ax.xaxis.set_minor_locator(ticker.MultipleLocator(1) if length <= 100 else ticker.AutoMinorLocator())
        _canvas.plain(ax)
        ax.tick_params(labelbottom=ax is axes[-1])
    return axes


def _boundaries(ax: Axes, probability: Tensor, best: Tensor) -> None:
    """A stem before each position but the first, where there is nothing to know; dark where `best` is true."""
    for chosen, color in ((False, faint()), (True, ink())):
        at = 1 + (best[1:] == chosen).nonzero().flatten()
        ax.vlines(
            at.tolist(), 0, probability[at].tolist(), colors=color, linewidth=min(2.2, 0.6 * points_per_position(ax))
        )
    ax.set(ylim=(0, 1.03), yticks=[0, 1])
    side(ax, 0.5, "P(boundary)")


def _positions(ax: Axes, probability: Tensor, names: Sequence[str]) -> None:
    """The probabilities of the labels at each position, stacked, the first label on top."""
    tops = probability.flip(-1).cumsum(-1).flip(-1)
    edges = list(range(len(probability) + 1))
    for c in range(probability.shape[-1]):
        top, base = tops[:, c].tolist(), (tops[:, c] - probability[:, c]).tolist()
        style: dict[str, Any] = {"facecolor": shade(c).hex, "edgecolor": paper(), "linewidth": 0, "hatch": hatch(c)}
        ax.stairs(top, edges, baseline=base, fill=True, label=names[c], **style)
    ax.set(ylim=(0, 1), yticks=[0, 1])
    side(ax, 0.5, "P(label)")


def _rows(ax: Axes, rows: Mapping[str, tuple[float, Segments]], names: Sequence[str]) -> None:
    """Ribbons below one another, at so many rows from the first, their titles to the left."""
    ax.set(ylim=(max(y for y, _ in rows.values()) + 0.5, -0.5), yticks=[])
    ax.set_xlabel("position", fontsize=MEDIUM, color=ink())
    ax.spines["left"].set_visible(False)
    for title, (y, value) in rows.items():
        segments(value, names, ax, y=y, height=0.84)
        side(ax, y, title)


def _heading(figure: Figure, position: Axes, title: str | None) -> None:
    """The title on the left, the labels' colours on the right."""
    width, height = figure.get_size_inches()
    handles, texts = position.get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="upper right", bbox_to_anchor=(1 - _RIGHT / width, 1 - 0.08 / height), frameon=False,
        labelcolor=ink(), ncols=min(len(texts), 8), fontsize=9, borderpad=0, borderaxespad=0, handlelength=1.0,
        handleheight=1.0,
    )  # fmt: skip
    if title is not None:
        figure.text(_LEFT / width, 1 - 0.08 / height, title, ha="left", va="top", fontsize=11, color=ink())


def _fitting(name: str, probability: float | None, room: float) -> str:
    """What to write into a box that has room for so many characters."""
    percent = "" if probability is None else f"{100 * probability:.0f}"
    return next((text for text in (f"{name} {percent}".strip(), percent) if len(text) <= room), "")
