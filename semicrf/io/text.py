"""Lines of a text file with the place of each, for error messages, and columns that must be numbers."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from os import PathLike, fspath

from semicrf.errors import bad_input

Path = str | PathLike[str]


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, ``"PATH, line N"``, and its text without the line's end. UTF-8, also gzipped (``.gz``).

    Raises:
        InputError: a line is not UTF-8.
    """
    opened = gzip.open(path) if fspath(path).endswith(".gz") else open(path, "rb")  # noqa: SIM115  closed by `with` below
    with opened as file:
        for number, raw in enumerate(file, 1):
            where = f"{fspath(path)}, line {number}"
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise bad_input(where, f"bytes {raw[:40]!r}", "UTF-8", "iconv -t UTF-8 converts a file.") from None
            yield where, text.rstrip("\r\n")


def write(path: Path, text: str) -> None:
    """Write a UTF-8 file, gzipped where its name ends in ``.gz``; lines end as they do in ``text``."""
    raw = text.encode()
    if fspath(path).endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)
    with open(path, "wb") as file:
        file.write(raw)


def integer(where: str, name: str, text: str, least: int = 0) -> int:
    """A column that is an integer of at least ``least``.

    Raises:
        InputError: it is not.
    """
    if not (text.isascii() and text.removeprefix("-").isdigit()) or int(text) < least:
        raise bad_input(where, f"{name} {text!r}", f"an integer of at least {least}", "check the order of the columns.")
    return int(text)


def plain(where: str, name: str, text: str, forbidden: str = "\t\r\n") -> str:
    """A field to be written, checked not to hold what would end it.

    Raises:
        InputError: it is empty or holds one of ``forbidden``.
    """
    if not text or any(c in forbidden for c in text):
        raise bad_input(where, f"{name} {text!r}", f"text without any of {forbidden!r}", "replace them.")
    return text
