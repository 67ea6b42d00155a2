"""Pictures of segmentations and distributions, with matplotlib (``pip install semicrf[plots]``).

Labels have the colours of `semicrf.terminal.PALETTE`, which suit every kind of colour vision; after eight, hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semicrf.errors import bad_input
from semicrf.segments import Segments
from semicrf.terminal import PALETTE, label_names, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from semicrf.distribution import SemiCRFDistribution

__all__ = ["posterior", "segments"]

_INK, _FAINT = "#222222", "#B8B8B8"
_SMALL, _MEDIUM = 7.5, 9.0  # font sizes, points
_CHARACTER = 0.66  # the width of a character, in font sizes
_ROW, _BOUNDARY, _POSITION = 0.3, 0.8, 1.3  # heights, inches
_WIDTH = 10.0  # of a figure, inches
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
    triples = _triples(value)
    names = label_names(names, 1 + max(c for _, _, c in triples))
    ax = _strip(triples[-1][1], y, height) if ax is None else ax
    starts, ends, labels = zip(*triples, strict=True)
    durations = [e - s for s, e in zip(starts, ends, strict=True)]
    colors, hatches = [shade(c).hex for c in labels], [_hatch(c) for c in labels]
    position = _points_per_position(ax)
    gap = min(1.2, 0.15 * position)
    ax.barh(
        [y] * len(triples), durations, height, starts, color=colors, hatch=hatches, edgecolor="white", linewidth=gap
    )  # fmt: skip
    probabilities = [None] * len(triples) if value.probability is None else value.probability.tolist()
    for (start, end, label), p in zip(triples, probabilities[: len(triples)], strict=True):
        room = (end - start) * position / (_SMALL * _CHARACTER)
        ax.text(
            (start + end) / 2, y, _fitting(names[label], p, room), ha="center", va="center_baseline", fontsize=_SMALL,
            color=_INK if shade(label).dark_text else "white", clip_on=True,
            bbox={"facecolor": shade(label).hex, "linewidth": 0, "pad": 1} if _hatch(label) else None,
        )  # fmt: skip
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
    if distribution.batch_shape:
        shape = f"batch shape {tuple(distribution.batch_shape)}"
        raise bad_input("distribution", shape, "(), one sequence", "index it: distribution[i].")
    names, length = label_names(names, distribution.C), int(distribution.lengths)
    marginals, best = distribution.marginals, distribution.argmax
    _triples(best)  # an error where no segmentation is possible, before anything is drawn
    drawn = distribution.sample((samples,), generator=generator)
    rows = {"best, %": (0.0, replace(best, probability=marginals.segment(best)))}
    rows |= {} if truth is None else {"truth": (1.0, truth)}
    rows |= {f"sample {i + 1}": (len(rows) + _APART + i, drawn[i]) for i in range(samples)}

    heights = [_BOUNDARY, _POSITION, _ROW * (1 + max(y for y, _ in rows.values()))]
    figure = _figure(sum(heights) + 2 * _GAP + _TOP + _BOTTOM) if figure is None else figure
    axes = _axes(figure, heights, length)
    _boundaries(axes[0], marginals.boundary[:length].cpu(), best.to_boundaries(length).cpu())
    _positions(axes[1], marginals.position[:length].double().cpu(), names)
    _rows(axes[2], rows, names)
    _heading(figure, axes[1], title)
    return figure


def _strip(length: int, y: float, height: float) -> Axes:
    """Axes for one ribbon, on a new figure."""
    ax: Axes = _figure(1.1, layout="constrained").add_subplot()
    ax.set(xlim=(0, length), yticks=[], ylim=(y - height / 2, y + height / 2), xlabel="position")
    ax.spines[["left", "right", "top"]].set_visible(False)
    return ax


def _axes(figure: Figure, heights: Sequence[float], length: int) -> list[Axes]:
    """Axes below one another that share the positions, with a tick between every two."""
    ticker = _matplotlib("ticker")
    width, height = figure.get_size_inches()
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=_GAP * len(heights) / sum(heights), left=_LEFT / width,
        right=1 - _RIGHT / width, top=1 - _TOP / height, bottom=_BOTTOM / height,
    )  # fmt: skip
    axes = [figure.add_subplot(grid[i]) for i in range(len(heights))]
    for ax in axes:
        ax.set_xlim(0, length)
        ax.xaxis.set_minor_locator(ticker.MultipleLocator(1) if length <= 100 else ticker.AutoMinorLocator())
        ax.tick_params(which="both", color=_FAINT, labelcolor=_INK, labelsize=9, labelbottom=ax is axes[-1])
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(_FAINT)
    return axes


def _boundaries(ax: Axes, probability: Tensor, best: Tensor) -> None:
    """A stem before each position but the first, where there is nothing to know; dark where `best` is true."""
    for chosen, color in ((False, _FAINT), (True, _INK)):
        at = 1 + (best[1:] == chosen).nonzero().flatten()
        ax.vlines(
            at.tolist(), 0, probability[at].tolist(), colors=color, linewidth=min(2.2, 0.6 * _points_per_position(ax))
        )
    ax.set(ylim=(0, 1.03), yticks=[0, 1])
    _side(ax, 0.5, "P(boundary)")


def _positions(ax: Axes, probability: Tensor, names: Sequence[str]) -> None:
    """The probabilities of the labels at each position, stacked, the first label on top."""
    tops = probability.flip(-1).cumsum(-1).flip(-1)
    edges = list(range(len(probability) + 1))
    for c in range(probability.shape[-1]):
        top, base = tops[:, c].tolist(), (tops[:, c] - probability[:, c]).tolist()
        style: dict[str, Any] = {"facecolor": shade(c).hex, "edgecolor": "white", "linewidth": 0, "hatch": _hatch(c)}
        ax.stairs(top, edges, baseline=base, fill=True, label=names[c], **style)
    ax.set(ylim=(0, 1), yticks=[0, 1])
    _side(ax, 0.5, "P(label)")


def _rows(ax: Axes, rows: Mapping[str, tuple[float, Segments]], names: Sequence[str]) -> None:
    """Ribbons below one another, at so many rows from the first, their titles to the left."""
    ax.set(ylim=(max(y for y, _ in rows.values()) + 0.5, -0.5), yticks=[])
    ax.set_xlabel("position", fontsize=_MEDIUM, color=_INK)
    ax.spines["left"].set_visible(False)
    for title, (y, value) in rows.items():
        segments(value, names, ax, y=y, height=0.84)
        _side(ax, y, title)


def _side(ax: Axes, y: float, text: str) -> None:
    """A title to the left of the axes, where all of them end at one line."""
    ax.annotate(
        text, (0, y), xycoords=ax.get_yaxis_transform(), xytext=(-15, 0), textcoords="offset points", ha="right",
        va="center_baseline", fontsize=_MEDIUM, color=_INK,
    )  # fmt: skip


def _heading(figure: Figure, position: Axes, title: str | None) -> None:
    """The title on the left, the labels' colours on the right."""
    width, height = figure.get_size_inches()
    handles, texts = position.get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="upper right", bbox_to_anchor=(1 - _RIGHT / width, 1 - 0.08 / height), frameon=False,
        ncols=min(len(texts), 8), fontsize=9, borderpad=0, borderaxespad=0, handlelength=1.0, handleheight=1.0,
    )  # fmt: skip
    if title is not None:
        figure.text(_LEFT / width, 1 - 0.08 / height, title, ha="left", va="top", fontsize=11, color=_INK)


