"""C searched by policy gradient, through the stage that evolves it."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from dream_probe import recordings
from untrained import context, evolve_in_two

from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLPConfig
from wm_jax.data.weights import load_weights
from wm_jax.experiment import Experiment, load
from wm_jax.models import Models
from wm_jax.pipeline import machine, searching, side_by_side
from wm_jax.pipeline.info import describe
from wm_jax.pipeline.plan import plan
from wm_jax.pipeline.progress import Interrupt
from wm_jax.pipeline.weights import load_candidates, load_world
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture
def experiment(probe_experiment: Path) -> Experiment:
    found = load(probe_experiment)
    return replace(
        found,
        dream=replace(found.dream, episodes=4),
        actor=MLPConfig(features=("z", "h"), hidden_sizes=(6,)),
        search=PolicyGradientConfig(dreams=16, decisions=4, hold=2, length=10),
        evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=8, actual_episodes=0, seeds=2),
    )


def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(experiment: Experiment, tmp_path: Path) -> None:
    """Its noise falls, and its dreams end by chance."""
    experiment = replace(experiment, dream=replace(experiment.dream, end="drawn"))
    whole = evolve_in_two(experiment, tmp_path, 0, "step 1 of 4")
    means = actors.flat(load_candidates(context(experiment, tmp_path / "whole", Interrupt()), 0), 1)
    assert means.shape == (2 * 2, actors.size(Models(experiment).actor))
    assert len({row.tobytes() for row in np.asarray(means)}) == 4, "seeds and generations must differ"
    about = load_weights(whole / searching.CANDIDATES)[1]
    assert [evaluation["generation"] for evaluation in about["evaluations"][0]] == [2, 2]


def test_searches_are_cut_to_what_the_start_states_leave(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two searches and both tables: as many as there is room for, and a byte less is one search less at a time."""
    experiment = replace(experiment, dream=replace(experiment.dream, start="first"))
    here = context(experiment, tmp_path, Interrupt())
    seen = recordings((32, 48), here.models.state_shapes[1].mean.size, here.models.world.action_size)
    params = load_world(here, 0)

    def set_up(room: int) -> side_by_side.DreamGenerations:
        monkeypatch.setattr(machine, "device_memory", lambda: room)
        return side_by_side.DreamGenerations(here, 0, params, seen, lambda words: None)

    monkeypatch.setattr(side_by_side, "SHARE_OF_MEMORY", 1)
    found = set_up(2**40)
    tables = sum(leaf.nbytes for leaf in jax.tree.leaves((found.scored.starts, found.begin)))
    search = found.search
    two = tables + 2 * (search.bytes_at_rest() + side_by_side.bytes_at_work(experiment, here.models, search))
    assert set_up(two).groups == [slice(0, 2)]
    assert set_up(two - 1).groups == [slice(0, 1), slice(1, 2)]


def test_it_needs_no_matrix_of_all_weights(experiment: Experiment) -> None:
    """CMA-ES would ask for more than 16 bytes for each pair of weights."""
    large = Models(replace(experiment, actor=MLPConfig(features=("z", "h", "c"), hidden_sizes=(2000,))))
    assert large.search(4).bytes_at_rest() < 2**26 < 2**33 < 16 * actors.size(large.actor) ** 2


def test_a_generation_is_told_of_as_it_is(experiment: Experiment) -> None:
    facts = describe(experiment)
    assert facts["shapes"]["decisions of a generation"] == [4, 16] and "population" not in facts["shapes"]
    assert facts["work"]["acting in a generation at most"] == 4 * 16 * 2 * facts["work"]["a dream step"]


def test_its_settings_belong_to_the_stage_that_evolves(experiment: Experiment) -> None:
    settings = {step.stage.name: step.settings(experiment) for step in plan(experiment)}
    assert settings["evolve"]["search.hold"] == 2
    assert "search.hold" not in settings["memory"]
