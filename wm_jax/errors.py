"""Errors that a user can cause or fix: one clear sentence, printed without a traceback."""

import operator
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any, Self


class UserError(Exception):
    """States what is wrong, where, what was expected and found, and what to do. Ends the command with exit code 1."""


class DamagedError(UserError):
    """A file's digest or format is wrong. The file is unusable and may be made again. Never raised for system
    errors."""


class ForeignError(Exception):
    """An error in code outside this package, such as a user's task. Names the function that failed, and the error.
    `trace` is the traceback as text, from the process where the error happened: the author needs it to fix the code."""

    def __init__(self, message: str, trace: str):
        super().__init__(message)
        self.trace = trace

    @classmethod
    def of(cls, message: str, error: BaseException) -> Self:
        """A `ForeignError` with the traceback of `error`."""
        return cls(message, "".join(traceback.format_exception(error)))


def unreadable(what: str, error: Exception) -> UserError | ForeignError:
    """The error for a user's own Python file, `what`, that cannot be run. It has a traceback, unless one line says
    all."""
    message = f"{what} cannot be run: {type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return UserError(message)
    return ForeignError.of(message, error)


def require_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise `UserError` unless `value` is a finite number and `low <= value <= high`. `name` is the setting as the user
    writes it."""
    if not isinstance(value, Real):
        raise UserError(f"{name} must be a number, found {value!r}")
    if value == float("inf") or not low <= value <= high:
        finite = "finite and " if value == float("inf") else ""
        allowed = f"{finite}at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise UserError(f"{name} must be {allowed}, found {value}")


def require_integer(name: str, value: Any, low: int, high: float = float("inf")) -> int:
    """`value` as a Python int. Raises `UserError` unless it is an integer (of any type) in this range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, found {value!r}") from None
    require_range(name, number, low, high)
    return number


def require_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `UserError` unless `value` is one of `choices`. The message suggests the nearest choice."""
    if value not in choices:
        nearest = get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, found {value!r}{hint}")
