"""Exact samples: the walk back along one segmentation that draws its choices, compiled; see `semicrf.engine.walk.draw`
and, for what is weighed, `semicrf.engine.sums`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.lanes import LANES, exp, load, store
from semicrf.engine.cpu.linking import entry, kernel, small
from semicrf.engine.cpu.pool import groups
from semicrf.engine.marks import Lists
from semicrf.engine.reference import State
from semicrf.engine.sums import sums

INF = float("inf")
WORD = 0xFFFFFFFF
BLOCK = 256
"""Positions that all walkers of a task cross before any goes on: what is read there stays in the cache."""
AT, LABEL, PLACE = range(3)


@small
def _unit(high, low):
    return np.float64((high >> 5) * 67108864 + (low >> 6)) * 2.0**-53


@kernel
def uniform(seed, sample, key, position):
    """Two uniforms in [0, 1), as `semicrf.engine.walk.uniform` has them."""
    c0, c1, c2, c3 = position & WORD, key & WORD, sample & WORD, (key >> 32) & WORD
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((b >> 32) & WORD) ^ c1 ^ k0, b & WORD
        c2, c3 = ((a >> 32) & WORD) ^ c3 ^ k1, a & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return _unit(c0, c1), _unit(c2, c3)


@kernel
def last_label(m, x, b, t, u):
    """The label of the last segment, which ends at t; -1 where there is none."""
    C, own = x.alpha.shape[2], min(b, x.final.shape[0] - 1)
    top, total = -INF, 0.0
    for c in range(C):
        m[0, c] = x.alpha[b, t, c] + x.final[own, c]
        top = max(top, m[0, c])
    if top == -INF:
        return -1
    for c in range(C):
        m[0, c] = np.exp(m[0, c] - top)
        total += m[0, c]
    return passing(m, 0, C, 0.0, u * total)[0]


@kernel
def passing(m, first, n, below, u):
    """The first place of positive weight m[0, :n] at which the cumulative sum, on top of `below`, passes u, or else
    the last one, or else -1, added to `first`; and the sum.
    """
    last = -1
    for j in range(n):
        below += m[0, j]
        if m[0, j] > 0.0:
            last = first + j
            if below > u:
                break
    return last, below


@kernel
def drawn_duration(m, x, b, t, c, u):
    """The duration, less one, that u draws for the segment of label c that ends at t; LANES are weighed at a time."""
    own, ours = min(b, len(x.duration) - 1), min(b, len(x.segment) - 1)
    n = min(x.duration.shape[2], t)
    if x.low.shape[2] > 0:
        n = min(n, t - x.low[min(b, len(x.low) - 1), c, t])
    last, below = -1, 0.0
    for first in range(0, n, LANES):
        for j in range(LANES):
            k = first + j
            w = -INF
            if k < n:
                w = x.before[b, min(k, x.before.shape[1] - 1), c, t - 1 - k] + x.duration[own, c, k] - x.total[b, c, t]
                if x.segment.shape[1] > 0:
                    w += x.segment[ours, t - 1 - k, k, c]
            m[0, j] = w
        store(m, 0, 0, exp(load(m, 0, 0)))
        k, below = passing(m, first, min(LANES, n - first), below, u)
        last = max(last, k)
        if below > u:
            break
    return last


@kernel
def drawn_label(m, x, b, s, k, c, u):
    """The label that u draws before a segment of label c and duration k + 1 that starts at s > 0."""
    C, at, column = x.alpha.shape[2], min(s, x.lead.shape[1] - 1), min(k, x.lead.shape[2] - 1)
    own = min(b, len(x.lead) - 1)
    frame = x.g[b, s, min(k, x.g.shape[2] - 1), c]
    last, below = -1, 0.0
    for first in range(0, C, LANES):
        for j in range(LANES):
            previous = first + j
            m[0, j] = -INF
            if previous < C:
                m[0, j] = x.alpha[b, s, previous] + x.lead[own, at, column, previous, c] - frame
        store(m, 0, 0, exp(load(m, 0, 0)))
        previous, below = passing(m, first, min(LANES, C - first), below, u)
        last = max(last, previous)
        if below > u:
            break
    return last


@kernel
def begin(m, x, b, t, seed, sample, key, now, row):
    """A walker stands at its length; without a label where nothing is possible."""
    now[row, AT], now[row, PLACE] = t, x.before.shape[3]
    now[row, LABEL] = last_label(m, x, b, t, uniform(seed, sample, key, 0)[0])


@kernel
def walk(m, x, b, least, seed, sample, key, now, out, row):
    """Walk on, down to `least` at most; segments go to the end of a row of `out`."""
    t, c, place = now[row, AT], now[row, LABEL], now[row, PLACE]
    while t > least and c >= 0:
        u, v = uniform(seed, sample, key, t)
        k = drawn_duration(m, x, b, t, c, u)
        s, place = t - 1 - k, place - 1
        out[0, row, place], out[1, row, place], out[2, row, place] = s, t, c
        if k < 0:  # NaN among the scores
            c = k
        elif s > 0:
            c = drawn_label(m, x, b, s, k, c, v)
        t = s
    now[row, AT], now[row, LABEL], now[row, PLACE] = t, c, place


@kernel
def finish(now, out, count, row):
    """Segments to the front, -1 after them."""
    T = out.shape[2]
    place = now[row, PLACE] if now[row, LABEL] >= 0 else T
    count[row] = T - place
    for i in range(3):
        for j in range(T - place):
            out[i, row, j] = out[i, row, place + j]
        for j in range(T - place, T):
            out[i, row, j] = -1


@entry
def _draw(first, last, m, lengths, keys, x, seed, now, out, count):
    """Samples `first` to `last` of all of them, one sequence after the other within each."""
    B, T = lengths.shape[0], out.shape[2]
    for row in range(first, last):
        begin(m, x, row % B, lengths[row % B], seed, row // B, keys[row % B], now, row)
    for least in range((T - 1) // BLOCK * BLOCK, -1, -BLOCK):
        for row in range(first, last):
            walk(m, x, row % B, least, seed, row // B, keys[row % B], now, out, row)
    for row in range(first, last):
        finish(now, out, count, row)


def draw(
    program: Program, models: list[dict[str, Tensor]], lengths: Tensor, T: int, K: int, C: int,
    state: State, seed: int, samples: int, sequence_id: Tensor,
) -> Lists:  # fmt: skip
    """Segments (S, B, T) and their count (S, B)."""
    x, B = sums(models[0], lengths, state, T, K, C).arrays(), len(lengths)
    now = np.empty((samples * B, 3), np.int64)
    out, count = np.empty((3, samples * B, T), np.int64), np.empty(samples * B, np.int64)  # large pages
    keys, ends = sequence_id.contiguous().numpy(), lengths.contiguous().numpy()

    def task(first: int, last: int) -> None:
        m = np.empty((1, C + LANES))
        _draw(first, last, m, ends, keys, x, seed, now, out, count)

    tasks = [lambda span=span: task(*span) for span in groups(samples * B)]
    run_kernel(_draw, tasks, samples * int(lengths.sum()) * C)
    start, end, label = (torch.from_numpy(part).view(samples, B, T) for part in out)
    return start, end, label, torch.from_numpy(count).view(samples, B)
