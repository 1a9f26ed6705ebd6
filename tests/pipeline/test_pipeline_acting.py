"""Policies and planners through the stage that finds them: searched in dreams or in the actual environment, or not at
all."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from untrained import context, evolve, evolve_in_two

import wm_jax.lanes
from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.actors.convolutional import ConvolutionalConfig
from wm_jax.actors.icem import ICEMConfig
from wm_jax.actors.mlp import MLPConfig
from wm_jax.actors.policy import PolicyConfig
from wm_jax.data.weights import load_weights
from wm_jax.dream import DreamConfig
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.models import Models
from wm_jax.pipeline import episode_learning, playing, searching, side_by_side
from wm_jax.pipeline.checking import check
from wm_jax.pipeline.info import describe
from wm_jax.pipeline.progress import Interrupt, Stopped
from wm_jax.pipeline.weights import load_controller, load_controllers, load_world
from wm_jax.rollouts.agent import Agent, AgentDriver
from wm_jax.search import EpisodeSearch, SearchConfig
from wm_jax.search.backprop import BackpropConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig, TuneConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.worlds.pixels import PixelsConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

POOL = str(Path(__file__).parents[1] / "rollouts" / "pool_task.py")
"""The probe, whose lanes need no processes of their own."""
STEPS, HOLD = 10, 3
PLANNER = ICEMConfig(horizon=3, candidates=8, elites=3, iterations=2, shrink=1.0)


@pytest.fixture(scope="module")
def experiment(probe_experiment: Path) -> Experiment:
    """In dreams: a policy on a small V and M."""
    found = load(probe_experiment)
    assert isinstance(found.world, VisionMemoryConfig)
    return replace(
        found,
        world=replace(found.world, memory=replace(found.world.memory, hidden_size=4)),
        dream=replace(found.dream, episodes=4, horizon=12, end="drawn"),
        actor=PolicyConfig(hidden_sizes=(6,)),
        evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=8, actual_episodes=0),
    )


@pytest.fixture(scope="module")
def actual(experiment: Experiment) -> Experiment:
    """In the actual environment."""
    return replace(
        experiment,
        task=POOL,
        search=PPOConfig(dreams=4, hold=HOLD, batches=2, passes=1),
        evolve=EvolveConfig(
            fitness="actual", select="actual", generations=2, evaluate_every=2, actual_episodes=1, max_steps=STEPS,
            environments=2, backend="pool", seeds=2,
        ),
        evaluate=replace(experiment.evaluate, environments=2),
    )  # fmt: skip


@pytest.mark.parametrize(
    "search", [PPOConfig(dreams=16, decisions=4, hold=2, length=10), BackpropConfig(dreams=16, horizon=4, length=10)]
)
def test_stopped_and_gone_on_with_a_search_in_dreams_ends_with_the_same_bits(
    experiment: Experiment, tmp_path: Path, search: SearchConfig
) -> None:
    whole = evolve_in_two(replace(experiment, search=search), tmp_path, 0, "step 1 of 4")
    means, about = load_weights(whole / searching.CANDIDATES)
    assert [evaluation[0]["generation"] for evaluation in about["evaluations"]] == [2, 4]
    assert all((leaf[0] != leaf[1]).any() for leaf in jax.tree.leaves(means))


def test_stopped_and_gone_on_with_in_the_actual_environment_it_ends_with_the_same_bits(
    actual: Experiment, tmp_path: Path
) -> None:
    """In the middle of its second generation, which begins again; and its two searches differ."""
    check(actual, Models(actual))
    whole = evolve_in_two(actual, tmp_path, 120, r"generation 2, after \d of 8 episodes.* plays that generation again")
    here = context(actual, tmp_path / "whole", Interrupt())
    found, abouts = load_controllers(here, 0)
    first, second = actors.flat(found, 1)
    assert (first != second).any() and all(about["dream"] is None for about in abouts)
    lines = [line for line in here.run.metrics() if "steps" in line]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < steps <= 4 * STEPS for line in lines for steps in line["steps"])
    assert (whole / searching.WEIGHTS).exists()


def test_a_policy_from_pixels_learns_without_a_world_model(actual: Experiment, tmp_path: Path) -> None:
    pixels = replace(
        actual,
        world=PixelsConfig(frames=2),
        dream=DreamConfig(),
        actor=ConvolutionalConfig(),
        evolve=replace(actual.evolve, seeds=1),
    )
    check(pixels, Models(pixels))
    whole = evolve_in_two(pixels, tmp_path, 60, r"generation 2, after \d of 4 episodes")
    weights, about = load_controller(context(pixels, tmp_path / "whole", Interrupt()), 0)
    assert actors.size(Models(pixels).actor) == about["parameters"] == actors.flat(weights).size
    assert about["actual"]["n"] == 1 and whole.exists()


@pytest.mark.parametrize(("task", "backend"), [(POOL, "pool"), ("swing_up", None)], ids=["host", "device"])
def test_what_is_learned_from_is_what_was_done(
    actual: Experiment, tmp_path: Path, task: str, backend: str | None
) -> None:
    """Of episodes on the host, and on the device; more of them than there are lanes."""
    config = replace(actual.evolve, backend=backend)
    here = context(replace(actual, task=task, evolve=config), tmp_path, Interrupt())
    search = searching.actual_search(here.models, config, False)
    assert isinstance(search, EpisodeSearch)
    agent, variants = Agent(here.models.world, here.models.actor), side_by_side.variants(actual)
    runner = playing.EpisodeRunner(here, here.stage("controller", 0), agent, load_world(here, 0))
    with ExitStack() as stack:
        generations = episode_learning.LearnedGenerations(
            here, config, search, variants, jax.random.key(1), 5, runner, stack
        )
        states = parallel.replicate(here.mesh, jax.vmap(search.init)(jax.random.split(jax.random.key(2))))
        tables = jax.vmap(search.player_weights, (0, None))(states, 0)
        driver = AgentDriver(generations.agent, runner.params, tables)
        played = generations._play(driver, [(seed, 1) for seed in (7, 8, 9)], 0)
        weights = jax.tree.map(lambda array: array[1], tables)
        found = generations._experience(played, weights)
    policy = search.player.policy
    done = policy.distribution(weights["policy"], found.inputs, weights["noise"]).action(found.drawn)
    assert found.length.tolist() == [len(episode.actions) for episode in played]
    assert found.terminated.tolist() == [episode.terminated for episode in played]
    for number, episode in enumerate(played):
        length = len(episode.actions)
        kept = np.repeat(done[number], HOLD, axis=0)[:length]
        np.testing.assert_allclose(kept, episode.actions, atol=1e-4)
        assert np.ptp(kept) > 0.1
        rewards = found.reward[number].ravel()
        np.testing.assert_allclose(rewards[:length], episode.rewards, rtol=1e-6)
        assert not rewards[length:].any()


@pytest.fixture(scope="module")
def planning(experiment: Experiment) -> Experiment:
    """A planner that learns nothing."""
    evolve = replace(experiment.evolve, generations=1, evaluate_every=1)
    return replace(experiment, actor=PLANNER, search=NoSearchConfig(), evolve=evolve)


def test_a_planner_goes_through_the_stage_and_leaves_its_score_and_no_weights(
    planning: Experiment, tmp_path: Path
) -> None:
    check(planning, Models(planning))
    folder = evolve(planning, tmp_path, Interrupt())
    assert all((folder / name).exists() for name in searching.RESULTS)
    weights, about = load_controller(context(planning, tmp_path, Interrupt()), 0)
    assert weights == {} and about["parameters"] == 0 and about["generation"] == 1
    assert about["dream"]["n"] == 8 and np.isfinite(about["dream"]["mean"]) and about["actual"] is None


def test_a_planners_dreams_are_evaluated_some_at_a_time_and_can_be_stopped_in_between(
    planning: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 dreams in calls of 3, the last with one too many: the same dreams as in one call."""

    def scored(folder: Path) -> dict[str, Any]:
        evolve(planning, folder, Interrupt())
        return load_controller(context(planning, folder, Interrupt()), 0)[1]["dream"]

    expected = scored(tmp_path / "whole")
    planned = planning.dream.horizon * Models(planning).actor.planned_steps
    monkeypatch.setattr(wm_jax.lanes, "PLANNED_IN_CALL", 3 * planned)
    found = scored(tmp_path / "parts")
    assert found["n"] == expected["n"] == 8
    assert found["mean"] == pytest.approx(expected["mean"], rel=1e-4)
    asked = Interrupt()
    asked.requested = True
    with pytest.raises(Stopped, match=r"stopped in controller/round-0 after 3/8 dreams of the evaluation"):
        evolve(planning, tmp_path / "stopped", asked)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"search": CMAESConfig()}, r"actor\.kind is 'icem'.* search\.kind is 'cma_es'; set search\.kind to 'none'"),
        ({"tune": TuneConfig(generations=3)}, r"actor\.kind is 'icem'.* tune\.generations is 3, .* set it to 0"),
        ({"evolve": EvolveConfig(generations=2)}, r"search\.kind is 'none' but evolve\.generations is 2"),
        ({"actor": MLPConfig()}, r"search\.kind is 'none' but the actor \(z h, linear\) has 9 weights"),
    ],
)
def test_what_there_is_nothing_to_find_of_is_not_searched_for(
    planning: Experiment, settings: dict[str, Any], says: str
) -> None:
    wrong = replace(planning, **settings)
    with pytest.raises(UserError, match=says):
        check(wrong, Models(wrong))


def test_what_a_planner_takes_is_told(planning: Experiment) -> None:
    """Each step of a dream that it is scored in costs the steps of its plans besides."""
    facts = describe(planning)
    plans = Models(planning).actor
    each = facts["work"]["a dream step"] * (1 + plans.planned_steps)
    dreamt = planning.evolve.evaluation_rollouts * planning.dream.horizon
    assert facts["work"]["acting in the search at most"] == pytest.approx(dreamt * each, rel=1e-3)
    assert plans.planned_steps == 3 * (8 + 8) and plans.planned_dreams == 8
