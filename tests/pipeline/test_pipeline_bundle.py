"""A bundle in half precision is half as large, and acts as the whole one does. Elsewhere it says which file it lacks."""

import dataclasses
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import format_1
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wm_jax
from wm_jax.actors.mlp import MLPConfig
from wm_jax.data.observations import build
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.dream import DreamConfig
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.formats import FORMAT
from wm_jax.memory import MemoryConfig
from wm_jax.models import Models
from wm_jax.pipeline.bundle import STARTS, Bundle
from wm_jax.pipeline.bundle import load as load_bundle
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.scoring import score_bundle
from wm_jax.pipeline.stored import Stored
from wm_jax.rollouts.agent import AgentDriver
from wm_jax.types import Params
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

PRETRAINED = Path(__file__).parents[2] / "wm_jax" / "pretrained"


def bundle_of(experiment: Experiment, params: Params, frames: int = 300) -> Bundle:
    models, generator = Models(experiment), np.random.default_rng(0)
    encoded = jax.tree.map(lambda leaf: generator.normal(size=(frames, *leaf.shape)), models.state_shapes[1])
    actions = np.zeros((frames, models.world.action_size))
    starts = build(encoded, actions, np.zeros(frames), np.ones(frames), np.zeros(frames, bool))
    fresh = jax.eval_shape(models.actor.init, jax.random.key(0))
    weights = jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0, 0.5, leaf.shape), jnp.float32), fresh)
    return Bundle(Stored(experiment, FORMAT), params, weights, starts, {"controller": {"generation": 3}})


@pytest.fixture(scope="module")
def whole(probe_experiment: Path) -> Bundle:
    """Of the probe task, V and M as they are before training."""
    experiment = load(probe_experiment)
    return bundle_of(experiment, Models(experiment).world.init(jax.random.key(0)))


@pytest.fixture
def moved(whole: Bundle, tmp_path: Path) -> tuple[Path, Path]:
    """A bundle that was made in another folder, and the file of its task, which lies in a third one."""
    there = shutil.copy(whole.experiment.task, tmp_path / "mine.py")
    experiment = dataclasses.replace(whole.experiment, task=str(there))
    path, task = tmp_path / "sent" / "mine.safetensors", tmp_path / "elsewhere" / "mine.py"
    dataclasses.replace(whole, stored=Stored(experiment, FORMAT)).save(path)
    task.parent.mkdir()
    Path(there).rename(task)
    return path, task


def actions(bundle: Bundle, frames: np.ndarray) -> np.ndarray:
    """What the agent does, given these frames [T, B, 64, 64, 3]."""
    table = jax.tree.map(lambda array: array[None], bundle.weights)
    batch = AgentDriver(bundle.agent, bundle.params, table).open(frames.shape[1])
    batch.begin({lane: (lane, 0) for lane in range(frames.shape[1])})
    return np.stack([batch(screen) for screen in frames])


def written_and_read(bundle: Bundle, path: Path, half: bool) -> Bundle:
    """The bundle, written to `path` and read again; its task's file is where it was."""
    bundle.save(path, half)
    return load_bundle(path, Path(bundle.experiment.task))


