"""Tuples of tensors, as elements and accumulators are, and the reading of a model's parts.

P is the layout of the parts, a constant: ``P.emission[m]`` is the index of model m's emissions among `parts`, -1 where
there are none; ``P.rows[i]`` is 1 where part i has one row per sequence, 0 where the batch shares one. Where
``P.backwards``, positions count from the end: a sweep then runs over the reversed sequence, whose layout has starts
and ends exchanged.
"""

import triton
import triton.language as tl


@triton.jit
def constants(values: tl.constexpr, like):
    """A tuple of tensors shaped like `like`, each filled with one number."""
    out = ()
    for i in tl.static_range(len(values)):
        out = out + (tl.full(like.shape, values[i], like.dtype),)
    return out


@triton.jit
def nothing_yet(like, S: tl.constexpr):
    """The accumulator of no terms, for every entry of `like`."""
    return constants(S.empty, like) + constants(S.nowhere, like.to(tl.int32))


@triton.jit
def expand(x, axis: tl.constexpr):
    """Every tensor of a tuple with one more axis."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (tl.expand_dims(x[i], axis),)
    return out


@triton.jit
def select(condition, x, y):
    """x where the condition holds, y elsewhere."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (tl.where(condition, x[i], y[i]),)
    return out


@triton.jit
def pick(x, here, S: tl.constexpr, kind: tl.constexpr):
    """The row of every tensor of a tuple where `here`, a column of truths, holds, in one reduction of them all.

    `kind` says what the tuple is, as that names the adding function. The interpreter reduces tuples one number at a
    time, so there every tensor is reduced by itself.
    """
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (tl.where(here, x[i], 0),)
    if len(x) == 1:
        return (tl.sum(out[0], 0),)
    elif S.together and kind == "accumulator":
        return tl.reduce(out, 0, S.add)
    elif S.together and kind == "fields":
        return tl.reduce(out, 0, S.add_fields)
    elif S.together:
        return tl.reduce(out, 0, S.add_potentials)
    else:
        apart = ()
        for i in tl.static_range(len(x)):
            apart = apart + (tl.sum(out[i], 0),)
        return apart


@triton.jit
def plus(x, y):
    """Two tuples, added."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (x[i] + y[i],)
    return out


@triton.jit
def add_up(x, axis: tl.constexpr, N: tl.constexpr):
    """The first N tensors of a tuple, summed along an axis."""
    out = ()
    for i in tl.static_range(N):
        out = out + (tl.sum(x[i], axis),)
    return out


@triton.jit
def take(x, first: tl.constexpr, last: tl.constexpr):
    """The tensors first .. last - 1 of a tuple."""
    out = ()
    for i in tl.static_range(last - first):
        out = out + (x[first + i],)
    return out


@triton.jit
def convert(x, dtype: tl.constexpr):
    """Every tensor of a tuple in another dtype."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (x[i].to(dtype),)
    return out


@triton.jit
def load_tuple(pointer, stride, offsets, mask, others: tl.constexpr, dtype: tl.constexpr):
    """One tensor for every number in `others`, `stride` apart in memory."""
    out = ()
    for i in tl.static_range(len(others)):
        out = out + (tl.load(pointer + i * stride + offsets, mask=mask, other=others[i]).to(dtype),)
    return out


@triton.jit
def store_tuple(pointer, stride, offsets, x, mask):
    """Store every tensor of a tuple, `stride` apart in memory."""
    for i in tl.static_range(len(x)):
        tl.store(pointer + i * stride + offsets, x[i], mask=mask)


@triton.jit
def row_of(parts, index: tl.constexpr, P: tl.constexpr, b, size):
    """The first entry of sequence b in a part whose rows have `size` entries."""
    return parts[index] + b * size * P.rows[index]


@triton.jit
def place(P: tl.constexpr, t, n):
    """Where position t of a sequence of n lies."""
    if P.backwards:
        return n - 1 - t
    else:
        return t


@triton.jit
def vectors(parts, which: tl.constexpr, P: tl.constexpr, b, at, size, lab, mask, F: tl.constexpr):
    """(labels,) for every model: the entries `at` ... of a part, 0 where it is absent; -inf where masked."""
    out = ()
    for m in tl.static_range(len(which)):
        if which[m] >= 0:
            p = row_of(parts, which[m], P, b, size) + at
            out = out + (tl.load(p + lab, mask=mask, other=float("-inf")).to(F),)
        else:
            out = out + (tl.where(mask, tl.zeros(lab.shape, F), float("-inf")),)
    return out


@triton.jit
def positional(parts, which: tl.constexpr, P: tl.constexpr, b, t, n, lab, T, C, F: tl.constexpr):
    """A part at positions t and labels `lab`, tensors that broadcast together, for every model; 0 where it is absent,
    -inf outside 0..n-1.
    """
    inside = (t >= 0) & (t < n) & (lab < C)
    out = ()
    for m in tl.static_range(len(which)):
        if which[m] >= 0:
            p = row_of(parts, which[m], P, b, T.to(tl.int64) * C)
            out = out + (tl.load(p + t * C.to(tl.int64) + lab, mask=inside, other=float("-inf")).to(F),)
        else:
            out = out + (tl.where(inside, tl.zeros(inside.shape, F), float("-inf")),)
    return out


