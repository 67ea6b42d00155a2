"""``python -m benchmarks.accuracy``: float32 against float64, by length, over families of models.

The same scores, which float32 holds exactly, through the public interface in both types: log Z and entropy relative to
their size, the largest difference of a position's probability anywhere along the sequence.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import families, tasks
from semicrf import FactoredPotentials, SemiCRFDistribution

FAMILIES = ("random", "peaked", "far apart", "drifting", "planted", "sticky", "stickier", "never mixing")
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)


def answers(parts: families.Parts, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Log Z, entropy and the probabilities of labels by position, in one type."""
    given: dict[str, Any] = {n: t[0].to(device, dtype) for n, t in parts.items()}
    given["emission"].requires_grad_()
    d = SemiCRFDistribution(FactoredPotentials(**given), validate_args=False)
    log_z, entropy = d.log_partition, d.entropy().detach()
    (position,) = torch.autograd.grad(log_z, given["emission"])
    return {"log Z": log_z.detach(), "entropy": entropy, "position": position}


def measure(family: str, T: int, K: int, C: int, device: str = "cpu") -> dict[str, Any]:
    """A row of the table."""
    parts = families.FAMILIES[family][0](families.random(0, T, K, C))
    parts = {n: t.float() for n, t in parts.items()}
    single, double = (answers(parts, dtype, device) for dtype in (torch.float32, torch.float64))
    apart = {n: (single[n].double() - x).abs().amax() for n, x in double.items()}
    for name in ("log Z", "entropy"):
        apart[name] = apart[name] / double[name].abs().clamp(min=1.0)
    return {"family": family, "T": T, **{n: float(x) for n, x in apart.items()}}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(50, 8), metavar=("K", "C"))
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=tasks.RESULTS / "accuracy.json")
    given = parser.parse_args()
    asked = [(family, T) for family in FAMILIES for T in LENGTHS if given.longest >= T]
    K, C = given.size
    rows = [measure(family, T, K, C, given.device) for family, T in tqdm(asked)]
    for r in rows:
        numbers = "".join(f"{r[n]:>11.1e}" for n in ("log Z", "entropy", "position"))
        print(f"{r['family']:14}{r['T']:>9}{numbers}")
    about = tasks.about("accuracy", given, sys.argv[1:])
    tasks.save(given.output, {"about": about, "size": given.size, "accuracy": rows})


if __name__ == "__main__":
    main()
