"""Evolutions side by side: the same as one after the other, in as much memory as was said."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.controller import Evolution, EvolveConfig, PolicyConfig
from wm_jax.dream import DreamConfig, DreamFitness
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.pipeline import check, side_by_side
from wm_jax.pipeline.context import Models
from wm_jax.types import Latents, LatentStats
from wm_jax.vision import VisionConfig

EXPERIMENT = Experiment(
    task="take_cover",
    vision=VisionConfig(latent_size=8),
    memory=MemoryConfig(hidden_size=32, mixtures=2, predict_done=True),
    dream=DreamConfig(temperature=1.0, horizon=40),
    controller=PolicyConfig(features="zhc", bias=False),
    evolve=EvolveConfig(population=16, rollouts=8, evaluation_rollouts=128, temperatures=(0.5, 1.0), seeds=2),
)
FRAMES = 30
LATENTS = Latents(
    stats=LatentStats(jnp.ones((FRAMES, 8), jnp.float16), jnp.zeros((FRAMES, 8), jnp.float16)),
    action=jnp.zeros((FRAMES, 1)),
    reward=jnp.zeros(FRAMES),
    start=jnp.array([0, 10], jnp.int32),
    length=jnp.array([10, 20], jnp.int32),
    terminated=jnp.ones(2, bool),
)


def set_up(experiment):
    """All that `generations` takes but the states."""
    models, evolutions = Models(experiment), side_by_side.variants(experiment)
    params = models.memory.init(jax.random.key(0))
    params["head"]["kernel"] = params["head"]["kernel"].at[:, -1].multiply(8)
    evolution = Evolution(experiment.evolve, models.controller.size)
    fitness = DreamFitness(models.dream, models.controller, experiment.evolve.rollouts)
    temperatures = jnp.array([variant.temperature for variant in evolutions])
    keys = side_by_side.keys(jax.random.key(7), evolutions)
    return evolution, fitness, params, temperatures, keys


def evolve(setup, group):
    evolution, fitness, params, temperatures, keys = setup
    states = jax.vmap(evolution.init)(keys[group])
    state, metrics = side_by_side.generations(
        evolution, fitness, states, 0, params, LATENTS, temperatures[group], keys[group], 3
    )
    returns = side_by_side.returns_of(fitness, params, LATENTS, state.mean, temperatures[group], keys[group], 3, 16)
    return jax.device_get((state.mean, metrics["mean"], returns))


def test_every_temperature_meets_every_seed():
    found = side_by_side.variants(EXPERIMENT)
    assert [(variant.temperature, variant.seed) for variant in found] == [(0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)]
    alone = dataclasses.replace(EXPERIMENT, evolve=EvolveConfig())
    assert side_by_side.variants(alone) == [side_by_side.Variant(1.0, 0)]


def test_groups_in_turn_find_what_all_find_together():
    setup = set_up(EXPERIMENT)
    together = evolve(setup, slice(0, 4))
    assert len(np.unique(together[1][:, -1])) == 4, "evolutions must differ for this test to say something"
    groups = [evolve(setup, group) for group in side_by_side.groups(4, rest=0, work=10, memory=43)]
    for whole, parts in zip(together, zip(*groups, strict=True), strict=True):
        np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-4)


def test_evolutions_are_cut_into_as_few_equal_groups_as_fit():
    """In six tenths of the memory."""
    assert side_by_side.groups(4, rest=0, work=10, memory=70) == [slice(0, 4)]
    assert side_by_side.groups(4, rest=0, work=10, memory=65) == [slice(0, 2), slice(2, 4)]
    assert side_by_side.groups(5, rest=0, work=10, memory=40) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert side_by_side.groups(4, rest=5, work=10, memory=70) == [slice(0, 2), slice(2, 4)]
    with pytest.raises(
        UserError, match=r"2 evolutions take about 12\.0 GiB at least, and 60% .* 4\.0 GiB.*lower evolve"
    ):
        side_by_side.groups(2, rest=2**30, work=10 * 2**30, memory=4 * 2**30)


def test_the_memory_is_what_the_compiler_reserves():
    """For the evaluations, the larger part here, of four evolutions against two, so that what they share drops out; the
    formula may be above, and not by far."""
    config = EvolveConfig(population=32, rollouts=4, evaluation_rollouts=512, temperatures=(1.0,), seeds=4)
    experiment = dataclasses.replace(EXPERIMENT, evolve=config, memory=MemoryConfig(hidden_size=128, predict_done=True))
    evolution, fitness, params, temperatures, keys = set_up(experiment)

    def reserved(count):
        means, some = jnp.zeros((count, evolution.size)), (temperatures[:count], keys[:count])
        need = side_by_side.returns_of.lower(fitness, params, LATENTS, means, *some, 0, 512).compile().memory_analysis()
        assert need is not None
        return need.temp_size_in_bytes + need.output_size_in_bytes

    found = (reserved(4) - reserved(2)) / 2
    assert found <= side_by_side.bytes_at_work(experiment, Models(experiment)) <= 3 * found


def test_the_deployed_temperature_must_be_among_those_evolved():
    wrong = dataclasses.replace(EXPERIMENT, dream=DreamConfig(temperature=1.15))
    with pytest.raises(UserError, match=r"dream\.temperature 1\.15 is not among evolve\.temperatures"):
        check(wrong, Models(wrong))
    chosen = dataclasses.replace(wrong.evolve, select="actual")
    check(dataclasses.replace(wrong, evolve=chosen), Models(wrong))


def test_a_temperature_is_not_evolved_twice():
    with pytest.raises(UserError, match=r"evolve\.temperatures has 0\.5 more than once.*evolve\.seeds"):
        EvolveConfig(temperatures=(0.5, 1.0, 0.5))
