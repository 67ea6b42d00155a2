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
from semicrf.compile.triton import shape
from semicrf.engine.dispatch import INTERPRETED
from semicrf.engine.plan import known, plan, power, squares, steps

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(INTERPRETED, reason="functions of the interpreter do not compile"),
]
FACTORED = ("emission", "transition", "duration")
SHAPES = [(100, 24), (32, 24), (8, 9), (16, 16), (1, 32), (1000, 24)]
"""(K, C) of the benchmarks."""
STORED = {
    **dict.fromkeys(("value", "offsets", "frames", "cotangent", "source", "over", "ahead_offsets", "u"), "*fp64"),
    **dict.fromkeys(("starts", "ends", "emitted", "sums", "carry", "covered", "anchor", "deviation"), "*fp64"),
    **dict.fromkeys(("alpha_id", "g_id", "end_id"), "*i32"),
    "limit": "*i16",
    "bound": "*i8",
    "after": "*i32",
    **dict.fromkeys(("alpha", "g", "ahead", "rows", "table", "now", "bar", "into"), "*fp32"),
    **dict.fromkeys(("T", "K", "C", "ring", "span", "pitch", "columns", "urows", "uring"), "i32"),
    **dict.fromkeys(("lengths", "ids", "start", "end", "label", "count"), "*i64"),
    **dict.fromkeys(("before", "duration", "total"), "*fp64"),
    **dict.fromkeys(("B", "lead_columns", "lead_places", "seed_low", "seed_high"), "i32"),
    "low": "*i32",
    "stored": ("*fp32",) * 5,
    **dict.fromkeys(
        ("b0", "origin", "first", "own", "stop", "size", "pairs", "shares", "cut0", "cuts", "every"), "i32"
    ),
}


