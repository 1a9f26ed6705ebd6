from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_data import random_observations
from scipy import special, stats

from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig, Mixture, Prediction, log_likelihood
from wm_jax.memory import loss as loss_module
from wm_jax.memory.loss import gather, reward_loss, step_losses
from wm_jax.memory.loss import loss as eager_loss
from wm_jax.vision import LatentStats

pytestmark = pytest.mark.usefixtures("quick_compilation")

HEADS = MemoryConfig(
    hidden_size=7, mixtures=3, restart_input=True, predict_done=True, predict_reward=True, done_weight=10.0
)
MEMORY = Memory(HEADS, latent_size=3, action_size=2, reward_range=(-1.0, 0.5))
RECORDED = random_observations([5, 4, 6], [True, False, True])
ALL = jnp.arange(15)[None]

loss = jax.jit(eager_loss, static_argnums=0)


def test_log_likelihood_agrees_with_scipy():
    rng = np.random.default_rng(0)
    logits, means, log_stds = rng.normal(size=(3, 8, 5, 4))
    z = rng.normal(size=(8, 4)) * 3
    weights = special.softmax(logits, axis=1)
    density = (weights * stats.norm.pdf(z[:, None], means, np.exp(log_stds))).sum(axis=1)
    mixture = Mixture(*(jnp.asarray(a, jnp.float32) for a in (logits, means, log_stds)))
    np.testing.assert_allclose(
        log_likelihood(mixture, jnp.asarray(z, jnp.float32)), np.log(density), rtol=1e-5, atol=1e-5
    )


def test_log_likelihood_stays_finite_where_densities_underflow():
    mixture = Mixture(
        jnp.log(jnp.full((2, 1), 0.5, jnp.float32)), jnp.zeros((2, 1), jnp.float32), jnp.full((2, 1), -3.0, jnp.float32)
    )
    value, slope = jax.value_and_grad(lambda z: log_likelihood(mixture, z).sum())(jnp.array([30.0], jnp.float32))
    np.testing.assert_allclose(value, stats.norm.logpdf(30.0, 0, np.exp(-3.0)), rtol=1e-5)
    assert np.isfinite(slope).all()


def test_sequences_know_where_episodes_begin_and_end():
    sequences = gather(RECORDED, ALL, jax.random.key(0))
    frame = np.arange(15)
    np.testing.assert_array_equal(sequences.restart[:, 0], np.isin(frame, [0, 5, 9]))
    np.testing.assert_array_equal(sequences.has_next[:, 0], ~np.isin(frame, [4, 8, 14]))
    np.testing.assert_array_equal(sequences.done[:, 0], np.isin(frame, [4, 14]))
    np.testing.assert_array_equal(sequences.done_known[:, 0], frame != 8)
    np.testing.assert_array_equal(sequences.next_z[:-1], sequences.z[1:])
    np.testing.assert_array_equal(sequences.reward[:, 0], RECORDED.reward)
    np.testing.assert_array_equal(sequences.action[:, 0], RECORDED.action)


def test_z_is_drawn_from_the_posterior_and_the_next_is_that_of_the_next_frame():
    draws = jax.vmap(lambda key: gather(RECORDED, jnp.array([[2, 3]]), key))(jax.random.split(jax.random.key(1), 4000))
    for drawn, frame in [(draws.z[:, 0, 0], 2), (draws.z[:, 1, 0], 3), (draws.next_z[:, 1, 0], 4)]:
        mean, std = (
            np.asarray(array[frame], np.float32) for array in (RECORDED.encoded.mean, RECORDED.encoded.log_var)
        )
        std = np.exp(std / 2)
        np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - mean), 5 * std / np.sqrt(4000))
        np.testing.assert_allclose(drawn.std(axis=0), std, rtol=0.06)


def random_prediction(seed=0):
    rng = np.random.default_rng(seed)
    mixture = Mixture(*(jnp.asarray(a, jnp.float32) for a in rng.normal(size=(3, 15, 1, 3, 3))))
    reward, logit = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, 15, 1)) * 3)
    return Prediction(next_z=mixture, reward=reward, done_logit=logit)


def test_done_and_reward_losses_agree_with_numpy():
    prediction, sequences = random_prediction(), gather(RECORDED, ALL, jax.random.key(0))
    parts = step_losses(MEMORY, prediction, sequences)
    probability = special.expit(np.asarray(prediction.done_logit, np.float64))
    done = np.asarray(sequences.done)
    entropy = np.where(done, -10 * np.log(probability), -np.log1p(-probability))
    np.testing.assert_allclose(parts["done"][0], entropy, rtol=1e-5, atol=1e-6)
    error = (np.asarray(prediction.reward)[:, 0] - np.clip(np.asarray(RECORDED.reward), -1.0, 0.5)) ** 2
    np.testing.assert_allclose(parts["reward"][0][:, 0], error, rtol=1e-5, atol=1e-6)
    assert parts["reward"][1].all()


