"""The layers, read from the imports, and the bounds on files and functions, read from the text."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDARD = frozenset({"__future__", *sys.stdlib_module_names})
MAX_FILE, MAX_FUNCTION = 320, 65

# From the bottom up: a layer imports itself and what stands above it in this table, and of others' packages only those
# named. A module is in the layer with its longest prefix.
LAYERS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "errors": (("semicrf.errors",), frozenset()),
    "algebra": (("semicrf.algebra",), frozenset()),
    "compile": (("semicrf.compile",), frozenset()),
    "engine": (("semicrf.engine",), frozenset({"torch", "numpy", "einops", "numba", "llvmlite", "triton"})),
    "public": (("semicrf",), frozenset({"torch", "numpy", "einops", "matplotlib", "tqdm"})),
    "nn": (("semicrf.nn",), frozenset({"torch", "einops"})),
    "top": (("semicrf.__main__",), frozenset({"torch", "numpy", "triton", "matplotlib", "tqdm"})),
}
ORDER = list(LAYERS)
KERNELS = "semicrf.kernels"
READERS = ("semicrf.io", "semicrf.metrics", "semicrf.plots")  # of what others compute: no engine, no compiler
INTERNALS = ("semicrf.engine", "semicrf.compile", "semicrf.algebra", KERNELS)


def name_of(path: Path) -> str:
    """The module of a file; kernels/ installs as semicrf.kernels."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("semicrf", *parts) if parts[0] == "kernels" else parts)


FILES = sorted([*(ROOT / "semicrf").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
MODULES = {name_of(path): path for path in FILES}


def inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def layer_of(module: str) -> int:
    longest = max((p for prefixes, _ in LAYERS.values() for p in prefixes if inside(module, (p,))), key=len)
    return next(i for i, (prefixes, _) in enumerate(LAYERS.values()) if longest in prefixes)


def imports(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Every module that a file imports, wherever the import stands, also for type checkers alone."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{origin}.{alias.name}"
                yield deeper if deeper in MODULES else origin


def imported_for_types_alone(path: Path) -> set[str]:
    """What stands under `if TYPE_CHECKING`: a name in an annotation, not a dependency."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.body:
                found.update(imports(path, statement))
    return found


def test_the_files_are_found():
    assert {"semicrf", "semicrf.algebra.expr", "semicrf.compile.derive", "semicrf.engine.ops", KERNELS} <= set(MODULES)
    layers = {"semicrf.errors": 0, "semicrf.algebra.expr": 1, "semicrf.engine.ops": 3, "semicrf.io": 4, "semicrf.nn": 5}
    assert {module: layer_of(module) for module in layers} == layers
    source = "import torch\nfrom semicrf.engine import ops, layout\ndef f():\n    from . import segments\n"
    found = imports(ROOT / "semicrf" / "some.py", ast.parse(source))
    assert sorted(found) == ["semicrf.engine.layout", "semicrf.engine.ops", "semicrf.segments", "torch"]


@pytest.mark.parametrize("module", [m for m in MODULES if not inside(m, (KERNELS,)) and m != "semicrf"])
def test_a_layer_imports_what_lies_below(module):
    path, own = MODULES[module], layer_of(module)
    for other in sorted(set(imports(path)) - imported_for_types_alone(path)):
        top = other.split(".")[0]
        if top == "semicrf":
            if not inside(other, (KERNELS,)):
                where = layer_of(other)
                assert where <= own, f"{module} ({ORDER[own]}) imports {other} ({ORDER[where]})"
        elif top not in STANDARD:
            allowed = LAYERS[ORDER[own]][1]
            assert top in allowed, f"{module} ({ORDER[own]}) imports {other}; of others' packages: {sorted(allowed)}"


def test_types_come_from_the_same_layer_or_below_too():
    """Under TYPE_CHECKING a cycle inside a layer is fine, a look upwards is not."""
    for module, path in MODULES.items():
        for other in imported_for_types_alone(path):
            assert not inside(other, ("semicrf",)) or layer_of(other) <= layer_of(module), f"{module}: {other}"


def test_kernels_import_triton_alone_and_only_the_engine_imports_them():
    for module, path in MODULES.items():
        found = set(imports(path))
        if inside(module, (KERNELS,)):
            strangers = {m for m in found if not inside(m, (KERNELS, "triton", "__future__"))}
            assert not strangers, f"{module} imports {sorted(strangers)}"
        elif not inside(module, ("semicrf.engine",)):
            assert not {m for m in found if inside(m, (KERNELS, "kernels"))}, module


@pytest.mark.parametrize("module", [m for m in MODULES if inside(m, READERS)])
def test_input_output_and_plots_read_results_only(module):
    assert not {m for m in imports(MODULES[module]) if inside(m, INTERNALS)}


def test_torch_appears_from_the_engine_up():
    with_torch = {m for m, path in MODULES.items() if any(inside(i, ("torch",)) for i in imports(path))}
    assert "semicrf.engine.reference" in with_torch
    assert not {m for m in with_torch if layer_of(m) < ORDER.index("engine") or inside(m, (KERNELS,))}


@pytest.mark.parametrize("module", MODULES)
def test_bounds_on_files_and_functions(module):
    text = MODULES[module].read_text()
    assert len(text.splitlines()) <= MAX_FILE, f"{MODULES[module]}: {len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            lines = (node.end_lineno or first) - first + 1
            assert lines <= MAX_FUNCTION, f"{MODULES[module]}:{node.lineno}: {node.name} has {lines} lines"


def test_no_kernel_names_a_semiring():
    """A new semiring needs no new kernel: the loops know a namespace of generated functions."""
    from semicrf.algebra import registered

    names = {cls.__name__ for cls in registered().values()} | {"KMax"}
    for path in (ROOT / "kernels").rglob("*.py"):
        words = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert not words & names, path
