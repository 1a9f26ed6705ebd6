"""A run that begins with another's V and M: as they are, or to train them on."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from wm_jax import optimizers
from wm_jax.data.latents import build
from wm_jax.data.latents import save as save_latents
from wm_jax.data.records import Episode, write_episode, write_index
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.pipeline import run_experiment
from wm_jax.pipeline.bundle import Bundle, load_vision_and_memory
from wm_jax.pipeline.bundle import load as load_bundle
from wm_jax.pipeline.context import Context, Models
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.stages import stale
from wm_jax.pipeline.training import train_memory, train_vision
from wm_jax.rollouts.agent import AgentParams
from wm_jax.run import RunDir


def small(probe_experiment: Path, **changed: object) -> Experiment:
    """The probe experiment on few episodes, with these steps of V and M."""
    experiment = load(probe_experiment)
    steps = {wing: changed.pop(wing, 0) for wing in ("vision", "memory")}
    wings = {wing: dataclasses.replace(getattr(experiment, wing), steps=number) for wing, number in steps.items()}
    collect = dataclasses.replace(experiment.collect, episodes=60)
    return dataclasses.replace(experiment, collect=collect, **wings, **changed)


@pytest.fixture(scope="module")
def bundle(probe_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AgentParams]:
    """A file with V and M of other random weights than those that a run of the probe experiment begins with."""
    experiment = load(probe_experiment)
    models, keys = Models(experiment), jax.random.split(jax.random.key(99))
    params = AgentParams(vision=models.vision.init(keys[0]), memory=models.memory.init(keys[1]))
    start = build(mean=np.zeros((1, 4)), log_var=np.zeros((1, 4)), action=np.zeros((1, models.task.action_size)),
                  reward=np.zeros(1), length=np.ones(1), terminated=np.zeros(1, bool))  # fmt: skip
    path = tmp_path_factory.mktemp("bundles") / "other.safetensors"
    Bundle(experiment, params, np.zeros(models.controller.size, np.float32), start, {}).save(path)
    return path, params


def trained(experiment: Experiment, folder: Path) -> AgentParams:
    """V and M of the experiment's first round."""
    run_experiment(experiment, folder, ("collect", "vision", "encode", "memory"), False, None, Screen())
    vision, memory = (
        load_weights(folder / wing / "round-0" / "weights.safetensors")[0] for wing in ("vision", "memory")
    )
    return AgentParams(vision=vision, memory=memory)


def episode(length: int) -> Episode:
    frames, actions = np.zeros((length, 64, 64, 3), np.uint8), np.zeros((length, 1), np.float32)
    return Episode(frames=frames, actions=actions, rewards=np.zeros(length, np.float32), terminated=False, seed=0,
                   task="probe")  # fmt: skip


def largest_difference(one: AgentParams, other: AgentParams) -> dict[str, float]:
    """Of V's and of M's weights."""
    difference = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), one, other)
    return {wing: max(jax.tree.leaves(getattr(difference, wing))) for wing in ("vision", "memory")}


def test_without_training_V_and_M_are_those_of_the_bundle(
    probe_experiment: Path, bundle: tuple[Path, AgentParams], tmp_path: Path
) -> None:
    path, params = bundle
    found = trained(small(probe_experiment, initial=str(path)), tmp_path / "run")
    assert largest_difference(found, params) == {"vision": 0.0, "memory": 0.0}
    gone = tmp_path / "gone.safetensors"
    gone.write_bytes(path.read_bytes())
    moved = small(probe_experiment, initial=str(gone))
    trained(moved, tmp_path / "moved")
    gone.unlink()
    trained(moved, tmp_path / "moved")
    (tmp_path / "moved" / "memory" / "round-0" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"gone\.safetensors does not exist"):
        trained(moved, tmp_path / "moved")
    fresh = trained(small(probe_experiment), tmp_path / "fresh")
    assert min(largest_difference(fresh, params).values()) > 0.1, "random weights are others"


def test_training_goes_on_from_the_bundle(
    probe_experiment: Path, bundle: tuple[Path, AgentParams], tmp_path: Path
) -> None:
    """Adam's first step is the learning rate in each weight that has a gradient."""
    path, params = bundle
    found = trained(small(probe_experiment, initial=str(path), vision=1, memory=1), tmp_path)
    for wing, difference in largest_difference(found, params).items():
        rate = getattr(load(probe_experiment), wing).optimizer.learning_rate
        assert difference == pytest.approx(rate, rel=0.01), wing


def test_another_bundle_makes_V_and_M_stale(
    probe_experiment: Path, bundle: tuple[Path, AgentParams], tmp_path: Path
) -> None:
    experiment = small(probe_experiment, initial=str(bundle[0]))
    trained(experiment, tmp_path)
    reasons = {
        str(step): reason for step, reason in stale(dataclasses.replace(experiment, initial=None), RunDir(tmp_path))
    }
    assert list(reasons) == ["vision (round 0)", "encode (round 0)", "memory (round 0)"]
    assert reasons["vision (round 0)"] == f"initial was {str(bundle[0])!r}, now None"


