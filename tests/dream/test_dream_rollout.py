from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from dream_probe import Line, recordings

from wm_jax.controller import Controller, PolicyConfig
from wm_jax.dream import Dream, DreamConfig, DreamFitness, population_returns, trajectory
from wm_jax.memory import Memory, MemoryConfig

KEY = jax.random.key(3)
MEMORY = Memory(
    MemoryConfig(hidden_size=8, mixtures=3, predict_done=True, predict_reward=True, restart_input=True), 4, 2
)
POLICY = Controller(PolicyConfig("zhc"), latent_size=4, hidden_size=8, action_size=2)
LATENTS = recordings((5, 7, 3), latent_size=4, action_size=2, log_var=0.0)
POPULATION = jax.random.normal(jax.random.key(1), (5, POLICY.size))


def mortal_params():
    """Weights of M with which dreams end after some steps, soon or late."""
    params = MEMORY.init(jax.random.key(11))
    params["head"]["kernel"] = params["head"]["kernel"].at[:, -1].multiply(4.0)
    params["head"]["bias"] = params["head"]["bias"].at[-1].set(-1.2)
    return params


def push(weights, features):
    """A policy that moves by its one weight, whatever it sees."""
    return weights


def played_one_by_one(dream, params, population, rollouts):
    """Returns and lengths [P, R], dream after dream and step by step in Python."""
    reset, step, act = jax.jit(dream.reset), jax.jit(dream.step), jax.jit(POLICY)
    returns, lengths = np.zeros((2, len(population), rollouts))
    for p, r in np.ndindex(returns.shape):
        reset_key, noise_key = jax.random.split(jax.random.fold_in(KEY, r))
        state, over, number = reset(params, LATENTS, reset_key), False, 0
        while not over:
            action = act(population[p], state.features)
            noise = jax.random.fold_in(noise_key, number)
            state, reward, terminated, truncated = step(params, state, action, noise)
            returns[p, r], number, over = returns[p, r] + float(reward), number + 1, bool(terminated | truncated)
        lengths[p, r] = number
    return returns, lengths


def test_scores_are_those_of_a_plain_loop():
    dream, params = Dream(MEMORY, DreamConfig(horizon=70, reward="predicted")), mortal_params()
    scores = population_returns(dream, POLICY, params, LATENTS, POPULATION, KEY, rollouts=3)
    returns, lengths = played_one_by_one(dream, params, POPULATION, 3)
    np.testing.assert_array_equal(scores.lengths, lengths)
    np.testing.assert_allclose(scores.returns, returns, rtol=1e-4, atol=1e-4)
    assert len(np.unique(scores.lengths)) > 1, "the dreams must differ for this test to say something"
    assert scores.lengths.max() > 50, "some dream must outlive a look at who is alive"


def test_stopping_early_changes_no_score():
    dream, params = Dream(MEMORY, DreamConfig(horizon=120)), mortal_params()
    scores = population_returns(dream, POLICY, params, LATENTS, POPULATION, KEY, rollouts=2)
    play = partial(trajectory, dream, POLICY, params, LATENTS, steps=120)
    for r in range(2):
        terminated = np.stack([play(one, jax.random.fold_in(KEY, r)).terminated for one in POPULATION])
        first = np.where(terminated.any(axis=1), terminated.argmax(axis=1) + 1, 120)
        np.testing.assert_array_equal(scores.lengths[:, r], first)
        np.testing.assert_array_equal(scores.returns[:, r], first)


def test_a_population_that_is_dead_is_not_dreamt_on():
    dream = Dream(Line(push=1.0, wall=4.5), DreamConfig(horizon=2_000_000_000))
    scores = population_returns(dream, push, {}, recordings((1,)), jnp.array([[1.0], [-1.0]]), KEY, rollouts=2)
    # z = 0, 1, 2, 3, 4, 5: the step from 5 is the sixth.
    np.testing.assert_array_equal(scores.lengths, 6)
    np.testing.assert_array_equal(scores.returns, 6)


def test_rewards_after_the_end_count_nothing():
    dream = Dream(Line(push=0.25, noise=1e-6, wall=0.4), DreamConfig(horizon=50, reward="predicted"))
    scores = population_returns(dream, push, {}, recordings((1,)), jnp.ones((1, 1)), KEY, rollouts=1)
    np.testing.assert_allclose(scores.returns, 1.0 + 0.75 + 0.5, atol=1e-3)


def test_the_horizon_need_not_be_a_multiple_of_the_looks():
    for horizon in (1, 51):
        dream = Dream(Line(), DreamConfig(horizon=horizon))
        scores = population_returns(dream, push, {}, recordings(), jnp.zeros((2, 1)), KEY, rollouts=3)
        np.testing.assert_array_equal(scores.lengths, horizon)


def test_all_candidates_meet_the_same_starts_and_noise():
    dream = Dream(Line(noise=0.3), DreamConfig(horizon=20, reward="predicted"))
    same = population_returns(dream, push, {}, recordings(), jnp.full((3, 1), 0.1), KEY, rollouts=4).returns
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])
    assert len(np.unique(same[0])) == 4


def test_fitness_is_the_mean_over_rollouts():
    dream = Dream(Line(noise=0.3), DreamConfig(horizon=20, reward="predicted"))
    arguments = ({}, recordings(), jnp.array([[0.1], [-0.2]]), KEY)
    scores = population_returns(dream, push, *arguments, rollouts=4)
    np.testing.assert_allclose(DreamFitness(dream, push, 4)(*arguments), scores.returns.mean(axis=1), rtol=1e-6)


def test_nothing_is_traced_again_for_new_numbers():
    traces, counts = [], []

    def policy(weights, features):
        traces.append(None)
        return weights

    for seed in range(3):
        dream = Dream(Line(), DreamConfig(horizon=5))
        temperature = jnp.float32(1.0 + seed)
        population = jnp.full((2, 1), 0.1 * seed)
        key = jax.random.key(seed)
        population_returns(dream, policy, {}, recordings(), population, key, rollouts=2, temperature=temperature)
        counts.append(len(traces))
    assert counts == counts[:1] * 3


def test_a_trajectory_is_what_the_agent_saw_did_and_got():
    dream = Dream(Line(noise=1e-6), DreamConfig(reward="predicted"))
    film = trajectory(dream, push, {}, recordings((1,)), jnp.ones(1), KEY, steps=4)
    np.testing.assert_allclose(film.z[:, 0], [0, 0.5, 1, 1.5], atol=1e-3)
    np.testing.assert_allclose(film.action[:, 0], 1)
    np.testing.assert_allclose(film.reward, [1, 0.5, 0, -0.5], atol=1e-3)
    assert not film.terminated.any()
