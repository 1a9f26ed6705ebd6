import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, Push, recordings, vision_memory
from gymnasium.error import Error, InvalidAction, ResetNeeded, UnsupportedMode
from gymnasium.utils.env_checker import check_env

from wm_jax.dream import (
    Dream,
    DreamConfig,
    DreamEnv,
    DreamSource,
    DreamVectorEnv,
    population_returns,
    start_states,
    trajectory,
)
from wm_jax.errors import UserError
from wm_jax.memory import MemoryConfig
from wm_jax.worlds.vision_memory import VisionMemory

pytestmark = pytest.mark.usefixtures("quick_compilation")

DREAM = Dream(Line(spread=0.3, wall=1.0), DreamConfig(horizon=9, reward="predicted"))


def source(dream=DREAM, features=("z", "h")):
    return DreamSource(dream, {}, recordings(), features, frames_per_second=35)


def make(dream=DREAM, **settings):
    return DreamEnv(source(dream), **settings)


def make_many(num_envs, dream=DREAM, **settings):
    return DreamVectorEnv(num_envs, source(dream), **settings)


def test_gymnasiums_own_checker_finds_nothing():
    gymnasium.register("dream_test/Dream-v0", entry_point=make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("dream_test/Dream-v0").unwrapped)


def play(env, seed, steps):
    observation, _ = env.reset(seed=seed)
    return [env.step(env.action_space.high * 0.1 * (-1) ** t)[:4] for t in range(steps)], observation


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


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.array, jnp.int32])
def test_seeds_of_any_integer_type_are_the_same_seeds(integer):
    env, many = make(), make_many(2)
    cases: list[tuple[Any, Any, Any]] = [
        (env, 5, integer(5)),
        (many, 5, integer(5)),
        (many, [5, 9], np.array([5, 9])),
        (many, [5, 9], [integer(5), integer(9)]),
        (many, [5, 9], (5, integer(9))),
    ]
    for one, seed, same in cases:
        np.testing.assert_array_equal(one.reset(seed=seed)[0], one.reset(seed=same)[0])
    np.testing.assert_array_equal(many.reset(seed=integer(5))[0][0], env.reset(seed=5)[0])


@pytest.mark.parametrize(
    "wrong, message", [(1.5, "an integer, found 1.5"), ("5", "an integer"), (-1, "zero, actual value: -1")]
)
def test_other_seeds_are_refused_and_nothing_begins(wrong, message):
    for env, seeds in ((make(), [wrong]), (make_many(2), [wrong, [3, wrong]])):
        env.reset(seed=0)
        before = env.reset()[0]
        env.reset(seed=0)
        for seed in seeds:
            with pytest.raises(Error, match=message):
                env.reset(seed=seed)
        np.testing.assert_array_equal(env.reset()[0], before)


def test_there_is_a_seed_for_every_dream():
    for seeds in ([1], [1, 2, 3], np.arange(4)):
        with pytest.raises(ValueError, match=f"expected 2 seeds, one for each dream, found {len(seeds)}"):
            make_many(2).reset(seed=seeds)


def test_options_are_refused_as_they_would_have_no_effect():
    for env in (make(), make_many(2)):
        env.reset(options={})
        with pytest.raises(Error, match=r"a dream has no options, found \{'reset_mask': 1\}"):
            env.reset(options={"reset_mask": 1})


def test_a_dream_that_has_not_begun_or_is_over_takes_no_step():
    env, many = make(render_mode="rgb_array"), make_many(2, render_mode="rgb_array")
    for one, action in ((env, [0.0]), (many, [[0.0], [0.0]])):
        for call in (lambda one=one, action=action: one.step(action), one.render):
            with pytest.raises(ResetNeeded, match="no dream has begun; call reset first"):
                call()
    env.reset(seed=0)
    while not any(env.step([0.1])[2:4]):
        pass
    last = env.render()
    for _ in range(2):
        with pytest.raises(ResetNeeded, match="the dream is over; call reset"):
            env.step([0.1])
    np.testing.assert_array_equal(env.render(), last)
    first, _ = env.reset(seed=1)
    np.testing.assert_array_equal(first, make().reset(seed=1)[0])
    env.step([0.1])


def test_actions_are_numbers_of_the_right_shape_in_their_range():
    env, many = make(), make_many(2)
    found = []
    actions: list[Any] = [[0.5], (0.5,), np.array([0.5]), np.array([0.5], np.float16), jnp.array([0.5], jnp.float32)]
    for action in actions:
        env.reset(seed=0)
        many.reset(seed=0)
        found.append([env.step(action)[0], *many.step([action, action])[0]])
    np.testing.assert_array_equal(found, [found[0]] * len(found))
    cases: list[tuple[Any, str]] = [
        (0.5, r"of shape \[1\], found \[\]"),
        ([0.5, 0.5], r"of shape \[1\], found \[2\]"),
        ([[0.5]], r"of shape \[1\], found \[1, 1\]"),
        ({}, r"numbers of shape \[1\], found {}"),
        ("left", r"numbers of shape \[1\], found 'left'"),
        ([np.nan], r"must lie in \[-1, 1\], found nan"),
        ([1.5], r"must lie in \[-1, 1\], found 1.5; gymnasium.wrappers.ClipAction clips"),
    ]
    for wrong, message in cases:
        with pytest.raises(InvalidAction, match=message):
            env.step(wrong)
    for wrong, message in (([0.5], r"of shape \[2, 1\], found \[1\]"), ([[0.5], [-np.inf]], "found -inf")):
        with pytest.raises(InvalidAction, match=message):
            many.step(wrong)


