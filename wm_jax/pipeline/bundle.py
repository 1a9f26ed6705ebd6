"""A bundle: a finished agent's world model and controller with their settings, and the frames its dreams start from.

Read from a run's folder, or from one self-contained safetensors file. The file has no pickle and no code.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import formats, pretrained
from wm_jax.data.observations import build
from wm_jax.data.weights import check_like, flatten, halved, load_weights, save_weights, structured
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, from_dict, to_dict, to_share
from wm_jax.experiment import flatten as flatten_settings
from wm_jax.models import Models
from wm_jax.pipeline import machine
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.stored import (
    Stored,
    format_of,
    of_run,
    redefined,
    require_same_task,
    require_used,
    restored,
    to_store,
)
from wm_jax.pipeline.weights import controller_like, load_controller, load_observations, load_world
from wm_jax.rollouts.agent import Agent
from wm_jax.run import RunDir
from wm_jax.types import Observations, Params

STARTS = 128
"""Number of recorded episodes whose first frames a bundle's dreams can start from."""
LARGEST = 32 * 2**20
"""Largest size of a bundle, in bytes."""


@dataclass(frozen=True)
class Bundle:
    """A world model and a controller with their weights, ready to act, be scored or dream."""

    stored: Stored
    params: Params
    """The world model's weights."""
    weights: Params
    """C's weights."""
    recorded: Observations
    """Recorded episodes that dreams start from: all episodes of a run; the first frames of some, in a file."""
    about: dict[str, Any]
    """How C was chosen, and the device and versions that made it."""

    @property
    def experiment(self) -> Experiment:
        """The experiment's settings."""
        return self.stored.experiment

    @cached_property
    def models(self) -> Models:
        """The parts, without weights."""
        return Models(self.experiment)

    @property
    def agent(self) -> Agent:
        """The agent, without weights."""
        return Agent(self.models.world, self.models.actor)

    def save(self, path: Path, half: bool = False) -> None:
        """Write the bundle; with `half`, the world model as float16. Raises `UserError` if it would be larger than 32
        MiB, or if a weight is too large for half precision."""
        starts = first_frames(self.recorded, seed=0)
        tree = {
            "world": halved(path, self.params) if half else self.params,
            "actor": self.weights,
            "starts": {"encoded": starts.encoded, "action": starts.action},
        }
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))
        if size > LARGEST:
            raise UserError(f"{path} would have {size / 2**20:.1f} MiB, more than a bundle's {LARGEST / 2**20:.0f}: "
                            "keep a model this large as a run's folder")  # fmt: skip
        # Files are stored by name without their folders, and identified by their contents.
        config = {**to_store(self.experiment), **to_dict(to_share(self.experiment))}
        save_weights(path, tree, {"format": formats.BUNDLE.format(formats.FORMAT), "half": half, "config": config,
                                  **self.about})  # fmt: skip


def load(path: Path, task: Path | None = None, parts: Sequence[Path] = ()) -> Bundle:
    """Load the bundle in a run's folder or in a file. `task` and `parts` are paths of the files that it names. A
    bundle's files that are not given are looked for only beside it, because they are executed. Raises `UserError`,
    which says what is missing or damaged."""
    path = pretrained.located(path)
    if path.is_dir():
        return _from_run(RunDir.open(path), task, parts)
    tree, about, config = _read(path)
    stored = restored(config, path, task, parts, folders=False)
    require_used([stored], parts)
    models = Models(stored.experiment)
    shapes, obs, _ = models.state_shapes
    params = _world(path, tree, about.pop("half", False), shapes)
    recorded = _recorded(path, tree.pop("starts", {}), obs)
    weights = controller_like(path, tree, "actor", models.actor)
    return Bundle(stored, params, jax.device_put(weights), recorded, about)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A file's arrays in the current grouping, its description, and its settings with their format."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, such as runs/quickstart, a bundle's file, or the "
                        f"name of a shipped agent: {', '.join(pretrained.bundles())}")  # fmt: skip
    tree, about = load_weights(path)
    named = re.fullmatch(formats.BUNDLE.format(r"(\d+)"), str(found := about.pop("format", None)))
    if not named:
        raise UserError(f"{path} is not a bundle: expected the format {formats.BUNDLE.format(formats.FORMAT)!r}, found "
                        f"{found!r}; make one with `wm-jax export RUN FILE.safetensors`")  # fmt: skip
    config = about.pop("config", None)
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: expected a group of settings, found {str(config)[:60]}; export it again")
    config = {**config, "format": int(named[1])}
    return _upgraded(path, tree) if format_of(config, path) == 1 else tree, about, config


def _world(path: Path, tree: dict[str, Any], half: bool, shapes: Params) -> Params:
    """The world model's weights in a file; they must have these `shapes`."""
    like = jax.tree.map(_as_half, shapes) if half else shapes
    # Widened by NumPy and put on the device unchanged: JAX would compile a conversion for every shape.
    found = check_like(path, tree.pop("world", {}), like)
    return jax.device_put(jax.tree.map(lambda array, leaf: array.astype(leaf.dtype), found, shapes))


