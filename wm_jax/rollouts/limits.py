"""Where episodes are cut off before the task does it."""

from dataclasses import dataclass

import numpy as np

from wm_jax.tasks import Task


@dataclass(frozen=True)
class Limits:
    """An episode that goes beyond either is truncated; None is no limit but the task's own."""

    max_steps: int | None = None
    """Steps of an episode."""
    patience: int | None = None
    """Steps in a row that bring no positive reward: whoever is lost sees little that is worth recording."""


WHOLE = Limits()
"""Episodes as the task has them."""


class Watch:
    """Counts the steps of `lanes` episodes of a task, and those in a row without a positive reward."""

    def __init__(self, task: Task, limits: Limits, lanes: int):
        self.max_steps = min(task.max_steps, limits.max_steps or task.max_steps)
        self.patience = limits.patience or self.max_steps
        self.steps, self.idle = np.zeros(lanes, int), np.zeros(lanes, int)

    def begin(self, lanes: np.ndarray | int) -> None:
        """Episodes begin in these lanes."""
        self.steps[lanes], self.idle[lanes] = 0, 0

    def over(self, lanes: np.ndarray | int, rewards: np.ndarray | float) -> np.ndarray:
        """These lanes took a step that brought `rewards`: whether it is the last."""
        self.steps[lanes] += 1
        # Once a step of every environment: a product costs a fraction of what `np.where` does on one number.
        self.idle[lanes] = (self.idle[lanes] + 1) * (1 - (rewards > 0))
        return (self.steps[lanes] >= self.max_steps) | (self.idle[lanes] >= self.patience)
