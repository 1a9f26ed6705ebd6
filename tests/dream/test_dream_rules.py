from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from dream_probe import Line, Push, line_starts, vision_memory

from wm_jax.dream import ENDS, REWARDS, Dream, DreamConfig, population_returns
from wm_jax.errors import UserError
from wm_jax.memory import MemoryConfig
from wm_jax.types import Outcome
from wm_jax.vision import LatentStats


def new_key():
    return jax.random.key(7)


@pytest.fixture
def registries(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (REWARDS, ENDS):
        monkeypatch.setattr(registry, "_found", dict(registry._found))


@pytest.mark.parametrize("done_weight", [1.0, 10.0])
def test_the_threshold_is_where_memorys_done_logit_is_zero(done_weight):
    """The paper's rule, however much ends weighed in training."""
    world = vision_memory(MemoryConfig(hidden_size=4, predict_done=True, done_weight=done_weight), 2, 1)
    memory = world.memory.init(new_key())
    memory["head"]["kernel"] = memory["head"]["kernel"].at[:, -1].multiply(20.0)
    nothing = world.begin({}, LatentStats(jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32)), new_key())

    @jax.jit
    @jax.vmap
    def both(key):
        state, action = replace(nothing, z=3 * jax.random.normal(key, (2,), jnp.float32)), jnp.zeros(1, jnp.float32)
        outcome = world.imagine({"memory": memory}, state, action, world.noise(jax.random.clone(key)), 1.0)[1]
        prediction = world.memory.step(memory, state.memory, state.z, action, state.restart)[1]
        return prediction.done_logit, ENDS["threshold"](outcome, world), ENDS["drawn"](outcome, world)

    logit, ending, probability = both(jax.random.split(new_key(), 1000))
    assert 100 < (logit > 0).sum() < 900 and jnp.abs(logit).min() > 1e-5
    np.testing.assert_array_equal(ending, logit > 0)
    np.testing.assert_allclose(probability, 1 / (1 + done_weight * np.exp(-np.asarray(logit))), rtol=1e-4)


@pytest.mark.parametrize("logit", [-1e-3, 1e-3])
@pytest.mark.parametrize("done_weight", [0.01, 1.0, 10.0, 1e6])
def test_the_threshold_is_exact_whatever_the_weight(logit, done_weight):
    line = Line(wall=1.0 - logit, done_weight=done_weight)
    state = jax.tree.map(lambda array: array[0], line_starts(line, (1,))).replace(z=jnp.ones(1, jnp.float32))
    outcome = line.imagine({}, state, jnp.zeros(1, jnp.float32), jnp.zeros(1, jnp.float32), 1.0)[1]
    assert ENDS["threshold"](outcome, line) == (logit > 0)


def test_a_rule_of_ones_own_decides(registries):

    @REWARDS.register
    def halved(outcome, model):
        return outcome.reward / 2

    @ENDS.register
    def poor(outcome, model):
        return (outcome.reward < model.push / 2).astype(jnp.float32)

    assert {"halved", "predicted", "survival"} <= {*REWARDS.names()} and "poor" in ENDS.names()
    line = Line(push=0.25, spread=1e-6)
    dream = Dream(line, DreamConfig(horizon=50, reward="halved", end="poor"))
    dream.check()
    scores = population_returns(
        dream, Push(), {}, line_starts(line, (1,)), jnp.ones((1, 1), jnp.float32), new_key(), rollouts=1
    )
    # z = 0, 1/4, …, 1: the reward of the fifth step, 0, is the first below 1/8.
    np.testing.assert_array_equal(scores.lengths, 5)
    np.testing.assert_allclose(scores.returns, (1 + 0.75 + 0.5 + 0.25) / 2, atol=1e-3)


