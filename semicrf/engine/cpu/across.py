"""A chunk of a sequence to each process: windows are exchanged at the cuts, and every process learns the answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from semicrf.compile import Program
from semicrf.engine.chunks import WORK, Agreement, agreement
from semicrf.engine.cpu import linear
from semicrf.engine.cpu import parts as P
from semicrf.engine.cpu.build import run_kernel
from semicrf.engine.cpu.cut import Forward, Reverse, _LogLinear
from semicrf.engine.cpu.places import held_as_read
from semicrf.engine.cpu.runs import Totals, run
from semicrf.engine.layout import shared

Parts = dict[str, Tensor]


class Link(Protocol):
    """What joins the processes, in the order of their positions."""

    rank: int
    size: int

    def gather(self, mine: Tensor) -> Tensor:
        """(size, ...): everybody's."""
        ...

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """That of one of them."""
        ...


class Held(NamedTuple):
    """The positions a process holds: some of the process before, its own, and some of the one after."""

    before: int
    own: int
    after: int


class Kept(NamedTuple):
    """What the reverse sweep needs of the forward one."""

    value: Tensor  # (d, B), of the whole sequence
    alpha: Tensor  # (d, B, positions + 1, C)
    g: Tensor


def _runs(program: Program, parts: Parts, held: Held) -> tuple[int, linear.Mean | None, P.Job, list[int]]:
    """The one run of a semiring: its weight, its mean, what the loops take, and where sequences are cut."""
    form = linear.form_of(program)
    B, T, C = max(t.shape[0] for t in parts.values()), sum(held), parts["emission"].shape[2]
    lengths = torch.full((B,), T)
    ((n, mean, job),) = linear.jobs(form, P.described([parts]), lengths, parts["duration"].shape[1], C)
    return n, mean, job, [p for p in (held.before, held.before + held.own) if 0 < p < T]


def scan(program: Program, parts: Parts, held: Held, link: Link) -> Kept:
    """The forward sweep over all processes' positions."""
    (parts,) = held_as_read([parts])
    _, mean, job, cuts = _runs(program, parts, held)
    d, B, T, C, mine = program.width, len(job.lengths), sum(held), job.C, int(held.before > 0)
    alpha, g = np.full((d, B, T + 1, C), -np.inf), np.full((d, B, T, 1, C), -np.inf)
    rows = linear.rows_of(alpha, g, 0, 0 if mean is None else mean.field)
    totals = Totals(np.zeros(B), np.zeros(B))
    runs = [Forward(job, b, cuts, rows, totals, keep=True) for b in range(B)]
    _run_mine(runs, mine)
    base, log_z, means = _settle(runs, mine, link)
    for b, r in enumerate(runs):
        r.base[mine], r.mean_base[mine] = base[:, b]
        r.lift(mine)
    _take_edge(alpha, g, held, link)
    value = np.zeros((d, B))
    value[0] = log_z
    if mean is not None:
        value[mean.field] = means
    linear.add_totals(linear.form_of(program), value)
    return Kept(*(torch.from_numpy(x) for x in (value, alpha, g)))


def _take_edge(alpha: np.ndarray, g: np.ndarray, held: Held, link: Link) -> None:
    """The rows at a process's first position are those that the one before ended with."""
    last = held.before + held.own
    edge = alpha[:, :, last], g[:, :, min(last, g.shape[2] - 1), 0]  # of the last process, read by nobody
    edges = link.gather(torch.from_numpy(np.stack(edge))).numpy()
    if held.before:
        alpha[:, :, held.before], g[:, :, held.before, 0] = edges[link.rank - 1]


