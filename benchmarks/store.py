"""What is kept of a run: one json file by suite and machine, without paths and host names."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
VERSION = 1

_TIMING = {"min_ms": float, "median_ms": float, "iqr_ms": float, "rounds": int}
_RATIO = {"min": float, "median": float}
SCHEMA: dict[str, Any] = {
    "version": int,
    "suite": str,
    "verified": bool,
    "date": str,
    "commit": (str, None),
    "changed": (bool, None),
    "device": str,
    "threads": int,
    "versions": {"python": str, "torch": str, "numba": (str, None), "triton": (str, None), "numpy": str},
    "peers": dict,
    "plan": {"budget": float, "least": int, "most": int},
    "machine_ratio": dict,
    "rows": list,
    "memory": list,
}
ROW: dict[str, Any] = {
    "shape": list,
    "quantity": str,
    "kernel": bool,
    "data": str,
    "dtype": str,
    "backend": str,
    "threads": int,
    "goal_ms": (float, int, None),
    "stretch_ms": (float, int, None),
    "prototype_limit": (float, None),
    "published_ms": dict,
    "ours": {**_TIMING, "first_ms": float},
    "beside": (dict, None),
    "against": (dict, None),
    "peers": dict,
}
STATUS = ("timed", "differs", "absent", "declines", "failed")


def check(results: dict[str, Any]) -> None:
    """Raise `ValueError` where results are not of the schema."""
    _check(results, SCHEMA, "results")
    for i, row in enumerate(results["rows"]):
        _check(row, ROW, f"rows[{i}]")
        if row["against"] is not None:
            _check(row["against"], {"quantity": str, "timing": _TIMING, "ratio": _RATIO}, f"rows[{i}].against")
        for name, peer in row["peers"].items():
            where = f"rows[{i}].peers[{name}]"
            if peer.get("status") not in STATUS:
                raise ValueError(f"{where}.status: got {peer.get('status')!r}; expected one of {STATUS}")
            timed = peer["status"] == "timed"
            _check(peer, {"timing": _TIMING, "ratio": _RATIO} if timed else {"reason": str}, where)


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: got {value!r}; expected a dict")
        for key, inner in schema.items():
            if key not in value:
                raise ValueError(f"{where}: {key!r} is missing")
            _check(value[key], inner, f"{where}.{key}")
        return
    allowed = schema if isinstance(schema, tuple) else (schema,)
    if not any(value is None if kind is None else type(value) is kind for kind in allowed):
        raise ValueError(f"{where}: got {value!r}; expected {allowed}")


# ----------------------------------------------------------------------------------------------------------- machine
def device_name(device: str) -> str:
    """The model of the processor, which is no one's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def tag(device: str, threads: int) -> str:
    """Of a machine, for a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{device} {threads} threads".lower()).strip("-")


def versions() -> dict[str, str | None]:
    """Of everything that is part of what is timed."""
    packages = ("torch", "numba", "triton", "numpy")
    return {"python": platform.python_version(), **{name: installed(name) for name in packages}}


def installed(name: str) -> str | None:
    """A package's version, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> tuple[str | None, bool | None]:
    """The commit, and whether the working tree differs from it; (None, None) outside a repository."""
    answers = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", *command], cwd=RESULTS.parent, capture_output=True, text=True, check=True
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            return None, None
        answers.append(done.stdout.strip())
    return answers[0], bool(answers[1])


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def path_of(results: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Where results lie."""
    return folder / f"{results['suite']}-{tag(results['device'], results['threads'])}.json"


def save(results: dict[str, Any], path: Path) -> None:
    """Check and write."""
    check(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """Read and check."""
    results = json.loads(path.read_text(encoding="utf-8"))
    check(results)
    return results
