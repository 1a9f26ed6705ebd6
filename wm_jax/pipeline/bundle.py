"""A finished agent as one thing: V, M and C with their settings and the places its dreams start from.

Read from a run's folder, or from one safetensors file that travels alone. No pickle, no code in the file.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.files import read_json
from wm_jax.data.latents import build
from wm_jax.data.weights import check_like, halved, load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, flatten, from_dict, to_dict, to_share
from wm_jax.pipeline import machine
from wm_jax.pipeline.context import Context, Models
from wm_jax.pipeline.evolving import load_agent, load_controller
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.training import load_round_latents
from wm_jax.rollouts.agent import Agent, AgentParams
from wm_jax.run import RunDir
from wm_jax.types import Latents

FORMAT = "wm-jax bundle 1"
MEANING = tuple(
    f"memory.{name}" for name in ("predict_reward", "reward_loss", "predict_done", "done_weight", "restart_input")
)
"""Settings that say what M's numbers are, which their sizes do not always tell."""
STARTS = 128
"""Recorded episodes whose first frames a bundle's dreams can start on."""
LARGEST = 32 * 2**20
"""Bytes a bundle may have."""


@dataclass(frozen=True)
class Bundle:
    """V, M and C, ready to act, to be scored, or to be dreamt in."""

    experiment: Experiment
    params: AgentParams
    weights: np.ndarray
    """[D]: C's."""
    starts: Latents
    """Recorded episodes to start dreams from: a run's all, in a file the first frames of some."""
    about: dict[str, Any]
    """How C was chosen, and what it was made with."""

    @property
    def models(self) -> Models:
        """The models without their weights."""
        return Models(self.experiment)

    @property
    def agent(self) -> Agent:
        """V, M and C without their weights."""
        models = self.models
        return Agent(models.vision, models.memory, models.controller)

    def save(self, path: Path, half: bool = False) -> None:
        """Write the bundle, with `half` V and M as float16. Raises `UserError` where it would be larger than 32 MB, or
        where a weight is too large for half precision."""
        models = {"vision": self.params.vision, "memory": self.params.memory}
        tree = {
            **(halved(path, models) if half else models),
            "controller": {"weights": self.weights},
            "starts": _starts_as_arrays(first_frames(self.starts, seed=0)),
        }
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))
        if size > LARGEST:
            raise UserError(f"{path} would have {size / 2**20:.1f} MiB, more than a bundle's {LARGEST / 2**20:.0f}: "
                            "models this large have to be kept as a run's folder")  # fmt: skip
        config = to_dict(to_share(self.experiment))
        save_weights(path, tree, {"format": FORMAT, "half": half, "config": config, **self.about})


def load(path: Path) -> Bundle:
    """The bundle in a run's folder or in a file. Raises `UserError` that says what is missing or damaged."""
    if path.is_dir():
        return _from_run(RunDir.open(path))
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, as runs/quickstart, or a bundle, as "
                        "pretrained/take_cover.safetensors")  # fmt: skip
    tree, about = load_weights(path)
    found = about.pop("format", None)
    if found != FORMAT:
        raise UserError(f"{path} is no bundle: expected the format {FORMAT!r}, found {found!r}; "
                        "make one by `wm-jax export RUN FILE.safetensors`")  # fmt: skip
    experiment = from_dict(about.pop("config", None), f"settings in {path}")
    models = Models(experiment)
    weights = jax.ShapeDtypeStruct((models.controller.size,), jnp.float32)
    like = {**_shapes(models), "controller": {"weights": weights}}
    starts = _starts_from_arrays(tree.pop("starts", {}), path)
    if about.pop("half", False):
        like |= {model: jax.tree.map(_as_half, like[model]) for model in ("vision", "memory")}
    check_like(path, tree, like)
    vision, memory = (
        jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), tree[model]) for model in ("vision", "memory")
    )
    params = AgentParams(vision=vision, memory=memory)
    return Bundle(experiment, params, tree["controller"]["weights"], starts, about)


def load_vision_and_memory(path: Path, experiment: Experiment) -> AgentParams:
    """V and M of the bundle at `path`, for another `experiment` to begin with. Raises `UserError` where theirs would be
    others: of other sizes, or with inputs and outputs that mean something else."""
    if path.is_dir():
        raise UserError(f"initial is {path}, a folder; give a bundle: `wm-jax export {path} FILE.safetensors` makes one of "
                        "a finished run")  # fmt: skip
    bundle = load(path)
    theirs, ours = flatten(bundle.experiment), flatten(experiment)
    for name in MEANING:
        if theirs[name] != ours[name]:
            raise UserError(f"initial is {path}, where {name} is {theirs[name]!r}, but here it is {ours[name]!r}; set it "
                            "to what M was trained with, or begin with another bundle")  # fmt: skip
    params = bundle.params
    check_like(path, {"vision": params.vision, "memory": params.memory}, _shapes(Models(experiment)))
    return params


def _shapes(models: Models) -> dict[str, Any]:
    """Of V's and M's weights."""
    wings, key = {"vision": models.vision, "memory": models.memory}, jax.random.key(0)
    return {name: jax.eval_shape(model.init, key) for name, model in wings.items()}


def _as_half(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float16)


def _from_run(run: RunDir) -> Bundle:
    path = run.path / "config.json"
    experiment = from_dict(read_json(path), str(path))
    context = Context(experiment, Models(experiment), run, Screen(), Interrupt())
    last = experiment.rounds.count - 1
    if not context.stage("controller", last).finished:
        raise UserError(f"{run.path} has no finished controller; run the same experiment again to finish its stages")
    _, params = load_agent(context, last)
    weights, chosen = load_controller(context, last)
    starts = load_round_latents(context, last)
    about = {"controller": chosen, "device": machine.device(), "versions": machine.versions()}
    return Bundle(experiment, params, weights, starts, about)


def first_frames(latents: Latents, seed: int) -> Latents:
    """The first frames of `STARTS` episodes, or of all where they are fewer, each as an episode of its own."""
    first = np.asarray(latents.start)
    chosen = np.sort(np.random.default_rng(seed).choice(first, min(STARTS, len(first)), replace=False))
    return build(
        mean=np.asarray(latents.stats.mean)[chosen],
        log_var=np.asarray(latents.stats.log_var)[chosen],
        action=np.asarray(latents.action)[chosen],
        reward=np.asarray(latents.reward)[chosen],
        length=np.ones(len(chosen)),
        terminated=np.zeros(len(chosen), bool),
    )


def _starts_as_arrays(starts: Latents) -> dict[str, Any]:
    return {
        "mean": starts.stats.mean,
        "log_var": starts.stats.log_var,
        "action": starts.action,
        "length": starts.length,
    }


def _starts_from_arrays(arrays: dict[str, Any], path: Path) -> Latents:
    if arrays.keys() != {"mean", "log_var", "action", "length"}:
        raise UserError(f"{path} is damaged: expected starts with mean, log_var, action and length, found "
                        f"{', '.join(arrays) or 'none'}; export it again")  # fmt: skip
    return build(arrays["mean"], arrays["log_var"], arrays["action"], np.zeros(len(arrays["action"]), np.float32),
                 arrays["length"], np.zeros(len(arrays["length"]), bool))  # fmt: skip
