"""The benchmark of planners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.actors.planning import SequencePlanner
from wm_jax.bench import plan
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import set_up
from wm_jax.pipeline.progress import Screen
from wm_jax.worlds import World

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

CONFIG = BenchConfig(population=4, rollouts=2, horizon=8, latent_size=4, hidden_size=8, mixtures=2, seconds=0)
STEPS = {
    # Ten times a thousand sequences of 12 actions; 40, 32 and 26 of 30, each beside 3 that are kept; 120 of 30.
    "cem": 10 * 1000 * 12,
    "icem": (40 + 32 + 26 + 3 * 3) * 30,
    "mppi": 120 * 30,
    # 50 nodes, 4 steps from each to the next; and 4 outcomes of each with one more, those of the root besides.
    "mcts, gumbel": 50 * 4,
    "mcts, stochastic": 50 * 4 * 5 + 4 * 4,
}
"""Dreamt steps of a decision."""


@pytest.fixture(scope="module")
def setup():
    return set_up(CONFIG)


def test_every_planner_has_rows_and_its_limit_is_the_dreams(monkeypatch):
    # Each is compiled: icem and the other tree are these with other settings.
    names = ("cem", "mppi", "mcts, gumbel")
    settings = plan.settings()
    monkeypatch.setattr(plan, "settings", lambda: {name: settings[name] for name in names})
    result = plan.measure(CONFIG, Screen())
    dream, *rows = result.rows
    decisions, compiling = rows[:3], rows[3:]
    assert dream.name == "dream" and dream.unit == "steps/s" and dream.value > 0 and dream.limit and dream.against
    assert [row.name for row in decisions] == ["cem, 1 lane", "mppi, 16 lanes", "mcts, gumbel, 16 lanes"]
    for name, row in zip(names, decisions, strict=True):
        assert row.unit == "decisions/s" and row.value > 0 and f"{STEPS[name]:,} steps" in row.against
        assert row.limit == pytest.approx(dream.value / STEPS[name])
    assert [row.name for row in compiling] == [f"{name}: compile time" for name in names]
    assert all(row.unit == "s" and row.value > 0 and row.limit is None for row in compiling)
    assert "4 × 2 dreams of 8 steps, Z 4, H 8" in result.sizes


def test_steps_of_the_planners_that_are_measured(setup):
    assert {name: plan.build(setup, config).dream_steps for name, config in plan.settings().items()} == STEPS


def test_a_decision_is_taken_in_every_lane(setup):
    planner = plan.build(setup, plan.settings()["mppi"])
    decide, _ = plan.deciding(setup, planner, 3)
    action, carry = decide()
    assert action.shape == (3, 1) and np.isfinite(action).all() and len(np.unique(action)) == 3
    # Decided, and not kept from before: the plan is no longer the one that an episode begins with.
    assert np.asarray(carry.plan).any() and not np.asarray(planner.first_plan()).any()


def test_nobody_dies_in_a_plan(setup):
    planner = plan.build(setup, plan.settings()["mppi"])
    assert isinstance(planner, SequencePlanner)
    state = jax.tree.map(lambda array: array[0], setup.starts)
    plans = jax.random.normal(jax.random.key(3), (5, 12, 1), jnp.float32)
    found = planner.returns({}, World(setup.model, setup.params), state, plans, jax.random.key(4))
    np.testing.assert_array_equal(found, 12)
