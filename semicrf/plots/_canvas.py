"""What all pictures share: figures, ink that can be read on their background, hatches, and sequences that are one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from semicrf.errors import bad_input
from semicrf.segments import Segments
from semicrf.terminal import PALETTE, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0  # of a figure, inches
SMALL, MEDIUM = 7.5, 9.0  # font sizes, points
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))


def ink() -> str:
    """The colour of text: that of the style, a little softer where it is black."""
    return _style("text.color", "black", "#222222")


def faint() -> str:
    """The colour of what stands back: light on white, dark on black, seen on both."""
    return "#B8B8B8" if _is_light() else "#6A6A6A"


def paper() -> str:
    """The colour behind everything."""
    return import_module("matplotlib.colors").to_hex(_rc()["axes.facecolor"])


def _is_light() -> bool:
    red, green, blue = import_module("matplotlib.colors").to_rgb(_rc()["axes.facecolor"])
    return 0.3 * red + 0.6 * green + 0.1 * blue > 0.5


def _rc() -> Any:
    return import_module("matplotlib").rcParams


def _style(name: str, usual: str, instead: str) -> str:
    value = _rc()[name]
    return instead if value == usual else import_module("matplotlib.colors").to_hex(value)


def ink_on(label: int) -> str:
    """The colour of text on a label's: black or white, whichever is read."""
    return "black" if shade(label).dark_text else "white"


def hatch(label: int) -> str:
    """What tells labels of one colour apart, where there are more labels than colours."""
    return ("", "////", "....", "xxxx")[label // len(PALETTE) % 4]


def triples(value: Segments) -> list[tuple[int, int, int]]:
    """The segments of the one sequence."""
    if value.batch_shape:
        raise bad_input("segments", f"batch shape {tuple(value.batch_shape)}", "(), one segmentation", "index them.")
    return value.tolist()


def one_sequence(shape: tuple[int, ...]) -> None:
    """An error where a distribution is a batch."""
    if shape:
        raise bad_input("distribution", f"batch shape {shape}", "(), one sequence", "index it: distribution[i].")


def points_per_position(ax: Axes) -> float:
    """The width of a position, in points."""
    left, right = ax.get_xlim()
    return ax.bbox.width / abs(right - left) * 72 / ax.figure.dpi


def side(ax: Axes, y: float, text: str) -> None:
    """A title to the left of the axes, where all of them end at one line."""
    ax.annotate(
        text, (0, y), xycoords=ax.get_yaxis_transform(), xytext=(-15, 0), textcoords="offset points", ha="right",
        va="center_baseline", fontsize=MEDIUM, color=ink(),
    )  # fmt: skip


def plain(ax: Axes, *hidden: str) -> None:
    """Thin axes, without the sides that are named."""
    ax.spines[["top", "right", *hidden]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(faint())
    ax.tick_params(which="both", color=faint(), labelcolor=ink(), labelsize=MEDIUM)


def figure(height: float, width: float = WIDTH, **options: Any) -> Figure:
    """A new pyplot figure."""
    return module("pyplot").figure(figsize=(width, height), **options)


def module(name: str) -> Any:
    """A module of matplotlib, or the error that says how to get it."""
    try:
        return import_module(f"matplotlib.{name}")
    except ImportError as error:
        fix = "Likely fix: pip install semicrf[plots]"
        raise ImportError(f"semicrf.plots needs matplotlib ({error}). {fix}") from error
