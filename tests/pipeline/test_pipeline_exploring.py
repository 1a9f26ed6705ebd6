"""Who collects in the rounds after the first: C, a script, or a controller that is searched for by curiosity."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dream_probe import recordings
from untrained import context

from wm_jax.actors import protocol as actors
from wm_jax.data import observations
from wm_jax.data.records import read_episode
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.explore.curiosity import CuriosityConfig
from wm_jax.models import Models
from wm_jax.pipeline.checking import check
from wm_jax.pipeline.collecting import Collect
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.plan import plan
from wm_jax.pipeline.progress import Interrupt
from wm_jax.pipeline.searching import EVALUATIONS, Evolve, Explore
from wm_jax.pipeline.weights import ENCODED, load_candidates, load_deployed
from wm_jax.rollouts import RoundsConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.worlds import WorldConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]


def with_memory(experiment: Experiment, **settings: Any) -> WorldConfig:
    """Its world model with other settings of M."""
    world = experiment.world
    assert isinstance(world, VisionMemoryConfig)
    return replace(world, memory=replace(world.memory, **settings))


@pytest.fixture
def experiment(probe_experiment: Path) -> Experiment:
    found = load(probe_experiment)
    return replace(
        found,
        world=with_memory(found, predict_surprise=True, hidden_size=4),
        dream=replace(found.dream, episodes=4, horizon=10),
        collect=replace(found.collect, episodes=2, workers=1, max_steps=10),
        search=replace(found.search, population=4, rollouts=2),
        evolve=EvolveConfig(generations=2, evaluate_every=1, evaluation_rollouts=4, actual_episodes=0),
        rounds=RoundsConfig(count=2, episodes=6, drivers="evaluated"),
        explorer=CuriosityConfig(share=1 / 3, generations=3),
    )


def searched(experiment: Experiment, folder: Path) -> Context:
    """The first round's searches, on a V and M of random weights."""
    here = context(experiment, folder, Interrupt())
    seen = recordings((30, 50), here.models.state_shapes[1].mean.size, here.models.world.action_size)
    observations.save(here.stage("latents", 0).path / ENCODED, seen)
    for stage in (Evolve(), Explore()):
        stage.run(here, 0, here.stage(stage.folder, 0))
    return here


def recorded(here: Context, round_number: int) -> list[str]:
    """Who acted in each episode of a round."""
    stage = here.stage(Collect.folder, round_number)
    stage.path.mkdir(parents=True, exist_ok=True)
    with here.interrupt:
        Collect().run(here, round_number, stage)
    return [read_episode(path).policy for path in sorted(stage.path.glob("episodes/*.array_record"))]


def test_the_explorers_controller_collects_its_share_beside_c(experiment: Experiment, tmp_path: Path) -> None:
    steps = [str(step) for step in plan(experiment)]
    assert [step for step in steps if step.startswith("explore")] == ["explore (round 0)"], (
        "nothing collects after round 1"
    )
    here = searched(experiment, tmp_path)
    found = json.loads((here.stage("explorer", 0).path / EVALUATIONS).read_text())
    assert [evaluation["generation"] for evaluation in found] == [1, 2, 3]
    assert all(evaluation["actual"] is None and evaluation["dream"]["n"] == 4 for evaluation in found)
    own, cs = (
        actors.flat(means, 1) for means in (load_candidates(here.exploring, 0, "explorer"), load_candidates(here, 0))
    )
    assert (len(cs), len(own)) == (2, 3) and not np.array_equal(cs[0], own[0])
    assert recorded(here, 1) == [
        *(f"candidate {row} of round 0" for row in (0, 1, 0, 1)),
        *(f"explorer, candidate {row} of round 0" for row in (0, 2)),
    ]  # fmt: skip
    deployed = replace(experiment, rounds=replace(experiment.rounds, drivers="deployed"))
    again = Context(deployed, Models(deployed), here.run, here.screen, here.interrupt)
    for path in here.stage("rollouts", 1).path.glob("episodes/*"):
        path.unlink()
    assert Counter(recorded(again, 1)) == {"controller of round 0": 4, "explorer, controller of round 0": 2}


def test_a_script_collects_in_every_round(experiment: Experiment, tmp_path: Path) -> None:
    scripted = replace(
        experiment, rounds=replace(experiment.rounds, drivers="scripted"), explorer=CuriosityConfig(share=0)
    )
    here = context(scripted, tmp_path, Interrupt())
    assert recorded(here, 0) == ["held"] * 2 and recorded(here, 1) == ["held"] * 6
    seeds = {read_episode(path).seed for path in tmp_path.glob("**/*.array_record")}
    assert len(seeds) == 8, "no round plays another one's episodes"


def test_curiosity_without_a_model_that_knows_surprise_is_refused(experiment: Experiment) -> None:
    world = with_memory(experiment, predict_surprise=False)
    for reward in ("surprise", "excess_surprise"):
        wrong = replace(experiment, world=world, explorer=CuriosityConfig(reward=reward))
        message = f"explorer.reward is '{reward}' but the world model does not predict the surprise of a step"
        with pytest.raises(UserError, match=message):
            check(wrong, Models(wrong))
    with pytest.raises(UserError, match=r"explorer\.reward"):
        CuriosityConfig(reward="novelty")
    idle = replace(experiment, rounds=replace(experiment.rounds, drivers="scripted"))
    with pytest.raises(
        UserError, match=r"rounds\.drivers is 'scripted' but explorer\.kind is 'curiosity', whose controller"
    ):
        check(idle, Models(idle))


@pytest.mark.parametrize("warm", [True, False])
def test_a_warm_start_goes_on_from_the_c_of_the_round_before(
    experiment: Experiment, tmp_path: Path, warm: bool
) -> None:
    """With hardly a step the search's mean stays where it began."""
    first = replace(experiment, search=replace(experiment.search, sigma=0.5))
    here = searched(first, tmp_path)
    later = replace(
        first,
        search=replace(experiment.search, sigma=1e-6),
        rounds=replace(first.rounds, warm_start=warm),
    )
    there = Context(later, Models(later), here.run, here.screen, here.interrupt)
    for stage in ("vision", "memory", "latents"):
        shutil.copytree(here.stage(stage, 0).path, here.stage(stage, 1).path)
    Evolve().run(there, 1, there.stage("controller", 1))
    before = actors.flat(load_deployed(here, here.stage("controller", 0))[0])
    after = actors.flat(load_deployed(there, there.stage("controller", 1))[0])
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(after, before if warm else 0, atol=1e-4)
