"""Any semiring on the CPU: the generated text against its living definition, the loops against the reference where
enumeration cannot go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from tables import FAMILIES, TOLERANCE, assert_same_bits_on_threads, assert_values

from semicrf.algebra import KL, CrossEntropy, Entropy, Expectation, KMax, Log, LogCount, Max, Semiring, Std
from semicrf.compile import compiled, dual, evaluate
from semicrf.engine import reference
from semicrf.semirings import exp, log, maximum, smallest, top, total

pytest.importorskip("numba")
import numba

from semicrf.engine.cpu import build, elements, generic, linear, linking
from semicrf.engine.cpu.vectors import doubles

inf = math.inf


class Raw(Semiring):
    """Weights as they are: an exponential that no frame keeps small, and other operations that few semirings use."""

    fields = "weight", "least"
    zero, one = (0.0, inf), (1.0, 0.0)

    def lift(w: Any):
        return exp(w), -w

    def mul(a, b):
        return a.weight * b.weight, a.least + b.least

    def sum(x):
        return total(x.weight), smallest(x.least)


class Odd(Semiring):
    """What no model needs and a user may write."""

    fields = "a", "b", "c"
    zero, one = (-inf, -inf, 0.0), (0.0, 0.0, 0.0)

    def lift(w):
        return w, w, 0.0

    def mul(a, b):
        first, second = top((a.a + b.a, a.b + b.b), 2)
        return first, second, maximum(a.c, b.c) / 2.0 - log(exp(a.c))

    def sum(x):
        return smallest(-x.a), -smallest(x.b), total(exp(x.c))


EVERY = [Log, Max, Std, KMax(1), KMax(4), Entropy, CrossEntropy, KL, LogCount, Expectation, Raw, Odd, dual(Max)]
EVERY += [dual(KMax(2)), dual(Entropy), dual(KL)]


def element(semiring: type[Semiring], n: int, special: bool, rng: np.random.Generator) -> np.ndarray:
    """(d, n): carriers, some of them zero; lists in order, as every sum leaves them."""
    p = compiled(semiring)
    x = rng.normal(size=(p.width, n))
    for run in p.descending:
        x[list(run)] = -np.sort(-x[list(run)], 0)
    if special:
        x[:, rng.random(n) < 0.4] = np.array(semiring.zero)[:, None]
    return x


on_memory = numba.njit(lambda function, m, *rows: function(doubles(m), *rows))


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("n", [1, 3, 8, 21])
@pytest.mark.parametrize("semiring", EVERY, ids=lambda s: s.__name__)
def test_the_text_says_what_the_definition_says(semiring, n, special):
    program, rng = compiled(semiring), np.random.default_rng(n)
    d, p = program.width, program.potentials
    elements, source = element(semiring, n, special, rng), rng.normal(size=(p, n))
    here, term = rng.normal(size=p), rng.normal(size=(p, n))
    if special:
        term[:, rng.random(n) < 0.3] = -inf
    rows = [elements.T, here[None], source.T, term.T, np.full((1, p), n), np.zeros((build.scratch(program, n), 1))]
    rows += [np.zeros((d, 1)), np.zeros((max(program.ids, 1), 1))]
    starts = np.cumsum([0, *(r.size for r in rows)]).tolist()
    m = np.repeat(np.concatenate([r.ravel() for r in rows])[:, None], 8, 1)
    at = dict(zip(("element", "here", "source", "term", "bound", "x", "y", "ids"), starts, strict=False))
    total = build.function(program, "total")
    on_memory(
        total,
        m.ctypes.data,
        at["element"],
        at["here"],
        at["source"],
        p,
        at["term"],
        at["bound"],
        n,
        at["x"],
        at["y"],
        at["ids"],
    )
    w = here[:, None] + source + term
    acted = []
    for i in range(n):
        gone = all(w[q, i] == -inf for q in range(program.gates))
        inputs = {"a": elements[:, i].tolist(), "w": w[:, i].tolist()}
        acted.append(semiring.zero if gone else evaluate(program.act, inputs))
    columns = [list(c) for c in zip(*acted, strict=True)]
    tolerance = TOLERANCE[torch.float64]
    assert (m == m[:, :1]).all() or np.isnan(m).any()  # what is done to one label is done to eight
    x = m[at["x"] : at["x"] + n * d, 0].reshape(n, d).T.copy()
    assert_values(torch.tensor(x), torch.tensor(columns, dtype=torch.float64), tolerance)
    wanted = evaluate(program.sum, {"x": columns}, terms=n)
    y = m[at["y"] : at["y"] + d, 0].copy()
    assert_values(torch.tensor(y), torch.tensor(wanted, dtype=torch.float64), tolerance)


def drawn(semiring: type[Semiring], family: str, size: tuple[int, int, int], holes: float) -> list[dict]:
    generator = torch.Generator().manual_seed(7)
    T, K, C = size
    made = []
    for i in range(compiled(semiring).potentials):
        model = oracle.random_model(T, K, C, generator=generator, holes=holes, parts=FAMILIES[family])
        parts = {n: torch.stack([t.detach(), t.detach().flip(0)]) for n, t in model.parts.items()}
        if i >= compiled(semiring).gates:
            parts = {n: torch.where(t == -inf, 0.0, t) for n, t in parts.items()}
        made.append(parts)
    return made


def both(semiring, models, size, lengths, keep=True):
    p, (T, K, C) = compiled(semiring), size
    return [engine.scan(p, models, lengths, T, K, C, keep) for engine in (generic, reference)]


def gradients(engine, semiring, models, size, lengths, state):
    p, (T, K, C) = compiled(semiring), size
    seed = torch.linspace(0.5, 1.5, state.value.numel(), dtype=torch.float64).view_as(state.value)
    wanted = [{n for n in m if n != "required"} for m in models]
    return engine.scan_vjp(p, models, lengths, T, K, C, state, seed, wanted)


@pytest.mark.parametrize("holes", [0.0, 0.05])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("semiring", [Max, KMax(3), Entropy, KL, dual(Log)], ids=lambda s: s.__name__)
def test_long_sequences(semiring, family, holes):
    """Windows that wrap around, in both directions; choices; every gradient."""
    size, lengths = (150, 9, 2), torch.tensor([150, 131])
    models = drawn(semiring, family, size, holes)
    got, want = both(semiring, models, size, lengths)
    assert_values(got.value, want.value, 1e-10)
    for b, n in enumerate(lengths.tolist()):
        assert torch.equal(got.alpha_id[:, b, 1 : n + 1], want.alpha_id[:, b, 1 : n + 1])
    assert torch.equal(got.end_id, want.end_id)
    pulled = [gradients(e, semiring, models, size, lengths, s) for e, s in ((generic, got), (reference, want))]
    for mine, theirs in zip(*pulled, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            scale = 1 + theirs[name].abs().max()
            assert (mine[name] - theirs[name]).abs().max() <= 1e-10 * scale, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_read_as_they_lie(family, dtype):
    """Any dtype, any strides, with required boundaries: the same bits as their float64 copies."""
    size, lengths = (150, 9, 2), torch.tensor([150, 90])
    narrow = {n: t.to(dtype) for n, t in drawn(Max, family, size, 0.0)[0].items()}
    strided = {n: t.repeat_interleave(2, -1)[..., ::2] for n, t in narrow.items()}
    wide = {n: t.double() for n, t in narrow.items()}
    for parts in (strided, wide):
        parts["required"] = torch.rand(2, 150, generator=torch.Generator().manual_seed(1)) < 0.1
    got, copied = both(Max, [strided], size, lengths)[0], both(Max, [wide], size, lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, copied[0], strict=True))
    assert_values(got.value, copied[1].value, 1e-10)


@pytest.mark.parametrize("C", [7, 8, 9, 17])
@pytest.mark.parametrize("family", ["factored", "edge"])
@pytest.mark.parametrize("semiring", [Max, Entropy], ids=lambda s: s.__name__)
def test_labels_in_blocks(semiring, family, C):
    """More labels than a vector holds, and some that are nobody's."""
    size, lengths = (30, 4, C), torch.tensor([30, 21])
    models = drawn(semiring, family, size, 0.1)
    got, want = both(semiring, models, size, lengths)
    assert_values(got.value, want.value, 1e-10)
    pulled = [gradients(e, semiring, models, size, lengths, s) for e, s in ((generic, got), (reference, want))]
    for mine, theirs in zip(*pulled, strict=True):
        for name in mine:
            scale = 1 + theirs[name].abs().max()
            assert (mine[name] - theirs[name]).abs().max() <= 1e-10 * scale, name


