"""Evolutions side by side: the same as one after the other, in as much memory as was said."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import recordings

from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig, start_states
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.models import Models
from wm_jax.pipeline import side_by_side
from wm_jax.pipeline.checking import check
from wm_jax.search import Dreams
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

EXPERIMENT = Experiment(
    task="take_cover",
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=8), memory=MemoryConfig(hidden_size=32, mixtures=2, predict_done=True)
    ),
    dream=DreamConfig(temperature=1.0, horizon=40),
    actor=MLPConfig(features=("z", "c", "h"), bias=False),
    search=CMAESConfig(population=16, rollouts=8),
    evolve=EvolveConfig(evaluation_rollouts=128, temperatures=(0.5, 1.0), seeds=2),
)
LATENTS = recordings((10, 20), latent_size=8, log_var=0.0)


def set_up(experiment):
    """The parts, and all that a search is given but the states."""
    models, evolutions = Models(experiment), side_by_side.variants(experiment)
    params = {name: learner.init(jax.random.key(0)) for name, learner in models.world.learners.items()}
    # An M that is sure of ends makes dreams differ in length.
    head = params["memory"]["head"]
    head["kernel"] = head["kernel"].at[:, -1].multiply(8)
    starts = start_states(models.dream, params, LATENTS, jax.random.key(1))
    temperatures = jnp.array([variant.temperature for variant in evolutions], jnp.float32)
    dreams = Dreams(params, starts, temperatures[0])
    return models, dreams, temperatures, side_by_side.keys(jax.random.key(7), evolutions)


def evolve(setup, group):
    models, dreams, temperatures, keys = setup
    search = models.search(3)
    keys = jax.random.clone(keys)[group]
    some = temperatures[group], keys
    states = jax.vmap(lambda key: search.init(key, None, dreams.starts))(keys)
    states, metrics = side_by_side.iterate(search, states, dreams, some[0], 0, some[1], 3)
    found = jax.vmap(search.candidate)(states)
    returns = side_by_side.returns_of(models.dream, models.actor, dreams, found, *some, 3, 0, 16, None)
    return jax.device_get((actors.flat(found, 1), metrics["mean"], returns))


def test_every_temperature_meets_every_seed():
    found = side_by_side.variants(EXPERIMENT)
    assert [(variant.temperature, variant.seed) for variant in found] == [(0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)]
    alone = dataclasses.replace(EXPERIMENT, evolve=EvolveConfig())
    assert side_by_side.variants(alone) == [side_by_side.Variant(1.0, 0)]


def test_groups_in_turn_find_what_all_find_together():
    setup = set_up(EXPERIMENT)
    together = evolve(setup, slice(0, 4))
    assert len(np.unique(together[1][:, -1])) == 4, "evolutions must differ for this test to say something"
    groups = [evolve(setup, group) for group in side_by_side.groups(4, shared=0, rest=0, work=10, memory=43)]
    for whole, parts in zip(together, zip(*groups, strict=True), strict=True):
        np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-4)


def test_evolutions_are_cut_into_as_few_equal_groups_as_fit():
    """In six tenths of the memory."""
    assert side_by_side.groups(4, 0, rest=0, work=10, memory=70) == [slice(0, 4)]
    assert side_by_side.groups(4, 0, rest=0, work=10, memory=65) == [slice(0, 2), slice(2, 4)]
    assert side_by_side.groups(5, 0, rest=0, work=10, memory=40) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert side_by_side.groups(4, 0, rest=5, work=10, memory=70) == [slice(0, 2), slice(2, 4)]
    assert side_by_side.groups(4, 3, rest=0, work=10, memory=70) == [slice(0, 2), slice(2, 4)]
    with pytest.raises(
        UserError, match=r"searches side by side \(2\) take at least about 13\.0 GiB, but 60% .* 4\.0 GiB.*lower evolve"
    ):
        side_by_side.groups(2, 2**30, rest=2**30, work=10 * 2**30, memory=4 * 2**30)


def test_the_memory_is_what_the_compiler_reserves():
    """For the evaluations, the larger part here, of four evolutions against two, so that what they share drops out; the
    formula may be above, and not by far."""
    memory = MemoryConfig(hidden_size=128, predict_done=True)
    experiment = dataclasses.replace(
        EXPERIMENT,
        world=dataclasses.replace(EXPERIMENT.world, memory=memory),
        search=CMAESConfig(population=32, rollouts=4),
        evolve=EvolveConfig(evaluation_rollouts=512, temperatures=(1.0,), seeds=4),
    )
    models, dreams, temperatures, keys = set_up(experiment)
    shapes = actors.shapes(models.actor)

    def reserved(count):
        means = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), jnp.float32), shapes)
        some = means, temperatures[:count], keys[:count]
        lowered = side_by_side.returns_of.lower(models.dream, models.actor, dreams, *some, 0, 0, 512, None)
        need = lowered.compile().memory_analysis()
        assert need is not None
        return need.temp_size_in_bytes + need.output_size_in_bytes

    found = (reserved(4) - reserved(2)) / 2
    assert found <= side_by_side.bytes_at_work(experiment, models, models.search(1)) <= 3 * found


@pytest.mark.parametrize("start", ["first", "anywhere"])
@pytest.mark.parametrize("search", [CMAESConfig(), PolicyGradientConfig(), PolicyGradientConfig(start="first")])
def test_the_account_of_start_states_is_the_size_of_the_tables(search, start):
    """To the byte: of lengths that are multiples of the distance of two rows."""
    dream, actor = DreamConfig(start=start, episodes=2), MLPConfig()
    experiment = dataclasses.replace(EXPERIMENT, search=search, actor=actor, dream=dream, evolve=EvolveConfig())
    models, recorded = Models(experiment), recordings((160, 320), latent_size=8)
    params = {name: learner.init(jax.random.key(0)) for name, learner in models.world.learners.items()}
    found = models.search(1)
    tables = [
        start_states(each, params, recorded, jax.random.key(1)) for each in {models.dream, models.start_dream(found)}
    ]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tables))
    assert side_by_side.bytes_of_starts(models, found, 2, 240.0) == size


def test_the_deployed_temperature_must_be_among_those_evolved():
    wrong = dataclasses.replace(EXPERIMENT, dream=DreamConfig(temperature=1.15))
    with pytest.raises(UserError, match=r"dream\.temperature 1\.15 is not among evolve\.temperatures"):
        check(wrong, Models(wrong))
    chosen = dataclasses.replace(wrong.evolve, select="actual")
    check(dataclasses.replace(wrong, evolve=chosen), Models(wrong))


def test_a_temperature_is_not_evolved_twice():
    with pytest.raises(UserError, match=r"evolve\.temperatures has 0\.5 more than once.*evolve\.seeds"):
        EvolveConfig(temperatures=(0.5, 1.0, 0.5))
