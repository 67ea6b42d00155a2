"""What the tasks share: three ways to decode one encoder, training, several seeds, results, a picture."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import semicrf
from semicrf import plots
from semicrf.nn import SemiCRFHead
from semicrf.segments import Segments

RESULTS = Path(__file__).parent / "results"
SOFTMAX, CHAIN, SEGMENTS = "softmax at each position", "linear chain (K = 1)", "semi-Markov CRF"


class Batch(NamedTuple):
    """``B`` sequences of up to ``T`` positions."""

    inputs: Tensor  # (B, T, F)
    gold: Segments  # (B,)
    lengths: Tensor  # (B,)


class Decoder(Protocol):
    """What turns features ``(B, T, D)`` into segments."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def loss(self, hidden: Tensor, gold: Segments, lengths: Tensor) -> Tensor: ...
    def decode(self, hidden: Tensor, lengths: Tensor) -> dict[str, Segments]: ...


class Softmax(nn.Module):
    """A label for each position on its own; maximal runs of equal labels are the segments."""

    def __init__(self, num_labels: int, dim: int):
        super().__init__()
        self.projection = nn.Linear(dim, num_labels)

    def loss(self, hidden: Tensor, gold: Segments, lengths: Tensor) -> Tensor:
        """Cross-entropy, the mean over positions."""
        labels = gold.to_labels(hidden.shape[1])
        return nn.functional.cross_entropy(self.projection(hidden).transpose(1, 2), labels, ignore_index=-1)

    def decode(self, hidden: Tensor, lengths: Tensor) -> dict[str, Segments]:
        """Runs of the most probable labels."""
        return {SOFTMAX: Segments.from_labels(self.projection(hidden).argmax(-1), lengths)}


class Crf(nn.Module):
    """A semi-Markov CRF; with K = 1 a linear chain, whose segments are maximal runs of equal labels."""

    def __init__(self, num_labels: int, dim: int, K: int, duration: str | nn.Module = "free"):
        super().__init__()
        kind = "uniform" if K == 1 else duration
        self.head = SemiCRFHead(num_labels, K, dim, duration=kind, boundary_scores=K > 1)

    def loss(self, hidden: Tensor, gold: Segments, lengths: Tensor) -> Tensor:
        """The negative log-likelihood, the mean over positions; what is longer than K is cut."""
        return self.head.loss(hidden, gold, lengths, reduction="token_mean", split="K")

    def decode(self, hidden: Tensor, lengths: Tensor) -> dict[str, Segments]:
        """The most probable segmentation, and runs of the labels that are most probable at each position."""
        p = self.head(hidden, lengths)
        best, likely = p.argmax, Segments.from_labels(p.marginals.position.argmax(-1), lengths)
        if self.head.max_duration == 1:
            return {CHAIN: Segments.from_labels(best.to_labels(p.T), lengths), f"{CHAIN}, posterior": likely}
        return {SEGMENTS: best, f"{SEGMENTS}, posterior": likely}


def contenders(
    num_labels: int, dim: int, K: int, duration: str = "free"
) -> list[tuple[str, Callable[[], Decoder], float]]:
    """The three decoders: name, how to make one, and the rate of their transitions and durations over that of the rest.

    These parameters begin at 0 and have to become log-probabilities of -3 to -8. The rates were chosen for each model
    on a seed that no result uses: a linear chain is better with 1 (its best path has too few segments with 10),
    segments are better with 10.
    """
    return [
        (SOFTMAX, lambda: Softmax(num_labels, dim), 1.0),
        (CHAIN, lambda: Crf(num_labels, dim, 1), 1.0),
        (SEGMENTS, lambda: Crf(num_labels, dim, K, duration), 10.0),
    ]


