"""Lanes whose environments step in threads of this process, by one call, for backends that support it
(`tasks.Pool`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wm_jax.rollouts.limits import WHOLE, Limits, Watch
from wm_jax.tasks import FRAME_SHAPE, Pool, Task
from wm_jax.tasks.calls import checked_frame, checked_rows, own, wrong


class PoolEnvs:
    """A group of `count` lanes of a task, each with one of a pool's episodes (`rollouts.acting.Group`).

    Episodes end by the rules of `rollouts.lanes.TaskEnv`.
    """

    def __init__(self, task: Task, backend: str, count: int, limits: Limits = WHOLE):
        self.num_envs, self.what = count, task.name_of(f"pools[{backend!r}]")
        self.make: Callable[[Sequence[int]], Pool] = own(self.what, task.pools[backend])
        self.task, self.frame = task, own(task.name_of("frame"), task.frame)
        self.taken = own(task.name_of("environment_action"), task.environment_action)
        self.watch = Watch(task, limits, count)
        self.frames = np.zeros((count, *FRAME_SHAPE), np.uint8)
        self.episodes = np.zeros(count, np.int32)
        """[B]: the pool's episode in each lane."""
        self.over = np.ones(count, bool)

    def prepare(self, seeds: Sequence[int]) -> None:
        """Prepare episodes with these seeds, which will begin in this order."""
        pool, self.next_episode = self.make(seeds), 0
        names = ("reset", "send", "recv")
        self.reset, self.send, self.recv = (own(f"{self.what}.{name}", getattr(pool, name)) for name in names)
        self.over[:] = True

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Begin the next episodes in line in these lanes, while the other lanes wait."""
        lanes = np.array(list(seeds))
        self.episodes[lanes] = self.next_episode + np.arange(len(lanes))
        self.next_episode += len(lanes)
        self.watch.begin(lanes)
        self.over[lanes] = False
        self._see("reset", lanes, np.ones(len(lanes), bool), self.reset(self.episodes[lanes]))

    def begun(self) -> np.ndarray:
        """The frames [B, 64, 64, 3] of all lanes."""
        return self.frames.copy()

    def act(self, actions: np.ndarray) -> None:
        """Step all lanes that have an episode with their actions [B, A]; `acted` waits for them."""
        self.stepping = np.flatnonzero(~self.over)
        taken = [self.taken(actions[lane]) for lane in self.stepping]
        self.send(np.stack(taken), self.episodes[self.stepping])

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(frames [B, 64, 64, 3], rewards [B], terminated [B], truncated [B]); a lane without an episode counts as
        terminated."""
        lanes, what, outcome = self.stepping, f"{self.what}.recv", self.recv()
        if not isinstance(outcome, tuple) or len(outcome) != 4:
            wrong(what, "(observations, rewards, terminated, truncated)", outcome)
        earned = checked_rows(what, "rewards", outcome[1], len(lanes), "fiu")
        ended, cut_off = (
            checked_rows(what, name, flags, len(lanes), "b")
            for name, flags in zip(("terminated", "truncated"), outcome[2:], strict=True)
        )
        rewards, terminated, truncated = (
            np.zeros(self.num_envs),
            np.ones(self.num_envs, bool),
            np.zeros(self.num_envs, bool),
        )
        rewards[lanes] = earned
        truncated[lanes] = cut_off | self.watch.over(lanes, earned)
        terminated[lanes] = ended & ~truncated[lanes]
        self.over = terminated | truncated
        self._see("recv", lanes, ~self.over[lanes], outcome[0])
        return self.frames.copy(), rewards, terminated, truncated

    def _see(self, function: str, lanes: np.ndarray, going_on: np.ndarray, observations: Any) -> None:
        """Read the frames of these lanes [n] whose episodes are `going_on` [n]."""
        if len(observations) != len(lanes):
            expected = f"an observation for each of {len(lanes)} episodes"
            wrong(f"{self.what}.{function}", expected, observations)
        for place in np.flatnonzero(going_on).tolist():
            self.frames[lanes[place]] = checked_frame(self.task, self.frame(observations[place]))

    def close(self, *, terminate: bool) -> None:
        """Nothing to do: a pool ends with the last reference to it."""