@triton.jit
def negative(x):
    """Every tensor of a tuple, negated."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (-x[i],)
    return out


@triton.jit
def padded(x, like, S: tl.constexpr):
    """Potentials with a zero for every gauge behind them, as `move` and `carry` take them."""
    out = x
    for _ in tl.static_range(len(S.gauges)):
        out = out + (tl.zeros_like(like),)
    return out


@triton.jit
def in_gauge(x, offsets, stride, t, n, origin, S: tl.constexpr, F: tl.constexpr):
    """Elements of rows t, which broadcasts, in the gauge of row `origin`, so that those of several rows are alike."""
    if len(S.gauges) == 0:
        return x
    else:
        moved = constants(S.still, tl.zeros(x[0].shape, F))
        for i in tl.static_range(len(S.gauges)):
            p = offsets + (S.potentials + i) * stride
            level = tl.load(p + t, mask=(t >= 0) & (t <= n), other=0.0) - tl.load(p + origin)
            moved = moved + (level.to(F) + tl.zeros(x[0].shape, F),)
        return S.move(x, moved)


@triton.jit
def less(x, y):
    """The difference of two tuples."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (x[i] - y[i],)
    return out


@triton.jit
def transitions(parts, P: tl.constexpr, b, prev, next, C, F: tl.constexpr):
    """A matrix for every model, over `prev` and `next`, which broadcast together; -inf outside the labels."""
    mask = (prev < C) & (next < C)
    out = ()
    for m in tl.static_range(len(P.transition)):
        if P.transition[m] >= 0:
            p = row_of(parts, P.transition[m], P, b, C * C)
            w = tl.load(p + prev * C + next, mask=mask, other=float("-inf")).to(F)
        else:
            w = tl.where(mask, tl.zeros(mask.shape, F), float("-inf"))
        out = out + (w,)
    return out


@triton.jit
def emitted(parts, P: tl.constexpr, b, t, n, lab, T, C, F: tl.constexpr):
    """(labels,) for every model: the emissions of position t, -inf included; 0 outside 0..n-1 and where absent."""
    inside = (t >= 0) & (t < n) & (lab < C)
    out = ()
    for m in tl.static_range(len(P.emission)):
        if P.emission[m] >= 0:
            p = row_of(parts, P.emission[m], P, b, T.to(tl.int64) * C) + place(P, t, n) * C.to(tl.int64)
            out = out + (tl.load(p + lab, mask=inside, other=0.0).to(F),)
        else:
            out = out + (tl.zeros(lab.shape, F),)
    return out


@triton.jit
def _later(a, b):
    return tl.maximum(a, b)


@triton.jit
def _earlier(a, b):
    return tl.minimum(a, b)


@triton.jit
def emissions(parts, P: tl.constexpr, b, first, n, row, lab, T, C, F: tl.constexpr):
    """Emissions (rows, labels) of a tile for every model, 0 where they are -inf and outside the sequence, and where
    they are -inf. `first` is the position of row 0.
    """
    t = first + row
    inside = ((t >= 0) & (t < n))[:, None] & (lab < C)[None, :]
    found = ()
    holes = ()
    for m in tl.static_range(len(P.emission)):
        if P.emission[m] >= 0:
            p = row_of(parts, P.emission[m], P, b, T.to(tl.int64) * C) + place(P, first, n) * C.to(tl.int64)
            at = -row if P.backwards else row
            e = tl.load(p + at[:, None] * C + lab[None, :], mask=inside, other=0.0).to(F)
            hole = e == float("-inf")
            e = tl.where(hole, 0.0, e)
        else:
            hole = tl.zeros(inside.shape, tl.int32) > 0
            e = tl.zeros(inside.shape, F)
        holes = holes + (hole,)
        found = found + (e,)
    return found, holes


@triton.jit
def starts_required(parts, P: tl.constexpr, m: tl.constexpr, b, first, n, row, T):
    """(rows,): whether model m requires a segment to start at each position of a tile."""
    t = first + row
    if P.required[m] >= 0:
        p = row_of(parts, P.required[m], P, b, T)
        at = n - t if P.backwards else t
        return tl.load(p + at, mask=(t > 0) & (t < n), other=0).to(tl.int32) != 0
    else:
        return t < t


@triton.jit
def store_grads(grads, which: tl.constexpr, b, size, at, offsets, x, mask):
    """Store one tensor per model into the gradients that are wanted; sequence b has `size` entries there."""
    for m in tl.static_range(len(which)):
        if which[m] >= 0:
            tl.store(grads[which[m]] + b * size + at + offsets, x[m], mask=mask)


@triton.jit
def add_grads(grads, which: tl.constexpr, b, size, at, offsets, x, mask):
    """Add to what is stored there; a program adds in one order. Between two calls on one place stands a barrier."""
    for m in tl.static_range(len(which)):
        if which[m] >= 0:
            p = grads[which[m]] + b * size + at + offsets
            before = tl.load(p, mask=mask, other=0.0)
            tl.debug_barrier()  # threads that hold the same entry have all read it
            tl.store(p, before + x[m], mask=mask)
