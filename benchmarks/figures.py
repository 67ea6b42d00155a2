"""A stored run as pictures: time against each size, what semirings cost, and everyone's times side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from semicrf.terminal import PALETTE

LOG, GRADIENTS = "log-partition", "log-partition + gradients"
_MARKERS = "osD^vPX*"


def draw(results: dict[str, Any], folder: Path, stem: str) -> list[str]:
    """The pictures for which there is data; their names in the folder."""
    names = []
    for name, picture in (("sizes", sizes), ("peers", peers), ("semirings", semirings)):
        figure = picture(results)
        if figure is not None:
            names.append(f"{stem}.{name}.png")
            figure.savefig(folder / names[-1], dpi=90, metadata={"Software": None})
    return names


def sizes(results: dict[str, Any]) -> Figure | None:
    """Time of log Z against each of B, T, K and C, logarithmic: a point is a row, named by its other sizes."""
    rows = [r for r in results["rows"] if not r["kernel"] and r["quantity"] in (LOG, GRADIENTS)]
    if not rows:
        return None
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for ax, (axis, name) in zip(figure.subplots(1, 4, sharey=True), enumerate("BTKC"), strict=True):
        for i, quantity in enumerate((LOG, GRADIENTS)):
            points = sorted((r["shape"][axis], r["ours"]["min_ms"]) for r in rows if r["quantity"] == quantity)
            if points:
                x, y = zip(*points, strict=True)
                ax.plot(x, y, _MARKERS[i], color=PALETTE[i].hex, markersize=5, label=quantity)
        ax.set(xscale="log", yscale="log", xlabel=name, xlim=(0.5, 2 * max(r["shape"][axis] for r in rows)))
        _plain(ax)
        ax.tick_params(which="minor", labelbottom=False)
    figure.axes[0].set_ylabel("ms, minimum")
    figure.axes[0].legend(frameon=False, fontsize=7.5)
    return figure


def peers(results: dict[str, Any]) -> Figure | None:
    """A line of points per row: ours, and those of peers in this run (full) or as published (hollow)."""
    rows = [r for r in results["rows"] if not r["kernel"] and (r["published_ms"] or _timed(r))]
    if not rows:
        return None
    names = sorted({n for r in rows for n in (*r["published_ms"], *_timed(r))})
    figure = Figure(figsize=(10, 0.24 * len(rows) + 1.1), layout="constrained")
    ax = figure.subplots()
    ours = [r["ours"]["min_ms"] for r in rows]
    ax.plot(ours, range(len(rows)), "o", color="#222222", markersize=6, label="semicrf", zorder=3)
    for i, name in enumerate(names):
        color, marker = PALETTE[i % len(PALETTE)].hex, _MARKERS[(i + 1) % len(_MARKERS)]
        for measured in (True, False):
            found = [
                (_timed(r)[name] if measured else r["published_ms"][name], y)
                for y, r in enumerate(rows)
                if (name in _timed(r)) == measured and (measured or name in r["published_ms"])
            ]
            if found:
                x, y = zip(*found, strict=True)
                face = color if measured else "none"
                label = name if measured else f"{name}, published"
                ax.plot(x, y, marker, color=color, markerfacecolor=face, markersize=5, label=label, linestyle="")
    labels = [f"({', '.join(map(str, r['shape']))}) {r['quantity']}" for r in rows]
    ax.set(xscale="log", xlabel="ms", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticklabels(labels, fontsize=7.5)
    ax.grid(axis="y", color="#EEEEEE", zorder=0)
    _plain(ax)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=7.5)
    return figure


def semirings(results: dict[str, Any]) -> Figure | None:
    """Bars: the time of each quantity over that of log Z."""
    from benchmarks.summary import costs  # which draws these

    found = costs(results)
    if not found:
        return None
    figure = Figure(figsize=(8, 0.24 * len(found) + 0.8), layout="constrained")
    ax = figure.subplots()
    ax.barh(range(len(found)), [ratio for *_, ratio in found], color=PALETTE[2].hex)
    ax.axvline(1, color="#222222", linewidth=0.8)
    ax.set(ylim=(len(found) - 0.5, -0.5), yticks=range(len(found)), xlabel="time over that of log Z")
    ax.set_yticklabels([f"({', '.join(map(str, shape))}) {quantity}" for shape, quantity, _ in found], fontsize=7.5)
    _plain(ax)
    return figure


def _timed(row: dict[str, Any]) -> dict[str, float]:
    return {name: p["timing"]["min_ms"] for name, p in row["peers"].items() if p["status"] == "timed"}


def _plain(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7.5)
