"""How sure a tagger is of the entities it found, before and after one temperature, which is fitted and then tested.

Ways to be sure of an entity: the model's own probability of it (the marginal), and, as is often done with a CRF because
it is cheap, the softmax of the scores at each position along the best path, which knows nothing of transitions.

The temperature divides every score of the model. It has to be fitted on sentences whose answers are known and judged on
others: the file is cut in two, each half is judged with the temperature of least Brier score on the other one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from semicrf.metrics import Calibration, matches, reliability
from semicrf.segments import Segments

TEMPERATURES = tuple(2 ** (i / 8) for i in range(-8, 25))  # 0.5..8


class Found(NamedTuple):
    """A batch of sentences: which ones, their features, the entities that were found, and what is true."""

    which: list[int]
    hidden: Tensor  # (B, T, D)
    lengths: Tensor  # (B,)
    predicted: Segments  # (B,)
    gold: Segments  # (B,)


Confidence = Callable[[Found, float], Tensor]  # (B, N) of the predicted segments, at a temperature


def judged(batches: Sequence[Found], confidence: Confidence) -> dict[str, Any] | None:
    """Calibration of the entities without a temperature and with one; None where none is found in one of the halves."""
    kept = [batch.predicted.mask & (batch.predicted.label > 0) for batch in batches]
    half = torch.cat(
        [(torch.tensor(b.which)[:, None] % 2).expand(k.shape)[k] for b, k in zip(batches, kept, strict=True)]
    )
    if not 0 < int(half.sum()) < len(half):
        return None
    correct = torch.cat([matches(b.gold, b.predicted)[k] for b, k in zip(batches, kept, strict=True)])

    def at(temperature: float) -> Tensor:
        found = [confidence(b, temperature)[k] for b, k in zip(batches, kept, strict=True)]
        return torch.cat(found).double()

    table = torch.stack([at(t) for t in TEMPERATURES])  # (temperatures, entities)
    error = (table - correct.double()).square()
    best = [int(error[:, half == h].mean(1).argmin()) for h in (0, 1)]  # where it is fitted
    tempered = torch.where(half == 0, table[best[1]], table[best[0]])
    return {
        "plain": described(reliability(at(1.0), correct)),
        "tempered": described(reliability(tempered, correct)),
        "temperatures": [TEMPERATURES[i] for i in best],
    }


def described(curve: Calibration) -> dict[str, Any]:
    """Two numbers, and of each bin the mean probability, the part that is right, and how many are in it."""
    columns = (x.tolist() for x in (curve.confidence, curve.accuracy, curve.count))
    return {"ece": curve.ece, "brier": curve.brier, "bins": [list(row) for row in zip(*columns, strict=True)]}


def certainty(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Of each model and way to be sure, over the seeds: mean and standard deviation, 0 where there is one seed."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for way, of in row["certainty"].items():
            for stage in ("plain", "tempered") if of else ():
                for metric in ("ece", "brier"):
                    own = values.setdefault(f"{row['model']}, {way}", {})
                    own.setdefault(f"{stage} {metric}", []).append(of[stage][metric])
    return {
        name: {m: [statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else 0.0] for m, v in of.items()}
        for name, of in values.items()
    }


def report(found: dict[str, dict[str, list[float]]]) -> str:
    """A table of means and spreads."""
    metrics = list(next(iter(found.values()), {}))
    lines = [f"{'':52}" + "".join(f"{m:>18}" for m in metrics)]
    for name, of in found.items():
        lines.append(f"{name:52}" + "".join(f"{of[m][0]:10.3f} ± {of[m][1]:.3f}" for m in metrics))
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Reliability of the probabilities of entities, all seeds together: as they are, and with a temperature."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.5), layout="constrained", sharey=True)
    for ax, stage in zip(axes, ("plain", "tempered"), strict=True):
        bins: dict[str, list[list[float]]] = {}
        for row in rows:
            for way, of in row["certainty"].items():
                bins.setdefault(f"{row['model']}, {way}", []).extend(of[stage]["bins"] if of else [])
        ax.plot([0, 1], [0, 1], color="#B8B8B8", linewidth=1)
        for name, found in bins.items():
            p, right, count = torch.tensor(found, dtype=torch.float64).reshape(-1, 3).T
            of = (10 * p).long().clamp(max=9)
            total, x, y = (torch.bincount(of, weights=w, minlength=10) for w in (count, count * p, count * right))
            kept = total > 0
            style = "--" if "Viterbi" in name else "-"
            ax.plot((x / total)[kept], (y / total)[kept], style, marker="o", markersize=4, label=name)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of an entity", title=stage)
    axes[0].set_ylabel("part that is right")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture in {path}")
