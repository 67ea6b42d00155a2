"""What is measured, as data: a case is one line of a table, and a new line is all that a new case needs.

Times are in milliseconds. `goal`, `stretch` and `published` were measured or set on one machine (CPU: two cores of an
EPYC of the Zen 5 generation, torch 2.13; GPU: an H200, torch 2.11, triton 3.6); on another they mean something only
times the machine ratio, which the prototype gives (see README.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

GRADIENTS = " + gradients"


class Shape(NamedTuple):
    """Sequences, positions, longest segment, labels."""

    B: int
    T: int
    K: int
    C: int


@dataclass(frozen=True)
class Case:
    """One row: a quantity at a shape.

    Args:
        shape: of the model: emission, transition, duration and start.
        quantity: a key of `benchmarks.ours.QUANTITIES`; " + gradients" behind it adds those in every tensor. Or one of
            `benchmarks.step`.
        kernel: the backend's sweep alone, without dispatch, autograd and checks, beside the prototype's.
        data: "random", or "planted": a segmentation of mean duration K / 4 that the emissions favour.
        threads: as many, where the run has them; None: those of the run.
        goal, stretch: what to reach, and what would be better still.
        against: another quantity, timed in the same rounds; `limit` is the ratio to it that is to be reached.
        published: what others took, by name; "prototype" has a number of threads of its own, that of the case.
        long: left out unless asked for.
    """

    shape: Shape
    quantity: str
    kernel: bool = False
    data: Literal["random", "planted"] = "random"
    threads: int | None = None
    goal: float | None = None
    stretch: float | None = None
    against: str | None = None
    limit: float | None = None
    published: Mapping[str, float] = field(default_factory=dict, hash=False)
    long: bool = False

    @property
    def name(self) -> str:
        """The quantity without its gradients."""
        return self.quantity.removesuffix(GRADIENTS)

    @property
    def gradients(self) -> bool:
        """Whether those are asked for."""
        return self.quantity.endswith(GRADIENTS)

    def __str__(self) -> str:
        marks = ["kernel"] * self.kernel + [self.data] * (self.data != "random")
        return f"{tuple(self.shape)} {self.quantity}" + "".join(f" [{mark}]" for mark in marks)


@dataclass(frozen=True)
class MemoryCase:
    """One row of memory: how the peak beyond the inputs grows from `T[0]` to `T[1]`, in multiples of the emissions."""

    shape: Shape  # of the shorter model
    longer: int  # positions of the longer one
    quantity: str
    limit: float  # multiple of the emissions, up to `PAGES`

    def __str__(self) -> str:
        B, T, K, C = self.shape
        return f"({B}, {T} -> {self.longer}, {K}, {C}) {self.quantity}"


@dataclass(frozen=True)
class Suite:
    """The rows of one kind of device and what they have in common."""

    name: str
    device: str
    dtype: str
    validate: bool | None  # `validate_args` of the headline; the other setting is timed beside it
    beside: bool | None
    tests: tuple[str, ...]  # patterns of files, from the root: the quick subset that has to pass first
    cases: tuple[Case, ...]
    memory: tuple[MemoryCase, ...]


TOLERANCE = {
    # Both add the same terms in another order, relative to log Z of up to 1e5; counts are sums over T of differences of
    # numbers of that size.
    "float64": (1e-10, 1e-7),
    # A float32 scan keeps log Z to a few roundings of 6e-8 per thousand positions; counts are exponentials of such
    # differences. A wrong convention could pass at a large shape, which is why TINY comes before.
    "float32": (1e-5, 2e-3),
}
"""How far a peer may be from us, by its dtype: values, relative to max(1, |ours|), and counts, to max(1, largest)."""

TINY = (Shape(2, 7, 3, 2), Shape(2, 5, 1, 3))
"""Where a peer's conventions are checked first: whatever it counts otherwise is off by 1e-2 there."""
TINY_TOLERANCE = {"float64": (1e-11, 1e-11), "float32": (2e-5, 2e-5)}


# ----------------------------------------------------------------------------------------------------------------- CPU
MAIN, ONE = Shape(4, 2000, 50, 16), Shape(1, 2000, 50, 16)
SHORT, BATCH = Shape(1, 1024, 16, 4), Shape(32, 128, 8, 9)
LONG, WIDE = Shape(1, 10**5, 1000, 24), Shape(32, 500, 100, 24)
LOG, LOG_GRADIENTS = "log-partition", "log-partition + gradients"

