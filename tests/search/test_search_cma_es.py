import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Breaking, Line, Push, line_starts
from evosax.algorithms import CMA_ES
from evosax.core.fitness_shaping import weights_fitness_shaping_fn
from jax.tree_util import Partial

from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLP
from wm_jax.dream import Dream, DreamConfig, population_returns
from wm_jax.errors import UserError
from wm_jax.search import SEARCHES, Dreams, PopulationSearch
from wm_jax.search.cma_es import CMAESConfig, strict_rank_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

CAP = 2100.0
DREAM = Dream(Line(), DreamConfig(horizon=10))


def new_key():
    return jax.random.key(5)


def search_for(size, **settings):
    """A search for so many weights."""
    return CMAESConfig(**settings).build(MLP(("z",), (size - 1, 1)), DREAM, 1)


def distance(target, population, key):
    return -jnp.sum((actors.flat(population, 1) - target[None]) ** 2, axis=1)


def shaped(shaping, fitness):
    """What evosax's update would make of this fitness [P]."""
    strategy = CMA_ES(len(fitness), jnp.zeros(20, jnp.float32))
    params = strategy.default_params
    state = strategy.init(new_key(), jnp.zeros(20, jnp.float32), params)
    return np.asarray(shaping(jnp.zeros((len(fitness), 20), jnp.float32), jnp.asarray(fitness), state, params))


def give_each_weight_once(shaping, fitness):
    weights = shaped(shaping, fitness)
    expected = np.asarray(CMA_ES(len(fitness), jnp.zeros(20, jnp.float32)).default_params.weights)
    np.testing.assert_array_equal(np.sort(weights), np.sort(expected))
    return weights


def test_each_rank_is_given_away_once_where_candidates_tie_at_the_cap():
    fitness = np.random.default_rng(0).uniform(-CAP, 0, 64)
    fitness[10:50] = -CAP
    weights = give_each_weight_once(strict_rank_weights, fitness)
    assert weights[10:50].min() > np.delete(weights, slice(10, 50)).max()
    with pytest.raises(AssertionError):
        give_each_weight_once(weights_fitness_shaping_fn, fitness)


def test_without_ties_the_weights_are_evosaxs():
    fitness = jnp.asarray(np.random.default_rng(1).normal(size=64))
    np.testing.assert_array_equal(shaped(strict_rank_weights, fitness), shaped(weights_fitness_shaping_fn, fitness))


def test_whatever_is_not_finite_ranks_worst():
    fitness = np.arange(8.0)
    fitness[[0, 3, 5]] = np.nan, -np.inf, np.inf
    weights = give_each_weight_once(strict_rank_weights, fitness)
    assert weights[[0, 3, 5]].max() < np.delete(weights, [0, 3, 5]).min()


def test_where_nothing_is_finite_nothing_is_learnt():
    np.testing.assert_array_equal(shaped(strict_rank_weights, np.full(8, np.nan)), 0)


def sigma_after(strategy, returns, generations):
    """sigma after generations that all had these returns, from 0.1: the median of sixteen such walks. Which way a single
    one goes hangs on the eigenvectors that a machine finds."""
    params = strategy.default_params

    def walk(key):
        state = strategy.init(key, jnp.zeros(strategy.num_dims, jnp.float32), params).replace(std=jnp.float32(0.1))

        def generation(state, number):
            own = jax.random.fold_in(key, number)
            population, state = strategy.ask(own, state, params)
            return strategy.tell(own, population, -returns, state, params)[0], None

        return jax.lax.scan(generation, state, jnp.arange(generations))[0].std

    return float(jnp.median(jax.jit(jax.vmap(walk))(jax.random.split(new_key(), 16))))


