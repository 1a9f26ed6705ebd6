"""Groups of lanes in turn: what an episode is does not depend on where, when or by what environments it is played."""

from pathlib import Path

import numpy as np
import pytest
from small_agent import PARAMS, controllers, small_agent

from wm_jax.rollouts.acting import Lanes, Played, ScriptedDriver, _in_turn
from wm_jax.rollouts.agent import AgentDriver
from wm_jax.rollouts.limits import Limits
from wm_jax.tasks import FRAME_SHAPE, load_task

POOL = str(Path(__file__).parent / "pool_task.py")
EPISODES = [(100 + i // 2, i % 2) for i in range(14)]
"""Two controllers meet the same seven episodes."""


@pytest.fixture(scope="module")
def driver() -> AgentDriver:
    return AgentDriver(small_agent(), PARAMS, controllers())


def played(driver: AgentDriver, lanes: int, episodes=EPISODES, backend: str | None = None) -> dict:
    """Rewards by (seed, controller)."""
    with Lanes(POOL, lanes, print, backend=backend) as opened:
        return {(episode.seed, episode.row): episode.rewards for episode in opened.play(driver, episodes)}


def test_an_episode_depends_on_its_seed_and_its_controller_alone(driver: AgentDriver) -> None:
    """To the bit, whichever lane of whichever group plays it, after whatever, as long as groups have the same size: the one
    group of two lanes, or two such groups; processes of their own, or a pool."""
    once = played(driver, 4)
    assert len({tuple(rewards) for rewards in once.values()}) == len(EPISODES), "episodes must differ to say something"
    assert len({len(rewards) for rewards in once.values()}) > 3, "some must end before others"
    assert played(driver, 4, EPISODES[::-1], "pool") == once
    assert played(driver, 3, EPISODES[5:] + EPISODES[:5], "pool") == once
    one = EPISODES[:1]
    assert played(driver, 4, one, "pool") == {one[0]: once[one[0]]}, "the other group has nothing to play"
    some = EPISODES[3:6]
    assert played(driver, 4, some, "pool") == {episode: once[episode] for episode in some}


@pytest.mark.parametrize("policy", ["random", "centre"])
def test_a_pool_plays_what_processes_play(policy: str) -> None:
    scripted = ScriptedDriver(load_task(POOL).policy(policy))
    found: list[list[Played]] = []
    for backend in ("probe", "pool"):
        with Lanes(POOL, 2, print, Limits(30), backend=backend) as lanes:
            found.append(lanes.play(scripted, EPISODES[::2], record=True))
    for ours, theirs in zip(*found, strict=True):
        assert (ours.seed, ours.rewards, ours.terminated) == (theirs.seed, theirs.rewards, theirs.terminated)
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        np.testing.assert_array_equal(ours.actions, theirs.actions)
    assert all(len(episode.rewards) == 30 and not episode.terminated for episode in found[0]) == (policy == "centre")


def test_one_group_steps_while_another_acts() -> None:
    log: list[str] = []

    class Logged:
        num_envs = 1

        def __init__(self, name: str):
            self.name = name

        def prepare(self, seeds) -> None:
            pass

        def begin(self, seeds) -> None:
            pass

        def begun(self) -> np.ndarray:
            return np.zeros((1, *FRAME_SHAPE), np.uint8)

        def act(self, actions) -> None:
            log.append(f"{self.name} begins to step")

        def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            log.append(f"{self.name} has stepped")
            return self.begun(), np.ones(1), np.zeros(1, bool), np.array([len(log) > 7])

        def close(self, *, terminate: bool) -> None:
            pass

    blind = ScriptedDriver(load_task(POOL).policy("random"))
    _in_turn([Logged("A"), Logged("B")], blind, [(1, 0), (2, 0)], False, lambda count: None)
    assert log[:4] == ["A begins to step", "B begins to step", "A has stepped", "A begins to step"]
    assert log[4:6] == ["B has stepped", "B begins to step"]
