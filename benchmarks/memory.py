"""Peak memory beyond the inputs, each figure in a process of its own: python -m benchmarks.memory SUITE ROW T.

On the CPU it is resident memory, because allocations come from torch, numpy and numba alike and no allocator's own
count sees all of them: Linux keeps the high-water mark (VmHWM), which is set back to what is in use after a warm-up on
a short model and after the inputs are there. ru_maxrss cannot be set back, so compiling would hide everything. glibc is
told to give large blocks back at once; else what the warm-up freed would be used again unseen. On a GPU it is torch's
allocator, which sees all. Two lengths are measured and their difference divided by that of the emissions: what does
not depend on T (code, stacks, pages) falls out. Memory that is taken and never written is not resident and does not
count.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import SUITES, Case, MemoryCase, Suite
from benchmarks.contender import Setting
from benchmarks.model import draw
from benchmarks.ours import Ours

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # fixed, where glibc adapts them


def resident(key: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {key}")


def peak(run: Callable[[], Any], device: str) -> int:
    """Bytes beyond what is in use before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes what is in use
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def child(suite: Suite, row: MemoryCase, T: int) -> int:
    """Measure one length, in this process."""
    setting, ours = Setting(suite.device, suite.dtype), Ours(validate=suite.validate)
    for length in (2 * row.shape.K, T):  # the first compiles and loads
        case = Case(row.shape._replace(T=length), row.quantity)
        model = draw(case.shape)
        run = ours.prepare(case, model, setting).run
        if length == T:
            break
        run()
    draw.cache_clear()
    return peak(run, suite.device)


def measure(suite: Suite, row: MemoryCase) -> dict[str, Any]:
    """Both lengths, each in a fresh process."""
    lengths = [row.shape.T, row.longer]
    peaks = [_in_a_process(suite, row, T) for T in lengths]
    item = torch.empty((), dtype=getattr(torch, suite.dtype)).element_size()
    emissions = [row.shape.B * T * row.shape.C * item for T in lengths]
    return {
        "case": str(row),
        "quantity": row.quantity,
        "peak_bytes": peaks,
        "emission_bytes": emissions,
        "growth": (peaks[1] - peaks[0]) / (emissions[1] - emissions[0]),
        "limit": row.limit,
        "meter": "torch.cuda.max_memory_allocated" if suite.device == "cuda" else "VmHWM",
    }


def _in_a_process(suite: Suite, row: MemoryCase, T: int) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", suite.name, str(suite.memory.index(row)), str(T)]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, cwd=root, env=os.environ | SETTINGS, stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


if __name__ == "__main__":
    _suite = SUITES[sys.argv[1]]
    print(json.dumps({"peak_bytes": child(_suite, _suite.memory[int(sys.argv[2])], int(sys.argv[3]))}))
