from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Breaking, Line, Push, Wavering, line_starts, recordings, vision_memory
from scipy.stats import rankdata

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLP
from wm_jax.dream import Dream, DreamConfig, DreamFitness, population_returns, rollout, start_states, trajectory
from wm_jax.lanes import SHARED_FROM
from wm_jax.memory import MemoryConfig
from wm_jax.worlds import Actor, World


def new_key():
    return jax.random.key(3)


pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = MemoryConfig(hidden_size=8, mixtures=3, predict_done=True, predict_reward=True, restart_input=True)
WORLD = vision_memory(CONFIG, 4, 2)
ACTOR = MLP(("z", "c", "h"), (20, 2))
# Of the world model's weights, none matter on a first frame.
STARTS = start_states(Dream(WORLD, DreamConfig()), {}, recordings((5, 7, 3), 4, 2, log_var=0.0), new_key())
LINE = Line()
PUSH = Push()


def candidates(actor, key, *shape):
    """Random weights, so many of them."""
    return actors.unflat(actors.shapes(actor), jax.random.normal(key, (*shape, actors.size(actor)), jnp.float32))


POPULATION = candidates(ACTOR, jax.random.key(1), 5)


def row(tree, *number):
    return jax.tree.map(lambda array: array[number], tree)


def mortal_params(world=WORLD):
    """Weights of M with which dreams end after some steps, soon or late."""
    params = world.memory.init(jax.random.key(11))
    params["head"]["kernel"] = params["head"]["kernel"].at[:, -1].multiply(4.0)
    params["head"]["bias"] = params["head"]["bias"].at[-1].set(-1.2)
    return {"memory": params}


def played_one_by_one(dream, actor, params, starts, population, rollouts):
    """Returns and lengths [P, R], dream after dream and step by step in Python."""
    reset, step = jax.jit(dream.reset), jax.jit(dream.step)
    act, world = jax.jit(actor.act), World(dream.model, params)
    returns, lengths = np.zeros((2, len(jax.tree.leaves(population)[0]), rollouts))
    for p, r in np.ndindex(returns.shape):
        reset_key, noise_key = jax.random.split(jax.random.fold_in(new_key(), r))
        state, carry, over, number = reset(starts, reset_key), actor.begin(), False, 0
        while not over:
            dream_key, actor_key = jax.random.split(jax.random.fold_in(noise_key, number))
            action, carry = act(row(population, p), world, state.world, carry, actor_key)
            state, reward, terminated, truncated = step(params, state, action, dream.noise(dream_key))
            returns[p, r], number, over = returns[p, r] + float(reward), number + 1, bool(terminated | truncated)
        lengths[p, r] = number
    return returns, lengths


@pytest.mark.parametrize("end, done_weight", [("threshold", 10.0), ("drawn", 200.0)])
def test_scores_are_those_of_a_plain_loop(end, done_weight):
    world = replace(WORLD, memory=replace(WORLD.memory, config=replace(CONFIG, done_weight=done_weight)))
    dream, params = Dream(world, DreamConfig(horizon=70, reward="predicted", end=end)), mortal_params()
    scores = population_returns(dream, ACTOR, params, STARTS, POPULATION, new_key(), rollouts=3)
    returns, lengths = played_one_by_one(dream, ACTOR, params, STARTS, POPULATION, 3)
    np.testing.assert_array_equal(scores.lengths, lengths)
    np.testing.assert_allclose(scores.returns, returns, rtol=1e-4, atol=1e-4)
    assert len(np.unique(scores.lengths)) > 1, "the dreams must differ for this test to say something"
    assert scores.lengths.max() > 50, "some dream must outlive a look at who is alive"


def test_an_actor_that_carries_and_draws_scores_as_in_a_plain_loop():
    dream = Dream(Line(spread=0.1, wall=1.0), DreamConfig(horizon=40, reward="predicted"))
    starts, population = line_starts(dream.model), jnp.array([[1.5], [3.0]], jnp.float32)
    scores = population_returns(dream, Wavering(), {}, starts, population, new_key(), rollouts=2)
    returns, lengths = played_one_by_one(dream, Wavering(), {}, starts, population, 2)
    np.testing.assert_array_equal(scores.lengths, lengths)
    np.testing.assert_allclose(scores.returns, returns, rtol=1e-4, atol=1e-4)
    assert len(np.unique(scores.returns)) == 4
    film = trajectory(dream, Wavering(), {}, starts, population[0], jax.random.fold_in(new_key(), 1), steps=6)
    assert (jnp.sign(film.action[:, 0]) == jnp.array([1, -1] * 3)).all()
    assert len(np.unique(jnp.abs(film.action))) == 6


