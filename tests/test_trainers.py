"""The programs of the page on trainers train, decode and save as plain code does."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from test_docs import PAGES, blocks

PAGE = "how-to/trainers.md"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Any:
    """What the page's blocks leave behind, and the folder that they ran in."""
    for library in ("lightning", "transformers", "accelerate"):
        pytest.importorskip(library, reason="this and others are in the extra dev")
    folder = tmp_path_factory.mktemp("trainers")
    scope: dict[str, Any] = {"__name__": "__page__"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # what these libraries do that newer versions of others deprecate is theirs; what our code does is not
        warnings.filterwarnings(
            "ignore", module=r"(lightning|pytorch_lightning|torchmetrics|transformers|accelerate)\b"
        )
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        for i, code in enumerate(blocks(PAGES[PAGE].read_text())):
            exec(compile(code, f"{PAGE}, block {i + 1}", "exec"), scope)
    return scope | {"folder": folder}


def test_lightning_trains_and_predicts_segments(program):
    assert program["before"] < 0.5 < 0.9 < program["after"]
    found, rows = program["found"], program["test"]
    assert found.to_labels(24).shape == (len(rows), 24)
    lengths = torch.stack([row["attention_mask"].sum() for row in rows])
    assert torch.equal(found.durations.sum(-1), lengths)
    assert found.probability is not None
    assert found.probability[found.mask].median() > 0.9


def test_hugging_face_trains_and_evaluates(program):
    first, last = program["first"], program["last"]
    assert last["eval_loss"] < 0.5 * first["eval_loss"]
    assert first["eval_segment_f1"] < 0.5 < 0.9 < last["eval_segment_f1"]
    rows = torch.utils.data.default_collate(program["test"])
    again = program["segmenter"].eval()(**rows)
    assert again["loss"].item() == pytest.approx(last["eval_loss"], rel=1e-4)
    assert program["segment_f1"](again["predicted"], rows["labels"]) == pytest.approx(last["eval_segment_f1"])


def test_what_hugging_face_saved_is_loaded(program):
    load_file = pytest.importorskip("safetensors.torch").load_file
    other = program["Segmenter"]()
    other.load_state_dict(load_file(program["folder"] / "run" / "tagger" / "model.safetensors"))
    for name, value in program["segmenter"].state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
