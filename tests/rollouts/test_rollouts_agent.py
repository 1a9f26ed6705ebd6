"""V, M and C in the actual environment do exactly what they do in the dream, and lanes do not disturb each other."""

from functools import partial
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.controller import Controller, PolicyConfig
from wm_jax.dream import Dream, DreamConfig
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.rollouts.acting import Lanes, Played, ScriptedCrew, ScriptedDriver
from wm_jax.rollouts.agent import Agent, AgentDriver, AgentParams, Exploration, act, begin, initial_state
from wm_jax.rollouts.evaluate import BLOCK, returns, summary
from wm_jax.tasks import load_task
from wm_jax.types import Features, Latents, LatentStats
from wm_jax.vision import Vision, VisionConfig

PROBE = str(Path(__file__).parent.parent / "probe_task.py")
SEEDS = [(100 + i, 0) for i in range(BLOCK + 3)]


@pytest.fixture(scope="module")
def agent() -> tuple[Agent, AgentParams, np.ndarray]:
    vision = Vision(VisionConfig(latent_size=4, width=4))
    memory = Memory(MemoryConfig(hidden_size=8, mixtures=2, predict_done=True, restart_input=True), 4, 1)
    controller = Controller(PolicyConfig(features="zhc"), 4, 8, 1)
    params = AgentParams(vision.init(jax.random.key(0)), memory.init(jax.random.key(1)))
    weights = np.asarray(jax.random.normal(jax.random.key(2), (2, controller.size)))
    return Agent(vision, memory, controller), params, weights


def play(driver, lanes: int, record: bool = False, seeds=SEEDS) -> list[Played]:
    with Lanes(PROBE, lanes, print) as opened:
        return opened.play(driver, seeds, record)


def test_features_are_those_of_the_dream(agent: tuple[Agent, AgentParams, np.ndarray]) -> None:
    """The memory before a step is that of a dream that starts on this frame of the recorded episode."""
    models, params, weights = agent
    length = 12
    frames = np.asarray(jax.random.randint(jax.random.key(3), (length, 64, 64, 3), 0, 255), np.uint8)
    quiet = Exploration(jnp.zeros((1, 1)), jnp.zeros(1, bool), jnp.zeros((1, 1)))
    state = begin(initial_state(models, 1), np.array([True]), weights[:1], np.array([5], np.uint32))
    seen: list[Features] = []
    actions = []
    for frame in frames:
        state, action, features = act(models, params, state, frame[None], quiet)
        seen.append(features)
        actions.append(action)
    # A posterior without width: the dream's z are then the very z that the agent sampled.
    z = jnp.concatenate([features.z for features in seen])
    one = Latents(
        LatentStats(z, jnp.full_like(z, -jnp.inf)), jnp.concatenate(actions), jnp.zeros(length),
        jnp.array([0]), jnp.array([length]), jnp.array([False]),
    )  # fmt: skip
    dream = Dream(models.memory, DreamConfig(start="anywhere"))
    for number in range(4):
        features = jax.jit(dream.reset)(params.memory, one, jax.random.key(number)).features
        t = int(np.abs(z - features.z).sum(1).argmin())
        np.testing.assert_allclose(features.z, seen[t].z[0], rtol=1e-5)
        np.testing.assert_allclose(features.memory.h, seen[t].memory.h[0], atol=1e-5)
        np.testing.assert_allclose(features.memory.c, seen[t].memory.c[0], atol=1e-5)


def test_episodes_come_in_order_and_repeat_to_the_bit(agent: tuple[Agent, AgentParams, np.ndarray]) -> None:
    models, params, weights = agent
    first = play(AgentDriver(models, params, weights), 3)
    second = play(AgentDriver(models, params, weights), 3)
    assert [episode.seed for episode in first] == [seed for seed, _ in SEEDS]
    assert [episode.rewards for episode in first] == [episode.rewards for episode in second]
    assert all(episode.terminated or len(episode.rewards) == 80 for episode in first)


