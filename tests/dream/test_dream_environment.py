from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Breaking, Line, line_starts, vision_memory

from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.memory import MemoryConfig, sample_mixture
from wm_jax.vision import LatentStats

pytestmark = pytest.mark.usefixtures("quick_compilation")


def new_key():
    return jax.random.key(7)


def begun(dream, lengths=(4, 6)):
    """A dream on a first frame, its z sampled from a narrow posterior."""
    return dream.reset(line_starts(dream.model, lengths), new_key())


def at(state, z):
    """A dream of a `Line` that stands at `z`."""
    return replace(state, world=replace(state.world, z=jnp.full(1, z, jnp.float32)))


def step(dream, state, action, params=None):
    return jax.jit(dream.step)(params or {}, state, jnp.asarray(action), dream.noise(new_key()))


def ends(dream, state, count):
    """Whether each of so many steps from the same state ended the dream."""
    keys = jax.random.split(new_key(), count)
    return jax.jit(jax.vmap(lambda key: dream.step({}, state, jnp.zeros(1, jnp.float32), dream.noise(key))[2]))(keys)


def test_the_model_imagines_from_the_state_that_the_action_was_chosen_in():
    dream = Dream(Line(), DreamConfig())
    before = begun(dream)
    after, *_ = step(dream, before, [0.25])
    assert after.world.h == before.world.z and after.world.c == 0.25 and after.world.age == 1
    assert before.steps == 0 and after.steps == 1
    np.testing.assert_allclose(after.world.z, before.world.z + 0.125, atol=0.1)
    features = dream.features(after)
    assert features["z"] is after.world.z and features["h"] is after.world.h and features["c"] is after.world.c


def test_a_step_of_the_papers_model_is_memorys_step_and_a_draw_from_what_it_predicts():
    config = MemoryConfig(hidden_size=4, predict_done=True, predict_reward=True, restart_input=True)
    world = vision_memory(config, 3, 2)
    params = {"memory": world.memory.init(new_key())}
    dream = Dream(world, DreamConfig(reward="predicted", temperature=1.3))
    start = world.begin({}, LatentStats(jnp.zeros(3, jnp.float32), jnp.zeros(3, jnp.float32)), new_key())
    state = dream.reset(jax.tree.map(lambda array: array[None], start), new_key())
    action = jnp.array([0.3, -0.7], jnp.float32)
    after, reward, terminated, truncated = step(dream, state, action, params)
    z = state.world.z
    expected, prediction = jax.jit(world.memory.step)(params["memory"], state.world.memory, z, action, jnp.float32(1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), after.world.memory, expected)
    assert prediction.done_logit is not None
    np.testing.assert_allclose(reward, prediction.reward, rtol=1e-5)
    assert terminated == (prediction.done_logit > 0) and not truncated
    noise = dream.noise(new_key()).world
    np.testing.assert_allclose(after.world.z, jax.jit(sample_mixture)(prediction.next_z, 1.3, noise), rtol=1e-5)
    assert after.world.restart == 0


@pytest.mark.parametrize("wall, terminated", [(1.0, False), (0.99, True)])
def test_an_end_is_thresholded_and_not_drawn(wall, terminated):
    dream = Dream(Line(wall=wall), DreamConfig(temperature=50.0))
    assert (ends(dream, at(begun(dream, (1,)), 1.0), 100) == terminated).all()


def test_an_end_is_drawn_with_the_probability_that_the_model_was_taught_without_its_weight():
    """It was shown each end 10 times as often as it comes: its odds are 10 times too high."""
    dream = Dream(Line(wall=0.0, done_weight=10.0), DreamConfig(end="drawn"))
    state = at(begun(dream, (1,)), 1.0)
    probability = np.e / (np.e + 10)
    ending = dream.prospect({}, state, jnp.zeros(1, jnp.float32), dream.noise(new_key()).world)[2]
    np.testing.assert_allclose(ending, probability, rtol=1e-6)
    count = 10000
    found = ends(dream, state, count).mean()
    np.testing.assert_allclose(found, probability, atol=4 * (probability * (1 - probability) / count) ** 0.5)


