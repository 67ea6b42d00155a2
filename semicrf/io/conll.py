"""CoNLL column files, and their conversion to and from ``Segments``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import NamedTuple

import torch

from semicrf._nested import parse_tag
from semicrf.errors import bad_input
from semicrf.segments import Segments

_BLANK = " \t\r\n"  # not str.isspace: a token may be a no-break space or another separator of Unicode
_DOCUMENT = "-DOCSTART-"


class Sentence(NamedTuple):
    """The tokens of one sentence and their tags, equally many."""

    tokens: list[str]
    tags: list[str]


def read_conll(
    path: str | PathLike[str], column: int = -1, token_column: int = 0, separator: str | None = None
) -> list[Sentence]:
    r"""Read a file of one token a line, in columns, in UTF-8.

    A line of nothing but spaces and tabs ends a sentence; so does a ``-DOCSTART-`` line, which is dropped.

    Args:
        path: the file.
        column: the column of the tags; -1 is the last.
        token_column: the column of the tokens.
        separator: what stands between columns; by default any run of spaces and tabs.

    Raises:
        InputError: a line lacks a column, has an empty token or tag, or its token and tag are the same column.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with open(f"{folder}/a.conll", "w", encoding="utf-8") as file:
    ...         _ = file.write("Ada\tB-person\nwrote\tO\n\nYes\tO\n")
    ...     read_conll(f"{folder}/a.conll")[0]
    Sentence(tokens=['Ada', 'wrote'], tags=['B-person', 'O'])
    """
    if separator == "":
        raise bad_input("separator", "''", "a non-empty string, or None", "None stands for spaces and tabs.")
    sentences = [Sentence([], [])]
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            blank = not line.strip(_BLANK)
            if blank or line.startswith(_DOCUMENT):
                if sentences[-1].tokens:
                    sentences.append(Sentence([], []))
                continue
            token, tag = _columns(line, token_column, column, separator, f"{path}, line {number}")
            sentences[-1].tokens.append(token)
            sentences[-1].tags.append(tag)
    return sentences if sentences[-1].tokens else sentences[:-1]


def _columns(line: str, token_column: int, column: int, separator: str | None, where: str) -> tuple[str, str]:
    """The token and the tag of one line."""
    line = line.rstrip("\r\n")
    fields = line.split(separator) if separator is not None else re.split(r"[ \t]+", line.strip(_BLANK))
    count = len(fields)
    if not all(-count <= c < count for c in (token_column, column)) or token_column % count == column % count:
        got, expected = f"{count} columns in {line!r}", f"a token in column {token_column} and a tag in column {column}"
        raise bad_input(where, got, expected, "pass the file's column, token_column and separator.")
    token, tag = fields[token_column].strip(_BLANK), fields[column].strip(_BLANK)
    if not tag or not token:
        raise bad_input(where, f"an empty field in {line!r}", "a token and a tag", "pass the file's separator.")
    return token, tag


def write_conll(path: str | PathLike[str], sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Write sentences as ``token<TAB>tag`` lines in UTF-8, a blank line after each: what ``read_conll`` reads back.

    Nothing is written unless all of it can be.

    Raises:
        InputError: a sentence is empty or has more or fewer tags than tokens; a token or tag is empty, holds a space,
            tab or line break, or begins with ``-DOCSTART-``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_conll(f"{folder}/a.conll", [(["Ada", "wrote"], ["B-person", "O"])])
    ...     read_conll(f"{folder}/a.conll")
    [Sentence(tokens=['Ada', 'wrote'], tags=['B-person', 'O'])]
    """
    text = "".join(_block(i, tokens, tags) for i, (tokens, tags) in enumerate(sentences))
    # A byte-order mark that belongs to the first token needs one before it, which reading takes off.
    encoding = "utf-8-sig" if text.startswith("\ufeff") else "utf-8"
    with open(path, "w", encoding=encoding, newline="\n") as file:
        file.write(text)


def _block(i: int, tokens: Sequence[str], tags: Sequence[str]) -> str:
    """The lines of the ``i``-th sentence."""
    if not tokens or len(tokens) != len(tags):
        got = f"{len(tokens)} tokens and {len(tags)} tags"
        raise bad_input(f"sentence {i}", got, "one tag for each of at least one token", "leave empty sentences out.")
    for t, pair in enumerate(zip(tokens, tags, strict=True)):
        for field in pair:
            if not field or any(c in _BLANK for c in field) or field.startswith(_DOCUMENT):
                expected = f"text without spaces, tabs and line breaks that does not begin with {_DOCUMENT}"
                raise bad_input(
                    f"sentence {i}, token {t}", repr(field), expected, "replace it, or leave the token out."
                )
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)) + "\n"


