"""Regimes of a time series: change points that are known, found by one encoder under three decoders; and any CSV file.

    python -m benchmarks.timeseries                                  # simulated regimes with known truth
    python -m benchmarks.timeseries --csv flow.csv --columns flow    # change points of a file, without training

Simulated: a hidden semi-Markov process. Regimes differ in mean, spread and memory so little that single positions are
ambiguous, and last for times of their own; the decoders see the features of the same convolutional encoder, trained
from the same seed on the same batches: (a) a softmax at each position, (b) a linear chain, (c) segments.

A file: a segment model with one label and nothing learned. A segment scores the log-likelihood of its values under a
normal distribution with the segment's own mean (and, with ``--cost meanvar``, its own variance), less a penalty;
values are scaled first by the spread of their differences. ``--truth`` names a column whose changes are the true change
points.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from benchmarks.tasks import Batch, about, contenders, fit, options_of, picture, report, save, summary
from semicrf import SegmentPotentials, SemiCRFDistribution
from semicrf.errors import bad_input
from semicrf.io import read_table
from semicrf.metrics import boundary_scores, covering, hausdorff, position_scores, segment_scores
from semicrf.segments import Segments

NAMES = ["calm", "high", "rough", "drift"]
MEAN, SPREAD, MEMORY = (0.0, 0.7, 0.0, -0.5), (1.0, 1.0, 1.6, 1.0), (0.0, 0.0, 0.3, 0.5)
SHORTEST, LONGER = (
    (20, 10, 8, 30),
    (10.0, 4.0, 4.0, 15.0),
)  # durations: at least, and the mean of what is Poisson on top
METRICS = ("position F1", "boundary F1", "segment F1", "covering")
TOLERANCE = 3


# ------------------------------------------------------------------------------------------------------------ simulated
def simulate(B: int, T: int, generator: torch.Generator) -> Batch:
    """Series ``(B, T, 1)`` and their regimes."""
    rows, series = [], torch.zeros(B, T)
    for b in range(B):
        row, at, label, value = [], 0, int(torch.randint(4, (), generator=generator)), 0.0
        while at < T:
            longer = int(torch.poisson(torch.tensor(LONGER[label]), generator=generator))
            end = min(at + SHORTEST[label] + longer, T)
            row.append((at, end, label))
            noise = torch.randn(end - at, generator=generator) * SPREAD[label]
            for t, step in enumerate(noise.tolist(), at):
                value = MEMORY[label] * value + step
                series[b, t] = MEAN[label] + value
            at, label = end, (label + 1 + int(torch.randint(3, (), generator=generator))) % 4
        rows.append(row)
    return Batch(series[..., None], Segments.from_list(rows), torch.full((B,), T))


class Encoder(nn.Module):
    """Three convolutions over time: features ``(B, T, D)`` of some 30 positions around each."""

    def __init__(self, inputs: int, dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(inputs, dim, 7, padding=3), nn.ReLU(),
            nn.Conv1d(dim, dim, 5, padding=4, dilation=2), nn.ReLU(),
            nn.Conv1d(dim, dim, 5, padding=8, dilation=4), nn.ReLU(),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs.transpose(1, 2)).transpose(1, 2)


def scores(gold: Segments, predicted: Segments) -> dict[str, float]:
    """Every measure of one set of predictions."""
    far = hausdorff(gold, predicted)
    return {
        "position F1": position_scores(gold, predicted, range(len(NAMES))).f1,
        "boundary F1": boundary_scores(gold, predicted, TOLERANCE).f1,
        "segment F1": segment_scores(gold, predicted, TOLERANCE).f1,
        "covering": covering(gold, predicted).mean().item(),
        "hausdorff (median)": far.median().item(),
    }


def simulated(options: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Three decoders, several seeds."""
    T, K, dim, B, tests = (100, 50, 8, 8, 8) if options.quick else (400, 80, 32, 16, 100)
    rows, shown = [], {}
    for seed in range(options.seed, options.seed + options.seeds):
        test = simulate(tests, T, torch.Generator().manual_seed(1_000_000 + seed))
        for name, make, faster in contenders(len(NAMES), dim, K):
            torch.manual_seed(seed)
            encoder, decoder, draws = Encoder(1, dim), make(), torch.Generator().manual_seed(seed)
            draw = partial(simulate, B, T, draws)
            loss, seconds = fit(encoder, decoder, draw, options.steps, options.lr, faster, f"{name}, seed {seed}")
            with torch.no_grad():
                decoded = decoder.decode(encoder(test.inputs), test.lengths)
            for model, predicted in decoded.items():
                row = {"model": model, "seed": seed, "loss": loss, "seconds": round(seconds, 1)}
                rows.append(row | scores(test.gold, predicted))
                shown |= {"truth": test.gold[0], model: predicted[0]} if seed == options.seed else {}
    found = summary(rows, METRICS)
    print(report(found, METRICS))
    curve = simulate(1, T, torch.Generator().manual_seed(1_000_000 + options.seed)).inputs[0, :, 0]
    picture(options.output.with_suffix(".png"), (0, T), shown, NAMES, found, curve)
    return about("timeseries", options, argv) | {"T": T, "K": K, "summary": found, "results": rows}


