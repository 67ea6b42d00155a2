"""Segmentations and models as HTML, for notebooks: an SVG ribbon and a table, on no background, in the page's ink."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from semicrf.segments import Segments
from semicrf.terminal import label_names, shade

_ROWS = 8  # of a batch, that are shown
_WIDTH, _HEIGHT, _RULER = 760, 22, 16  # pixels
_CHARACTER = 7


def segments(value: Segments) -> str:
    """The first sequences of a batch as ribbons; what they are above, how many are left out below."""
    flat = value if value.batch_shape else Segments(**{n: x[None] for n, x in _fields(value)})
    count = flat.count.flatten()
    if len(flat.batch_shape) > 1:
        flat = Segments(**{n: x.flatten(0, len(flat.batch_shape) - 1) for n, x in _fields(flat)})
    shown = [flat[i] for i in range(min(len(count), _ROWS))]
    length = max((int(row.end.max()) for row in shown if row.end.numel()), default=0)
    body = "".join(_ribbon(row, length) for row in shown)
    more = f"<div>and {len(count) - _ROWS} more</div>" if len(count) > _ROWS else ""
    return f'<div style="font-family:sans-serif;font-size:12px"><code>{escape(repr(value))}</code>{body}{more}</div>'


def _fields(value: Segments) -> list[tuple[str, Any]]:
    names = ("start", "end", "label", "count", "score", "probability")
    return [(n, getattr(value, n)) for n in names if getattr(value, n) is not None]


def _ribbon(row: Segments, length: int) -> str:
    """One sequence as SVG: a box per segment with its label's letter, its bounds and probability as a tooltip."""
    if not int(row.count) or not length:
        return "<div>no segmentation is possible</div>"
    triples = row.tolist()
    names = label_names(None, 1 + max(c for _, _, c in triples))
    probabilities = [None] * len(triples) if row.probability is None else row.probability.tolist()
    scale = _WIDTH / length
    boxes = []
    for (start, end, label), p in zip(triples, probabilities[: len(triples)], strict=True):
        color, text = shade(label), names[label]
        tip = f"{text} [{start}, {end})" + ("" if p is None else f", probability {p:.3f}")
        x, width = start * scale, max((end - start) * scale - 1, 0.5)
        inside = ""
        if len(text) * _CHARACTER < width:
            ink = "#000000" if color.dark_text else "#FFFFFF"
            inside = f'<text x="{x + width / 2:.1f}" y="15" text-anchor="middle" fill="{ink}">{text}</text>'
        boxes.append(
            f'<g><title>{escape(tip)}</title><rect x="{x:.1f}" width="{width:.1f}" height="{_HEIGHT - 1}" '
            f'fill="{color.hex}"/>{inside}</g>'
        )
    ends = (f'<text x="0" y="{_HEIGHT + 11}">0</text>', f'<text x="{_WIDTH}" y="{_HEIGHT + 11}">{length}</text>')
    ruler = f'<g fill="currentColor" font-size="10">{ends[0]}<g text-anchor="end">{ends[1]}</g></g>'
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT + _RULER}"'
    return (
        f'<svg {size} style="display:block;width:100%;max-width:{_WIDTH}px" font-family="sans-serif" font-size="11" '
        f'role="img" aria-label="a segmentation of {length} positions">{"".join(boxes)}{ruler}</svg>'
    )


def table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, under a title."""
    cell = '<td style="text-align:left">'
    cells = "".join(f"<tr>{cell}<code>{escape(n)}</code></td>{cell}{escape(text)}</td></tr>" for n, text in rows)
    return f"<div><b>{escape(title)}</b><table>{cells}</table></div>"
