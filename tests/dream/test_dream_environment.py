from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from dream_probe import Line, recordings

from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig, draw_noise, sample_mixture

KEY = jax.random.key(7)


def reset(dream, params, latents, key=KEY):
    return jax.jit(dream.reset)(params, latents, key)


def resets(dream, latents, count, params=None):
    """That many dreams, begun."""
    return jax.jit(jax.vmap(lambda key: dream.reset(params or {}, latents, key)))(jax.random.split(KEY, count))


def step(dream, params, state, action):
    return jax.jit(dream.step)(params, state, jnp.asarray(action), KEY)


def test_a_dream_starts_on_a_recorded_first_frame_with_empty_memory():
    dream = Dream(Line(), DreamConfig())
    state = resets(dream, recordings((4, 6, 2)), 300)
    frames, counts = np.unique(np.round(np.asarray(state.z[:, 0]) * 16), return_counts=True)
    np.testing.assert_array_equal(frames, [0, 4, 10])
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    assert (state.memory.h == 0).all() and (state.memory.c == 0).all()
    assert (state.restart == 1).all() and (state.steps == 0).all()


def test_the_first_z_is_sampled_from_its_posterior():
    dream = Dream(Line(latent_size=2), DreamConfig())
    latents = recordings((1,), latent_size=2, log_var=2 * np.log(0.5))
    z = np.asarray(resets(dream, latents, 4000).z)
    assert scipy.stats.kstest(z.ravel(), scipy.stats.norm(0, 0.5).cdf).pvalue > 0.01


def test_every_recorded_frame_is_as_likely_a_start():
    dream = Dream(Line(), DreamConfig(start="anywhere"))
    state = resets(dream, recordings((4, 2, 6)), 2400)
    frames, counts = np.unique(np.round(np.asarray(state.z[:, 0]) * 16), return_counts=True)
    np.testing.assert_array_equal(frames, range(12))
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    first = np.isin(np.round(np.asarray(state.z[:, 0]) * 16), [0, 4, 6])
    np.testing.assert_array_equal(state.restart == 1, first)


def test_memory_has_followed_the_episode_up_to_where_a_dream_starts():
    memory = Memory(MemoryConfig(hidden_size=5, restart_input=True), latent_size=2, action_size=1)
    params = memory.init(KEY)
    dream = Dream(memory, DreamConfig(start="anywhere"))
    dreamt = resets(dream, recordings((2, 4), latent_size=2, log_var=-40.0), 60, params)
    starts = np.round(np.asarray(dreamt.z[:, 0]) * 16)
    advance = jax.jit(memory.advance)
    for first, frames in ((0, 2), (2, 4)):
        state = memory.initial_state()
        for frame in range(first, first + frames):
            assert (starts == frame).any()
            for found, expected in ((dreamt.memory.h, state.h), (dreamt.memory.c, state.c)):
                np.testing.assert_allclose(
                    found[starts == frame], jnp.tile(expected, ((starts == frame).sum(), 1)), atol=1e-6
                )
            state = advance(
                params, state, jnp.full(2, frame / 16), jnp.full(1, -frame / 16), jnp.float32(frame == first)
            )


def test_memory_is_fed_the_z_that_the_action_was_chosen_on():
    dream = Dream(Line(), DreamConfig())
    before = reset(dream, {}, recordings())
    after, *_ = step(dream, {}, before, [0.25])
    assert after.memory.h == before.z and after.memory.c == 0.25
    assert after.restart == 0 and after.steps == 1
    np.testing.assert_allclose(after.z, before.z + 0.125, atol=0.1)
    assert after.features.z is after.z and after.features.memory is after.memory


def test_a_step_is_memorys_step_and_a_draw_from_what_it_predicts():
    memory = Memory(MemoryConfig(hidden_size=4, predict_done=True, predict_reward=True, restart_input=True), 3, 2)
    params = memory.init(KEY)
    dream = Dream(memory, DreamConfig(reward="predicted", temperature=1.3))
    state = reset(dream, params, recordings((4,), 3, 2))
    action = jnp.array([0.3, -0.7])
    after, reward, terminated, truncated = step(dream, params, state, action)
    expected, prediction = jax.jit(memory.step)(params, state.memory, state.z, action, jnp.float32(1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), after.memory, expected)
    assert prediction.done_logit is not None
    np.testing.assert_allclose(reward, prediction.reward, rtol=1e-5)
    assert terminated == (prediction.done_logit > 0) and not truncated
    np.testing.assert_allclose(
        after.z, jax.jit(sample_mixture)(prediction.next_z, 1.3, draw_noise(KEY, after.z.shape)), rtol=1e-5
    )


