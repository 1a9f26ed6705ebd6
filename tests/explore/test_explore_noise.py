from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from wm_jax.errors import UserError
from wm_jax.explore import EXPLORERS
from wm_jax.explore.noise import NoiseConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

ACTION = np.array([0.25, -0.5], np.float32)


def new_key():
    return jax.random.key(3)


@partial(jax.jit, static_argnames=("explorer", "steps"))
def played(explorer, action, steps):
    """[steps, A]: what is done of an actor that always does `action` [A]."""

    def step(carry, number):
        action_taken, carry = explorer.act(action, {}, carry, jax.random.fold_in(new_key(), number))
        return carry, action_taken

    return jax.lax.scan(step, explorer.begin(), jnp.arange(steps))[1]


def explore(steps, action=ACTION, **settings):
    return np.asarray(played(NoiseConfig(**settings).build(len(action)), action, steps))


def stretches(actions):
    """Of actions [T, A] that are the actor's or a held one: where the actor acts [T], and the held actions [S, A] and how
    long [S] each is held, the last one, which may go on, left out."""
    free = np.all(actions == ACTION, axis=1)
    begins = np.flatnonzero(np.r_[True, np.any(actions[1:] != actions[:-1], axis=1)])
    lengths = np.diff(begins)
    held = ~free[begins[:-1]]
    return free, actions[begins[:-1]][held], lengths[held]


def test_by_default_nothing_is_changed():
    np.testing.assert_array_equal(explore(50), np.tile(ACTION, (50, 1)))


def test_noise_is_normal_around_the_action_and_new_in_each_step_and_number():
    noise = explore(4000, action_noise=0.1) - ACTION
    assert scipy.stats.kstest(noise.ravel(), scipy.stats.norm(0, 0.1).cdf).pvalue > 0.01
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 * 0.1 / 4000**0.5)
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=4 / 8000**0.5)
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 0], noise[:, 1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / 4000**0.5


def test_what_noise_would_take_beyond_the_ends_is_clipped():
    actions = explore(4000, np.array([0.9], np.float32), action_noise=0.5)
    assert actions.max() == 1 and actions.min() >= -1
    beyond = scipy.stats.norm(0.9, 0.5).sf(1)
    np.testing.assert_allclose((actions == 1).mean(), beyond, atol=4 * (beyond * (1 - beyond) / 4000) ** 0.5)


def test_a_stretch_is_one_random_action_held_for_a_random_while():
    chance, longest, steps = 0.1, 5, 40_000
    free, held, lengths = stretches(explore(steps, random_stretches=chance, stretch_length=longest))
    # Between two stretches there are (1 - p) / p steps of the actor's own on average.
    mean = (1 + longest) / 2
    np.testing.assert_allclose(1 - free.mean(), mean / (mean + (1 - chance) / chance), atol=0.01)
    assert scipy.stats.chisquare(np.bincount(lengths, minlength=longest + 1)[1:]).pvalue > 0.01
    assert scipy.stats.kstest(held.ravel(), scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert abs(np.corrcoef(held.T)[0, 1]) < 4 / len(held) ** 0.5


def test_a_stretch_begins_with_the_chance_of_the_settings_wherever_none_is_held():
    chance, steps = 0.25, 20_000
    free, held, _ = stretches(explore(steps, random_stretches=chance, stretch_length=3))
    share = len(held) / (len(held) + free.sum())
    np.testing.assert_allclose(share, chance, atol=4 * (chance * (1 - chance) / steps * 2) ** 0.5)


def test_noise_and_stretches_do_not_mix():
    actions = explore(4000, action_noise=0.02, random_stretches=0.05, stretch_length=30)
    still = np.all(actions[1:] == actions[:-1], axis=1)
    assert still.mean() > 0.3
    # What is not held is near the actor's own action.
    moving = ~np.r_[False, still] & ~np.r_[still, False]
    near = np.all(np.abs(actions - ACTION) < 0.1, axis=1)
    assert near[moving].mean() > 0.9 > 0.2 > near[np.r_[False, still]].mean()


def test_stretches_of_one_step_in_every_step_are_plain_chance():
    actions = explore(3000, random_stretches=1.0, stretch_length=1)
    assert scipy.stats.kstest(actions.ravel(), scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert (actions[1:] != actions[:-1]).all()


def test_lanes_are_an_axis_of_vmap():
    explorer = NoiseConfig(action_noise=0.3, random_stretches=0.5).build(2)
    keys, carries = jax.random.split(new_key(), 6), jax.vmap(lambda _: explorer.begin())(jnp.arange(6))
    together = jax.jit(jax.vmap(explorer.act, (None, None, 0, 0)))(ACTION, {}, carries, jax.random.clone(keys))
    act = jax.jit(explorer.act)
    for lane in range(6):
        alone = act(ACTION, {}, explorer.begin(), keys[lane])
        jax.tree.map(lambda a, b, lane=lane: np.testing.assert_allclose(a[lane], b, rtol=1e-6), together, alone)


def test_explorers_are_hashable_recipes():
    assert hash(NoiseConfig().build(2)) == hash(NoiseConfig().build(2))
    assert EXPLORERS["noise"] is NoiseConfig


@pytest.mark.parametrize(
    "setting", [{"action_noise": -0.1}, {"random_stretches": -0.1}, {"random_stretches": 1.1}, {"stretch_length": 0}]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"explorer\.{next(iter(setting))}"):
        NoiseConfig(**setting)
