"""Who else computes it: each peer is one file with one class, and stands in one line of `PEERS`."""

from __future__ import annotations

from benchmarks.contender import Contender
from benchmarks.ours import Ours
from benchmarks.peers.eager import Eager
from benchmarks.peers.flash_semicrf import FlashSemicrf
from benchmarks.peers.synjax import Synjax
from benchmarks.peers.torch_struct import TorchStruct

PEERS: tuple[Contender, ...] = (
    Eager(),
    Ours("reference", backend="reference", longest=20_000),
    Synjax(),
    TorchStruct(),
    FlashSemicrf("float32"),
    FlashSemicrf("float64"),
)

OWN = ("eager", "reference")
"""Always there; where one of these differs from what is measured, something of ours is wrong."""
