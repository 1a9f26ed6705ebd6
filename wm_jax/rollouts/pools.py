"""Lanes whose environments one call steps, in threads of this process, for backends that can (`tasks.Pool`)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from wm_jax.rollouts.limits import WHOLE, Limits, Watch
from wm_jax.tasks import FRAME_SHAPE, Pool, Task


class PoolEnvs:
    """A group of `count` lanes of a task, each at one of a pool's episodes (`rollouts.acting.Group`).

    Episodes end as `rollouts.lanes.TaskEnv` has it.
    """

    def __init__(self, task: Task, make: Callable[[Sequence[int]], Pool], count: int, limits: Limits = WHOLE):
        self.task, self.make, self.num_envs = task, make, count
        self.watch = Watch(task, limits, count)
        self.frames = np.zeros((count, *FRAME_SHAPE), np.uint8)
        self.episodes = np.zeros(count, np.int32)
        """[B]: which of the pool's each lane is at."""
        self.over = np.ones(count, bool)

    def prepare(self, seeds: Sequence[int]) -> None:
        """Get ready for episodes of these seeds, which will begin in this order."""
        self.pool, self.next_episode = self.make(seeds), 0
        self.over[:] = True

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Begin the next episodes in line in these lanes, while the others stand still."""
        lanes = np.array(list(seeds))
        self.episodes[lanes] = self.next_episode + np.arange(len(lanes))
        self.next_episode += len(lanes)
        self.watch.begin(lanes)
        self.over[lanes] = False
        self._see(lanes, self.pool.reset(self.episodes[lanes]))

    def begun(self) -> np.ndarray:
        """The frames [B, 64, 64, 3] of all lanes."""
        return self.frames.copy()

    def act(self, actions: np.ndarray) -> None:
        """Have all lanes that are at an episode take a step with their actions [B, A]; `acted` waits for them."""
        self.stepping = np.flatnonzero(~self.over)
        taken = [self.task.environment_action(actions[lane]) for lane in self.stepping]
        self.pool.send(np.stack(taken), self.episodes[self.stepping])

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(frames [B, 64, 64, 3], rewards [B], terminated [B], truncated [B]); a lane without an episode is terminated."""
        lanes = self.stepping
        observations, earned, ended, cut_off = self.pool.recv()
        rewards, terminated, truncated = (
            np.zeros(self.num_envs),
            np.ones(self.num_envs, bool),
            np.zeros(self.num_envs, bool),
        )
        rewards[lanes] = earned
        truncated[lanes] = cut_off | self.watch.over(lanes, earned)
        terminated[lanes] = ended & ~truncated[lanes]
        self.over = terminated | truncated
        going_on = ~self.over[lanes]
        self._see(lanes[going_on], observations[going_on])
        return self.frames.copy(), rewards, terminated, truncated

    def _see(self, lanes: np.ndarray, observations: np.ndarray) -> None:
        for lane, observation in zip(lanes, observations, strict=True):
            self.frames[lane] = self.task.frame(observation)

    def close(self, *, terminate: bool) -> None:
        """Nothing: a pool ends with the last reference to it."""