@pytest.mark.parametrize("wall, terminated", [(1.0, False), (0.99, True)])
def test_done_is_thresholded_at_zero_and_not_drawn(wall, terminated):
    dream = Dream(Line(wall=wall), DreamConfig(temperature=50.0))
    state = replace(reset(dream, {}, recordings((1,))), z=jnp.ones(1))
    ends = jax.jit(jax.vmap(lambda key: dream.step({}, state, jnp.zeros(1), key)[2]))(jax.random.split(KEY, 100))
    assert (ends == terminated).all()


def test_an_end_is_drawn_with_the_probability_that_memory_was_taught_without_its_weight():
    """M was shown each end 10 times as often as it comes: its odds are 10 times too high."""
    dream = Dream(Line(wall=0.0, done_weight=10.0), DreamConfig(end="drawn"))
    state = replace(reset(dream, {}, recordings((1,))), z=jnp.ones(1))
    probability = np.e / (np.e + 10)
    ending = dream.prospect({}, state, jnp.zeros(1), draw_noise(KEY, (1,)))[2]
    np.testing.assert_allclose(ending, probability, rtol=1e-6)
    count = 10000
    ends = jax.jit(jax.vmap(lambda key: dream.step({}, state, jnp.zeros(1), key)[2]))(jax.random.split(KEY, count))
    np.testing.assert_allclose(ends.mean(), probability, atol=4 * (probability * (1 - probability) / count) ** 0.5)


def test_what_is_drawn_of_the_end_leaves_the_rest_as_it_is():
    after = []
    for end in ("threshold", "drawn"):
        dream = Dream(Line(noise=1.0), DreamConfig(end=end))
        after.append(step(dream, {}, reset(dream, {}, recordings()), [0.5])[0].z)
    assert after[0] == after[1]


def test_the_horizon_truncates_and_an_end_there_stays_an_end():
    dream = Dream(Line(wall=0.5), DreamConfig(horizon=3))
    state = reset(dream, {}, recordings((1,)))
    for expected in (False, False, True):
        before = state
        state, reward, terminated, truncated = step(dream, {}, state, [0.0])
        assert (bool(terminated), bool(truncated), float(reward)) == (False, expected, 1.0)
    _, _, terminated, truncated = step(dream, {}, replace(before, z=jnp.ones(1)), [0.0])
    assert terminated and not truncated


def test_a_dream_is_over_when_there_is_nothing_left_to_earn():
    dream = Dream(Line(wall=0.5), DreamConfig(horizon=3, full_return=2.5))
    state = reset(dream, {}, recordings((1,)))
    for earned, ends in ((1.0, False), (2.0, False), (3.0, True)):
        state, _, terminated, truncated = step(dream, {}, state, [0.0])
        assert (float(state.earned), bool(terminated), bool(truncated)) == (earned, ends, False)


def test_a_memory_without_heads_never_ends_and_cannot_predict_rewards():
    state = reset(Dream(Line(), DreamConfig()), {}, recordings())
    _, reward, terminated, _ = step(Dream(Line(predicts=False), DreamConfig()), {}, state, [0.0])
    assert reward == 1 and not terminated
    with pytest.raises(UserError, match=r"memory\.predict_reward"):
        step(Dream(Line(predicts=False), DreamConfig(reward="predicted")), {}, state, [0.0])


def test_a_temperature_given_to_step_stands_in_for_the_setting():
    state = reset(Dream(Line(), DreamConfig()), {}, recordings())
    cold, hot = (Dream(Line(), DreamConfig(temperature=t)) for t in (0.5, 2.0))
    z = jax.jit(jax.vmap(lambda t: cold.step({}, state, jnp.ones(1), KEY, t)[0].z))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(z[0], step(cold, {}, state, [1.0])[0].z, rtol=1e-6)
    np.testing.assert_allclose(z[1], step(hot, {}, state, [1.0])[0].z, rtol=1e-6)
    assert z[0] != z[1]


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.0},
        {"horizon": 0},
        {"start": "last"},
        {"full_return": -1.0},
        {"reward": "none"},
        {"end": "none"},
    ],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"dream\.{next(iter(setting))}"):
        DreamConfig(**setting)
