"""From a semiring's generated text to compiled functions: one file per text in a cache, which numba's own cache serves
from then on, in this process and in others.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import cfunc, int64, void

from semicrf.compile import Program
from semicrf.compile.cpu import cpu_source
from semicrf.engine.cpu import lanes, linking, rows, terms, vectors
from semicrf.engine.cpu.linking import collector_off
from semicrf.engine.cpu.pool import run
from semicrf.engine.cpu.vectors import DOUBLES

SIGNATURES = {
    "total": void(DOUBLES, *[int64] * 10),
    "reverse": int64(DOUBLES, *[int64] * 14),
    "scale": void(DOUBLES, *[int64] * 3),
}
SLOW = 2.0  # seconds after which a compilation says what it is doing

HEAD = """from semicrf.engine.cpu.lanes import fill
from semicrf.engine.cpu.linking import small
from semicrf.engine.cpu.terms import INF, NAN, atleast, best, exceeds, hit, largest, lse, within
from semicrf.engine.cpu.vectors import (
    any_but, exp, get, highest, local, log, lower, put, ratio, surprisal, upper, weigh, where_equal, where_forbidden,
)

"""
COMPILE = """

act, sum, pull, shift = small(act), small(sum), small(pull), small(shift)
"""


def module_text(program: Program) -> str:
    """The generated functions and, after them, `semicrf.engine.cpu.rows` in the place of whose import they stand."""
    doc, _, body = cpu_source(program).partition("\n")
    entries = Path(rows.__file__).read_text().split("behind the generated functions\n", 1)[1]
    return f"{doc}\n\n{HEAD}{body}{COMPILE}{entries}"


def _folder() -> Path:
    """Where compiled code is kept: NUMBA_CACHE_DIR or the user's cache folder, or one for this process."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "semicrf"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return _temporary()


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="semicrf-"))


def _written(program: Program) -> Path:
    """The file with this text; its name is a digest of all that is compiled into it, so it never changes."""
    text = module_text(program)
    inlined = "".join(Path(m.__file__ or "").read_text() for m in (lanes, linking, terms, vectors))
    digest = hashlib.sha256((text + inlined).encode()).hexdigest()[:16]
    name = "".join(c if c.isalnum() else "_" for c in program.name)
    path = _folder() / f"{name}_{digest}.py"
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as f:
            f.write(text)
        os.replace(temporary, path)  # whole or not at all, whoever else is writing it
    return path


@cache
def _module(program: Program) -> ModuleType:
    path = _written(program)
    name = f"semicrf.generated.cpu.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py has one, and a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where numba looks for the globals of what it finds in its cache
    spec.loader.exec_module(module)
    return module


_lock = threading.Lock()


@cache
def function(program: Program, name: str) -> Any:
    """`total`, `reverse` or `scale` of a semiring, compiled, as the loops take it."""
    with _lock, Announced(f"compiling {program.name} for the CPU (once; kept in {_folder()})"):
        made = cfunc(SIGNATURES[name], cache=True, error_model="numpy")
        return made(getattr(_module(program), name))


def scratch(program: Program, n: int) -> int:
    """Rows of scratch that its functions take for a sum of n terms."""
    return _module(program).TERM_ROWS * n


class Announced:
    """Says what is being done when it takes longer than SLOW."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        self.timer = threading.Timer(SLOW, lambda: print(f"semicrf: {self.what} ...", file=sys.stderr, flush=True))
        self.timer.daemon = True
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()


def run_kernel(kernel: Any, tasks: list[Callable[[], None]], work: int) -> None:
    """Run tasks that call a kernel; the first time in a process it is loaded from numba's cache, or compiled."""
    if kernel.overloads:
        run(tasks, work)
        return
    with Announced(f"compiling the CPU loops of {kernel.__module__} (once; numba keeps them)"), collector_off():
        run(tasks, work)
