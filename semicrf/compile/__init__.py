"""From a semiring's functions to code: trace, simplify, derive, interpret, render."""

from semicrf.compile.interpret import evaluate
from semicrf.compile.module import explain, load
from semicrf.compile.program import Program, compiled, dual, program
from semicrf.compile.render import torch_source

__all__ = ["Program", "compiled", "dual", "evaluate", "explain", "load", "program", "torch_source"]
