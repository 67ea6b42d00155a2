"""Interleaved rounds: every contender once a round, so that what slows the machine slows all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Timing(NamedTuple):
    """Milliseconds; `iqr_ms` is the distance between the quartiles."""

    min_ms: float
    median_ms: float
    iqr_ms: float
    rounds: int


class Plan(NamedTuple):
    """How long: each contender leaves after `most` rounds, or when it has had `budget` seconds and `least` rounds."""

    budget: float = 1.0
    least: int = 3
    most: int = 200


def summary(seconds: list[float]) -> Timing:
    """Of one contender's rounds."""
    ms = [1e3 * s for s in seconds]
    quartiles = statistics.quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else [ms[0]] * 3
    return Timing(min(ms), statistics.median(ms), quartiles[2] - quartiles[0], len(ms))


def nothing() -> None:
    """What a CPU has to wait for."""


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    plan: Plan,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[], object] = nothing,
) -> dict[str, Timing]:
    """The tasks' times. One round each beforehand does not count; the order moves on by one each round."""
    for task in tasks.values():
        task()
    wait()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    active = list(tasks)
    with no_collector():
        while active:
            turn = len(times[active[0]]) % len(active)
            for name in active[turn:] + active[:turn]:
                began = clock()
                tasks[name]()
                wait()
                times[name].append(clock() - began)
            active = [n for n in active if len(times[n]) < plan.most and not _spent(times[n], plan)]
    return {name: summary(seconds) for name, seconds in times.items()}


def _spent(seconds: list[float], plan: Plan) -> bool:
    return len(seconds) >= plan.least and sum(seconds) >= plan.budget


@contextmanager
def no_collector() -> Iterator[None]:
    """The garbage collector is run, then off, then as it was."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """As many for torch, which our engine follows, and for numba's own loops, as in the prototype."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with _numba_threads(n):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _numba_threads(n: int) -> Iterator[None]:
    try:
        import numba
    except ModuleNotFoundError:  # an optional part of the library
        yield
        return
    before = numba.get_num_threads()
    numba.set_num_threads(min(n, _numba_most()))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _numba_most() -> int:
    from numba.core import config

    return int(vars(config)["NUMBA_NUM_THREADS"])  # set while the module is run