COUNTING = replace(MEMORY, config=replace(HEADS, reward_loss="poisson"), reward_range=(-0.5, 8.0))


def test_a_reward_counted_from_its_floor_costs_what_scipy_says():
    rate = np.array([0.02, 0.7, 3.1, 9.0])[:, None]
    count = np.arange(9)[None]
    predicted, reward = jnp.asarray(rate - 0.5, jnp.float32), jnp.asarray(count - 0.5, jnp.float32)
    cost = np.asarray(reward_loss(COUNTING, predicted, reward))
    np.testing.assert_allclose(
        cost, -stats.poisson.logpmf(count, rate) - special.gammaln(count + 1), rtol=1e-4, atol=1e-4
    )


def test_either_reward_loss_is_least_at_the_mean():
    rewards = jnp.array([-0.5, -0.5, -0.5, 2.7, 6.2], jnp.float32)
    guesses = jnp.linspace(-0.4, 4.0, 441, dtype=jnp.float32)
    for memory in (MEMORY, COUNTING):
        costs = jax.vmap(lambda guess, memory=memory: reward_loss(memory, guess, rewards).mean())(guesses)
        np.testing.assert_allclose(guesses[costs.argmin()], rewards.mean(), atol=0.006)


def test_a_counted_reward_is_predicted_above_its_floor_and_its_loss_pulls_it_to_what_came():
    params = COUNTING.init(jax.random.key(0))
    bias = params["head"]["bias"]

    def cost(output, reward):
        head = {"kernel": jnp.zeros_like(params["head"]["kernel"]), "bias": bias.at[-2].set(output)}
        prediction = COUNTING.predict({**params, "head": head}, jnp.zeros(7, jnp.float32))
        assert prediction.reward is not None
        return reward_loss(COUNTING, prediction.reward, reward), prediction.reward

    for output in (-60.0, -3.0, 0.0, 5.0):
        for reward, sign in ((-0.5, 1), (7.5, -1)):
            (value, predicted), slope = jax.value_and_grad(cost, has_aux=True)(output, reward)
            assert np.isfinite(value) and np.isfinite(slope)
            # At the floor itself nothing pulls.
            assert slope * sign > 0.04 if output > -60 else slope * sign >= 0
            np.testing.assert_allclose(predicted, -0.5 + np.logaddexp(0, output), rtol=1e-5)


def test_rewards_without_a_floor_cannot_be_counted():
    with pytest.raises(UserError, match="give its reward_range a lower bound"):
        replace(COUNTING, reward_range=(-np.inf, 8.0))
    with pytest.raises(UserError, match="reward_loss must be one of"):
        replace(HEADS, reward_loss="poison")


def total(recorded, memory=MEMORY, seed=2):
    params = memory.init(jax.random.key(seed))
    return loss(memory, params, memory.initial_state((1,)), gather(recorded, ALL, jax.random.key(0)))


def test_loss_averages_each_part_over_the_steps_that_count():
    params = MEMORY.init(jax.random.key(2))
    sequences = gather(RECORDED, ALL, jax.random.key(0))
    _, h = MEMORY.unroll(params, MEMORY.initial_state((1,)), sequences.z, sequences.action, sequences.restart)
    prediction = MEMORY.predict(params, h)
    parts = {name: np.asarray(part)[:, 0] for name, (part, _) in step_losses(MEMORY, prediction, sequences).items()}
    weighted = replace(MEMORY, config=replace(HEADS, reward_weight=0.25))
    value, (_, metrics) = total(RECORDED, weighted)
    frame = np.arange(15)
    expected = {
        "nll": -np.asarray(log_likelihood(prediction.next_z, sequences.next_z))[~np.isin(frame, [4, 8, 14])].mean(),
        "done": parts["done"][frame != 8].mean(),
        "reward": parts["reward"].mean(),
    }
    for name, mean in expected.items():
        np.testing.assert_allclose(metrics[name], mean, rtol=1e-5)
    np.testing.assert_allclose(value, expected["nll"] + expected["done"] + 0.25 * expected["reward"], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 15])
def test_working_in_chunks_makes_no_difference(steps, monkeypatch):
    params, sequences = MEMORY.init(jax.random.key(2)), gather(RECORDED, ALL, jax.random.key(0))
    state = jax.tree.map(lambda array: array + 0.1, MEMORY.initial_state((1,)))

    def found():
        return jax.jit(jax.value_and_grad(partial(eager_loss, MEMORY), argnums=(0, 1), has_aux=True))(
            params, state, sequences
        )

    whole = found()
    monkeypatch.setattr(loss_module, "_CHUNK_BYTES", 4 * steps * max(MEMORY.output_size, 4 * HEADS.hidden_size))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found(), whole)