def tag_names(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[str]:
    """The label names that ``Segments.from_bio`` takes: ``"O"``, then the entity types, sorted.

    Raises:
        InputError: a tag is not ``O``, ``B-type`` or ``I-type``.

    >>> tag_names([(["Ada", "wrote"], ["B-person", "O"]), (["London"], ["I-place"])])
    ['O', 'person', 'place']
    """
    kinds = {
        parse_tag(tag, f"sentence {i}, token {t}")[1]
        for i, (_, tags) in enumerate(sentences)
        for t, tag in enumerate(tags)
    }
    return ["O", *sorted(kinds - {""})]


def to_segments(
    sentences: Iterable[tuple[Sequence[str], Sequence[str]]],
    names: Sequence[str],
    device: torch.device | str | None = None,
) -> Segments:
    """The tags of ``S`` sentences as ``Segments`` of batch shape ``(S,)``: see ``Segments.from_bio``.

    Raises:
        InputError: no sentences, or as ``Segments.from_bio``.

    >>> to_segments([(["Ada", "wrote"], ["B-person", "O"])], ["O", "person"]).tolist()
    [[(0, 1, 1), (1, 2, 0)]]
    """
    tags = [list(tags) for _, tags in sentences]
    if not tags:
        raise bad_input("sentences", "none", "at least one sentence")
    return Segments.from_bio(tags, names, device)


def from_segments(tokens: Sequence[Sequence[str]], segments: Segments, names: Sequence[str]) -> list[Sentence]:
    """Sentences from the tokens of each and ``Segments`` of batch shape ``(S,)``: what ``write_conll`` takes.

    Raises:
        InputError: the batch shape is not ``(len(tokens),)``, segments do not end with their tokens, or as
            ``Segments.to_bio``.

    >>> from_segments([["Ada", "wrote"]], Segments.from_list([[(0, 1, 1), (1, 2, 0)]]), ["O", "person"])
    [Sentence(tokens=['Ada', 'wrote'], tags=['B-person', 'O'])]
    """
    if tuple(segments.batch_shape) != (len(tokens),):
        got, expected = f"batch shape {tuple(segments.batch_shape)}", f"({len(tokens)},), one for each sentence"
        raise bad_input("segments", got, expected)
    sentences = [Sentence(list(words), tags) for words, tags in zip(tokens, segments.to_bio(names), strict=True)]
    for i, (words, tags) in enumerate(sentences):
        if len(words) != len(tags):
            raise bad_input(f"segments, sequence {i}", f"{len(tags)} positions", f"{len(words)}, one for each token")
    return sentences


_FOLLOWERS = {
    "O": "OBS",
    "B": "IE",
    "I": "IE",
    "E": "OBS",
    "S": "OBS",
}  # of BIOES tags; those of one entity have one type


def from_bioes(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[Sentence]:
    """Sentences with BIOES tags (also BILOU with ``L`` and ``U``) as sentences with BIO (IOB2) tags.

    Raises:
        InputError: a tag of another form, or one that may not follow the tag before it.

    >>> from_bioes([(["Ada", "Lovelace", "wrote"], ["B-per", "E-per", "O"])])[0].tags
    ['B-per', 'I-per', 'O']
    """
    return [Sentence(list(tokens), _from_bioes(tags, f"sentence {i}")) for i, (tokens, tags) in enumerate(sentences)]


def _from_bioes(tags: Sequence[str], where: str) -> list[str]:
    found, before, kind = [], "O", ""
    for t, tag in enumerate([*tags, "O"]):  # the end of a sentence ends an entity as O does
        prefix, _, now = tag.partition("-")
        prefix = {"L": "E", "U": "S"}.get(prefix, prefix)
        if prefix not in _FOLLOWERS or (prefix == "O") != (not now):
            raise bad_input(f"{where}, token {t}", f"tag {tag!r}", "O, or B-, I-, E- or S- and a type")
        if prefix not in _FOLLOWERS[before] or (prefix in "IE" and now != kind):
            got = "the end of the sentence" if t == len(tags) else f"tag {tag!r}"
            before = before if before == "O" else f"{before}-{kind}"
            fix = "entities are S, or B, any number of I, then E; BIO tags need no conversion."
            raise bad_input(f"{where}, token {t}", f"{got} after {before!r}", "a BIOES tag that may follow it", fix)
        found.append(f"{'B' if prefix in 'BS' else 'I'}-{now}" if now else "O")
        before, kind = prefix, now
    return found[:-1]


def to_bioes(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[Sentence]:
    """Sentences with BIO (IOB2) tags as sentences with BIOES tags, as ``from_bioes`` reads them.

    An ``I-`` tag that does not continue an entity of its type starts one.

    Raises:
        InputError: a tag is not ``O``, ``B-type`` or ``I-type``.

    >>> to_bioes([(["Ada", "Lovelace", "wrote"], ["B-per", "I-per", "O"])])[0].tags
    ['B-per', 'E-per', 'O']
    """
    return [Sentence(list(tokens), _to_bioes(tags, f"sentence {i}")) for i, (tokens, tags) in enumerate(sentences)]


def _to_bioes(tags: Sequence[str], where: str) -> list[str]:
    parsed = [parse_tag(tag, f"{where}, token {t}") for t, tag in enumerate(tags)]
    found = []
    for (_, before), (prefix, kind), after in zip([("O", ""), *parsed], parsed, [*parsed[1:], ("O", "")], strict=False):
        first, last = prefix == "B" or before != kind, after != ("I", kind)
        found.append(f"{'S' if first and last else 'B' if first else 'E' if last else 'I'}-{kind}" if kind else "O")
    return found