def scan_vjp(program: Program, parts: Parts, held: Held, link: Link, kept: Kept, cotangent: Tensor) -> Parts:
    """Gradients of the parts this process holds: of its own positions, and of what all share in full."""
    form, (read,) = linear.form_of(program), held_as_read([parts])
    n, mean, job, cuts = _runs(program, read, held)
    B, mine = len(job.lengths), int(held.after > 0)
    sums = {name: torch.zeros(B, *t.shape[1:], dtype=torch.float64) for name, t in parts.items()}
    value, alpha, g = (x.numpy() for x in kept)
    cot = linear.finite_cotangent(form, value, cotangent.numpy())
    totals, pull = linear.pull_of(form, n, mean, value, cot, True, linear.places_of_sums([sums]))
    job = job._replace(payload=bool(pull.moment.any()), reversed=True)
    rows = linear.rows_of(alpha, g, 0, 0 if mean is None else mean.field)
    runs = [Reverse(job, b, cuts, rows, totals, pull) for b in range(B)]
    _run_mine(runs, mine)
    _settle(runs, mine, link)
    arrays = [{name: t.numpy() for name, t in sums.items()}]
    for r in runs:
        r.give_sums(arrays)
    return _collected(sums, parts, held, link)


def _run_mine(runs: Sequence[_LogLinear], mine: int) -> None:
    if mine > 0:
        run_kernel(run, [partial(r.guess, mine) for r in runs], WORK)
    run_kernel(run, [partial(r.chunk, mine) for r in runs], WORK)


def _described(r: _LogLinear, mine: int) -> np.ndarray:
    """What others must know of a chunk."""
    numbers = r.left.offset[mine], r.left.gauge[mine], r.totals.log_z[mine], r.totals.mean[mine]
    windows = r.left.weight[mine], r.left.mean[mine], r.entered.weight[mine], r.entered.mean[mine]
    return np.concatenate([*(w.ravel() for w in windows), numbers])


def _settle(runs: Sequence[_LogLinear], mine: int, link: Link) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accept the junctions or mend them, in order; all processes decide alike. What this process's terms are relative
    to, (weight or mean, B), and log total and mean by sequence.
    """
    job = runs[0].job
    order = range(link.size)[::-1] if job.reversed else range(link.size)
    place, shape = order.index(link.rank), runs[0].left.weight[mine].shape

    def everything() -> Tensor:
        return torch.from_numpy(np.stack([_described(r, mine) for r in runs]))

    found = link.gather(everything()).numpy()[list(order)]
    windows = found[..., :-4].reshape(link.size, len(runs), 4, *shape)
    base = np.zeros((link.size, 2, len(runs)))
    for i in range(1, link.size):
        met = [agreement(*windows[i - 1, b, :2], *windows[i, b, 2:]) for b in range(len(runs))]
        wrong = [b for b, m in enumerate(met) if not m.accepted]
        if wrong and place == i:
            for b in wrong:
                runs[b].left.weight[mine - 1], runs[b].left.mean[mine - 1] = windows[i - 1, b, :2]
                runs[b].again(mine)
        if wrong:
            found[i] = link.broadcast(everything(), order[i]).numpy()
            windows[i] = found[i, :, :-4].reshape(windows[i].shape)
            met = [Agreement(0.0, 0.0, 0.0, accepted=True) if b in wrong else m for b, m in enumerate(met)]
        base[i] = base[i - 1] + found[i - 1, :, -4:-2].T + np.array([(m.weight, m.mean) for m in met]).T
    log_z = found[:, :, -2].sum(0) + base[-1, 0]  # of all but the last: NaN where a score was none, else 0
    return base[place], log_z, found[-1, :, -1] + base[-1, 1]


def _collected(sums: Parts, parts: Parts, held: Held, link: Link) -> Parts:
    """Gradients in the shape of the parts; what ends just before a process's positions belongs to the one before."""
    own = slice(held.before, held.before + held.own)
    gradients = {}
    for name, total in sums.items():
        if name in ("emission", "segment_start", "segment_end"):
            if name == "segment_end":
                ended = link.gather(total[:, max(held.before - 1, 0)])
                if held.after:
                    total[:, own.stop - 1] += ended[link.rank + 1]
            total = total[:, own]
        else:
            total = link.gather(total).sum(0)
        gradients[name] = shared(total, parts[name])
    return gradients
