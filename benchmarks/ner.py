"""Named entities in noisy text: segments against BIO tags, on one encoder: scores, and whether probabilities hold.

    python -m benchmarks.ner --train ../shared/data/wnut17/train.conll --dev ../shared/data/wnut17/dev.conll

Three heads on the same encoder: a semi-Markov CRF over ``O`` and entity types (an entity is one segment, each ``O``
token is a segment of its own), a linear-chain CRF over BIO tags, which is the same head with segments of one position,
and a softmax over BIO tags. All have the same number of epochs, the same batches and the same encoder sizes; nothing is
selected on the dev file, whose scores after the last epoch are printed and saved. Only the temperatures of the
probabilities are fitted there, on each half of the file for the other one (`confidence.py`).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import semicrf
from benchmarks.confidence import Found, certainty, draw, judged, report
from benchmarks.taggers import MARGINAL, ChainTagger, SegmentTagger, SoftmaxTagger, Tagger
from benchmarks.tasks import summary
from semicrf.errors import bad_input
from semicrf.io import EntityScores, Sentence, entity_scores, read_conll, tag_names, to_segments
from semicrf.segments import Segments

WORD, CHAR, CHARS, HIDDEN = 100, 30, 50, 100  # sizes: word and character embeddings, character filters, each LSTM
LONGEST_WORD = 20  # characters
PAD, UNKNOWN = 0, 1
OPTIONS = ("epochs", "batch", "seed", "seeds", "lr", "dropout", "limit")
RESULTS = Path(__file__).parent / "results" / "ner.json"


# ------------------------------------------------------------------------------------------------------------- inputs
def shape_features(word: str) -> list[float]:
    """What a word looks like: capitals, digits, marks of social media."""
    return [
        float(flag)
        for flag in (
            word.islower(), word.isupper(), word[:1].isupper(), word[1:] != word[1:].lower(), word.isalpha(),
            word.isdigit(), any(c.isdigit() for c in word), not any(c.isalnum() for c in word), "-" in word[1:],
            word.startswith("@"), word.startswith("#"), word.lower().startswith(("http", "www")), not word.isascii(),
        )
    ]  # fmt: skip


@dataclass
class Batch:
    """``B`` sentences of up to ``T`` words, ``U`` different ones; word 0 of `types` is padding."""

    index: list[int]  # which sentences
    lengths: Tensor  # (B,)
    type_of: Tensor  # (B, T): row of the word in the three below
    words: Tensor  # (U,) ids
    chars: Tensor  # (U, W) ids
    shapes: Tensor  # (U, F)


class Corpus:
    """Sentences as ids; the vocabulary is that of the training sentences."""

    def __init__(self, sentences: Sequence[Sentence], counts: Counter[str], chars: dict[str, int]):
        ids = {w: i for i, w in enumerate((w for w, n in counts.items() if n >= 2), 2)}
        types = {w: i for i, w in enumerate(dict.fromkeys(w for s in sentences for w in s.tokens), 1)}
        self.sentences = [torch.tensor([types[w] for w in s.tokens]) for s in sentences]
        self.words = torch.tensor([PAD] + [ids.get(w.lower(), UNKNOWN) for w in types])
        spelled = [[chars.get(c, UNKNOWN) for c in w[:LONGEST_WORD]] for w in ["", *types]]
        self.chars = torch.tensor([row + [PAD] * (LONGEST_WORD - len(row)) for row in spelled])
        self.shapes = torch.tensor([shape_features(w) for w in ["", *types]])
        # An unseen word must look like something that training has seen: words become UNKNOWN, rare ones more often.
        rare = torch.tensor([0.0] + [0.25 / (0.25 + counts[w.lower()]) for w in types])
        self.drop = torch.where(self.words == UNKNOWN, 0.0, rare)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Sentences of about one length together; with a generator shuffled, and words dropped."""
        lengths = torch.tensor([len(s) for s in self.sentences]).float()
        if generator is not None:
            lengths += 2 * torch.rand(len(lengths), generator=generator)
        chunks = lengths.argsort(stable=True).split(size)
        order = range(len(chunks)) if generator is None else torch.randperm(len(chunks), generator=generator).tolist()
        for i in order:
            yield self.batch(chunks[i].tolist(), generator)

    def batch(self, index: list[int], generator: torch.Generator | None) -> Batch:
        """The sentences at `index`."""
        rows = [self.sentences[i] for i in index]
        types, inverse = nn.utils.rnn.pad_sequence(rows, batch_first=True).unique(return_inverse=True)
        words = self.words[types]
        if generator is not None:
            words = torch.where(torch.rand(len(types), generator=generator) < self.drop[types], UNKNOWN, words)
        lengths = torch.tensor([len(row) for row in rows])
        return Batch(index, lengths, inverse, words, self.chars[types], self.shapes[types])


