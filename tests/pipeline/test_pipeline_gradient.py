"""C searched by policy gradient, through the stage that evolves it."""

from dataclasses import replace
from pathlib import Path

import pytest
from dream_probe import recordings
from untrained import Impatient, context

from wm_jax.controller import EvolveConfig, GradientConfig, PolicyConfig
from wm_jax.data import latents
from wm_jax.data.weights import load_weights
from wm_jax.experiment import Experiment, load
from wm_jax.pipeline import evolving
from wm_jax.pipeline.context import Models
from wm_jax.pipeline.info import describe
from wm_jax.pipeline.progress import Interrupt, Stopped
from wm_jax.pipeline.side_by_side import bytes_at_rest
from wm_jax.pipeline.stages import Step
from wm_jax.pipeline.training import LATENTS


@pytest.fixture
def experiment(probe_experiment: Path) -> Experiment:
    return replace(
        load(probe_experiment),
        controller=PolicyConfig(features="zh", hidden_size=6),
        evolve=EvolveConfig(
            search="policy_gradient", generations=4, evaluate_every=2, evaluation_rollouts=8, actual_episodes=0, seeds=2
        ),
        gradient=GradientConfig(dreams=16, decisions=4, hold=2, length=10, episodes=4),
    )


def evolve(experiment: Experiment, folder: Path, interrupt: Interrupt) -> Path:
    """The stage on a V and M of random weights."""
    here = context(experiment, folder, interrupt)
    models = here.models
    seen = recordings((30, 50), models.memory.latent_size, models.memory.action_size)
    latents.save(here.stage("latents", 0).path / LATENTS, seen)
    stage = here.stage("controller", 0)
    with interrupt:
        evolving.evolve(here, 0, stage)
    return stage.path


def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(experiment: Experiment, tmp_path: Path) -> None:
    """Its noise falls, and its dreams end by chance."""
    experiment = replace(experiment, dream=replace(experiment.dream, end="drawn"))
    whole = evolve(experiment, tmp_path / "whole", Interrupt())
    with pytest.raises(Stopped, match="step 1 of 4"):
        evolve(experiment, tmp_path / "stopped", Impatient(0))
    gone_on = evolve(experiment, tmp_path / "stopped", Interrupt())
    for name in evolving.RESULTS:
        assert (whole / name).read_bytes() == (gone_on / name).read_bytes(), name
    means, about = load_weights(whole / "means.safetensors")
    assert means["means"].shape == (2, 2, Models(experiment).controller.size)
    assert len({row.tobytes() for row in means["means"].reshape(4, -1)}) == 4, "seeds and generations must differ"
    assert [evaluation["generation"] for evaluation in about["evaluations"][0]] == [2, 2]


def test_it_needs_no_matrix_of_all_weights(experiment: Experiment) -> None:
    """CMA-ES would ask for more than 16 bytes for each pair of weights."""
    large = replace(experiment, controller=PolicyConfig(features="zhc", hidden_size=2000))
    assert bytes_at_rest(large, Models(large)) < 2**26 < 2**33 < 16 * Models(large).controller.size ** 2


def test_a_generation_is_told_of_as_it_is(experiment: Experiment) -> None:
    facts = describe(experiment)
    assert facts["shapes"]["decisions of a generation"] == [4, 16] and "population" not in facts["shapes"]
    assert facts["work"]["a generation at most"] == 4 * 16 * 2 * facts["work"]["one step of M (a dream step)"]


def test_its_settings_belong_to_the_stage_that_evolves(experiment: Experiment) -> None:
    assert Step("evolve", 0).settings(experiment)["gradient.hold"] == 2
    assert "gradient.hold" not in Step("memory", 0).settings(experiment)
