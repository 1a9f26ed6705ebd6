"""Which episodes a round trains on, and which random numbers it draws."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from wm_jax.data.records import Episode, write_episode, write_index
from wm_jax.experiment import load
from wm_jax.models import Models
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.plan import plan
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.run import RunDir
from wm_jax.worlds.vision_memory import VisionMemoryConfig

LENGTHS = {0: [10] * 20, 1: [30] * 4}
"""Frames of the episodes of each round."""


@pytest.fixture
def context(tmp_path: Path, probe_experiment: Path) -> Context:
    experiment = load(probe_experiment)
    experiment = dataclasses.replace(
        experiment,
        held_out=0.1,
        collect=dataclasses.replace(experiment.collect, episodes=20),
        rounds=dataclasses.replace(experiment.rounds, count=2, episodes=4, new_share=0.5),
    )
    context = Context(experiment, Models(experiment), RunDir(tmp_path), Screen(), Interrupt())
    for number, lengths in LENGTHS.items():
        folder = context.stage("rollouts", number).path / "episodes"
        folder.mkdir(parents=True)
        write_index(folder, [write_episode(folder, i, episode(length)) for i, length in enumerate(lengths)])
    return context


def episode(length: int) -> Episode:
    return Episode(
        frames=np.zeros((length, 64, 64, 3), np.uint8),
        actions=np.zeros((length, 1), np.float32),
        rewards=np.zeros(length, np.float32),
        terminated=False,
        seed=0,
        task="probe",
    )


def test_held_out_episodes_are_never_trained_on(context: Context) -> None:
    for number, held_out in ((0, 2), (1, 3)):
        training, kept = context.training_episodes(number), context.held_out_episodes(number)
        assert len(kept) == held_out
        assert not set(training) & set(kept)
    assert set(context.held_out_episodes(0)) < set(context.held_out_episodes(1))


def test_reports_show_as_many_trained_as_held_out_episodes_of_each_round(context: Context) -> None:
    """Of each view, too. What a round trains on has another mixture: here as many new frames as old ones."""
    mirrored = dataclasses.replace(context.experiment, task="take_cover", mirror=True)
    for experiment, views in ((context.experiment, 1), (mirrored, 2)):
        context = dataclasses.replace(context, experiment=experiment, models=Models(experiment))
        for number in range(2):
            trained, held_out = context.trained_episodes(number), context.held_out_episodes(number)
            lengths = context.store(number).lengths
            np.testing.assert_array_equal(lengths[trained], lengths[held_out])
            np.testing.assert_array_equal(trained % views, held_out % views)
            assert len(set(trained)) == len(trained) == views * (2, 3)[number]
            ever = np.concatenate([context.training_episodes(r) for r in range(number + 1)])
            assert set(trained) <= set(ever)
    assert context.trained_episodes(0).tolist() == context.trained_episodes(1)[:4].tolist()


def test_new_frames_have_their_share(context: Context) -> None:
    training = context.training_episodes(1)
    lengths = context.store(1).lengths
    new = training >= 20
    assert new.sum() == 3
    assert lengths[training[new]].sum() == 90 == lengths[training[~new]].sum()
    np.testing.assert_array_equal(training, context.training_episodes(1))


def test_old_frames_run_out_gracefully(context: Context) -> None:
    experiment = context.experiment
    rounds = dataclasses.replace(experiment.rounds, new_share=0.01)
    context = dataclasses.replace(context, experiment=dataclasses.replace(experiment, rounds=rounds))
    assert len(context.training_episodes(1)) == 18 + 3


def test_an_episode_and_its_mirror_image_are_trained_on_or_held_out_together(context: Context) -> None:
    experiment = dataclasses.replace(context.experiment, task="take_cover", mirror=True)
    mirrored = Context(experiment, Models(experiment), context.run, context.screen, context.interrupt)
    held_out = context.held_out_episodes(1)
    np.testing.assert_array_equal(
        mirrored.held_out_episodes(1), np.sort(np.concatenate([2 * held_out, 2 * held_out + 1]))
    )
    first, second = mirrored.training_episodes(0), mirrored.training_episodes(1)
    np.testing.assert_array_equal(first[1::2], first[::2] + 1)
    assert len(first) == 2 * len(context.training_episodes(0))
    assert not set(second) & set(mirrored.held_out_episodes(1))
    lengths = mirrored.store(1).lengths
    assert lengths[second[second >= 40]].sum() == 180 == lengths[second[second < 40]].sum()


def test_every_purpose_and_round_has_random_numbers_of_its_own(context: Context) -> None:
    purposes = [("vision", 0), ("vision", 1), ("memory", 0), ("vision init", 0)]
    keys = {tuple(jax.random.key_data(context.key(*purpose)).tolist()) for purpose in purposes}
    other = dataclasses.replace(context, experiment=dataclasses.replace(context.experiment, seed=1))
    keys.add(tuple(jax.random.key_data(other.key("vision", 0)).tolist()))
    assert len(keys) == 5


def test_later_rounds_may_evolve_for_another_number_of_generations(context: Context) -> None:
    experiment = context.experiment
    rounds = dataclasses.replace(experiment.rounds, generations=7)
    longer = dataclasses.replace(context, experiment=dataclasses.replace(experiment, rounds=rounds))
    first = experiment.evolve
    assert [longer.evolve(0), longer.evolve(1)] == [first, dataclasses.replace(first, generations=7)]
    assert context.evolve(1) == first, "0 changes nothing"


def test_a_change_of_later_rounds_generations_leaves_the_first_round_alone(context: Context) -> None:
    experiment = context.experiment
    rounds = dataclasses.replace(experiment.rounds, generations=7)
    changed = dataclasses.replace(experiment, rounds=rounds)
    differing = [step for step in plan(experiment) if step.settings(experiment) != step.settings(changed)]
    assert [step.key for step in differing] == [("evolve", 1)]


def test_old_frames_are_encoded_anew_only_where_the_encoder_changes(context: Context) -> None:
    world = context.experiment.world
    assert isinstance(world, VisionMemoryConfig) and world.vision.later_steps == 0 < world.memory.later_steps
    assert [context.encodes_anew(number) for number in range(2)] == [True, False]
    trained = dataclasses.replace(world, vision=dataclasses.replace(world.vision, later_steps=3))
    experiment = dataclasses.replace(context.experiment, world=trained)
    on = dataclasses.replace(context, experiment=experiment, models=Models(experiment))
    assert [on.encodes_anew(number) for number in range(2)] == [True, True]
    assert [on.learner("vision", number).steps for number in range(2)] == [world.vision.steps, 3]
