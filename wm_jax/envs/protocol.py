"""What an environment in JAX is (`JaxEnvironment`), and a policy that is not learned (`Script`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from wm_jax.types import Action, Array, Key

CHANCE = 2
"""What is folded into the key of a step of the actual environment: the agent's own draws fold in 0 and 1."""


class Script(ABC):
    """A policy that is not learned. Hashable; every method is pure, and for one episode; `jax.vmap` adds episodes."""

    @abstractmethod
    def begin(self, key: Key) -> Any:
        """What it carries from step to step, before an episode's first one: a pytree of arrays."""

    @abstractmethod
    def act(self, carry: Any, observation: Array, key: Key) -> tuple[Action, Any]:
        """The action [A] on an `observation` [F], and the carry for the next step."""


class ScriptSettings(Protocol):
    """What scripts read of a collection's settings."""

    @property
    def max_holds(self) -> tuple[int, ...]:
        """An action is held for 1 to n steps; n is drawn from these once an episode."""
        ...


class JaxEnvironment(ABC):
    """An environment whose episodes are computed where the models are. Hashable; every method is pure, and for one episode;
    `jax.vmap` adds episodes."""

    @property
    @abstractmethod
    def action_size(self) -> int:
        """A: numbers of an action, each in [-1, 1]."""

    @property
    @abstractmethod
    def observation_size(self) -> int:
        """F: numbers of an observation, which tell all of the state that matters."""

    @property
    @abstractmethod
    def scripts(self) -> Mapping[str, Callable[[ScriptSettings], Script]]:
        """Its policies that are not learned, by name; one is called `random`."""

    @abstractmethod
    def reset(self, key: Key) -> tuple[Any, Array]:
        """An episode's first state, a pytree of arrays, and observation [F]."""

    @abstractmethod
    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Array, Array, Array, Array]:
        """What comes of `action` [A]: state, observation [F] float32, reward [] float32, terminated [] bool, and
        truncated [] bool, where a time limit cuts the episode off."""

    def measures(self, state: Any) -> dict[str, Array]:
        """What else is worth telling of a state beside the reward: numbers [], by name; scores give their means over all
        steps of an episode."""
        return {}

    @abstractmethod
    def frame(self, state: Any) -> Array:
        """What a state looks like: uint8 [64, 64, 3]."""
