"""How the loops are compiled, for numba: entries that Python calls, and kernels that are part of them.

By itself numba optimises every function that it compiles, emits machine code for it, links its optimised text into
each of its callers, and does all that again there: a function five calls below a loop goes through LLVM six times. A
kernel here is linked as it stands, so that LLVM sees each once, in the entry; and it has no wrapper that unpacks
Python's arguments, which often is longer than the kernel.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Part(JITCodeLibrary):
    """The code of one kernel and of those below it, on its way into an entry."""

    apart = False  # whether no caller is to hold a copy

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            if self.apart and not function.is_declaration and "alwaysinline" not in function.attributes:
                function.attributes.add("noinline")
        super().add_ir_module(ir_module)

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self):
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


class _Whole(JITCodeLibrary):
    """An entry with all that is linked into it."""

    def _optimize_final_module(self):
        """Once: numba does it twice, to find counts of references between."""
        passes, builder = self._codegen._module_pass_manager(opt=2)  # 3: a third longer, no faster loops
        passes.run(self._final_module, builder)


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """To LLVM's text and no further."""

    _name = "semicrf_part_lowering"
    apart = False

    def run_pass(self, state):
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.apart = self.apart
        state.flags.no_compile = True
        super().run_pass(state)
        made = state["cr"]
        # numba names what it compiled by a built-in function, which Python calls; this one raises KeyError, and says so
        name = f"{{{state.func_id.func_name} is a part of the loops and not for Python}}".format
        state.targetctx.insert_user_function(name, made.fndesc, [state.library])
        state["cr"] = made._replace(cfunc=name)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _ApartLowering(_PartLowering):
    """The same for what is called now and then."""

    _name = "semicrf_apart_lowering"
    apart = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _WholeLowering(NativeLowering):
    """To machine code, which numba's cache keeps."""

    _name = "semicrf_whole_lowering"

    def run_pass(self, state):
        state.library = _Whole(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


class _PartCompiler(CompilerBase):
    """numba's own, but for the last step."""

    last: type[NativeLowering] = _PartLowering

    def define_pipelines(self):
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.add_pass_after(self.last, NativeLowering)
        pipeline.passes = [p for p in pipeline.passes if p[0] is not NativeLowering]
        pipeline.finalize()
        return [pipeline]


class _ApartCompiler(_PartCompiler):
    last = _ApartLowering


class _WholeCompiler(_PartCompiler):
    last = _WholeLowering


FLAGS: dict[str, Any] = {
    "error_model": "numpy",  # division by zero is a float like any other, not an exception
    "boundscheck": False,
    "_nrt": False,  # arrays are borrowed, never made or kept: nothing to count
    "no_cfunc_wrapper": True,
    "forceinline": False,  # said here, as numba otherwise takes it from whichever caller comes first
}


def _kernel(**flags: Any) -> Any:
    flags = {**FLAGS, "no_cpython_wrapper": True, "pipeline_class": _PartCompiler, **flags}

    def compile_once(function):
        """Once, whatever literals it is called with."""
        compiled = njit(**flags)(function)
        template = compiled.get_call_template
        compiled.get_call_template = lambda args, kws: template(tuple(map(types.unliteral, args)), kws)
        return compiled

    return compile_once


@cache
def _sources() -> str:
    """A digest of all that may be linked into an entry."""
    texts = (f.read_bytes() for f in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(b"".join(texts)).hexdigest()


def entry(function: Any) -> Any:
    """For what Python calls; compiled anew where any source of this folder changed, not only the function's own."""
    compiled: Any = njit(nogil=True, cache=True, pipeline_class=_WholeCompiler, **FLAGS)(function)
    key = compiled._cache._index_key
    compiled._cache._index_key = lambda signature, codegen: (key(signature, codegen), _sources())
    return compiled


kernel = _kernel()
"""For what entries and kernels call."""
small = _kernel(forceinline=True)
"""For a kernel that is always part of its caller."""
cold = _kernel(pipeline_class=_ApartCompiler)
"""For a kernel that is called now and then: never part of its callers, so it is optimised and emitted once."""


@contextmanager
def collector_off() -> Iterator[None]:
    """While compiling: what a compiler makes lives to its end, and garbage collection looks for it a dozen times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
