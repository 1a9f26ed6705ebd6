"""What is done to an actor's actions while it collects (`Explorer`).

A new explorer is one file in this folder, or in a file of a user's own, whose settings are registered by
`EXPLORERS.register` (docs/extending/).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from wm_jax.registry import PartConfig, Registry
from wm_jax.types import Action, Features, Key
from wm_jax.worlds import Actor

EXPLORERS: "Registry[type[ExplorerConfig]]" = Registry("explorer.kind", "wm_jax.explore")


class Explorer(ABC):
    """Changes actions. Hashable; every method is pure, and for one agent; `jax.vmap` adds agents."""

    def begin(self) -> Any:
        """What it carries from step to step, before an episode's first one: a pytree of arrays, or None."""
        return None

    def collector(self, actor: Actor) -> Actor:
        """The actor whose actions these are, with the weights of `actor`: itself, unless it is to act in another way while
        it collects. Raises `UserError` where it cannot."""
        return actor

    @abstractmethod
    def act(self, action: Action, features: Features, carry: Any, key: Key) -> tuple[Action, Any]:
        """The action [A] to take instead of `action`, which the actor chose on seeing `features`, and the next carry."""


@dataclass(frozen=True)
class Goal:
    """What a controller is searched for that only collects."""

    reward: str
    """The rule that its dreams are rewarded by (`dream.reward`)."""
    generations: int
    """Generations of the search, which is C's in all else."""
    share: float
    """Share of a round's episodes that it collects; C collects the others."""


@dataclass(frozen=True)
class ExplorerConfig(PartConfig):
    """Base of an explorer's settings."""

    registry: ClassVar[Registry[Any]] = EXPLORERS

    @property
    def goal(self) -> Goal | None:
        """What a controller of its own is searched for, after C's search in every round but the last; None: C collects
        alone."""
        return None

    def build(self, action_size: int) -> Explorer:
        """The explorer for actions of so many numbers."""
        raise NotImplementedError