def built(kernel: Any, constants: dict[str, Any], capability: int, warps: int) -> tuple[int, int, int]:
    """Registers, bytes of stack and bytes of shared memory of a kernel compiled for a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    layout = constants.get("P", constants.get("G"))
    names, parts = kernel.arg_names, layout.rows if layout else ()
    types = STORED | {n: ("*fp32",) * len(parts) for n in ("parts", "grads")}
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    fixed = {(names.index(n),): v for n, v in constants.items()}
    aligned = [["tt.divisibility", 16]]
    attrs = {(i,): aligned for i, n in enumerate(names) if isinstance(signature[n], str) and signature[n][0] == "*"}
    tuples = {i: len(signature[n]) for i, n in enumerate(names) if isinstance(signature[n], tuple)}
    attrs |= {(i, j): aligned for i, size in tuples.items() for j in range(size)}
    source = ASTSource(kernel, signature, constexprs=fixed, attrs=attrs)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
        usage = subprocess.run([tool, "-res-usage", str(binary)], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())  # pyright: ignore[reportOptionalMemberAccess]  # or fails
    return registers, stack, made.metadata.shared


def constants(semiring: Any, C: int, parts: tuple[str, ...] = FACTORED, backwards: bool = False) -> dict[str, Any]:
    """What all kernels of a semiring have in common."""
    import triton.language as tl

    from semicrf.engine.launch import _layout, namespace

    program = compiled(semiring)
    p, rows = program.potentials, (1, *[0] * (len(parts) - 1))
    layout = _layout((parts,) * p, rows * p, backwards)
    return {"S": namespace(program, True), "P": layout, "F": tl.float32, "CP": power(max(C, 2))}


def kernels(semiring: Any, K: int, C: int, capability: int) -> dict[str, tuple[int, int, int]]:
    """The two sweeps."""
    from semicrf.kernels import scan, scan_vjp

    from semicrf.engine.launch import namespace

    program, given = compiled(semiring), constants(semiring, C)
    cut, back = plan(K, C, program.width), plan(K, C, program.width, reverse=True)
    forward = given | {
        "S": namespace(program, False),
        "TB": cut.rows,
        "SB": cut.group,
        "KEEP": False,
        "SUMS": shape(program).levelled and cut.sums(K),
    }
    reverse = given | {"TB": back.rows, "SB": back.group, "G": given["P"]}
    return {
        "scan": built(scan.scan, forward, capability, cut.warps),
        "scan_vjp": built(scan_vjp.scan_vjp, reverse, capability, back.warps),
    }


def meeting(K: int, C: int, capability: int) -> dict[str, tuple[int, int, int]]:
    """Both directions of Log at once, and what counts from them."""
    from semicrf.kernels import counts, meet, scan

    given = constants(Log, C)
    cut, rows = plan(K, C, 1), known(K, C)
    reversed_ = constants(Log, C, backwards=True)["P"]
    reads = {n: given[n] for n in ("P", "F", "CP")} | {"TB": rows.rows}
    writes = reads | {"G": given["P"]}
    group = {"SB": 8}
    return {
        "scan_both": built(
            scan.scan_both,
            given | {"Q": reversed_, "TB": cut.rows, "SB": cut.group, "SUMS": cut.sums(K)},
            capability,
            cut.warps,
        ),
        "tiles": built(meet.tiles, reads, capability, 4),
        "rows": built(meet.rows, writes | {"SB": squares(C)}, capability, 8),
        "link": built(meet.link, {"CP": given["CP"], "TB": rows.rows, "NB": 32}, capability, 4),
        "cover": built(meet.cover, reads | group, capability, 4),
        "settle": built(meet.settle, {"G": given["P"], "CP": given["CP"]}, capability, 1),
        "transition_counts": built(
            counts.transition_counts, {n: writes[n] for n in ("P", "G", "F", "CP")} | {"SB": squares(C)}, capability, 8
        ),
        "positions": built(counts.positions, writes, capability, 4),
        "segment_counts": built(counts.segment_counts, writes | group | {"KB": 4}, capability, 4),
    }


def stepping(semiring: Any, parts: tuple[str, ...], C: int, capability: int) -> dict[str, tuple[int, int, int]]:
    """The sweeps over arcs of any kind."""
    from semicrf.kernels import arcs, arcs_vjp

    given = constants(semiring, C, parts)
    cut = steps(100, C, compiled(semiring).width, "edge" in parts)
    given |= {"KB": cut.window, "PB": cut.previous, "QB": cut.durations}
    return {
        "arcs": built(arcs.arcs, given | {"KEEP": True}, capability, cut.warps),
        "arcs_vjp": built(arcs_vjp.arcs_vjp, given | {"G": given["P"]}, capability, cut.warps),
    }


def held(made: dict[str, tuple[int, int, int]], what: str) -> None:
    for name, (registers, _, shared) in made.items():
        print(f"{what} {name}: {registers} registers, {shared} bytes shared")
        assert 0 < registers <= 255
        assert shared <= 99 * 1024


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("semiring", [Log, Max, KMax(4), Entropy, CrossEntropy, KL], ids=lambda s: s.__name__)
def test_kernels_compile(semiring, capability):
    held(kernels(semiring, 100, 24, capability), f"{semiring.__name__} sm_{capability}")


@pytest.mark.parametrize(("parts", "C"), [(("segment", "transition"), 24), (("edge", "end"), 24), (FACTORED, 256)])
@pytest.mark.parametrize("semiring", [Log, KL], ids=lambda s: s.__name__)
def test_sweeps_over_arcs_compile(semiring, parts, C):
    held(stepping(semiring, parts, C, 90), f"{semiring.__name__} {parts[0]} {C}")


def spilled(made: dict[str, tuple[int, int, int]]) -> list[str]:
    return [f"{name}: {reg} registers, {stack} bytes of stack" for name, (reg, stack, _) in made.items() if stack]


@pytest.mark.parametrize(("K", "C"), SHAPES)
@pytest.mark.parametrize("semiring", [Log, Max, Entropy, KL], ids=lambda s: s.__name__)
def test_nothing_spills_in_the_shapes_of_the_benchmarks(semiring, K, C):
    assert not spilled(kernels(semiring, K, C, 90))


@pytest.mark.parametrize(("K", "C"), SHAPES)
def test_nothing_spills_in_both_directions(K, C):
    assert not spilled(meeting(K, C, 90))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("segments", [False, True])
def test_the_walk_that_draws_compiles(segments, capability):
    """One warp; nothing spills, so that many walkers stay on a multiprocessor."""
    from semicrf.kernels import draw

    made = {"draw": built(draw.draw, {"LOW": True, "SEGMENT": segments, "OWN": 31, "CP": 32, "KB": 32}, capability, 1)}
    held(made, f"samples sm_{capability}")
    assert made["draw"][0] <= 128
    assert not spilled(made)
