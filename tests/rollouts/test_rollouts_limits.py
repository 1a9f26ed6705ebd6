"""Episodes that are cut off before the task does it."""

from collections.abc import Sequence

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.limits import Limits, Watch
from wm_jax.rollouts.pools import PoolEnvs
from wm_jax.tasks import FRAME_SHAPE, Task

REWARDS = [0.0, 1.0, -0.1, -0.1, 2.0, 0.0, -0.1, 0.0, 1.0, 1.0]


class Given(gymnasium.Env):
    """Brings the rewards of `REWARDS`, whatever is done."""

    observation_space = spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.zeros(FRAME_SHAPE, np.uint8), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.full(FRAME_SHAPE, self.steps, np.uint8), REWARDS[self.steps - 1], False, False, {}


class GivenPool:
    """The same as a pool."""

    def __init__(self, seeds: Sequence[int]):
        self.environments = [Given() for _ in seeds]

    def reset(self, episodes: np.ndarray) -> np.ndarray:
        return np.stack([self.environments[i].reset()[0] for i in episodes])

    def send(self, actions: np.ndarray, episodes: np.ndarray) -> None:
        self.sent = episodes

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        steps = [self.environments[i].step(np.zeros(1)) for i in self.sent]
        frames, rewards, terminated, truncated, _ = zip(*steps, strict=True)
        return np.stack(frames), np.array(rewards), np.array(terminated), np.array(truncated)


TASK = Task(
    name="given", action_size=1, max_steps=10, backends={"given": Given}, frame=lambda observation: observation,
    environment_action=lambda action: action, pools={"given": GivenPool},
    policies={"random": lambda generator, settings: lambda step, frame: np.zeros(1, np.float32)},
)  # fmt: skip

# Without a positive reward go by: one step at first, two after the first reward, three after the second.
CASES = [
    (Limits(), 10), (Limits(4), 4), (Limits(99), 10), (Limits(patience=1), 1), (Limits(patience=2), 4),
    (Limits(patience=3), 8), (Limits(patience=4), 10), (Limits(6, 3), 6), (Limits(9, 2), 4),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "length"), CASES)
def test_an_episode_is_truncated_where_its_limits_say(limits: Limits, length: int) -> None:
    environment = TaskEnv(TASK, TASK.make(), limits)
    for _ in range(2):
        environment.reset(0)
        ends = [environment.step(np.zeros(1, np.float32))[2:] for _ in range(length)]
        assert ends == [(False, False)] * (length - 1) + [(False, True)]


@pytest.mark.parametrize(("limits", "length"), CASES)
def test_a_pools_lanes_are_truncated_alike_each_for_itself(limits: Limits, length: int) -> None:
    group = PoolEnvs(TASK, "given", 2, limits)
    group.prepare([0, 1, 2])
    group.begin({0: 0})
    ends = np.full(2, -1)
    for step in range(1, 20):
        if step == 3:
            group.begin({1: 1})
        if group.over.all():
            continue
        group.act(np.zeros((2, 1), np.float32))
        _, _, terminated, truncated = group.acted()
        assert not (terminated & truncated).any()
        ends[truncated] = step
    assert ends.tolist() == [length, length + 2]


def test_lanes_that_do_not_step_are_not_counted() -> None:
    watch = Watch(TASK, Limits(patience=2), 3)
    watch.begin(np.arange(3))
    assert watch.over(np.array([0, 2]), np.array([1.0, 0.0])).tolist() == [False, False]
    assert watch.over(np.array([0, 2]), np.array([0.0, 0.0])).tolist() == [False, True]
    assert watch.over(np.array([1]), np.array([0.0])).tolist() == [False]
    watch.begin(np.array([2]))
    assert watch.over(np.arange(3), np.zeros(3)).tolist() == [True, True, False]
