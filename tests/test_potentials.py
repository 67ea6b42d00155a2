"""Potentials: what shapes are taken and refused, and what errors say."""

from __future__ import annotations

import oracle
import pytest
import tables
import torch
from models import CLASSES, EXACT, case, of_every_batch_shape, seeded
from torch import Tensor

from semicrf import EdgePotentials, FactoredPotentials, Potentials, SegmentPotentials, SemiCRFDistribution
from semicrf.errors import InputError

T, K, C = 5, 3, 2
OWN = oracle.shapes(T, K, C)
MAIN = {"factored": "emission", "duration_transition": "emission", "segment": "segment", "edge": "edge"}


def zeros(*names: str, batch: tuple[int, ...] = ()) -> dict[str, Tensor]:
    return {n: torch.zeros(*batch, *OWN[n]) for n in names}


# --- Shapes that are taken ---


@of_every_batch_shape
@pytest.mark.parametrize("family", CLASSES)
def test_every_part_alone_shared_or_per_sequence(family, batch_shape):
    """It lands in the normal form: one row for each sequence, or one for all."""
    main = MAIN[family]
    for name in tables.FAMILIES[family]:
        for own in {(), batch_shape} if name not in oracle.POSITIONAL else {batch_shape}:
            given = zeros(main, batch=batch_shape) | {name: torch.randn(*own, *OWN[name], generator=seeded())}
            options = (
                {"max_duration": K}
                if main == "emission" and not {"duration", "duration_transition"} & set(given)
                else {}
            )
            p = CLASSES[family](**given, **options)
            assert isinstance(p, Potentials)
            assert (p.batch_shape, p.T, p.K, p.C) == (batch_shape, T, K, C)
            assert set(p.parts) == set(given)
            B = torch.Size(batch_shape).numel() if own == batch_shape else 1
            assert torch.equal(p.parts[name], given[name].reshape(B, *OWN[name]))
            assert torch.equal(p.full(name), given[name].expand(*batch_shape, *OWN[name]).reshape(-1, *OWN[name]))


def test_where_the_longest_segment_is_read_from():
    emission = torch.zeros(2, T, C)
    assert FactoredPotentials(emission).K == T  # nothing says it: no limit
    assert FactoredPotentials(emission, max_duration=9).K == 9
    assert FactoredPotentials(emission, duration=torch.zeros(4, C)).K == 4
    assert FactoredPotentials(emission, duration=torch.zeros(2, 4, C)).K == 4
    assert FactoredPotentials(emission, duration_transition=torch.zeros(4, C, C)).K == 4
    assert FactoredPotentials(emission, duration_transition=torch.zeros(4, C, C), max_duration=4).K == 4
    assert SegmentPotentials(torch.zeros(T, 7, C)).K == 7  # beyond T
    assert EdgePotentials(torch.zeros(T, 7, C, C)).K == 7


def test_absent_parts_are_zeros():
    c = case("duration_transition", batch_shape=(2,), lengths=(T, T))
    for name in set(oracle.FACTORED) - {"emission"}:
        given = {n: t.detach() for n, t in c.parts.items() if n != name}
        make = CLASSES["factored"]
        absent, explicit = make(**given), make(**given, **{name: torch.zeros_like(c.parts[name])})
        for p in (absent, explicit):
            assert p.K == K
        a, b = (SemiCRFDistribution(p) for p in (absent, explicit))
        tables.assert_values(a.log_partition, b.log_partition, EXACT)
        tables.assert_values(a.marginals.edge, b.marginals.edge, EXACT)
        assert not SemiCRFDistribution(absent).potentials.full(name).any()


def test_transition_and_duration_can_be_given_by_position():
    transition, duration = torch.randn(C, C), torch.randn(K, C)
    p = FactoredPotentials(torch.zeros(T, C), transition, duration)
    assert torch.equal(p.parts["transition"][0], transition)
    assert torch.equal(p.parts["duration"][0], duration)
    assert torch.equal(SegmentPotentials(torch.zeros(T, K, C), transition).parts["transition"][0], transition)


def test_any_floating_dtype():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        p = FactoredPotentials(torch.zeros(T, C, dtype=dtype), torch.zeros(C, C, dtype=dtype))
        assert p.dtype == dtype
        assert p.device == torch.device("cpu")


