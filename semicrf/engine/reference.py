"""The dynamic programme, in float64 torch, one position at a time: the recurrence that every other backend must equal.

    g_0 = one * start                       g_s(c) = sum_{c'} alpha_s(c') * transition[c', c]
    alpha_t(c) = sum_k g_{t-k}(c) * segment(t-k, t, c)          value = sum_c alpha_length(c) * end[c]

Sums and products are the semiring's; a score enters by the *action* of a potential. The factoring over the previous
label is exact in every semiring (Sarawagi & Cohen 2004 for Max; by the distributive law elsewhere), O(T (K C + C^2))
for factored models. Where what leads into a segment depends on its duration, g has one column per duration and the same
lines hold.

Logarithms of long sums grow with the position, and with them their rounding, so alpha_t and g_t are kept *relative* to
an offset per position and potential: the element times exp(-offset), an exact change of units by the semiring's own
action.

Stored: alpha and g for every position, and where the choices were found. The reverse sweep applies the semiring's
derived reverse rule to the two sums, backwards; it holds no autograd tape.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.arcs import Arcs, Counts
from semicrf.engine.primitives import generated

inf = float("inf")
NOTHING = torch.empty(0, 0, dtype=torch.float64)


class State(NamedTuple):
    """What a scan leaves behind; all but `value` are empty unless asked for."""

    value: Tensor  # (d, B)
    alpha: Tensor  # (d, B, T+1, C), relative to the offset of its position
    g: Tensor  # (d, B, T, columns, C), likewise
    offset: Tensor  # (potentials, B, T+1)
    alpha_id: Tensor  # (ids, B, T+1, C): which duration row each choice took
    g_id: Tensor  # (ids, B, T, columns, C): which previous label
    end_id: Tensor  # (ids, B): which final label
    ahead: Tensor = NOTHING  # a module's own: what may follow each position, where a scan runs both ways at once
    ahead_offset: Tensor = NOTHING  # its offsets

    @classmethod
    def of(cls, value: Tensor, choice: torch.dtype = torch.int64) -> State:
        """The value alone, all else empty, choices of this dtype; an operator's outputs share no memory."""
        B = value.shape[1]
        real = (value.new_empty(0, B) for _ in range(3))
        return cls(value, *real, *(value.new_empty((0, B), dtype=choice) for _ in range(3)))


