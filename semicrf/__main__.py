"""The library's main job: ``python -m semicrf`` shows it at work on a small model and checks it against enumeration.

A segmentation is drawn from a prior over labels and durations, and a noisy signal from the segmentation. Given the
signal, the posterior is a semi-Markov CRF once more: everything printed and drawn is computed from it, exactly.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import semicrf
from semicrf import BackendError, FactoredPotentials, Segments, SemiCRFDistribution
from semicrf.engine.dispatch import BACKENDS
from semicrf.terminal import ribbon

T, K, C = 60, 12, 4
NOISE = 0.5
"""The standard deviation of the signal, whose mean is the label: 0, 1, 2 or 3."""
TOLERANCE = 1e-12
"""Relative to max(1, expected): enumeration and recursion add the same few hundred terms in another order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 1 where the library disagrees with enumeration or the picture cannot be written; 0 otherwise."""
    began = time.perf_counter()
    options = _parser().parse_args(arguments)
    device = torch.device("cuda" if options.backend == "triton" and torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(options.seed)
    try:
        truth, p = example(generator, options.backend, device)
        print(f"{versions()}\nbackend {p.backend} (here: {', '.join(BACKENDS)}), ", end="")
        print(f"{str(p.dtype).removeprefix('torch.')} on {device}\n")
        describe(p, truth)
        agrees = check(generator, options.backend, device)
        drawn = picture(p, truth, generator, options.out)
    except BackendError as error:
        print(f"python -m semicrf: {error}", file=sys.stderr)
        return 2
    print(f"{time.perf_counter() - began:.1f} s")
    return 0 if agrees and drawn else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m semicrf",
        description="Show semicrf at work on a small model, check it against enumeration, and draw one picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random")
    parser.add_argument("--out", type=Path, default=Path("semicrf.png"), metavar="PATH", help="where the picture goes")
    parser.add_argument("--backend", default="auto", help="auto, reference, blocked or cpu (a part of this), triton")
    return parser


def versions() -> str:
    """What runs here."""
    found = {"semicrf": semicrf.__version__, "torch": torch.__version__, "python": platform.python_version()}
    installed = {d.name for d in importlib.metadata.distributions()}
    for name in ("numba", "triton"):
        found[name] = importlib.metadata.version(name) if name in installed else "not installed"
    return ", ".join(f"{name} {version}" for name, version in found.items())


# ------------------------------------------------------------------ a model, and what it says
def example(
    generator: torch.Generator, backend: str = "auto", device: torch.device | str = "cpu"
) -> tuple[Segments, SemiCRFDistribution]:
    """A segmentation drawn from a prior, and the posterior over segmentations given a noisy signal of its labels.

    The prior: neighbours differ, and the durations of each label are Poisson, around 3, 5, 7 and 9.
    """
    transition = torch.zeros(C, C, dtype=torch.float64).fill_diagonal_(-math.inf)
    k = torch.arange(1, K + 1, dtype=torch.float64)[:, None]
    rate = torch.tensor([3.0, 5.0, 7.0, 9.0], dtype=torch.float64)
    duration = k * rate.log() - rate - torch.lgamma(k + 1)

    def model(emission: Tensor) -> SemiCRFDistribution:
        parts = (t.to(device) for t in (emission, transition, duration))
        return SemiCRFDistribution(FactoredPotentials(*parts), backend=backend)

    truth = model(torch.zeros(T, C, dtype=torch.float64)).sample(generator=generator).to("cpu")
    labels = truth.to_labels(T).double()
    signal = labels + NOISE * torch.randn(T, dtype=torch.float64, generator=generator)
    log_likelihood = -(((signal[:, None] - torch.arange(C)) / NOISE) ** 2) / 2
    return truth, model(log_likelihood)


@torch.no_grad()
def describe(p: SemiCRFDistribution, truth: Segments) -> None:
    """Print the main quantities, and the best segmentation beside the true one."""
    entropy, best, digits = p.entropy().item(), p.argmax, p.log_count.item() / math.log(10)
    rows = {"truth": truth, "best": best}
    probable = {name: replace(y, probability=p.marginals.segment(y).cpu()) for name, y in rows.items()}
    print(f"A noisy signal of T = {T} positions; segments of up to K = {K} positions with one of C = {C} labels.")
    print(f"  segmentations   10^{digits:.1f} are possible")
    print(f"  log-partition   {p.log_partition.item():.6f}")
    print(f"  entropy         {entropy:.6f} nats")
    print(f"  perplexity      {p.perplexity().item():.0f} equally probable segmentations would be as uncertain")
    print(f"  log p(best)     {p.log_prob(best).item():.6f}")
    print(f"  log p(truth)    {p.log_prob(truth).item():.6f}")
    print("\nEach segment with its probability, in percent:\n")
    print(ribbon(probable, width=min(shutil.get_terminal_size((100, 24)).columns, 140)))
    same = (truth.to_labels(T) == best.to_labels(T).cpu()).double().mean().item()
    found = len(set(truth.tolist()) & set(best.tolist()))
    print(f"\n  best has {same:.0%} of the positions right, and {found} of the {int(truth.count)} segments exactly")


# ------------------------------------------------------------------ against enumeration
@torch.no_grad()
def check(generator: torch.Generator, backend: str = "auto", device: torch.device | str = "cpu") -> bool:
    """Print how far the library is from enumeration, on a tiny model with every kind of score; whether it is near."""
    t, k, c = 6, 4, 2
    shapes = {
        "emission": (t, c), "transition": (c, c), "duration": (k, c), "duration_transition": (k, c, c),
        "start": (c,), "end": (c,), "segment_start": (t, c), "segment_end": (t, c),
    }  # fmt: skip
    parts = {n: torch.randn(shape, dtype=torch.float64, generator=generator) for n, shape in shapes.items()}
    expected, paths = enumerated(parts, t, k, c)
    moved: dict[str, Any] = {n: x.to(device) for n, x in parts.items()}
    p = SemiCRFDistribution(FactoredPotentials(**moved), backend=backend)
    got = {
        "log-partition": p.log_partition, "entropy": p.entropy(), "max": p.max,
        "boundary marginals": p.marginals.boundary, "position marginals": p.marginals.position,
        "segment marginals": p.marginals.segments,
    }  # fmt: skip
    print(f"\nDifferences from enumeration, relative, with T = {t}, K = {k}, C = {c} and {paths} segmentations:")
    agrees = True
    for name, value in expected.items():
        error = ((got[name].cpu() - value).abs() / value.abs().clamp(min=1)).max().item()
        near = error <= TOLERANCE  # false for NaN
        agrees &= near
        print(f"  {name:18}  {error:7.1e}" + ("" if near else f"  FAILED: expected at most {TOLERANCE:g}"))
    return agrees


def enumerated(parts: dict[str, Tensor], t: int, k: int, c: int) -> tuple[dict[str, Tensor], int]:
    """The quantities by their definitions, from the list of all segmentations, and how many those are."""
    paths = list(tilings(0, t, k, c))
    scores = torch.stack([score(parts, path) for path in paths])
    probability = (scores - scores.logsumexp(0)).exp()
    boundary, position = torch.zeros(t, dtype=torch.float64), torch.zeros(t, c, dtype=torch.float64)
    segment = torch.zeros(t, k, c, dtype=torch.float64)
    for path, weight in zip(paths, probability, strict=True):
        for start, end, label in path:
            boundary[start] += weight
            position[start:end, label] += weight
            segment[start, end - start - 1, label] += weight
    values = {
        "log-partition": scores.logsumexp(0), "entropy": -(probability * probability.log()).sum(), "max": scores.max(),
        "boundary marginals": boundary, "position marginals": position, "segment marginals": segment,
    }  # fmt: skip
    return values, len(paths)


def tilings(start: int, t: int, k: int, c: int) -> Iterator[list[tuple[int, int, int]]]:
    """Every list of (start, end, label) that tiles ``[start, t)``.

    >>> list(tilings(0, 2, 2, 1))
    [[(0, 1, 0), (1, 2, 0)], [(0, 2, 0)]]
    """
    if start == t:
        yield []
    for end in range(start + 1, min(start + k, t) + 1):
        for label in range(c):
            for rest in tilings(end, t, k, c):
                yield [(start, end, label), *rest]


def score(parts: dict[str, Tensor], path: Sequence[tuple[int, int, int]]) -> Tensor:
    """The score of one segmentation, as the library defines it."""
    total = parts["start"][path[0][2]] + parts["end"][path[-1][2]]
    for start, end, label in path:
        total = total + parts["emission"][start:end, label].sum() + parts["duration"][end - start - 1, label]
        total = total + parts["segment_start"][start, label] + parts["segment_end"][end - 1, label]
    for (_, _, previous), (start, end, label) in pairwise(path):
        total = total + parts["transition"][previous, label]
        total = total + parts["duration_transition"][end - start - 1, previous, label]
    return total


# ------------------------------------------------------------------ the picture
def picture(p: SemiCRFDistribution, truth: Segments, generator: torch.Generator, out: Path) -> bool:
    """Write the picture and say where, or say what is missing. False where it cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("\nNo picture: matplotlib is not installed. To get it: pip install semicrf[plots]")
        return True
    from semicrf import plots

    figure = Figure(figsize=(10, 5.6))  # not pyplot's, which may want a display
    title = "A segmentation behind a noisy signal: posterior of a semi-Markov CRF"
    plots.posterior(p, samples=5, truth=truth, generator=generator, title=title, figure=figure)
    try:
        figure.savefig(out, format=out.suffix[1:] or "png", dpi=150)
    except (OSError, ValueError) as error:  # no such folder, not writable; a format that matplotlib does not know
        print(f"\nNo picture: {error}. Likely fix: --out FOLDER/semicrf.png", file=sys.stderr)
        return False
    print(f"\nPicture: {out.resolve()}")
    return True


if __name__ == "__main__":
    sys.exit(main())