def test_without_keep_there_is_the_value_alone_and_it_is_the_same():
    size, lengths = (150, 9, 2), torch.tensor([150, 131])
    models = drawn(KMax(3), "factored", size, 0.0)
    kept, lean = (both(KMax(3), models, size, lengths, keep)[0] for keep in (True, False))
    assert torch.equal(kept.value, lean.value)
    assert all(field.numel() == 0 for field in lean[1:])


def test_for_a_path_choices_are_kept_and_nothing_else():
    size, lengths = (150, 9, 2), torch.tensor([150, 131])
    models, p = drawn(Max, "edge", size, 0.0), compiled(Max)
    kept, lean = generic.scan(p, models, lengths, *size, True), generic.choices(p, models, lengths, *size)
    for name in ("value", "alpha_id", "g_id", "end_id"):
        assert torch.equal(getattr(kept, name), getattr(lean, name))
    assert lean.alpha_id.dtype == torch.int32
    assert lean.alpha.numel() == lean.g.numel() == lean.offset.numel() == 0


def test_threads_change_no_bit():
    size, lengths = (400, 50, 8), torch.tensor([400, 371])
    models = drawn(Max, "factored", size, 0.0)

    def both_ways() -> list[torch.Tensor]:
        state = both(Max, models, size, lengths)[0]
        return [*state, *gradients(generic, Max, models, size, lengths, state)[0].values()]

    assert_same_bits_on_threads(both_ways)


