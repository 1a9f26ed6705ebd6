"""A policy that samples its actions while it collects, as in DreamerV2 and V3."""

from dataclasses import dataclass
from typing import Any, Literal

from wm_jax.actors.protocol import Guided, Policy
from wm_jax.errors import UserError
from wm_jax.explore.noise import Noise, NoiseConfig
from wm_jax.explore.protocol import EXPLORERS
from wm_jax.types import Action, Key, Params, State
from wm_jax.worlds import Actor, World


@EXPLORERS.register
@dataclass(frozen=True)
class DrawsConfig(NoiseConfig):
    """The policy samples its actions instead of taking the mode; noise and random stretches come on top."""

    kind: Literal["draws"] = "draws"  # type: ignore[assignment]
    """Name of this part."""

    def build(self, action_size: int) -> "Draws":
        """The explorer for actions with this many numbers."""
        return Draws(self, action_size)


@dataclass(frozen=True)
class Draws(Noise):
    """The explorer described by `DrawsConfig`."""

    def collector(self, actor: Actor) -> "Drawing":
        """The policy in the actor, sampling its actions."""
        policy = actor.guide if isinstance(actor, Guided) else None
        # A planner that has a policy acts by its plan.
        if not isinstance(actor, Guided) or policy is None or policy.needs_noise or actor.planned_dreams:
            raise UserError(f"explorer.kind is 'draws', which needs a policy with its own standard deviation, found "
                            f"{actor.words}; set actor.kind to policy or actor_critic, or explorer.kind to "
                            "noise")  # fmt: skip
        return Drawing(actor, policy)


@dataclass(frozen=True)
class Drawing(Actor):
    """A policy that samples its actions. Its weights are those of the actor that contains it."""

    actor: Guided
    policy: Policy

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        return self.actor.init(key)

    def act(self, params: Params, world: World, state: State, carry: Any, key: Key) -> tuple[Action, Any]:
        """A sampled action."""
        weights, _ = self.actor.parts(params)
        return self.policy.sample(weights, world, state, key), carry