def test_what_is_drawn_of_the_end_leaves_the_rest_as_it_is():
    after = []
    for end in ("threshold", "drawn"):
        dream = Dream(Line(spread=1.0), DreamConfig(end=end))
        after.append(step(dream, begun(dream), [0.5])[0].world.z)
    assert after[0] == after[1]


def test_the_horizon_truncates_and_an_end_there_stays_an_end():
    dream = Dream(Line(wall=0.5), DreamConfig(horizon=3))
    state = before = begun(dream, (1,))
    for expected in (False, False, True):
        before = state
        state, reward, terminated, truncated = step(dream, state, [0.0])
        assert (bool(terminated), bool(truncated), float(reward)) == (False, expected, 1.0)
    _, _, terminated, truncated = step(dream, at(before, 1.0), [0.0])
    assert terminated and not truncated


def test_a_dream_is_over_when_there_is_nothing_left_to_earn():
    dream = Dream(Line(wall=0.5), DreamConfig(horizon=3, full_return=2.5))
    state = begun(dream, (1,))
    for earned, over in ((1.0, False), (2.0, False), (3.0, True)):
        state, _, terminated, truncated = step(dream, state, [0.0])
        assert (float(state.earned), bool(terminated), bool(truncated)) == (earned, over, False)


@pytest.mark.parametrize("end", ["threshold", "drawn"])
@pytest.mark.parametrize(("part", "value"), [("z", np.nan), ("z", -np.inf), ("reward", np.nan), ("end", np.nan)])
def test_a_dream_whose_numbers_are_no_longer_finite_ends_with_the_lowest_return(part, value, end):
    """Even where nobody asks for the number that is not: neither the reward nor, of z, the end."""
    dream = Dream(Breaking(part=part, value=value), DreamConfig(end=end, full_return=5.0))
    state = begun(dream, (1,))
    after, reward, terminated, truncated = step(dream, state, [0.5])
    assert (float(reward), float(after.earned), bool(terminated), bool(truncated)) == (1, 1, False, False)
    after, reward, terminated, truncated = step(dream, state, [3.0])
    assert (float(reward), float(after.earned), bool(terminated), bool(truncated)) == (-np.inf, -np.inf, True, False)
    assert dream.prospect({}, state, jnp.full(1, 3.0, jnp.float32), dream.noise(new_key()).world)[2] == 1


def test_it_ends_too_where_the_model_expects_neither_a_reward_nor_an_end():
    dream = Dream(Breaking(predicts=False), DreamConfig())
    _, reward, terminated, _ = step(dream, begun(dream, (1,)), [3.0])
    assert reward == -np.inf and terminated


def test_a_temperature_given_to_step_stands_in_for_the_setting():
    cold, hot = (Dream(Line(), DreamConfig(temperature=t)) for t in (0.5, 2.0))
    state, noise = begun(cold), cold.noise(new_key())
    z = jax.jit(jax.vmap(lambda t: cold.step({}, state, jnp.ones(1, jnp.float32), noise, t)[0].world.z))(
        jnp.array([0.5, 2.0], jnp.float32)
    )
    np.testing.assert_allclose(z[0], step(cold, state, [1.0])[0].world.z, rtol=1e-6)
    np.testing.assert_allclose(z[1], step(hot, state, [1.0])[0].world.z, rtol=1e-6)
    assert z[0] != z[1]


def test_half_the_bits_are_of_matrices_alone():
    params = {
        "kernel": jnp.ones((2, 3), jnp.float32),
        "bias": jnp.ones(3, jnp.float32),
        "scale": jnp.ones((), jnp.float32),
    }
    narrow = Dream(Line(), DreamConfig(precision="bfloat16")).prepare(params)
    assert {name: array.dtype.name for name, array in narrow.items()} == {
        "kernel": "bfloat16", "bias": "float32", "scale": "float32",
    }  # fmt: skip
    assert Dream(Line(), DreamConfig()).prepare(params) is params


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.0},
        {"horizon": 0},
        {"start": "last"},
        {"episodes": 0},
        {"full_return": -1.0},
        {"reward": "none"},
        {"end": "none"},
        {"precision": "float16"},
    ],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"dream\.{next(iter(setting))}"):
        DreamConfig(**setting)
