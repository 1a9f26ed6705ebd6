"""Run in a process of its own, with eight forced devices: the lanes of a population laid over them score as on one."""

import jax
import jax.numpy as jnp
import numpy as np
from test_dream_rollout import KEY, LATENTS, MEMORY, POLICY, mortal_params

from wm_jax import parallel
from wm_jax.controller import Evolution, EvolveConfig
from wm_jax.dream import Dream, DreamConfig, DreamFitness, population_returns

assert len(jax.devices()) == 8
dream, params, mesh = Dream(MEMORY, DreamConfig(horizon=60, reward="predicted")), mortal_params(), parallel.mesh()
whole = parallel.replicate(mesh, (params, LATENTS, KEY))


def check(found, expected):
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-4, atol=1e-4)


# 15 lanes are no multiple of 8; of 320 every device has 40, which are no multiple of a block.
for size, rollouts in ((5, 3), (40, 8)):
    population = jax.random.normal(jax.random.key(1), (size, POLICY.size))
    one = population_returns(dream, POLICY, params, LATENTS, population, KEY, rollouts=rollouts)
    eight = population_returns(
        dream, POLICY, whole[0], whole[1], parallel.replicate(mesh, population), whole[2], rollouts=rollouts, mesh=mesh
    )
    check(eight, one)
    assert len(eight.lengths.sharding.device_set) == 8

evolution = Evolution(EvolveConfig(population=6, sigma=0.5), POLICY.size)


def evolve(mesh, params, latents, keys, temperatures):
    def alone(key, temperature):
        fitness = jax.tree_util.Partial(DreamFitness(dream, POLICY, 2, mesh), params, latents, temperature)
        return evolution.generations(evolution.init(key), 0, fitness, key, 2)

    return jax.vmap(alone)(keys, temperatures)


keys, temperatures = jax.random.split(KEY, 3), jnp.array([0.5, 1.0, 1.5])
state, metrics = evolve(None, params, LATENTS, keys, temperatures)
state8, metrics8 = evolve(mesh, whole[0], whole[1], *parallel.replicate(mesh, (keys, temperatures)))
np.testing.assert_allclose(metrics8["mean"], metrics["mean"], rtol=1e-3, atol=1e-3)
np.testing.assert_allclose(state8.mean, state.mean, atol=1e-4)
