"""Reads the results of stages, older formats included: learners' weights, encoded frames, controllers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.actors import protocol as actors
from wm_jax.data import observations
from wm_jax.data.weights import check_like, load_weights
from wm_jax.pipeline.context import Context
from wm_jax.run import StageDir
from wm_jax.types import Observations, Params
from wm_jax.worlds import Actor

WEIGHTS = "weights.safetensors"
ENCODED = "latents.safetensors"
CONTROLLERS = "controllers.safetensors"
CANDIDATES = "means.safetensors"


def load_learner(context: Context, name: str, round_number: int) -> Params:
    """A learner's weights after a round."""
    path = context.stage(name, round_number).path / WEIGHTS
    like = context.models.state_shapes[0][name]
    return jax.device_put(check_like(path, load_weights(path)[0], like))


def load_world(context: Context, round_number: int) -> Params:
    """The world model's weights after a round."""
    return {name: load_learner(context, name, round_number) for name in context.models.world.learners}


def load_observations(context: Context, round_number: int) -> Observations:
    """Every frame of all rounds so far, encoded, on the device. A round that kept the encoder of the previous round has
    stored only its own episodes."""
    expected = context.experiment.views * sum(context.episodes_in(number) for number in range(round_number + 1))
    parts = []
    while sum(len(part.start) for part in parts) < expected and round_number >= 0:
        path = context.stage("latents", round_number).path / ENCODED
        parts.insert(0, observations.load(path, context.models.state_shapes[1]))
        round_number -= 1
    return observations.concatenate(parts)


def load_controller(context: Context, round_number: int) -> tuple[Params, dict[str, Any]]:
    """The deployed controller of a round, and how it was chosen."""
    return load_deployed(context, context.controller(round_number))


def load_deployed(context: Context, stage: StageDir) -> tuple[Params, dict[str, Any]]:
    """The deployed controller of a stage's folder, and how it was chosen."""
    path = stage.path / WEIGHTS
    tree, about = load_weights(path)
    return controller_like(path, tree, "weights", context.models.actor), about


def load_controllers(context: Context, round_number: int) -> tuple[Params, list[dict[str, Any]]]:
    """The final controllers [E, ...] of a round's searches, and each one's temperature, seed and how it was chosen."""
    path = context.controller(round_number).path / CONTROLLERS
    tree, about = load_weights(path)
    several = (len(about["evolutions"]),)
    return controller_like(path, tree, "weights", context.models.actor, several), about["evolutions"]


def load_candidates(context: Context, round_number: int, folder: str = "controller") -> Params:
    """All candidates [M, ...] evaluated by the searches of a round's stage, in the order of evaluation."""
    path = context.stage(folder, round_number).path / CANDIDATES
    tree, about = load_weights(path)
    several = (len(about["evaluations"]), len(about["evaluations"][0]))
    found = controller_like(path, tree, "means", context.models.actor, several)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), found)


def controller_like(path: Path, tree: dict[str, Any], name: str, actor: Actor, several: tuple[int, ...] = ()) -> Params:
    """The entry `name` of a file's `tree` as weights with leading axes `several`. Raises `UserError` if they do not fit."""
    like = actors.shapes(actor)
    if isinstance(tree.get(name), np.ndarray) and not jax.tree_util.treedef_is_leaf(jax.tree.structure(like)):
        # Format 1 stores all weights of a controller in one array.
        flat = {name: jax.ShapeDtypeStruct((*several, actors.size(actor)), jnp.float32)}
        return actors.unflat(like, check_like(path, tree, flat)[name])
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*several, *leaf.shape), leaf.dtype), like)
    return check_like(path, {name: {}, **tree}, {name: many})[name]
