"""The page that stored runs become: who is ahead, what semirings cost, where and when it was measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks import __main__ as command
from benchmarks import figures, store, summary

TIMING = {"median_ms": 2.5, "iqr_ms": 0.1, "rounds": 9}


def row(quantity: str, ms: float, *, shape=(1, 8, 3, 2), published=None, peers=None, **more: Any) -> dict[str, Any]:
    timed = {
        name: {"status": "timed", "timing": {"min_ms": t, **TIMING}, "ratio": {"min": ms / t, "median": 1.0}}
        for name, t in (peers or {}).items()
    }
    return {
        "shape": list(shape), "quantity": quantity, "kernel": False, "data": "random", "dtype": "float64",
        "backend": "cpu", "threads": 1, "goal_ms": None, "stretch_ms": None, "prototype_limit": None,
        "published_ms": published or {}, "ours": {"min_ms": ms, **TIMING, "first_ms": 9.0}, "beside": None,
        "against": None, "peers": timed, **more,
    }  # fmt: skip


def run(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1, "suite": "cpu", "verified": False, "date": "2026-01-02T03:04:05+00:00", "commit": "a" * 40,
        "changed": True, "device": "A Processor", "threads": 2, "peers": {}, "machine_ratio": {}, "rows": list(rows),
        "versions": {"python": "3.11.7", "torch": "2.13.0", "numba": None, "triton": None, "numpy": "2.0"},
        "plan": {"budget": 1.0, "least": 3, "most": 9},
        "memory": [{"case": "(1, 8) max", "growth": 2.0, "limit": 1.0}],
    }  # fmt: skip


RUN = run(
    row("log-partition", 2.0, published={"synjax": 1.0, "old": 9.0}, peers={"eager": 1.5, "synjax": 4.0}),
    row("entropy", 5.0),
    row("log-partition + gradients", 4.0, published={"old": 3.0}),
    row("max + gradients", 6.0),
    row("max", 1.0, shape=(9, 9, 9, 9)),
)


def test_somebody_is_ahead_where_they_are_and_a_measurement_beats_what_is_published():
    assert summary.ahead(RUN) == [
        (
            "(1, 8, 3, 2) log-partition",
            "eager",
            2.0,
            1.5,
            True,
        ),  # synjax was slower in this run, so its figure is not read
        ("(1, 8, 3, 2) log-partition + gradients", "old", 4.0, 3.0, False),
    ]
    assert "Nowhere among the rows above." in summary.standing([], RUN)
    assert "No peer was timed" not in summary.standing([], RUN)
    assert "No peer was timed" in summary.standing([], run(row("max", 1.0)))


def test_what_a_semiring_costs_is_relative_to_the_log_partition_of_its_shape():
    assert summary.costs(RUN) == [((1, 8, 3, 2), "entropy", 2.5), ((1, 8, 3, 2), "max + gradients", 1.5)]


def test_a_page_says_where_and_when(tmp_path):
    stored, task = tmp_path / "cpu-a.json", tmp_path / "ner.json"
    store.save(RUN, stored)
    results = [
        {"model": "a", "precision": 0.5, "recall": 0.25, "f1": 0.4},
        {"model": "b", "precision": 0.25, "recall": 0.5, "f1": 0.3},
    ]
    certainty = {"a, marginal": {"plain ece": [0.2, 0.01]}, "b, marginal": {"plain ece": [0.1, 0.0]}}
    stored_task = {"command": "python -m x", "versions": {"torch": "2.0"}, "results": results, "certainty": certainty}
    task.write_text(json.dumps(stored_task))
    page = summary.write(tmp_path / "report", [stored, task])
    text = page.read_text()
    for part in ("A Processor", "2026-01-02", "aaaaaaaaaa with changes", "torch 2.13.0", "2 threads", "**unverified**"):
        assert part in text
    assert "numba" not in text
    assert "| a | **0.500** | 0.250 | **0.400** |" in text
    assert "| a, marginal | 0.200 ± 0.010 |" in text
    assert "| b, marginal | **0.100** |" in text  # of an error the least is the best
    assert "| (1, 8) max | 2.00 | 1 | **missed** |" in text
    for picture in ("sizes", "peers", "semirings"):
        assert f"](cpu-a.{picture}.png)" in text
        assert (page.parent / f"cpu-a.{picture}.png").stat().st_size > 2000


def test_pictures_hold_the_rows():
    figure = figures.peers(RUN)
    assert figure is not None
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}  # pyright: ignore[reportArgumentType]  an array
    assert lines["semicrf"] == [2.0, 4.0]
    assert lines["eager"] == [1.5]
    assert lines["synjax"] == [4.0]
    assert lines["old, published"] == [9.0, 3.0]
    bars = figures.semirings(RUN)
    assert bars is not None
    assert [bar.get_width() for bar in bars.axes[0].patches] == [2.5, 1.5]  # pyright: ignore[reportAttributeAccessIssue]  rectangles
    assert figures.sizes(run(row("max", 1.0))) is None


def test_the_command_writes_what_is_stored(tmp_path, capsys):
    assert command.main(["report", "--output", str(tmp_path)]) == 0
    assert "written: README.md" in capsys.readouterr().out
    text = (tmp_path / "README.md").read_text()
    for path in store.RESULTS.glob("*.json"):
        assert f"[{path.name}](../{path.name})" in text
