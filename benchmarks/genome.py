"""Genes on both strands of a genome: one encoder under three decoders, trained on one half, tested on the other.

    python -m benchmarks.genome --genbank ../shared/data/genome/NC_000932.gb
    python -m benchmarks.genome --quick                              # a simulated genome, in seconds

Labels: intergenic, and on each strand what is coding (CDS), what is a transfer RNA, and what else is in a gene
(introns, other RNAs). Where genes overlap the later one counts. Inputs of all decoders: the bases, the open reading
frames of both strands, and marks at codons that start or stop (`codons.py`), through one convolution of nine bases; the
marks also go past it. Training draws windows of the first half, half of them as their reverse complement, where strands
change places; the test is the second half in one piece. Genes have up to 6,885 bases, all of which K = 7000 allows; a
longer segment would be cut in training and found in pieces.

Both CRFs begin with transitions as they are counted in the training half. Segments begin with log-normal durations of
the mean and spread there, and learn which remainder modulo 3 each label's durations have: a coding stretch is made of
codons. Both are trained with a softmax at each position beside them, which teaches the encoder and is thrown away.

``--validate`` is what settings were chosen on, for each decoder: it leaves out a quarter of the first half after the
other, trains on the rest and scores on the quarter. ``--layers 5`` is an encoder of some hundred bases on either side,
which 77,000 bases do not teach; ``--plain`` leaves out marks, counted transitions and the remainder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.codons import FEATURES, MARKS, by_rule, features, other_strand
from benchmarks.tasks import (
    CHAIN,
    SEGMENTS,
    SOFTMAX,
    Batch,
    Crf,
    Decoder,
    Softmax,
    about,
    fit,
    options_of,
    picture,
    report,
    save,
    summary,
)  # fmt: skip
from semicrf.durations import LogNormal
from semicrf.errors import bad_input
from semicrf.io import genbank_to_segments, read_genbank
from semicrf.metrics import boundary_scores, position_scores, segment_scores
from semicrf.segments import Segments

METRICS = ("nucleotide F1", "coding F1", "boundary F1", "gene F1", "exact gene F1")
NEAR = 30  # bases that the ends of a gene may be off
DIM = 32
WIDTH = DIM + MARKS  # of what decoders see
SETTINGS = {SOFTMAX: (1.0, 0.0), CHAIN: (1.0, 0.0), SEGMENTS: (10.0, 0.1)}
"""Of each decoder: its rate over that of the encoder, 1 or 10, and the decay of weights, 0 or 0.1; the better ones."""
NAMES = ["intergenic", "gene+", "gene-", "tRNA+", "tRNA-", "CDS+", "CDS-"]
CODING = (5, 6)
OTHER_STRAND = (0, 2, 1, 4, 3, 6, 5)  # of labels
Row = list[tuple[int, int, int]]


class Genome(NamedTuple):
    """Bases as ``ACGT`` indices ``(T,)``, 4 where unknown, and the segments that tile them."""

    bases: Tensor
    row: Row


def window(genome: Genome, start: int, end: int) -> Genome:
    """A part, its segments cut where it ends."""
    row = [(max(s, start) - start, min(e, end) - start, c) for s, e, c in genome.row if s < end and e > start]
    return Genome(genome.bases[start:end], row)


def reverse_complement(genome: Genome) -> Genome:
    """The other strand: A and T, C and G change places, and so do the labels of the two strands."""
    T = len(genome.bases)
    return Genome(other_strand(genome.bases), [(T - e, T - s, OTHER_STRAND[c]) for s, e, c in reversed(genome.row)])


def read(path: Path) -> Genome:
    """The first record of a GenBank file."""
    records = read_genbank(path)
    if not records or not records[0].sequence:
        raise bad_input(str(path), "no record with a sequence", "at least one", "download it with its sequence.")
    segments, names = genbank_to_segments(records[0], ["gene", "tRNA", "CDS"])
    assert names == NAMES
    index = {base: i for i, base in enumerate("ACGT")}
    return Genome(torch.tensor([index.get(base, 4) for base in records[0].sequence]), segments.tolist()[0])


def simulate(genes: int, generator: torch.Generator) -> Genome:
    """Genes of codons that are rich in G and C, from ATG to TAA, on either strand, in noise that is rich in A and T."""
    noise, codon = torch.tensor([0.35, 0.15, 0.15, 0.35]), torch.tensor([[0.2, 0.2, 0.5, 0.1], [0.3, 0.2, 0.2, 0.3]])

    def drawn(weights: Tensor, n: int) -> Tensor:
        return torch.multinomial(weights.expand(n, 4), 1, generator=generator)[:, 0]

    bases, row, at = [], [], 0
    for _ in range(genes):
        between, codons = (int(torch.randint(20, high, (), generator=generator)) for high in (120, 60))
        third = torch.stack([drawn(codon[0], codons), drawn(codon[1], codons), drawn(noise, codons)], 1).flatten()
        gene = torch.cat([torch.tensor([0, 3, 2]), third, torch.tensor([3, 0, 0])])
        forward = bool(torch.randint(2, (), generator=generator))
        gene = gene if forward else 3 - gene.flip(0)
        bases += [drawn(noise, between), gene]
        row += [(at, at + between, 0), (at + between, at + between + len(gene), CODING[not forward])]
        at = row[-1][1]
    return Genome(torch.cat(bases), row)


def batch_of(parts: Sequence[Genome]) -> Batch:
    """Parts of one length."""
    inputs = torch.stack([features(part.bases) for part in parts])
    return Batch(inputs, Segments.from_list([part.row for part in parts]), torch.full((len(parts),), inputs.shape[1]))


def draw(parts: Sequence[Genome], length: int, generator: torch.Generator) -> Batch:
    """A window of one of the parts, or its reverse complement."""
    length = min(length, max(len(part.bases) for part in parts))
    places = torch.tensor([max(0, len(part.bases) - length + 1) for part in parts]).float()
    genome = parts[int(torch.multinomial(places, 1, generator=generator))]
    start = int(torch.randint(len(genome.bases) - length + 1, (), generator=generator))
    part = window(genome, start, start + length)
    return batch_of([reverse_complement(part) if bool(torch.randint(2, (), generator=generator)) else part])


class Encoder(nn.Module):
    """A convolution, residual ones of growing dilation on it, and the marks behind: ``(B, T, WIDTH)``."""

    def __init__(self, layers: int, dropout: float, marked: bool):
        super().__init__()
        self.marked = marked
        self.first = nn.Conv1d(FEATURES, DIM, 9, padding=4)
        self.layers = nn.ModuleList(nn.Conv1d(DIM, DIM, 9, padding=4 * 3**i, dilation=3**i) for i in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        marks = inputs[..., -MARKS:] * float(self.marked)
        x = self.first(torch.cat([inputs[..., :-MARKS], marks], -1).transpose(1, 2))
        for layer in self.layers:
            x = x + layer(self.dropout(x.relu()))
        return torch.cat([x.relu().transpose(1, 2), 4 * marks], -1)  # binary logarithms again


class Periodic(nn.Module):
    """Durations whose probability also depends on their remainder: of 3, for what is made of codons."""

    row: Tensor

    def __init__(self, durations: LogNormal, period: int):
        super().__init__()
        self.durations = durations
        self.score = nn.Parameter(torch.zeros(period, durations.num_labels))
        self.register_buffer("row", torch.arange(1, durations.max_duration + 1) % period, persistent=False)

    def forward(self) -> Tensor:
        """Log-probabilities, ``(K, C)``."""
        return (self.durations() + self.score[self.row]).log_softmax(0)


def durations(rows: Sequence[Row], K: int) -> LogNormal:
    """Log-normal ones with the mean and the spread of the logarithms of those in the rows."""
    table = LogNormal(len(NAMES), K)
    with torch.no_grad():
        for c in range(len(NAMES)):
            own = torch.tensor([float(end - start) for row in rows for start, end, label in row if label == c]).log()
            if len(own) > 1 and own.std() > 0:
                table.location[c], table.log_scale[c] = own.mean(), own.std().log()
    return table


def transitions(rows: Sequence[Row], positions: bool) -> Tensor:
    """``(C, C)``: log-probabilities of the label of the next segment, or position, from counts plus a tenth."""
    count = torch.full((len(NAMES), len(NAMES)), 0.1)
    for row in rows:
        for start, end, label in row if positions else ():
            count[label, label] += end - start - 1
        for (_, _, a), (_, _, b) in pairwise(row):
            count[a, b] += 1
    return (count / count.sum(1, keepdim=True)).log()


def make(name: str, parts: Sequence[Genome], K: int, plain: bool) -> Decoder:
    """A decoder that begins with what is counted in the training parts, on both strands."""
    if name == SOFTMAX:
        return Softmax(len(NAMES), WIDTH)
    rows = [each.row for part in parts for each in (part, reverse_complement(part))]
    table = durations(rows, K)
    decoder = Crf(len(NAMES), WIDTH, 1 if name == CHAIN else K, table if plain else Periodic(table, 3))
    if not plain:
        with torch.no_grad():
            decoder.head.transition.copy_(transitions(rows, positions=name == CHAIN))
    return decoder


def genes(segments: Segments, T: int) -> Segments:
    """What is a gene of either strand, coding or not: maximal runs of strands."""
    return Segments.from_labels(torch.tensor([0, 1, 2, 1, 2, 1, 2])[segments.to_labels(T)])


def scores(gold: Segments, predicted: Segments, T: int) -> dict[str, float]:
    """Every measure of one prediction."""
    true, found = genes(gold, T), genes(predicted, T)
    return {
        "nucleotide F1": position_scores(true, found, [1, 2]).f1,
        "coding F1": position_scores(gold, predicted, CODING).f1,
        "boundary F1": boundary_scores(gold, predicted, NEAR).f1,
        "gene F1": segment_scores(true, found, NEAR, labels=[1, 2]).f1,
        "exact gene F1": segment_scores(true, found, labels=[1, 2]).f1,
        "genes found": segment_scores(true, found, labels=[1, 2]).predicted,
    }


def ruled(bases: Tensor) -> Segments:
    """The open reading frames of at least 300 bases, which nothing has to be learned for, and what is between them."""
    row, at = [], 0
    for start, end, strand in by_rule(bases, 300):
        row += [(at, start, 0)] * (start > at) + [(start, end, CODING[strand])]
        at = end
    return Segments.from_list([row + [(at, len(bases), 0)] * (at < len(bases))])


def splits(whole: Genome, validate: bool) -> list[tuple[list[Genome], Genome]]:
    """What to train on and what to test on: the halves, or each quarter of the first half after the rest of it."""
    T = len(whole.bases)
    if not validate:
        return [([window(whole, 0, T // 2)], window(whole, T // 2, T))]
    first, edges = window(whole, 0, T // 2), [T // 2 * i // 4 for i in range(5)]
    return [
        ([window(first, *part) for part in ((0, a), (b, T // 2)) if part[0] < part[1]], window(first, a, b))
        for a, b in pairwise(edges)
    ]


def trained(
    name: str, parts: Sequence[Genome], held: Batch, seed: int, options: argparse.Namespace
) -> tuple[dict[str, Segments], dict[str, float]]:
    """What a decoder, with an encoder of its own, finds on the held sequence; its loss and seconds."""
    torch.manual_seed(seed)
    encoder = Encoder(options.layers, options.dropout, not options.plain)
    decoder, guide = make(name, parts, options.longest, options.plain), Softmax(len(NAMES), WIDTH)
    drawn = partial(draw, parts, options.window, torch.Generator().manual_seed(seed))
    faster, decay = (
        b if a is None else a for a, b in zip((options.faster, options.decay), SETTINGS[name], strict=True)
    )
    loss, seconds = fit(
        encoder, decoder, drawn, options.steps, options.lr, faster, f"{name}, seed {seed}",
        None if name == SOFTMAX else guide, slow="projection" if options.plain else None, decay=decay,
    )  # fmt: skip
    encoder.eval()
    with torch.no_grad():
        return decoder.decode(encoder(held.inputs), held.lengths), {"loss": loss, "seconds": round(seconds, 1)}


def run(options: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Three decoders, several seeds."""
    whole = simulate(60, torch.Generator().manual_seed(0)) if options.quick else read(options.genbank)
    found, data = splits(whole, options.validate), []
    rows, shown = [], {}
    for fold, (parts, test) in enumerate(found):
        held, T = batch_of([test]), len(test.bases)
        data.append({"train": sum(len(part.bases) for part in parts), "test": T})
        data[-1]["genes in test"] = int((genes(held.gold, T).label > 0).sum())
        data[-1]["by rule"] = scores(held.gold, ruled(test.bases), T)
        for seed in range(options.seed, options.seed + options.seeds):
            for name in (SOFTMAX, CHAIN, SEGMENTS):
                decoded, about_it = trained(name, parts, held, seed, options)
                for model, predicted in decoded.items():
                    rows.append(
                        {"model": model, "seed": seed, "fold": fold, **about_it, **scores(held.gold, predicted, T)}
                    )
                    if (seed, fold) == (options.seed, 0):
                        shown |= {"truth": held.gold[0], model: predicted[0]}
    means = summary(rows, METRICS)
    print(report(means, METRICS))
    for each in data:
        print("open reading frames of 300 bases, without learning:", {m: round(each["by rule"][m], 4) for m in METRICS})
    T = data[0]["test"]
    middle = (T // 2, min(T, T // 2 + (1500 if options.quick else 12000)))
    picture(options.output.with_suffix(".png"), middle, shown, NAMES, means)
    return about("genome", options, argv) | {"data": data, "K": options.longest, "summary": means, "results": rows}


def main(argv: Sequence[str]) -> None:
    """Run, print and save."""
    parser = options_of("genome", __doc__ or "", steps=300, lr=4e-3, seeds=5)
    parser.add_argument("--genbank", type=Path, help="a GenBank file; its first record is used")
    parser.add_argument("--window", type=int, default=8192, help="bases in a training step")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--faster", type=float, help="rate of a decoder over its encoder's; one for each by default")
    parser.add_argument("--decay", type=float, help="of the weights of layers; one for each decoder by default")
    parser.add_argument("--layers", type=int, default=0, help="of dilated convolutions, on the first one")
    parser.add_argument("--longest", type=int, default=7000, help="bases of a segment: K")
    parser.add_argument("--plain", action="store_true", help="without marks, counted transitions and remainders")
    parser.add_argument("--validate", action="store_true", help="leave out quarters of the first half, not the second")
    options = parser.parse_args(argv)
    if options.quick:
        options.steps, options.seeds, options.window, options.longest = min(options.steps, 60), 1, 1024, 250
    elif options.genbank is None:
        parser.error("--genbank FILE, or --quick for a simulated genome")
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save(options.output, run(options, argv))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main(sys.argv[1:])
