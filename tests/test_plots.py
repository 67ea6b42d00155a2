"""Ribbons of text, and pictures: what they hold, not how they look."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import matplotlib
import pytest
import torch

from semicrf import FactoredPotentials, InputError, Segments, SemiCRFDistribution, plots
from semicrf.terminal import PALETTE, label_names, ribbon, shade, use_color

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
NAMES = ["noun", "verb", "x"]


def segmentation(*probability: float) -> Segments:
    value = Segments.from_list([(0, 4, 0), (4, 5, 1), (5, 9, 1), (9, 12, 2)])
    return replace(value, probability=torch.tensor(probability)) if probability else value


def model(*batch: int, T: int = 12, C: int = 3, lengths: list[int] | int | None = None) -> SemiCRFDistribution:
    emission = torch.randn(*batch, T, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = None if lengths is None else torch.tensor(lengths)
    return SemiCRFDistribution(FactoredPotentials(emission, max_duration=5), known)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


# ------------------------------------------------------------------ terminal
def test_a_ribbon_in_plain_text():
    assert ribbon(segmentation(), NAMES, width=50, color=False).splitlines() == [
        "0                                       10",
        "|------noun-----|ver|------verb-----|-----x-----|",
    ]


def test_a_ribbon_has_probabilities_below_its_segments():
    assert ribbon(segmentation(0.954, 1.0, 0.0, 0.5), width=50, color=False).splitlines()[1:] == [
        "|-------A-------|-B-|-------B-------|-----C-----|",
        "%       95       100        0             50",
    ]
    narrow = ribbon(segmentation(1.0, 1.0, 1.0, 0.006), width=25, color=False)
    assert narrow.splitlines()[2].split() == ["%", "100", "99", "100", "1"]  # the largest number that fits


@pytest.mark.parametrize("color", [False, True])
def test_ribbons_share_a_ruler_and_are_wrapped_together(color):
    rows = {"truth": segmentation(), "best": segmentation(0.25, 0.5, 0.75, 1.0)}
    lines = [
        "       0",
        "truth  |---A---|B|B",
        "best   |---A---|B|B",
        "    %     25   50",
        "               10",
        "truth  ---B--|--C--|",
        "best   ---B--|--C--|",
        "    %    75   100",
    ]
    if color:  # the same with another mark, spaces for dashes, and no mark at the end
        lines = [re.sub(r"\|$", "", line).replace("|", "▏").replace("-", " ") for line in lines]
    shown = ribbon(rows, width=21, color=color)
    assert bool(ESCAPE.search(shown)) == color
    assert ESCAPE.sub("", shown).splitlines() == lines


def test_each_run_of_a_label_is_one_change_of_colour():
    codes = re.findall(r"\x1b\[(.*?)m", ribbon(segmentation(), width=50, color=True))
    assert codes == [c for label in range(3) for c in (f"48;5;{shade(label).ansi};38;5;{16 if label else 231}", "0")]


def test_positions_without_a_segment_stay_blank():
    assert ribbon(Segments.from_list([(0, 2, 0), (5, 7, 1)]), color=False) == "0\n|---A---|           |---B---|"


def test_labels_beyond_the_palette_have_a_colour_and_a_name():
    assert len({s.hex for s in PALETTE}) == len({s.ansi for s in PALETTE}) == len(PALETTE) == 8
    assert shade(8) == shade(0)
    assert label_names(None, 27)[-1] == "26"
    assert "48;5;25" in ribbon(Segments.from_list([(0, 2, 8)]), color=True)


@pytest.mark.parametrize(
    ("tty", "encoding", "environment", "expected"),
    [
        (True, "utf-8", {}, True),
        (False, "utf-8", {}, False),
        (True, "cp1252", {}, False),
        (True, "utf-8", {"NO_COLOR": "1"}, False),
        (True, "utf-8", {"NO_COLOR": ""}, True),  # as no-color.org has it
        (True, "utf-8", {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_show_them(monkeypatch, tty, encoding, environment, expected):
    class Stream:
        def isatty(self) -> bool:
            return tty

    stream = Stream()
    stream.encoding = encoding  # pyright: ignore[reportAttributeAccessIssue]  a stream that says what it can print
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert use_color() == expected
    assert bool(ESCAPE.search(ribbon(segmentation()))) == expected


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ([(0, 1, 0)], {}, "segments: got a list; expected Segments"),
        (Segments.from_list([[(0, 1, 0)]]), {}, r"segments: got batch shape \(1,\); expected \(\), one segmentation"),
        ({"best": Segments.from_list([[(0, 1, 0)]])}, {}, r"segments\['best'\]: got batch shape \(1,\)"),
        (Segments.from_list([]), {}, "segments: got count 0"),
        (segmentation(), {"names": ["a", "b"]}, "names: got 2 names; expected a list of 3 names"),
        (segmentation(), {"names": "abc"}, "names: got 'abc'; expected a list of 3 names"),
        ({"a long title": segmentation()}, {"width": 16}, "width: got 16; expected at least 17"),
    ],
)
def test_errors_of_ribbons(value, options, message):
    with pytest.raises(InputError, match=message):
        ribbon(value, color=False, **options)


# ------------------------------------------------------------------ pictures
def texts(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.texts if t.get_text()]


def boxes(ax: Axes) -> list[tuple[float, float, float, float]]:
    """x, y, width, height"""
    return [p.get_bbox().bounds for p in ax.patches if isinstance(p, Rectangle)]


def test_a_segmentation_is_a_box_and_a_name_per_segment():
    ax = plots.segments(segmentation(0.954, 1.0, 0.0, 0.5), NAMES)
    assert [(x, width) for x, _, width, _ in boxes(ax)] == [(0, 4), (4, 1), (5, 4), (9, 3)]
    assert [to_hex(p.get_facecolor()).upper() for p in ax.patches] == [shade(c).hex for c in (0, 1, 1, 2)]
    assert texts(ax) == ["noun 95", "verb 100", "verb 0", "x 50"]
    assert (ax.get_xlim(), ax.get_xlabel()) == ((0, 12), "position")


def test_a_segmentation_is_added_to_axes_that_are_given():
    ax = Figure(figsize=(4, 1)).add_subplot(xlim=(0, 120))
    assert plots.segments(segmentation(), NAMES, ax, y=3, height=0.5) is ax
    assert [(y, height) for _, y, _, height in boxes(ax)] == [(2.75, 0.5)] * 4
    assert texts(ax) == ["x"]  # the names have no room
    assert not pyplot.get_fignums()


def test_labels_beyond_the_palette_are_hatched():
    ax = plots.segments(Segments.from_list([(0, 2, 0), (2, 4, 8), (4, 6, 16), (6, 8, 32)]))
    assert [p.get_hatch() or "" for p in ax.patches] == ["", "////", "....", ""]
    figure = plots.posterior(model(C=9), samples=0)
    assert [p.get_hatch() or "" for p in figure.axes[1].patches] == [""] * 8 + ["////"]
    figure.canvas.draw()


def test_the_posterior_has_every_part():
    p = model()
    figure = plots.posterior(p, NAMES, samples=2, truth=segmentation(), title="A title")
    boundary, position, ribbons = figure.axes
    stems = [len(lines.get_segments()) for lines in boundary.collections if isinstance(lines, LineCollection)]
    inside = int(p.argmax.count) - 1
    assert stems == [p.T - 1 - inside, inside]
    layers = [layer for layer in position.patches if isinstance(layer, StepPatch)]
    assert [layer.get_label() for layer in layers] == NAMES
    for layer, marginal in zip(layers, p.marginals.position.T, strict=True):
        values, _, baseline = layer.get_data()
        assert torch.allclose(torch.as_tensor(values - baseline), marginal)
    titles = ["best, %", "truth", "sample 1", "sample 2"]
    assert [t for t in texts(ribbons) if t in titles] == titles
    assert len({y for _, y, _, _ in boxes(ribbons)}) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()] == NAMES
    assert [t.get_text() for t in figure.texts] == ["A title"]
    assert {ax.get_xlim() for ax in figure.axes} == {(0, 12)}
    figure.canvas.draw()


def test_the_samples_are_the_generators():
    def drawn(seed: int) -> list[tuple[float, float, float, float]]:
        generator = torch.Generator().manual_seed(seed)
        figure = plots.posterior(model(T=40), samples=3, generator=generator, figure=Figure(figsize=(8, 4)))
        return boxes(figure.axes[2])

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("length", [1, 7])
def test_nothing_past_the_length_is_drawn(length):
    figure = plots.posterior(model(lengths=length), samples=0, figure=Figure())
    assert {ax.get_xlim() for ax in figure.axes} == {(0, length)}
    assert max(x + width for x, _, width, _ in boxes(figure.axes[2])) == length
    assert not pyplot.get_fignums()


def test_potentials_may_ask_for_gradients():
    emission = torch.randn(5, 2, requires_grad=True)
    figure = plots.posterior(SemiCRFDistribution(FactoredPotentials(emission)), samples=1)
    assert len(figure.axes) == 3


def test_errors_of_pictures():
    with pytest.raises(InputError, match=r"segments: got batch shape \(2,\); expected \(\), one segmentation"):
        plots.segments(Segments.from_list([[(0, 1, 0)], [(0, 1, 0)]]))
    with pytest.raises(InputError, match=r"distribution: got batch shape \(2,\); expected \(\), one sequence"):
        plots.posterior(model(2))
    with pytest.raises(InputError, match="names: got 2 names; expected a list of 3 names"):
        plots.posterior(model(), ["a", "b"])
    impossible = FactoredPotentials(torch.full((4, 2), -torch.inf))
    with pytest.raises(InputError, match="segments: got count 0"):
        plots.posterior(SemiCRFDistribution(impossible))
    assert not pyplot.get_fignums()


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"needs matplotlib .*Likely fix: pip install semicrf\[plots\]"):
        plots.segments(segmentation())
