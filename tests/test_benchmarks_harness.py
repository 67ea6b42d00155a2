"""The harness of the benchmarks: times by a fake clock, refusals, the stored form, and what peers' conventions mean."""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import memory, report, runner, step, store
from benchmarks.cases import SUITES, TINY, Case, MemoryCase, Shape, Suite
from benchmarks.contender import Answer, Contender, Prepared, Setting
from benchmarks.model import draw, edges, planted
from benchmarks.ours import Kernel, Ours, model_of, quantity_of
from benchmarks.peers import PEERS
from benchmarks.peers.flash_semicrf import FlashSemicrf
from benchmarks.peers.prototype import Prototype
from benchmarks.peers.synjax import Synjax, entering, starting
from benchmarks.peers.torch_struct import ZERO, TorchStruct, destination_first
from benchmarks.runner import Refusal, Runner, difference, machine_ratios
from benchmarks.step import Step
from benchmarks.timing import Plan, interleaved, summary

CPU64 = Setting("cpu", "float64")
SHAPE = Shape(2, 6, 3, 2)
QUICK = Plan(budget=0.0, least=1, most=2)


class Clock:
    """Time passes only when a task says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def task(self, *seconds: float):
        left = itertools.cycle(seconds)

        def run():
            self.now += next(left)

        return run


# ---------------------------------------------------------------------------------------------------------------- time
def test_interleaved_rounds_by_a_fake_clock():
    clock, order = Clock(), []
    fast, slow = clock.task(9.0, 0.002, 0.001), clock.task(9.0, 0.5)  # the first call of each does not count

    def noted(name, run):
        return lambda: (order.append(name), run())

    times = interleaved({"a": noted("a", fast), "b": noted("b", slow)}, Plan(budget=1.0, least=2, most=5), clock)
    assert times["b"].rounds == 2
    assert times["b"].min_ms == pytest.approx(500)
    assert times["a"].min_ms == pytest.approx(1)
    assert order[:6] == ["a", "b", "a", "b", "b", "a"]  # the warm-up, then two rounds of which the second begins later


def test_minimum_median_quartiles():
    timing = summary([0.004, 0.001, 0.002, 0.003, 0.005])
    assert timing == pytest.approx((1.0, 3.0, 2.0, 5))


# --------------------------------------------------------------------------------------------------------------- table
def test_every_row_is_one_that_can_be_measured():
    known = [*PEERS, Prototype(Path("p7_full.py"))]
    names = {p.name for p in known}
    for suite in SUITES.values():
        assert len({str(c) for c in suite.cases}) == len(suite.cases)
        for case in suite.cases:
            assert case.quantity in runner.own_of(case, None).quantities, case
            assert case.against is None or case.against in Ours.quantities | Step.quantities
            assert set(case.published) <= names, case
        assert all(row.quantity in Ours.quantities for row in suite.memory)
    semirings = {quantity_of(c).semiring.__name__ for c in SUITES["cpu"].cases}
    assert semirings >= {"Log", "Max", "Std", "Entropy", "CrossEntropy", "KL"}


def test_planted_segments_have_a_quarter_of_the_longest():
    labels = planted(Shape(4, 3000, 40, 9), np.random.default_rng(0))
    segments = 1 + (labels[:, 1:] != labels[:, :-1]).sum(1)
    assert 3000 / segments.mean() == pytest.approx(11.7, rel=0.1)  # 10.5, and a ninth of the neighbours look as one
    assert labels.shape == (4, 3000)


# ------------------------------------------------------------------------------------------------------------ refusals
def suite_of(*cases: Case, tests: tuple[str, ...] = ("tests/test_tiny.py",), device: str = "cpu") -> Suite:
    return Suite("cpu", device, "float64", None, False, tests, cases, ())


def test_failing_tests_are_refused_and_passing_ones_are_not(tmp_path):
    file = tmp_path / "tests" / "test_tiny.py"
    file.parent.mkdir()
    suite = suite_of()
    with pytest.raises(Refusal, match=r"no tests at tests/test_tiny\.py"):
        runner.check_tests(suite, tmp_path)
    file.write_text("def test_sums():\n    assert 1 + 1 == 3\n")
    with pytest.raises(Refusal, match=r"(?s)nothing is timed.*test_sums"):
        runner.check_tests(suite, tmp_path)
    file.write_text("def test_sums():\n    assert 1 + 1 == 2\n")
    runner.check_tests(suite, tmp_path)


def test_the_command_refuses_when_tests_fail(monkeypatch, capsys, tmp_path):
    def fail(suite):
        raise Refusal("the tests fail: test_log")

    monkeypatch.setattr(command, "check_tests", fail)
    monkeypatch.setattr(command, "measure", lambda *a: pytest.fail("measured all the same"))
    output = tmp_path / "x.json"
    assert command.main(["run", "--output", str(output)]) == 2
    assert "test_log" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "eager,jax"], "--peers: got jax"),
        (["--prototype", "nowhere.py"], "--prototype: no such file"),
        (["--only", "no such row"], "no row is left"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said, capsys):
    assert command.main(["run", "--no-tests", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_a_gpu_suite_needs_a_gpu(capsys):
    assert command.main(["run", "--suite", "gpu", "--no-tests"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- rows and the store
class Fake(Contender):
    """Answers `by` more than ours."""

    quantities = Ours.quantities

    def __init__(self, name: str, by: float = 0.0, error: Exception | None = None):
        self.name, self.by, self.error = name, by, error

    def prepare(self, case: Case, model: Any, setting: Setting) -> Prepared:
        if self.error is not None:
            raise self.error
        ours = Ours().prepare(case, model, setting)

        def read(result: Any) -> Answer:
            return {n: a + self.by for n, a in ours.read(result).items()}

        return Prepared(ours.run, read)


class Missing(Fake):
    def absent(self) -> str | None:
        return "missing is not installed"


def measured(*cases: Case) -> dict[str, Any]:
    peers = [Fake("same"), Fake("other", 1e-3), Fake("broken", error=ValueError("no")), Missing("missing"), *PEERS[:2]]
    run = Runner(suite_of(*cases), peers, QUICK)
    rows = [run.row(case) for case in cases]
    head = {"version": 1, "suite": "cpu", "verified": True, "date": store.now(), "commit": None, "changed": None}
    machine = {"device": store.device_name("cpu"), "threads": 1, "versions": store.versions(), "peers": {}}
    return head | machine | {"plan": QUICK._asdict(), "machine_ratio": {}, "rows": rows, "memory": []}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return measured(
        Case(SHAPE, "log-partition", goal=1.0),
        Case(SHAPE, "entropy", against="log-partition", limit=4),
        Case(SHAPE, "max + gradients"),
        Case(SHAPE, "KMax(4)", data="planted"),
    )


def test_a_row_says_who_was_timed_and_who_was_not(results):
    for row in results["rows"]:
        status = {name: peer["status"] for name, peer in row["peers"].items()}
        assert status["same"] == status["reference"] == "timed"
        assert status["other"] == "differs"
        assert "off by 0.001" in row["peers"]["other"]["reason"]
        assert "timing" not in row["peers"]["other"]
        assert row["peers"]["broken"] == {"status": "failed", "reason": "ValueError: no"}
        assert status["missing"] == "absent"
        ours, same = row["ours"], row["peers"]["same"]
        assert same["ratio"]["min"] == pytest.approx(ours["min_ms"] / same["timing"]["min_ms"])
        assert same["ratio"]["median"] == pytest.approx(ours["median_ms"] / same["timing"]["median_ms"])
        assert ours["rounds"] == 1
    assert [row["peers"]["eager"]["status"] for row in results["rows"]] == ["timed"] * 3 + ["declines"]
    against = results["rows"][1]["against"]
    assert against["ratio"]["min"] == pytest.approx(
        results["rows"][1]["ours"]["min_ms"] / against["timing"]["min_ms"]
    )  # fmt: skip


def test_results_are_stored_and_printed_without_paths_and_host_names(results, tmp_path):
    path = store.path_of(results, tmp_path)
    store.save(results, path)
    assert store.load(path) == results
    text = path.read_text()
    assert path.name.startswith("cpu-")
    assert str(Path.home()) not in text
    assert str(Path(command.__file__).parent.parent) not in text
    assert store.platform.node() not in text
    table = report.table(results)
    assert "other DIFFERS: value is off by 0.001" in table
    assert "x log-partition (limit 4" in table
    assert "missing is not installed." in table
    assert "UNVERIFIED" not in table
    assert "UNVERIFIED" in report.table(results | {"verified": False})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.pop("verified"), "'verified' is missing"),
        (lambda r: r["rows"][0]["ours"].pop("iqr_ms"), r"rows\[0\].ours: 'iqr_ms' is missing"),
        (lambda r: r["rows"][1]["peers"]["same"].pop("ratio"), "'ratio' is missing"),
        (lambda r: r["rows"][1]["peers"]["same"].update(status="fine"), "status: got 'fine'"),
        (lambda r: r.update(threads="two"), "threads: got 'two'"),
    ],
)
def test_other_forms_are_not_stored(results, spoil, said, tmp_path):
    spoiled = copy.deepcopy(results)
    spoil(spoiled)
    with pytest.raises(ValueError, match=said):
        store.save(spoiled, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_the_command_marks_what_was_not_tested_and_fails_where_our_own_disagree(monkeypatch, tmp_path, capsys):
    suite = suite_of(Case(SHAPE, "log-partition"))
    monkeypatch.setitem(SUITES, "cpu", suite)
    monkeypatch.setattr(command, "check_tests", lambda suite: None)
    output = tmp_path / "x.json"
    arguments = ["run", "--budget", "0", "--peers", "eager", "--threads", "1", "--output", str(output)]
    assert command.main(arguments) == 0
    assert json.loads(output.read_text())["verified"] is True
    assert command.main([*arguments, "--no-tests"]) == 0
    assert json.loads(output.read_text())["verified"] is False
    assert command.main(["report", str(output)]) == 0
    assert "UNVERIFIED" in capsys.readouterr().out
    output.unlink()
    monkeypatch.setattr(command, "PEERS", (Fake("eager", 1.0),))
    assert command.main(arguments) == 1
    assert "WRONG: (2, 6, 3, 2) log-partition: eager differs" in capsys.readouterr().err
    assert not output.exists()


def test_the_machine_ratio_is_the_prototype_over_its_figure_on_as_many_threads():
    def row(shape, here, published, threads=2, asked=2):
        peer = {"status": "timed", "timing": {"min_ms": here}}
        figures = {"published_ms": {"prototype": published}, "threads": threads, "asked_threads": asked}
        return {"kernel": True, "shape": shape, "quantity": "q", "peers": {"prototype": peer}} | figures

    found = machine_ratios([row([1], 8.0, 2.0), row([2], 1.0, 1.0), row([3], 50.0, 1.0, threads=1)])
    assert found == pytest.approx({"(1,) q": 4.0, "(2,) q": 1.0, "overall": 2.0})
    assert machine_ratios([]) == {}


def test_differences_that_must_not_pass():
    value = np.array([1000.0, 2000.0])
    assert difference({"value": value}, {"value": value + 1e-8}, (1e-10, 1e-7))[1] is None
    assert difference({"value": value}, {"value": value + 1e-3}, (1e-10, 1e-7))[1] == "value is off by 0.001"
    assert difference({"value": value * math.inf}, {"value": value}, (1e-10, 1e-7))[1] is not None
    assert difference({"value": value}, {"value": value * np.nan}, (1e-10, 1e-7))[1] is not None
    assert difference({"value": value}, {"value": value[:1]}, (1e-10, 1e-7))[1] is not None
    assert difference({"value": value}, {"emission": value}, (1e-10, 1e-7))[1] == "nothing to compare"
    assert difference({"value": -value * math.inf}, {"value": -value * math.inf}, (1e-10, 1e-7))[1] is None


# ------------------------------------------------------------------------------------------------------ our contenders
@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("quantity", sorted(PEERS[0].quantities))
def test_the_plain_loop_agrees_with_the_library(quantity, shape):
    assert runner.conventions(PEERS[0], Ours(), Case(shape, quantity), CPU64) is None


def test_the_kernel_agrees_with_the_public_interface():
    for quantity in Kernel.quantities:
        case = Case(SHAPE, quantity, kernel=True)
        model = model_of(case)
        answers = [c.prepare(case, model, CPU64) for c in (Ours(), Kernel())]
        ours, kernel = (p.read(p.run()) for p in answers)
        assert difference(ours, kernel, (1e-12, 1e-12))[1] is None


def test_a_centred_model_has_a_total_of_one():
    case = Case(Shape(2, 300, 5, 3), "Std")
    prepared = Ours().prepare(case, model_of(case), CPU64)
    assert prepared.read(prepared.run())["value"] == pytest.approx(1.0)


def test_a_step_trains_encoder_and_head_and_is_set_against_a_softmax(monkeypatch):
    monkeypatch.setattr(step, "WIDTH", 16)
    monkeypatch.setattr(step, "LAYERS", 1)
    case = Case(Shape(2, 12, 4, 3), "training step", against="training step, softmax", limit=1.15)
    for quantity in (case.quantity, case.against):
        prepared = Step().prepare(Case(case.shape, quantity or ""), model_of(case), CPU64)
        losses = [prepared.read(prepared.run())["value"].item() for _ in range(3)]
        assert losses[0] > losses[1] > losses[2] > 0
    suite = suite_of(case)
    row = runner.Runner(suite, PEERS, Plan(budget=0.01)).row(case)
    assert row["against"]["quantity"] == "training step, softmax"
    assert row["against"]["ratio"]["min"] > 0
    assert {peer["status"] for peer in row["peers"].values()} <= {"absent", "declines"}
    assert "x training step, softmax (limit 1.15" in report.line(row, {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA device")
def test_a_step_as_a_graph_trains_as_it_does_without(monkeypatch):
    monkeypatch.setattr(step, "LAYERS", 1)
    losses = []
    for quantity in ("training step", "training step as a graph"):
        case = Case(Shape(2, 12, 4, 3), quantity)
        prepared = Step(False).prepare(case, model_of(case), Setting("cuda", "float32"))
        found = [prepared.read(prepared.run())["value"].item() for _ in range(8)]
        losses.append(found[-5:])
    graph = losses[1]
    assert all(a > b for a, b in itertools.pairwise(graph))
    assert graph[0] < losses[0][0]  # capturing takes three steps first


def test_memory_of_a_block(tmp_path):
    size = 32_000_000
    assert memory.peak(lambda: np.ones(size // 8).sum(), "cpu") == pytest.approx(size, rel=0.1)
    monkey = MemoryCase(Shape(1, 50, 2, 2), 100, "log-partition", 0.0)
    assert memory.child(suite_of(), monkey, 50) >= 0


# --------------------------------------------------------------------------------------------------- peers' conventions
def arcs(T: int, K: int):
    return [(s, k) for s in range(T) for k in range(1, min(K, T - s) + 1)]


def total(T: int, K: int, C: int, weight, initial, reduce) -> float:
    """Forward, over arcs ``weight(s, k, previous, next)``; `initial` holds the score of each label before 0."""
    alpha = np.full((T + 1, C), -np.inf)
    alpha[0] = initial
    for e in range(1, T + 1):
        for c in range(C):
            alpha[e, c] = reduce(
                [alpha[e - k, p] + weight(e - k, k, p, c) for k in range(1, min(K, e) + 1) for p in range(C)]
            )
    return float(reduce(list(alpha[T])))


def logsumexp(x) -> float:
    return float(np.logaddexp.reduce(np.asarray(x)))


def largest(x) -> float:
    return float(np.max(x))


def only_label_0(C: int) -> np.ndarray:
    return np.where(np.arange(C) == 0, 0.0, -np.inf)


def synjax_total(lp: np.ndarray, reduce=logsumexp) -> np.ndarray:
    """As its documentation has it: ``[i, j]`` enters position i from i - j - 1, first from the initial state."""
    _, T, K, C, _ = lp.shape
    return np.array([
        total(T, K, C, lambda s, k, p, c, x=x: x[s + k - 1, k - 1, p, c], only_label_0(C), reduce) for x in lp
    ])  # fmt: skip


def torch_struct_total(lp: np.ndarray, reduce=logsumexp) -> np.ndarray:
    """``[n, k, next, previous]``, any label before the first segment."""
    _, T, rows, C, _ = lp.shape
    return np.array([total(T, rows - 1, C, lambda s, k, p, c, x=x: x[s, k, c, p], np.zeros(C), reduce) for x in lp])


def numerical(f, x: np.ndarray) -> np.ndarray:
    """Gradient of the sum of f by central differences, for arrays of a few hundred entries."""
    grad, h = np.zeros_like(x), 1e-4
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (f(up) - f(down)).sum() / (2 * h)
    return grad


def module(monkeypatch, name: str, **members: Any) -> None:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def packages(monkeypatch):
    """The three packages' interfaces over independent sums in float64, as their documentation defines them."""

    class SynjaxCRF:
        def __init__(self, x):
            self.x = np.asarray(x, np.float64)

        def log_partition(self):
            return synjax_total(self.x)

        def marginals(self):
            return numerical(synjax_total, self.x)

        def entropy(self):
            return synjax_total(self.x) - (self.marginals() * self.x).reshape(len(self.x), -1).sum(1)

        def argmax_and_max(self):
            return None, synjax_total(self.x, largest)

    class TorchStructCRF:
        def __init__(self, x):
            self.x = x.double().numpy()

        partition = property(lambda self: torch.from_numpy(torch_struct_total(self.x)))
        max = property(lambda self: torch.from_numpy(torch_struct_total(self.x, largest)))
        marginals = property(lambda self: torch.from_numpy(numerical(torch_struct_total, self.x)))
        argmax = property(lambda self: torch.from_numpy(numerical(lambda x: torch_struct_total(x, largest), self.x)))

        @property
        def entropy(self):
            mean = (self.marginals.numpy() * self.x).reshape(len(self.x), -1).sum(1)
            return self.partition - torch.from_numpy(mean)

    def forward(cum, transition, duration, lengths, K, semiring="log"):
        over = torch.logsumexp if semiring == "log" else torch.amax
        B, rows, C = cum.shape
        assert lengths.tolist() == [rows - 1] * B
        assert (cum[:, 0] == 0).all()
        alpha = [cum.new_zeros(B, C)]  # any label before the first segment
        for e in range(1, rows):
            terms = []
            for k in range(1, min(K, e) + 1):
                content = cum[:, e] - cum[:, e - k] + duration[k - 1]
                terms.append(over(alpha[e - k][:, :, None] + transition, 1) + content)
            alpha.append(over(torch.stack(terms, 1), 1))
        return over(alpha[-1], -1)

    module(monkeypatch, "synjax", SemiMarkovCRF=SynjaxCRF)
    numpy = SimpleNamespace(asarray=np.asarray)
    same = {"jit": lambda f: f, "block_until_ready": lambda x: x, "default_backend": lambda: "cpu"}
    module(monkeypatch, "jax", numpy=numpy, **same)
    module(monkeypatch, "torch_struct", SemiMarkovCRF=TorchStructCRF)
    module(monkeypatch, "flash_semicrf", semi_crf_streaming_forward=forward)


