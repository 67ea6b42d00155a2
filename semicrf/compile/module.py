"""Content-addressed modules: generated text becomes functions, once per text, and a debugger can step through it."""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from semicrf.algebra.semiring import Semiring
from semicrf.compile.cpu import cpu_source
from semicrf.compile.program import compiled
from semicrf.compile.render import latex_source, torch_source
from semicrf.compile.triton import triton_source
from semicrf.errors import SemiringError

TARGETS = {"torch": torch_source, "latex": latex_source, "cpu": cpu_source, "triton": triton_source}


def load(source: str, name: str, environment: Mapping[str, Any]) -> ModuleType:
    """The module with this text; the same text gives the same module, and another text another name."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    full = f"semicrf.generated.{name}_{digest}"
    if full not in sys.modules:
        module = ModuleType(full)
        module.__file__ = f"<{full}>"
        module.__dict__.update(environment)
        linecache.cache[module.__file__] = (len(source), None, source.splitlines(True), module.__file__)
        exec(compile(source, module.__file__, "exec"), module.__dict__)
        sys.modules[full] = module
    return sys.modules[full]


@cache
def explain(semiring: type[Semiring], target: str = "torch") -> str:
    """The text generated from a semiring for a target.

    >>> from semicrf.algebra import Log
    >>> "return (t0,)" in Log.explain("torch")
    True
    """
    if target not in TARGETS:
        raise SemiringError(f"explain: got target {target!r}; expected one of {sorted(TARGETS)}.")
    return TARGETS[target](compiled(semiring))


setattr(Semiring, "explain", classmethod(explain))  # noqa: B010  the algebra itself renders nothing, so it is attached here
