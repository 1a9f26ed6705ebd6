"""Lanes: many actual environments side by side in worker processes; frames out, actions in."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from wm_jax.rollouts.limits import WHOLE, Limits, Watch
from wm_jax.rollouts.workers import Worker, end_all, serve, usable_cores
from wm_jax.tasks import FRAME_SHAPE, Task, load_task
from wm_jax.tasks.calls import checked_flag, checked_frame, checked_reward, own, wrong


class TaskEnv:
    """A task's actual environment in the form that V and C use: frames [64, 64, 3] uint8 out, actions [A] in [-1, 1]
    in.

    It defines the end of an episode: the environment terminates it, or it is truncated, by the environment's own limit
    or by `limits`. If both happen in one step it counts as truncated. Every step checks all values returned by the
    environment and the task's functions; an error names the function.
    """

    def __init__(self, task: Task, environment: gymnasium.Env, limits: Limits = WHOLE):
        """`environment`: a bare environment from `task.make`."""
        self.task, self.environment, self.watch = task, environment, Watch(task, limits, 1)
        self._reset = own(task.name_of("reset"), environment.reset)
        self._step = own(task.name_of("step"), environment.step)
        self._frame = own(task.name_of("frame"), task.frame)
        self._taken = own(task.name_of("environment_action"), task.environment_action)
        self.close = own(task.name_of("close"), environment.close)
        """Close the environment."""

    def reset(self, seed: int | None) -> np.ndarray:
        """Begin the episode of `seed`; returns its first frame."""
        begun = self._reset(seed=seed)
        if not isinstance(begun, tuple) or len(begun) != 2:
            wrong(self.task.name_of("reset"), "(observation, info)", begun)
        self.watch.begin(0)
        self.frame = checked_frame(self.task, self._frame(begun[0]))
        return self.frame

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """(frame, reward in the task's own units, terminated, truncated). At the end of an episode the frame is the
        previous one: the observation after the last action is never used."""
        outcome = self._step(self._taken(action))
        if not isinstance(outcome, tuple) or len(outcome) != 5:
            wrong(self.task.name_of("step"), "(observation, reward, terminated, truncated, info)", outcome)
        reward = checked_reward(self.task, outcome[1])
        cut_off = checked_flag(self.task, "truncated", outcome[3])
        truncated = bool(self.watch.over(0, reward)) or cut_off
        terminated = checked_flag(self.task, "terminated", outcome[2]) and not truncated
        if not (terminated or truncated):
            self.frame = checked_frame(self.task, self._frame(outcome[0]))
        return self.frame, reward, terminated, truncated


def work() -> None:
    """The main function of a worker process for some of the lanes."""
    serve(_prepare)


def _prepare(
    settings: dict[str, Any], tell: Callable[[Any], None]
) -> Callable[[dict[str, Any]], dict[str, np.ndarray]]:
    """`settings` has task, backend and limits. A lane's environment is made when its first episode begins."""
    task, limits, environments = load_task(settings["task"]), Limits(**settings["limits"]), dict[int, TaskEnv]()

    def begin(lane: int, seed: int) -> np.ndarray:
        if lane not in environments:
            environments[lane] = TaskEnv(task, task.make(settings["backend"]), limits)
            atexit.register(environments[lane].close)
        return environments[lane].reset(seed)

    def answer(order: dict[str, Any]) -> dict[str, np.ndarray]:
        lanes = order["lanes"]
        if "seeds" in order:
            return {"frames": np.stack(list(map(begin, lanes, order["seeds"].tolist())))}
        # A task may write to its action, but the received array is read-only.
        steps = [environments[lane].step(action) for lane, action in zip(lanes, order["actions"].copy(), strict=True)]
        return {"frames": np.stack([step[0] for step in steps]), "outcomes": np.array([step[1:] for step in steps])}

    return answer


class LaneEnvs:
    """A group of `count` lanes of a task, distributed over one process per core, which only this group uses
    (`rollouts.acting.Group`). A process per lane would spend most of its time on context switches. A process starts
    when the first episode of one of its lanes begins.

    Raises `WorkerDied` if a process died, and re-raises errors from processes.
    """

    def __init__(self, task_name: str, count: int, limits: Limits = WHOLE, backend: str | None = None):
        self.num_envs, self.processes = count, min(count, usable_cores())
        self.settings = {"task": task_name, "backend": backend, "limits": vars(limits)}
        self.workers: dict[int, Worker] = {}
        """By number: worker i modulo `processes` has lane i, so that even a few episodes use all cores."""
        self.frames = np.zeros((count, *FRAME_SHAPE), np.uint8)
        self.over = np.ones(count, bool)

    def prepare(self, seeds: Sequence[int]) -> None:
        """Nothing to do: a lane's environment is made when its first episode begins."""

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Begin episodes, lane → seed, while the other lanes wait; `begun` waits for them."""
        lanes = np.array(list(seeds))
        self.over[lanes] = False
        self._ask(lanes, seeds=np.array(list(seeds.values())))

    def begun(self) -> np.ndarray:
        """The frames [B, 64, 64, 3] of all lanes."""
        self._hear()
        return self.frames.copy()

    def act(self, actions: np.ndarray) -> None:
        """Step all lanes that have an episode with their actions [B, A]; `acted` waits for them."""
        lanes = np.flatnonzero(~self.over)
        self._ask(lanes, actions=actions[lanes])

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(frames [B, 64, 64, 3], rewards [B], terminated [B], truncated [B]); a lane without an episode counts as
        terminated."""
        outcomes = np.zeros((self.num_envs, 3))
        outcomes[:, 1] = 1
        for lanes, answer in self._hear():
            outcomes[lanes] = answer["outcomes"]
        rewards, terminated, truncated = outcomes[:, 0], outcomes[:, 1] > 0, outcomes[:, 2] > 0
        self.over = terminated | truncated
        return self.frames.copy(), rewards, terminated, truncated

    def _ask(self, lanes: np.ndarray, **orders: np.ndarray) -> None:
        """Send each of these lanes [n] its order [n, ...]."""
        self.asked: list[tuple[Worker, np.ndarray]] = []
        for number in range(self.processes):
            mine = lanes % self.processes == number
            if not mine.any():
                continue
            if number not in self.workers:
                self.workers[number] = Worker("wm_jax.rollouts.lanes:work", self.settings)
            theirs = {name: order[mine] for name, order in orders.items()}
            self.workers[number].send({"lanes": lanes[mine].tolist(), **theirs})
            self.asked.append((self.workers[number], lanes[mine]))

    def _hear(self) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(lanes [n], answer) of each worker that was asked; updates `frames`."""
        answers = [(lanes, worker.answer()) for worker, lanes in self.asked]
        for lanes, answer in answers:
            self.frames[lanes] = answer["frames"]
        return answers

    def close(self, *, terminate: bool) -> None:
        """End the workers; with `terminate`, immediately."""
        end_all(self.workers.values(), terminate)
        self.workers.clear()