def test_an_episodes_last_step_does_not_look_at_the_next_episode():
    mean = RECORDED.encoded.mean
    spread = jnp.full_like(RECORDED.encoded.log_var, -14.0)
    shown = jnp.arange(5)[None]

    def first_episode(mean):
        recorded = replace(RECORDED, encoded=LatentStats(mean=mean, log_var=spread))
        params = MEMORY.init(jax.random.key(2))
        return loss(MEMORY, params, MEMORY.initial_state((1,)), gather(recorded, shown, jax.random.key(0)))[0]

    assert first_episode(mean) == first_episode(mean.at[5].add(50))
    assert first_episode(mean) != first_episode(mean.at[4].add(1))


def test_the_action_that_follows_is_learnt_within_an_episode():
    predicting = replace(MEMORY, config=replace(HEADS, predict_action=True, action_weight=0.5))
    params, sequences = predicting.init(jax.random.key(2)), gather(RECORDED, ALL, jax.random.key(0))
    _, h = predicting.unroll(params, predicting.initial_state((1,)), sequences.z, sequences.action, sequences.restart)
    prediction = predicting.predict(params, h)
    # Between the reward and the end, which stay where they are.
    heads = np.asarray(h @ params["head"]["kernel"] + params["head"]["bias"][None, None])[..., -4:]
    np.testing.assert_allclose(np.asarray(prediction.action), np.tanh(heads[..., 1:3]), atol=1e-5)
    np.testing.assert_allclose(np.asarray(prediction.reward), heads[..., 0], atol=1e-5)
    np.testing.assert_allclose(np.asarray(prediction.done_logit), heads[..., 3], atol=1e-5)
    within = ~np.isin(np.arange(15), [4, 8, 14])
    following = np.roll(np.asarray(RECORDED.action), -1, axis=0)
    expected = ((np.asarray(prediction.action)[:, 0] - following) ** 2)[within].mean()
    value, (_, metrics) = loss(predicting, params, predicting.initial_state((1,)), sequences)
    np.testing.assert_allclose(metrics["action"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, metrics["nll"] + metrics["reward"] + metrics["done"] + expected / 2, rtol=1e-5)


def test_whether_a_cut_off_episode_would_have_ended_is_not_asked():
    params = MEMORY.init(jax.random.key(2))
    sequences = gather(RECORDED, ALL, jax.random.key(0))
    flipped = replace(sequences, done=sequences.done.at[8].set(True))
    state = MEMORY.initial_state((1,))
    assert loss(MEMORY, params, state, sequences)[0] == loss(MEMORY, params, state, flipped)[0]


def random_direction(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda array: jnp.asarray(rng.normal(size=array.shape)), params)


def moved(params, direction, size):
    return jax.tree.map(lambda array, way: array + size * way, params, direction)


def test_gradient_agrees_with_finite_differences():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: a.astype(jnp.float64), MEMORY.init(jax.random.key(2)))
        sequences = gather(RECORDED, ALL, jax.random.key(0))
        sequences = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, sequences)
        state = jax.tree.map(lambda a: a.astype(jnp.float64), MEMORY.initial_state((1,)))

        @jax.jit
        def value(params):
            return loss(MEMORY, params, state, sequences)[0]

        gradient = jax.jit(jax.grad(value))(params)
        for seed in range(5):
            direction = random_direction(params, seed)
            up, down = (value(moved(params, direction, size)) for size in (1e-6, -1e-6))
            slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            np.testing.assert_allclose((up - down) / 2e-6, slope, rtol=1e-5)


def test_that_M_learns_its_surprise_changes_nothing_else():
    """The head learns the loss itself, and nothing of that reaches the weights that predict."""
    surprised = replace(MEMORY, config=replace(HEADS, predict_surprise=True))
    params, sequences = surprised.init(jax.random.key(2)), gather(RECORDED, ALL, jax.random.key(0))
    state = surprised.initial_state((1,))
    _, h = surprised.unroll(params, state, sequences.z, sequences.action, sequences.restart)
    prediction = surprised.predict(params, h)
    within = ~np.isin(np.arange(15), [4, 8, 14])
    nll = -np.asarray(log_likelihood(prediction.next_z, sequences.next_z)).mean(axis=-1)[within, 0]
    (value, (_, metrics)), slope = jax.value_and_grad(loss, argnums=1, has_aux=True)(
        surprised, params, state, sequences
    )
    expected = np.asarray(prediction.surprise)[within, 0]
    np.testing.assert_allclose(metrics["surprise"], ((expected - nll) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(slope["surprise"]["bias"], [2 * (expected - nll).mean()], rtol=1e-4)
    plain = {name: params[name] for name in ("gates", "head")}
    alone, without = jax.value_and_grad(loss, argnums=1, has_aux=True)(MEMORY, plain, state, sequences)
    np.testing.assert_allclose(value, alone[0] + metrics["surprise"], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, {name: slope[name] for name in plain}, without)
