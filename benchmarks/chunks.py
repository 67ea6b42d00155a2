"""``python -m benchmarks.chunks``: time in chunks against one piece, over families of models.

One sequence on the CPU, log Z, best score and entropy; for each how many chunks there were, how many were run again,
what that took beside one piece in the same rounds, and how far the two answers are apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import families, tasks
from benchmarks.timing import Plan, interleaved
from semicrf.algebra import Entropy, Log, Max
from semicrf.compile import compiled
from semicrf.engine import chunks
from semicrf.engine.dispatch import BACKENDS

SEMIRINGS = {"log Z": (Log, 0), "best": (Max, 0), "entropy": (Entropy, 1)}


def scan(parts: families.Parts, semiring: Any, cut: bool, reports: list[chunks.Report] | None = None) -> torch.Tensor:
    """The value (d, 1), in chunks or in one piece."""
    (T, C), K = parts["emission"].shape[1:], parts["duration"].shape[1]
    work, chunks.WORK = chunks.WORK, chunks.WORK if cut else float("inf")
    try:
        with chunks.recording() as found:
            state = BACKENDS["cpu"].scan(compiled(semiring), [parts], torch.tensor([T]), T, K, C, False)
    finally:
        chunks.WORK = work
    if reports is not None:
        reports += found
    return state.value


def measure(name: str, quantity: str, T: int, K: int, C: int, budget: float) -> dict[str, Any]:
    """A row of the table."""
    parts = families.FAMILIES[name][0](families.random(0, T, K, C))
    semiring, field = SEMIRINGS[quantity]
    reports: list[chunks.Report] = []
    value, expected = scan(parts, semiring, True, reports)[field, 0], scan(parts, semiring, False)[field, 0]
    both: dict[str, Callable[[], Any]] = {n: partial(scan, parts, semiring, n == "chunks") for n in ("chunks", "one")}
    times = interleaved(both, Plan(budget, 3, 50))
    report = reports[0] if reports else chunks.Report(0, False)
    apart = 0.0 if value == expected else float(abs(value - expected) / max(1.0, abs(expected)))
    return {
        "family": name, "quantity": quantity, "chunks": report.chunks, "repairs": report.repairs,
        "disagreement": max(report.disagreements, default=0.0), "chunks_ms": times["chunks"].median_ms,
        "one_ms": times["one"].median_ms, "ratio": times["chunks"].min_ms / times["one"].min_ms, "apart": apart,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, aligned."""
    lines = [f"{'family':17}{'':9}{'chunks':>7}{'again':>6}{'ms':>9}{'one, ms':>9}{'ratio':>7}{'apart':>9}"]
    lines += [
        f"{r['family']:17}{r['quantity']:9}{r['chunks']:>7}{r['repairs']:>6}{r['chunks_ms']:>9.1f}{r['one_ms']:>9.1f}"
        f"{r['ratio']:>7.2f}{r['apart']:>9.0e}"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(200_000, 100, 24), metavar=("T", "K", "C"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each task")
    parser.add_argument("--output", type=Path, default=tasks.RESULTS / "chunks.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    asked = [(name, quantity) for name in families.FAMILIES for quantity in SEMIRINGS]
    T, K, C = given.size
    rows = [measure(name, quantity, T, K, C, given.budget) for name, quantity in tqdm(asked)]
    print(table(rows))
    tasks.save(given.output, {"about": tasks.about("chunks", given, sys.argv[1:]), "size": given.size, "rows": rows})


if __name__ == "__main__":
    main()
