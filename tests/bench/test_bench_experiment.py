"""The benchmark of an experiment's parts, whatever they are."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest

from wm_jax.actors import ActorConfig
from wm_jax.bench import experiment
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.table import Result, Row
from wm_jax.experiment import load
from wm_jax.models import Models
from wm_jax.pipeline.progress import Screen
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.worlds import Actor

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

CONFIG = BenchConfig(population=5, rollouts=3, horizon=8, seconds=0)


@dataclass(frozen=True)
class Still(Actor):
    """An actor without weights that counts its steps."""

    action_size: int

    def init(self, key):
        return {}

    def begin(self):
        return jnp.zeros((), jnp.float32)

    def act(self, params, world, state, carry, key):
        return jnp.zeros(self.action_size, jnp.float32), carry + 1


@dataclass(frozen=True)
class StillConfig(ActorConfig):
    kind: str = "still"

    def build(self, dream):
        return Still(dream.model.action_size)


@pytest.fixture(scope="module")
def recorded(probe_experiment, tmp_path_factory):
    """The probe's parts, weights and recordings."""
    models = Models(load(probe_experiment))
    params = models.world.init(jax.random.clone(experiment.KEY))
    return models, params, experiment.record(models, params, tmp_path_factory.mktemp("recorded"))


def test_every_part_has_a_row_and_a_limit(probe_experiment, monkeypatch):
    monkeypatch.setattr(experiment, "SIDE", 64)
    result = experiment.measure(load(probe_experiment), CONFIG, Screen())
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["dream", "search: generations", "vision: training", "memory: training", "agent: acting"]
    assert all(row.value > 0 and row.limit and row.against for row in result.rows)
    assert rows["vision: training"].unit == "images/s"
    # The search's own candidates, and the experiment's dream cut short.
    assert "16 × 8 dreams of 8 steps" in result.sizes
    assert rows["search: generations"].limit == pytest.approx(rows["dream"].value / (16 * 8 * 8))


def test_recordings_are_enough_for_every_learner(recorded):
    models, _, (store, observations) = recorded
    assert len(store) >= 2 and store.number_of_frames == len(observations.reward)
    for learner in models.world.learners.values():
        assert store.number_of_frames >= learner.units
        assert store.lengths.min() > learner.units // learner.batch_size


def test_a_search_without_a_population_dreams_with_the_benchmarks_own(recorded):
    models, params, (_, observations) = recorded
    models = Models(replace(models.experiment, search=PolicyGradientConfig(dreams=4)))
    search = models.search(1)
    part, words = experiment.dreaming(models, params, observations, search, CONFIG)
    assert words == "5 × 3 dreams of 80 steps" and part.work() == 5 * 3 * 80
    (generations,) = experiment.searching(models, params, observations, search)
    assert generations.work() == experiment.GENERATIONS and generations.factor == 1 / (4 * 12 * 5)


def test_an_actor_without_weights_dreams_and_acts_and_is_not_searched_for(recorded):
    models, params, (_, observations) = recorded
    models = Models(replace(models.experiment, actor=StillConfig()))
    search = models.search(1)
    part, words = experiment.dreaming(models, params, observations, search, CONFIG)
    assert words == "1 × 8 dreams of 80 steps" and part.work() == 8 * 80
    assert experiment.searching(models, params, observations, search) == []
    assert experiment.acting(models, params)[0].work() == experiment.LANES


def test_operations_of_a_step_are_those_of_the_papers_products(recorded):
    models, params, (_, observations) = recorded
    starts = experiment.start_states(models.dream, params, observations, jax.random.clone(experiment.KEY))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params["memory"]) if leaf.ndim == 2)
    assert 2 * weights < experiment.operations_of_a_step(models.world, params, starts) < 2.5 * weights


def test_a_part_whose_operations_nobody_knows_has_no_limit():
    part = experiment.Part("dream", "steps", lambda: 1.0, "products", None, "products")
    assert part.row({"dream": 2.0, "products": 3.0}) == Row("dream", 2.0, "steps/s")
    assert Result("", (part.row({"dream": 2.0}),)).rows[0].ratio is None