@jax.enable_x64(False)
@jax.numpy_rank_promotion("allow")
def test_sigma_does_not_collapse_where_all_reach_the_cap():
    returns = jnp.full(64, CAP, jnp.float32)
    strict = CMA_ES(64, jnp.zeros(20, jnp.float32), fitness_shaping_fn=strict_rank_weights)
    assert 0.05 < sigma_after(strict, returns, 60) < 0.2
    assert sigma_after(CMA_ES(64, jnp.zeros(20, jnp.float32)), returns, 60) < 0.02


def hansens_generation(population, returns, mean, sigma, covariance, path_sigma, path_c, number):
    """One update of CMA-ES in float64, after Hansen's tutorial (arXiv 1604.00772), figure 6 and table 1."""
    lam, n = population.shape
    raw = np.log((lam + 1) / 2) - np.log(np.arange(1, lam + 1))
    mu = lam // 2
    mu_eff = raw[:mu].sum() ** 2 / (raw[:mu] ** 2).sum()
    mu_eff_minus = raw[mu:].sum() ** 2 / (raw[mu:] ** 2).sum()
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))
    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
    damping = 1 + 2 * max(0, np.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
    negative = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
    weights = np.where(raw >= 0, raw / raw[raw >= 0].sum(), negative * raw / -raw[raw < 0].sum())

    y = (population[np.argsort(-returns, kind="stable")] - mean) / sigma
    step = weights[:mu] @ y[:mu]
    values, basis = np.linalg.eigh(covariance)
    whiten = basis @ np.diag(values**-0.5) @ basis.T
    path_sigma = (1 - c_sigma) * path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mu_eff) * whiten @ step
    expected = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    length = np.linalg.norm(path_sigma)
    moving = length / np.sqrt(1 - (1 - c_sigma) ** (2 * number)) < (1.4 + 2 / (n + 1)) * expected
    path_c = (1 - c_c) * path_c + moving * np.sqrt(c_c * (2 - c_c) * mu_eff) * step
    rescaled = np.where(weights >= 0, weights, weights * n / np.maximum(((y @ whiten) ** 2).sum(axis=1), 1e-12))
    keep = 1 + c_1 * (1 - moving) * c_c * (2 - c_c) - c_1 - c_mu * weights.sum()
    covariance = keep * covariance + c_1 * np.outer(path_c, path_c) + c_mu * np.einsum("i,ij,ik", rescaled, y, y)
    mean, sigma = mean + sigma * step, sigma * np.exp(c_sigma / damping * (length / expected - 1))
    return mean, sigma, covariance, path_sigma, path_c


def test_generations_are_those_of_hansens_tutorial():
    search = search_for(4, population=8, sigma=0.3)
    state = search.init(new_key())
    expected = np.zeros(4), 0.3, np.eye(4), np.zeros(4), np.zeros(4)
    target = np.linspace(-1, 2, 4)
    for number in range(1, 6):
        population, state = search.ask(state, number - 1, new_key())
        weights = np.asarray(actors.flat(population, 1), np.float64)
        returns = -((weights - target) ** 2) @ (1 + np.arange(4))
        state, _ = search.tell(state, population, jnp.asarray(returns, jnp.float32))
        expected = hansens_generation(weights, returns, *expected, number)
        found = state.mean, state.std, state.C, state.p_std, state.p_c
        for ours, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, reference, rtol=2e-3, atol=2e-4)


def test_candidates_are_drawn_from_the_searchs_normal_distribution():
    search = search_for(3, population=4000)
    covariance = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
    mean = np.array([1.0, 0.0, -1.0])
    state = search.init(new_key()).replace(C=jnp.asarray(covariance, jnp.float32), mean=jnp.asarray(mean, jnp.float32))
    population = np.asarray(actors.flat(search.ask(state, 0, new_key())[0], 1))
    np.testing.assert_allclose(population.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(population.T), 0.01 * covariance, atol=0.0015)


