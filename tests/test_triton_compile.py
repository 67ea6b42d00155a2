"""The kernels compile for GPUs that are not here; what they need is read off the compiled code. Spills are failures."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from semicrf.algebra import KL, CrossEntropy, Entropy, KMax, Log, Max
from semicrf.compile import compiled
from semicrf.engine.dispatch import INTERPRETED
from semicrf.engine.plan import plan

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(INTERPRETED, reason="functions of the interpreter do not compile"),
]
FACTORED = ("emission", "transition", "duration")
SHAPES = [(100, 24), (32, 24), (8, 9), (16, 16), (1, 32), (1000, 24)]
"""(K, C) of the benchmarks."""
STORED = {
    **dict.fromkeys(("value", "offsets", "frames", "cotangent"), "*fp64"),
    **dict.fromkeys(("alpha_id", "g_id", "end_id", "limit"), "*i32"),
    **dict.fromkeys(("alpha", "g", "u", "bar", "z", "begin", "table"), "*fp32"),
    **dict.fromkeys(("T", "K", "C", "ring", "span", "drows", "dbatch"), "i32"),
    "lengths": "*i64",
}


def built(kernel: Any, constants: dict[str, Any], capability: int, warps: int) -> tuple[int, int, int]:
    """Registers, bytes of stack and bytes of shared memory of a kernel compiled for a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, parts = kernel.arg_names, constants["P"].rows
    types = STORED | {n: ("*fp32",) * len(parts) for n in ("parts", "grads")}
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    fixed = {(names.index(n),): v for n, v in constants.items()}
    aligned = [["tt.divisibility", 16]]
    attrs = {(i,): aligned for i, n in enumerate(names) if isinstance(signature[n], str) and signature[n][0] == "*"}
    attrs |= {
        (i, j): aligned for i, n in enumerate(names) if isinstance(signature[n], tuple) for j in range(len(parts))
    }
    source = ASTSource(kernel, signature, constexprs=fixed, attrs=attrs)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
        usage = subprocess.run([tool, "-res-usage", str(binary)], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())  # pyright: ignore[reportOptionalMemberAccess]  # or fails
    return registers, stack, made.metadata.shared


def kernels(semiring: Any, K: int, C: int, capability: int) -> dict[str, tuple[int, int, int]]:
    import triton.language as tl
    from semicrf.kernels import scan, scan_vjp

    from semicrf.engine.launch import _layout, namespace

    program = compiled(semiring)
    p = program.potentials
    layout = _layout((FACTORED,) * p, (1, 0, 0) * p)
    cut, back = plan(K, C, program.width), plan(K, C, program.width, reverse=True)
    both = {"P": layout, "F": tl.float32, "CP": cut.labels}
    forward = both | {"S": namespace(program, False), "TB": cut.rows, "SB": cut.group, "KEEP": False}
    reverse = both | {"S": namespace(program, True), "TB": back.rows, "SB": back.group, "G": layout}
    return {
        "scan": built(scan.scan, forward, capability, cut.warps),
        "scan_vjp": built(scan_vjp.scan_vjp, reverse, capability, back.warps),
    }


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("semiring", [Log, Max, KMax(4), Entropy, CrossEntropy, KL], ids=lambda s: s.__name__)
def test_kernels_compile(semiring, capability):
    for name, (registers, _, shared) in kernels(semiring, 100, 24, capability).items():
        print(f"{semiring.__name__} {name} sm_{capability}: {registers} registers, {shared} bytes shared")
        assert 0 < registers <= 255
        assert shared <= 99 * 1024


@pytest.mark.parametrize(("K", "C"), SHAPES)
@pytest.mark.parametrize("semiring", [Log, Max, Entropy], ids=lambda s: s.__name__)
def test_nothing_spills_in_the_shapes_of_the_benchmarks(semiring, K, C):
    for name, (registers, stack, _) in kernels(semiring, K, C, 90).items():
        assert stack == 0, f"{name} spills: {registers} registers, {stack} bytes of stack"