# -------------------------------------------------------------------------------------------------------------- models
class Encoder(nn.Module):
    """Word embedding, character CNN and shape, through a bidirectional LSTM: ``(B, T, 2 * HIDDEN)``."""

    def __init__(self, num_words: int, num_chars: int, dropout: float):
        super().__init__()
        self.word = nn.Embedding(num_words, WORD, padding_idx=PAD)
        self.char = nn.Embedding(num_chars, CHAR, padding_idx=PAD)
        self.convolution = nn.Conv1d(CHAR, CHARS, kernel_size=3, padding=1)
        self.lstm = nn.LSTM(WORD + CHARS + len(shape_features("")), HIDDEN, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.word.weight, std=WORD**-0.5)

    def forward(self, batch: Batch) -> Tensor:
        """Features of each position; those past a length are zeros."""
        filtered = self.convolution(self.char(batch.chars).transpose(1, 2)).relu()
        spelling = filtered.masked_fill((batch.chars == PAD)[:, None], 0.0).amax(-1)
        types = torch.cat([self.word(batch.words), spelling, batch.shapes], -1)
        words = self.dropout(nn.functional.embedding(batch.type_of, types))
        packed = nn.utils.rnn.pack_padded_sequence(words, batch.lengths, batch_first=True, enforce_sorted=False)
        return self.dropout(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


# ----------------------------------------------------------------------------------------------------------------- run
def train_and_score(tagger: Tagger, train: Corpus, dev: Corpus, gold: Segments, seed: int, options: Any) -> dict:
    """Train one model and score it: what goes into the results."""
    torch.manual_seed(seed)
    encoder = Encoder(options.num_words, options.num_chars, options.dropout)
    head = tagger.head(2 * HIDDEN)
    began, used = time.perf_counter(), time.process_time()
    loss = fit(tagger, encoder, head, train, seed, options)
    trained = time.perf_counter()
    encoder.eval()
    with torch.no_grad():
        held = [found(tagger, head, encoder(batch), batch, gold) for batch in dev.batches(options.batch)]
        decoded = time.perf_counter()
        certainty = {name: judged(held, of) for name, of in tagger.confidences(head).items()}
    rows = {i: row for batch in held for i, row in zip(batch.which, batch.predicted.tolist(), strict=True)}
    scores = entity_scores(gold, Segments.from_list([rows[i] for i in range(len(rows))]), tagger.names)
    marginal = certainty[MARGINAL]
    return {
        "model": tagger.name,
        "seed": seed,
        **_plain(scores),
        "ece": marginal and marginal["plain"]["ece"],  # of the entities that are predicted; None where there are none
        "brier": marginal and marginal["plain"]["brier"],
        "certainty": certainty,
        "loss": loss,
        "parameters": sum(p.numel() for p in [*encoder.parameters(), *head.parameters()]),
        "train_seconds": round(trained - began, 1),
        "decode_seconds": round(decoded - trained, 1),
        "cpu_seconds": round(time.process_time() - used, 1),  # of both: what the two above would be on an idle machine
    }


def fit(tagger: Tagger, encoder: Encoder, head: nn.Module, train: Corpus, seed: int, options: Any) -> float:
    """Train; the mean loss of the last epoch."""
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=options.lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, options.epochs)
    generator, mean = torch.Generator().manual_seed(seed), 0.0
    with tqdm(range(options.epochs), desc=f"{tagger.name}, seed {seed}", unit="epoch") as epochs:
        for _ in epochs:
            losses = []
            for batch in train.batches(options.batch, generator):
                optimiser.zero_grad()
                loss = tagger.loss(head, encoder(batch), batch.index, batch.lengths)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 5.0)
                optimiser.step()
                losses.append(loss.item())
            decay.step()
            mean = sum(losses) / len(losses)
            epochs.set_postfix(loss=f"{mean:.3f}")
    return mean