def test_what_is_no_environment_is_said():
    with pytest.raises(UnsupportedMode, match="must be None or 'rgb_array', found 'human'"):
        make(render_mode="human")
    for wrong in (0, -1, 1.5, None):
        with pytest.raises(UserError, match=r"num_envs must be .*, found"):
            make_many(wrong)
    assert make_many(np.int64(2)).num_envs == 2
    with pytest.raises(UserError, match="feature of the observation must be one of c, h, z, found 'hz'"):
        DreamEnv(source(features=("hz",)))


@pytest.mark.parametrize("push", [float("inf"), float("nan")])
def test_an_observation_stays_in_its_space_whatever_is_dreamt(push):
    env = make(Dream(Line(push=push), DreamConfig()))
    env.reset(seed=0)
    observation = env.step([1.0])[0]
    assert observation in env.observation_space and not np.isfinite(env._episodes.state.world.z).all()


class Certain(VisionMemory):
    """The paper's world model, whose dreams are M's first component's means."""

    def noise(self, key):
        return jax.tree.map(jnp.zeros_like, super().noise(key))


def test_the_faces_and_a_population_step_the_same_numbers_in_bfloat16():
    world = vision_memory(MemoryConfig(hidden_size=8, predict_reward=True), 3, 1)
    dream = Dream(Certain(world.vision, world.memory), DreamConfig(horizon=8, reward="predicted", precision="bfloat16"))
    params = jax.tree.map(lambda array: 2 * array, {"memory": world.memory.init(jax.random.key(1))})
    made = DreamSource(dream, params, recordings((4,), 3, log_var=-200), ("z", "h", "c"), frames_per_second=50)

    def played(dream):
        """Features [9, F] and rewards [9]."""
        seen = trajectory(dream, Push(), params, made.starts, jnp.full(1, 0.5, jnp.float32), jax.random.key(0), steps=9)
        features = dream.model.features(seen.state)
        return np.concatenate([features[name] for name in ("z", "h", "c")], axis=-1), seen.reward

    expected, rewards = played(dream)
    wide, _ = played(replace(dream, config=replace(dream.config, precision="float32")))
    assert np.abs(expected - wide).max() > 1e-3, "the precisions must differ for this to say something"
    one, many = DreamEnv(made), DreamVectorEnv(2, made)
    first, both = one.reset()[0], many.reset()[0]
    np.testing.assert_allclose([first, *both], expected[[0, 0, 0]], rtol=0, atol=1e-5)
    for step in range(8):
        observation, reward, *_ = one.step([0.5])
        observations, two, *_ = many.step([[0.5], [0.5]])
        np.testing.assert_allclose([observation, *observations], expected[[step + 1] * 3], rtol=0, atol=1e-5)
        np.testing.assert_allclose([reward, *two], rewards[step], rtol=0, atol=1e-5)
    population = jnp.full((1, 1), 0.5, jnp.float32)
    scores = population_returns(dream, Push(), params, made.starts, population, jax.random.key(0), rollouts=1)
    np.testing.assert_allclose(scores.returns, np.sum(rewards[:8]), rtol=0, atol=1e-4)


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
    assert c == 0.5 and sorted(whole) == sorted((c, z, chosen._episodes.state.world.h[0, 0]))


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


def test_frames_are_shown_at_the_tasks_speed():
    """By every way to an environment; the classes alone know no task."""
    assert "render_fps" not in DreamEnv.metadata and "render_fps" not in DreamVectorEnv.metadata
    gymnasium.register(
        "dream_test/Speed-v0", entry_point=make, vector_entry_point=lambda **settings: make_many(**settings)
    )
    for env in (
        make(),
        make_many(2),
        gymnasium.make("dream_test/Speed-v0"),
        gymnasium.wrappers.ClipAction(make()),
        gymnasium.make_vec("dream_test/Speed-v0", num_envs=2),
        gymnasium.make_vec("dream_test/Speed-v0", num_envs=2, vectorization_mode="sync"),
        gymnasium.wrappers.vector.ClipAction(make_many(2)),
    ):
        assert env.metadata["render_fps"] == 35


def test_frames_of_the_papers_model_are_what_the_decoder_makes_of_z():
    world = vision_memory(MemoryConfig(hidden_size=2), 1, 1)
    params = jax.jit(world.init)(jax.random.key(0))
    env = DreamEnv(
        DreamSource(Dream(world, DreamConfig()), params, recordings(), ("z",), frames_per_second=50),
        render_mode="rgb_array",
    )
    observation, _ = env.reset(seed=0)
    expected = np.asarray(jax.jit(world.vision.decode)(params["vision"], jnp.asarray(observation)) * 255)
    frame = env.render()
    assert frame is not None
    np.testing.assert_allclose(frame, expected, atol=0.51)