def fit(
    encoder: nn.Module, decoder: Decoder, draw: Callable[[], Batch], steps: int, lr: float, faster: float, title: str,
    guide: Decoder | None = None, slow: str | None = "projection", decay: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Train both, with Adam whose rate falls to a tenth: the mean loss of the last tenth of the steps, and the seconds.

    The rate of the decoder's parameters, but for those with `slow` in their names, is `faster` times that of the
    encoder; by default it is that of transitions, durations, start and end. The loss of `guide`, where there is one, is
    added: it teaches the encoder alone. Weights of layers decay by `decay` times their rate at each step.
    """
    from tqdm import tqdm  # of the extra train: change points of a file need none of it

    named = list(decoder.named_parameters())
    fast = [(n, p) for n, p in named if slow is None or slow not in n]
    slowly = [*encoder.named_parameters(), *((n, p) for n, p in named if slow is not None and slow in n)]
    slowly += list(guide.named_parameters()) if guide else []
    groups = [
        {"params": [p for n, p in part if n.endswith("weight") == heavy], "lr": rate, "weight_decay": decay * heavy}
        for part, rate in ((slowly, lr), (fast, faster * lr))
        for heavy in (True, False)
    ]
    parameters = [p for _, p in [*slowly, *fast]]
    optimiser = torch.optim.AdamW(groups)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, steps)
    losses, began = [], time.perf_counter()
    with tqdm(range(steps), desc=title, unit="step") as progress:
        for _ in progress:
            batch = draw()
            optimiser.zero_grad()
            hidden = encoder(batch.inputs)
            loss = decoder.loss(hidden, batch.gold, batch.lengths)
            (loss + guide.loss(hidden, batch.gold, batch.lengths) if guide else loss).backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
            falling.step()
            losses.append(loss.item())
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail), time.perf_counter() - began


def summary(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Of each model and metric the mean over seeds and the standard deviation, 0 where there is one seed."""
    found = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        of = {m: [row[m] for row in rows if row["model"] == model] for m in metrics}
        found[model] = {m: [statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else 0.0] for m, v in of.items()}
    return found


def report(found: dict[str, dict[str, list[float]]], metrics: Sequence[str]) -> str:
    """A table of means and spreads."""
    lines = [f"{'':34}" + "".join(f"{m:>20}" for m in metrics)]
    for model, of in found.items():
        lines.append(f"{model:34}" + "".join(f"{mean:13.4f} ± {sd:.3f}" for mean, sd in (of[m] for m in metrics)))
    return "\n".join(lines)


def about(name: str, options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """What was run, on what, with which settings; where the results went is left out."""
    kept = [a for before, a in zip(["", *argv], argv, strict=False) if "--output" not in (before, a)]
    return {
        "command": " ".join([f"python -m benchmarks.{name}", *kept]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "semicrf": semicrf.__version__},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "options": {k: v for k, v in vars(options).items() if isinstance(v, int | float | str | None)},
    }


def save(path: Path, found: dict[str, Any]) -> None:
    """The results as json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"saved to {path}")


def options_of(name: str, doc: str, steps: int, lr: float, seeds: int) -> argparse.ArgumentParser:
    """The options that every task has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small simulated task, in seconds")
    parser.add_argument("--steps", type=int, default=steps, help="of the optimiser, for each model")
    parser.add_argument("--lr", type=float, default=lr, help="learning rate of Adam, which decays to a tenth")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from --seed on")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / f"{name}.json", help="json; the picture lies beside it"
    )
    return parser


def picture(
    path: Path,
    window: tuple[int, int],
    rows: dict[str, Segments],
    names: Sequence[str],
    found: dict[str, dict[str, list[float]]],
    curve: Tensor | None = None,
) -> None:
    """Ribbons of a window of one sequence under every model, above them the data, beside them the scores."""
    start, end = window
    heights = ([2] if curve is not None else []) + [0.5 * len(rows), 2]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(10, sum(heights) + 1), height_ratios=heights, layout="constrained"
    )
    if curve is not None:
        axes[0].plot(range(start, end), curve[start:end].tolist(), linewidth=0.8, color="#222222")
        axes[0].set_xlim(start, end)
        axes[0].set_ylabel("input")
    ribbons, scores = axes[-2], axes[-1]
    ribbons.set(xlim=(start, end), ylim=(len(rows) - 0.4, -0.6), xlabel="position")
    ribbons.set_yticks(range(len(rows)), list(rows), fontsize=8)
    for y, value in enumerate(rows.values()):
        cut = [(max(s, start), min(e, end), c) for s, e, c in value.tolist() if s < end and e > start]
        plots.segments(Segments.from_list(cut), names, ribbons, y=y)
    metrics = list(next(iter(found.values())))
    for i, (model, of) in enumerate(found.items()):
        width = 0.8 / len(found)
        at = [j + width * (i - (len(found) - 1) / 2) for j in range(len(metrics))]
        scores.bar(
            at, [of[m][0] for m in metrics], 0.9 * width, yerr=[of[m][1] for m in metrics], label=model, capsize=2
        )
    scores.set_xticks(range(len(metrics)), metrics, fontsize=8)
    figure.legend(*scores.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture in {path}")
