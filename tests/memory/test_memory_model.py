from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig, MemoryState
from wm_jax.optimizers import OptimizerConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

CAR_RACING = Memory(MemoryConfig(), latent_size=32, action_size=3)
TAKE_COVER = Memory(
    MemoryConfig(hidden_size=512, restart_input=True, predict_done=True, done_weight=10.0),
    latent_size=64,
    action_size=1,
)
SMALL = Memory(
    MemoryConfig(hidden_size=6, mixtures=4, restart_input=True, predict_done=True, predict_reward=True),
    latent_size=3,
    action_size=2,
)


@pytest.mark.parametrize(("memory", "count"), [(CAR_RACING, 422_368), (TAKE_COVER, 1_678_785)])
def test_the_papers_networks_are_exact_to_the_parameter(memory, count):
    shapes = jax.eval_shape(memory.init, jax.random.key(0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_new_memory_forgets_nothing_and_is_glorot_uniform():
    params = CAR_RACING.init(jax.random.key(0))
    bias, kernel = np.asarray(params["gates"]["bias"]).reshape(4, 256), np.asarray(params["gates"]["kernel"])
    np.testing.assert_array_equal(bias, np.array([0, 1, 0, 0])[:, None] * np.ones(256))
    limit = np.sqrt(6 / (kernel.shape[0] + kernel.shape[1]))
    assert limit * 0.99 < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.01)


def random_inputs(memory, shape, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(*shape, memory.latent_size)).astype(np.float32)
    action = rng.uniform(-1, 1, size=(*shape, memory.action_size)).astype(np.float32)
    restart = (rng.random(shape) < 0.3).astype(np.float32)
    return jnp.asarray(z), jnp.asarray(action), jnp.asarray(restart)


def random_state(memory, shape, seed=1):
    h, c = np.random.default_rng(seed).normal(size=(2, *shape, memory.config.hidden_size)).astype(np.float32)
    return MemoryState(h=jnp.asarray(h), c=jnp.asarray(c))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(params, state, z, action, restart):
    """An LSTM step written by hand, unit by unit of the batch, in float64."""
    kernel, bias = (np.asarray(params["gates"][name], np.float64) for name in ("kernel", "bias"))
    new_h, new_c = [], []
    for b in range(len(z)):
        h, c = (np.asarray(array[b], np.float64) * (1 - restart[b]) for array in (state.h, state.c))
        gates = np.concatenate([z[b], action[b], [restart[b]], h]) @ kernel + bias
        hidden = len(h)
        enter, keep, new, leave = (gates[k * hidden : (k + 1) * hidden] for k in range(4))
        new_c.append(sigmoid(keep) * c + sigmoid(enter) * np.tanh(new))
        new_h.append(sigmoid(leave) * np.tanh(new_c[-1]))
    return np.array(new_h), np.array(new_c)


def test_step_is_an_lstm_and_zeroes_its_state_at_a_restart():
    params, state = SMALL.init(jax.random.key(3)), random_state(SMALL, (9,))
    z, action, restart = random_inputs(SMALL, (9,))
    assert 0 < restart.sum() < 9
    after, prediction = SMALL.step(params, state, z, action, restart)
    h, c = numpy_step(params, state, np.asarray(z), np.asarray(action), np.asarray(restart))
    np.testing.assert_allclose(after.h, h, atol=1e-6)
    np.testing.assert_allclose(after.c, c, atol=1e-6)
    outputs = h @ np.asarray(params["head"]["kernel"], np.float64) + np.asarray(params["head"]["bias"])
    parts = outputs[:, : 3 * 4 * 3].reshape(9, 3, 4, 3)
    np.testing.assert_allclose(prediction.next_z.means, parts[:, 1], atol=1e-6)
    np.testing.assert_allclose(prediction.next_z.log_stds, parts[:, 2], atol=1e-6)
    weights = np.exp(parts[:, 0]) / np.exp(parts[:, 0]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(prediction.next_z.log_weights), weights, atol=1e-6)
    assert prediction.reward is not None and prediction.done_logit is not None
    np.testing.assert_allclose(prediction.reward, outputs[:, -2], atol=1e-6)
    np.testing.assert_allclose(prediction.done_logit, outputs[:, -1], atol=1e-6)


def test_restart_erases_the_past():
    params = SMALL.init(jax.random.key(0))
    z, action, _ = random_inputs(SMALL, (4,))
    after = SMALL.advance(params, random_state(SMALL, (4,)), z, action, jnp.ones(4, bool))
    fresh = SMALL.advance(params, SMALL.initial_state((4,)), z, action, jnp.ones(4, bool))
    jax.tree.map(np.testing.assert_array_equal, after, fresh)


@pytest.mark.parametrize("memory", [SMALL, Memory(MemoryConfig(hidden_size=5), latent_size=2, action_size=1)])
def test_one_agent_and_a_batch_see_the_same_and_absent_heads_are_none(memory):
    params, state = memory.init(jax.random.key(0)), random_state(memory, (3,))
    inputs = random_inputs(memory, (3,))
    batch = memory.step(params, state, *inputs)
    one = memory.step(params, jax.tree.map(lambda a: a[1], state), *(array[1] for array in inputs))
    jax.tree.map(lambda many, single: np.testing.assert_allclose(many[1], single, atol=1e-6), batch, one)
    assert (batch[1].reward is not None) == memory.config.predict_reward
    assert (batch[1].done_logit is not None) == memory.config.predict_done


def test_unroll_is_advance_step_by_step_and_may_be_cut_anywhere():
    params, state = SMALL.init(jax.random.key(2)), random_state(SMALL, (5,))
    z, action, restart = random_inputs(SMALL, (12, 5))
    last, h = SMALL.unroll(params, state, z, action, restart)
    stepped = state
    for t in range(12):
        stepped = SMALL.advance(params, stepped, z[t], action[t], restart[t])
        np.testing.assert_allclose(h[t], stepped.h, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), last, stepped)
    middle, first_part = SMALL.unroll(params, state, z[:7], action[:7], restart[:7])
    end, second_part = SMALL.unroll(params, middle, z[7:], action[7:], restart[7:])
    np.testing.assert_allclose(jnp.concatenate([first_part, second_part]), h, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), end, last)