def test_half_precision_comes_back_and_acts_alike(whole: Bundle, tmp_path: Path) -> None:
    half = written_and_read(whole, tmp_path / "half.safetensors", half=True)
    assert (half.experiment, half.about) == (whole.experiment, whole.about)
    jax.tree.map(np.testing.assert_array_equal, half.weights, whole.weights)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), whole.params)
    jax.tree.map(np.testing.assert_array_equal, half.params, rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    frames = np.random.default_rng(1).integers(0, 256, (48, 1, 64, 64, 3)).astype(np.uint8)
    found, expected = actions(half, frames), actions(whole, frames)
    assert 0 < np.abs(found - expected).max() < 1e-2
    assert expected.std() > 0.1, "actions that never change would be alike in any precision"


def test_the_score_of_a_file_in_half_precision(whole: Bundle, tmp_path: Path) -> None:
    score = score_bundle(written_and_read(whole, tmp_path / "half.safetensors", half=True), 2, 7, Screen())
    assert (score["n"], score["seeds"]) == (2, [7, 8])
    assert all(0 < value <= 80 for value in score["returns"]), "a reward of at most 1 for each of 80 steps"


@pytest.mark.parametrize("wrong", [1e5, np.inf])
def test_what_half_precision_does_not_hold_is_named(wrong: float, whole: Bundle, tmp_path: Path) -> None:
    memory = {**whole.params["memory"], "head": {**whole.params["memory"]["head"]}}
    memory["head"]["kernel"] = memory["head"]["kernel"].at[0, 0].set(wrong)
    broken = dataclasses.replace(whole, params={**whole.params, "memory": memory})
    with pytest.raises(
        UserError, match=r"b\.safetensors cannot .* memory/head/kernel holds values beyond ±65504.*--half"
    ):
        broken.save(tmp_path / "b.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_other_precisions_than_the_header_says_are_refused(whole: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    whole.save(path, half=True)
    tree, about = load_weights(path)
    save_weights(path, tree, {**about, "half": False})
    with pytest.raises(UserError, match=r"expected float32\[.*found float16"):
        load_bundle(path, Path(whole.experiment.task))


@pytest.mark.parametrize("hidden_size", [256, 512])
def test_take_cover_fits_in_12_mib(hidden_size: int, tmp_path: Path) -> None:
    """The paper's V with the paper's M, and with one of half the width."""
    experiment = Experiment(
        task="take_cover",
        world=VisionMemoryConfig(
            vision=VisionConfig(latent_size=64),
            memory=MemoryConfig(hidden_size=hidden_size, predict_done=True, restart_input=True),
        ),
        dream=DreamConfig(start="first", reward="survival"),
        actor=MLPConfig(features=("z", "c", "h"), bias=False),
    )
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), Models(experiment).state_shapes[0])
    bundle_of(experiment, params).save(tmp_path / "b.safetensors", half=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["vision"])) == 4_446_915
    assert (tmp_path / "b.safetensors").stat().st_size <= 12 * 2**20