def test_each_lane_has_its_own_controller(agent: tuple[Agent, AgentParams, np.ndarray]) -> None:
    models, params, weights = agent
    both = play(AgentDriver(models, params, weights), 2, record=True, seeds=[(7, 0), (7, 1)])
    alone = play(AgentDriver(models, params, weights[1:]), 2, record=True, seeds=[(7, 0)])
    np.testing.assert_array_equal(both[0].frames[0], both[1].frames[0])
    assert not np.array_equal(both[0].actions[0], both[1].actions[0])
    np.testing.assert_allclose(both[1].actions[0], alone[0].actions[0], rtol=1e-5)


def test_exploration_is_what_M_is_fed(agent: tuple[Agent, AgentParams, np.ndarray]) -> None:
    """Replaced actions are executed, recorded, and remembered by M."""
    models, params, weights = agent
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    state = begin(initial_state(models, 2), np.array([True, True]), weights[[0, 0]], np.array([1, 1], np.uint32))
    explore = Exploration(jnp.zeros((2, 1)), jnp.array([False, True]), jnp.full((2, 1), 0.5))
    after, action, features = act(models, params, state, frames, explore)
    assert float(action[1, 0]) == 0.5 != float(action[0, 0])
    advance = partial(models.memory.advance, params.memory)
    expected = advance(state.memory, features.z, action, jnp.ones(2))
    np.testing.assert_allclose(after.memory.h, expected.h, atol=1e-6)


def test_exploration_does_not_draw_what_the_environment_draws(agent: tuple[Agent, AgentParams, np.ndarray]) -> None:
    models, params, weights = agent
    driver = AgentDriver(models, params, weights, action_noise=1.0)
    crew = driver.open(1)
    crew.begin({0: (3, 0)})
    environment = gymnasium.Env()
    environment.reset(seed=3)
    assert float(crew._explore().noise[0, 0]) != pytest.approx(environment.np_random.standard_normal(), rel=1e-5)


def test_random_stretches_have_the_length_they_are_given(agent: tuple[Agent, AgentParams, np.ndarray]) -> None:
    models, params, weights = agent
    driver = AgentDriver(models, params, weights, random_stretches=1.0, stretch_length=1)
    crew = driver.open(2)
    crew.begin({0: (3, 0), 1: (4, 0)})
    drawn = [crew._explore() for _ in range(20)]
    assert all(bool(step.replace.all()) for step in drawn)
    values = np.array([float(step.action[0, 0]) for step in drawn])
    assert len(set(values)) == 20, "a stretch of one step draws anew at each"


def test_the_best_scripted_policy_scores_what_is_known() -> None:
    scores = [sum(episode.rewards) for episode in play(ScriptedDriver(load_task(PROBE).policy("centre")), 2)]
    assert min(scores) > 75


def test_finished_blocks_are_not_played_again() -> None:
    played: list[int] = []

    class Counting(ScriptedCrew):
        def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
            played.extend(seed for seed, _ in episodes.values())
            super().begin(episodes)

    class Counted(ScriptedDriver):
        def open(self, lanes: int) -> Counting:
            return Counting(self.policy, lanes)

    driver, saved, ticks = Counted(load_task(PROBE).policy("centre")), [], []
    with Lanes(PROBE, 1, print) as lanes:
        whole = returns(lanes, driver, SEEDS, [], lambda blocks: saved.append(list(blocks)), ticks.append)
        played.clear()
        rest = returns(lanes, driver, SEEDS, saved[0], lambda blocks: None, ticks.append)
    assert rest == whole
    assert played == [seed for seed, _ in SEEDS[BLOCK:]]
    assert sorted(set(ticks)) == list(range(len(SEEDS) + 1))


def test_summary_against_numpy() -> None:
    values = [3.0, 5.0, 10.0]
    assert summary(values) == {
        "mean": 6.0, "sd": pytest.approx(np.std(values, ddof=1)), "se": pytest.approx(np.std(values, ddof=1) / 3**0.5),
        "n": 3,
    }  # fmt: skip