CPU = (
    Case(
        MAIN,
        LOG,
        goal=2.3,
        published={"flash-semicrf": 1836, "flash-semicrf float64": 2147, "synjax": 477, "eager": 66},
    ),
    Case(MAIN, LOG_GRADIENTS, goal=6, published={"flash-semicrf float64": 14132}),
    Case(MAIN, "marginals", published={"synjax": 910}),
    Case(MAIN, "entropy", against=LOG, limit=4, published={"synjax": 1072}),
    Case(MAIN, "max", against=LOG, limit=4),
    Case(MAIN, "best path", against=LOG, limit=4),
    Case(MAIN, "KMax(4)", against=LOG, limit=6),
    Case(MAIN, "Std", against=LOG, limit=4),
    Case(MAIN, "cross-entropy", against=LOG, limit=4),
    Case(MAIN, "KL", against=LOG, limit=4),
    Case(MAIN, "entropy + gradients", against=LOG_GRADIENTS, limit=3),
    Case(MAIN, "max + gradients", against=LOG_GRADIENTS),
    Case(MAIN, "KMax(4) + gradients", against=LOG_GRADIENTS),
    Case(MAIN, "Std + gradients", against=LOG_GRADIENTS),
    Case(MAIN, "cross-entropy + gradients", against=LOG_GRADIENTS),
    Case(MAIN, "KL + gradients", against=LOG_GRADIENTS),
    Case(ONE, "top 100", against="best path", limit=3),
    Case(ONE, "max-marginals", against="max"),
    Case(ONE, "1000 samples", data="planted", against=LOG),
    Case(SHORT, LOG, goal=0.4, published={"synjax": 1.4, "torch-struct": 8700}),
    Case(SHORT, "marginals", goal=0.8, published={"synjax": 2.4, "torch-struct": 19400}),
    Case(BATCH, LOG, goal=0.8, published={"synjax": 13.5}),
    Case(BATCH, "marginals", goal=2, published={"synjax": 19.6}),
    Case(LONG, LOG, goal=140),
    Case(LONG, LOG_GRADIENTS, goal=450, against=LOG, limit=3.5),
    Case(WIDE, LOG, goal=6, published={"flash-semicrf": 4580}),
    # The backend's sweep beside the prototype's; these give the machine ratio.
    Case(MAIN, LOG, kernel=True, threads=2, published={"prototype": 2.0}),
    Case(MAIN, LOG_GRADIENTS, kernel=True, threads=2, published={"prototype": 4.9}),
    Case(SHORT, LOG, kernel=True, threads=1, published={"prototype": 0.14}),
    Case(SHORT, LOG_GRADIENTS, kernel=True, threads=1, published={"prototype": 0.38}),
    Case(LONG, LOG, kernel=True, threads=1, published={"prototype": 139}),
    Case(LONG, LOG_GRADIENTS, kernel=True, threads=1, published={"prototype": 476}),
)

PROTOTYPE_LIMITS = {LOG: 1.15, LOG_GRADIENTS: 1.3}
"""At MAIN, kernel to kernel: the ratio to the prototype that is to be reached."""

# Limits count arrays of the size of the emissions; "independent of T" is none. 0.05 is what pages and stacks add to a
# difference of 36 MB, in any row.
PAGES = 0.05
_SMALL = Shape(8, 8000, 100, 24)  # emissions of 12 MB in float64
MEMORY = (
    MemoryCase(_SMALL, 32000, LOG, 0),
    MemoryCase(_SMALL, 32000, "max", 0),
    MemoryCase(_SMALL, 32000, "entropy", 0),
    MemoryCase(_SMALL, 32000, "KMax(4)", 0),
    MemoryCase(_SMALL, 32000, LOG_GRADIENTS, 4),
    MemoryCase(_SMALL, 32000, "entropy + gradients", 6),  # 2 d + 2 with d = 2 fields
    MemoryCase(_SMALL, 32000, "cross-entropy + gradients", 8),  # d = 3
    MemoryCase(_SMALL, 32000, "best path", 3),
)


