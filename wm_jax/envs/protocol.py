"""The interfaces of an environment in JAX (`JaxEnvironment`) and of a policy that is not learned (`Script`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from wm_jax.types import Action, Array, Key

CHANCE = 2
"""Folded into the key of a step of the actual environment; the agent's own draws fold in 0 and 1."""


class Script(ABC):
    """A policy that is not learned. Hashable. Every method is pure and handles one episode; `jax.vmap` adds
    episodes."""

    @abstractmethod
    def begin(self, key: Key) -> Any:
        """The initial carry of an episode: a pytree of arrays."""

    @abstractmethod
    def act(self, carry: Any, observation: Array, key: Key) -> tuple[Action, Any]:
        """The action [A] for an `observation` [F], and the carry for the next step."""


class ScriptSettings(Protocol):
    """The collection settings that scripts read."""

    @property
    def max_holds(self) -> tuple[int, ...]:
        """An action is held for 1 to n steps; n is drawn from these once for each episode."""
        ...


class JaxEnvironment(ABC):
    """An environment whose episodes are computed on the models' device. Hashable. Every method is pure and handles one
    episode; `jax.vmap` adds episodes."""

    @property
    @abstractmethod
    def action_size(self) -> int:
        """A: size of an action; each number is in [-1, 1]."""

    @property
    @abstractmethod
    def observation_size(self) -> int:
        """F: size of an observation, which contains all that matters of the state."""

    @property
    @abstractmethod
    def scripts(self) -> Mapping[str, Callable[[ScriptSettings], Script]]:
        """Its policies that are not learned, by name; one must be called `random`."""

    @abstractmethod
    def reset(self, key: Key) -> tuple[Any, Array]:
        """The first state of an episode, a pytree of arrays, and its observation [F]."""

    @abstractmethod
    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Array, Array, Array, Array]:
        """The result of `action` [A]: state, observation [F] float32, reward [] float32, terminated [] bool, and
        truncated [] bool, which is True if a time limit cuts the episode off."""

    def measures(self, state: Any) -> dict[str, Array]:
        """Further measures of a state, besides the reward: numbers [], by name. Scores report their means over all
        steps of an episode."""
        return {}

    @abstractmethod
    def frame(self, state: Any) -> Array:
        """The picture of a state: uint8 [64, 64, 3]."""