def test_a_rule_of_ones_own_that_finds_no_number_ends_the_dream(registries):

    @REWARDS.register
    def root(outcome, model):
        return jnp.sqrt(outcome.reward)

    line = Line(push=0.4, spread=1e-6)
    dream = Dream(line, DreamConfig(horizon=50, reward="root"))
    scores = population_returns(
        dream, Push(), {}, line_starts(line, (1,)), jnp.asarray([[1.0], [0.0]], jnp.float32), new_key(), rollouts=1
    )
    # z = 0, 0.4, 0.8, 1.2: the reward of the fourth step is the root of -0.2.
    np.testing.assert_array_equal(scores.lengths, [[4], [50]])
    np.testing.assert_allclose(scores.returns, [[-np.inf], [50]], rtol=1e-3)


def test_what_is_not_registered_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"dream\.reward must be one of .*survival.*'predictd'.*mean 'predicted'"):
        DreamConfig(reward="predictd")
    with pytest.raises(UserError, match=r"dream\.end must be one of drawn.* threshold, found 'drown'.*mean 'drawn'"):
        DreamConfig(end="drown")


def test_a_name_that_is_taken_is_refused(registries):
    def survival(outcome, model):
        return jnp.zeros((), jnp.float32)

    with pytest.raises(UserError, match=r"dream\.reward 'survival' of .*test_dream_rules.*rules\.py; rename"):
        REWARDS.register(survival)
    assert REWARDS["survival"](Outcome(None, None), Line()) == 1


def test_a_model_that_expects_no_end_dreams_on_for_ever():
    assert ENDS["threshold"](Outcome(None, None), Line()) == 0


@pytest.mark.parametrize(
    "settings, config, message",
    [
        ({"reward": "predicted"}, {}, r"dream\.reward is 'predicted' but .* reward .*world\.memory\.predict_reward"),
        ({"end": "drawn"}, {"predict_reward": True}, r"dream\.end is 'drawn' but .* end .*world\.memory\.predict_done"),
    ],
)
def test_a_rule_that_needs_what_the_model_does_not_predict_names_the_setting(settings, config, message):
    world = vision_memory(MemoryConfig(hidden_size=2, **config), 1, 1)
    with pytest.raises(UserError, match=message):
        Dream(world, DreamConfig(**settings)).check()
    line = Line(predicts=False)
    dream = Dream(line, DreamConfig(**settings))
    with pytest.raises(UserError, match=rf"dream\.{next(iter(settings))}.*set line\.predicts to True"):
        population_returns(dream, Push(), {}, line_starts(line), jnp.ones((1, 1), jnp.float32), new_key(), rollouts=1)


def test_rules_that_need_no_more_than_the_model_predicts_are_fine():
    Dream(vision_memory(MemoryConfig(hidden_size=2), 1, 1), DreamConfig()).check()
    Dream(Line(), DreamConfig(reward="predicted", end="drawn")).check()


def test_surprise_less_what_is_foreseen_is_what_the_model_does_not_know():
    """One Gaussian: its entropy is known. A model that expects just that loss is not surprised."""
    world = vision_memory(MemoryConfig(hidden_size=4, mixtures=1, predict_surprise=True), 2, 1)
    memory = world.memory.init(new_key())
    nothing = world.begin({}, LatentStats(jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32)), new_key())
    action = jnp.zeros(1, jnp.float32)
    log_stds = np.asarray(
        world.memory.step(memory, nothing.memory, nothing.z, action, nothing.restart)[1].next_z.log_stds
    )
    entropy = scipy.stats.norm(scale=np.exp(log_stds)).entropy().mean()
    memory["surprise"] = {"kernel": jnp.zeros((4, 1), jnp.float32), "bias": jnp.full(1, entropy + 0.5, jnp.float32)}

    @jax.jit
    @jax.vmap
    def rewards(key):
        outcome = world.imagine({"memory": memory}, nothing, action, world.noise(key), 1.0)[1]
        return REWARDS["surprise"](outcome, world), REWARDS["excess_surprise"](outcome, world)

    loss, excess = rewards(jax.random.split(new_key(), 4000))
    np.testing.assert_allclose(loss, entropy + 0.5, rtol=1e-5)
    np.testing.assert_allclose(excess.mean(), 0.5, atol=4 * excess.std() / np.sqrt(4000))