# ----------------------------------------------------------------------------------------------------------------- GPU
def _gpu(
    shape: tuple[int, int, int, int], quantity: str, goal: float | None, stretch: float | None = None,
    flash: tuple[float, float] | None = None, *, synjax: float | None = None, prototype: float | None = None,
    data: Literal["random", "planted"] = "random", against: str | None = None, limit: float | None = None,
) -> Case:  # fmt: skip
    """A line of the GPU table; `flash` is (float32, float64)."""
    given = {"synjax": synjax, "prototype": prototype}
    if flash is not None:
        given |= dict(zip(("flash-semicrf", "flash-semicrf float64"), flash, strict=True))
    published = {name: ms for name, ms in given.items() if ms is not None}
    options = {"against": against, "limit": limit, "published": published, "long": shape[1] > 10**4}
    return Case(Shape(*shape), quantity, data=data, goal=goal, stretch=stretch, **options)


GPU = (
    _gpu((4, 1000, 100, 24), LOG, 0.8, 0.3, (46.7, 128), synjax=11.5, prototype=1.9),
    _gpu((4, 1000, 100, 24), LOG_GRADIENTS, 2.2, 0.8, (643, 1346), synjax=32.4),
    _gpu((4, 1000, 100, 24), "best path", 1.2, 0.5, synjax=35.2, data="planted", against=LOG, limit=1.5),
    _gpu((4, 1000, 100, 24), "max", None, flash=(24.8, 24.8)),
    _gpu((4, 1000, 100, 24), "entropy", 1.4, 0.5, synjax=41.9, against=LOG, limit=1.5),
    _gpu((4, 1000, 100, 24), "KMax(4)", None, against=LOG, limit=2.2),
    _gpu((4, 1000, 100, 24), "cross-entropy", None, against=LOG, limit=2.2),
    _gpu((4, 1000, 100, 24), "KL", None, against=LOG, limit=2.2),
    _gpu((4, 1000, 100, 24), "Std", None, against=LOG),
    _gpu((32, 1000, 32, 24), LOG, 0.5, 0.2, (14.8, 36.6), synjax=12.3, prototype=1.44),
    _gpu((32, 1000, 32, 24), LOG_GRADIENTS, 1.5, 0.6, (213, 445), synjax=38.6),
    _gpu((256, 128, 8, 9), LOG, 0.15, 0.08, (2.0, 2.4), synjax=1.51, prototype=0.127),
    _gpu((256, 128, 8, 9), LOG_GRADIENTS, 0.4, 0.2, (10.6, 11.6), synjax=4.10),
    _gpu((32, 512, 16, 16), LOG, 0.35, 0.15, (6.5, 10.1), synjax=5.14, prototype=0.455),
    _gpu((32, 512, 16, 16), LOG_GRADIENTS, 1.0, 0.4, (48.8, 68.2), synjax=14.6),
    _gpu((32, 4096, 1, 32), LOG, 0.5, 0.2, (586, 562), prototype=3.8),
    _gpu((32, 4096, 1, 32), LOG_GRADIENTS, 1.5, 0.6, (2689, 2811)),
    _gpu((1, 10000, 100, 24), LOG, 0.9, 0.3, (455, 1304), prototype=0.78),
    _gpu((1, 10000, 100, 24), LOG_GRADIENTS, 2.7, 1, (6704, 13757)),
    _gpu((1, 10000, 100, 24), "1000 samples", None, data="planted", against=LOG, limit=3),
    _gpu((1, 2000, 1000, 24), LOG, 5, 2, (1047, 2898), prototype=10.7),
    _gpu((1, 2000, 1000, 24), LOG_GRADIENTS, 15, 6, (10294, 22520)),
    _gpu((32, 512, 32, 24), "training step", None, against="training step, softmax"),
    _gpu((32, 512, 32, 24), "training step as a graph", None, against="training step as a graph, softmax", limit=1.15),
    _gpu((1, 10**6, 100, 24), LOG, 8, 3, prototype=5.8),
    _gpu((1, 10**6, 100, 24), LOG_GRADIENTS, 25, 10),
    _gpu((1, 10**6, 1000, 24), LOG, 60, 10, prototype=58),
    _gpu((1, 10**6, 1000, 24), LOG_GRADIENTS, 200, 35),
)

SUITES = {
    "cpu": Suite(
        "cpu", "cpu", "float64", validate=None, beside=False, cases=CPU, memory=MEMORY,
        tests=("tests/test_cpu*.py", "tests/test_distribution.py"),
    ),
    "gpu": Suite(
        "gpu", "cuda", "float32", validate=False, beside=None, cases=GPU, memory=MEMORY,
        tests=("tests/test_triton*.py", "tests/test_distribution.py"),
    ),
}  # fmt: skip
