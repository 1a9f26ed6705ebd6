"""Lanes: many actual environments side by side, each in a process of its own, frames out and actions in."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from wm_jax.errors import UserError
from wm_jax.tasks import FRAME_SHAPE, Task, load_task

GRACE_SECONDS = 3.0
"""How long workers may take to close their environments, or to be gone once their connection is."""


class WorkerDied(Exception):
    """Says which worker of a lane died or failed, and how."""


class TaskEnv:
    """A task's actual environment as V and C meet it: frames [64, 64, 3] uint8 out, actions [A] in [-1, 1] in.

    This is where it is said when an episode ends: the environment terminates it, or it is truncated, by the environment's
    own limit or after `max_steps` (at most the task's). Where both come at once it is truncated.
    """

    def __init__(self, task: Task, environment: gymnasium.Env, max_steps: int | None = None):
        """`environment`: a bare one, as `task.make` gives it."""
        self.task, self.environment = task, environment
        self.max_steps = min(task.max_steps, max_steps or task.max_steps)

    def reset(self, seed: int | None) -> np.ndarray:
        """Begin the episode of `seed`; returns its first frame."""
        observation, _ = self.environment.reset(seed=seed)
        self.steps = 0
        self.frame = self.task.frame(observation)
        return self.frame

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """(frame, reward in the task's own units, terminated, truncated). What follows an episode's last action is never
        seen: the frame is then the one before it."""
        observation, reward, terminated, truncated, _ = self.environment.step(self.task.environment_action(action))
        self.steps += 1
        truncated = bool(truncated or self.steps >= self.max_steps)
        terminated = bool(terminated) and not truncated
        if not (terminated or truncated):
            self.frame = self.task.frame(observation)
        return self.frame, float(reward), terminated, truncated

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()


class Lane(gymnasium.Env):
    """A `TaskEnv` in a worker process, with Gymnasium's face; made when its first episode begins.

    Without an episode it stands still and costs nothing. What goes wrong is told in the info, not raised: Gymnasium
    would print it, and cannot hand over an exception that a task's file defines.
    """

    def __init__(self, task: Task, backend: str | None, max_steps: int | None):
        self.task, self.backend, self.max_steps = task, backend, max_steps
        self.observation_space = spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (task.action_size,), np.float32)
        self.environment: TaskEnv | None = None
        self.frame = np.zeros(FRAME_SHAPE, np.uint8)
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin the episode of `seed`; without one, stand still."""
        if seed is None:
            return self.frame, {}
        try:
            if self.environment is None:
                self.environment = TaskEnv(self.task, self.task.make(self.backend), self.max_steps)
            self.frame[...] = self.environment.reset(seed)
        except Exception as error:
            return self.frame, _told(error)
        self.over = False
        return self.frame, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step of the episode."""
        if self.over or self.environment is None:
            return self.frame, 0.0, True, False, {}
        try:
            frame, reward, terminated, truncated = self.environment.step(action)
            self.frame[...] = frame
        except Exception as error:
            return self.frame, 0.0, True, False, _told(error)
        self.over = terminated or truncated
        return self.frame, reward, terminated, truncated, {}

    def close(self) -> None:
        """Close the environment; the process ends with it, so that what it complains of does not matter."""
        if self.environment is not None:
            with contextlib.suppress(Exception):
                self.environment.close()


def _told(error: Exception) -> dict[str, str]:
    """What the parent is told of an error in a worker."""
    if isinstance(error, UserError):
        return {"user_error": str(error)}
    place = traceback.extract_tb(error.__traceback__)[-1]
    return {"failure": f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"}


def _make(task_name: str, backend: str | None, max_steps: int | None) -> Lane:
    if multiprocessing.parent_process() is not None:
        # A session of its own: a Ctrl-C at the terminal is the parent's to handle, and the worker can be killed together
        # with the game that it may have started.
        os.setsid()
        _keep_connections()
    return Lane(load_task(task_name), backend, max_steps)


def _keep_connections() -> None:
    """A game must not inherit the worker's end of the connection: the parent would wait for a dead worker for ever."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            # One of them is the listing's own, closed by now.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


class LaneEnvs(AsyncVectorEnv):
    """A group of `count` lanes of a task, each in its own process (`rollouts.acting.Group`).

    Raises `WorkerDied` where a process ends or its environment raises anything but a `UserError`, which is passed on.
    """

    def __init__(self, task_name: str, count: int, max_steps: int | None = None, backend: str | None = None):
        make = partial(_make, task_name, backend, max_steps)
        # Gymnasium's shared memory is gone for workers that are still starting when this returns.
        super().__init__([make] * count, context="spawn", shared_memory=False, autoreset_mode=AutoresetMode.DISABLED)

    def _check_spaces(self) -> None:
        """Nothing: lanes are made alike, and to ask them would be to wait here until all have started."""

    def prepare(self, seeds: Sequence[int]) -> None:
        """Nothing: a lane's environment is made when its first episode begins."""

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Have lanes begin episodes, lane → seed, while the others stand still; `begun` waits for them."""
        self._guard(partial(self.reset_async, [seeds.get(lane) for lane in range(self.num_envs)]))

    def begun(self) -> np.ndarray:
        """The frames [B, 64, 64, 3] of all lanes."""
        frames, info = self._guard(self.reset_wait)
        self._check_told(info)
        return frames

    def act(self, actions: np.ndarray) -> None:
        """Have all lanes take a step with their actions [B, A]; `acted` waits for them."""
        self._guard(partial(self.step_async, actions))

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(frames [B, 64, 64, 3], rewards [B], terminated [B], truncated [B])."""
        frames, rewards, terminated, truncated, info = self._guard(self.step_wait)
        self._check_told(info)
        return frames, rewards, terminated, truncated

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (EOFError, OSError):
            raise self._death() from None

    def _check_told(self, info: dict[str, Any]) -> None:
        """Raise what workers have told of."""
        for message in filter(None, info.get("user_error", ())):
            raise UserError(message)
        for lane, message in enumerate(info.get("failure", ())):
            if message:
                raise WorkerDied(f"worker {lane} (pid {self.processes[lane].pid}) failed with {message}")

    def _death(self) -> WorkerDied:
        """Of the worker that has broken its connection; it may not be quite gone yet."""
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end:
            for lane, process in enumerate(self.processes):
                if not process.is_alive():
                    return WorkerDied(f"worker {lane} (pid {process.pid}) died with exit code {process.exitcode}")
            time.sleep(0.01)
        return WorkerDied("a worker broke its connection")

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End all workers: let them close their environments, or, with `terminate`, kill them with what they started.

        Gymnasium's own would wait for, and read from, workers that are dead or in the middle of a step.
        """
        started = [(process, process.pid) for process in self.processes if process.pid is not None]
        if not terminate:
            for pipe in self.parent_pipes:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
            end = time.monotonic() + (GRACE_SECONDS if timeout is None else timeout)
            for process, _ in started:
                wait([process.sentinel], max(0.0, end - time.monotonic()))
        for process, pid in started:
            # A worker that has only just been started has no session of its own yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            process.kill()
        for process, _ in started:
            process.join()
        for pipe in self.parent_pipes:
            pipe.close()
        self.error_queue.close()
