"""Lanes: many actual environments side by side in processes of their own, frames out and actions in."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from wm_jax.errors import UserError
from wm_jax.rollouts.limits import WHOLE, Limits, Watch
from wm_jax.rollouts.workers import keep_freed_memory, usable_cores
from wm_jax.tasks import FRAME_SHAPE, Task, load_task

GRACE_SECONDS = 3.0
"""How long workers may take to close their environments, or to be gone once their connection is."""


class WorkerDied(Exception):
    """Says which worker died or failed, and how."""


class TaskEnv:
    """A task's actual environment as V and C meet it: frames [64, 64, 3] uint8 out, actions [A] in [-1, 1] in.

    This is where it is said when an episode ends: the environment terminates it, or it is truncated, by the environment's
    own limit or by `limits`. Where both come at once it is truncated.
    """

    def __init__(self, task: Task, environment: gymnasium.Env, limits: Limits = WHOLE):
        """`environment`: a bare one, as `task.make` gives it."""
        self.task, self.environment, self.watch = task, environment, Watch(task, limits, 1)

    def reset(self, seed: int | None) -> np.ndarray:
        """Begin the episode of `seed`; returns its first frame."""
        observation, _ = self.environment.reset(seed=seed)
        self.watch.begin(0)
        self.frame = self.task.frame(observation)
        return self.frame

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """(frame, reward in the task's own units, terminated, truncated). What follows an episode's last action is never
        seen: the frame is then the one before it."""
        observation, reward, terminated, truncated, _ = self.environment.step(self.task.environment_action(action))
        truncated = bool(self.watch.over(0, float(reward)) or truncated)
        terminated = bool(terminated) and not truncated
        if not (terminated or truncated):
            self.frame = self.task.frame(observation)
        return self.frame, float(reward), terminated, truncated

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()


class WorkerLanes(gymnasium.Env):
    """The lanes of one worker process, with Gymnasium's face; a lane's `TaskEnv` is made when its first episode begins.

    A lane without an episode stands still and costs nothing. What goes wrong is told in the info, not raised: Gymnasium
    would print it, and cannot hand over an exception that a task's file defines.
    """

    def __init__(self, task: Task, lanes: int, backend: str | None, limits: Limits):
        self.make = lambda: TaskEnv(task, task.make(backend), limits)
        self.observation_space = spaces.Dict(
            {
                "frames": spaces.Box(0, 255, (lanes, *FRAME_SHAPE), np.uint8),
                "rewards": spaces.Box(-np.inf, np.inf, (lanes,), np.float64),
                "terminated": spaces.MultiBinary(lanes),
                "truncated": spaces.MultiBinary(lanes),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (lanes, task.action_size), np.float32)
        self.environments: list[TaskEnv | None] = [None] * lanes
        self.frames = np.zeros((lanes, *FRAME_SHAPE), np.uint8)
        self.rewards = np.zeros(lanes)
        self.terminated, self.truncated = np.ones(lanes, bool), np.zeros(lanes, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Begin the episodes of `seed`, a list of one for each lane; where that is None, a lane stays as it is."""
        return self._see(self._begin, seed or ())

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """One step of every episode: what came of each is in the observation."""
        observation, info = self._see(self._step, action)
        return observation, 0.0, False, False, info

    def _begin(self, lane: int, seed: int | None) -> None:
        if seed is None:
            return
        environment = self.environments[lane] = self.environments[lane] or self.make()
        self.frames[lane] = environment.reset(seed)
        self.terminated[lane] = self.truncated[lane] = False

    def _step(self, lane: int, action: np.ndarray) -> None:
        environment = self.environments[lane]
        if environment is None or self.terminated[lane] or self.truncated[lane]:
            self.rewards[lane], self.terminated[lane], self.truncated[lane] = 0.0, True, False
            return
        self.frames[lane], self.rewards[lane], self.terminated[lane], self.truncated[lane] = environment.step(action)

    def _see(
        self, do: Callable[[int, Any], None], orders: Iterable[Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Follow each lane's order; returns what is to be seen then, and what there is to tell."""
        info = {}
        try:
            for lane, order in enumerate(orders):
                do(lane, order)
        except Exception as error:
            info = _told(error)
        observation = {"frames": self.frames, "rewards": self.rewards}
        return observation | {"terminated": self.terminated, "truncated": self.truncated}, info

    def close(self) -> None:
        """Close the environments; the process ends with them, so that what they complain of does not matter."""
        for environment in filter(None, self.environments):
            with contextlib.suppress(Exception):
                environment.close()


def _told(error: Exception) -> dict[str, str]:
    """What the parent is told of an error in a worker."""
    if isinstance(error, UserError):
        return {"user_error": str(error)}
    place = traceback.extract_tb(error.__traceback__)[-1]
    return {"failure": f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"}


def _make(task_name: str, lanes: int, backend: str | None, limits: Limits) -> WorkerLanes:
    if multiprocessing.parent_process() is not None:
        # A session of its own: a Ctrl-C at the terminal is the parent's to handle, and the worker can be killed together
        # with the games that it may have started.
        os.setsid()
        _keep_connections()
        keep_freed_memory()
    return WorkerLanes(load_task(task_name), lanes, backend, limits)


def _keep_connections() -> None:
    """A game must not inherit the worker's end of the connection: the parent would wait for a dead worker for ever."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            # One of them is the listing's own, closed by now.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


class LaneEnvs:
    """A group of `count` lanes of a task, shared out over a process for each core, which only this group uses
    (`rollouts.acting.Group`): a process for each lane would spend most of its time on taking turns with the others.

    Raises `WorkerDied` where a process ends or its environment raises anything but a `UserError`, which is passed on.
    """

    def __init__(self, task_name: str, count: int, limits: Limits = WHOLE, backend: str | None = None):
        self.num_envs = count
        self.share = -(-count // usable_cores())
        """Lanes of a worker; some of the last one's may be left without episodes."""
        self.workers = Workers(-(-count // self.share), partial(_make, task_name, self.share, backend, limits))

    def prepare(self, seeds: Sequence[int]) -> None:
        """Nothing: a lane's environment is made when its first episode begins."""

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Have lanes begin episodes, lane → seed, while the others stand still; `begun` waits for them."""
        orders = [seeds.get(lane) for lane in range(self.workers.num_envs * self.share)]
        shares = [orders[lane : lane + self.share] for lane in range(0, len(orders), self.share)]
        self._guard(partial(self.workers.reset_async, cast(Any, shares)))

    def begun(self) -> np.ndarray:
        """The frames [B, 64, 64, 3] of all lanes."""
        seen, info = self._guard(self.workers.reset_wait)
        self._check_told(info)
        return self._lanes(seen["frames"])

    def act(self, actions: np.ndarray) -> None:
        """Have all lanes take a step with their actions [B, A]; `acted` waits for them."""
        orders = np.zeros(self.workers.action_space.shape or (), np.float32)
        self._lanes(orders)[:] = actions
        self._guard(partial(self.workers.step_async, orders))

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(frames [B, 64, 64, 3], rewards [B], terminated [B], truncated [B]); a lane without an episode is terminated."""
        seen, _, _, _, info = self._guard(self.workers.step_wait)
        self._check_told(info)
        flags = self._lanes(seen["terminated"]).astype(bool), self._lanes(seen["truncated"]).astype(bool)
        return self._lanes(seen["frames"]), self._lanes(seen["rewards"]), *flags

    def _lanes(self, of_workers: np.ndarray) -> np.ndarray:
        """[workers, share, ...] to [B, ...]."""
        return of_workers.reshape(-1, *of_workers.shape[2:])[: self.num_envs]

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (EOFError, OSError):
            raise self._death() from None

    def _check_told(self, info: dict[str, Any]) -> None:
        """Raise what workers have told of."""
        for message in filter(None, info.get("user_error", ())):
            raise UserError(message)
        for worker, message in enumerate(info.get("failure", ())):
            if message:
                raise WorkerDied(f"worker {worker} (pid {self.workers.processes[worker].pid}) failed with {message}")

    def _death(self) -> WorkerDied:
        """Of the worker that has broken its connection; it may not be quite gone yet."""
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end:
            for worker, process in enumerate(self.workers.processes):
                if not process.is_alive():
                    return WorkerDied(f"worker {worker} (pid {process.pid}) died with exit code {process.exitcode}")
            time.sleep(0.01)
        return WorkerDied("a worker broke its connection")

    def close(self, *, terminate: bool) -> None:
        """End the workers; with `terminate` at once."""
        self.workers.close(terminate=terminate)


class Workers(AsyncVectorEnv):
    """`count` processes, each with what `make` gives; ended whatever they are at."""

    def __init__(self, count: int, make: Callable[[], WorkerLanes]):
        # Gymnasium's shared memory is gone for workers that are still starting when this returns.
        super().__init__([make] * count, context="spawn", shared_memory=False, autoreset_mode=AutoresetMode.DISABLED)

    def _check_spaces(self) -> None:
        """Nothing: workers are made alike, and to ask them would be to wait here until all have started."""

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
