"""Limits that truncate episodes earlier than the task does."""

from dataclasses import dataclass

import numpy as np

from wm_jax.tasks import Task


@dataclass(frozen=True)
class Limits:
    """An episode that reaches either limit is truncated; None: only the task's own limit applies."""

    max_steps: int | None = None
    """Steps of an episode."""
    patience: int | None = None
    """Consecutive steps without a positive reward: after an agent gets lost there is little worth recording."""


WHOLE = Limits()
"""Episodes without extra limits."""


class Watch:
    """Counts the steps of `lanes` episodes of a task, and the consecutive steps without a positive reward."""

    def __init__(self, task: Task, limits: Limits, lanes: int):
        self.max_steps = min(task.max_steps, limits.max_steps or task.max_steps)
        self.patience = limits.patience or self.max_steps
        self.steps, self.idle = np.zeros(lanes, int), np.zeros(lanes, int)

    def begin(self, lanes: np.ndarray | int) -> None:
        """Episodes begin in these lanes."""
        self.steps[lanes], self.idle[lanes] = 0, 0

    def over(self, lanes: np.ndarray | int, rewards: np.ndarray | float) -> np.ndarray:
        """Count a step with `rewards` in these lanes; returns whether it is the last of each."""
        self.steps[lanes] += 1
        # It runs once per step of every environment: for one number a product costs a fraction of `np.where`.
        self.idle[lanes] = (self.idle[lanes] + 1) * (1 - (rewards > 0))
        return (self.steps[lanes] >= self.max_steps) | (self.idle[lanes] >= self.patience)
