"""C evolved in a dream whose best controller is known: evolution and dream together, as one compiled call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, recordings

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import Dream, DreamConfig, population_returns, start_states
from wm_jax.search import Dreams
from wm_jax.search.cma_es import CMAESConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_evolution_in_the_dream_learns_to_come_home():
    """Reward 1 - |z|, and an action moves z by up to 0.5: the best there is goes to 0 at full speed and stays there."""
    dream = Dream(Line(spread=0.02), DreamConfig(horizon=20, reward="predicted", temperature=1.0))
    actor = MLPConfig(features=("z",)).build(dream)
    search = CMAESConfig(population=16, rollouts=4, sigma=0.5).build(actor, dream, 40)
    key = jax.random.key(0)
    starts = start_states(dream, {}, recordings((33,), log_var=0.0), key)
    state, _ = search.iterate(search.init(key), Dreams({}, starts, jnp.float32(1)), 0, key, 40)

    deployed = jax.tree.map(lambda array: array[None], search.candidate(state))
    scores = population_returns(dream, actor, {}, starts, deployed, jax.random.key(99), rollouts=200)
    begun = np.abs(starts.z)
    # From |z| the best return is the sum over 20 steps of 1 - max(|z| - t / 2, 0), less the noise's mean |0.02 N|.
    best = (1 - np.maximum(begun - np.arange(20) / 2, 0)).sum(axis=1).mean() - 19 * 0.02 * np.sqrt(2 / np.pi)
    idle = jax.tree.map(jnp.zeros_like, deployed)
    untrained = population_returns(dream, actor, {}, starts, idle, jax.random.key(99), rollouts=200)
    assert untrained.returns.mean() < best - 5
    np.testing.assert_allclose(scores.returns.mean(), best, atol=0.5)
