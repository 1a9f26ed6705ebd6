"""Lanes: many actual environments side by side, each in a process of its own, frames out and actions in."""

import contextlib
import multiprocessing
import os
import signal
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from wm_jax.tasks import FRAME_SHAPE, Task, load_task


class TaskEnv(gymnasium.Env):
    """A task's actual environment as V and C meet it: frames [64, 64, 3] uint8 out, actions [A] in [-1, 1] in.

    After an episode's end it stands still: a lane without an episode costs nothing.
    """

    def __init__(self, task: Task, backend: str | None = None, max_steps: int | None = None):
        self.task = task
        self.environment = task.make(backend)
        self.max_steps = min(task.max_steps, max_steps or task.max_steps)
        self.observation_space = spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (task.action_size,), np.float32)
        self.over = True
        self.steps = 0
        self.last_frame = np.zeros(FRAME_SHAPE, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin the episode of `seed`."""
        super().reset(seed=seed)
        observation, _ = self.environment.reset(seed=seed)
        self.over, self.steps = False, 0
        self.last_frame = self.task.frame(observation)
        return self.last_frame, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step; reward in the task's own units. The frame of a terminal step is the last one that was seen."""
        if self.over:
            return self.last_frame, 0.0, True, False, {}
        observation, reward, terminated, truncated, _ = self.environment.step(self.task.environment_action(action))
        self.steps += 1
        truncated = bool(truncated or self.steps >= self.max_steps)
        terminated = bool(terminated) and not truncated
        self.over = terminated or truncated
        if not terminated:
            self.last_frame = self.task.frame(observation)
        return self.last_frame, float(reward), terminated, truncated, {}

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()


def _make(task_name: str, backend: str | None, max_steps: int | None) -> TaskEnv:
    # A session of its own: a Ctrl-C at the terminal is the parent's to handle, and the worker can be killed together
    # with the game that it may have started.
    if multiprocessing.parent_process() is not None:
        os.setsid()
    return TaskEnv(load_task(task_name), backend, max_steps)


def open_lanes(task_name: str, count: int, backend: str | None = None, max_steps: int | None = None) -> AsyncVectorEnv:
    """`count` environments of the task, each in its own process; episodes begin only when asked for."""
    make = partial(_make, task_name, backend, max_steps)
    return AsyncVectorEnv([make] * count, context="spawn", autoreset_mode=AutoresetMode.DISABLED)


def close_lanes(environments: AsyncVectorEnv, broken: bool) -> None:
    """End all workers: let them close their environments, or, where one is `broken`, kill them with what they started."""
    if not broken:
        environments.close()
    for pid in [process.pid for process in environments.processes if process.pid is not None]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    if broken:
        environments.close(terminate=True)
