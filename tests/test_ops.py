"""The engine as torch operators: registration, derivatives of all orders and modes, transforms, compilation, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple

import oracle
import pytest
import torch
from tables import (
    AUTO,
    BACKEND,
    FAMILIES,
    SEMIRINGS,
    TOLERANCE,
    Batch,
    Row,
    assert_gradient,
    assert_values,
    draw,
    forbid_like,
    read,
    run,
    served,
    spec_of,
    tensors_of,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.autograd.functional import hvp, vhp

from semicrf.engine import ops
from semicrf.errors import SemiringError

# torch's own forward mode scripts its decompositions when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning:torch.jit._script")

inf, nan = math.inf, math.nan
# Derivatives of derivatives run duals, which not every backend serves: a named one that serves all, and the choice.
WHOLE = [b for b in BACKEND if all(b.serves(row, *FAMILIES) for row in SEMIRINGS.values())] + [AUTO]
on_whole_backends = pytest.mark.parametrize("backend", WHOLE, ids=lambda b: b.name)
LENGTHS = (4, 2, 3)


def batches_of(row: Row, family: str = "factored", K: int = 2, C: int = 2, **options) -> list[Batch]:
    return [draw(family, K, C, LENGTHS, T=4, seed=seed, **options) for seed in range(row.models)]


def function(
    name: str, family: str = "factored", backend: str = "reference", **options
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """(tensors -> fields (r, B), tensors): a small ragged batch as a function of its parts."""
    row = SEMIRINGS[name]
    batches = batches_of(row, family, **options)
    spec, lengths = spec_of(row, backend, batches), batches[0].lengths

    def fields(*tensors: Tensor) -> Tensor:
        return read(row, ops.scan(spec, lengths, tensors).value)

    return fields, tensors_of(batches)


def log_of_emission(**options) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """(emission -> the sum of log Z over the batch, emission)."""
    fields, (emission, *rest) = function("Log", **options)
    return lambda e: fields(e, *rest).sum(), emission


def normal(like: Tensor, seed: int = 0, *lead: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, *like.shape, generator=generator, dtype=torch.float64)


def close(actual: Tensor, wanted: Tensor) -> None:
    assert_values(actual, wanted.detach(), TOLERANCE[torch.float64])


def dot(tensors: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    return torch.stack([(t * d).sum() for t, d in zip(tensors, directions, strict=True)]).sum()


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def with_parts(batches: Sequence[Batch], tensors: Sequence[Tensor]) -> list[Batch]:
    """The batches with these tensors as their parts."""
    rows = iter(tensors)
    return [b.replace({name: next(rows) for name in b.parts}) for b in batches]


def by_enumeration(name: str, batches: Sequence[Batch], tensors: Sequence[Tensor]) -> Tensor:
    """The last field of every sequence, summed: a function of the very tensors, so that every order can be taken."""
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(batches[0].lengths.tolist()):
        models = [
            oracle.Model(**{n: t[min(b, len(t) - 1)] for n, t in batch.parts.items()}, max_duration=batch.K)
            for batch in with_parts(batches, tensors)
        ]
        total = total + SEMIRINGS[name].enumerate(models, length)[-1]
    return total


# --- Registration ---


@pytest.mark.parametrize("keep", [True, False])
@served(["Log", "KMax(3)", "KL"], ["factored", "edge"])
def test_opcheck_of_scan(name, family, backend, keep):
    row = SEMIRINGS[name]
    batches = batches_of(row, family, shared=True)
    args = (*astuple(spec_of(row, backend.name, batches)), keep, batches[0].lengths, tensors_of(batches))
    result = torch.library.opcheck(torch.ops.semicrf.scan, args)
    assert set(result.values()) == {"SUCCESS"}


@served(["Log", "KMax(3)", "KL"], ["factored", "edge"])
def test_opcheck_of_scan_vjp(name, family, backend):
    row = SEMIRINGS[name]
    batches = [b.leaves(dtype=torch.float32) for b in batches_of(row, family, shared=True)]
    batches = [b.replace({n: t.detach() for n, t in b.parts.items()}) for b in batches]
    tensors, lengths = tensors_of(batches), batches[0].lengths
    args = astuple(spec_of(row, backend.name, batches))
    state = torch.ops.semicrf.scan(*args, True, lengths, tensors)
    wanted = [i % 3 != 1 for i in range(len(tensors))]
    result = torch.library.opcheck(
        torch.ops.semicrf.scan_vjp, (*args, wanted, lengths, normal(state[0]), list(state), tensors)
    )
    assert set(result.values()) == {"SUCCESS"}


@served(["Log", "Max", "KL"], ["factored", "edge"])
def test_opcheck_of_scan_autograd(name, family, backend):
    row = SEMIRINGS[name]
    batches = [b.leaves() for b in batches_of(row, family, shared=True)]
    args = (*astuple(spec_of(row, backend.name, batches)), True, batches[0].lengths, tensors_of(batches))
    result = torch.library.opcheck(torch.ops.semicrf.scan_autograd, args)
    assert set(result.values()) == {"SUCCESS"}


# --- Orders of derivatives ---


@served(["Log", "Entropy"], backends=WHOLE)
def test_gradcheck(name, family, backend):
    """Along random directions, in both modes; entry by entry the gradient is compared with enumeration elsewhere."""
    torch.manual_seed(0)
    fields, tensors = function(name, family, backend.name, shared=True)
    assert torch.autograd.gradcheck(fields, leaves(tensors), fast_mode=True, check_forward_ad=True)


@on_whole_backends
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Log", "duration_transition"),
        ("Log", "edge"),
        ("Std", "segment"),
        ("Entropy", "duration_transition"),
        ("Entropy", "edge"),
        ("CrossEntropy", "segment"),
        ("KL", "factored"),
        ("KL", "edge"),
        ("Expectation", "segment"),
    ],
)
def test_gradgradcheck(name, family, backend):
    torch.manual_seed(0)
    fields, tensors = function(name, family, backend.name, shared=True)
    assert torch.autograd.gradgradcheck(
        fields, leaves(tensors), fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@on_whole_backends
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "orders"), [("Log", 3), ("Std", 3), ("Entropy", 3), ("Expectation", 3), ("CrossEntropy", 2), ("KL", 2)]
)
@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_orders_against_enumeration(holes, name, orders, family, backend):
    """grad of grad of grad, each along another random direction."""
    row = SEMIRINGS[name]
    p, *others = (draw(family, 3, 2, LENGTHS, T=4, seed=7 + i, shared=True, holes=holes) for i in range(row.models))
    batches = [p, *(forbid_like(q, p) for q in others)]
    assert all(p.possible())
    engine, listed = leaves(tensors_of(batches)), leaves(tensors_of(batches))
    a = run(row, backend.name, with_parts(batches, engine))[-1].sum()
    b = by_enumeration(name, batches, listed)
    for order in range(1, orders + 1):
        got = torch.autograd.grad(a, engine, create_graph=True, materialize_grads=True)
        want = torch.autograd.grad(b, listed, create_graph=True, materialize_grads=True)
        for part, g, w in zip(spec_of(row, backend.name, batches).names, got, want, strict=True):
            assert_gradient(f"{part}, order {order}", g, list(w.detach()), backend.tolerance)
        directions = [normal(g, seed=order) for g in got]
        a, b = dot(got, directions), dot(want, directions)
    assert a.item() != 0


@on_whole_backends
@pytest.mark.parametrize("name", ["CrossEntropy", "KL"])
def test_an_order_that_two_sweeps_cannot_compute_is_refused(name, backend):
    """With the reason; never a wrong number."""
    fields, tensors = function(name, backend=backend.name)
    inputs = leaves(tensors)
    a = fields(*inputs)[-1].sum()
    for _ in range(2):
        grads = torch.autograd.grad(a, inputs, create_graph=True)
        a = dot(grads, [normal(g) for g in grads])
    with pytest.raises(SemiringError, match="the reverse rule of sum keeps the reduction"):
        torch.autograd.grad(a, inputs)


@on_whole_backends
@pytest.mark.parametrize("name", ["Max", "KMax(3)", "LogCount"])
def test_second_order_of_what_is_piecewise_linear_is_zero(name, backend):
    fields, tensors = function(name, backend=backend.name)
    inputs = leaves(tensors)
    first = torch.autograd.grad(fields(*inputs).sum(), inputs, create_graph=True)
    assert name == "LogCount" or all(g.any() for g in first)
    second = torch.autograd.grad(dot(first, [normal(g) for g in first]), inputs, materialize_grads=True)
    assert not any(g.any() for g in second)


@on_whole_backends
def test_gradients_of_gradients_for_some_of_the_parts(backend):
    """Only what asks for a gradient has one, at every order."""
    fields, tensors = function("Log", "duration_transition", backend.name)
    inputs, one = leaves(tensors), leaves(tensors)
    alone = [t if i == 1 else t.detach() for i, t in enumerate(one)]
    g_all = torch.autograd.grad(fields(*inputs).sum(), inputs[1], create_graph=True)[0]
    g_one = torch.autograd.grad(fields(*alone).sum(), one[1], create_graph=True)[0]
    assert torch.equal(g_all, g_one)
    h_all = torch.autograd.grad((g_all**2).sum(), inputs[1])[0]
    h_one = torch.autograd.grad((g_one**2).sum(), one[1])[0]
    close(h_one, h_all)
    assert h_one.abs().max() > 1e-3


# --- Transforms ---


@served(families=["factored", "duration_transition"], backends=WHOLE)
def test_forward_mode_is_the_gradient_along_a_direction(name, family, backend):
    """jvp under torch.func and dual numbers; not zero, which is what an operator without a rule would give."""
    fields, tensors = function(name, family, backend.name)
    directions = [normal(t, seed=i) for i, t in enumerate(tensors)]
    values, along = torch.func.jvp(fields, tuple(tensors), tuple(directions))[:2]
    inputs = leaves(tensors)
    wanted = [
        dot(torch.autograd.grad(field, inputs, retain_graph=True), directions) for field in fields(*inputs).flatten()
    ]
    assert torch.equal(values, fields(*tensors))
    close(along.flatten(), torch.stack(wanted))
    assert name == "LogCount" or along.abs().min(1).values.max() > 1e-3
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, directions, strict=True)]
        primal, tangent = forward_ad.unpack_dual(fields(*duals))
    assert torch.equal(primal, values)
    assert torch.equal(along, torch.zeros_like(values) if tangent is None else tangent)


@served(families=["factored", "duration_transition"], backends=WHOLE)
def test_func_grad_and_vjp(name, family, backend):
    fields, tensors = function(name, family, backend.name)
    inputs = leaves(tensors)
    values = fields(*inputs)
    cotangent = normal(values)
    wanted = torch.autograd.grad(values, inputs, cotangent)
    everything = tuple(range(len(tensors)))
    got = torch.func.grad(lambda *t: (fields(*t) * cotangent).sum(), argnums=everything)(*tensors)
    same, pull = torch.func.vjp(fields, *tensors)[:2]
    assert torch.equal(same, values)
    for w, g, p in zip(wanted, got, pull(cotangent), strict=True):
        assert torch.equal(g, w)
        assert torch.equal(p, w)


@on_whole_backends
@pytest.mark.parametrize("which", ["emission", "transition", "lengths"])
@pytest.mark.parametrize("name", ["Log", "KMax(3)", "KL"])
def test_vmap_over_one_argument(name, which, backend):
    """Over the others the batch stays as it is; values, gradients and forward mode equal those of a loop."""
    row = SEMIRINGS[name]
    batches = batches_of(row, "factored", shared=True)
    spec, lengths, tensors = spec_of(row, backend.name, batches), batches[0].lengths, tensors_of(batches)
    at = {"emission": 0, "transition": 1, "lengths": -1}[which]
    many = torch.tensor([[4, 2, 3], [1, 4, 4]]) if at < 0 else normal(tensors[at], 7, 2)

    def fields(one: Tensor, direction: Tensor | None = None) -> Tensor:
        rows = list(tensors)
        if at >= 0:
            rows[at] = one
        return ops.scan(spec, one if at < 0 else lengths, rows).value

    close(torch.vmap(fields)(many), torch.stack([fields(m) for m in many]))
    if at < 0:
        return
    close(torch.vmap(fields, in_dims=2)(many.movedim(0, 2)), torch.stack([fields(m) for m in many]))
    grad = torch.func.grad(lambda m: fields(m).sum())
    wanted = torch.stack([grad(m) for m in many])
    close(torch.vmap(grad)(many), wanted)
    close(torch.func.grad(lambda m: torch.vmap(fields)(m).sum())(many), wanted)
    direction = normal(many, 8)
    along = torch.vmap(lambda m, d: torch.func.jvp(fields, (m,), (d,))[1])(many, direction)
    close(along, torch.stack([torch.func.jvp(fields, (m,), (d,))[1] for m, d in zip(many, direction, strict=True)]))


@on_whole_backends
@pytest.mark.parametrize("family", ["factored", "edge"])
def test_vmap_over_two_levels(family, backend):
    fields, (first, second, *rest) = function("Entropy", family, backend.name, shared=True)
    firsts, seconds = normal(first, 1, 2), normal(second, 2, 3)
    grid = torch.vmap(
        torch.vmap(fields, in_dims=(None, 0, *[None] * len(rest))), in_dims=(0, *[None] * (1 + len(rest)))
    )
    wanted = torch.stack([torch.stack([fields(a, b, *rest) for b in seconds]) for a in firsts])
    close(grid(firsts, seconds, *rest), wanted)

    inputs = leaves([firsts, seconds])
    got = torch.autograd.grad(grid(*inputs, *rest)[:, :, 1].sum(), inputs)
    looped = torch.stack([fields(a, b, *rest)[1].sum() for a in inputs[0] for b in inputs[1]]).sum()
    want = torch.autograd.grad(looped, inputs)
    for g, w in zip(got, want, strict=True):
        close(g, w)


@on_whole_backends
def test_hessian_jacobians_and_products(backend):
    """One Hessian of log Z by every road, and its products with a vector, against enumeration."""
    batch = draw("factored", 2, 2, LENGTHS, T=4, seed=0)
    f, emission = log_of_emission(backend=backend.name)
    assert torch.equal(emission, batch.parts["emission"])
    rest = list(batch.parts.values())[1:]
    size = emission.numel()

    def matrix(hessian: object) -> Tensor:
        assert isinstance(hessian, Tensor)
        return hessian.reshape(size, size)

    listed = torch.autograd.functional.hessian(lambda e: by_enumeration("Log", [batch], [e, *rest]), emission)
    wanted = matrix(listed)
    for road in (
        torch.func.hessian(f),
        torch.func.jacfwd(torch.func.grad(f)),
        torch.func.jacrev(torch.func.grad(f)),
        torch.func.jacrev(torch.func.jacfwd(f)),
        lambda e: torch.autograd.functional.hessian(f, e),
    ):
        close(matrix(road(emission)), wanted)
    assert torch.equal(torch.func.jacrev(f)(emission), torch.func.grad(f)(emission))
    close(torch.func.jacfwd(f)(emission), torch.func.grad(f)(emission))
    v = normal(emission)
    product = (wanted @ v.flatten()).view_as(v)
    assert product.abs().max() > 1e-2
    for _, got in (hvp(f, emission, v), vhp(f, emission, v)):
        assert isinstance(got, Tensor)
        close(got, product)
    close(torch.func.jvp(torch.func.grad(f), (emission,), (v,))[1], product)


@on_whole_backends
@pytest.mark.parametrize("name", ["Log", "Std", "Entropy"])
def test_forward_mode_inside_forward_mode(name, backend):
    """torch leaves forward mode off inside a Function's jvp, so that a jvp of a jvp is zero unless it is turned on
    (pytorch/pytorch#197867)."""
    fields, (emission, *rest) = function(name, "factored", backend.name)
    d, e, c = (normal(emission, seed) for seed in range(3))

    def along(f: Callable[[Tensor], Tensor], direction: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.func.jvp(f, (x,), (direction,))[1]

    def last(x: Tensor) -> Tensor:
        return fields(x, *rest)[-1].sum()

    def slope(x: Tensor) -> Tensor:
        return (torch.func.grad(last)(x) * d).sum()

    def bend(x: Tensor) -> Tensor:
        return (torch.func.grad(slope)(x) * e).sum()

    assert bend(emission).abs() > 1e-3
    close(along(along(last, d), e)(emission), bend(emission))
    close(along(along(torch.func.grad(last), d), e)(emission), torch.func.grad(bend)(emission))
    if name != "Entropy":  # the third dual of which has no reverse rule
        close(along(along(along(last, d), e), c)(emission), (torch.func.grad(bend)(emission) * c).sum())


@on_whole_backends
def test_engine_vjp_is_the_gradient_and_has_one_itself(backend):
    """`ops.scan_vjp`, from which marginals are read: equal to autograd, and differentiable in cotangent and tensors."""
    row = SEMIRINGS["Entropy"]
    batches = batches_of(row, "duration_transition")
    spec, lengths = spec_of(row, backend.name, batches), batches[0].lengths
    inputs = leaves(tensors_of(batches))
    cotangent = normal(torch.empty(2, 3)).requires_grad_()
    wanted = [i != 2 for i in range(len(inputs))]
    got = ops.scan_vjp(spec, lengths, cotangent, inputs, wanted)
    assert [g.numel() > 0 for g in got] == wanted
    value = ops.scan(spec, lengths, inputs).value
    first = torch.autograd.grad(value, inputs, cotangent, create_graph=True)
    for g, f, w in zip(got, first, wanted, strict=True):
        assert not w or torch.equal(g, f)
    pairs = [(g, f) for g, f, w in zip(got, first, wanted, strict=True) if w]
    second = [
        torch.autograd.grad(dot(firsts, [normal(g, 5) for g in firsts]), [cotangent, *inputs])
        for firsts in zip(*pairs, strict=True)
    ]
    for g, w in zip(*second, strict=True):
        close(g, w)
        assert g.abs().max() > 1e-3


# --- Compilation ---


@on_whole_backends
@pytest.mark.parametrize(
    ("name", "family"),
    [("Log", "factored"), ("Log", "edge"), ("Max", "segment"), ("KL", "duration_transition"), ("KMax(3)", "factored")],
)
def test_compiled_equals_eager(name, family, backend):
    """One graph, forward and backward, the same bits; and what is kept depends on whether a gradient is asked for."""
    torch._dynamo.reset()
    row = SEMIRINGS[name]
    batches = batches_of(row, family, shared=True)
    spec, lengths = spec_of(row, backend.name, batches), batches[0].lengths

    def loss(lengths: Tensor, weight: Tensor, *tensors: Tensor) -> Tensor:
        return (ops.scan(spec, lengths, tensors).value * weight).sum()

    tensors = tensors_of(batches)
    weight = normal(ops.scan(spec, lengths, tensors).value)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    eager_in, compiled_in = leaves(tensors), leaves(tensors)
    wanted, got = loss(lengths, weight, *eager_in), compiled(lengths, weight, *compiled_in)
    assert torch.equal(got, wanted)
    grads = torch.autograd.grad(got, compiled_in)
    for g, w in zip(grads, torch.autograd.grad(wanted, eager_in), strict=True):
        assert torch.equal(g, w)
    assert any(g.any() for g in grads)
    with torch.no_grad():
        assert torch.equal(compiled(lengths, weight, *tensors), wanted)


@on_whole_backends
def test_compiled_once_for_every_batch_size(backend):
    torch._dynamo.reset()
    row = SEMIRINGS["Entropy"]
    counter = CompileCounterWithBackend("aot_eager")
    spec = spec_of(row, backend.name, [draw("factored", 2, 2, LENGTHS, T=4)])
    f = torch.compile(
        lambda lengths, *t: ops.scan(spec, lengths, t).value, fullgraph=True, backend=counter, dynamic=True
    )
    for lengths in (LENGTHS, (4, 1), (1, 2, 3, 4, 4)):
        batch = draw("factored", 2, 2, lengths, T=4, shared=True)
        got, want = leaves(tensors_of([batch])), leaves(tensors_of([batch]))
        values = f(batch.lengths, *got), ops.scan(spec, batch.lengths, want).value
        assert torch.equal(*values)
        cotangent = normal(values[0])
        for g, w in zip(
            torch.autograd.grad(values[0], got, cotangent), torch.autograd.grad(values[1], want, cotangent), strict=True
        ):
            assert torch.equal(g, w)
    assert counter.frame_count == 1


# --- Memory, purity, determinism ---


@served(families=["factored"])
def test_nothing_is_kept_without_gradients(name, family, backend):
    row = SEMIRINGS[name]
    batches = [b.leaves() for b in batches_of(row, family)]
    spec, lengths, tensors = spec_of(row, backend.name, batches), batches[0].lengths, tensors_of(batches)
    with torch.no_grad():
        state = ops.scan(spec, lengths, tensors)
    assert state.value.grad_fn is None
    assert not state.value.requires_grad
    assert [s.numel() for s in state[1:]] == [0] * 8
    constant = ops.scan(spec, lengths, [t.detach() for t in tensors])
    assert constant.value.grad_fn is None
    assert [s.numel() for s in constant[1:]] == [0] * 8
    tracked = ops.scan(spec, lengths, tensors)
    assert tracked.value.grad_fn is not None
    assert tracked.alpha.numel() > 0
    assert not any(s.requires_grad for s in tracked[1:])
    assert torch.equal(tracked.value, state.value)


@served()
def test_twice_the_same_bits_and_inputs_untouched(name, family, backend):
    row = SEMIRINGS[name]
    batches = batches_of(row, family, holes=0.05, unread=nan)
    runs = []
    for _ in range(2):
        copies = [b.leaves() for b in batches]
        versions = [t._version for t in tensors_of(copies)]
        lengths = copies[0].lengths.clone()
        value = ops.scan(spec_of(row, backend.name, copies), copies[0].lengths, tensors_of(copies)).value
        cotangent = normal(value)
        grads = torch.autograd.grad(value, tensors_of(copies), cotangent)
        runs.append([value.detach(), *grads])
        assert torch.equal(cotangent, normal(value))
        assert torch.equal(copies[0].lengths, lengths)
        for now, before in zip(tensors_of(copies), tensors_of(batches), strict=True):
            assert torch.equal(now.detach().nan_to_num(9.0), before.nan_to_num(9.0))
        assert [t._version for t in tensors_of(copies)] == versions
    assert runs[0][0].isfinite().any()
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one, two)


@served()
def test_nothing_past_a_length_is_read(name, family, backend):
    """Zeros, NaN or infinities there: the same bits in values and gradients, which are zero there."""
    row = SEMIRINGS[name]
    results = []
    for unread in (0.0, nan, inf, -inf):
        batches = [b.leaves() for b in batches_of(row, family, unread=unread)]
        fields = run(row, backend.name, batches)
        results.append([fields.detach(), *torch.autograd.grad(fields, tensors_of(batches), normal(fields))])
    assert results[0][0].isfinite().all()
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)
    unread = [torch.isnan(t) for t in tensors_of(batches_of(row, family, unread=nan))]
    assert any(u.any() for u in unread)
    for grad, nowhere in zip(results[0][1:], unread, strict=True):
        assert not grad[nowhere].any()