def found(tagger: Tagger, head: nn.Module, hidden: Tensor, batch: Batch, gold: Segments) -> Found:
    """What is decoded of a batch, beside what is true."""
    predicted = tagger.decode(head, hidden, batch.lengths)
    return Found(batch.index, hidden, batch.lengths, predicted, gold[batch.index])


def _plain(scores: EntityScores) -> dict:
    return scores._asdict() | {"per_type": {name: s._asdict() for name, s in scores.per_type.items()}}


def run(options: argparse.Namespace) -> dict:
    """Every model and seed on one pair of files."""
    train, dev = (read_conll(path)[: options.limit] for path in (options.train, options.dev))
    if not train or not dev:
        raise bad_input("--train and --dev", f"{len(train)} and {len(dev)} sentences", "at least one in each")
    names = tag_names([*train, *dev])
    gold, dev_gold = to_segments(train, names), to_segments(dev, names)
    K = min(int(gold.durations.max()), options.longest)
    counts = Counter(w.lower() for s in train for w in s.tokens)
    chars = {c: i for i, c in enumerate(sorted({c for s in train for w in s.tokens for c in w}), 2)}
    options.num_words, options.num_chars = 2 + sum(n >= 2 for n in counts.values()), 2 + len(chars)
    corpora = Corpus(train, counts, chars), Corpus(dev, counts, chars)
    taggers = SegmentTagger(names, gold, K), ChainTagger(names, gold), SoftmaxTagger(names, gold)
    seeds = range(options.seed, options.seed + options.seeds)
    rows = [train_and_score(tagger, *corpora, dev_gold, seed, options) for seed in seeds for tagger in taggers]
    draw(options.output.with_suffix(".png"), rows)
    return {
        "command": " ".join(["python -m benchmarks.ner", *options.argv]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "semicrf": semicrf.__version__},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "sentences": {"train": len(train), "dev": len(dev)},
        "labels": names,
        "K": K,
        "options": {name: getattr(options, name) for name in OPTIONS},
        "summary": summary(rows, ["f1", "precision", "recall"]),
        "certainty": certainty(rows),
        "results": rows,
    }


def main(argv: Sequence[str]) -> None:
    """Run, print and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ner", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train", required=True, help="a CoNLL file: token, tab, BIO tag")
    parser.add_argument("--dev", required=True, help="the same, to score on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64, help="sentences in a batch")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--lr", type=float, default=4e-3, help="learning rate of Adam, which decays to a tenth")
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--longest", type=int, default=8, help="at most this many words in an entity (K)")
    parser.add_argument("--limit", type=int, help="read only so many sentences of each file")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the steps are small, two wait for each other")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go, as json")
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        results = run(argparse.Namespace(**vars(options), argv=list(argv)))
    finally:
        torch.set_num_threads(threads)
    print(f"{'':32}{'precision':>10}{'recall':>10}{'F1':>10}{'ECE':>8}{'Brier':>8}{'train s':>10}{'CPU s':>10}")
    for row in results["results"]:
        scores = "".join(f"{100 * row[key]:10.2f}" for key in ("precision", "recall", "f1"))
        scores += "".join("       -" if row[key] is None else f"{row[key]:8.3f}" for key in ("ece", "brier"))
        seconds = "".join(f"{row[key]:10.1f}" for key in ("train_seconds", "cpu_seconds"))
        print(f"{row['model']:32}{scores}{seconds}")
    print(report(results["certainty"]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"saved to {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