def test_scores_do_not_depend_on_the_blocks_that_lanes_go_forward_in(monkeypatch):
    params = mortal_params()
    together = population_returns(
        Dream(WORLD, DreamConfig(horizon=90)), ACTOR, params, STARTS, POPULATION, new_key(), rollouts=7
    )
    assert len(np.unique(together.lengths)) > 5, "lanes must end at different times"
    monkeypatch.setattr(rollout, "CPU_BLOCKS", (8, 4, 2))
    # Another temperature compiles nothing anew; another recipe does, and looks the blocks up again.
    parted = Dream(WORLD, DreamConfig(horizon=90, temperature=1.0))
    parted = population_returns(
        parted, ACTOR, params, STARTS, POPULATION, new_key(), rollouts=7, temperature=jnp.float32(1.15)
    )
    np.testing.assert_array_equal(parted.lengths, together.lengths)
    np.testing.assert_allclose(parted.returns, together.returns)


def test_an_accelerators_form_scores_the_same(monkeypatch):
    """All lanes in one block, eight steps compiled one after the other."""
    params, played = mortal_params(), []
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(parallel, "platform", lambda mesh, platform=platform: platform)
        # Another recipe is traced anew.
        dream = Dream(WORLD, DreamConfig(horizon=90 if platform == "cpu" else 91))
        played.append(population_returns(dream, ACTOR, params, STARTS, POPULATION, new_key(), rollouts=7))
    lengths = [np.minimum(scores.lengths, 90) for scores in played]
    assert len(np.unique(lengths[0])) > 5
    np.testing.assert_array_equal(lengths[1], lengths[0])


def test_lanes_whose_dream_is_over_are_not_played_on(monkeypatch):
    monkeypatch.setattr(rollout, "CPU_BLOCKS", (64, 8))
    played = []

    @dataclass(frozen=True)
    class Counted(Push):
        def act(self, params, world, state, carry, key):
            jax.debug.callback(lambda z: played.append(None), state.z)
            return params, carry

    # One stays at home for 320 steps, the others are beyond the wall after 6.
    population = jnp.ones((64, 1), jnp.float32).at[17].set(0)
    dream = Dream(Line(push=1.0, wall=4.5), DreamConfig(horizon=320))
    scores = population_returns(dream, Counted(), {}, line_starts(dream.model, (1,)), population, new_key(), rollouts=1)
    jax.effects_barrier()
    np.testing.assert_array_equal(scores.lengths[:, 0], np.where(np.arange(64) == 17, 320, 6))
    assert len(played) == 32 * 64 + (320 - 32) * 8


