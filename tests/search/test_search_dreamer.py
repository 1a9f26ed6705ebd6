"""Dreamer's actor-critic on a world that can be worked out by hand."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Breaking, Line, Push, line_starts

from wm_jax.actors import protocol as actors
from wm_jax.actors.actor_critic import ActorCriticConfig, KeptCritic
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.search import SEARCHES, Dreams
from wm_jax.search.actor_critic import lambda_returns
from wm_jax.search.dreamer import KEPT, DreamerConfig
from wm_jax.worlds import World, WorldModel

pytestmark = pytest.mark.usefixtures("quick_compilation")

LINE = Line(push=0.2)
WALLED = Line(push=0.2, wall=2.0)
"""Whose dreams end by chance."""
RULES = DreamConfig(temperature=1.0, reward="predicted", end="drawn")
ACTOR = ActorCriticConfig(features=("z",), hidden_sizes=(8,))
CONFIG = DreamerConfig(dreams=32, horizon=6, discount=0.9, learning_rate=1e-2, entropy=1e-3)
STARTS = 7
PLACES = tuple(np.linspace(-2.5, -1.3, STARTS).tolist())


def new_key():
    return jax.random.key(2)


def dream(line: WorldModel = WALLED):
    return Dream(line, RULES, ((-1.0,), (0.0,), (1.0,)))


def search(line: WorldModel = WALLED, config=CONFIG, actor=ACTOR):
    return config.build(actor.build(dream(line)), dream(line), 200)


@cache
def table():
    return line_starts(LINE, (1,) * STARTS)


def starting(places=PLACES):
    return Dreams({}, replace(table(), z=jnp.asarray(places, jnp.float32)[:, None]), jnp.float32(1))


@partial(jax.jit, static_argnames="found")
def first(found, dreams):
    return found.init(new_key(), None, dreams.starts)


@partial(jax.jit, static_argnames=("found", "count"))
def iterate(found, state, dreams, number, key, count):
    return found.iterate(state, dreams, number, key, count)


@pytest.mark.parametrize("reinforce", [1.0, 0.0, 0.5])
def test_the_best_policy_of_the_line_is_found(reinforce):
    """It goes to 0 and stays there: by REINFORCE, by the gradient through the dream, and by both."""
    found = search(LINE, replace(CONFIG, reinforce=reinforce, dreams=64))
    dreams = starting(np.linspace(-1.5, 1.5, STARTS).tolist())
    state, outcome = first(found, dreams), []
    for number in range(0, 200, 50):
        state, metrics = iterate(found, state, dreams, number, new_key(), 50)
        outcome.append(float(metrics["outcome"].mean()))
    assert outcome[-1] > outcome[0] + 0.1
    policy = found.candidate(state)["policy"]
    z = jnp.asarray([[-1.5], [-0.3], [1.2]], jnp.float32)
    for _ in range(30):
        z += LINE.push * found.policy.distribution(policy, z, 0.0).mode()
    assert jnp.abs(z).max() < 0.2


def test_without_reinforce_the_objective_has_the_gradient_of_its_returns():
    """Through what is drawn, and through the probability of an end; by finite differences, the entropy's and the critic's
    parts aside."""
    config = replace(CONFIG, reinforce=0.0, entropy=0.0, scale_returns=False, dreams=8)
    found, dreams = search(config=config), starting()
    state = first(found, dreams)
    networks = jax.tree.map(lambda leaf: leaf + 0.3, state.networks)
    state = replace(state, slow=networks["critic"])

    @jax.jit
    def objective(controller):
        value, told = found.objective({**networks, "controller": controller}, state, dreams, new_key())
        return value, told

    @jax.jit
    def returns(controller):
        """Minus the mean return, weighed by the probability that the dream has come so far, which has no gradient, and in
        the rewards' own units."""
        imagined = found._imagine(controller, dreams, new_key())
        fixed = found._imagine(networks["controller"], dreams, new_key())
        left = jnp.zeros(imagined.ending.shape, bool)
        later = found.policy.value(networks["critic"], imagined.inputs[1:])
        outcome = lambda_returns(imagined.reward, later, imagined.ending, left, config.discount)
        going = jnp.cumprod(config.discount * (1 - fixed.ending), axis=0)
        weight = jnp.concatenate([jnp.ones_like(going[:1]), going[:-1]])
        return -(weight * outcome).mean() / (1 - config.discount)

    gradient = jax.grad(lambda p: objective(p)[0])(networks["controller"])
    center, size = np.asarray(actors.flat(networks["controller"])), 1e-2
    expected = np.array([
        (float(returns(actors.unflat(networks["controller"], center + step)))
         - float(returns(actors.unflat(networks["controller"], center - step)))) / (2 * size)
        for step in size * np.eye(len(center), dtype=np.float32)
    ])  # fmt: skip
    np.testing.assert_allclose(actors.flat(gradient), expected, rtol=2e-2, atol=1e-2 * np.abs(expected).max())


