"""Calls of a task's own functions: what goes wrong in one is told with its name, and what it returns is checked."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

import numpy as np

from wm_jax.errors import ForeignError, UserError

FRAME_SHAPE = (64, 64, 3)
"""Height, width and colours of the uint8 frames that V sees."""
LIMIT = 1 + 1e-6
"""Largest number in an action: 1, and what float32 may make of it by rounding."""
LARGEST = float(np.finfo(np.float32).max)
"""Largest reward: recorded ones are float32."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class GameDied(ForeignError):
    """A process that an environment has started is gone. A worker ends with it, and another begins the episode again; any
    other error of a task comes again, and is not tried again."""


def own(what: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function` of a task's, named `what`: all that it raises but a `UserError` becomes a `ForeignError`, also
    `SystemExit`; a Ctrl-C stays one."""

    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except (UserError, ForeignError):
            raise
        except (Exception, SystemExit) as error:
            raise foreign(what, error) from error

    return call


def foreign(what: str, error: BaseException) -> ForeignError:
    """Says that `what` has raised this error, and keeps its traceback as text: no other process may know its class."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{what} raised {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
    return ForeignError.of(message, error)


def wrong(what: str, expected: str, found: Any, remedy: str = "") -> NoReturn:
    """Raise the `UserError` that `what` has returned something else than expected."""
    raise UserError(f"{what} must return {expected}, found {described(found)}{remedy and f'; {remedy}'}")


def described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray) and value.size > 16:
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 100 else text[:100] + '…'}"


class Named(Protocol):
    """A task: what is checked here it calls by the name of its function."""

    def told(self, function: str) -> str:
        """One of the task's own functions, as errors name it."""
        ...


def checked_frame(task: Named, frame: Any) -> np.ndarray:
    """The frame that the task's `frame` returned: uint8 [64, 64, 3]."""
    array = frame if type(frame) is np.ndarray else np.asarray(frame)
    if array.dtype != np.uint8 or array.shape != FRAME_SHAPE:
        scale = "multiply numbers from 0 to 1 by 255, then .astype(np.uint8)" if array.dtype.kind == "f" else ""
        wrong(task.told("frame"), f"uint8 {list(FRAME_SHAPE)}", array if array.size > 16 else frame, scale)
    return array


def checked_action(what: str, action: Any, size: int) -> np.ndarray:
    """The action that `what` returned: [size] numbers in [-1, 1], as float32."""
    array = action
    if type(action) is not np.ndarray or action.dtype != np.float32:
        try:
            array = np.asarray(action).astype(np.float32, casting="same_kind")
        except (TypeError, ValueError):
            array = np.zeros(0, np.float32)
    # For so few numbers this takes a tenth of what NumPy's comparisons do, and it is done every step. NaN is not within.
    if array.shape != (size,) or not all([-LIMIT <= number <= LIMIT for number in array.tolist()]):
        wrong(what, f"an action of shape [{size}], each number from -1 to 1", action)
    return array


def checked_reward(task: Named, reward: Any) -> float:
    """The reward that the task's `step` returned: one finite number, in float32 too."""
    number = reward if type(reward) is float else _number(reward)
    if not -LARGEST <= number <= LARGEST:
        wrong(task.told("step"), "a finite number as its reward", reward)
    return number


def checked_flag(task: Named, name: str, flag: Any) -> bool:
    """What the task's `step` returned as `terminated` or `truncated`: True or False, or the number of one of them."""
    if type(flag) is bool:
        return flag
    if _number(flag) not in (0, 1):
        wrong(task.told("step"), f"True or False as `{name}`", flag)
    return bool(flag)


def _number(value: Any) -> float:
    """One number of any type, NaN where `value` is none."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "biuf" else np.nan


def checked_rows(what: str, name: str, rows: Any, count: int, kinds: str) -> np.ndarray:
    """What a pool's `what` returned as `name`: finite numbers [count] of these kinds of dtypes."""
    array = np.asarray(rows)
    if array.shape != (count,) or array.dtype.kind not in kinds or not (np.abs(array * 1.0) <= LARGEST).all():
        kind = "True or False" if kinds == "b" else "a finite number"
        wrong(what, f"as `{name}` {kind} for each of {count} episodes", array)
    return array