def test_candidates_are_weights_of_the_actor():
    search = search_for(5, population=8)
    population, _ = search.ask(search.init(new_key()), 0, new_key())
    assert [(layer.kernel.shape, layer.bias.shape) for layer in population] == [((8, 4, 1), (8, 1))]
    assert (search.size, search.population, search.shapes["population"]) == (5, 8, [8, 5])
    assert jax.tree.structure(search.candidate(search.init(new_key()))) == jax.tree.structure(
        search.actor.init(new_key())
    )


def test_the_covariance_is_decomposed_every_third_generation_at_the_papers_size():
    search = search_for(1088)
    state = search.init(new_key())
    fresh = []
    for number in range(4):
        marked = state.replace(C=4 * state.C)
        fresh.append(bool(search.ask(marked, number, new_key())[1].D[0] > 1.5))
    assert fresh == [True, False, False, True]


def test_evolution_finds_a_known_best_and_reports_on_the_way():
    target = jnp.linspace(-1, 1, 4, dtype=jnp.float32)
    search = search_for(4, population=8, sigma=0.5)
    state, metrics = search.evolve(search.init(new_key()), Partial(distance, target), 0, new_key(), 150)
    np.testing.assert_allclose(actors.flat(search.candidate(state)), target, atol=0.01)
    assert all(values.shape == (150,) for values in metrics.values())
    assert (metrics["best"] >= metrics["mean"]).all() and (metrics["mean"] >= metrics["worst"]).all()
    assert metrics["best"][-1] > -1e-3 > metrics["worst"][0]
    assert (metrics["non_finite"] == 0).all()
    np.testing.assert_allclose(metrics["sigma"][-1], state.std)


def test_ask_and_tell_are_a_generation():
    search = search_for(4, population=8)
    fitness = Partial(distance, jnp.ones(4, jnp.float32))
    expected, metrics = search.evolve(search.init(new_key()), fitness, 0, new_key(), 1)
    ask_key, _ = jax.random.split(new_key())
    population, state = search.ask(search.init(new_key()), 0, ask_key)
    returns = fitness(population, new_key())
    state, found = search.tell(state, population, returns)
    np.testing.assert_allclose(state.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found["std"], np.std(returns), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean"][0], np.mean(returns), rtol=1e-5)


def test_a_generation_in_the_dream_is_told_the_mean_returns_there():
    dream = Dream(Line(spread=0.1), DreamConfig(horizon=10, reward="predicted"))
    search, starts = CMAESConfig(population=6, rollouts=3).build(Push(), dream, 1), line_starts(Line())
    dreams = Dreams({}, starts, jnp.float32(1.5))
    state, metrics = search.iterate(search.init(new_key()), dreams, 2, new_key(), 1)
    ask_key, fitness_key = jax.random.split(new_key())
    population, asked = search.ask(search.init(new_key()), 2, ask_key)
    key = jax.random.fold_in(fitness_key, 2)
    scores = population_returns(dream, Push(), {}, starts, population, key, rollouts=3, temperature=1.5)
    expected, _ = search.tell(asked, population, scores.returns.mean(axis=1))
    np.testing.assert_allclose(metrics["mean"][0], scores.returns.mean(), rtol=1e-5)
    np.testing.assert_allclose(state.mean, expected.mean, rtol=1e-5)
    assert scores.returns.std() > 0 and search.dream_steps == 6 * 3 * 10


def test_going_on_is_the_same_to_the_bit_and_traces_nothing_anew():
    traces = []

    def noisy(target, population, key):
        traces.append(None)
        return distance(target, population, key) + jax.random.normal(key, (8,), jnp.float32)

    search = search_for(4, population=8)
    target = jnp.ones(4, jnp.float32)
    whole, whole_metrics = search.evolve(search.init(new_key()), Partial(noisy, target), 0, new_key(), 6)
    traces.clear()
    state, first = search.evolve(search.init(new_key()), Partial(noisy, target), 0, new_key(), 3)
    once = len(traces)
    # What a checkpoint keeps of the state: numbers, shapes and dtypes.
    state = jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), state)
    state, second = search.evolve(state, Partial(noisy, target + 0), 3, new_key(), 3)
    assert len(traces) == once
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    for name, values in whole_metrics.items():
        np.testing.assert_array_equal(values, np.concatenate([first[name], second[name]]))
    assert len(np.unique(whole_metrics["mean"])) == 6