def test_reinforce_weighs_the_likelihood_by_the_scaled_advantage():
    config = replace(CONFIG, entropy=0.0, dreams=8)
    found, dreams = search(config=config), starting()
    state = first(found, dreams)
    value, told = found.objective(state.networks, state, dreams, new_key())
    imagined = found._imagine(state.networks["controller"], dreams, new_key())
    policy, critic = found.policy, state.networks["critic"]
    later = policy.value(critic, imagined.inputs[1:])
    outcome = lambda_returns(imagined.reward, later, imagined.ending, jnp.zeros_like(later, bool), 0.9)
    low, high = np.percentile(outcome, [5, 95])
    scale = max(high - low, 0.1)
    said = policy.value(critic, imagined.inputs[:-1])
    likelihood = policy.distribution(state.networks["controller"], imagined.inputs[:-1], 0.0).log_likelihood(
        imagined.drawn
    )
    weight = np.cumprod(np.concatenate([np.ones((1, 8)), 0.9 * (1 - imagined.ending[:-1])]), axis=0)
    expected = weight * (0.5 * ((said - outcome) / scale) ** 2 - (outcome - said) / scale * likelihood)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-3)
    np.testing.assert_allclose(told["spread"], high - low, rtol=1e-4)
    np.testing.assert_allclose(told["outcome"], outcome.mean(), rtol=1e-5)


@pytest.mark.parametrize("slow_critic", ["regularizer", "target"])
def test_the_slow_critic_draws_the_critic_or_tells_the_returns(slow_critic):
    found, dreams = search(config=replace(CONFIG, entropy=0.0, dreams=8, slow_critic=slow_critic)), starting()
    state = first(found, dreams)
    state = replace(state, slow=jax.tree.map(lambda leaf: leaf + 0.3, state.slow))
    _, told = found.objective(state.networks, state, dreams, new_key())
    imagined = found._imagine(state.networks["controller"], dreams, new_key())
    critic, value = state.networks["critic"], found.policy.value
    later = value(critic if slow_critic == "regularizer" else state.slow, imagined.inputs[1:])
    outcome = lambda_returns(imagined.reward, later, imagined.ending, jnp.zeros_like(later, bool), 0.9)
    np.testing.assert_allclose(told["outcome"], outcome.mean(), rtol=1e-5)

    def lost(critic):
        return found.objective({**state.networks, "critic": critic}, state, dreams, new_key())[0]

    said, slow = (value(weights, imagined.inputs[:-1]) for weights in (critic, state.slow))
    weight = np.cumprod(np.concatenate([np.ones((1, 8)), 0.9 * (1 - imagined.ending[:-1])]), axis=0)
    pull = (said - outcome) + ((said - slow) if slow_critic == "regularizer" else 0)
    # The last layer's bias moves all values alike.
    bias = jax.grad(lost)(critic)[-1].bias
    scale = max(float(told["spread"]), 0.1)
    np.testing.assert_allclose(bias, [(weight * pull).mean() / scale**2], rtol=1e-3)


def test_the_spread_is_a_moving_mean_of_that_of_the_returns():
    found, dreams = search(), starting()
    state = first(found, dreams)
    _, metrics = iterate(found, state, dreams, 0, new_key(), 3)
    assert metrics["spread"][0] > 0
    again = replace(state, spread=jnp.float32(5))
    _, after = iterate(found, again, dreams, 0, new_key(), 1)
    np.testing.assert_allclose(after["spread"], KEPT * 5 + (1 - KEPT) * metrics["spread"][0], rtol=1e-5)


