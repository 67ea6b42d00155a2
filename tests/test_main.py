"""``python -m semicrf``: what it prints and writes, and how it fails."""

from __future__ import annotations

import importlib.metadata
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import semicrf
from semicrf import __main__ as job


def size_of_png(path: Path) -> tuple[int, int]:
    start = path.read_bytes()[:24]
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", start[16:])


def test_the_main_job(tmp_path):
    root = str(Path(semicrf.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "semicrf"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("semicrf: compiling ")]  # once a machine
    assert (done.returncode, said) == (0, [])
    for line in (
        rf"semicrf {re.escape(semicrf.__version__)}, torch \S+, python \S+, numba \S+, triton .+",
        r"backend \w+ \(here: [\w, ]+\), float64 on cpu",
        r"  log-partition   -?\d+\.\d{6}",
        r"  entropy         \d+\.\d{6} nats",
        r"truth  \|-.*\|-.*",
        r"best   \|-.*\|-.*",
        r"    %   .*\d+.*",
        r"  entropy             \d\.\de-?\+?\d+",
        rf"Picture: {re.escape(str((tmp_path / 'semicrf.png').resolve()))}",
    ):
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), f"no line {line!r} in\n{done.stdout}"
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= max(100, len(str(tmp_path)) + 40)
    assert size_of_png(tmp_path / "semicrf.png") == (1500, 840)


def test_the_seed_decides_everything(capsys, monkeypatch):
    monkeypatch.setattr(job, "picture", lambda *_: True)

    def run(seed: int) -> str:
        assert job.main(["--seed", str(seed)]) == 0
        return capsys.readouterr().out.rpartition("\n  segment marginals")[0]  # the time is behind

    assert run(1) == run(1) != run(2)


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "semicrf.png"
    assert job.main(["--out", str(out)]) == 0
    assert "No picture: matplotlib is not installed. To get it: pip install semicrf[plots]" in capsys.readouterr().out
    assert not out.exists()


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", list)
    assert job.versions().endswith("triton not installed")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/such/folder.png", "No such file or directory"), ("a.foo", "Format 'foo' is not supported")],
)
def test_a_picture_that_cannot_be_written_is_a_failure(tmp_path, capsys, name, reason):
    assert job.main(["--out", str(tmp_path / name)]) == 1
    printed = capsys.readouterr()
    assert re.search(f"No picture: .*{reason}.* Likely fix: --out", printed.err)
    assert "Picture:" not in printed.out


def test_a_difference_from_enumeration_is_a_failure(tmp_path, capsys, monkeypatch):
    score = job.score
    monkeypatch.setattr(job, "score", lambda parts, path: score(parts, path) * (1 + 1e-9))
    monkeypatch.setattr(job, "picture", lambda *_: True)
    assert job.main([]) == 1
    assert re.search(r"log-partition +\S+  FAILED: expected at most 1e-12", capsys.readouterr().out)


def test_a_backend_that_is_not_there_is_an_error(capsys):
    assert job.main(["--backend", "abacus"]) == 2
    assert "python -m semicrf: backend: got 'abacus'; expected one of" in capsys.readouterr().err


def test_the_example_is_a_posterior():
    truth, p = job.example(torch.Generator().manual_seed(0))
    assert (p.T, p.K, p.C, p.dtype) == (job.T, job.K, job.C, torch.float64)
    assert torch.equal(truth.to_boundaries(job.T).nonzero()[0], torch.tensor([0]))
    assert p.log_prob(truth).isfinite()
    labels = truth.label[: int(truth.count)]
    assert (labels[1:] != labels[:-1]).all()  # as the prior has it
