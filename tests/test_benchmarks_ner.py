"""The benchmark of named entities runs, learns what can be learnt, and saves what it prints."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import confidence, ner, taggers
from semicrf.errors import InputError
from semicrf.io import Sentence, read_conll, to_segments, write_conll
from semicrf.segments import Segments

DATA = Path(__file__).parents[2] / "shared" / "data" / "wnut17"
WHO, WHERE = ["Ada", "Grace", "Alan", "Emmy"], [["London"], ["New", "York"], ["San", "Francisco", "Bay"]]


@pytest.fixture(scope="module", autouse=True)
def headless():
    pytest.importorskip("matplotlib", reason="pictures need the extra plots").use("Agg")


def made_up(path: Path, sentences: int, seed: int) -> Path:
    """Sentences in which a name is a person and what follows "in" a place, also one right after the other."""
    generator = torch.Generator().manual_seed(seed)

    def pick(items: list):
        return items[int(torch.randint(len(items), (), generator=generator))]

    rows = []
    for _ in range(sentences):
        place = pick(WHERE)
        tokens = [pick(WHO), pick(["lives", "works"]), "in", *place]
        tags = ["B-person", "O", "O", "B-place", *["I-place"] * (len(place) - 1)]
        if pick([True, False]):
            tokens, tags = [*tokens, pick(WHO), "said"], [*tags, "B-person", "O"]
        rows.append(Sentence(tokens, tags))
    write_conll(path, rows)
    return path


def test_a_tiny_run_learns_both_models_and_saves_the_scores(tmp_path, capsys):
    train, dev = made_up(tmp_path / "train.conll", 60, seed=0), made_up(tmp_path / "dev.conll", 30, seed=1)
    output, threads = tmp_path / "results" / "ner.json", torch.get_num_threads()
    arguments = (
        f"--train {train} --dev {dev} --epochs 8 --batch 20 --lr 0.02 --limit 40 --seed 3 --seeds 1 --output {output}"
    )
    ner.main(arguments.split())
    printed, saved = capsys.readouterr().out, json.loads(output.read_text(encoding="utf-8"))
    assert torch.get_num_threads() == threads
    assert saved["command"] == f"python -m benchmarks.ner {arguments}"
    assert saved["versions"]["torch"] == torch.__version__
    assert saved["sentences"] == {"train": 40, "dev": 30}
    assert saved["labels"] == ["O", "person", "place"]
    assert saved["K"] == 3
    assert saved["options"]["seed"] == 3
    kinds = ner.SegmentTagger, ner.ChainTagger, ner.SoftmaxTagger
    assert [row["model"] for row in saved["results"]] == [t.name for t in kinds]
    assert list(saved["summary"]) == [t.name for t in kinds]
    assert output.with_suffix(".png").stat().st_size > 5000
    for row in saved["results"]:
        assert row["ece"] == row["certainty"]["marginal"]["plain"]["ece"]
        for way in row["certainty"].values():
            for stage in (way["plain"], way["tempered"]):
                assert 0 <= stage["ece"] <= 1
                assert sum(n for _, _, n in stage["bins"]) == sum(s["predicted"] for s in row["per_type"].values())
        assert row["model"] in printed
        assert row["f1"] > 0.9
        assert sum(scores["gold"] for scores in row["per_type"].values()) > 30
    assert str(output) in printed


def test_the_same_seed_gives_the_same_scores(tmp_path):
    train = made_up(tmp_path / "train.conll", 20, seed=0)
    saved = []
    for name in ("a.json", "b.json"):
        ner.main(f"--train {train} --dev {train} --epochs 1 --seeds 1 --output {tmp_path / name}".split())
        saved.append(json.loads((tmp_path / name).read_text(encoding="utf-8"))["results"])
    for a, b in zip(*saved, strict=True):
        assert (a["loss"], a["f1"], a["per_type"]) == (b["loss"], b["f1"], b["per_type"])


def test_taggers_forbid_what_their_schemes_do_not_have():
    names = ["O", "person", "place"]
    gold = to_segments([(["Ada", "in", "New", "York"], ["B-person", "O", "B-place", "I-place"])], names)
    rules = ner.SegmentTagger(names, gold, 3).head(4).constraints
    assert rules is not None
    assert rules.duration is not None
    assert rules.duration.tolist() == [[True, True, True], [False, True, True], [False, True, True]]
    chain = ner.ChainTagger(names, gold)
    assert chain.tags == ["O", "B-person", "I-person", "B-place", "I-place"]
    assert chain.gold.tolist() == [[1, 0, 3, 4]]
    rules = chain.head(4).constraints
    assert rules is not None
    assert rules.transition is not None
    assert rules.start is not None
    assert rules.start.tolist() == [True, True, False, True, False]
    before = [{p for p, allowed in enumerate(column) if allowed} for column in rules.transition.T.tolist()]
    assert before == [{0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}, {1, 2}, {0, 1, 2, 3, 4}, {3, 4}]


def test_an_entity_is_as_probable_as_its_tags_together():
    names = ["O", "person"]
    tagger = ner.SoftmaxTagger(names, to_segments([(["Ada"], ["B-person"])], names))
    probability = torch.tensor([[[0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05]], [[0.7, 0.2, 0.1]] * 3])
    lengths = torch.tensor([3, 1])
    found = tagger.entities(probability.argmax(-1), lengths)
    assert found.tolist() == [[(0, 2, 1), (2, 3, 0)], [(0, 1, 0)]]
    expected = torch.tensor([[0.4, 0.9, 0.0], [0.7, 0.0, 0.0]]).double()[:, : found.start.shape[-1]]
    torch.testing.assert_close(taggers.product(tagger.tags_of(found), probability, found), expected)
    batch = confidence.Found([0, 1], probability.log(), lengths, found, found)
    certain = tagger.confidences(nn.Identity())[taggers.MARGINAL]
    torch.testing.assert_close(certain(batch, 1.0), expected)
    squared = (2 * probability.log()).softmax(-1)
    expected = torch.stack([squared[0, 0, 1] * squared[0, 1, 2], squared[0, 2, 0]]).double()
    torch.testing.assert_close(certain(batch, 0.5)[0, :2], expected)


@pytest.mark.parametrize("T", [1.0, 2.0])
def test_a_segment_and_a_chain_are_as_sure_as_enumeration_says(T):
    names = ["O", "person"]
    gold = to_segments([(["Ada", "in"], ["B-person", "O"])], names)
    for tagger in (ner.SegmentTagger(names, gold, 2), ner.ChainTagger(names, gold)):
        torch.manual_seed(0)
        head = tagger.head(4).double()
        hidden, lengths = torch.randn(1, 3, 4, dtype=torch.float64), torch.tensor([3])
        for parameter in head.parameters():
            nn.init.normal_(parameter)
        predicted = tagger.decode(head, hidden, lengths)
        ways = tagger.confidences(head)
        found = confidence.Found([0], hidden, lengths, predicted, predicted)
        p = head(hidden, lengths).with_temperature(T)
        every = p.enumerate_support()
        weight = p.score(every).exp()[:, 0] / p.score(every).exp().sum()
        rows = [row[0] for row in every.tolist()]
        for i, segment in enumerate(predicted.tolist()[0]):
            if isinstance(tagger, ner.SegmentTagger):
                expected = sum(w for w, row in zip(weight.tolist(), rows, strict=True) if segment in row)
            else:
                tags, expected = tagger.tags_of(predicted)[0].tolist(), 1.0
                for t in range(segment[0], segment[1]):
                    expected *= sum(w for w, row in zip(weight.tolist(), rows, strict=True) if row[t][2] == tags[t])
            assert ways[taggers.MARGINAL](found, T)[0, i].item() == pytest.approx(expected, rel=1e-9)
        assert ways[taggers.VITERBI](found, T)[0, 0] <= 1


def test_a_temperature_is_fitted_on_one_half_and_judged_on_the_other():
    n, generator = 4000, torch.Generator().manual_seed(0)
    odds = torch.randn(n, generator=generator, dtype=torch.float64)
    right = torch.rand(n, generator=generator) < odds.sigmoid()
    gold = Segments.from_list([[(0, 1, 1 if r else 2)] for r in right.tolist()])
    predicted = Segments.from_list([[(0, 1, 1)]] * n)
    batch = confidence.Found(list(range(n)), odds[:, None], torch.ones(n, dtype=torch.int64), predicted, gold)
    found = confidence.judged([batch], lambda b, t: (4 * b.hidden / t).sigmoid())
    assert found is not None
    assert all(3 < t < 5.4 for t in found["temperatures"])
    assert found["tempered"]["ece"] < 0.03 < 0.1 < found["plain"]["ece"]
    assert found["tempered"]["brier"] < found["plain"]["brier"]
    assert confidence.judged([batch._replace(which=[0] * n)], lambda b, t: b.hidden.sigmoid()) is None
    rows = [{"model": "m", "certainty": {"x": found, "y": None}}] * 2
    assert confidence.certainty(rows)["m, x"]["plain ece"] == [found["plain"]["ece"], 0.0]
    assert list(confidence.certainty(rows)) == ["m, x"]
    assert f"{found['tempered']['ece']:.3f}" in confidence.report(confidence.certainty(rows))


def test_batches_hold_every_sentence_once_and_drop_words_in_training_only(tmp_path):
    sentences = read_conll(made_up(tmp_path / "train.conll", 23, seed=0))
    counts = Counter(w.lower() for s in sentences for w in s.tokens)
    corpus = ner.Corpus(sentences, counts, {"a": 2})
    for generator in (None, torch.Generator().manual_seed(0)):
        batches = list(corpus.batches(5, generator))
        assert sorted(i for batch in batches for i in batch.index) == list(range(23))
        for batch in batches:
            assert batch.lengths.tolist() == [len(sentences[i].tokens) for i in batch.index]
            words = batch.words[batch.type_of]
            real = torch.arange(words.shape[1]) < batch.lengths[:, None]
            assert ((words == ner.PAD) == ~real).all()
            assert generator is not None or (words[real] != ner.UNKNOWN).all()
    assert (corpus.drop[1:] > 0).all()
    assert corpus.drop[0] == 0


def test_empty_files_are_refused(tmp_path):
    empty = tmp_path / "empty.conll"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="--train and --dev: got 0 and 0 sentences"):
        ner.main(f"--train {empty} --dev {empty} --output {tmp_path / 'x.json'}".split())


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the WNUT-17 data, which lies outside the repository")
def test_a_short_run_on_real_data(tmp_path):
    output = tmp_path / "ner.json"
    paths = f"--train {DATA / 'train.conll'} --dev {DATA / 'dev.conll'}"
    ner.main(f"{paths} --limit 300 --epochs 4 --seeds 1 --output {output}".split())
    saved = json.loads(output.read_text(encoding="utf-8"))
    dev = read_conll(DATA / "dev.conll")[:300]
    for row in saved["results"]:
        assert row["loss"] < 10  # it begins above 40
        gold = {name: scores["gold"] for name, scores in row["per_type"].items()}
        assert gold == {name: sum(f"B-{name}" in tag for s in dev for tag in s.tags) for name in saved["labels"][1:]}
