"""The interface of an explorer, which changes an actor's actions while it collects (`Explorer`).

A new explorer is one file in this folder, or in a user's own file; `EXPLORERS.register` registers its settings
(docs/extending/).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from wm_jax.registry import PartConfig, Registry
from wm_jax.types import Action, Features, Key
from wm_jax.worlds import Actor

EXPLORERS: "Registry[type[ExplorerConfig]]" = Registry("explorer.kind", "wm_jax.explore")


class Explorer(ABC):
    """Changes actions. Hashable; every method is pure and handles one agent; `jax.vmap` adds agents."""

    def begin(self) -> Any:
        """The carry before an episode's first step: a pytree of arrays, or None."""
        return None

    def collector(self, actor: Actor) -> Actor:
        """The actor that collects, with the weights of `actor`: `actor` itself, unless it must act differently while it
        collects. Raises `UserError` if it cannot."""
        return actor

    @abstractmethod
    def act(self, action: Action, features: Features, carry: Any, key: Key) -> tuple[Action, Any]:
        """The action [A] to take instead of `action`, which the actor chose from `features`, and the next carry."""


@dataclass(frozen=True)
class Goal:
    """Goal of the search for a controller that only collects."""

    reward: str
    """Reward rule of its dreams (`dream.reward`)."""
    generations: int
    """Generations of its search; the other settings are those of C's search."""
    share: float
    """Share of a round's episodes that it collects; C collects the others."""


@dataclass(frozen=True)
class ExplorerConfig(PartConfig):
    """Base of an explorer's settings."""

    registry: ClassVar[Registry[Any]] = EXPLORERS

    @property
    def goal(self) -> Goal | None:
        """Goal of the explorer's own controller, searched for after C in every round but the last; None: C collects
        alone."""
        return None

    def build(self, action_size: int) -> Explorer:
        """The explorer for actions with this many numbers."""
        raise NotImplementedError
