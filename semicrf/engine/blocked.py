"""The dynamic programme in float64 torch, a block of positions at a time: for any device, without a compiler.

The window of segments that end in a block is split at the block's front. What starts before it has no sequential
dependence: one sum over sources for all positions of the block at once. What starts inside is at most one block long,
and goes one position at a time, with the far sum as one more source:

    far_t(c) = arriving_t(c) * sum_k lasting_k(c) * leaving_{t-k}(c) * g_{t-k}(c)        t - k <= front
    alpha_t(c) = far_t(c) + sum_{k < t - front} span(t-k, t, c) * g_{t-k}(c)

A position costs some small operations whatever K is, and its share of the large ones.

The reverse sweep is linear in the cotangents, so the derivatives along every arc inside a block are taken at once from
what is stored, and one position of it is two small products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.arcs import Arcs
from semicrf.engine.layout import BY_DURATION, PARTS
from semicrf.engine.reference import Algebra, State
from semicrf.engine.spans import SpanCounts, Spans, by_source

inf = float("inf")

N = 32
"""Positions in a block."""
TILE = 2**17
"""Scalars that an operation over a window may hold."""


def serves(program: Program, parts: set[str], device: torch.device) -> bool:
    """Whether this engine runs a semiring over models with these parts.

    Where what leads in depends on the duration, one position is a large operation by itself and blocks gain nothing.
    The derivatives along every arc grow with the square of an element's width; from four scalars on the reference is
    as fast.
    """
    return program.width <= 3 and not parts & BY_DURATION


class Action:
    """Potentials that act on many elements: what they forbid is worked out once."""

    def __init__(self, algebra: Algebra, w: list[Tensor]):
        self.functions, self.zero, self.w = algebra.functions, algebra.zero.unbind(), w
        shape = torch.broadcast_shapes(*(v.shape for v in w))
        forbidden = torch.stack([v.expand(shape) == -inf for v in w[: algebra.program.gates]]).all(0)
        self.forbidden = forbidden if bool(forbidden.any()) else None

    def __getitem__(self, index) -> Action:
        part = object.__new__(Action)
        part.functions, part.zero, part.w = self.functions, self.zero, [v[index] for v in self.w]
        part.forbidden = None if self.forbidden is None else self.forbidden[index]
        return part

    def sum(self, x: tuple[Tensor, ...], dim: int) -> tuple[Tensor, ...]:
        """The sum over `dim`, which stays, of the elements x, one tensor per scalar, moved by these potentials."""
        z = self.functions.act(x, self.w)
        if self.forbidden is not None:
            z = tuple(torch.where(self.forbidden, zero, v) for zero, v in zip(self.zero, z, strict=True))
        return self.functions.sum(z, dim)[0]


def _far(algebra: Algebra, tiles: list[Spans], g: Tensor, offset: Tensor, at: int, n: int) -> Tensor:
    """(d, B, n, C): the sums over what starts up to `at`, for n positions from there on, relative to its offset.

    g (d, B, m, C) and their offsets, relative to that at `at`, are of the last m positions up to `at`.
    """
    d, B, m, C = g.shape
    device, M = g.device, min(tiles[0].K, m + n - 1)
    sources = torch.arange(at + 1 - m, at + 1, device=device)
    t, k = torch.arange(at + 1, at + n + 1, device=device), torch.arange(M, 0, -1, device=device)
    u = algebra.zero.view(-1, 1, 1, 1).repeat(1, B, M + n - 1, C)
    u[:, :, M - m : M] = algebra.act(
        g, [a.leaving(sources, at) + r[..., None] for a, r in zip(tiles, offset, strict=True)]
    )
    windows = u.unfold(2, M, 1).transpose(-1, -2)
    rows = max(1, TILE // max(1, d * B * M * C))
    sums = []
    for i in range(0, n, rows):
        lasting = Action(algebra, [a.lasting(t[i : i + rows], k) for a in tiles])
        x = windows[:, :, i : i + rows]
        sums.append(torch.stack([v.expand(B, -1, 1, C) for v in lasting.sum(x.unbind(), -2)]).squeeze(-2))
    return algebra.act(torch.cat(sums, 2), [a.arriving(t, at) for a in tiles])


def _near(algebra: Algebra, far: Tensor, spans: Action, lead: Action, n: int, last: bool) -> tuple[Tensor, Tensor]:
    """alpha and g (d, B, n, C) at n positions, from their far sums; `last`: nothing starts at the last of them.

    spans: (B, n, L, C), the last column being duration 1; the far sum stands where the front of the block would.
    """
    d, B, L, C = far.shape  # a window inside the block is as long as the far sums are many: min(K, n)
    alpha, slots = far.new_empty(d, B, n, C), far.new_zeros(d, B, n + 1, C)
    for j in range(1, n + 1):
        first = max(0, j - L)
        if first == 0:
            slots[:, :, 0] = far[:, :, j - 1]
        here = spans[:, j - 1, L - (j - first) :].sum(slots[:, :, first:j].unbind(), -2)
        for f, v in enumerate(here):
            alpha[f, :, j - 1 : j] = v
        if j < n or not last:
            into = tuple(v.transpose(-1, -2).expand(B, C, C) for v in here)
            for f, v in enumerate(lead.sum(into, -2)):
                slots[f, :, j : j + 1] = v
    return alpha, slots[:, :, 1:]


def _slice(model: dict[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
    """The parts of positions first..last-1."""
    return {n: p[:, first:last] if "T" in PARTS[n] else p for n, p in model.items()}


def _block(
    algebra: Algebra, models: list[dict[str, Tensor]], lengths: Tensor, lead: Action, g: Tensor, offset: Tensor,
    front: int, n: int, K: int, last: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """alpha, g (d, B, n, C) and offsets (potentials, B, n) at the n positions after `front`, from the last g and
    offsets up to there.
    """
    m, C = g.shape[2:]
    base = front + 1 - m
    tiles = [Spans(_slice(p, base, front + n), lengths - base, front + n - base, K, C) for p in models]
    relative = offset - offset[..., -1:]
    far = _far(algebra, tiles, g, relative, front - base, min(n, K))
    L = min(K, n)
    t = torch.arange(m, m + n, device=g.device)
    k = torch.arange(L, 0, -1, device=g.device)
    w = [a.spans(t, k) for a in tiles]
    for v in w:  # the far sum comes as it is
        v[:, range(L), range(L - 1, -1, -1)] = 0.0
    alpha, g = _near(algebra, far, Action(algebra, w), lead, n, last)
    level = algebra.level(alpha.flatten(1, 2)).unflatten(1, (-1, n))
    back = [-v[..., None] for v in level]
    return algebra.act(alpha, back), algebra.act(g, back), offset[..., -1:] + level


def scan(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int, keep: bool
) -> State:
    """The forward sweep; see `semicrf.engine.reference.scan`."""
    algebra, B = Algebra(program, lengths.device), lengths.shape[0]
    whole = [Arcs({n: p for n, p in m.items() if "T" not in PARTS[n]}, lengths, T, K, C) for m in models]
    lead = Action(algebra, [a.transition(1)[:, 0] for a in whole])
    g = algebra.act(algebra.one.view(-1, 1, 1), [a.initial()[:, 0] for a in whole]).expand(-1, B, C)[:, :, None]
    offset = torch.zeros(program.potentials, B, 1, dtype=torch.float64, device=lengths.device)
    last = algebra.zero.view(-1, 1, 1).expand(-1, B, C)
    level, row = offset[..., 0], torch.arange(B, device=lengths.device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = [(last[:, :, None], g, offset)]
    for front in range(0, T, N):
        n = min(N, T - front)
        alpha, after, offsets = _block(algebra, models, lengths, lead, g, offset, front, n, K, last=front + n == T)
        here, place = (lengths > front) & (lengths <= front + n), (lengths - front - 1).clamp(0, n - 1)
        last = torch.where(here[:, None], alpha[:, row, place], last)
        level = torch.where(here, offsets[:, row, place], level)
        g, offset = (torch.cat(pair, 2)[:, :, -K:] for pair in ((g, after), (offset, offsets)))
        if keep:
            kept.append((alpha, after, offsets))
    value, end_id = algebra.sum(algebra.act(last, [a.final() for a in whole]), -1)
    value = algebra.shift(value, level)
    if not keep:
        return State.of(value)
    alpha, g, offset = (torch.cat(rows, 2) for rows in zip(*kept, strict=True))
    state = State(value, alpha, g[:, :, :T, None].contiguous(), offset, *_no_ids(program, B, T, C, lengths), end_id)
    if program.ids:
        _choose(algebra, [Spans(m, lengths, T, K, C) for m in models], state)
    return state


def _no_ids(program: Program, B: int, T: int, C: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_full((program.ids, B, T + 1, C), -1), like.new_full((program.ids, B, T, 1, C), -1)


def _windows(arcs: list[Spans], state: State, t: Tensor, longest: int) -> tuple[Tensor, list[Tensor]]:
    """All that leads to consecutive positions t, by duration up to `longest`: g (d, B, n, longest, C), and what acts on
    it, in units of each position's own offset.
    """
    k = torch.arange(1, longest + 1, device=t.device)
    sources = (t[:, None] - k).clamp(min=0)
    relative = state.offset[:, :, sources] - state.offset[:, :, t, None]
    return state.g[:, :, sources, 0], [a.spans(t, k) + r[..., None] for a, r in zip(arcs, relative, strict=True)]


def _leads(arcs: list[Spans], state: State, t: Tensor) -> tuple[Tensor, list[Tensor]]:
    """All that leads from alpha at positions t to g there: alpha (d, B, n, C, C), and what acts on it."""
    x = state.alpha[:, :, t, :, None]
    return x.expand(*x.shape[:-1], x.shape[-2]), [a.transition(1) for a in arcs]


def _tiles(first: int, last: int, scalars: int, device: torch.device) -> list[Tensor]:
    """Positions first..last, as many at a time as TILE allows where each needs so many scalars."""
    return list(torch.arange(first, last + 1, device=device).split(max(1, TILE // max(1, scalars))))


def _choose(algebra: Algebra, arcs: list[Spans], state: State) -> None:
    """Writes where the choices were found: once all values are known, positions do not wait for each other."""
    d, B, T, _, C = state.g.shape
    for t in _tiles(1, T, d * B * min(arcs[0].K, T) * C, state.g.device):
        x, w = _windows(arcs, state, t, min(arcs[0].K, int(t[-1])))
        state.alpha_id[:, :, t] = algebra.sum(algebra.act(x, w), -2)[1]
    for t in _tiles(1, T - 1, d * B * C * C, state.g.device):
        state.g_id[:, :, t, 0] = algebra.sum(algebra.act(*_leads(arcs, state, t)), -2)[1]


def _derivatives(algebra: Algebra, y: Tensor, ids: Tensor, x: Tensor, w: list[Tensor]) -> Tensor:
    """(scalars of y, scalars of x, B, n, terms, C): the derivative of the sum y along every term.

    An infinite one stands where a divergence is infinite, which has no cotangent: it counts as 0.
    """
    units = torch.eye(len(y), dtype=y.dtype, device=y.device)
    seeds = [u.view(-1, *[1] * (y.dim() - 1)).expand_as(y) for u in units]
    along = torch.stack([algebra.pull(seed, y, ids, x, w, -2)[0] for seed in seeds])
    return torch.where(along.isfinite(), along, 0.0)


def _sweep(
    algebra: Algebra, arcs: list[Spans], state: State, t: Tensor, alpha_bar: Tensor, g_bar: Tensor
) -> tuple[Tensor, Tensor]:
    """Cotangents of alpha and g (d, B, n, C) at the positions t of a block, from what the rest of the model gives
    them.
    """
    d, B, n, C = alpha_bar.shape
    L = max(1, min(arcs[0].K, n - 1))
    along = _derivatives(algebra, state.alpha[:, :, t], state.alpha_id[:, :, t], *_windows(arcs, state, t, L))
    near = along.flip(-2).permute(3, 4, 2, 1, 0, 5).contiguous()  # n, L, B, of x, of y, C: earliest source first
    inner = t[t < state.g.shape[2]]
    x, w = _leads(arcs, state, inner)
    along = _derivatives(algebra, state.g[:, :, inner, 0], state.g_id[:, :, inner, 0], x, w)
    lead = along.permute(3, 2, 1, 4, 0, 5).reshape(len(inner), B, d * C, d * C)
    bar = alpha_bar.permute(2, 1, 0, 3).contiguous()
    down = g_bar.permute(2, 1, 0, 3).contiguous()
    for j in range(n - 1, -1, -1):
        if j < len(inner):
            bar[j] += (lead[j] @ down[j].view(B, d * C, 1)).view(B, d, C)
        m = min(L, j)
        if m:
            down[j - m : j] += (near[j, L - m :] * bar[j][:, None]).sum(-2)
    return bar.permute(2, 1, 0, 3), down.permute(2, 1, 0, 3)


def scan_vjp(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, cotangent: Tensor, wanted: list[set[str]],
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The reverse sweep; see `semicrf.engine.reference.scan_vjp`."""
    assert program.reverse is not None  # raises here, with the reason, where a semiring has no reverse rule
    algebra, B, device = Algebra(program, lengths.device), lengths.shape[0], lengths.device
    arcs = [Spans(m, lengths, T, K, C) for m in models]
    counts = [SpanCounts(a, w) for a, w in zip(arcs, wanted, strict=True)]
    row, d = torch.arange(B, device=device), program.width
    cotangent = torch.where(state.value.isfinite(), cotangent, 0.0)
    level = state.offset[:, row, lengths]
    at_end, value = state.alpha[:, row, lengths], algebra.shift(state.value, -level)
    last_bar, gw = algebra.pull(cotangent, value, state.end_id, at_end, [a.final() for a in arcs], -1)
    for count, g in zip(counts, gw, strict=True):
        count.final(g)
    alpha_bar, g_bar = torch.zeros_like(state.alpha), torch.zeros_like(state.g[:, :, :, 0])
    alpha_bar[:, row, lengths] = last_bar
    for front in reversed(range(0, T, N)):
        t = torch.arange(front + 1, min(front + N, T) + 1, device=device)
        inner = t[t < T]
        bar, down = _sweep(algebra, arcs, state, t, alpha_bar[:, :, t], g_bar[:, :, inner])
        alpha_bar[:, :, t], g_bar[:, :, inner] = bar, down
        _spread(algebra, arcs, counts, state, t, bar, g_bar, front)
    for t in _tiles(1, T - 1, d * B * C * C, device):
        ids = state.g_id[:, :, t, 0]
        _, gw = algebra.pull(g_bar[:, :, t], state.g[:, :, t, 0], ids, *_leads(arcs, state, t), -2)
        for count, g in zip(counts, gw, strict=True):
            count.transition(1, g.sum(1, keepdim=True))
    one = algebra.one.view(-1, 1, 1, 1).expand(-1, B, 1, C)
    for count, g in zip(
        counts, algebra.pull_act(g_bar[:, :, 0, None], one, [a.initial() for a in arcs])[1], strict=True
    ):
        count.initial(g)
    return [{n: c.gradient(n, model[n]) for n in w} for c, model, w in zip(counts, models, wanted, strict=True)]


def _spread(
    algebra: Algebra, arcs: list[Spans], counts: list[SpanCounts], state: State, block: Tensor, alpha_bar: Tensor,
    g_bar: Tensor, front: int,
) -> None:  # fmt: skip
    """Adds what the segments that end in a block give to g up to its front, and to the parts that score them."""
    d, B, _, C = alpha_bar.shape
    scalars = d * B * min(arcs[0].K, int(block[-1])) * C
    for t in _tiles(int(block[0]), int(block[-1]), scalars, block.device):
        x, w = _windows(arcs, state, t, min(arcs[0].K, int(t[-1])))
        m, rows = x.shape[3], t - block[0]
        into, gw = algebra.pull(alpha_bar[:, :, rows], state.alpha[:, :, t], state.alpha_id[:, :, t], x, w, -2)
        earliest = int(t[0]) - m
        first = max(0, earliest)
        if first <= front:
            g_bar[:, :, first : front + 1] += by_source(into)[:, :, first - earliest : front + 1 - earliest]
        for count, g in zip(counts, gw, strict=True):
            count.spans(t, g)
