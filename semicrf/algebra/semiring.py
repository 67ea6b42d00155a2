"""The base class of semirings: a short class of plain functions over scalar operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from semicrf.errors import SemiringError

_registry: dict[str, type[Semiring]] = {}


class Semiring:
    """A commutative-sum semiring, written once and compiled for every backend.

    A subclass says what an element is and how elements combine::

        class Entropy(Semiring):
            fields = "logz", "h"                        # an element is this tuple of scalars
            zero, one = (-inf, 0.0), (0.0, 0.0)
            def lift(w): return w, 0.0                  # a potential as an element
            def mul(a, b): return a.logz + b.logz, a.h + b.h
            def sum(x):                                 # n-ary sum over an axis; `plus` is derived from it
                logz = lse(x.logz)
                p = ratio(x.logz, logz)
                return logz, total(weigh(p, x.h + surprisal(x.logz, logz)))

    The functions take no `self` and use only the operations of `semicrf.semirings` (``+ - * /`` among them): they are
    called once, with symbols. `lift` must turn sums of potentials into products,
    ``lift(v + w) = mul(lift(v), lift(w))``; it takes as many potentials as `potentials` says, the i-th from the i-th
    model. Optional:

    ``read(x)``
        what `reduce` reports, computed from the final element; its names are in ``reads`` (default: the fields as
        they are).
    ``divide(a, b)``
        the element c with ``mul(c, b) = a``; it lets time be cut into chunks.

    A field may hold several scalars: ``fields = {"scores": 4}`` makes ``x.scores`` a tuple of four. `check_semiring`
    tests the laws. Raises `SemiringError` at class creation where a declaration is missing or inconsistent.
    """

    fields: ClassVar[Any] = ()
    reads: ClassVar[Any] = None
    zero: ClassVar[Any] = ()
    one: ClassVar[Any] = ()
    potentials: ClassVar[int] = 1
    gates: ClassVar[int | None] = None
    """How many leading potentials decide that an arc is forbidden (all of them -inf); None: every one."""
    lists: ClassVar[bool] = False
    """Whether `reduce` gives every field an axis of its scalars, also where there is one."""
    lift: ClassVar[Callable[..., Any]]
    mul: ClassVar[Callable[..., Any]]
    sum: ClassVar[Callable[..., Any]]
    read: ClassVar[Callable[..., Any]]
    divide: ClassVar[Callable[..., Any]]
    explain: ClassVar[Callable[..., str]]
    """``S.explain("torch" | "cpu" | "triton" | "latex")`` returns the generated text; attached by `semicrf.compile`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("lift", "mul", "sum", "read", "divide"):
            function = cls.__dict__.get(name)
            if callable(function):
                setattr(cls, name, staticmethod(function))
        cls.fields = _shape(cls.fields, cls, "fields")
        cls.reads = _shape(cls.reads, cls, "reads") if cls.reads is not None else cls.fields
        for name in ("zero", "one"):
            element = flatten(getattr(cls, name))
            if len(element) != cls.width():
                raise SemiringError(
                    f"{cls.__name__}.{name} has {len(element)} scalars; expected {cls.width()}, as fields "
                    f"{dict(cls.fields)} hold. Likely fix: give one number per scalar field."
                )
            setattr(cls, name, tuple(map(float, element)))
        if cls.potentials < 1 or not 1 <= (cls.gates or cls.potentials) <= cls.potentials:
            raise SemiringError(
                f"{cls.__name__}: got potentials = {cls.potentials}, gates = {cls.gates}; expected at least 1, and "
                "gates from 1 to potentials, or None. Likely fix: gates = 1 where only the first model forbids."
            )
        for name in ("lift", "mul", "sum"):
            if not callable(getattr(cls, name, None)):
                raise SemiringError(f"{cls.__name__} has no {name}; expected a function of plain scalar operations.")

    if TYPE_CHECKING:  # the functions take no self, so a type checker takes their elements for semirings

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def width(cls) -> int:
        """The number of scalars in an element."""
        return sum(n for _, n in cls.fields)


class Element:
    """A tuple of scalars whose fields have names: what `mul`, `sum` and `read` are given."""

    def __init__(self, fields: tuple[tuple[str, int], ...], scalars: tuple[Any, ...]):
        self.scalars, at = scalars, 0
        for name, width in fields:
            setattr(self, name, scalars[at] if width == 1 else scalars[at : at + width])
            at += width

    def __getattr__(self, name: str) -> Any:  # reached only for a field that does not exist
        known = ", ".join(n for n in vars(self) if n != "scalars")
        raise AttributeError(f"no field {name!r}; expected one of: {known}")

    def __iter__(self):
        return iter(self.scalars)

    def __getitem__(self, index: int) -> Any:
        return self.scalars[index]


def flatten(value: Any) -> tuple:
    """Nested tuples as one flat tuple; a bare scalar as a tuple of one."""
    if isinstance(value, tuple | list | Element):
        return tuple(s for v in value for s in flatten(v))
    return (value,)


def register(semiring: type[Semiring]) -> type[Semiring]:
    """Class decorator: makes a semiring known by its lower-case name, as in ``reduce("entropy")``."""
    _registry[semiring.__name__.lower()] = semiring
    return semiring


def lookup(semiring: type[Semiring] | Semiring | str) -> type[Semiring]:
    """The semiring class for a class, an instance or a registered name.

    >>> lookup("log").__name__
    'Log'
    """
    if isinstance(semiring, str):
        if semiring.lower() not in _registry:
            raise SemiringError(f"semiring {semiring!r} is not known; expected one of {sorted(_registry)}, or a class.")
        return _registry[semiring.lower()]
    cls = semiring if isinstance(semiring, type) else type(semiring)
    if not (issubclass(cls, Semiring) and cls is not Semiring):
        raise SemiringError(f"semiring: got {semiring!r}; expected a subclass of Semiring or a registered name.")
    return cls


def registered() -> dict[str, type[Semiring]]:
    """Every registered semiring by name."""
    return dict(_registry)


def _shape(fields: Any, cls: type, what: str) -> tuple[tuple[str, int], ...]:
    """`"a"`, `("a", "b")`, `{"a": 3}` or pairs, as a tuple of (name, number of scalars)."""
    if isinstance(fields, str):
        fields = (fields,)
    pairs: Iterable = fields.items() if isinstance(fields, dict) else fields
    shaped = tuple(f if isinstance(f, tuple) else (f, 1) for f in pairs)
    names = [name for name, _ in shaped]
    if not shaped or len(set(names)) < len(names) or any(not n.isidentifier() or n == "scalars" for n in names):
        raise SemiringError(f"{cls.__name__}.{what}: got {fields!r}; expected one or more different field names.")
    return shaped