def _triples(value: Segments) -> list[tuple[int, int, int]]:
    """The segments of the one sequence."""
    if value.batch_shape:
        raise bad_input("segments", f"batch shape {tuple(value.batch_shape)}", "(), one segmentation", "index them.")
    return value.tolist()


def _fitting(name: str, probability: float | None, room: float) -> str:
    """What to write into a box that has room for so many characters."""
    percent = "" if probability is None else f"{100 * probability:.0f}"
    return next((text for text in (f"{name} {percent}".strip(), percent) if len(text) <= room), "")


def _hatch(label: int) -> str:
    """What tells labels of one colour apart, where there are more labels than colours."""
    return ("", "////", "....", "xxxx")[label // len(PALETTE) % 4]


def _points_per_position(ax: Axes) -> float:
    left, right = ax.get_xlim()
    return ax.bbox.width / abs(right - left) * 72 / ax.figure.dpi


def _figure(height: float, **options: Any) -> Figure:
    return _matplotlib("pyplot").figure(figsize=(_WIDTH, height), **options)


def _matplotlib(name: str) -> Any:
    """A module of matplotlib, or the error that says how to get it."""
    try:
        return import_module(f"matplotlib.{name}")
    except ImportError as error:
        fix = "Likely fix: pip install semicrf[plots]"
        raise ImportError(f"semicrf.plots needs matplotlib ({error}). {fix}") from error
