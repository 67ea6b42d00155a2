"""The tables of chunks and of accuracy, at small sizes, and their sections of the report."""

from __future__ import annotations

import pytest

from benchmarks import accuracy, chunks, summary
from semicrf.engine import chunks as engine
from semicrf.engine.dispatch import BACKENDS

pytestmark = pytest.mark.skipif("cpu" not in BACKENDS, reason="numba is not installed")


@pytest.mark.parametrize("quantity", chunks.SEMIRINGS)
def test_a_row_of_chunks(monkeypatch, quantity):
    monkeypatch.setattr(engine, "WORK", 1)
    monkeypatch.setattr(engine, "SHARE", 1)
    row = chunks.measure("random", quantity, 1000, 8, 3, 0.0)
    assert row["chunks"] == engine.MOST
    assert row["repairs"] == 0
    assert row["apart"] < 1e-12
    assert row["chunks_ms"] > 0
    assert engine.WORK == 1
    still = chunks.measure("never mixing", quantity, 1000, 8, 3, 0.0)
    assert still["chunks"] == 1
    for found in (row, still):
        assert f"{found['chunks']:>7}" in chunks.table([found])
    results = {"size": [1000, 8, 3], "rows": [row], "about": {"command": "this", "machine": "that"}}
    assert f"| random | {quantity} | {engine.MOST} | 0 |" in summary.chunks("a.json", results)


def test_a_row_of_accuracy():
    row = accuracy.measure("drifting", 500, 8, 3)
    assert 0 < row["log Z"] < 1e-6
    assert 0 < row["entropy"] < 1e-6
    assert 0 < row["position"] < 1e-6
    results = {"size": [8, 3], "accuracy": [row], "about": {"command": "this", "machine": "that"}}
    assert "| drifting | 500 |" in summary.accuracy("a.json", results)
