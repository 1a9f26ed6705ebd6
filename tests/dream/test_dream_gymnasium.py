import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, recordings, vision_memory
from gymnasium.utils.env_checker import check_env

from wm_jax.dream import Dream, DreamConfig, DreamEnv, DreamSource, DreamVectorEnv, start_states
from wm_jax.memory import MemoryConfig

DREAM = Dream(Line(spread=0.3, wall=1.0), DreamConfig(horizon=9, reward="predicted"))


def source(dream=DREAM, features=("z", "h")):
    return DreamSource(dream, {}, recordings(), features, frames_per_second=35)


def make(dream=DREAM, **settings):
    return DreamEnv(source(dream), **settings)


def make_many(count, dream=DREAM, **settings):
    return DreamVectorEnv(count, source(dream), **settings)


def test_gymnasiums_own_checker_finds_nothing():
    gymnasium.register("dream_test/Dream-v0", entry_point=make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("dream_test/Dream-v0").unwrapped)


def play(env, seed, steps):
    observation, _ = env.reset(seed=seed)
    outcomes = [(observation, *env.step(env.action_space.high * (-1) ** t)) for t in range(steps)]
    return [outcome[1:5] for outcome in outcomes], observation


def test_a_seed_is_a_dream():
    env = make()
    (once, first), (again, first_again), (_, other) = play(env, 5, 4), play(env, 5, 4), play(env, 6, 4)
    np.testing.assert_array_equal(first, first_again)
    for ours, same in zip(once, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, same)
    assert (other != first).any()
    assert first.shape == (2,) and first.dtype == np.float32
    unseeded = {tuple(env.reset()[0]) for _ in range(8)}
    assert len(unseeded) == 8


def test_a_step_is_the_dreams():
    env = make()
    before, _ = env.reset(seed=0)
    after, reward, terminated, truncated, info = env.step(np.array([0.5], np.float32))
    # The line's h is where it was, its reward 1 - |z|.
    assert after[1] == before[0]
    np.testing.assert_allclose(reward, 1 - abs(before[0]), rtol=1e-6)
    assert not terminated and not truncated and info == {}


def test_an_observation_is_the_features_asked_for_in_their_order_or_all():
    chosen, everything = DreamEnv(source(features=("c", "z"))), DreamEnv(source(features=None))
    for env, size in ((chosen, 2), (everything, 3)):
        assert env.observation_space.shape == (size,)
        env.reset(seed=0)
    action = np.array([0.5], np.float32)
    (c, z), whole = chosen.step(action)[0], everything.step(action)[0]
    assert c == 0.5 and sorted(whole) == sorted((c, z, chosen._dreams.state.world.h[0, 0]))


def test_many_dreams_are_the_single_ones_and_begin_anew_the_step_after_their_end():
    many = make_many(3)
    singles = [make() for _ in range(3)]
    observations, _ = many.reset(seed=11)
    for i, single in enumerate(singles):
        np.testing.assert_allclose(observations[i], single.reset(seed=11 + i)[0], rtol=1e-6)
    over = np.zeros(3, bool)
    ends = 0
    known = np.ones(3, bool)
    for _ in range(25):
        observations, rewards, terminated, truncated, _ = many.step(np.full((3, 1), 0.2, np.float32))
        assert observations.shape == (3, 2) and observations.dtype == np.float32
        # Right after its end a dream stands at a first frame, 0 or 4 / 16, with nothing before it.
        for i in np.flatnonzero(over):
            assert rewards[i] == 0 and not terminated[i] and not truncated[i]
            assert observations[i, 1] == 0 and min(abs(observations[i, 0] - start) for start in (0, 0.25)) < 1e-3
        known &= ~over
        for i in np.flatnonzero(known):
            single = singles[i].step(np.array([0.2], np.float32))
            np.testing.assert_allclose(observations[i], single[0], rtol=1e-5)
            assert (rewards[i], terminated[i], truncated[i]) == (pytest.approx(single[1]), *single[2:4])
        over = terminated | truncated
        ends += over.sum()
    assert ends >= 6 and not known.any()


def test_a_dream_begun_anew_is_another_one():
    env = make_many(1, Dream(Line(spread=0.3), DreamConfig(horizon=3)))
    env.reset(seed=0)
    episodes = [[env.step(np.zeros((1, 1), np.float32))[0][0, 0] for _ in range(4)] for _ in range(2)]
    assert not np.isclose(np.diff(episodes[0][:3]), np.diff(episodes[1][:3])).any()


def test_vector_seeds_are_one_by_one():
    env = make_many(2)
    first = env.reset(seed=3)[0]
    np.testing.assert_array_equal(env.reset(seed=[3, 4])[0], first)
    changed = env.reset(seed=[3, None])[0]
    assert (changed[0] == first[0]).all() and (changed[1] != first[1]).any()


def test_dreams_start_in_states_of_the_table_which_is_made_once():
    found = source(Dream(Line(), DreamConfig(start="anywhere")))
    assert found.starts is found.starts
    jax.tree.map(
        np.testing.assert_array_equal, found.starts, start_states(found.dream, {}, recordings(), jax.random.key(0))
    )
    env = DreamVectorEnv(20, found)
    table = np.column_stack([found.starts.z, found.starts.h]).tolist()
    assert all(row in table for row in env.reset(seed=0)[0].tolist())


def test_frames_are_what_the_model_draws_of_its_state():
    env = make(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    assert frame is not None and frame.shape == (64, 64, 3) and frame.dtype == np.uint8
    assert (frame == np.round(np.clip((1 + observation[0]) / 2, 0, 1) * 255)).all()
    many = make_many(2, render_mode="rgb_array")
    many.reset(seed=0)
    frames = many.render()
    assert frames is not None and len(frames) == 2
    np.testing.assert_array_equal(frames[0], frame)
    assert make().render() is None
    assert env.metadata["render_fps"] == many.metadata["render_fps"] == 35


def test_frames_of_the_papers_model_are_what_the_decoder_makes_of_z():
    world = vision_memory(MemoryConfig(hidden_size=2), 1, 1)
    params = jax.jit(world.init)(jax.random.key(0))
    env = DreamEnv(DreamSource(Dream(world, DreamConfig()), params, recordings(), ("z",)), render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    expected = np.asarray(jax.jit(world.vision.decode)(params["vision"], jnp.asarray(observation)) * 255)
    frame = env.render()
    assert frame is not None
    np.testing.assert_allclose(frame, expected, atol=0.51)
