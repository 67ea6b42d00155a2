"""CoNLL files there and back, on made-up corners and on WNUT-17, and entity scores against counting by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tilings import NAMES

from semicrf.errors import InputError
from semicrf.io import (
    EntityScores,
    TypeScores,
    entity_scores,
    from_segments,
    read_conll,
    tag_names,
    to_segments,
    write_conll,
)
from semicrf.segments import Segments

WNUT17 = Path(__file__).parents[2] / "shared" / "data" / "wnut17"
SENTENCES = [(["Ada", "wrote"], ["B-per", "O"]), (["London"], ["B-loc"])]


def read(folder: Path, text: str, **options) -> list:
    path = folder / "file.conll"
    path.write_bytes(text.encode())
    return [tuple(sentence) for sentence in read_conll(path, **options)]


# Reading


@pytest.mark.parametrize(
    "text",
    [
        "Ada\tB-per\nwrote\tO\n\nLondon\tB-loc\n\n",
        "Ada\tB-per\nwrote\tO\n\nLondon\tB-loc\n",
        "Ada\tB-per\nwrote\tO\n\nLondon\tB-loc",
        "\n\nAda\tB-per\nwrote\tO\n\n\n\nLondon\tB-loc\n\n\n",
        "Ada\tB-per\nwrote\tO\n\t\nLondon\tB-loc\n  \n",
        "Ada\tB-per\nwrote\tO\n \t \nLondon\tB-loc\n\t",
        "Ada\tB-per\r\nwrote\tO\r\n\r\nLondon\tB-loc\r\n",
        "Ada B-per\nwrote   O\n\nLondon \t B-loc",
        "Ada NNP x B-per\nwrote VBD y O\n\n  London NNP z B-loc  \n",
        "-DOCSTART-\tO\n\nAda\tB-per\nwrote\tO\n\nLondon\tB-loc\n",
        "-DOCSTART- -X- O O\n\nAda\tB-per\nwrote\tO\n-DOCSTART-\nLondon\tB-loc\n-DOCSTART- -X- O O",
        "\ufeffAda\tB-per\nwrote\tO\n\nLondon\tB-loc\n",
    ],
)
def test_layouts_that_read_alike(tmp_path, text):
    assert read(tmp_path, text) == SENTENCES


@pytest.mark.parametrize("text", ["", "\n", "\t\n \n", "-DOCSTART- O\n\n"])
def test_files_without_sentences(tmp_path, text):
    assert read(tmp_path, text) == []


@pytest.mark.parametrize(
    "token", ["😂", "\u00b4", "naïve", "\u00a0", "a\u2028b", "a\x85b", "a\x0bb", "a\rb", "a\u3000b", "#", "-", "O"]
)
def test_a_token_may_be_any_text_between_tabs(tmp_path, token):
    assert read(tmp_path, f"{token}\tB-per\nx\tO\n") == [([token, "x"], ["B-per", "O"])]


def test_columns_and_separator(tmp_path):
    text = "1|New York|B-loc|NNP\n2|is|O|VBZ\n"
    assert read(tmp_path, text, column=2, token_column=1, separator="|") == [(["New York", "is"], ["B-loc", "O"])]
    assert read(tmp_path, text, column=-1, token_column=-3, separator="|") == [(["New York", "is"], ["NNP", "VBZ"])]
    assert read(tmp_path, "New York\tB-loc\n", separator="\t") == [(["New York"], ["B-loc"])]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Ada\tO\nwrote\n", {}, "file.conll, line 2: got 1 columns in 'wrote'; expected a token in column 0"),
        ("Ada\tO\n\u00a0\n", {}, "line 2: got 1 columns"),
        ("Ada O\n", {"separator": "\t"}, "line 1: got 1 columns in 'Ada O'; .*separator"),
        ("Ada\tO\n", {"column": 2}, "line 1: got 2 columns in .*a tag in column 2"),
        ("Ada\tO\n", {"column": -3}, "line 1: got 2 columns"),
        ("Ada\tO\n", {"token_column": 2}, "line 1: got 2 columns in .*a token in column 2"),
        ("Ada\tO\n", {"column": 0}, "line 1: got 2 columns"),
        ("Ada\tO\n", {"token_column": 1}, "line 1: got 2 columns"),
        ("\n\nAda\t\n", {"separator": "\t"}, r"line 3: got an empty field in 'Ada\\t'"),
        ("\tO\n", {"separator": "\t"}, r"line 1: got an empty field in '\\tO'"),
        ("Ada\tO\n", {"separator": ""}, "separator: got ''"),
    ],
)
def test_read_errors(tmp_path, text, options, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text, **options)


# Writing


words = st.text(st.characters(codec="utf-8", exclude_characters=" \t\r\n"), min_size=1, max_size=5).filter(
    lambda word: not word.startswith("-DOCSTART-")
)


@given(
    st.lists(st.lists(st.tuples(words, st.sampled_from(["O", "B-per", "I-loc"])), min_size=1, max_size=4), max_size=4)
)
def test_what_is_written_reads_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("io") / "file.conll"
    sentences = [([word for word, _ in row], [tag for _, tag in row]) for row in rows]
    write_conll(path, sentences)
    assert [tuple(s) for s in read_conll(path)] == sentences


def test_written_bytes(tmp_path):
    write_conll(tmp_path / "a", [(["é", "x"], ["B-per", "O"]), (["y"], ["O"])])
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\tB-per\nx\tO\n\ny\tO\n\n"
    write_conll(tmp_path / "a", [(["\ufeffx"], ["O"])])
    assert read_conll(tmp_path / "a") == [(["\ufeffx"], ["O"])]
    write_conll(str(tmp_path / "a"), iter(()))
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (([], []), "sentence 1: got 0 tokens and 0 tags"),
        ((["a", "b"], ["O"]), "sentence 1: got 2 tokens and 1 tags"),
        ((["a"], ["O", "O"]), "sentence 1: got 1 tokens and 2 tags"),
        ((["a", "New York"], ["O", "O"]), "sentence 1, token 1: got 'New York'; expected text without spaces"),
        ((["a\tb"], ["O"]), r"sentence 1, token 0: got 'a\\tb'"),
        ((["a\n"], ["O"]), r"sentence 1, token 0: got 'a\\n'"),
        ((["a"], ["O\r"]), r"sentence 1, token 0: got 'O\\r'"),
        (([""], ["O"]), "sentence 1, token 0: got ''"),
        ((["a"], [""]), "sentence 1, token 0: got ''"),
        ((["-DOCSTART-"], ["O"]), "sentence 1, token 0: got '-DOCSTART-'"),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path, sentence, message):
    path = tmp_path / "kept"
    path.write_text("as it was")
    with pytest.raises(InputError, match=message):
        write_conll(path, [(["fine"], ["O"]), sentence])
    assert path.read_text() == "as it was"


# Names and Segments


def test_tag_names():
    sentences = [(["a", "b"], ["I-person", "O"]), (["c"], ["B-creative-work"]), (["d"], ["B-person"])]
    assert tag_names(sentences) == ["O", "creative-work", "person"]
    assert tag_names([]) == tag_names([(["a"], ["O"])]) == ["O"]


def test_tag_names_errors():
    with pytest.raises(InputError, match="sentence 0, token 1: got tag 'S-loc'; expected O, B-type or I-type"):
        tag_names([(["a", "b"], ["O", "S-loc"])])


def test_sentences_to_segments_and_back():
    names = tag_names(SENTENCES)
    segments = to_segments(SENTENCES, names)
    assert segments.tolist() == [[(0, 1, 2), (1, 2, 0)], [(0, 1, 1)]]
    assert [tuple(s) for s in from_segments([s[0] for s in SENTENCES], segments, names)] == SENTENCES
    assert to_segments(SENTENCES, names, device="meta").device.type == "meta"
    assert from_segments([], segments[:0], names) == []


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda s: to_segments([], NAMES), "sentences: got none"),
        (lambda s: to_segments(SENTENCES, ["O", "loc"]), "tags, sequence 0, token 0: got tag 'B-per'"),
        (lambda s: from_segments([["a"]], s, NAMES), r"segments: got batch shape \(2,\); expected \(1,\)"),
        (lambda s: from_segments([["a"]], s[0], NAMES), r"segments: got batch shape \(\)"),
        (
            lambda s: from_segments([["a", "b"], ["c", "d"]], s, NAMES),
            "segments, sequence 1: got 1 positions; expected 2",
        ),
        (lambda s: from_segments([["a", "b"], ["c"]], s, ["O"]), "segments, sequence 0, segment 0"),
    ],
)
def test_conversion_errors(convert, message):
    with pytest.raises(InputError, match=message):
        convert(to_segments(SENTENCES, NAMES))


def iob2(tags: list[str]) -> list[str]:
    before = ["O", *tags]
    return ["B" + t[1:] if t[0] == "I" and b[1:] != t[1:] else t for b, t in zip(before, tags, strict=False)]


@pytest.mark.parametrize(("name", "count"), [("train", 3394), ("dev", 1009)])
def test_wnut17_there_and_back(tmp_path, name, count):
    if not WNUT17.is_dir():
        pytest.skip(f"no WNUT-17 at {WNUT17}")
    sentences = read_conll(WNUT17 / f"{name}.conll")
    assert len(sentences) == count
    names = tag_names(sentences)
    assert names == ["O", "corporation", "creative-work", "group", "location", "person", "product"]
    segments = to_segments(sentences, names)
    back = from_segments([s.tokens for s in sentences], segments, names)
    assert [s.tags for s in back] == [iob2(s.tags) for s in sentences]
    entities = sum(tag.startswith("B-") for s in sentences for tag in s.tags)
    assert int(((segments.label > 0) & segments.mask).sum()) == entities
    write_conll(tmp_path / "copy", back)
    assert read_conll(tmp_path / "copy") == back
    assert entity_scores(segments, segments, names)[:3] == (1.0, 1.0, 1.0)


def test_iob2_normalisation_of_iob1():
    tags = ["I-per", "I-per", "B-per", "O", "I-loc", "I-per"]
    expected = ["B-per", "I-per", "B-per", "O", "B-loc", "B-per"]
    assert iob2(tags) == expected
    assert from_segments([list("abcdef")], to_segments([(list("abcdef"), tags)], NAMES), NAMES)[0].tags == expected


# Scores


def test_entity_scores_by_hand():
    gold = Segments.from_list([[(0, 2, 1), (2, 3, 0), (3, 5, 2)], [(0, 1, 2), (1, 2, 2)], [(0, 4, 0)]])
    predicted = Segments.from_list([[(0, 2, 1), (2, 3, 1), (3, 5, 1)], [(0, 1, 2), (1, 2, 0)], [(0, 4, 0)]])
    scores = entity_scores(gold, predicted, NAMES)
    # gold: loc (0,2), per (3,5), per (0,1), per (1,2); predicted: loc (0,2), (2,3), (3,5), per (0,1); both: 2
    assert scores[:3] == (0.5, 0.5, 0.5)
    assert scores.per_type == {
        "loc": TypeScores(precision=1 / 3, recall=1.0, f1=0.5, gold=1, predicted=3, correct=1),
        "per": TypeScores(precision=1.0, recall=1 / 3, f1=0.5, gold=3, predicted=1, correct=1),
    }


def test_the_same_span_in_another_sequence_or_of_another_extent_does_not_count():
    gold = Segments.from_list([[[(0, 2, 1)], [(0, 2, 0)]]])
    for wrong in ([[[(0, 2, 0)], [(0, 2, 1)]]], [[[(0, 1, 1), (1, 2, 1)], [(0, 2, 0)]]], [[[(0, 2, 2)], [(0, 2, 0)]]]):
        assert entity_scores(gold, Segments.from_list(wrong), NAMES)[:3] == (0.0, 0.0, 0.0)
    assert entity_scores(gold, gold, NAMES)[:3] == (1.0, 1.0, 1.0)


def test_scores_without_entities_are_zero():
    nothing, one = Segments.from_list([(0, 2, 0)]), Segments.from_list([(0, 2, 1)])
    empty = TypeScores(0.0, 0.0, 0.0, 0, 0, 0)
    assert entity_scores(nothing, nothing, NAMES) == EntityScores(0.0, 0.0, 0.0, {"loc": empty, "per": empty})
    assert entity_scores(nothing, one, NAMES).per_type["loc"] == TypeScores(0.0, 0.0, 0.0, 0, 1, 0)
    assert entity_scores(one, nothing, NAMES).per_type["loc"] == TypeScores(0.0, 0.0, 0.0, 1, 0, 0)


def test_an_impossible_prediction_is_a_miss_and_padding_is_not_read():
    gold = Segments.from_list([[(0, 1, 1)], [(0, 1, 1), (1, 2, 2)]])
    predicted = Segments(
        start=torch.tensor([[0, 7], [0, 1]]),
        end=torch.tensor([[1, 8], [1, 2]]),
        label=torch.tensor([[1, 99], [1, 2]]),
        count=torch.tensor([1, 0]),
    )
    scores = entity_scores(gold, predicted, NAMES)
    assert (scores.precision, scores.recall, scores.f1) == (1.0, 1 / 3, 0.5)


rows = st.lists(st.sampled_from(["O", "B-loc", "I-loc", "B-per", "I-per"]), min_size=1, max_size=8)


def entities(tags: list[list[str]]) -> set[tuple[int, int, int, str]]:
    """Every entity, by reading tags one at a time."""
    found = set()
    for i, sentence in enumerate(map(iob2, tags)):
        for start, tag in enumerate(sentence):
            if tag[0] == "B":
                end = start + 1
                while end < len(sentence) and sentence[end][0] == "I":
                    end += 1
                found.add((i, start, end, tag[2:]))
    return found


@given(st.lists(st.tuples(rows, rows), min_size=1, max_size=4))
def test_entity_scores_are_those_of_sets(pairs):
    gold, predicted = ([pair[j] for pair in pairs] for j in (0, 1))
    scores = entity_scores(Segments.from_bio(gold, NAMES), Segments.from_bio(predicted, NAMES), NAMES)
    g, p = entities(gold), entities(predicted)
    assert sum(s.gold for s in scores.per_type.values()) == len(g)
    assert sum(s.predicted for s in scores.per_type.values()) == len(p)
    assert sum(s.correct for s in scores.per_type.values()) == len(g & p)
    assert scores.precision * len(p) == pytest.approx(len(g & p))
    assert scores.recall * len(g) == pytest.approx(len(g & p))
    assert scores.f1 * (len(g) + len(p)) == pytest.approx(2 * len(g & p))


@pytest.mark.parametrize(
    ("gold", "predicted", "names", "message"),
    [
        ([[(0, 1, 1)]], [(0, 1, 1)], NAMES, r"predicted: got batch shape \(\); expected \(1,\), as gold"),
        ([(0, 1, 3)], [(0, 1, 1)], NAMES, r"gold: got a label outside names; expected labels in 0..2"),
        ([(0, 1, 1)], [(0, 1, 3)], NAMES, "predicted: got a label outside names"),
        ([(0, 1, 1)], [(0, 1, 1)], ["loc", "O"], "names: got"),
    ],
)
def test_entity_scores_errors(gold, predicted, names, message):
    with pytest.raises(InputError, match=message):
        entity_scores(Segments.from_list(gold), Segments.from_list(predicted), names)
