"""A JAX environment with Gymnasium's face, one and many."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import wm_jax  # noqa: F401  registers
from wm_jax.rollouts.collect import play
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.tasks import load_task

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("standard", ["author", "dm_control"])
def test_it_is_clean_under_gymnasiums_check(standard):
    check_env(gymnasium.make("wm_jax/SwingUp-v0", standard=standard, render_mode="rgb_array").unwrapped)


def test_many_are_the_single_ones_and_begin_anew_the_step_after_their_end():
    many = gymnasium.make_vec("wm_jax/SwingUp-v0", num_envs=3, repeat=100, render_mode="rgb_array")
    single = gymnasium.make("wm_jax/SwingUp-v0", repeat=100).unwrapped
    together, _ = many.reset(seed=7)
    np.testing.assert_array_equal(together[2], single.reset(seed=9)[0])
    for _ in range(10):
        outcome = single.step([0.1])
        observations, rewards, terminated, truncated, _ = many.step(np.full((3, 1), 0.1))
        np.testing.assert_allclose(observations[2], outcome[0], rtol=1e-5)
        assert (rewards[2], terminated[2], truncated[2]) == pytest.approx(outcome[1:4])
        if outcome[2] or outcome[3]:
            break
    else:
        raise AssertionError("no end after 10 steps of 100 each")
    with pytest.raises(ResetNeeded, match="the episode is over"):
        single.step([0.0])
    observations, rewards, terminated, truncated, _ = many.step(np.zeros((3, 1)))
    assert rewards[2] == 0 and not terminated[2] and not truncated[2] and observations[2, 2] < -0.5
    frames = np.array(many.render())
    assert frames.shape == (3, 64, 64, 3) and frames.dtype == np.uint8


def test_errors():
    env = gymnasium.make("wm_jax/SwingUp-v0").unwrapped
    with pytest.raises(ResetNeeded, match="no episode has begun"):
        env.step([0.0])
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"\[-1, 1\], found 2"):
        env.step([2.0])


def test_the_task_as_workers_and_tools_know_it():
    task = load_task("swing_up")
    assert task.policy_names == ["random", "held", "stay"] and task.backend_names == ["jax"]
    still = play(TaskEnv(task, task.make()), task.policy("stay"), 1)
    assert len(still.rewards) == task.max_steps and not still.terminated and still.frames.dtype == np.uint8
    moved = play(TaskEnv(task, task.make()), task.policy("random"), 1)
    assert len(np.unique(moved.actions)) > 20