def test_what_cannot_be_begun_with_is_said_before_anything_runs(
    probe_experiment: Path, bundle: tuple[Path, AgentParams], tmp_path: Path
) -> None:
    missing = small(probe_experiment, initial=str(tmp_path / "nothing.safetensors"))
    experiment = small(probe_experiment, initial=str(bundle[0]))
    wider = dataclasses.replace(experiment, memory=dataclasses.replace(experiment.memory, hidden_size=48))
    misfit = r"other\.safetensors does not fit.*memory/gates/bias expected float32\[192\]"
    for wrong, message in ((missing, r"nothing\.safetensors does not exist"), (wider, misfit)):
        with pytest.raises(UserError, match=message):
            run_experiment(wrong, tmp_path / "run", (), False, None, Screen())
    assert not (tmp_path / "run" / "rollouts").exists()


def test_an_M_whose_numbers_mean_something_else_is_refused(
    probe_experiment: Path, bundle: tuple[Path, AgentParams], tmp_path: Path
) -> None:
    """A loss for rewards changes no size, nor does the weight of ends."""
    experiment = small(probe_experiment, initial=str(bundle[0]))
    counted = dataclasses.replace(experiment, memory=dataclasses.replace(experiment.memory, reward_loss="poisson"))
    lighter = dataclasses.replace(experiment, memory=dataclasses.replace(experiment.memory, done_weight=5.0))
    for other, message in (
        (counted, r"where memory\.reward_loss is 'squared', but here it is 'poisson'"),
        (lighter, r"where memory\.done_weight is 10\.0, but here it is 5\.0"),
    ):
        with pytest.raises(UserError, match=message):
            load_vision_and_memory(bundle[0], other)
    with pytest.raises(UserError, match=r"a folder; give a bundle: `wm-jax export"):
        load_vision_and_memory(tmp_path, experiment)


def test_a_relative_path_is_taken_from_the_experiment(probe_experiment: Path, tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "mine.py"
    path.parent.mkdir()
    path.write_text('from wm_jax.experiment import Experiment\nCONFIG = Experiment(initial="../one.safetensors")\n')
    assert load(path).initial == str(tmp_path / "one.safetensors")


def test_a_bundle_does_not_tell_where_the_one_before_it_lay(
    probe_experiment: Path, bundle: tuple[Path, AgentParams], tmp_path: Path
) -> None:
    whole = load_bundle(bundle[0])
    experiment = dataclasses.replace(whole.experiment, initial=str(bundle[0]))
    dataclasses.replace(whole, experiment=experiment).save(tmp_path / "next.safetensors")
    assert load_bundle(tmp_path / "next.safetensors").experiment.initial == "other.safetensors"


def test_a_schedule_lasts_as_long_as_its_rounds_training(
    probe_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the optimiser is told when a second round is trained, of which all else is made up."""
    experiment = small(probe_experiment, vision=600, memory=600)
    rounds = dataclasses.replace(experiment.rounds, count=2, episodes=2, vision_steps=2, memory_steps=3)
    collect = dataclasses.replace(experiment.collect, episodes=2)
    experiment = dataclasses.replace(experiment, collect=collect, rounds=rounds)
    models, run = Models(experiment), RunDir(tmp_path)
    context = Context(experiment, models, run, Screen(), Interrupt())
    with run.locked():
        run.prepare({}, tensorboard=False)
    for number in range(2):
        folder = context.stage("rollouts", number).path / "episodes"
        folder.mkdir(parents=True)
        write_index(folder, [write_episode(folder, i, episode(640)) for i in range(2)])
    for wing, model in (("vision", models.vision), ("memory", models.memory)):
        save_weights(context.stage(wing, 0).path / "weights.safetensors", model.init(jax.random.key(0)), {})
    latents = build(mean=np.zeros((2560, 4)), log_var=np.zeros((2560, 4)), action=np.zeros((2560, 1)),
                    reward=np.zeros(2560), length=np.full(4, 640), terminated=np.zeros(4, bool))  # fmt: skip
    save_latents(context.stage("latents", 1).path / "latents.safetensors", latents)
    told, make = [], optimizers.make
    monkeypatch.setattr(optimizers, "make", lambda config, steps: told.append(steps) or make(config, steps))
    for wing, train in (("vision", train_vision), ("memory", train_memory)):
        stage = context.stage(wing, 1)
        stage.begin({}, {})
        train(context, 1, stage)
        assert set(told) == {{"vision": 2, "memory": 3}[wing]}, wing
        told.clear()
