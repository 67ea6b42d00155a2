"""One run of a suite: tests first, then each case, every contender's answer before its time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import MAIN, PROTOTYPE_LIMITS, TINY, TINY_TOLERANCE, TOLERANCE, Case, Suite
from benchmarks.contender import Answer, Contender, Prepared, Setting
from benchmarks.ours import Kernel, Ours, backend_of, model_of
from benchmarks.step import Step
from benchmarks.timing import Plan, interleaved, nothing, threads

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


class Refusal(RuntimeError):
    """Why nothing is reported."""


def check_device(suite: Suite) -> None:
    """Refuse a suite whose device is not here."""
    if suite.device == "cuda" and not torch.cuda.is_available():
        raise Refusal(f"suite {suite.name!r} needs a CUDA device and torch finds none. Likely fix: --suite cpu.")


def check_tests(suite: Suite, root: Path = ROOT) -> None:
    """Run the tests of what the suite times, in a process of their own; refuse where one fails or none is found."""
    files: list[str] = []
    for pattern in suite.tests:
        found = sorted(str(p.relative_to(root)) for p in root.glob(pattern))
        if not found:
            raise Refusal(f"suite {suite.name!r}: there are no tests at {pattern}, so nothing says that it is right.")
        files += found
    options = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise Refusal(f"the tests of suite {suite.name!r} fail, so nothing is timed:\n{tail}")


# ------------------------------------------------------------------------------------------------------------- answers
def difference(ours: Answer, theirs: Answer, tolerance: tuple[float, float]) -> tuple[float, str | None]:
    """The largest difference in what both have, in units of what is tolerated, and what is wrong where it is above."""
    common = sorted(set(ours) & set(theirs))
    if not common:
        return float("inf"), "nothing to compare"
    worst, reason = 0.0, None
    for name in common:
        a, b = np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)
        if a.shape != b.shape:
            return float("inf"), f"{name} has the shape {b.shape}, ours {a.shape}"
        with np.errstate(invalid="ignore"):  # inf - inf, where both are equal
            apart = np.where(a == b, 0.0, np.abs(a - b))
        size = np.where(np.isfinite(a), np.abs(a), 0.0)  # what differs from an infinity is infinitely far off
        scale = np.maximum(1.0, size) if name == "value" else max(1.0, float(size.max()))
        units = float((apart / scale / tolerance[name != "value"]).max())
        if not units <= worst:  # also where it is NaN
            worst = units
        if not units <= 1.0:
            reason = f"{name} is off by {float(apart.max()):.2g}"
    return worst, reason


def conventions(peer: Contender, ours: Contender, case: Case, setting: Setting) -> str | None:
    """What a peer gets wrong on tiny models, where a wrong convention shows."""
    for shape in TINY:
        tiny = Case(shape, case.quantity, kernel=case.kernel)
        model = model_of(tiny)
        answers = [_answer(c.prepare(tiny, model, setting)) for c in (ours, peer)]
        dtype = "float32" if "float32" in (peer.dtype, setting.dtype) else "float64"
        wrong = difference(answers[0], answers[1], TINY_TOLERANCE[dtype])[1]
        if wrong is not None:
            return f"{wrong} at {tuple(shape)}"
    return None


def _answer(prepared: Prepared) -> Answer:
    return prepared.read(prepared.run())


# ---------------------------------------------------------------------------------------------------------------- rows
def own_of(case: Case, validate: bool | None) -> Contender:
    """Which of ours computes a case."""
    if case.kernel:
        return Kernel()
    return Step(validate) if case.quantity in Step.quantities else Ours(validate=validate)


@dataclass
class Runner:
    """What all rows of a run have in common."""

    suite: Suite
    peers: Sequence[Contender]
    plan: Plan = field(default_factory=Plan)
    threads: int = 1
    clock: Callable[[], float] = time.perf_counter

    @property
    def setting(self) -> Setting:
        """Device and dtype."""
        return Setting(self.suite.device, self.suite.dtype)

    def wait(self) -> Callable[[], object]:
        """For what a call leaves running."""
        return torch.cuda.synchronize if self.suite.device == "cuda" else nothing

    def row(self, case: Case) -> Row:
        """A case measured."""
        n = min(case.threads or self.threads, self.threads)
        with threads(n):
            return self._row(case) | {"threads": n}

    def _row(self, case: Case) -> Row:
        model, setting = model_of(case), self.setting
        own = own_of(case, self.suite.validate)
        prepared = own.prepare(case, model, setting)
        answer, first = self._first(prepared)
        tasks: dict[str, Callable[[], Any]] = {"ours": prepared.run}
        if not case.kernel:
            tasks["beside"] = own_of(case, self.suite.beside).prepare(case, model, setting).run
        if case.against is not None:
            tasks["against"] = self._other(case).run
        peers: dict[str, Row] = {}
        for peer in self.peers:
            found, run = self._peer(peer, own, case, answer)
            peers[peer.name] = found
            if run is not None:
                tasks[peer.name] = run
        times = interleaved(tasks, self.plan, self.clock, self.wait())
        for name in set(peers) & set(times):
            peers[name] |= {"timing": times[name]._asdict(), "ratio": _ratio(times, name)}
        ours = times["ours"]._asdict() | {"first_ms": first}
        row = _described(case, setting) | {"ours": ours, "peers": peers}
        row["beside"] = times["beside"]._asdict() if "beside" in times else None
        row["against"] = (
            {"quantity": case.against, "limit": case.limit, "timing": times["against"]._asdict()}
            | {"ratio": _ratio(times, "against")}
            if case.against is not None
            else None
        )
        return row

    def _first(self, prepared: Prepared) -> tuple[Answer, float]:
        """The answer, and the milliseconds of the first call, compilation and loading included."""
        began = self.clock()
        result = prepared.run()
        self.wait()()
        return prepared.read(result), 1e3 * (self.clock() - began)

    def _other(self, case: Case) -> Prepared:
        other = Case(case.shape, case.against or "", data=case.data)
        return own_of(other, self.suite.validate).prepare(other, model_of(other), self.setting)

    def _peer(self, peer: Contender, own: Contender, case: Case, answer: Answer) -> tuple[Row, Callable | None]:
        """Whether a peer is timed, and why not."""
        reason = peer.absent()
        if reason is not None:
            return {"status": "absent", "reason": reason}, None
        reason = peer.declines(case, self.setting)
        if reason is not None:
            return {"status": "declines", "reason": reason}, None
        try:
            wrong = conventions(peer, own, case, self.setting)
            if wrong is not None:
                return {"status": "differs", "reason": wrong}, None
            prepared = peer.prepare(case, model_of(case), self.setting)
            theirs, first = self._first(prepared)
        except Exception as error:  # noqa: BLE001  another package may raise anything; it is reported in the row
            return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:200]}, None
        units, wrong = difference(answer, theirs, TOLERANCE[peer.dtype or self.suite.dtype])
        if wrong is not None:
            return {"status": "differs", "reason": wrong}, None
        return {"status": "timed", "first_ms": first, "difference": units}, prepared.run


def _ratio(times: Mapping[str, Any], name: str) -> dict[str, float]:
    """Ours over theirs: below 1 where ours is faster."""
    ours, theirs = times["ours"], times[name]
    return {"min": ours.min_ms / theirs.min_ms, "median": ours.median_ms / theirs.median_ms}


def _described(case: Case, setting: Setting) -> Row:
    limit = PROTOTYPE_LIMITS[case.quantity] if case.kernel and case.shape == MAIN else None
    return {
        "shape": list(case.shape),
        "quantity": case.quantity,
        "kernel": case.kernel,
        "data": case.data,
        "dtype": setting.dtype,
        "backend": backend_of(case, setting.device),
        "goal_ms": case.goal,
        "stretch_ms": case.stretch,
        "prototype_limit": limit,
        "published_ms": dict(case.published),
        "asked_threads": case.threads,
    }


def machine_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """The prototype's time here over its time in baselines.md on as many threads, by row; and overall."""
    found = {}
    for row in rows:
        peer = row["peers"].get("prototype", {})
        published = row["published_ms"].get("prototype")
        if row["kernel"] and "timing" in peer and published is not None and row["threads"] == row["asked_threads"]:
            found[f"{tuple(row['shape'])} {row['quantity']}"] = peer["timing"]["min_ms"] / published
    if found:
        found["overall"] = float(np.exp(np.mean(np.log(list(found.values())))))
    return found
