"""Ribbons of text, and pictures: what they hold, not how they look."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch

from semicrf import FactoredPotentials, InputError, Segments, SemiCRFDistribution, plots
from semicrf.metrics import reliability
from semicrf.terminal import PALETTE, label_names, ribbon, shade, use_color

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle, StepPatch
from matplotlib.text import Annotation
from numpy.typing import ArrayLike

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


def numbers(data: ArrayLike) -> list[float]:
    return np.asarray(data).tolist()


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


def test_ribbons_stand_below_one_another_and_samples_are_a_row_each():
    p = model()
    ax = plots.ribbons({"truth": segmentation(), "best": p.argmax, "sample": p.sample((2,))}, NAMES)
    titles = ["truth", "best", "sample 1", "sample 2"]
    assert [t for t in texts(ax) if t in titles] == titles
    top = min(y for _, y, _, _ in boxes(ax))
    assert [(x, width) for x, y, width, _ in boxes(ax) if y == top] == [(0, 4), (4, 1), (5, 4), (9, 3)]
    assert len({y for _, y, _, _ in boxes(ax)}) == 4
    with pytest.raises(InputError, match="rows: got none"):
        plots.ribbons({})


def test_a_heat_map_holds_the_marginals_and_the_boundaries():
    p = model(T=20, lengths=17)
    ax = plots.heatmap(p, NAMES)
    shown = torch.as_tensor(ax.images[0].get_array())
    assert torch.equal(shown, p.marginals.position[:17].T)
    assert ax.images[0].get_clim() == (0, 1)
    path, marks = (c for c in ax.collections if isinstance(c, LineCollection))
    rows = [(x[0, 0], x[1, 0], x[0, 1]) for x in path.get_segments()]
    assert rows == p.argmax.tolist()
    assert [x[0, 0] for x in marks.get_segments()] == [s for s, _, _ in p.argmax.tolist()][1:]
    assert [t.get_text() for t in ax.get_yticklabels()] == NAMES


def test_the_shades_of_a_heat_map_are_ordered_in_grey():
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    shades = torch.tensor(matplotlib.colormaps["Blues"](torch.linspace(0, 1, 50).tolist()))[:, :3]
    assert ((shades.float() @ weights).diff() < 0).all()


def test_a_window_of_a_heat_map():
    p = model(T=20)
    ax = plots.heatmap(p, window=(5, 9), boundaries=Segments.from_list([(0, 6, 0), (6, 20, 1)]))
    assert torch.equal(torch.as_tensor(ax.images[0].get_array()), p.marginals.position[5:9].T)
    assert ax.get_xlim() == (5, 9)
    with pytest.raises(InputError, match=r"window: got \(5, 21\)"):
        plots.heatmap(p, window=(5, 21))


def test_durations_are_a_panel_per_label_and_a_line_per_table():
    counts = torch.tensor([[2.0, 0.0], [6.0, 0.0], [0.0, 0.0]])
    figure = plots.durations({"prior": torch.ones(3, 2), "posterior": counts}, ["a", "b"])
    first, second = figure.axes
    assert [line.get_label() for line in first.lines] == ["prior", "posterior"]
    assert numbers(first.lines[1].get_ydata()) == [0.25, 0.75, 0.0]
    assert numbers(first.lines[1].get_xdata()) == [1, 2, 3]
    assert [line.get_label() for line in second.lines] == ["prior"]  # nothing is known of no segment
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in first.lines}
    assert len({style[1:] for style in styles}) == 2  # told apart without colour
    figure.canvas.draw()
    with pytest.raises(InputError, match=r"tables\['x'\]: got negative or infinite values"):
        plots.durations({"x": -torch.ones(3, 2)})
    with pytest.raises(InputError, match="tables: got tables of shapes"):
        plots.durations({"x": torch.ones(3, 2), "y": torch.ones(4, 2)})


def test_the_graph_has_an_arrow_for_each_probability():
    weights = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    ax = plots.transitions(weights, NAMES)
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert len(arrows) == 3
    assert [p.get_linewidth() for p in arrows] == [0.5 + 3 * 0.75, 0.5 + 3 * 0.25, 3.5]
    assert texts(ax) == [".75", ".25", "1", *NAMES]
    ax.figure.canvas.draw()
    assert len(plots.transitions(torch.eye(1)).patches) == 2
    with pytest.raises(InputError, match=r"weights: got shape \(2, 3\)"):
        plots.transitions(torch.ones(2, 3))
    with pytest.raises(InputError, match="weights: got negative"):
        plots.transitions(-torch.ones(2, 2))


def test_reliability_is_a_point_per_bin_beside_the_diagonal():
    curve = reliability(torch.tensor([0.9, 0.9, 0.2, 0.8]), torch.tensor([True, True, False, False]), bins=2)
    ax = plots.reliability({"ours": curve})
    diagonal, line = ax.lines
    assert numbers(diagonal.get_xdata()) == numbers(diagonal.get_ydata()) == [0, 1]
    assert numbers(line.get_xdata()) == curve.confidence.tolist()
    assert numbers(line.get_ydata()) == curve.accuracy.tolist()
    assert line.get_label() == "ours, ECE 0.200"
    small, large = next(c for c in ax.collections if isinstance(c, PathCollection)).get_sizes()
    assert small < large
    assert plots.reliability(curve).lines[1].get_label() == "ECE 0.200"
    with pytest.raises(InputError, match="curves: got none"):
        plots.reliability({})


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_text_is_read_on_its_background(style):
    """A contrast of 4.5 to 1, as the Web Content Accessibility Guidelines 2.1 ask for (1.4.3)."""

    def luminance(color) -> float:
        parts = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    def contrast(a, b) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    with pyplot.style.context(style):
        p = model()
        figures = [plots.posterior(p), plots.durations({"a": p.marginals.duration})]
        drawn = (plots.heatmap(p), plots.transitions(p.marginals.transition), plots.ribbons({"best": p.argmax}))
        for figure in figures + [ax.figure for ax in drawn]:
            outside = [t for ax in figure.axes for t in [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title]]
            outside += [t for legend in figure.legends for t in legend.get_texts()]
            outside += [t for ax in figure.axes for t in ax.texts if isinstance(t, Annotation)]
            for text in outside:
                assert contrast(text.get_color(), figure.get_facecolor()) > 4.5, text
        names = [str(c) for c in range(8)]
        ax = plots.segments(Segments.from_list([(4 * c, 4 * c + 4, c) for c in range(8)]), names)
        assert texts(ax) == names
        for text, color in zip(ax.texts, PALETTE, strict=True):
            assert contrast(text.get_color(), color.hex) > 4.5, color


# ------------------------------------------------------------------ notebooks
def test_segments_are_ribbons_in_a_notebook():
    html = segmentation(0.954, 1.0, 0.0, 0.5)._repr_html_()
    assert html.count("<rect") == 4
    assert "<title>A [0, 4), probability 0.954</title>" in html
    assert [shade(c).hex for c in (0, 1, 1, 2)] == re.findall(r'fill="(#\w+)"/>', html)
    batch = model(3, 2, 2).argmax._repr_html_()
    assert batch.count("<svg") == 8
    assert "and 4 more" in batch
    nothing = SemiCRFDistribution(FactoredPotentials(torch.full((4, 2), -torch.inf))).argmax._repr_html_()
    assert "no segmentation is possible" in nothing
    for text in (html, batch, nothing):
        ElementTree.fromstring(text)  # every tag is closed


def test_a_distribution_is_a_table_of_its_parts_in_a_notebook():
    html = model(2)._repr_html_()
    ElementTree.fromstring(html)
    assert "batch_shape=(2,), T=12, K=5, C=3" in html
    assert "<code>emission</code></td>" in html
    assert "(2, 12, 3), torch.float64, cpu" in html


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"needs matplotlib .*Likely fix: pip install semicrf\[plots\]"):
        plots.segments(segmentation())