def test_unrolls_derivative_is_that_of_the_steps():
    params, state = SMALL.init(jax.random.key(2)), random_state(SMALL, (5,))
    z, action, restart = random_inputs(SMALL, (8, 5))
    mix = jnp.asarray(np.random.default_rng(7).normal(size=(8, 5, 6)).astype(np.float32))

    def unrolled(params, state, z):
        last, h = SMALL.unroll(params, state, z, action, restart)
        return jnp.sum(h * mix) + jnp.sum(last.c**2) + jnp.sum(last.h)

    def stepped(params, state, z):
        total = 0.0
        for t in range(8):
            state = SMALL.advance(params, state, z[t], action[t], restart[t])
            total += jnp.sum(state.h * mix[t])
        return total + jnp.sum(state.c**2) + jnp.sum(state.h)

    fast = jax.jit(jax.grad(unrolled, argnums=(0, 1, 2)))(params, state, z)
    plain = jax.jit(jax.grad(stepped, argnums=(0, 1, 2)))(params, state, z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), fast, plain)
    assert np.abs(fast[0]["gates"]["kernel"]).max() > 0.1


@pytest.mark.parametrize(
    "setting", ["hidden_size", "mixtures", "batch_size", "sequence_length", "steps", "later_steps", "done_weight"]
)
def test_impossible_settings_are_refused_by_name(setting):
    with pytest.raises(UserError, match=rf"^world\.memory\.{setting} must be"):
        replace(MemoryConfig(), **{setting: -1 if "steps" in setting else 0})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("learning_rate", 0.0), ("schedule", "linear"), ("final_learning_rate", 1.0), ("decay", 1.1), ("clip", 0.0)],
)
def test_impossible_settings_of_the_optimizer_are_refused_by_full_name(setting, value):
    with pytest.raises(UserError, match=rf"^world\.memory\.optimizer\.{setting} must be"):
        MemoryConfig(optimizer=replace(OptimizerConfig(), **{setting: value}))
