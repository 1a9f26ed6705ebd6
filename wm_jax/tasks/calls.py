"""Calls of a task's own functions: errors name the function, and return values are checked."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

import numpy as np

from wm_jax.errors import ForeignError, UserError

FRAME_SHAPE = (64, 64, 3)
"""Height, width and colours of V's uint8 frames."""
LIMIT = 1 + 1e-6
"""Largest number in an action: 1, plus float32's rounding."""
LARGEST = float(np.finfo(np.float32).max)
"""Largest reward: rewards are recorded as float32."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class GameDied(ForeignError):
    """A process started by an environment has ended. The worker process ends too, and another one restarts the episode.
    Any other error of a task would recur, so it is not retried."""


def own(what: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wrap a task's `function`, named `what`: everything that it raises except a `UserError` becomes a `ForeignError`,
    including `SystemExit`. Ctrl-C is passed on."""

    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except (UserError, ForeignError):
            raise
        except (Exception, SystemExit) as error:
            raise foreign(what, error) from error

    return call


def foreign(what: str, error: BaseException) -> ForeignError:
    """A `ForeignError` that `what` raised this error. The traceback is kept as text: other processes may not know its
    class."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{what} raised {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
    return ForeignError.of(message, error)


def wrong(what: str, expected: str, found: Any, remedy: str = "") -> NoReturn:
    """Raise a `UserError`: `what` returned something other than expected."""
    raise UserError(f"{what} must return {expected}, found {described(found)}{remedy and f'; {remedy}'}")


def described(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, np.ndarray) and value.size > 16:
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 100 else text[:100] + '…'}"


class Named(Protocol):
    """A task: names its functions for error messages."""

    def name_of(self, function: str) -> str:
        """The name of one of the task's own functions in error messages."""
        ...


def checked_frame(task: Named, frame: Any) -> np.ndarray:
    """Check the frame returned by the task's `frame`: uint8 [64, 64, 3]."""
    array = frame if type(frame) is np.ndarray else np.asarray(frame)
    if array.dtype != np.uint8 or array.shape != FRAME_SHAPE:
        scale = "multiply numbers from 0 to 1 by 255, then .astype(np.uint8)" if array.dtype.kind == "f" else ""
        wrong(task.name_of("frame"), f"uint8 {list(FRAME_SHAPE)}", array if array.size > 16 else frame, scale)
    return array


def checked_action(what: str, action: Any, size: int) -> np.ndarray:
    """Check the action returned by `what`: [size] numbers in [-1, 1], as float32."""
    array = action
    if type(action) is not np.ndarray or action.dtype != np.float32:
        try:
            array = np.asarray(action).astype(np.float32, casting="same_kind")
        except (TypeError, ValueError):
            array = np.zeros(0, np.float32)
    # Runs every step: for few numbers this takes a tenth of the time of NumPy's comparisons. NaN fails it.
    if array.shape != (size,) or not all([-LIMIT <= number <= LIMIT for number in array.tolist()]):
        wrong(what, f"an action of shape [{size}], each number from -1 to 1", action)
    return array


def checked_reward(task: Named, reward: Any) -> float:
    """Check the reward returned by the task's `step`: one number, finite in float32 too."""
    number = reward if type(reward) is float else _number(reward)
    if not -LARGEST <= number <= LARGEST:
        wrong(task.name_of("step"), "a finite number as its reward", reward)
    return number


def checked_flag(task: Named, name: str, flag: Any) -> bool:
    """Check `terminated` or `truncated` returned by the task's `step`: True or False, or 1 or 0."""
    if type(flag) is bool:
        return flag
    if _number(flag) not in (0, 1):
        wrong(task.name_of("step"), f"True or False as `{name}`", flag)
    return bool(flag)


def _number(value: Any) -> float:
    """One number of any type; NaN if `value` is not a number."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "biuf" else np.nan


def checked_rows(what: str, name: str, rows: Any, count: int, kinds: str) -> np.ndarray:
    """Check `name` returned by a pool's `what`: finite numbers [count] of these kinds of dtypes."""
    array = np.asarray(rows)
    if array.shape != (count,) or array.dtype.kind not in kinds or not (np.abs(array * 1.0) <= LARGEST).all():
        kind = "True or False" if kinds == "b" else "a finite number"
        wrong(what, f"as `{name}` {kind} for each of {count} episodes", array)
    return array
