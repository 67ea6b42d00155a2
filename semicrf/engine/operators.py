"""The dynamic programme as raw torch operators: they do the work and know nothing of autograd.

While torch.compile traces, a twin of `scan` that has its reverse registered stands in for `semicrf.engine.ops.Scan`.
"""

# pyright: reportFunctionMemberAccess=false
# (torch types custom_op's result as a plain function)
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semicrf.compile import program
from semicrf.engine import walk
from semicrf.engine.dispatch import best, choices, rows, serving, stored
from semicrf.engine.layout import BY_DURATION, MASKS, Spec
from semicrf.engine.reference import State

Stored = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
N = len(State._fields)


def run_scan(spec: Spec, keep: bool, lengths: Tensor, tensors: Sequence[Tensor]) -> State:
    """`torch.ops.semicrf.scan` without the search for a kernel; what is empty may be shared."""
    run = program(spec.semiring)
    module = serving(spec.backend, run, set(spec.names), lengths.device)
    return module.scan(run, spec.models(tensors), lengths, spec.T, spec.K, spec.C, keep)


def run_scan_vjp(
    spec: Spec, wanted: Sequence[bool], lengths: Tensor, cotangent: Tensor, state: Sequence[Tensor],
    tensors: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """`torch.ops.semicrf.scan_vjp` without the search for a kernel."""
    flags = iter(wanted)
    models = spec.models(tensors)
    parts = [{n for n in m if next(flags)} for m in models]
    run = program(spec.semiring)
    module = serving(spec.backend, run, set(spec.names), lengths.device)
    grads = module.scan_vjp(run, models, lengths, spec.T, spec.K, spec.C, State(*state), cotangent, parts)
    return [g[n] if n in g else t.new_empty(0) for m, g in zip(models, grads, strict=True) for n, t in m.items()]


def owned(state: State) -> Stored:
    """The state as an operator returns it: tensors that share no memory."""
    value = state.value
    tensors = (t if t.numel() else value.new_empty(t.shape, dtype=t.dtype) for t in state)
    return tuple(tensors)  # pyright: ignore[reportReturnType]  # as many as a State has


@torch.library.custom_op("semicrf::scan", mutates_args=())
def _scan(
    semiring: str,
    backend: str,
    layout: str,
    T: int,
    K: int,
    C: int,
    keep: bool,
    lengths: Tensor,
    tensors: Sequence[Tensor],
) -> Stored:
    return owned(run_scan(Spec(semiring, backend, layout, T, K, C), keep, lengths, tensors))


@_scan.register_fake
def _scan_fake(semiring, backend, layout, T, K, C, keep, lengths, tensors):
    p, B = program(semiring), lengths.shape[0]
    spec = Spec(semiring, backend, layout, T, K, C)
    columns = K if BY_DURATION & set(spec.names) else 1
    module = serving(backend, p, set(spec.names), lengths.device)
    element, choice = stored(module, spec.models(tensors))

    def real(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return lengths.new_empty(shape, dtype=dtype)

    def ids(*shape: int) -> Tensor:
        return lengths.new_empty(shape, dtype=choice)

    value = real(p.width, B)
    if not keep:
        return value, real(0, B), real(0, B), real(0, B), ids(0, B), ids(0, B), ids(0, B), real(0, 0), real(0, 0)
    shape, gshape = (B, T + 1, C), (B, T, columns, C)
    elements = real(p.width, *shape, dtype=element), real(p.width, *gshape, dtype=element)
    offset = real(module.shifts(p) if hasattr(module, "shifts") else p.potentials, B, T + 1)
    both = hasattr(module, "both") and module.both(p, spec.models(tensors), B, C)
    ahead = (real(1, *shape, dtype=element), real(1, B, T + 1)) if both else (real(0, 0), real(0, 0))
    elements = (elements[0], real(0, B)) if both else elements
    return value, *elements, offset, ids(p.ids, *shape), ids(p.ids, *gshape), ids(p.ids, B), *ahead


@torch.library.custom_op("semicrf::scan_vjp", mutates_args=())
def _scan_vjp(
    semiring: str, backend: str, layout: str, T: int, K: int, C: int, wanted: Sequence[bool], lengths: Tensor,
    cotangent: Tensor, state: Sequence[Tensor], tensors: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    return run_scan_vjp(Spec(semiring, backend, layout, T, K, C), wanted, lengths, cotangent, state, tensors)


@_scan_vjp.register_fake
def _scan_vjp_fake(semiring, backend, layout, T, K, C, wanted, lengths, cotangent, state, tensors):
    return [torch.empty_like(t) if w else t.new_empty(0) for t, w in zip(tensors, wanted, strict=True)]


@torch.library.custom_op("semicrf::walk", mutates_args=())
def _walk(lengths: Tensor, alpha_id: Tensor, g_id: Tensor, end_id: Tensor) -> tuple[Tensor, Tensor]:
    return best(lengths, alpha_id, g_id, end_id)


@_walk.register_fake
def _walk_fake(lengths, alpha_id, g_id, end_id):
    shape = (lengths.shape[0], g_id.shape[2])
    return lengths.new_empty(shape, dtype=torch.bool), lengths.new_empty(shape)


@torch.library.custom_op("semicrf::sample", mutates_args=())
def _sample(
    semiring: str, backend: str, layout: str, T: int, K: int, C: int, seed: int, samples: int, lengths: Tensor,
    sequence_id: Tensor, tensors: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spec = Spec(semiring, backend, layout, T, K, C)
    run = program(semiring)
    module = serving(backend, run, set(spec.names), lengths.device)
    models = spec.models(tensors)
    state = rows(module, run, models, lengths, T, K, C)
    draw = getattr(module, "draw", walk.draw)
    return draw(run, models, lengths, T, K, C, state, seed, samples, sequence_id)


@_sample.register_fake
def _sample_fake(semiring, backend, layout, T, K, C, seed, samples, lengths, sequence_id, tensors):
    shape = (samples, lengths.shape[0])
    start, end, label = (lengths.new_empty((*shape, T)) for _ in range(3))
    return start, end, label, lengths.new_empty(shape)


def run_choices(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor]) -> State:
    """A scan for a walk along the best path, not as an operator."""
    run = program(spec.semiring)
    module = serving(spec.backend, run, set(spec.names), lengths.device)
    return choices(module, run, spec.models(tensors), lengths, spec.T, spec.K, spec.C)


def run_rows(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor]) -> State:
    """A scan with both alpha and g, not as an operator."""
    run = program(spec.semiring)
    module = serving(spec.backend, run, set(spec.names), lengths.device)
    return rows(module, run, spec.models(tensors), lengths, spec.T, spec.K, spec.C)


# ------------------------------------------------------------------ the twin for torch.compile
_twin = torch.library.custom_op("semicrf::scan_autograd", _scan._init_fn, mutates_args=())
_twin.register_fake(_scan_fake)


def _twin_setup(ctx, inputs, output):
    *spec, _keep, lengths, tensors = inputs
    ctx.spec, ctx.count = spec, len(tensors)
    ctx.save_for_backward(lengths, *output, *tensors)


def _twin_backward(ctx, grad, *_):
    lengths, *rest = ctx.saved_tensors
    state, tensors = rest[:N], rest[N:]
    names = Spec(*ctx.spec).names
    wanted = [n not in MASKS for n in names]
    grads = torch.ops.semicrf.scan_vjp(*ctx.spec, wanted, lengths, grad, state, tensors)
    return *[None] * 8, [g if w else None for g, w in zip(grads, wanted, strict=True)]


_twin.register_autograd(_twin_backward, setup_context=_twin_setup)