def test_each_peer_computes_what_we_do_through_its_own_conventions(packages):
    for peer in (Synjax(), TorchStruct(), FlashSemicrf("float32"), FlashSemicrf("float64")):
        assert peer.absent() is None
        for quantity in sorted(peer.quantities):
            assert peer.declines(Case(SHAPE, quantity), CPU64) is None
            wrong = runner.conventions(peer, Ours(), Case(SHAPE, quantity), CPU64)
            assert wrong is None, f"{peer.name}, {quantity}: {wrong}"


def test_a_package_that_is_not_there_is_absent(monkeypatch):
    monkeypatch.setattr(Synjax, "module", "no_such_package")
    assert Synjax().absent() == "synjax is not installed"


def test_arrays_that_do_not_fit_are_declined():
    assert "does not fit" in (Synjax().declines(Case(Shape(1, 10**6, 1000, 24), "log-partition"), CPU64) or "")
    assert "does not fit" in (TorchStruct().declines(Case(Shape(4, 2000, 50, 16), "log-partition"), CPU64) or "")
    assert PEERS[1].declines(Case(Shape(1, 10**5, 10, 2), "max"), CPU64) == "left out beyond 20000 positions"


def test_layouts_of_arcs():
    edge = edges(draw(Shape(1, 5, 3, 2)))
    entered, turned = entering(edge), destination_first(edge)
    for s, k in arcs(5, 3):
        assert (entered[:, s + k - 1, k - 1] == edge[:, s, k - 1]).all()
        if s > 0:
            assert (turned[:, s, k] == edge[:, s, k - 1].swapaxes(-1, -2)).all()
    assert (turned[:, 0, 1:, :, 1] == ZERO).all()
    back = starting(entered)
    assert all((back[:, s, k - 1] == edge[:, s, k - 1]).all() for s, k in arcs(5, 3))