# --- Shapes and kinds that are refused ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"emission": [[0.0]]}, "emission: got a list; expected a floating tensor. Likely fix: convert emission with"),
        ({"emission": torch.zeros(T, C).long()}, "emission: got dtype torch.int64; expected a floating tensor"),
        ({"emission": torch.zeros(C)}, r"emission: got shape \(2,\); expected \(\.\.\., T, C\), no axis empty"),
        (
            {"emission": torch.zeros(2, 0, C)},
            r"emission: got shape \(2, 0, 2\); expected \(\.\.\., T, C\), no axis empty",
        ),
        ({"emission": torch.zeros(2, T, 0)}, r"emission: got shape \(2, 5, 0\); expected"),
        ({"transition": torch.zeros(C, C + 1)}, r"transition: got shape \(2, 3\); expected \(2, 2\) or \(4, 2, 2\)"),
        ({"transition": torch.zeros(3, C, C)}, r"transition: got shape \(3, 2, 2\); expected \(2, 2\) or \(4, 2, 2\)"),
        ({"transition": 0.0}, "transition: got a float; expected a floating tensor"),
        ({"transition": torch.zeros(C, C).bool()}, "transition: got dtype torch.bool; expected a floating tensor"),
        ({"duration": torch.zeros(C)}, r"duration: got shape \(2,\); expected 2 axes at least"),
        (
            {"duration": torch.zeros(C, K)},
            r"duration: got shape \(2, 3\); expected .*\(K=2, C=2\). Likely fix: check the order",
        ),
        ({"duration": torch.zeros(3, K, C)}, r"duration: got shape \(3, 3, 2\); expected \(3, 2\) or \(4, 3, 2\)"),
        ({"duration": torch.zeros(0, C)}, "max_duration: got 0; expected an integer of at least 1"),
        ({"duration_transition": torch.zeros(C, C)}, r"duration_transition: got shape \(2, 2\); expected 3 axes"),
        (
            {"duration": torch.zeros(K, C), "duration_transition": torch.zeros(4, C, C)},
            r"duration_transition: got shape",
        ),
        ({"start": torch.zeros(C + 1)}, r"start: got shape \(3,\); expected \(2,\) or \(4, 2\), that is \(C=2\)"),
        ({"end": torch.zeros(1)}, r"end: got shape \(1,\); expected"),
        (
            {"segment_start": torch.zeros(4, T + 1, C)},
            r"segment_start: got shape \(4, 6, 2\); expected \(5, 2\) or \(4, 5, 2\)",
        ),
        ({"segment_end": torch.zeros(T)}, r"segment_end: got shape \(5,\); expected .*\(T=5, C=2\)"),
        ({"max_duration": 0}, "max_duration: got 0; expected an integer of at least 1"),
        ({"max_duration": 2.0}, "max_duration: got 2.0; expected an integer of at least 1"),
        (
            {"max_duration": K, "duration": torch.zeros(K, C)},
            "max_duration: got 3; expected None, as duration has K rows",
        ),
        (
            {"max_duration": 2, "duration_transition": torch.zeros(K, C, C)},
            r"duration_transition: got shape \(3, 2, 2\)",
        ),
        (
            {"transition": torch.zeros(C, C).double()},
            "transition: got torch.float64 on cpu; expected torch.float32 on cpu",
        ),
        ({"start": torch.zeros(C, device="meta")}, "start: got torch.float32 on meta; expected torch.float32 on cpu"),
    ],
)
def test_factored_potentials_refuse(given, message):
    with pytest.raises(InputError, match=message):
        FactoredPotentials(**({"emission": torch.zeros(4, T, C)} | given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SegmentPotentials(torch.zeros(K, C)), r"segment: got shape \(3, 2\); expected \(\.\.\., T, K, C\)"),
        (
            lambda: SegmentPotentials(torch.zeros(T, 0, C)),
            r"segment: got shape \(5, 0, 2\); expected \(\.\.\., T, K, C\)",
        ),
        (
            lambda: SegmentPotentials(torch.zeros(T, K, C), torch.zeros(K, K)),
            r"transition: got shape \(3, 3\); expected",
        ),
        (
            lambda: SegmentPotentials(torch.zeros(T, K, C), start=torch.zeros(2, C)),
            r"start: got shape \(2, 2\); expected \(2,\)",
        ),
        (lambda: CLASSES["segment"](None), "segment: got a NoneType; expected a floating tensor"),
        (lambda: EdgePotentials(torch.zeros(T, K, C)), r"edge: got shape \(5, 3, 2\); expected \(\.\.\., T, K, C, C\)"),
        (lambda: EdgePotentials(torch.zeros(T, K, C, 4)), r"edge: got shape \(5, 3, 2, 4\); .* equal last axes"),
        (
            lambda: EdgePotentials(torch.zeros(T, K, C, C), end=torch.zeros(4)),
            r"end: got shape \(4,\); expected \(2,\)",
        ),
        (
            lambda: EdgePotentials(torch.zeros(T, K, C, C).int()),
            "edge: got dtype torch.int32; expected a floating tensor",
        ),
    ],
)
def test_the_other_classes_refuse(make, message):
    with pytest.raises(InputError, match=message):
        make()
