from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, recordings
from scipy.stats import rankdata

from wm_jax.controller import Controller, PolicyConfig
from wm_jax.dream import Dream, DreamConfig, DreamFitness, population_returns, rollout, trajectory
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


@pytest.mark.parametrize("end, done_weight", [("threshold", 10.0), ("drawn", 200.0)])
def test_scores_are_those_of_a_plain_loop(end, done_weight):
    memory = replace(MEMORY, config=replace(MEMORY.config, done_weight=done_weight))
    dream, params = Dream(memory, DreamConfig(horizon=70, reward="predicted", end=end)), mortal_params()
    scores = population_returns(dream, POLICY, params, LATENTS, POPULATION, KEY, rollouts=3)
    returns, lengths = played_one_by_one(dream, params, POPULATION, 3)
    np.testing.assert_array_equal(scores.lengths, lengths)
    np.testing.assert_allclose(scores.returns, returns, rtol=1e-4, atol=1e-4)
    assert len(np.unique(scores.lengths)) > 1, "the dreams must differ for this test to say something"
    assert scores.lengths.max() > 50, "some dream must outlive a look at who is alive"


def test_scores_do_not_depend_on_the_blocks_that_lanes_go_forward_in(monkeypatch):
    params = mortal_params()
    together = population_returns(
        Dream(MEMORY, DreamConfig(horizon=90)), POLICY, params, LATENTS, POPULATION, KEY, rollouts=7
    )
    assert len(np.unique(together.lengths)) > 5, "lanes must end at different times"
    monkeypatch.setattr(rollout, "CPU_BLOCKS", (8, 4, 2))
    # Another temperature compiles nothing anew; another recipe does, and looks the blocks up again.
    parted = Dream(MEMORY, DreamConfig(horizon=90, temperature=1.0))
    parted = population_returns(
        parted, POLICY, params, LATENTS, POPULATION, KEY, rollouts=7, temperature=jnp.float32(1.15)
    )
    np.testing.assert_array_equal(parted.lengths, together.lengths)
    np.testing.assert_allclose(parted.returns, together.returns)


def test_lanes_whose_dream_is_over_are_not_played_on(monkeypatch):
    monkeypatch.setattr(rollout, "CPU_BLOCKS", (64, 8))
    played = []

    def counted(weights, features):
        jax.debug.callback(lambda z: played.append(None), features.z)
        return weights

    # One stays at home for 320 steps, the others are beyond the wall after 6.
    population = jnp.ones((64, 1)).at[17].set(0)
    dream = Dream(Line(push=1.0, wall=4.5), DreamConfig(horizon=320))
    scores = population_returns(dream, counted, {}, recordings((1,)), population, KEY, rollouts=1)
    jax.effects_barrier()
    np.testing.assert_array_equal(scores.lengths[:, 0], np.where(np.arange(64) == 17, 320, 6))
    assert len(played) == 32 * 64 + (320 - 32) * 8


def each_alone(count, play):
    return jax.tree.map(lambda *scores: np.stack(scores), *[play(number) for number in range(count)])


def test_evolutions_side_by_side_score_as_each_alone():
    dream, params = Dream(MEMORY, DreamConfig(horizon=70, reward="predicted")), mortal_params()
    populations = jax.random.normal(jax.random.key(1), (3, 5, POLICY.size))
    keys, temperatures = jax.random.split(KEY, 3), jnp.array([0.5, 1.0, 1.5])

    def play(population, key, temperature):
        return population_returns(dream, POLICY, params, LATENTS, population, key, rollouts=2, temperature=temperature)

    together = jax.vmap(play)(populations, keys, temperatures)
    alone = each_alone(3, lambda e: play(populations[e], keys[e], temperatures[e]))
    np.testing.assert_array_equal(together.lengths, alone.lengths)
    np.testing.assert_allclose(together.returns, alone.returns, rtol=1e-4, atol=1e-4)
    hotter = jax.vmap(lambda temperature: play(populations[0], KEY, temperature))(temperatures)
    assert hotter.returns.shape == (3, 5, 2)
    np.testing.assert_array_equal(hotter.lengths[1], play(populations[0], KEY, temperatures[1]).lengths)
    twice = jax.vmap(jax.vmap(play, (None, 0, None)), (0, None, 0))(populations, keys, temperatures)
    np.testing.assert_array_equal(twice.lengths[2, 1], play(populations[2], keys[1], temperatures[2]).lengths)


def test_several_world_models_score_as_each_alone():
    dream = Dream(MEMORY, DreamConfig(horizon=40))
    params = [mortal_params(), MEMORY.init(jax.random.key(12))]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *params)

    def play(params):
        return population_returns(dream, POLICY, params, LATENTS, POPULATION, KEY, rollouts=2)

    together, alone = jax.vmap(play)(stacked), each_alone(2, lambda number: play(params[number]))
    np.testing.assert_array_equal(together.lengths, alone.lengths)


def test_half_the_bits_hardly_change_the_ranking_of_candidates():
    memory = Memory(MemoryConfig(hidden_size=64, predict_reward=True), 16, 2)
    policy = Controller(PolicyConfig("zh"), latent_size=16, hidden_size=64, action_size=2)
    latents, params = recordings((20, 20), latent_size=16, action_size=2, log_var=0.0), memory.init(jax.random.key(4))
    population = jax.random.normal(jax.random.key(5), (48, policy.size))
    means = [
        population_returns(
            Dream(memory, DreamConfig(horizon=100, reward="predicted", precision=precision)),
            policy, params, latents, population, KEY, rollouts=8,
        ).returns.mean(axis=1)
        for precision in ("float32", "tensorfloat32", "bfloat16")
    ]  # fmt: skip
    assert not np.array_equal(means[0], means[2]), "the precision must reach the products"
    for found in means[1:]:
        assert np.corrcoef(rankdata(means[0]), rankdata(found))[0, 1] > 0.98


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
    population = jnp.array([[0.1], [-0.2]])
    scores = population_returns(dream, push, {}, recordings(), population, KEY, rollouts=4, temperature=1.5)
    fitness = DreamFitness(dream, push, 4)({}, recordings(), 1.5, population, KEY)
    np.testing.assert_allclose(fitness, scores.returns.mean(axis=1), rtol=1e-6)


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
