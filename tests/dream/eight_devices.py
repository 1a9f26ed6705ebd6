"""Run in a process of its own, with eight forced devices: the lanes of a population laid over them score as on one."""

import jax
import jax.numpy as jnp
import numpy as np
from test_dream_rollout import ACTOR, STARTS, WORLD, candidates, mortal_params, new_key

from wm_jax import parallel
from wm_jax.dream import Dream, DreamConfig, population_returns
from wm_jax.search import Dreams
from wm_jax.search.cma_es import CMAESConfig

assert len(jax.devices()) == 8
dream, params, mesh = Dream(WORLD, DreamConfig(horizon=60, reward="predicted")), mortal_params(), parallel.mesh()
whole = parallel.replicate(mesh, (params, STARTS, new_key()))


def check(found, expected):
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-4, atol=1e-4)


# 15 lanes are no multiple of 8; of 320 every device has 40, which are no multiple of a block.
for size, rollouts in ((5, 3), (40, 8)):
    population = candidates(ACTOR, jax.random.key(1), size)
    one = population_returns(dream, ACTOR, params, STARTS, population, new_key(), rollouts=rollouts)
    eight = population_returns(
        dream, ACTOR, whole[0], whole[1], parallel.replicate(mesh, population), whole[2], rollouts=rollouts, mesh=mesh
    )
    check(eight, one)
    assert len(eight.lengths.sharding.device_set) == 8


def evolve(mesh, params, starts, keys, temperatures):
    search = CMAESConfig(population=6, rollouts=2, sigma=0.5).build(ACTOR, dream, 2, mesh)

    def alone(key, temperature):
        return search.iterate(search.init(key), Dreams(params, starts, temperature), 0, key, 2)

    return jax.vmap(alone)(keys, temperatures)


keys, temperatures = jax.random.split(new_key(), 3), jnp.array([0.5, 1.0, 1.5], jnp.float32)
state, metrics = evolve(None, params, STARTS, keys, temperatures)
state8, metrics8 = evolve(mesh, whole[0], whole[1], *parallel.replicate(mesh, (keys, temperatures)))
np.testing.assert_allclose(metrics8["mean"], metrics["mean"], rtol=1e-3, atol=1e-3)
np.testing.assert_allclose(state8.mean, state.mean, atol=1e-4)
