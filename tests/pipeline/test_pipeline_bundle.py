"""A bundle in half precision is half as large, and acts as the whole one does."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.controller import PolicyConfig
from wm_jax.data.latents import build
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.dream import DreamConfig
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.memory import MemoryConfig
from wm_jax.pipeline.bundle import STARTS, Bundle
from wm_jax.pipeline.bundle import load as load_bundle
from wm_jax.pipeline.context import Models
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.scoring import score_bundle
from wm_jax.rollouts.agent import AgentDriver, AgentParams
from wm_jax.vision import VisionConfig


def bundle_of(experiment: Experiment, params: AgentParams, frames: int = 300) -> Bundle:
    models, generator = Models(experiment), np.random.default_rng(0)
    z, actions = models.memory.latent_size, models.memory.action_size
    starts = build(
        mean=generator.normal(size=(frames, z)), log_var=np.zeros((frames, z)), action=np.zeros((frames, actions)),
        reward=np.zeros(frames), length=np.ones(frames), terminated=np.zeros(frames, bool),
    )  # fmt: skip
    weights = generator.normal(0, 0.5, models.controller.size).astype(np.float32)
    return Bundle(experiment, params, weights, starts, {"controller": {"generation": 3}})


@pytest.fixture(scope="module")
def whole(probe_experiment: Path) -> Bundle:
    """Of the probe task, V and M as they are before training."""
    experiment = load(probe_experiment)
    models, key = Models(experiment), jax.random.key(0)
    return bundle_of(experiment, AgentParams(vision=models.vision.init(key), memory=models.memory.init(key)))


def actions(bundle: Bundle, frames: np.ndarray) -> np.ndarray:
    """What the agent does, given these frames [T, B, 64, 64, 3]."""
    crew = AgentDriver(bundle.agent, bundle.params, bundle.weights[None]).open(frames.shape[1])
    crew.begin({lane: (lane, 0) for lane in range(frames.shape[1])})
    return np.stack([crew(screen) for screen in frames])


def test_half_precision_comes_back_and_acts_alike(whole: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    whole.save(path, half=True)
    half = load_bundle(path)
    assert (half.experiment, half.about) == (whole.experiment, whole.about)
    np.testing.assert_array_equal(half.weights, whole.weights)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), whole.params)
    jax.tree.map(np.testing.assert_array_equal, half.params, rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    frames = np.random.default_rng(1).integers(0, 256, (48, 1, 64, 64, 3)).astype(np.uint8)
    found, expected = actions(half, frames), actions(whole, frames)
    assert 0 < np.abs(found - expected).max() < 1e-2
    assert expected.std() > 0.1, "actions that never change would be alike in any precision"


def test_the_score_of_a_file_in_half_precision(whole: Bundle, tmp_path: Path) -> None:
    whole.save(tmp_path / "half.safetensors", half=True)
    score = score_bundle(load_bundle(tmp_path / "half.safetensors"), 2, 7, Screen())
    assert (score["n"], score["seeds"]) == (2, [7, 8])
    assert all(0 < value <= 80 for value in score["returns"]), "a reward of at most 1 for each of 80 steps"


@pytest.mark.parametrize("wrong", [1e5, np.inf])
def test_what_half_precision_does_not_hold_is_named(wrong: float, whole: Bundle, tmp_path: Path) -> None:
    memory = {**whole.params.memory, "head": {**whole.params.memory["head"]}}
    memory["head"]["kernel"] = memory["head"]["kernel"].at[0, 0].set(wrong)
    broken = dataclasses.replace(whole, params=AgentParams(whole.params.vision, memory))
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
        load_bundle(path)


@pytest.mark.parametrize("hidden_size", [256, 512])
def test_take_cover_fits_in_12_mib(hidden_size: int, tmp_path: Path) -> None:
    """The paper's V with the paper's M, and with one of half the width."""
    experiment = Experiment(
        task="take_cover",
        vision=VisionConfig(latent_size=64),
        memory=MemoryConfig(hidden_size=hidden_size, predict_done=True, restart_input=True),
        dream=DreamConfig(start="first", reward="survival"),
        controller=PolicyConfig(features="zhc", bias=False),
    )
    models = Models(experiment)
    shapes = jax.eval_shape(lambda key: (models.vision.init(key), models.memory.init(key)), jax.random.key(0))
    vision, memory = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    bundle_of(experiment, AgentParams(vision=vision, memory=memory)).save(tmp_path / "b.safetensors", half=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(vision)) == 4_446_915
    assert (tmp_path / "b.safetensors").stat().st_size <= 12 * 2**20


PRETRAINED = Path(__file__).parents[2] / "pretrained"


@pytest.mark.parametrize("path", sorted(PRETRAINED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_what_is_shipped_is_small_whole_and_has_a_card(path: Path) -> None:
    bundle = load_bundle(path)
    assert path.stat().st_size <= 12 * 2**20
    assert bundle.experiment.task == path.stem
    assert path.with_suffix(".md").is_file()
    frames = np.random.default_rng(2).integers(0, 256, (8, 2, 64, 64, 3)).astype(np.uint8)
    found = actions(bundle, frames)
    assert np.isfinite(found).all() and np.abs(found).max() <= 1
    assert len(bundle.starts.length) == STARTS
