"""`wm_jax.load`: loads a finished run or a bundle as an agent that can act, dream and be scored.

Games, plotting libraries and optimisers are imported only when they are needed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wm_jax.dream import Dream, DreamEnv, DreamSource, DreamVectorEnv, population_returns
from wm_jax.dream.gymnasium_face import RenderMode
from wm_jax.errors import UserError, require_integer
from wm_jax.experiment import Experiment
from wm_jax.lanes import alone, in_call
from wm_jax.pipeline import bundle
from wm_jax.rollouts.agent import driver_of
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Observations, Params
from wm_jax.worlds import Actor, World

CONTROLLER = "controller"
"""The actor's key in `TrainedAgent.parts`."""
LARGEST_SEED = 2**31 - 1


def load(path: str | Path, task: str | Path | None = None, parts: Sequence[str | Path] = ()) -> "TrainedAgent":
    """Load the agent in a run's folder or a bundle.

    `task` and `parts` are paths of your own Python files that the agent was made with. If they are not given, a run's
    files are looked for at their recorded paths and in its folder, a bundle's only beside it, because they are
    executed. A warning names each file whose contents have changed. Raises `UserError`, which says what is missing or
    damaged.
    """
    if not isinstance(parts, list | tuple):
        raise UserError(f"parts must be a list of paths, found {parts!r}")
    place = _path("path", path)
    found = bundle.load(place, None if task is None else _path("task", task), [_path("parts", part) for part in parts])
    for warning in found.stored.warnings:
        warnings.warn(warning, stacklevel=2)
    return TrainedAgent(found, place)


def _path(name: str, value: str | Path) -> Path:
    try:
        return Path(value)
    except TypeError:
        raise UserError(f"{name} must be a path, found {value!r}") from None


class TrainedAgent:
    """A world model and a controller, with their weights."""

    def __init__(self, found: bundle.Bundle, path: Path):
        self._bundle, self.path = found, path

    @property
    def experiment(self) -> Experiment:
        """All settings of the experiment that made the agent."""
        return self._bundle.experiment

    @property
    def about(self) -> dict[str, Any]:
        """How the controller was chosen, its scores at that time, the device and the package versions."""
        return self._bundle.about

    @property
    def world(self) -> World:
        """The world model with its weights: `encode`, `begin`, `observe`, `imagine`, `features`, `frame`."""
        return World(self._bundle.models.world, self._bundle.params)

    @property
    def actor(self) -> Actor:
        """The controller without its weights."""
        return self._bundle.models.actor

    @property
    def weights(self) -> Params:
        """The controller's weights."""
        return self._bundle.weights

    @property
    def recorded(self) -> Observations:
        """Encoded recorded frames that dreams can start from: all episodes of a run; the first frames of some, in a
        bundle."""
        return self._bundle.recorded

    @cached_property
    def parts(self) -> dict[str, tuple[Any, Params]]:
        """Each trained part's pure functions and weights, by name. For the paper's agent: {"vision": (Vision, weights),
        "memory": (Memory, weights), "controller": (MLP, weights)}. Example: `vision, weights = agent.parts["vision"]`,
        then `vision.encode(weights, frames)`."""
        learners = self._bundle.models.world.learners
        found = {name: (learner.model, self._bundle.params[name]) for name, learner in learners.items()}
        return {**found, CONTROLLER: (self.actor, self.weights)}

    def player(self, seed: int = 0) -> "Player":
        """A player for episodes of the actual environment, frame by frame. `seed` seeds the agent's random draws."""
        return Player(self._bundle, seed)

    @cached_property
    def _source(self) -> DreamSource:
        found = self._bundle
        return DreamSource(
            found.models.dream, found.params, found.recorded, self.actor.features,
            frames_per_second=found.models.task.frames_per_second,
        )  # fmt: skip

    @property
    def dream(self) -> Dream:
        """The dream without weights: `step`, `reset`, and its rules, `config`."""
        return self._bundle.models.dream

    def dream_env(self, render_mode: RenderMode = None) -> DreamEnv:
        """The dream as a Gymnasium environment. An observation is the features that the controller reads."""
        return DreamEnv(self._source, render_mode)

    def dream_vector_env(self, num_envs: int, render_mode: RenderMode = None) -> DreamVectorEnv:
        """`num_envs` dreams in one compiled step."""
        return DreamVectorEnv(num_envs, self._source, render_mode)

    def dream_returns(self, rollouts: int = 256, seed: int = 0, temperature: float | None = None) -> np.ndarray:
        """The controller's returns in dreams, [rollouts]. `temperature` defaults to the dream's own.

        Raises `UserError` if `rollouts` is less than 1, if `seed` is not in 0 to 2**31 - 1, or if `dream.temperature`
        does not allow the temperature.
        """
        rollouts, seed = require_integer("rollouts", rollouts, 1), require_integer("seed", seed, 0, LARGEST_SEED)
        if temperature is not None:
            try:
                temperature = replace(self.dream.config, temperature=float(temperature)).temperature
            except (TypeError, ValueError):
                raise UserError(f"temperature must be a number, found {temperature!r}") from None
        # A planner's dreams take long: some at a time, so that Ctrl-C is heard in between.
        size = in_call(rollouts, self.dream.config.horizon * self.actor.planned_steps)
        found = [
            population_returns(
                self.dream, self.actor, self._bundle.params, self._source.starts, alone(self.weights),
                jax.random.key(seed), rollouts=size, first=first, temperature=temperature,
            ).returns[0]
            for first in range(0, rollouts, size)
        ]  # fmt: skip
        return np.concatenate(found)[:rollouts]

    def score(self, episodes: int = 100, seed: int = 2_000_000) -> dict[str, Any]:
        """Score the controller on fresh episodes of the actual environment. Returns mean, sd, se, n, returns, seeds,
        device and versions; shows progress on the screen. Raises `UserError` for fewer than two episodes, and for seeds
        that are reserved for selecting controllers."""
        from wm_jax.pipeline.progress import Screen
        from wm_jax.pipeline.scoring import score_bundle

        episodes, seed = require_integer("episodes", episodes, 2), require_integer("seed", seed, 0, LARGEST_SEED)
        return score_bundle(self._bundle, episodes, seed, Screen())

    def __repr__(self) -> str:
        sizes = {**self._bundle.params, CONTROLLER: self.weights}
        counts = (f"{name} {sum(leaf.size for leaf in jax.tree.leaves(tree)):,}" for name, tree in sizes.items())
        dream = self.experiment.dream
        return (
            f"<TrainedAgent {self.path}: task {self._bundle.models.task.name}; weights: {', '.join(counts)}; controller "
            f"reads {self.actor.words}; dreams at τ {dream.temperature:g} {dream.words}"
            f"{''.join(f'; {note}' for note in self._bundle.stored.notes)}>"
        )