# --- Dtypes and strides ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@served(backends=[b for b in BACKEND if b.accumulates == torch.float64])
def test_lower_precision_in_float64_out(name, family, backend, dtype):
    """Values are those of the same numbers in float64, bit for bit; gradients are those in float64, rounded once."""
    row = SEMIRINGS[name]
    low = [b.leaves(backend.device, dtype) for b in batches_of(row, family, shared=True, holes=0.05)]
    high = [b.leaves(backend.device, torch.float64) for b in low]
    values = [
        ops.scan(spec_of(row, backend.name, batches), batches[0].lengths, tensors_of(batches)).value
        for batches in (low, high)
    ]
    assert values[0].dtype == torch.float64
    assert torch.equal(*values)
    grads = [torch.autograd.grad(v, tensors_of(b), normal(v)) for v, b in zip(values, (low, high), strict=True)]
    direct = ops.scan_vjp(
        spec_of(row, backend.name, low), low[0].lengths, normal(values[0]), tensors_of(low), [True] * len(grads[0])
    )
    for one, two, three in zip(*grads, direct, strict=True):
        assert one.dtype == three.dtype == dtype
        assert torch.equal(three, one)
        assert torch.equal(one, two.to(dtype))


@served()
def test_strides_do_not_matter(name, family, backend):
    """Transposed, expanded and sliced tensors."""
    row = SEMIRINGS[name]
    batches = batches_of(row, family, shared=True)
    spec, lengths = spec_of(row, backend.name, batches), batches[0].lengths
    plain = leaves(tensors_of(batches))
    strided = [
        t.detach().transpose(0, -1).contiguous().transpose(0, -1).repeat_interleave(2, -1)[..., ::2].requires_grad_()
        for t in plain
    ]
    assert not any(t.is_contiguous() for t in strided)
    spread = torch.stack([lengths, lengths], 1)[:, 0]
    values = ops.scan(spec, lengths, plain).value, ops.scan(spec, spread, strided).value
    assert torch.equal(*values)
    cotangent = normal(values[0])
    wide = torch.stack([cotangent, cotangent], -1)[..., 0]
    for one, two in zip(
        torch.autograd.grad(values[0], plain, cotangent), torch.autograd.grad(values[1], strided, wide), strict=True
    ):
        assert torch.equal(one, two)
    summed = [
        torch.autograd.grad(v.sum(), p)
        for v, p in zip(
            (ops.scan(spec, lengths, plain).value, ops.scan(spec, spread, strided).value), (plain, strided), strict=True
        )
    ]  # a cotangent of stride 0
    for one, two in zip(*summed, strict=True):
        assert torch.equal(one, two)
