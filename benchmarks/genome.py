"""Genes on both strands of a genome: one encoder under three decoders, trained on one half, tested on the other.

    python -m benchmarks.genome --genbank ../shared/data/genome/NC_000932.gb
    python -m benchmarks.genome --quick                              # a simulated genome, in seconds

Inputs are the bases and the open reading frames of both strands. Labels: intergenic, and on each strand what is coding
(CDS), what is a transfer RNA, and what else is in a gene (introns, other RNAs). Where genes overlap the later one
counts. Training draws windows of the first half, half of them as their reverse complement, where strands change places;
the test is the second half in one piece. Genes have up to 6,885 bases, all of which K = 7000 allows; a longer segment
would be cut in training and found in pieces. Durations are negative binomial: free ones of thousands of bases have
nothing to learn from in one half of one genome.

Both CRFs are trained with a softmax at each position beside them, which teaches the encoder and is thrown away: on
77,000 bases their likelihood alone teaches it too little (segments, with ``--validate``, 300 steps: nucleotide F1 0.51
without and 0.73 with it).

``--validate`` trains on the first three quarters of the first half and scores on the rest of it: to choose settings on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.codons import features, other_strand
from benchmarks.tasks import SOFTMAX, Batch, Softmax, about, contenders, fit, options_of, picture, report, save, summary
from semicrf.errors import bad_input
from semicrf.io import genbank_to_segments, read_genbank
from semicrf.metrics import boundary_scores, position_scores, segment_scores
from semicrf.segments import Segments

METRICS = ("nucleotide F1", "coding F1", "boundary F1", "gene F1", "exact gene F1")
NEAR = 30  # bases that the ends of a gene may be off
DIM = 32
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


def draw(genome: Genome, length: int, generator: torch.Generator) -> Batch:
    """A window, or its reverse complement."""
    length = min(length, len(genome.bases))
    start = int(torch.randint(len(genome.bases) - length + 1, (), generator=generator))
    part = window(genome, start, start + length)
    return batch_of([reverse_complement(part) if bool(torch.randint(2, (), generator=generator)) else part])


class Encoder(nn.Module):
    """Residual convolutions of growing dilation: features ``(B, T, DIM)`` of some hundred bases on either side."""

    def __init__(self, dilations: Sequence[int], dropout: float):
        super().__init__()
        self.first = nn.Conv1d(16, DIM, 9, padding=4)
        self.layers = nn.ModuleList(nn.Conv1d(DIM, DIM, 9, padding=4 * d, dilation=d) for d in dilations)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs.transpose(1, 2))
        for layer in self.layers:
            x = x + layer(self.dropout(x.relu()))
        return torch.cat([x.relu().transpose(1, 2), inputs[..., -4:]], -1)


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


def run(options: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Three decoders, several seeds."""
    whole = simulate(60, torch.Generator().manual_seed(0)) if options.quick else read(options.genbank)
    half = len(whole.bases) // 2
    train, test = window(whole, 0, half), window(whole, half, len(whole.bases))
    if options.validate:
        train, test = window(train, 0, 3 * half // 4), window(train, 3 * half // 4, half)
    K = 250 if options.quick else 7000
    held, T = batch_of([test]), len(test.bases)
    rows, shown = [], {"truth": held.gold[0]}
    for seed in range(options.seed, options.seed + options.seeds):
        for name, make, _ in contenders(len(NAMES), DIM, K, "negative_binomial"):
            torch.manual_seed(seed)
            encoder, decoder = Encoder((1, 3) if options.quick else (1, 3, 9, 27, 81), options.dropout), make()
            guide = None if name == SOFTMAX else Softmax(len(NAMES), DIM)
            drawn = partial(draw, train, options.window, torch.Generator().manual_seed(seed))
            title = f"{name}, seed {seed}"
            loss, seconds = fit(encoder, decoder, drawn, options.steps, options.lr, options.faster, title, guide)
            encoder.eval()
            with torch.no_grad():
                decoded = decoder.decode(encoder(held.inputs), held.lengths)
            for model, predicted in decoded.items():
                row = {"model": model, "seed": seed, "loss": loss, "seconds": round(seconds, 1)}
                rows.append(row | scores(held.gold, predicted, T))
                shown |= {model: predicted[0]} if seed == options.seed else {}
    found = summary(rows, METRICS)
    print(report(found, METRICS))
    middle = (T // 2, min(T, T // 2 + (1500 if options.quick else 12000)))
    picture(options.output.with_suffix(".png"), middle, shown, NAMES, found)
    data = {
        "train": len(train.bases),
        "test": T,
        "K": K,
        "genes in test": int((genes(held.gold, T).label > 0).sum()),
    }
    return about("genome", options, argv) | {"data": data, "summary": found, "results": rows}


def main(argv: Sequence[str]) -> None:
    """Run, print and save."""
    parser = options_of("genome", __doc__ or "", steps=300, lr=4e-3, seeds=5)
    parser.add_argument("--genbank", type=Path, help="a GenBank file; its first record is used")
    parser.add_argument("--window", type=int, default=8192, help="bases in a training step")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--faster", type=float, default=10.0, help="rate of transitions and durations over the others'")
    parser.add_argument(
        "--validate", action="store_true", help="hold out a part of the first half instead of the second"
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.steps, options.seeds, options.window = min(options.steps, 60), 1, 1024
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
