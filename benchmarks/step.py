"""A step of training of a small transformer encoder: under the head, and under a softmax at each position.

The encoder has the sizes of BERT-small (Turc et al. 2019: 4 layers, 512 features, 8 heads); on a GPU it runs under
bfloat16 autocast, as encoders are trained. A step is forward, loss, backward and Adam. What the head adds to a step is
the ratio of two rows. In eager mode both wait for the host, which starts one small operation after the other; captured
as a CUDA graph, a step takes what its work takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.contender import Answer, Contender, Prepared, Setting, array
from benchmarks.model import Model, planted
from semicrf.nn import SemiCRFHead

WIDTH, LAYERS, HEADS = 512, 4, 8
STEPS = ("training step", "training step, softmax", "training step as a graph", "training step as a graph, softmax")


class Step(Contender):
    """Both ends of an encoder, from features of positions to updated parameters."""

    name = "step"
    quantities: ClassVar[frozenset[str]] = frozenset(STEPS)

    def __init__(self, validate: bool | None = None):
        self.validate = validate

    def prepare(self, case: Case, model: Model, setting: Setting) -> Prepared:
        """The model gives its shape alone."""
        B, T, K, C = case.shape
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(B, T, WIDTH, generator=generator).to(setting.device)
        labels = torch.from_numpy(planted(case.shape, np.random.default_rng(0))).to(setting.device)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = make_encoder().to(setting.device)
            head = (
                nn.Linear(WIDTH, C)
                if case.quantity.endswith("softmax")
                else SemiCRFHead(C, K, WIDTH, validate_args=self.validate)
            )
            head = head.to(setting.device)
        graphed = "graph" in case.quantity
        parameters = [*encoder.parameters(), *head.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=1e-4, capturable=graphed)

        def run() -> Tensor:
            optimiser.zero_grad(set_to_none=not graphed)
            with torch.autocast(setting.device, torch.bfloat16, enabled=setting.device == "cuda"):
                hidden = encoder(inputs)
                if isinstance(head, SemiCRFHead):
                    loss = head.loss(hidden, labels, split="K", reduction="token_mean")
                else:
                    loss = nn.functional.cross_entropy(head(hidden).flatten(0, 1), labels.flatten())
            loss.backward()
            optimiser.step()
            return loss

        def read(result: Any) -> Answer:
            return {"value": array(result)}

        return Prepared(captured(run) if graphed else run, read)


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step as a CUDA graph, which reads the memory of all that the step holds: both are kept together."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def run(kept: Callable[[], Tensor] = step) -> Tensor:
        graph.replay()
        return loss

    return run


def make_encoder() -> nn.Module:
    """Features ``(B, T, WIDTH)`` to features."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
