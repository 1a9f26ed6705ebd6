"""What a world model is (`WorldModel`), a model with its weights (`World`), and what acts in one (`Actor`). What trains it
is `data.training.Learner`.

A new world model is one file in this folder, or in a file of a user's own, whose settings are registered by
`WORLDS.register` (docs/extending/).
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
    """A model of an environment, without its weights: hashable. Every method is pure, and for one agent and one moment
    (`encode`: for any number of frames); `jax.vmap` adds agents.

    `Params` is a dict with an entry for each learner. State, Obs and Noise are pytrees of the model's own.
    """

    @property
    @abstractmethod
    def action_size(self) -> int:
        """A"""

    @property
    @abstractmethod
    def learners(self) -> Mapping[str, Learner]:
        """What is trained, in order, by name: the stages of a run and the entries of the weights are called so."""

    @property
    def missing(self) -> Mapping[str, str]:
        """What the model, as it is set, does not predict: "reward", "end", "surprise"; and the setting with which it
        would."""
        return {}

    @property
    def end_threshold(self) -> float:
        """The probability above which `dream.end` threshold ends a dream: a half, or where it lies when ends weighed more
        in training."""
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
        """Frames [..., 64, 64, 3] uint8 → Obs [..., …]: what is stored of a recorded frame. Of `params` only the entries of
        learners that read frames are there while recordings are encoded."""

    @abstractmethod
    def begin(self, params: Params, obs: Any, key: Key) -> State:
        """The state on an episode's first frame."""

    @abstractmethod
    def observe(self, params: Params, state: State, action: Action, obs: Any, key: Key) -> State:
        """The state after `action` [A], when the next actual frame has come."""

    @abstractmethod
    def noise(self, key: Key) -> Any:
        """All the chance that a dreamt step takes; one draw serves every candidate of a population."""

    @abstractmethod
    def imagine(
        self, params: Params, state: State, action: Action, noise: Any, temperature: Array | float
    ) -> tuple[State, Outcome]:
        """The state after `action` [A] in the dream, and what came of it. A higher `temperature` [] makes a less certain
        dream; 1 is the model as trained."""

    @abstractmethod
    def features(self, state: State) -> Features:
        """What an actor may read of a state, by name: arrays [..., F]."""

    def differentiable(self, component: Component) -> "WorldModel":
        """The same model, whose `imagine` lets a gradient through as `component` says where it draws one of several
        components. The model itself where nothing in it has to be chosen."""
        return self

    def vital(self, state: State) -> Any:
        """What of a dreamt state is looked at, at every step, for numbers that are not finite: all that an actor may read,
        or less where the rest is always finite while this is."""
        return self.features(state)

    @abstractmethod
    def frame(self, params: Params, state: State) -> Array:
        """What a state looks like: float32 [64, 64, 3] in [0, 1]."""


@dataclass(frozen=True)
class WorldConfig(PartConfig):
    """Base of a world model's settings."""

    registry: ClassVar[Registry[Any]] = WORLDS
    meaning: ClassVar[tuple[str, ...]] = ()
    """Settings that say what its numbers are, which sizes do not always tell: weights go only where they are the same."""

    def build(self, task: Task) -> WorldModel:
        """The world model for a task."""
        raise NotImplementedError


@struct.dataclass
class World:
    """A world model with its weights: what actors are given. `World(model, params)`."""

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
    """A controller without its weights: hashable. It has a world model at hand, and a carry of its own, so that a planner
    is an actor too. Every method is pure, and for one agent; `jax.vmap` adds agents."""

    @property
    def words(self) -> str:
        """What it is and what it reads, for reports."""
        return type(self).__name__

    @property
    def features(self) -> tuple[str, ...]:
        """The world model's features that it reads, in order: the observation of the dream's Gymnasium face. Empty: all."""
        return ()

    @property
    def planned_steps(self) -> float:
        """Steps that it dreams for each of its own, on average."""
        return 0

    @property
    def planned_dreams(self) -> int:
        """Dreams that it has at hand at once."""
        return 0

    @abstractmethod
    def init(self, key: Key) -> Params:
        """Fresh weights: a pytree of arrays, which may be empty."""

    def begin(self) -> Any:
        """What it carries from step to step, before an episode's first one: a pytree of arrays, or None."""
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
    """How many numbers each of a model's features has."""
    found = jax.eval_shape(model.features, shapes(model)[2])
    return {name: array.shape[-1] for name, array in found.items()}
