"""A griffe extension: examples of docstrings become blocks of code, without a heading of their own."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from griffe import Extension, Object


class Doctests(Extension):
    """Fences every paragraph that begins with a prompt; those that follow one another share a fence."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each documented object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with its examples in fences."""
    paragraphs = text.split("\n\n")
    parts = []
    for example, group in groupby(paragraphs, key=lambda p: p.lstrip().startswith(">>> ")):
        joined = "\n\n".join(group)
        parts.append(f"```pycon\n{joined}\n```" if example else joined)
    return "\n\n".join(parts)