def test_returns_that_are_not_finite_are_counted_and_do_not_reach_the_search():
    def broken(population, key):
        return (
            distance(jnp.ones(4, jnp.float32), population, key).at[:2].set(jnp.array([jnp.nan, jnp.inf], jnp.float32))
        )

    search = search_for(4, population=8)
    state, metrics = search.evolve(search.init(new_key()), Partial(broken), 0, new_key(), 3)
    np.testing.assert_array_equal(metrics["non_finite"], 2)
    assert all(np.isfinite(array).all() for array in (state.mean, state.std, state.C))
    assert all(np.isfinite(values).all() for values in metrics.values()), "a loop stops where one is not"


def test_candidates_whose_dreams_break_rank_last_and_the_search_goes_on():
    """Beyond the place 1 there are no numbers: the mean is drawn away from there, though every step earns the same."""
    search = CMAESConfig(population=16, rollouts=2, sigma=1.0).build(
        Push(), Dream(Breaking(), DreamConfig(horizon=4)), 1
    )
    dreams = Dreams({}, line_starts(Line()), jnp.float32(1))
    state, metrics = search.iterate(search.init(new_key(), jnp.ones(1, jnp.float32)), dreams, 0, new_key(), 5)
    assert all(np.isfinite(values).all() for values in metrics.values())
    assert metrics["non_finite"][0] >= 8 and (metrics["best"] == 4).all() and (metrics["worst"] == 4).all()
    assert search.candidate(state)[0] < 0.5


def test_metrics_are_of_the_finite_returns_and_none_is_where_there_are_none():
    search = search_for(4, population=4)
    population, state = search.ask(search.init(new_key()), 0, new_key())
    returns = jnp.array([1.0, -jnp.inf, 4.0, jnp.nan], jnp.float32)
    _, found = search.tell(state, population, returns)
    assert {name: float(found[name]) for name in ("best", "mean", "worst", "std", "non_finite")} == {
        "best": 4, "mean": 2.5, "worst": 1, "std": 1.5, "non_finite": 2,
    }  # fmt: skip
    after, found = search.tell(state, population, jnp.full(4, jnp.nan))
    assert found["non_finite"] == 4 and not any(np.isfinite(found[name]) for name in ("best", "mean", "worst", "std"))
    np.testing.assert_array_equal(after.mean, state.mean)
    assert np.isfinite(after.C).all()


def test_a_search_can_begin_anywhere():
    """With a step that is small beside the way there, the mean is near its beginning, and then goes downhill."""
    search, weights = search_for(6, population=8, sigma=1e-3), jnp.arange(6, dtype=jnp.float32)
    begin = actors.unflat(actors.shapes(search.actor), weights)
    first = search.init(new_key(), begin)
    jax.tree.map(np.testing.assert_array_equal, search.candidate(first), begin)
    state, metrics = search.evolve(first, Partial(distance, weights + 0.1), 0, new_key(), 60)
    assert metrics["mean"][-1] > metrics["mean"][0]
    assert jnp.linalg.norm(actors.flat(search.candidate(state)) - weights - 0.1) < 0.1 * jnp.sqrt(6.0)


def test_its_candidates_can_play_in_the_actual_environment_too():
    search = search_for(4, population=8, rollouts=3)
    assert isinstance(search, PopulationSearch) and (search.population, search.rollouts) == (8, 3)
    assert search.start is None, "it learns in the dream that controllers are scored in"
    assert SEARCHES["cma_es"] is CMAESConfig


@pytest.mark.parametrize("setting", [{"population": 3}, {"rollouts": 0}, {"sigma": 0.0}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"search\.{next(iter(setting))}"):
        CMAESConfig(**setting)
