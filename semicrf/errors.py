"""Errors that say what was passed, what was expected, and the likely fix."""

from __future__ import annotations


class SemiCRFError(Exception):
    """Base class of every error that semicrf raises on purpose."""


class InputError(SemiCRFError, ValueError):
    """A tensor, a length, a segmentation or an option has the wrong shape, type or value."""


class SemiringError(SemiCRFError, TypeError):
    """A semiring is not well formed, breaks a law, or has no rule for what was asked of it."""


class BackendError(SemiCRFError, RuntimeError):
    """A backend is unknown, not installed here, or cannot run on the given device."""


class SizeError(SemiCRFError, MemoryError):
    """What was asked for is larger than the memory that is free."""


def bad_input(name: str, got: object, expected: object, fix: str = "") -> InputError:
    """The error for an argument: ``name``, what was passed, what was expected, and the likely fix.

    >>> str(bad_input("lengths", "max 7", "1..5", "trim the lengths to T."))
    'lengths: got max 7; expected 1..5. Likely fix: trim the lengths to T.'
    """
    return InputError(f"{name}: got {got}; expected {expected}." + (f" Likely fix: {fix}" if fix else ""))