def test_the_slow_critic_follows_when_it_is_due():
    found, dreams = search(config=replace(CONFIG, slow_rate=0.25, slow_every=2)), starting()
    state = first(found, dreams)
    begun = actors.flat(state.networks["critic"])
    np.testing.assert_array_equal(actors.flat(state.slow), begun)
    one, _ = iterate(found, state, dreams, 0, new_key(), 1)
    np.testing.assert_array_equal(actors.flat(one.slow), begun)
    two, _ = iterate(found, one, dreams, 1, new_key(), 1)
    np.testing.assert_allclose(
        actors.flat(two.slow), begun + 0.25 * (actors.flat(two.networks["critic"]) - begun), rtol=1e-5, atol=1e-7
    )


def test_a_search_that_goes_on_ends_as_one_that_never_stopped():
    found, dreams = search(), starting()
    state = first(found, dreams)
    whole, metrics = iterate(found, state, dreams, 0, new_key(), 4)
    half, before = iterate(found, state, dreams, 0, new_key(), 2)
    again, after = iterate(found, half, dreams, 2, new_key(), 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole, again)
    for name, values in metrics.items():
        np.testing.assert_allclose(values, np.concatenate([before[name], after[name]]), rtol=1e-4, atol=1e-6)
    assert {name for curve in found.curves for name in curve.metrics} | {found.watch} <= metrics.keys()


def test_what_is_deployed_keeps_its_critic_and_is_gone_on_with():
    found, dreams = search(), starting()
    state, _ = iterate(found, first(found, dreams), dreams, 0, new_key(), 2)
    weights = found.candidate(state)
    assert isinstance(found.actor, KeptCritic) and weights.keys() == {"policy", "critic"}
    begun = found.init(new_key(), weights, dreams.starts)
    jax.tree.map(np.testing.assert_array_equal, begun.networks, state.networks)
    np.testing.assert_array_equal(actors.flat(begun.slow), actors.flat(state.networks["critic"]))
    one = jax.tree.map(lambda array: array[0], dreams.starts)
    action, _ = found.actor.act(weights, World(WALLED, {}), one, None, new_key())
    np.testing.assert_allclose(action, found.policy.distribution(weights["policy"], one.z, 0.0).mode())


def test_a_generation_that_breaks_teaches_nothing_and_is_counted():
    """Adam's moments and the slow critic stay, too; they are no longer those of the beginning."""
    found, dreams = search(Breaking(push=0.2, value=float("inf"))), starting((2.0,) * STARTS)
    sound = search()
    state, _ = iterate(sound, first(sound, starting()), starting(), 0, new_key(), 3)
    after, metrics = iterate(found, state, dreams, 3, new_key(), 1)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert metrics["non_finite"].tolist() == [1]
    assert all(np.isfinite(values).all() for values in metrics.values())


def test_what_cannot_be_learned_is_refused():
    discrete = replace(ACTOR, distribution="categorical")
    search(actor=discrete)
    with pytest.raises(UserError, match=r"search\.reinforce is 0\.5, but no gradient passes .* set it to 1"):
        search(config=replace(CONFIG, reinforce=0.5), actor=discrete)
    counted = replace(dream(), config=DreamConfig(reward="survival", end="threshold"))
    CONFIG.build(ACTOR.build(counted), counted, 1)
    with pytest.raises(UserError, match=r"search\.kind dreamer needs a return with a gradient"):
        replace(CONFIG, reinforce=0.5).build(ACTOR.build(counted), counted, 1)
    with pytest.raises(UserError, match=r"search\.kind dreamer .* kind actor_critic or policy"):
        CONFIG.build(Push(), dream(), 1)
    assert SEARCHES["dreamer"] is DreamerConfig


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"horizon": 0}, r"search\.horizon must be"),
        ({"reinforce": 1.5}, r"search\.reinforce must be between 0"),
        ({"slow_rate": -0.1}, r"search\.slow_rate must be"),
        ({"slow_critic": "none"}, r"search\.slow_critic must be one of"),
        ({"slow_every": 0}, r"search\.slow_every must be"),
        ({"entropy": -1.0}, r"search\.entropy must be"),
        ({"discount": 1.0}, r"search\.discount must be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        DreamerConfig(**settings)
