"""The paper's world model does what V and M do by hand, has the paper's sizes, and says what it does not predict."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from wm_jax.experiment import Experiment, flatten, load
from wm_jax.memory import Memory, MemoryConfig, MemoryState, draw_noise, sample_mixture
from wm_jax.models import Models
from wm_jax.tasks import load_task
from wm_jax.vision import LatentStats, Vision, VisionConfig, sample
from wm_jax.worlds import World
from wm_jax.worlds.protocol import feature_sizes, shapes
from wm_jax.worlds.vision_memory import VisionMemory, VisionMemoryConfig, VisionMemoryState

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROBE = str(Path(__file__).parents[1] / "probe_task.py")
Z, H, A = 4, 6, 2
HEADS = MemoryConfig(
    hidden_size=H, mixtures=3, restart_input=True, predict_reward=True, predict_done=True, done_weight=10.0
)
MODEL = VisionMemory(Vision(VisionConfig(latent_size=Z, width=4)), Memory(HEADS, Z, A))
PARAMS = MODEL.init(jax.random.key(0))
VISION, MEMORY = PARAMS["vision"], PARAMS["memory"]


def new_key():
    return jax.random.key(5)


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_near(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


def with_heads(**changes: Any) -> VisionMemory:
    return replace(MODEL, memory=replace(MODEL.memory, config=replace(HEADS, **changes)))


def random_obs(seed: int, shape: tuple[int, ...] = ()) -> LatentStats:
    mean, log_var = jax.random.normal(jax.random.key(seed), (2, *shape, Z), jnp.float32)
    return LatentStats(mean.astype(jnp.float16), (log_var - 1).astype(jnp.float16))


def random_action(seed: int, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (*shape, A), minval=-1, maxval=1, dtype=jnp.float32)


def random_state(seed: int, restart: float = 0.0, shape: tuple[int, ...] = ()) -> VisionMemoryState:
    z_key, h_key, c_key = jax.random.split(jax.random.key(seed), 3)
    memory = MemoryState(
        jax.random.normal(h_key, (*shape, H), jnp.float32), jax.random.normal(c_key, (*shape, H), jnp.float32)
    )
    return VisionMemoryState(
        jax.random.normal(z_key, (*shape, Z), jnp.float32), memory, jnp.full(shape, restart, jnp.float32)
    )


def row(tree: Any, number: int) -> Any:
    return jax.tree.map(lambda array: array[number], tree)


def count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "vision", "memory", "features"),
    [
        ("car_racing", 4_348_547, 422_368, {"z": 32, "h": 256, "c": 256}),
        ("take_cover", 4_446_915, 1_678_785, {"z": 64, "h": 512, "c": 512}),
    ],
)
def test_the_papers_are_exact_to_the_parameter(name: str, vision: int, memory: int, features: dict[str, int]) -> None:
    models = Models(load(EXPERIMENTS / f"{name}.py"))
    params, obs, state = models.state_shapes
    assert {part: count(weights) for part, weights in params.items()} == {"vision": vision, "memory": memory}
    assert models.feature_sizes == features
    assert obs.mean.shape == obs.log_var.shape == state.z.shape == (features["z"],)
    assert models.world.action_size == models.task.action_size


def test_it_is_built_for_its_task_of_the_settings_of_V_and_M() -> None:
    config, task = VisionMemoryConfig(vision=VisionConfig(latent_size=7), memory=HEADS), load_task("car_racing")
    assert config.build(task) == VisionMemory(Vision(config.vision), Memory(HEADS, 7, 3, task.reward_range))
    assert hash(config.build(task)) == hash(config.build(task))
    assert Models(Experiment(task=PROBE, world=config)).world.action_size == 1


def test_V_learns_from_frames_then_M_from_what_V_makes_of_them() -> None:
    assert [(name, learner.reads) for name, learner in MODEL.learners.items()] == [
        ("vision", "frames"), ("memory", "observations"),
    ]  # fmt: skip
    assert [learner.model for learner in MODEL.learners.values()] == [MODEL.vision, MODEL.memory]
    assert list(PARAMS) == list(MODEL.learners)
    for number, (name, learner) in enumerate(MODEL.learners.items()):
        assert_same(PARAMS[name], learner.init(jax.random.fold_in(jax.random.key(0), number)))
    assert jax.tree.structure(shapes(MODEL)[0]) == jax.tree.structure(PARAMS)


def test_an_episode_begins_with_what_V_sees_and_nothing_remembered() -> None:
    obs = random_obs(1)
    state = MODEL.begin(PARAMS, obs, new_key())
    assert_same(
        state, VisionMemoryState(sample(obs, new_key()), MODEL.memory.initial_state(), jnp.ones((), jnp.float32))
    )


@pytest.mark.parametrize("restart", [0.0, 1.0])
def test_to_observe_is_to_feed_M_what_was_seen_and_done_and_to_sample_what_V_sees_now(restart: float) -> None:
    state, action, obs = random_state(2, restart), random_action(3), random_obs(4)
    after = MODEL.observe(PARAMS, state, action, obs, new_key())
    memory = MODEL.memory.advance(MEMORY, state.memory, state.z, action, jnp.asarray(restart))
    assert_same(after, VisionMemoryState(sample(obs, new_key()), memory, jnp.zeros((), jnp.float32)))


@pytest.mark.parametrize("restart", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.15])
def test_to_imagine_is_a_step_of_M_and_a_draw_from_its_mixture(restart: float, temperature: float) -> None:
    state, action, noise = random_state(2, restart), random_action(3), MODEL.noise(new_key())
    after, outcome = MODEL.imagine(PARAMS, state, action, noise, temperature)
    memory, prediction = MODEL.memory.step(MEMORY, state.memory, state.z, action, jnp.asarray(restart))
    z = sample_mixture(prediction.next_z, temperature, draw_noise(new_key(), (Z,)))
    assert_same(after, VisionMemoryState(z, memory, jnp.zeros((), jnp.float32)))
    assert_same(outcome.reward, prediction.reward)


@pytest.mark.parametrize("weight", [1.0, 10.0, 0.25])
def test_an_end_is_as_probable_as_M_says_without_its_weight_in_training(weight: float) -> None:
    model = with_heads(done_weight=weight)
    states, actions = random_state(6, shape=(200,)), random_action(7, (200,))
    noise = jax.vmap(model.noise)(jax.random.split(new_key(), 200))
    _, outcome = jax.vmap(model.imagine, (None, 0, 0, 0, None))(PARAMS, states, actions, noise, 1.0)
    step = jax.vmap(model.memory.step, (None, 0, 0, 0, 0))
    _, prediction = step(MEMORY, states.memory, states.z, actions, states.restart)
    assert outcome.end is not None and prediction.done_logit is not None
    logit = np.asarray(prediction.done_logit, np.float64)
    np.testing.assert_allclose(outcome.end, expit(logit - np.log(weight)), rtol=1e-5)
    # What was weighed is odds: those of the model are `weight` times too high.
    odds = np.asarray(outcome.end, np.float64) / (1 - np.asarray(outcome.end, np.float64))
    np.testing.assert_allclose(odds * weight, np.exp(logit), rtol=1e-4)
    assert 20 < (logit > 0).sum() < 180
    np.testing.assert_array_equal(outcome.end > model.end_threshold, logit > 0)


def test_M_is_told_of_the_first_frame_alone_and_its_state_is_that_of_the_whole_episode() -> None:
    """Observed or dreamt, state after state, as M reads a sequence in training."""
    obs, actions = random_obs(8, (5,)), random_action(9, (5,))
    keys = jax.random.split(new_key(), 5)
    states = [MODEL.begin(PARAMS, row(obs, 0), keys[0])]
    for t in range(1, 5):
        states.append(MODEL.observe(PARAMS, states[-1], actions[t - 1], row(obs, t), keys[t]))
    states.append(MODEL.imagine(PARAMS, states[-1], actions[4], MODEL.noise(new_key()), 1.0)[0])
    assert [float(state.restart) for state in states] == [1, 0, 0, 0, 0, 0]
    z = jnp.stack([state.z for state in states[:5]])[:, None]
    restart = jnp.array([1.0, 0, 0, 0, 0], jnp.float32)[:, None]
    last, h = MODEL.memory.unroll(MEMORY, MODEL.memory.initial_state((1,)), z, actions[:, None], restart)
    assert_near(jnp.stack([state.memory.h for state in states[1:]]), h[:, 0])
    assert_near(states[-1].memory.c, last.c[0])
    untold, _ = MODEL.memory.unroll(MEMORY, MODEL.memory.initial_state((1,)), z, actions[:, None], 0 * restart)
    assert np.abs(untold.h - last.h).max() > 1e-3, "M has an input for it"


def test_what_was_remembered_before_an_episode_does_not_matter() -> None:
    state, action, obs, noise = random_state(2, restart=1.0), random_action(3), random_obs(4), MODEL.noise(new_key())
    fresh = replace(state, memory=MODEL.memory.initial_state())
    seen, of_fresh = (MODEL.observe(PARAMS, each, action, obs, new_key()) for each in (state, fresh))
    assert_same(seen, of_fresh)
    dreamt, of_fresh = (MODEL.imagine(PARAMS, each, action, noise, 1.0) for each in (state, fresh))
    assert_same(dreamt, of_fresh)


def test_features_are_parts_of_the_state() -> None:
    state = random_state(2, shape=(3,))
    assert_same(MODEL.features(state), {"z": state.z, "h": state.memory.h, "c": state.memory.c})
    assert feature_sizes(MODEL) == {"z": Z, "h": H, "c": H}


def test_frames_are_encoded_and_drawn_by_V() -> None:
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
    assert_same(MODEL.encode(PARAMS, frames), MODEL.vision.encode(VISION, frames))
    # As the recordings are encoded, before M is there.
    assert_same(MODEL.encode({"vision": VISION}, frames), MODEL.vision.encode(VISION, frames))
    drawn = MODEL.frame(PARAMS, random_state(2))
    assert drawn.shape == (64, 64, 3) and drawn.dtype == jnp.float32
    assert_same(drawn, MODEL.vision.decode(VISION, random_state(2).z))


@pytest.mark.parametrize("reward", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_what_M_has_no_head_for_is_missing_and_says_how_to_have_it(reward: bool, end: bool) -> None:
    model = with_heads(predict_reward=reward, predict_done=end, predict_surprise=end)
    params = model.init(jax.random.key(1))
    _, outcome = model.imagine(params, random_state(2), random_action(3), model.noise(new_key()), 1.0)
    has_head = {"reward": reward, "end": end, "surprise": end}
    assert {name: getattr(outcome, name) is not None for name in has_head} == has_head
    expected = {
        "reward": "set world.memory.predict_reward to True",
        "end": "set world.memory.predict_done to True",
        "surprise": "set world.memory.predict_surprise to True",
    }
    assert dict(model.missing) == {name: expected[name] for name, has in has_head.items() if not has}
    settings = flatten(Experiment())
    assert all(words.split()[1] in settings for words in expected.values())


def test_what_its_numbers_mean_are_settings_of_its_own() -> None:
    settings = flatten(Experiment())
    assert VisionMemoryConfig.meaning
    assert all(f"world.{name}" in settings for name in VisionMemoryConfig.meaning)


def test_agents_are_an_axis_of_vmap() -> None:
    obs, actions = random_obs(1, (3,)), random_action(3, (3,))

    def keys():
        return jax.random.split(new_key(), 3)

    begun = jax.vmap(MODEL.begin, (None, 0, 0))(PARAMS, obs, keys())
    seen = jax.vmap(MODEL.observe, (None, 0, 0, 0, 0))(PARAMS, begun, actions, obs, keys())
    noise = jax.vmap(MODEL.noise)(keys())
    dreamt = jax.vmap(MODEL.imagine, (None, 0, 0, 0, None))(PARAMS, seen, actions, noise, 1.1)
    for i in range(3):
        one = row(obs, i)
        state = MODEL.begin(PARAMS, one, keys()[i])
        assert_near(row(begun, i), state)
        state = MODEL.observe(PARAMS, state, actions[i], one, keys()[i])
        assert_near(row(seen, i), state)
        alone = MODEL.imagine(PARAMS, state, actions[i], MODEL.noise(keys()[i]), 1.1)
        assert_near(row(dreamt, i), alone)


def test_a_world_is_its_model_with_weights() -> None:
    world, state, action = World(MODEL, PARAMS), random_state(2), random_action(3)
    frames = jnp.full((1, 64, 64, 3), 90, jnp.uint8)
    obs, noise = random_obs(4), MODEL.noise(new_key())
    assert_same(world.encode(frames), MODEL.encode(PARAMS, frames))
    assert_same(world.begin(obs, new_key()), MODEL.begin(PARAMS, obs, new_key()))
    assert_same(world.observe(state, action, obs, new_key()), MODEL.observe(PARAMS, state, action, obs, new_key()))
    assert_same(world.imagine(state, action, noise), MODEL.imagine(PARAMS, state, action, noise, 1.0))
    assert_same(world.imagine(state, action, noise, 0.5), MODEL.imagine(PARAMS, state, action, noise, 0.5))
    assert_same(world.features(state), MODEL.features(state))
    assert_same(world.frame(state), MODEL.frame(PARAMS, state))
    assert_same(jax.tree.leaves(world), jax.tree.leaves(PARAMS))


def test_c_may_read_what_m_expects_it_to_do():
    model = with_heads(predict_action=True)
    params = model.init(jax.random.key(0))
    assert "action" not in MODEL.features(MODEL.begin(PARAMS, random_obs(0), new_key()))
    begun = model.begin(params, random_obs(0), new_key())
    np.testing.assert_array_equal(model.features(begun)["action"], np.zeros(A))
    seen = model.observe(params, begun, random_action(1), random_obs(2), new_key())
    expected = np.asarray(model.memory.predict(params["memory"], seen.memory.h).action)
    np.testing.assert_allclose(model.features(seen)["action"], expected, rtol=1e-6)
    dreamt, _ = model.imagine(params, begun, random_action(1), model.noise(new_key()), 1.0)
    # M was fed the same, so that it expects the same.
    np.testing.assert_allclose(model.features(dreamt)["action"], expected, rtol=1e-5)
