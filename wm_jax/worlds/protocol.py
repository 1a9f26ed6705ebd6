"""The interfaces of a world model (`WorldModel`), of a world model with its weights (`World`), and of an actor in it
(`Actor`). Its training is `data.training.Learner`.

A new world model is one file in this folder, or your own file, that registers its settings with `WORLDS.register`
(docs/extending/).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.data.training import Learner
from wm_jax.parallel import key_shape
from wm_jax.registry import PartConfig, Registry
from wm_jax.tasks import FRAME_SHAPE, Task
from wm_jax.types import Action, Array, Component, Features, Key, Outcome, Params, State

WORLDS: "Registry[type[WorldConfig]]" = Registry("world.kind", "wm_jax.worlds")


class WorldModel(ABC):
    """A model of an environment, without its weights. Hashable. Every method is pure and handles one agent at one
    moment (`encode`: any number of frames); `jax.vmap` adds agents.

    `Params` is a dict with an entry for each learner. State, Obs and Noise are pytrees that the model defines.
    """

    @property
    @abstractmethod
    def action_size(self) -> int:
        """A: action size."""

    @property
    @abstractmethod
    def learners(self) -> Mapping[str, Learner]:
        """The learners in order, by name. The names are also those of a run's stages and of the weights' entries."""

    @property
    def missing(self) -> Mapping[str, str]:
        """Predictions that the model, with its settings, does not make: "reward", "end", "surprise"; each with the
        setting that enables it."""
        return {}

    @property
    def end_threshold(self) -> float:
        """The probability above which `dream.end` threshold ends a dream: 0.5, or its equivalent if ends had another
        weight in training."""
        return 0.5

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        learners = enumerate(self.learners.items())
        return {name: learner.init(jax.random.fold_in(key, number)) for number, (name, learner) in learners}

    def shapes(self) -> Params:
        """The shapes of the weights, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(self.init, key_shape())

    @abstractmethod
    def encode(self, params: Params, frames: Array) -> Any:
        """Frames [..., 64, 64, 3] uint8 → Obs [..., …]: the stored form of a recorded frame. While recordings are
        encoded, `params` holds only the entries of learners that read frames."""

    @abstractmethod
    def begin(self, params: Params, obs: Any, key: Key) -> State:
        """The state after an episode's first frame."""

    @abstractmethod
    def observe(self, params: Params, state: State, action: Action, obs: Any, key: Key) -> State:
        """The state after `action` [A] and the next actual frame."""

    @abstractmethod
    def noise(self, key: Key) -> Any:
        """All randomness of a dreamt step. One draw serves every candidate of a population."""

    @abstractmethod
    def imagine(
        self, params: Params, state: State, action: Action, noise: Any, temperature: Array | float
    ) -> tuple[State, Outcome]:
        """The state after `action` [A] in the dream, and its outcome. A higher `temperature` [] makes the dream less
        certain; 1 is the model as trained."""

    @abstractmethod
    def features(self, state: State) -> Features:
        """The parts of a state that an actor may read, by name: arrays [..., F]."""

    def differentiable(self, component: Component) -> "WorldModel":
        """The same model, whose `imagine` passes gradients as `component` says through the draw of a mixture's
        component. Returns the model itself if it has no such choice."""
        return self

    def vital(self, state: State) -> Any:
        """The part of a dreamt state that is checked at every step for numbers that are not finite: all features, or
        fewer if the rest is always finite when these are."""
        return self.features(state)

    @abstractmethod
    def frame(self, params: Params, state: State) -> Array:
        """The picture of a state: float32 [64, 64, 3] in [0, 1]."""


@dataclass(frozen=True)
class WorldConfig(PartConfig):
    """Base of a world model's settings."""

    registry: ClassVar[Registry[Any]] = WORLDS
    meaning: ClassVar[tuple[str, ...]] = ()
    """Settings that define the meaning of its numbers, beyond their sizes. Weights are exchanged only if these are
    equal."""

    def build(self, task: Task) -> WorldModel:
        """The world model for a task."""
        raise NotImplementedError


@struct.dataclass
class World:
    """A world model with its weights, as actors receive it: `World(model, params)`."""

    model: WorldModel = struct.field(pytree_node=False)
    params: Params

    def encode(self, frames: Array) -> Any:
        """`WorldModel.encode`"""
        return self.model.encode(self.params, frames)

    def begin(self, obs: Any, key: Key) -> State:
        """`WorldModel.begin`"""
        return self.model.begin(self.params, obs, key)

    def observe(self, state: State, action: Action, obs: Any, key: Key) -> State:
        """`WorldModel.observe`"""
        return self.model.observe(self.params, state, action, obs, key)

    def imagine(
        self, state: State, action: Action, noise: Any, temperature: Array | float = 1.0
    ) -> tuple[State, Outcome]:
        """`WorldModel.imagine`"""
        return self.model.imagine(self.params, state, action, noise, temperature)

    def features(self, state: State) -> Features:
        """`WorldModel.features`"""
        return self.model.features(state)

    def frame(self, state: State) -> Array:
        """`WorldModel.frame`"""
        return self.model.frame(self.params, state)


class Actor(ABC):
    """A controller without its weights. Hashable. It has a world model at hand and its own carry, so that a planner is
    an actor too. Every method is pure and handles one agent; `jax.vmap` adds agents."""

    @property
    def words(self) -> str:
        """A description of it and of its inputs, for reports."""
        return type(self).__name__

    @property
    def features(self) -> tuple[str, ...]:
        """The world model's features that it reads, in order; also the observation of the dream's Gymnasium
        environment. Empty: all."""
        return ()

    @property
    def planned_steps(self) -> float:
        """Average number of steps that it dreams for each of its own steps."""
        return 0

    @property
    def planned_dreams(self) -> int:
        """Number of dreams that it holds at once."""
        return 0

    @abstractmethod
    def init(self, key: Key) -> Params:
        """Fresh weights: a pytree of arrays, which may be empty."""

    def begin(self) -> Any:
        """The initial carry of an episode: a pytree of arrays, or None."""
        return None

    @abstractmethod
    def act(self, params: Params, world: World, state: State, carry: Any, key: Key) -> tuple[Action, Any]:
        """The action [A] in `state`, and the carry for the next step."""


@cache
def shapes(model: WorldModel) -> tuple[Params, Any, State]:
    """The shapes of a model's weights, of one encoded frame and of one state, as `jax.ShapeDtypeStruct`."""
    key = key_shape()
    frame = jax.ShapeDtypeStruct(FRAME_SHAPE, jnp.uint8)
    params = model.shapes()
    obs = jax.eval_shape(model.encode, params, frame)
    return params, obs, jax.eval_shape(model.begin, params, obs, key)


def feature_sizes(model: WorldModel) -> dict[str, int]:
    """The size of each of a model's features."""
    found = jax.eval_shape(model.features, shapes(model)[2])
    return {name: array.shape[-1] for name, array in found.items()}