class Algebra:
    """A semiring's generated functions on stacked tensors: an element is a tensor whose first axis is its scalars."""

    def __init__(self, program: Program, device: torch.device):
        self.program = program
        self.functions = generated(program)
        self.zero = torch.tensor(program.semiring.zero, dtype=torch.float64, device=device)
        self.one = torch.tensor(program.semiring.one, dtype=torch.float64, device=device)

    def act(self, x: Tensor, w: list[Tensor]) -> Tensor:
        """The element `x` times the potentials `w`; exactly zero where all the potentials that gate it are -inf."""
        x, w, forbidden = self._aligned(x, w)
        z = torch.stack(self.functions.act(x, w))
        return torch.where(forbidden, self.zero.view(-1, *[1] * (z.dim() - 1)), z)

    def level(self, x: Tensor) -> Tensor:
        """How large the elements (d, B, C) are, in units of each potential: (potentials, B), 0 where that has no
        meaning.
        """
        levels = torch.zeros(self.program.potentials, x.shape[1], dtype=x.dtype, device=x.device)
        for potential, field in self.program.levels.items():
            top = x[field].amax(-1)
            levels[potential] = torch.where(top.isfinite(), top, 0.0)
        return levels

    def shift(self, x: Tensor, by: Tensor) -> Tensor:
        """The elements (d, B, ...) times potentials (potentials, B)."""
        return self.act(x, [w.view(-1, *[1] * (x.dim() - 2)) for w in by])

    def sum(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """The sum over `dim` (negative), and the places of its choices."""
        values, places = self.functions.sum(x, dim)
        empty = torch.empty((0, *values[0].squeeze(dim).shape), dtype=torch.int64, device=x.device)
        return torch.stack(values).squeeze(dim), torch.stack(places).squeeze(dim) if places else empty

    def pull(
        self, gy: Tensor, y: Tensor, ids: Tensor, x: Tensor, w: list[Tensor], dim: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Cotangents of x and w, given that of ``y = sum(act(x, w), dim)``. Where the cotangent is zero, so is what
        it pulls back.
        """
        z = self.act(x, w)
        up = [t.unsqueeze(dim) for t in (gy, y, ids)]
        gz = self._stack(self.functions.sum_vjp(up[0], up[1], z, up[2], dim), z[0])
        gz = torch.where((up[0] != 0).any(0), gz, 0.0)
        return self.pull_act(gz, x, w)

    def pull_act(self, gz: Tensor, x: Tensor, w: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, w, forbidden = self._aligned(x, w)
        pulled = torch.where(forbidden, 0.0, self._stack(self.functions.act_vjp(gz, x, w), gz[0]))
        return pulled[: self.program.width], list(pulled[self.program.width :])

    def _stack(self, values: tuple[Tensor, ...], like: Tensor) -> Tensor:
        return torch.stack([v.expand_as(like) for v in values])

    def _aligned(self, x: Tensor, w: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        shape = torch.broadcast_shapes(x.shape[1:], *(v.shape for v in w))
        w = [v.expand(shape) for v in w]
        forbidden = torch.stack([v == -inf for v in w[: self.program.gates]]).all(0)
        return x.expand(-1, *shape), w, forbidden


class Windows:
    """g by position: all of it where it is kept, the last K positions (in a buffer of 2 K) where it is not."""

    def __init__(self, shape: tuple[int, int, int, int, int], K: int, keep: bool, device: torch.device):
        d, B, T, columns, C = shape
        self.K, self.first, self.columns = K, 0, columns
        self.g = torch.empty(d, B, T if keep else min(T, 2 * K), columns, C, dtype=torch.float64, device=device)

    def put(self, s: int, g: Tensor) -> None:
        if s - self.first >= self.g.shape[2]:
            self.g[:, :, : self.K] = self.g[:, :, -self.K :].clone()
            self.first = s - self.K
        self.g[:, :, s - self.first] = g

    def index(self, sources: Tensor) -> tuple:
        """Where the sources of a window lie: g of the duration that leads from each."""
        columns = torch.arange(len(sources), device=sources.device) * (self.columns > 1)
        return (slice(None), slice(None), sources - self.first, columns)


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether this engine runs a semiring over models with these parts: always."""
    return True


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep: values for every sequence; alpha, g and choices too where `keep`."""
    algebra = Algebra(program, lengths.device)
    arcs = [Arcs(m, lengths, T, K, C) for m in models]
    B, columns, d = lengths.shape[0], max(a.columns for a in arcs), program.width
    windows = Windows((d, B, T, columns, C), K, keep, lengths.device)
    nothing = algebra.zero.view(-1, 1, 1).expand(-1, B, C)
    no_ids = torch.full((program.ids, B, C), -1, device=lengths.device)
    alphas, alpha_ids, g_ids = [nothing], [no_ids], [no_ids[:, :, None].expand(-1, -1, columns, -1)]
    offset = torch.zeros(program.potentials, B, T + 1, dtype=torch.float64, device=lengths.device)
    windows.put(0, algebra.act(algebra.one.view(-1, 1, 1, 1), [a.initial() for a in arcs]).expand(-1, B, columns, C))
    last = nothing
    for t in range(1, T + 1):
        sources = arcs[0].sources(t)
        w = _windows(arcs, t, sources, offset, t - 1)
        alpha, ids = algebra.sum(algebra.act(windows.g[windows.index(sources)], w), -2)
        offset[..., t] = offset[..., t - 1] + algebra.level(alpha)
        alpha = algebra.shift(alpha, offset[..., t - 1] - offset[..., t])
        last = torch.where((lengths == t)[:, None], alpha, last)
        if keep:
            alphas.append(alpha)
            alpha_ids.append(ids)
        if t < T:
            into = algebra.act(rearrange(alpha, "d b previous -> d b 1 previous 1"), [a.transition(t) for a in arcs])
            g, ids = algebra.sum(into.expand(-1, B, columns, C, C), -2)
            windows.put(t, g)
            if keep:
                g_ids.append(ids)
    value, end_id = algebra.sum(algebra.act(last, [a.final() for a in arcs]), -1)
    value = algebra.shift(value, _at(offset, lengths))
    if not keep:
        return State.of(value)
    ids = torch.stack(alpha_ids, 2), torch.stack(g_ids, 2), end_id
    return State(value, torch.stack(alphas, 2), windows.g, offset, *ids)


def _windows(arcs: list[Arcs], t: int, sources: Tensor, offset: Tensor, frame: int) -> list[Tensor]:
    """What leads from g at each source to alpha at t, the former in units of its own offset, the latter in those of
    `frame`.
    """
    relative = offset[:, :, sources] - offset[:, :, frame, None]
    return [a.window(t) + r[..., None] for a, r in zip(arcs, relative, strict=True)]


def _at(rows: Tensor, lengths: Tensor) -> Tensor:
    """(n, B): the entry of each sequence at its length, of rows (n, B, T+1)."""
    return rows.gather(-1, lengths.expand(rows.shape[0], -1)[..., None]).squeeze(-1)


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep: gradients of the wanted parts of every model, for a cotangent (d, B) of the value.

    A field that is not finite (an impossible sequence, an infinite divergence) has no gradient.
    """
    assert program.reverse is not None  # raises here, with the reason, where a semiring has no reverse rule
    algebra = Algebra(program, lengths.device)
    arcs = [Arcs(m, lengths, T, K, C) for m in models]
    counts = [Counts(a, w) for a, w in zip(arcs, wanted, strict=True)]
    B, columns = lengths.shape[0], state.g.shape[3]
    windows = Windows((0, 0, T, columns, 0), K, True, lengths.device)
    g_bar = torch.zeros_like(state.g)

    def spread(method: str, gw: list[Tensor], *at: int) -> None:
        for count, arc, g in zip(counts, arcs, gw, strict=True):
            if method in ("transition", "initial") and arc.columns < columns:
                g = g.sum(1, keepdim=True)
            getattr(count, method)(*at, g)

    cotangent = torch.where(state.value.isfinite(), cotangent, 0.0)
    at_end = state.alpha[:, torch.arange(B, device=lengths.device), lengths]
    value = algebra.shift(state.value, -_at(state.offset, lengths))
    last_bar, gw = algebra.pull(cotangent, value, state.end_id, at_end, [a.final() for a in arcs], -1)
    spread("final", gw)
    for t in range(T, 0, -1):
        alpha = state.alpha[:, :, t]
        alpha_bar = torch.where((lengths == t)[:, None], last_bar, 0.0)
        if t < T:
            x = repeat(alpha, "d b previous -> d b column previous next", column=columns, next=C)
            w = [a.transition(t) for a in arcs]
            into, gw = algebra.pull(g_bar[:, :, t], state.g[:, :, t], state.g_id[:, :, t], x, w, -2)
            alpha_bar = alpha_bar + reduce(into, "d b column previous next -> d b previous", "sum")
            spread("transition", gw, t)
        sources = arcs[0].sources(t)
        here = windows.index(sources)
        w = _windows(arcs, t, sources, state.offset, t)
        into, gw = algebra.pull(alpha_bar, alpha, state.alpha_id[:, :, t], state.g[here], w, -2)
        g_bar[here] += into
        spread("window", gw, t)
    one = algebra.one.view(-1, 1, 1, 1).expand(-1, B, columns, C)
    spread("initial", algebra.pull_act(g_bar[:, :, 0], one, [a.initial() for a in arcs])[1])
    return [
        {n: count.gradient(n, model[n]) for n in want}
        for count, model, want in zip(counts, models, wanted, strict=True)
    ]
