"""The dynamic programme as torch operators.

Two raw operators, `semicrf::scan` and `semicrf::scan_vjp` (`semicrf.engine.operators`), do the work. In eager mode two
`autograd.Function` wrap them (values, gradients, forward mode, vmap). While torch.compile traces, a twin of `scan`
that has its reverse registered is used instead: Dynamo does not take an autograd.Function with a jvp, and
register_autograd alone would make `torch.func.jvp` zero in silence.

Derivatives of derivatives need no tape: the Hessian-vector product of a semiring is the gradient of its dual
(`compile.dual`), run by the same operators. So every order exists as far as the duals' reverse rules take two sweeps at
most (for Log any, for CrossEntropy and KL the second); the semirings that choose are piecewise linear.
"""

# pyright: reportIncompatibleMethodOverride=false
# (torch types autograd.Function's static methods by their packed arguments)
from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    peek_interpreter_stack,
)
from torch.autograd import forward_ad

from semicrf.compile import compiled, dual, program
from semicrf.engine.dispatch import best
from semicrf.engine.layout import Spec
from semicrf.engine.marks import Lists
from semicrf.engine.operators import N, Stored, run_choices, run_scan, run_scan_vjp
from semicrf.engine.reference import State
from semicrf.errors import BackendError


def _args(spec: Spec) -> tuple[str, str, str, int, int, int]:
    """A spec as operators take it; Dynamo does not trace dataclasses.astuple."""
    return spec.semiring, spec.backend, spec.layout, spec.T, spec.K, spec.C


# ------------------------------------------------------------------ eager autograd
def _batched(info, in_dims: Sequence[int | None], axes: Sequence[int], args: Sequence[Tensor]) -> list[Tensor]:
    """Every argument with the vmapped axis folded into its batch axis (`axes`)."""
    sizes = [a.shape[0] if d != 0 else a.shape[1] for a, d, x in zip(args, in_dims, axes, strict=True) if x == 0]
    B = sizes[0]  # the lengths come first and always have the whole batch
    folded = []
    for a, d, axis in zip(args, in_dims, axes, strict=True):
        a = (
            a.movedim(d, axis)
            if d is not None
            else a.unsqueeze(axis).expand(*a.shape[:axis], info.batch_size, *a.shape[axis:])
        )
        shape = list(a.shape)
        shape[axis + 1] = B
        folded.append(a.expand(shape).flatten(axis, axis + 1))
    return folded


def _duals(spec: Spec, directions: Sequence[Tensor | None]) -> tuple[Spec, list[Tensor]]:
    key = compiled(dual(program(spec.semiring).semiring)).key
    return spec.tangent(key, [d is not None for d in directions]), [d for d in directions if d is not None]


