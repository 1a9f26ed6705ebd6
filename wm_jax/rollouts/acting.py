"""Episodes in the actual environment, many lanes in lockstep, driven by anything that maps frames to actions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from wm_jax.errors import UserError
from wm_jax.rollouts.lanes import LaneEnvs, WorkerDied
from wm_jax.tasks import ScriptedPolicy
from wm_jax.tasks.task import Act

ATTEMPTS = 3
"""Times a block of episodes is begun again after a worker died, before giving up."""


Tick = Callable[[int], None]


class Driver(Protocol):
    """What acts: `rollouts.agent.AgentDriver`, or `ScriptedDriver` without eyes."""

    def open(self, lanes: int) -> None:
        """Make room for `lanes` lanes."""
        ...

    def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
        """Begin lane → (environment seed, row of the controller)."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [B, A] for frames [B, 64, 64, 3]."""
        ...


class ScriptedDriver:
    """A task's scripted policy, drawn anew for every episode from the episode's seed."""

    def __init__(self, policy: ScriptedPolicy):
        self.policy = policy

    def open(self, lanes: int) -> None:
        """Make room for `lanes` lanes."""
        self.acts: list[Act] = [self.policy(np.random.default_rng(0)) for _ in range(lanes)]
        self.steps = [0] * lanes

    def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
        """Begin lane → (environment seed, row, which is ignored)."""
        for lane, (seed, _) in episodes.items():
            self.acts[lane], self.steps[lane] = self.policy(np.random.default_rng([seed, 1])), 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [B, A] for frames [B, 64, 64, 3]."""
        actions = [act(step, frame) for act, step, frame in zip(self.acts, self.steps, frames, strict=True)]
        self.steps = [step + 1 for step in self.steps]
        return np.stack(actions).astype(np.float32)


@dataclass
class Played:
    """One episode as it was played; frames and actions only where they were asked for."""

    seed: int
    row: int
    rewards: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    terminated: bool = False


class Lanes:
    """Lanes that are opened at the first block of episodes and stay open over many; a worker that dies is named and all
    lanes are replaced."""

    def __init__(self, task_name: str, count: int, warn: Callable[[str], None], max_steps: int | None = None):
        self.task_name, self.count, self.warn, self.max_steps = task_name, count, warn, max_steps
        self.environments: LaneEnvs | None = None

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close(broken=kind is not None)

    def play(
        self,
        driver: Driver,
        episodes: Sequence[tuple[int, int]],
        record: bool = False,
        tick: Tick = lambda finished: None,
    ) -> list[Played]:
        """Play episodes (environment seed, row of the controller), in order. The result depends on nothing but the driver,
        the episodes and the number of lanes. `tick` is told after every step how many episodes are finished; what it
        raises ends the play. Raises `UserError` where a worker does, or where workers die or fail again and again."""
        message = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self.environments is None:
                    self.environments = LaneEnvs(self.task_name, self.count, self.max_steps)
                return _lockstep(self.environments, driver, episodes, record, tick)
            except WorkerDied as death:
                message = f"{death} while playing {self.task_name}"
                self._close(broken=True)
                if attempt < ATTEMPTS:
                    self.warn(f"{message}; replaced, its episodes begin again")
        raise UserError(
            f"{message}; the same episodes (seeds {episodes[0][0]} to {episodes[-1][0]}) were tried {ATTEMPTS} times and "
            "are given up; check memory and the environment's installation"
        )

    def _close(self, broken: bool) -> None:
        if self.environments is not None:
            self.environments.close(terminate=broken)
            self.environments = None


def _lockstep(
    environments: LaneEnvs, driver: Driver, episodes: Sequence[tuple[int, int]], record: bool, tick: Tick
) -> list[Played]:
    """All episodes: every lane takes the next one in line when its own is over."""
    lanes = environments.num_envs
    driver.open(lanes)
    played = [Played(seed, row) for seed, row in episodes]
    waiting = iter(played)
    current: list[Played | None] = [None] * lanes
    over = np.ones(lanes, bool)
    finished = 0
    frames = np.zeros(environments.observation_space.shape or (), np.uint8)
    while True:
        free = np.flatnonzero(over).tolist()
        begun = dict(zip(free, waiting, strict=False))
        for lane in free:
            current[lane] = begun.get(lane)
        if begun:
            mask = np.isin(np.arange(lanes), list(begun))
            seeds = [begun[lane].seed if lane in begun else None for lane in range(lanes)]
            frames = environments.reset(seed=seeds, options={"reset_mask": mask})[0]
            driver.begin({lane: (episode.seed, episode.row) for lane, episode in begun.items()})
        if not any(current):
            return played
        actions = driver(frames)
        following, rewards, terminated, truncated, _ = environments.step(actions)
        for lane, episode in enumerate(current):
            if episode is not None:
                episode.rewards.append(float(rewards[lane]))
                episode.terminated = bool(terminated[lane])
                if record:
                    episode.frames.append(frames[lane].copy())
                    episode.actions.append(actions[lane].copy())
        over = np.logical_or(terminated, truncated)
        finished += sum(episode is not None and ended for episode, ended in zip(current, over.tolist(), strict=True))
        tick(finished)
        frames = following