def test_lanes_share_a_lone_candidates_many_weights_and_it_scores_as_among_others():
    dream, params = Dream(WORLD, DreamConfig(horizon=70, reward="predicted")), mortal_params()
    large = MLP(ACTOR.features, (20, SHARED_FROM // 20, 2))
    population = row(candidates(large, jax.random.key(1), 5), slice(1, 3))

    def play(actor, population):
        return population_returns(dream, actor, params, STARTS, population, new_key(), rollouts=8)

    def kernels(actor, population):
        """Of how many lanes each has its own first layer."""
        traced = str(jax.make_jaxpr(partial(play, actor))(population))
        return [lanes for lanes in (8, 16) if f"f32[{lanes},20,{actor.sizes[1]}]" in traced]

    alone, small = row(population, slice(0, 1)), row(POPULATION, slice(0, 1))
    assert (kernels(large, alone), kernels(large, population), kernels(ACTOR, small)) == ([], [16], [8])
    found, among_others = play(large, alone), play(large, population)
    np.testing.assert_array_equal(found.lengths[0], among_others.lengths[0])
    np.testing.assert_allclose(found.returns[0], among_others.returns[0], rtol=1e-4, atol=1e-4)
    assert len(np.unique(found.lengths)) > 3


def test_an_actor_without_weights_is_a_candidate_too():
    @dataclass(frozen=True)
    class Still(Actor):
        def init(self, key):
            return ()

        def act(self, params, world, state, carry, key):
            return -state.z, carry

    dream = Dream(Line(push=1.0, spread=1e-6), DreamConfig(horizon=5, reward="predicted"))
    starts = line_starts(dream.model, (8, 1))
    scores = population_returns(dream, Still(), {}, starts, (), new_key(), rollouts=6, temperature=1.15)
    assert scores.returns.shape == (1, 6)
    # It goes home from 0 or 8 / 16 at once, and stays.
    np.testing.assert_allclose(np.unique(np.round(scores.returns, 3)), [4.5, 5.0])
    fitness = DreamFitness(dream, Still(), 6)({}, starts, 1.15, (), new_key())
    np.testing.assert_allclose(fitness, scores.returns.mean(axis=1), rtol=1e-6)


def each_alone(count, play):
    return jax.tree.map(lambda *scores: np.stack(scores), *[play(number) for number in range(count)])


def test_evolutions_side_by_side_score_as_each_alone():
    dream, params = Dream(WORLD, DreamConfig(horizon=70, reward="predicted")), mortal_params()
    populations = candidates(ACTOR, jax.random.key(1), 3, 5)
    temperatures = jnp.array([0.5, 1.0, 1.5], jnp.float32)

    def keys():
        return jax.random.split(new_key(), 3)

    def play(population, key, temperature):
        return population_returns(dream, ACTOR, params, STARTS, population, key, rollouts=2, temperature=temperature)

    together = jax.vmap(play)(populations, keys(), temperatures)
    alone = each_alone(3, lambda e: play(row(populations, e), keys()[e], temperatures[e]))
    np.testing.assert_array_equal(together.lengths, alone.lengths)
    np.testing.assert_allclose(together.returns, alone.returns, rtol=1e-4, atol=1e-4)
    hotter = jax.vmap(lambda temperature: play(row(populations, 0), new_key(), temperature))(temperatures)
    assert hotter.returns.shape == (3, 5, 2)
    np.testing.assert_array_equal(hotter.lengths[1], play(row(populations, 0), new_key(), temperatures[1]).lengths)
    twice = jax.vmap(jax.vmap(play, (None, 0, None)), (0, None, 0))(populations, keys(), temperatures)
    np.testing.assert_array_equal(twice.lengths[2, 1], play(row(populations, 2), keys()[1], temperatures[2]).lengths)
    lone = jax.vmap(play, (0, None, None))(jax.tree.map(lambda array: array[0, :, None], populations), new_key(), 1.0)
    np.testing.assert_array_equal(lone.lengths[:, 0], hotter.lengths[1], "each plays with weights of its own")


def test_several_world_models_score_as_each_alone():
    dream = Dream(WORLD, DreamConfig(horizon=40))
    params = [mortal_params(), {"memory": WORLD.memory.init(jax.random.key(12))}]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *params)

    def play(params):
        return population_returns(dream, ACTOR, params, STARTS, POPULATION, new_key(), rollouts=2)

    together, alone = jax.vmap(play)(stacked), each_alone(2, lambda number: play(params[number]))
    np.testing.assert_array_equal(together.lengths, alone.lengths)


def test_half_the_bits_hardly_change_the_ranking_of_candidates():
    world, actor = vision_memory(MemoryConfig(hidden_size=64, predict_reward=True), 16, 2), MLP(("z", "h"), (80, 2))
    starts = start_states(Dream(world, DreamConfig()), {}, recordings((20, 20), 16, 2, log_var=0.0), new_key())
    params, population = {"memory": world.memory.init(jax.random.key(4))}, candidates(actor, jax.random.key(5), 48)
    means = [
        population_returns(
            Dream(world, DreamConfig(horizon=100, reward="predicted", precision=precision)),
            actor, params, starts, population, new_key(), rollouts=8,
        ).returns.mean(axis=1)
        for precision in ("float32", "tensorfloat32", "bfloat16")
    ]  # fmt: skip
    assert not np.array_equal(means[0], means[2]), "the precision must reach the products"
    for found in means[1:]:
        assert np.corrcoef(rankdata(means[0]), rankdata(found))[0, 1] > 0.98


def test_stopping_early_changes_no_score():
    dream, params = Dream(WORLD, DreamConfig(horizon=120)), mortal_params()
    scores = population_returns(dream, ACTOR, params, STARTS, POPULATION, new_key(), rollouts=2)
    play = partial(trajectory, dream, ACTOR, params, STARTS, steps=120)
    for r in range(2):
        key = jax.random.fold_in(new_key(), r)
        terminated = np.stack([play(row(POPULATION, p), jax.random.clone(key)).terminated for p in range(5)])
        first = np.where(terminated.any(axis=1), terminated.argmax(axis=1) + 1, 120)
        np.testing.assert_array_equal(scores.lengths[:, r], first)
        np.testing.assert_array_equal(scores.returns[:, r], first)


def test_a_population_that_is_dead_is_not_dreamt_on():
    dream = Dream(Line(push=1.0, wall=4.5), DreamConfig(horizon=2**30))
    population = jnp.array([[1.0], [-1.0]], jnp.float32)
    scores = population_returns(dream, PUSH, {}, line_starts(dream.model, (1,)), population, new_key(), rollouts=2)
    # z = 0, 1, 2, 3, 4, 5: the step from 5 is the sixth.
    np.testing.assert_array_equal(scores.lengths, 6)
    np.testing.assert_array_equal(scores.returns, 6)


def test_a_dream_that_breaks_ends_and_leaves_all_others_alone():
    """Of two candidates one goes beyond the place 1 in the second step; the other has what it has on a whole line."""
    population, horizon = jnp.array([[1.2], [0.1]], jnp.float32), DreamConfig(horizon=8, reward="predicted")
    broken, whole = (
        population_returns(Dream(line, horizon), PUSH, {}, line_starts(line), population, new_key(), rollouts=2)
        for line in (Breaking(), Line())
    )
    np.testing.assert_array_equal(broken.lengths, [[2, 2], [8, 8]])
    assert (broken.returns[0] == -np.inf).all() and (broken.returns[1] == whole.returns[1]).all()


def test_rewards_after_the_end_count_nothing():
    dream = Dream(Line(push=0.25, spread=1e-6, wall=0.4), DreamConfig(horizon=50, reward="predicted"))
    scores = population_returns(
        dream, PUSH, {}, line_starts(dream.model, (1,)), jnp.ones((1, 1), jnp.float32), new_key(), rollouts=1
    )
    np.testing.assert_allclose(scores.returns, 1.0 + 0.75 + 0.5, atol=1e-3)


def test_the_horizon_need_not_be_a_multiple_of_the_looks():
    for horizon in (1, 51):
        dream = Dream(LINE, DreamConfig(horizon=horizon))
        scores = population_returns(
            dream, PUSH, {}, line_starts(LINE), jnp.zeros((2, 1), jnp.float32), new_key(), rollouts=3
        )
        np.testing.assert_array_equal(scores.lengths, horizon)


def test_all_candidates_meet_the_same_starts_and_noise():
    dream = Dream(Line(spread=0.3), DreamConfig(horizon=20, reward="predicted"))
    same = population_returns(
        dream, PUSH, {}, line_starts(LINE), jnp.full((3, 1), 0.1, jnp.float32), new_key(), rollouts=4
    ).returns
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])
    assert len(np.unique(same[0])) == 4