# ---------------------------------------------------------------------------------------------------------------- files
def segment_likelihood(values: Tensor, K: int, penalty: float, cost: str) -> Tensor:
    """``(T, K, 1)``: the log-likelihood of the segment that starts at t and has k positions, less the penalty.

    Prefix sums of the values ``(T, F)`` and of their squares give every segment's mean and variance.
    """
    T, F = values.shape
    values = values - values.mean(0)  # a prefix sum loses what a large mean adds
    zero = values.new_zeros(1, F)
    total, square = (torch.cat([zero, x.cumsum(0)]) for x in (values, values.square()))
    start, k = torch.arange(T)[:, None], torch.arange(1, K + 1)
    end = (start + k).clamp(max=T)  # what passes the end is not read
    n = k[:, None].to(values.dtype)
    rest = square[end] - square[start] - (total[end] - total[start]).square() / n  # of squares around the mean
    rest = rest.clamp(min=0.0)  # a sum of squares, rounded
    if cost == "mean":
        score = -0.5 * rest.sum(-1) - 0.5 * F * n[:, 0] * math.log(2 * math.pi)
    else:
        variance = (rest / n).clamp(min=1e-2)  # of scaled values: below it a few equal values would score without bound
        score = (-0.5 * (rest / variance + n * (2 * math.pi * variance).log())).sum(-1)
    return (score - penalty)[..., None]


def scaled(values: Tensor) -> Tensor:
    """Values ``(T, F)`` over the spread of their noise: a robust one of the differences of neighbours."""
    steps = values.diff(dim=0)
    spread = 1.4826 / math.sqrt(2) * (steps - steps.median(0).values).abs().median(0).values
    return values / torch.where(spread > 0, spread, values.std(0).clamp(min=1e-12))


def change_points(values: Tensor, K: int, penalty: float, cost: str = "mean") -> SemiCRFDistribution:
    """The distribution over segmentations of values ``(T, F)`` into segments of up to K positions."""
    potentials = SegmentPotentials(segment_likelihood(values, K, penalty, cost)[None])
    return SemiCRFDistribution(potentials)


def from_file(options: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Change points of a CSV file."""
    table = read_table(options.csv, options.columns)
    if table.values.isnan().any():
        row = int(table.values.isnan().any(-1).nonzero()[0])
        raise bad_input(f"{options.csv}, row {row}", "an empty field", "a number", "fill or drop what is missing.")
    T, F = table.values.shape
    K = min(options.longest or T, T)
    penalty = options.penalty if options.penalty is not None else (F + 1) * math.log(T)
    p = change_points(scaled(table.values), K, penalty, options.cost)
    best = p.argmax[0].trim()
    probability = p.marginals.boundary[0]
    found = {
        "columns": table.names, "T": T, "K": K, "penalty": penalty, "cost": options.cost,
        "change points": best.start.tolist()[1:],
        "probability": [round(x, 4) for x in probability[best.start].tolist()[1:]],
    }  # fmt: skip
    if options.truth is not None:
        marks = read_table(options.csv, [options.truth]).values[:, 0]
        gold = Segments.from_labels(marks.unique(return_inverse=True)[1])
        found["scores"] = {
            "boundary F1": boundary_scores(gold, best, TOLERANCE).f1,
            "covering": covering(gold, best).item(),
            "hausdorff": hausdorff(gold, best).item(),
        }
    print(found)
    _draw(options.output.with_suffix(".png"), table.values, table.names, best, probability)
    return about("timeseries", options, argv) | found


def _draw(path: Path, values: Tensor, names: Sequence[str], best: Segments, probability: Tensor) -> None:
    """The series, its change points, and the probability of a change at each position."""
    F = values.shape[1]
    figure, axes = plt.subplots(F + 1, 1, figsize=(10, 1.5 * (F + 1)), sharex=True, layout="constrained")
    for ax, column, name in zip(axes, values.T, names, strict=False):
        ax.plot(column.tolist(), linewidth=0.8, color="#222222")
        ax.set_ylabel(name)
        for start in best.start.tolist()[1:]:
            ax.axvline(start - 0.5, color="#D55E00", linewidth=0.8)
    axes[-1].bar(range(1, len(probability)), probability[1:].tolist(), width=1.0, color="#0072B2")
    axes[-1].set(ylim=(0, 1), ylabel="P(change)", xlabel="position")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture in {path}")


def main(argv: Sequence[str]) -> None:
    """Run, print and save."""
    parser = options_of("timeseries", __doc__ or "", steps=400, lr=5e-3, seeds=5)
    parser.add_argument("--csv", type=Path, help="a file with a header, one row a position; nothing is trained then")
    parser.add_argument("--columns", nargs="+", help="of the file; all columns of numbers by default")
    parser.add_argument("--truth", help="a column whose changes are the true change points")
    parser.add_argument("--penalty", type=float, help="of a segment; (F + 1) log T by default, F columns")
    parser.add_argument("--cost", choices=("mean", "meanvar"), default="mean", help="what a segment has of its own")
    parser.add_argument("--longest", type=int, help="K; T by default")
    options = parser.parse_args(argv)
    if options.quick:
        options.steps, options.seeds = min(options.steps, 60), 1
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save(options.output, (from_file if options.csv else simulated)(options, argv))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main(sys.argv[1:])
