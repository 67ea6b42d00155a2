"""Families of models, from those that forget how they began at once to those that never do; parts by name, float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

inf = float("inf")
Parts = dict[str, Tensor]


def random(seed: int, T: int, K: int, C: int, B: int = 1) -> Parts:
    """Every part that factors, of independent standard normal scores."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "emission": draw(B, T, C), "segment_start": draw(B, T, C), "segment_end": draw(B, T, C),
        "transition": draw(1, C, C), "duration": draw(1, K, C), "start": draw(1, C), "end": draw(1, C),
    }  # fmt: skip


def scaled(by: float) -> Callable[[Parts], Parts]:
    """Emissions times a number."""
    return lambda m: {**m, "emission": m["emission"] * by}


def drifting(m: Parts) -> Parts:
    """Label means that differ by 4 nats a position."""
    C = m["emission"].shape[-1]
    return {**m, "emission": m["emission"] - 4.0 * torch.arange(C) / max(C - 1, 1)}


def quiet(by: float) -> Callable[[Parts], Parts]:
    """A change of label costs `by`, and nothing tells labels apart."""

    def change(m: Parts) -> Parts:
        transition = torch.full_like(m["transition"], by)
        transition.diagonal(dim1=1, dim2=2).zero_()
        return {
            **m, "transition": transition, "emission": m["emission"][..., :1].expand_as(m["emission"]).clone(),
            "segment_start": torch.zeros_like(m["emission"]), "segment_end": torch.zeros_like(m["emission"]),
            "duration": m["duration"][..., :1].expand_as(m["duration"]).clone(),
        }  # fmt: skip

    return change


def half(first: bool) -> Callable[[Parts], Parts]:
    """One half forgets, the other does not: guesses are right at some cuts and wrong at others."""

    def change(m: Parts) -> Parts:
        changed, T = quiet(-18.0)(m), m["emission"].shape[1]
        part = slice(None, T // 2) if first else slice(T // 2, None)
        for name in ("emission", "segment_start", "segment_end"):
            changed[name] = changed[name].clone()
            changed[name][:, part] = 12 * m[name][:, part]
        return changed

    return change


def holes(m: Parts) -> Parts:
    """A fiftieth of all emissions forbidden."""
    at = torch.rand(m["emission"].shape, generator=torch.Generator().manual_seed(1)) < 0.02
    return {**m, "emission": m["emission"].masked_fill(at, -inf)}


def required(m: Parts) -> Parts:
    """A segment must start at every seventh position, and in the middle."""
    at = torch.zeros(m["emission"].shape[:2], dtype=torch.bool)
    at[:, ::7] = True
    at[:, at.shape[1] // 2] = True
    return {**m, "required": at}


def one_duration(m: Parts) -> Parts:
    """All segments of length K."""
    duration = m["duration"].clone()
    duration[:, :-1] = -inf
    return {**m, "duration": duration}


def planted(m: Parts) -> Parts:
    """Segments of two thirds of K, two nats a position above the others."""
    _, T, C = m["emission"].shape
    length = max(1, 2 * m["duration"].shape[1] // 3)
    label = torch.arange(T).div(length, rounding_mode="floor") % C
    return {**m, "emission": m["emission"] * 0.1 + 2.0 * torch.nn.functional.one_hot(label, C)}


FAMILIES: dict[str, tuple[Callable[[Parts], Parts], float]] = {
    "random": (lambda m: m, 1.0),
    "weak": (scaled(0.1), 1.0),
    "peaked": (scaled(10.0), 10.0),
    "far apart": (scaled(100.0), 100.0),
    "drifting": (drifting, 1.0),
    "planted": (planted, 1.0),
    "sticky": (quiet(-8.0), 1.0),
    "stickier": (quiet(-50.0), 1.0),
    "never mixing": (quiet(-inf), 1.0),
    "one duration": (one_duration, 1.0),
    "forgets at first": (half(first=True), 10.0),
    "forgets at last": (half(first=False), 10.0),
    "holes": (holes, 1.0),
    "required": (required, 1.0),
}
"""What is done to random parts, and the scale of their scores."""
