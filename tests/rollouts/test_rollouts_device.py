"""Episodes on the device: the same as step by step through Gymnasium's face, whatever is played beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agent import PARAMS, controllers, small_agent

import wm_jax.lanes
from wm_jax.data.records import Episode
from wm_jax.envs import JaxEnvironment
from wm_jax.envs.gymnasium_face import JaxEnv
from wm_jax.envs.scripts import Constant, Uniform
from wm_jax.envs.swing_up import SwingUp
from wm_jax.errors import ForeignError, UserError
from wm_jax.explore.noise import NoiseConfig
from wm_jax.rollouts import acting, device
from wm_jax.rollouts.acting import Count, Lanes, scripted_driver
from wm_jax.rollouts.agent import AgentDriver, act, begin, initial_state
from wm_jax.rollouts.limits import Limits
from wm_jax.rollouts.replay import replay
from wm_jax.tasks import PolicySettings, load_task

pytestmark = pytest.mark.usefixtures("quick_compilation")

TASK = load_task("swing_up")
AGENT = small_agent(explorer=NoiseConfig(action_noise=0.2).build(1))
DRIVER = AgentDriver(AGENT, PARAMS, controllers())
SHORT = Limits(20)
SEEDS = [(500 + i, i % 2) for i in range(20)]


def play(driver, episodes=SEEDS, lanes=20, limits=SHORT, **options):
    with Lanes("swing_up", lanes, print, limits) as opened:
        return opened.play(driver, episodes, **options)


def by_hand(seed, row, steps):
    """Rewards and frames of an episode, a step at a time through Gymnasium."""
    env = JaxEnv(SwingUp(), 25, pictures=True)
    frame, _ = env.reset(seed=seed)
    seeds = np.array([device.key_seed(seed)], np.uint32)
    state = initial_state(AGENT, DRIVER.table, 1)
    state = begin(AGENT, DRIVER.table, state, np.ones(1, bool), np.array([row], np.int32), seeds)
    rewards, frames = [], []
    for _ in range(steps):
        frames.append(frame)
        state, action = act(AGENT, PARAMS, DRIVER.table, state, frame[None])
        frame, reward, terminated, truncated, _ = env.step(np.asarray(action)[0])
        assert not terminated and not truncated
        rewards.append(reward)
    return rewards, np.stack(frames)


@pytest.mark.parametrize("number", [0, 17])
def test_an_episode_is_what_gymnasiums_face_plays(number):
    played = play(DRIVER, record=True)[number]
    seed, row = SEEDS[number]
    rewards, frames = by_hand(seed, row, 20)
    np.testing.assert_allclose(played.rewards, rewards, rtol=1e-4)
    # V's sums round differently in batches of other sizes, and what C does with them.
    assert np.abs(np.stack(played.frames).astype(int) - frames).max() <= 8
    np.testing.assert_array_equal(played.frames[0], frames[0])


@pytest.mark.parametrize("driver", [DRIVER, scripted_driver(TASK, "held", PolicySettings((5,)))])
def test_the_number_of_lanes_changes_last_bits_only(driver):
    many, few, alone = play(driver), play(driver, lanes=3), play(driver, SEEDS[18:19])
    for episode, same in zip(many, few, strict=True):
        # V's sums round differently in batches of other sizes; a scripted policy has none.
        np.testing.assert_allclose(episode.rewards, same.rewards, rtol=1e-4 if driver is DRIVER else 0)
    assert many[18].rewards == alone[0].rewards


def test_controllers_and_seeds_tell_episodes_apart():
    played = play(DRIVER, [(500, 0), (500, 1), (501, 0), (500, 0)])
    assert played[0].rewards == played[3].rewards
    assert played[0].rewards != played[1].rewards != played[2].rewards
    # Until C acts, the same seed is the same beginning.
    assert played[0].rewards[0] == pytest.approx(played[1].rewards[0], abs=0.02)


def test_episodes_end_on_their_own_and_the_rest_is_not_theirs(monkeypatch):
    monkeypatch.setattr(device, "STEPS", 20)
    played = play(scripted_driver(TASK, "held", PolicySettings((10,))), limits=Limits(), record=True)
    lengths = [len(episode.rewards) for episode in played]
    assert len(set(lengths)) > 5 and max(lengths) <= TASK.max_steps
    for episode in played:
        assert len(episode.frames) == len(episode.actions) == len(episode.rewards)
        assert episode.terminated is (len(episode.rewards) < TASK.max_steps)
    still = play(scripted_driver(TASK, "stay", PolicySettings()), limits=Limits())
    ends = {len(episode.rewards): episode.terminated for episode in still}
    assert max(ends) == TASK.max_steps and not ends[TASK.max_steps] and min(ends) < TASK.max_steps


def test_limits_truncate():
    played = play(scripted_driver(TASK, "random", PolicySettings()), limits=Limits(max_steps=7))
    assert {len(episode.rewards) for episode in played} == {7} and not any(episode.terminated for episode in played)
    environment = Falls()
    heard = device.play(environment, device.ScriptDriver(Constant((0.0,))), SEEDS, 50, 4, False, print)
    # Rewards 3, 2, 1, 0, -1, …: four in a row without a positive one.
    assert (heard.length == 7).all() and not heard.terminated.any()


@dataclass(frozen=True)
class Planning(device.ScriptPolicy):
    """A policy that dreams 100 steps for each of its own."""

    @property
    def planned_steps(self):
        return 100.0


class PlanningDriver(device.ScriptDriver):
    def compiled(self):
        return Planning(self.script), None


def test_a_planners_calls_are_short_and_its_episodes_the_same(monkeypatch):
    monkeypatch.setattr(wm_jax.lanes, "PLANNED_IN_CALL", 12 * 100 * 3)
    lengths, script = [], Constant((0.0,))
    played = [
        device.play(
            Falls(), driver(script), SEEDS[:10], 9, None, False, lambda heard: lengths.append(heard.length.max())
        )
        for driver in (device.ScriptDriver, PlanningDriver)
    ]
    assert lengths == [9, 3, 6, 9]
    for whole, parts in zip(*(np.concatenate(heard.rewards, axis=1) for heard in played), strict=True):
        np.testing.assert_array_equal(whole, parts)
    monkeypatch.setattr(wm_jax.lanes, "PLANNED_IN_CALL", 1)
    assert device._steps(Planning(script), 16, 9) == 1


def test_progress_and_a_stop():
    counts = list[Count]()
    play(DRIVER, lanes=16, tick=counts.append)
    assert counts[-1] == Count(20, 400, 0) and counts[0].finished == 16

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(DRIVER, tick=stop)


def test_playing_again_compiles_nothing(caplog):
    play(DRIVER)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        play(DRIVER, [(seed + 1000, row) for seed, row in SEEDS])
    assert not [record for record in caplog.records if "Compiling" in record.message]


@dataclass(frozen=True)
class Falls(JaxEnvironment):
    """Counts down from 3; the reward is the count."""

    worth: float = 1.0
    side: int = 64
    broken: bool = False

    @property
    def action_size(self) -> int:
        return 1

    @property
    def observation_size(self):
        return 1

    @property
    def scripts(self) -> Mapping[str, Any]:
        return {"random": lambda settings: Uniform(1)}

    def reset(self, key):
        return jnp.float32(3), jnp.zeros(1, jnp.float32)

    def step(self, state, action, key):
        if self.broken:
            raise RuntimeError("the sky")
        no = jnp.zeros((), bool)
        return state - 1, jnp.zeros(1, jnp.float32), state * self.worth, no, no

    def frame(self, state):
        return jnp.zeros((self.side, self.side, 3), jnp.uint8)


@pytest.mark.parametrize(
    ("environment", "action", "message"),
    [
        (Falls(), 1.5, "must return numbers from -1 to 1"),
        (Falls(worth=float("nan")), 0.0, "must return a finite reward, found nan in step 0 of the episode of seed 500"),
    ],
)
def test_what_is_no_action_and_no_reward_is_named(environment, action, message):
    with pytest.raises(UserError, match=message):
        device.play(environment, device.ScriptDriver(Constant((action,))), SEEDS, 50, None, False, print)


def test_a_frame_of_another_shape_is_refused(monkeypatch):
    wrong = replace(TASK, jax_backends={"jax": lambda: Falls(side=32)})
    monkeypatch.setattr(acting, "load_task", lambda name: wrong)
    with pytest.raises(UserError, match=r"frame must return uint8 \[64, 64, 3\], found uint8 \[32, 32, 3\]"):
        Lanes("swing_up", 4, print)


def test_what_an_environment_raises_while_it_is_traced_is_told_as_its_own():
    with pytest.raises(
        ForeignError, match=r"step of Falls raised RuntimeError: the sky \(test_rollouts_device\.py, line"
    ):
        device.play(Falls(broken=True), device.ScriptDriver(Uniform(1)), SEEDS, 50, None, False, print)


@dataclass(frozen=True)
class Nameless(Falls):
    @property
    def scripts(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Wide(Falls):
    @property
    def action_size(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("made", "message"),
    [(Nameless, "scripts by name, one of them `random`, found"), (Wide, "actions of 1 numbers, found int 2")],
)
def test_an_environment_that_does_not_fit_its_task_is_refused(made, message):
    with pytest.raises(UserError, match=r"the task swing_up: jax_backends\['jax'\] must return.*" + message):
        replace(TASK, jax_backends={"jax": made}).environment()


def test_recorded_episodes_played_again_pass_through_the_same_states():
    """A record has no state: its seed and its actions have."""
    played = play(DRIVER, record=True)
    episodes = [
        Episode(
            frames=np.stack(one.frames), actions=np.stack(one.actions), rewards=np.array(one.rewards, np.float32),
            terminated=one.terminated, seed=one.seed, policy="", task="swing_up", attempt=0,
        )
        for one in played[:3]
    ]  # fmt: skip
    shorter = replace(episodes[1], actions=episodes[1].actions[:7], rewards=episodes[1].rewards[:7])
    environment = SwingUp()
    found = replay(environment, [episodes[0], shorter])
    assert [len(observations) for observations in found] == [20, 7]
    env = JaxEnv(environment, 25)
    observation, _ = env.reset(seed=episodes[0].seed)
    for expected, action in zip(found[0], episodes[0].actions, strict=True):
        np.testing.assert_allclose(observation, expected, atol=1e-5)
        observation = env.step(action)[0]
    with pytest.raises(UserError, match="has different rewards when replayed"):
        replay(environment, [replace(episodes[2], seed=episodes[2].seed + 1)])