class Player:
    """Plays episodes in the actual environment: takes a frame, returns an action."""

    def __init__(self, found: bundle.Bundle, seed: int):
        self._batch = driver_of(found.agent, found.params, found.weights).open(1)
        self.task, self.seed = found.models.task, require_integer("seed", seed, 0, LARGEST_SEED)
        self.reset(self.seed)

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode: the next frame is its first. `seed` defaults to the previous seed plus one. Raises
        `UserError` if the seed is not in 0 to 2**31 - 1."""
        self.seed = require_integer("seed", self.seed + 1 if seed is None else seed, 0, LARGEST_SEED)
        self._batch.begin({0: (self.seed, 0)})

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Action [A] in [-1, 1] for the next frame, uint8 [64, 64, 3]. `player.task.frame` converts an observation to a
        frame; `player.task.environment_action` converts the action to the environment's own. Raises `UserError` if
        `frame` has another shape or type."""
        seen = np.asarray(frame)
        if (seen.shape, seen.dtype) != (FRAME_SHAPE, np.uint8):
            raise UserError(f"a frame must be uint8 {list(FRAME_SHAPE)}, found {seen.dtype} {list(seen.shape)}; "
                            "convert an observation with player.task.frame")  # fmt: skip
        return self._batch(seen[None])[0]


def make_dream(
    run: str | Path, render_mode: RenderMode = None, task: str | Path | None = None, parts: Sequence[str | Path] = ()
) -> DreamEnv:
    """`gymnasium.make("wm_jax/Dream-v0", run=…)`: the dream of the agent in a run's folder or bundle. Raises as
    `load`."""
    return load(run, task, parts).dream_env(render_mode)


def make_dreams(
    num_envs: int, run: str | Path, render_mode: RenderMode = None, task: str | Path | None = None,
    parts: Sequence[str | Path] = (),
) -> DreamVectorEnv:  # fmt: skip
    """`gymnasium.make_vec("wm_jax/Dream-v0", num_envs=…, run=…)`. Raises as `load`."""
    return load(run, task, parts).dream_vector_env(num_envs, render_mode)
