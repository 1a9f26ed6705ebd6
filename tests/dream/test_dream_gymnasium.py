import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, recordings
from gymnasium.utils.env_checker import check_env

from wm_jax.dream import Dream, DreamConfig, DreamEnv, DreamVectorEnv
from wm_jax.errors import UserError
from wm_jax.vision import Vision, VisionConfig

VISION = Vision(VisionConfig(latent_size=1, width=4))
VISION_PARAMS = VISION.init(jax.random.key(0))
DREAM = Dream(Line(noise=0.3, wall=1.0), DreamConfig(horizon=9, reward="predicted"))


def make(dream=DREAM, **settings):
    return DreamEnv(dream, {}, recordings(), VISION, VISION_PARAMS, **settings)


def make_many(count, dream=DREAM, **settings):
    return DreamVectorEnv(count, dream, {}, recordings(), VISION, VISION_PARAMS, **settings)


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
    # The probe's h is the z that it was fed, its reward 1 - |z|.
    assert after[1] == before[0]
    np.testing.assert_allclose(reward, 1 - abs(before[0]), rtol=1e-6)
    assert not terminated and not truncated and info == {}


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
        # Right after its end a dream stands at a first frame, 0 or 4 / 16, with an empty memory.
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
    env = make_many(1, Dream(Line(noise=0.3), DreamConfig(horizon=3)))
    env.reset(seed=0)
    episodes = [[env.step(np.zeros((1, 1), np.float32))[0][0, 0] for _ in range(4)] for _ in range(2)]
    assert not np.isclose(np.diff(episodes[0][:3]), np.diff(episodes[1][:3])).any()


def test_vector_seeds_are_one_by_one():
    env = make_many(2)
    first = env.reset(seed=3)[0]
    np.testing.assert_array_equal(env.reset(seed=[3, 4])[0], first)
    changed = env.reset(seed=[3, None])[0]
    assert (changed[0] == first[0]).all() and (changed[1] != first[1]).any()


def test_frames_are_what_the_decoder_makes_of_z():
    env = make(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    expected = np.asarray(VISION.decode(VISION_PARAMS, jnp.asarray(observation[:1])) * 255)
    assert frame is not None and frame.shape == (64, 64, 3) and frame.dtype == np.uint8
    np.testing.assert_allclose(frame, expected, atol=0.51)
    many = make_many(2, render_mode="rgb_array")
    many.reset(seed=0)
    frames = many.render()
    assert frames is not None and len(frames) == 2
    np.testing.assert_array_equal(frames[0], frame)
    assert make().render() is None


def test_what_cannot_be_dreamt_or_drawn_is_refused():
    with pytest.raises(UserError, match="render_mode 'rgb_array' needs V"):
        DreamEnv(DREAM, {}, recordings(), render_mode="rgb_array")
