"""Triton loops of the dynamic programme, installed as ``semicrf.kernels``.

Every loop here takes a namespace of generated ``@triton.jit`` functions as one ``tl.constexpr`` and carries the state
of the recurrence as a tuple. It knows that namespace and never a semiring: a new semiring needs no new kernel, and no
value of ``K`` has code of its own. Three loops in all: the scan, its reverse-mode sweep, and the backward walk that
decodes or samples.

The modules of this package import ``triton`` alone, and ``semicrf.engine`` alone imports them. This file imports
nothing, so that the package can be imported where there is no Triton.
"""
