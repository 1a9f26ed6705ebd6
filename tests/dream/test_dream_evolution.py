"""C evolved in a dream whose best controller is known: evolution and dream together, as one compiled call."""

import jax
import numpy as np
from dream_probe import Line, recordings
from jax.tree_util import Partial

from wm_jax.controller import Controller, Evolution, EvolveConfig, PolicyConfig
from wm_jax.dream import Dream, DreamConfig, DreamFitness, population_returns


def test_evolution_in_the_dream_learns_to_come_home():
    """Reward 1 - |z|, and an action moves z by up to 0.5: the best there is goes to 0 at full speed and stays there."""
    dream = Dream(Line(noise=0.02), DreamConfig(horizon=20, reward="predicted", temperature=1.0))
    policy = Controller(PolicyConfig("z"), latent_size=1, hidden_size=1, action_size=1)
    evolution = Evolution(EvolveConfig(population=16, rollouts=4, sigma=0.5), policy.size)
    latents = recordings((33,), log_var=0.0)
    fitness = Partial(DreamFitness(dream, policy, 4), {}, latents, 1.0)
    key = jax.random.key(0)
    state, _ = evolution.generations(evolution.init(key), 0, fitness, key, 40)

    deployed = evolution.mean(state)[None]
    scores = population_returns(dream, policy, {}, latents, deployed, jax.random.key(99), rollouts=200)
    starts = np.abs(np.asarray(jax.vmap(lambda key: dream.reset({}, latents, key).z)(jax.random.split(key, 4000))))
    # From |z| the best return is the sum over 20 steps of 1 - max(|z| - t / 2, 0), less the noise's mean |0.02 N|.
    best = (1 - np.maximum(starts - np.arange(20) / 2, 0)).sum(axis=1).mean() - 19 * 0.02 * np.sqrt(2 / np.pi)
    untrained = population_returns(dream, policy, {}, latents, 0 * deployed, jax.random.key(99), rollouts=200)
    assert untrained.returns.mean() < best - 5
    np.testing.assert_allclose(scores.returns.mean(), best, atol=0.5)