# ----------------------------------------------------------------------------------------------------------- prototype
STAND_IN = """
import numpy as np
from neighbour import total

def forward(e, tr, dur, init, al, gl, U, off, N, out):
    out[:] = total(e, tr, dur, init)

def fwdbwd(e, tr, dur, init, al, gl, U, off, al2, gl2, U2, off2, N, out, start, end, ctr, cdur):
    out[:] = total(e, tr, dur, init)
    ctr += 1.0
"""
NEIGHBOUR = """
import torch
from benchmarks.peers.eager import total as loop

def total(*arrays):
    return loop(*map(torch.from_numpy, arrays)).numpy()
"""


def test_the_prototype_is_loaded_from_where_it_lies_and_compared(tmp_path, monkeypatch):
    (tmp_path / "p7_full.py").write_text(STAND_IN)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    monkeypatch.setattr(sys, "path", list(sys.path))
    prototype = Prototype(tmp_path / "p7_full.py")
    before = list(sys.path)
    case = Case(SHAPE, "log-partition", kernel=True)
    assert runner.conventions(prototype, Kernel(), case, CPU64) is None
    assert sys.path == before
    assert len(prototype.digest) == 12
    assert prototype.declines(Case(SHAPE, "log-partition"), CPU64) == "has no log-partition"
    wrong = runner.conventions(prototype, Kernel(), Case(SHAPE, "log-partition + gradients", kernel=True), CPU64)
    assert wrong is not None  # the stand-in leaves the counts out


PROTOTYPE = Path(__file__).parents[2] / "shared" / "prototypes" / "p7_full.py"


@pytest.mark.slow
@pytest.mark.skipif(not PROTOTYPE.is_file(), reason="needs the prototype, which lies outside the repository")
def test_the_prototype_counts_as_we_do():
    for quantity in sorted(Prototype.quantities):
        case = Case(Shape(2, 90, 20, 4), quantity, kernel=True)
        model = model_of(case)
        answers = [c.prepare(case, model, CPU64) for c in (Kernel(), Prototype(PROTOTYPE))]
        ours, theirs = (p.read(p.run()) for p in answers)
        assert difference(ours, theirs, (1e-10, 1e-7))[1] is None