def test_fitness_is_the_mean_over_rollouts():
    dream = Dream(Line(spread=0.3), DreamConfig(horizon=20, reward="predicted"))
    population, starts = jnp.array([[0.1], [-0.2]], jnp.float32), line_starts(LINE)
    scores = population_returns(dream, PUSH, {}, starts, population, new_key(), rollouts=4, temperature=1.5)
    fitness = DreamFitness(dream, PUSH, 4)({}, starts, 1.5, population, new_key())
    np.testing.assert_allclose(fitness, scores.returns.mean(axis=1), rtol=1e-6)


def test_nothing_is_traced_again_for_new_numbers():
    traces, counts = [], []

    @dataclass(frozen=True)
    class Traced(Push):
        def act(self, params, world, state, carry, key):
            traces.append(None)
            return params, carry

    for seed in range(3):
        dream, starts = Dream(Line(), DreamConfig(horizon=5)), line_starts(LINE, log_var=-20.0 - seed)
        temperature = jnp.float32(1.0 + seed)
        population = jnp.full((2, 1), 0.1 * seed, jnp.float32)
        key = jax.random.key(seed)
        population_returns(dream, Traced(), {}, starts, population, key, rollouts=2, temperature=temperature)
        counts.append(len(traces))
    assert counts == counts[:1] * 3


def test_a_trajectory_is_what_the_agent_saw_did_and_got():
    dream = Dream(Line(spread=1e-6), DreamConfig(reward="predicted"))
    film = trajectory(dream, PUSH, {}, line_starts(LINE, (1,)), jnp.ones(1, jnp.float32), new_key(), steps=4)
    np.testing.assert_allclose(film.state.z[:, 0], [0, 0.5, 1, 1.5], atol=1e-3)
    np.testing.assert_allclose(film.action[:, 0], 1)
    np.testing.assert_allclose(film.reward, [1, 0.5, 0, -0.5], atol=1e-3)
    assert not film.terminated.any()