def _below(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors without the tangents of the level whose jvp runs. torch runs a jvp with forward mode off, for that level
    and for those around it, so a jvp of a jvp would be wrong in silence (pytorch/pytorch#197867): it is turned on
    again, below this level.
    """
    return [forward_ad.unpack_dual(t, level=0).primal for t in tensors]


class Scan(torch.autograd.Function):
    """(spec, keep, lengths, *tensors) -> state; differentiable in the tensors, through `value` alone."""

    @staticmethod
    def forward(spec: Spec, keep: bool, lengths: Tensor, *tensors: Tensor) -> Stored:
        if _direct(tensors):
            return run_scan(spec, keep, lengths, tensors)
        return torch.ops.semicrf.scan(*_args(spec), keep, lengths, tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        spec, _keep, lengths, *tensors = inputs
        ctx.spec = spec
        ctx.set_materialize_grads(False)  # zeros as large as the state, otherwise
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(lengths, *output, *tensors)
        if not _direct(tensors):
            ctx.save_for_forward(lengths, *output, *tensors)

    @staticmethod
    def backward(ctx, *grads):
        if grads[0] is None:
            return (None,) * len(ctx.needs_input_grad)
        lengths, *rest = ctx.saved_tensors
        state, tensors = rest[:N], rest[N:]
        wanted = tuple(ctx.needs_input_grad[3:])
        if state[1].numel() and plain([grads[0], *tensors]):
            pulled = run_scan_vjp(ctx.spec, wanted, lengths, grads[0], state, tensors)
        else:
            pulled = ScanVJP.apply(ctx.spec, wanted, lengths, grads[0], *state, *tensors)
        return None, None, None, *(g if w else None for g, w in zip(pulled, wanted, strict=True))

    @staticmethod
    def jvp(ctx, _spec, _keep, _lengths, *directions):
        with forward_ad._set_fwd_grad_enabled(True):
            lengths, *rest = _below(ctx.saved_tensors)
            value, tensors = rest[0], rest[N:]
            spec, given = _duals(ctx.spec, directions)
            along = Scan.apply(spec, False, lengths, *tensors, *given)[0][value.shape[0] :]
            return torch.where(value.isfinite(), along, 0.0), *[None] * (N - 1)

    @staticmethod
    def vmap(info, in_dims, spec, keep, lengths, *tensors):
        args = _batched(info, in_dims[2:], [0] * (1 + len(tensors)), [lengths, *tensors])
        out = Scan.apply(spec, keep, *args)
        return tuple(o.unflatten(1, (info.batch_size, -1)) for o in out), (1,) * N


class ScanVJP(torch.autograd.Function):
    """(spec, wanted, lengths, cotangent, *state, *tensors) -> gradients, differentiable in cotangent and tensors.

    An empty state is computed afresh. The state counts as a function of the tensors: no gradient goes through it.
    """

    @staticmethod
    def forward(spec: Spec, wanted: tuple[bool, ...], lengths: Tensor, cotangent: Tensor, *rest: Tensor):
        state, tensors = rest[:N], rest[N:]
        direct = _direct([cotangent, *tensors])
        if state[1].numel() == 0:
            state = torch.ops.semicrf.scan(*_args(spec), True, lengths, tensors)
        if direct:
            return tuple(run_scan_vjp(spec, wanted, lengths, cotangent, state, tensors))
        return tuple(torch.ops.semicrf.scan_vjp(*_args(spec), wanted, lengths, cotangent, state, tensors))

    @staticmethod
    def setup_context(ctx, inputs, output):
        spec, wanted, lengths, cotangent, *rest = inputs
        ctx.spec, ctx.wanted = spec, wanted
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(lengths, cotangent, rest[0], *rest[N:])
        ctx.save_for_forward(lengths, cotangent, rest[0], *rest[N:])

    @staticmethod
    def _along(
        spec: Spec,
        saved: Sequence[Tensor],
        directions: Sequence[Tensor | None],
        seeds: Sequence[Tensor],
        wanted: tuple[bool, ...],
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The derivative of the value along `directions`, and the gradient of ``seeds . (value, that derivative)``."""
        lengths, _, value, *tensors = saved
        spec, given = _duals(spec, directions)
        state = Scan.apply(spec, True, lengths, *tensors, *given)
        finite = value.isfinite()
        seed = torch.cat([torch.where(finite, s, 0.0) for s in seeds])
        flags = wanted + (False,) * len(given)
        grads = ScanVJP.apply(spec, flags, lengths, seed, *(s.detach() for s in state), *tensors, *given)
        return torch.where(finite, state[0][value.shape[0] :], 0.0), grads[: len(tensors)]

    @staticmethod
    def backward(ctx, *directions):
        _, cotangent, *_ = ctx.saved_tensors
        directions = [d if w else None for d, w in zip(directions, ctx.wanted, strict=True)]
        if all(d is None for d in directions):
            return (None,) * len(ctx.needs_input_grad)
        wanted = tuple(ctx.needs_input_grad[4 + N :])
        seeds = [torch.zeros_like(cotangent), cotangent]
        along, grads = ScanVJP._along(ctx.spec, ctx.saved_tensors, directions, seeds, wanted)
        pulled = (g if w else None for g, w in zip(grads, wanted, strict=True))
        return None, None, None, along, *[None] * N, *pulled

    @staticmethod
    def jvp(ctx, _spec, _wanted, _lengths, cotangent_dot, *rest):
        with forward_ad._set_fwd_grad_enabled(True):
            saved = _below(ctx.saved_tensors)
            dot = torch.zeros_like(saved[1]) if cotangent_dot is None else cotangent_dot
            return tuple(ScanVJP._along(ctx.spec, saved, rest[N:], [dot, saved[1]], ctx.wanted)[1])

    @staticmethod
    def vmap(info, in_dims, spec, wanted, lengths, cotangent, *rest):
        dims = [in_dims[2], in_dims[3], *in_dims[4 + N :]]
        args = _batched(info, dims, [0, 1, *[0] * len(rest[N:])], [lengths, cotangent, *rest[N:]])
        blank = torch.ops.semicrf.scan(*_args(spec), False, args[0], args[2:])
        grads = ScanVJP.apply(spec, wanted, args[0], args[1], *blank, *args[2:])
        return tuple(
            g.unflatten(0, (info.batch_size, -1)) if w else g for g, w in zip(grads, wanted, strict=True)
        ), tuple(0 if w else None for w in wanted)


for _function in (Scan, ScanVJP):  # torch asks for it at every call, and finding it takes longer than a short sequence
    setattr(_function.forward, "__signature__", inspect.signature(_function.forward))  # noqa: B010  no such attribute


# ------------------------------------------------------------------ what the layers above call
def _direct(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors hold their numbers: nothing batches or traces, or differentiates forward. Then the work is done
    at once: finding an operator's kernel takes longer than a short sequence.
    """
    watched = forward_ad._current_level >= 0 or peek_interpreter_stack() is not None
    if watched or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)


def plain(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing differentiates either."""
    return _direct(tensors) and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def refuse_vmap(what: str, tensors: Sequence[Tensor]) -> None:
    """Raise where vmap batches tensors: what follows stored choices has no rule for it."""
    for t in () if torch.compiler.is_compiling() else tensors:
        while is_functorch_wrapped_tensor(t):
            if is_batchedtensor(t):
                raise BackendError(
                    f"{what}: not under torch.func.vmap. Likely fix: give the batch as leading axes of the potentials, "
                    "which every question takes."
                )
            t = get_unwrapped(t)


def scan(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor], keep: bool = False) -> State:
    """Run the dynamic programme; `value` (d, B) float64 is differentiable in the tensors."""
    keep = keep or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    if torch.compiler.is_compiling():
        return State(*torch.ops.semicrf.scan_autograd(*_args(spec), keep, lengths, tensors))
    if plain(tensors):
        return run_scan(spec, keep, lengths, tensors)
    if _direct(tensors):  # without a transform around it, what lies below Function.apply, which binds names, will do
        below = super(torch.autograd.Function, Scan)
        return State(*below.apply(spec, keep, lengths, *tensors))  # pyright: ignore[reportAttributeAccessIssue]  # in C
    return State(*Scan.apply(spec, keep, lengths, *tensors))


def best_path(spec: Spec, lengths: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Start marks (B, T), labels at them, and the score (B,) of the best segmentation."""
    refuse_vmap("the best segmentation", tensors)
    tensors = [t.detach() for t in tensors]
    if not torch.compiler.is_compiling() and plain(tensors):
        state = run_choices(spec, lengths, tensors)
        return *best(lengths, state.alpha_id, state.g_id, state.end_id), state.value[0]
    state = State(*torch.ops.semicrf.scan(*_args(spec), True, lengths, tensors))
    return *torch.ops.semicrf.walk(lengths, state.alpha_id, state.g_id, state.end_id), state.value[0]


def sample(
    spec: Spec, lengths: Tensor, tensors: Sequence[Tensor], seed: int, samples: int, sequence_id: Tensor
) -> Lists:
    """start, end and label (S, B, T) of exact samples, and their count (S, B)."""
    refuse_vmap("samples", tensors)
    detached = [t.detach() for t in tensors]
    return torch.ops.semicrf.sample(*_args(spec), seed, samples, lengths, sequence_id, detached)


def scan_vjp(
    spec: Spec, lengths: Tensor, cotangent: Tensor, tensors: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor]:
    """Gradients of ``cotangent . value`` in the wanted tensors, themselves differentiable; empty where not wanted."""
    if torch.compiler.is_compiling():
        state = torch.ops.semicrf.scan(*_args(spec), True, lengths, tensors)
        return torch.ops.semicrf.scan_vjp(*_args(spec), wanted, lengths, cotangent, state, tensors)
    if plain([cotangent, *tensors]):
        state = run_scan(spec, True, lengths, tensors)
        return run_scan_vjp(spec, wanted, lengths, cotangent, state, tensors)
    with torch.no_grad():
        state = Scan.apply(spec, True, lengths, *tensors)
    return list(ScanVJP.apply(spec, tuple(wanted), lengths, cotangent, *state, *tensors))