def test_the_generated_file_is_found_again_and_named_by_its_text():
    assert build._written(compiled(Max)) == build._written(compiled(Max))
    assert build._written(compiled(Max)) != build._written(compiled(Log))
    text = build._written(compiled(Max)).read_text()
    assert Max.explain("cpu").split("\n", 2)[2] in text


def test_a_cache_that_cannot_be_written_gives_way_to_a_folder_of_this_process(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert build._folder() == build._temporary()


def test_a_long_compilation_says_what_it_is_doing(capfd, monkeypatch):
    monkeypatch.setattr(build, "SLOW", 0.01)
    with build.Announced("compiling this"):
        threads = build.threading.Event()
        threads.wait(0.5)
    assert "semicrf: compiling this ..." in capfd.readouterr().err
    monkeypatch.setattr(build, "SLOW", 60.0)
    with build.Announced("compiling that"):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("part", ["emission", "duration", "transition", "start", "end", "segment_start", "segment_end"])
@pytest.mark.parametrize("semiring", [Log, Max, KMax(3), Entropy, Std, dual(Max)], ids=lambda s: s.__name__)
def test_what_is_no_number_is_seen_in_the_result(semiring, part, keep):
    """Wherever validation was left out: NaN is never taken for a score, in any engine, nor read past a length."""
    size, lengths = (40, 21, 3), torch.tensor([40, 30])
    models = drawn(semiring, "factored", size, 0.0)
    T, K, C = size
    models[0][part][1].view(-1)[-1] = math.nan  # of a sequence; past its end, or read by all that is that long
    for engine in (generic, linear):
        if engine is generic or linear.serves(compiled(semiring), set(models[0]), torch.device("cpu")):
            value = engine.scan(compiled(semiring), models, lengths, T, K, C, keep).value[0]
            past = part in ("emission", "segment_start", "segment_end")
            assert value.isnan().tolist() == [False, not past]
    if part == "emission":
        models[0][part][1, 11, 1] = math.nan
        value = generic.scan(compiled(semiring), models, lengths, T, K, C, keep).value[0]
        assert value.isnan().tolist() == [False, True]


def test_what_is_compiled_is_found_again_only_while_no_source_changed(monkeypatch):
    (signature,) = elements.forward.signatures or [()]
    found = elements.forward._cache._index_key
    codegen = elements.forward.targetctx.codegen()
    before = found(signature, codegen)
    assert before == found(signature, codegen)
    monkeypatch.setattr(linking, "_sources", lambda: "another")
    assert before != found(signature, codegen)