def _upgraded(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """Convert the arrays of a file of format 1 to the current grouping."""
    starts = dict(tree.pop("starts", {}))
    starts.pop("length", None)
    action, controller = starts.pop("action", None), tree.pop("controller", {})
    if action is None or controller.keys() != {"weights"}:
        raise UserError(f"{path} is damaged: expected starts and one array of controller weights, found "
                        f"{', '.join(controller) or 'none'}; export it again")  # fmt: skip
    return {"world": tree, "actor": controller["weights"], "starts": {"encoded": starts, "action": action}}


def _recorded(path: Path, starts: dict[str, Any], obs: Any) -> Observations:
    """First frames that dreams start from. `obs` is the shape of one encoded frame."""
    found, expected = flatten(starts), {"action", *flatten({"encoded": obs})}
    if found.keys() != expected:
        raise UserError(f"{path} is damaged: expected starts with {', '.join(sorted(expected))}, found "
                        f"{', '.join(sorted(found)) or 'none'}; export it again")  # fmt: skip
    action = found.pop("action")
    frames = len(action)
    encoded = structured(found, {"encoded": obs})["encoded"]
    for leaf, like in zip(jax.tree.leaves(encoded), jax.tree.leaves(obs), strict=True):
        if leaf.shape != (frames, *like.shape) or not frames:
            raise UserError(f"{path} is damaged: expected starts of shape {[frames, *like.shape]}, found "
                            f"{list(leaf.shape)}; export it again")  # fmt: skip
    return build(encoded, action, np.zeros(frames, np.float32), np.ones(frames), np.zeros(frames, bool))


def load_initial(path: Path, experiment: Experiment, warn: Callable[[str], None] = lambda message: None) -> Params:
    """The world model's weights in the bundle at `path`, as a warm start for another `experiment`; only those of the
    learners that it names. `warn` reports a changed task. Raises `UserError` if the weights do not fit: another task,
    other sizes, a missing learner, or inputs and outputs with another meaning."""
    tree, about, theirs = _initial(path, experiment, "world", warn)
    ours, models = flatten_settings(experiment), Models(experiment)
    learners = {name: models.world.learners[name].settings for name in experiment.initial_learners}
    meaning = ["world.kind", *(f"world.{name}" for name in experiment.world.meaning)]
    if learners:
        # A part of the world model fits another kind of world model that has the same part.
        meaning = [name for name in meaning if name.startswith(tuple(learners.values()))]
    held = tree.get("world", {}).keys()
    if missing := learners.keys() - held:
        raise UserError(f"initial is {path}, which holds {', '.join(sorted(held))} but no {', '.join(sorted(missing))}; "
                        "leave it out of initial_learners, or use another bundle")  # fmt: skip
    for name in meaning:
        if theirs.get(name) != ours[name]:
            raise UserError(f"initial is {path}, where {name} is {theirs.get(name)!r}, but here it is {ours[name]!r}; set "
                            "it to what the world model was trained with, or use another bundle")  # fmt: skip
    shapes = models.state_shapes[0]
    if learners:
        tree = {"world": {name: weights for name, weights in tree.get("world", {}).items() if name in learners}}
        shapes = {name: shapes[name] for name in learners}
    return _world(path, tree, about.get("half", False), shapes)


def load_initial_actor(path: Path, experiment: Experiment) -> Params:
    """C's weights in the bundle at `path`, for another `experiment` to start its search from. Raises `UserError` if they do
    not fit: another task, another actor, or other sizes."""
    tree, _, theirs = _initial(path, experiment, "actor")
    for name, value in flatten_settings(experiment).items():
        if name.startswith("actor.") and theirs.get(name) != value:
            raise UserError(f"initial is {path}, where {name} is {theirs.get(name)!r}, but here it is {value!r}; set it to "
                            "that of the bundle, or initial_actor to False")  # fmt: skip
    return controller_like(path, {"actor": tree.get("actor", {})}, "actor", Models(experiment).actor)


def _initial(
    path: Path, experiment: Experiment, group: str, warn: Callable[[str], None] = lambda message: None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The arrays of the bundle at `path`, its description, and its settings of one `group`, by their full names. The others
    are not read, because its task may be elsewhere now. `warn` reports a changed task."""
    if path.is_dir():
        raise UserError(f"initial is {path}, a folder; give a bundle: `wm-jax export {path} FILE.safetensors` makes one "
                        "of a finished run")  # fmt: skip
    tree, about, config = _read(path)
    require_same_task(config, path, experiment.task, "use a bundle for this task, or none")
    if changed := redefined(config, path, experiment.task):
        warn(changed)
    found = (formats.upgrade_config(config) if config["format"] == 1 else config).get(group, {})
    return tree, about, flatten_settings(from_dict({group: found}, f"settings in {path}"))


def _as_half(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float16 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)


def _from_run(run: RunDir, task: Path | None, parts: Sequence[Path]) -> Bundle:
    stored = of_run(run, task, parts)
    require_used([stored], parts)
    experiment = stored.experiment
    context = Context(experiment, Models(experiment), run, Screen(), Interrupt())
    last = experiment.rounds.count - 1
    if not context.controller(last).finished:
        raise UserError(f"{run.path} has no finished controller; run the same command again to finish its stages")
    params = load_world(context, last)
    weights, chosen = load_controller(context, last)
    recorded = load_observations(context, last)
    about = {"controller": chosen, "device": machine.device(), "versions": machine.versions()}
    return Bundle(stored, params, weights, recorded, about)


def first_frames(recorded: Observations, seed: int) -> Observations:
    """The first frames of `STARTS` episodes, or of all if there are fewer; each frame becomes an episode of its own."""
    first = np.asarray(recorded.start)
    chosen = np.sort(np.random.default_rng(seed).choice(first, min(STARTS, len(first)), replace=False))
    return build(
        encoded=jax.tree.map(lambda array: np.asarray(array)[chosen], recorded.encoded),
        action=np.asarray(recorded.action)[chosen],
        reward=np.asarray(recorded.reward)[chosen],
        length=np.ones(len(chosen)),
        terminated=np.zeros(len(chosen), bool),
    )