@pytest.mark.parametrize("path", sorted(PRETRAINED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_what_is_shipped_is_small_whole_and_has_a_card(path: Path) -> None:
    bundle = load_bundle(path)
    assert path.stat().st_size <= 12 * 2**20
    assert bundle.experiment.task == path.stem
    assert path.with_suffix(".md").is_file()
    frames = np.random.default_rng(2).integers(0, 256, (8, 2, 64, 64, 3)).astype(np.uint8)
    found = actions(bundle, frames)
    assert np.isfinite(found).all() and np.abs(found).max() <= 1
    assert len(bundle.recorded.length) == STARTS


def test_a_bundle_of_ones_own_task_loads_where_its_file_is_said_to_be(
    whole: Bundle, moved: tuple[Path, Path], tmp_path: Path
) -> None:
    path, task = moved
    with pytest.raises(
        UserError, match=r"mine\.safetensors needs the file mine\.py, which is not at .*sent.*with --task"
    ):
        load_bundle(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = wm_jax.load(path, task)
    assert agent.experiment.task == str(task)
    jax.tree.map(np.testing.assert_array_equal, agent.world.params, whole.params)
    assert agent.player()(np.zeros((64, 64, 3), np.uint8)).shape == (1,)
    shutil.copy(task, path.parent)
    assert load_bundle(path).experiment.task == str(path.parent / "mine.py"), "and beside it"
    task.write_text(task.read_text() + "\n# another one\n")
    with pytest.warns(
        UserWarning, match=rf"{task} differs from the file used for .*sent.*expected SHA-256 .* results may differ"
    ):
        assert wm_jax.load(path, task).experiment.task == str(task)


def test_another_task_than_a_bundles_is_refused(whole: Bundle, moved: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the same sizes; by whatever name its file has."""
    path, task = moved
    text = task.read_text()
    renamed = task.with_name("renamed.py")
    renamed.write_text(text)
    assert load_bundle(path, renamed).stored.warnings == ()
    task.write_text(text.replace('name="probe"', 'name="upside_down"'))
    with pytest.raises(
        UserError,
        match=r"mine\.safetensors was made for the task probe, but here it is upside_down, .* its own file with --task",
    ):
        wm_jax.load(path, task)


def test_files_that_a_bundle_does_not_need_are_refused(whole: Bundle, moved: tuple[Path, Path], tmp_path: Path) -> None:
    path, task = moved
    part = tmp_path / "part.py"
    part.write_text("")
    with pytest.raises(UserError, match=r"--parts .*part\.py is not needed: parts names no files here"):
        load_bundle(path, task, [part])
    experiment = dataclasses.replace(whole.experiment, parts=(str(part),))
    dataclasses.replace(whole, stored=Stored(experiment, FORMAT)).save(path)
    assert load_bundle(path, task, [part]).experiment.parts == (str(part),)
    shutil.copy(part, tmp_path / "other.py")
    with pytest.raises(
        UserError, match=r"--parts .*other\.py is not needed: parts names part\.py here; give a file by its name"
    ):
        load_bundle(path, task, [part, tmp_path / "other.py"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": 5}, "parts is 5"),
        ({"parts": [5]}, "parts names 5, which cannot be imported"),
        ({"parts": [""]}, "parts names , which cannot be imported"),
        ({"parts": [".x"]}, r"parts names \.x, which cannot be imported"),
        ({"files": []}, r"is damaged: expected files with a SHA-256 each, found \[\]"),
        ({"files": {"a.py": 5}}, "is damaged: expected files with a SHA-256 each"),
        ({"task": 5}, "task is 5"),
    ],
)
def test_settings_of_a_wrong_type_are_said(settings: dict[str, Any], message: str, moved: tuple[Path, Path]) -> None:
    path, task = moved
    tree, about = load_weights(path)
    save_weights(path, tree, {**about, "config": {**about["config"], **settings}})
    with pytest.raises(UserError, match=message):
        load_bundle(path, None if "task" in settings else task)


def test_a_bundle_of_format_1_is_the_same_agent(whole: Bundle, tmp_path: Path) -> None:
    path, task = tmp_path / "old.safetensors", Path(whole.experiment.task)
    whole.save(path, half=True)
    expected = load_bundle(path, task)
    elsewhere = tmp_path / "elsewhere" / task.name
    elsewhere.parent.mkdir()
    elsewhere.write_text("raise RuntimeError('a bundle has files run that do not lie beside it')")
    format_1.make_bundle(path, str(elsewhere))
    beside = re.escape(str(tmp_path / task.name))
    with pytest.raises(
        UserError, match=rf"needs the file probe_task\.py, which is not at {beside}; give its path with --task"
    ):
        load_bundle(path)
    shutil.copy(task, tmp_path)
    assert load_bundle(path).experiment.task == str(tmp_path / task.name), "beside it, it is found"
    found = load_bundle(path, task)
    assert (found.stored.format, found.experiment, found.about) == (1, expected.experiment, expected.about)
    for name in ("params", "weights", "recorded"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(expected, name))
    assert str(path) in found.stored.notes[0] and "it is read unchanged" in found.stored.notes[0]
    found.save(path)
    again = load_bundle(path, task)
    assert (again.stored.format, again.stored.notes) == (FORMAT, ())
    jax.tree.map(np.testing.assert_array_equal, again.weights, whole.weights)


def test_a_task_of_the_package_needs_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--task .*the task of .* is take_cover, which needs no file; leave --task out"
    ):
        load_bundle(PRETRAINED / "take_cover.safetensors", tmp_path / "mine.py")


@pytest.mark.parametrize("half", [False, True])
def test_a_bundle_does_not_tell_where_it_was_made(half: bool, whole: Bundle, tmp_path: Path) -> None:
    part = tmp_path / "part.py"
    part.write_text("")
    experiment = dataclasses.replace(whole.experiment, parts=(str(part),))
    path = tmp_path / "mine.safetensors"
    dataclasses.replace(whole, stored=Stored(experiment, FORMAT)).save(path, half)
    data = path.read_bytes()
    for folder in (tmp_path, Path(whole.experiment.task).parent):
        assert str(folder).encode() not in data
    assert b"probe_task.py" in data and b"part.py" in data
