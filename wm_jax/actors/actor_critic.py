"""A policy that keeps its critic: Dreamer deploys it and trains it further in the next round."""

from dataclasses import dataclass
from typing import Literal, get_args

from wm_jax.actors.policy import Kind, NetworkPolicy, PolicyConfig
from wm_jax.actors.protocol import ACTORS, WithCritic
from wm_jax.dream import Dream
from wm_jax.errors import require_choice
from wm_jax.types import Action, Key, Params, State
from wm_jax.worlds import World

Deployed = Literal["mode", "sample"]


@ACTORS.register
@dataclass(frozen=True)
class ActorCriticConfig(PolicyConfig):
    """A policy as with `actor.kind` policy that also keeps its critic's weights: a later round's search that starts
    from C (`rounds.warm_start`) starts from both."""

    kind: Literal["actor_critic"] = "actor_critic"  # type: ignore[assignment]
    """Name of this part."""
    features: tuple[str, ...] = ("deterministic", "stochastic")
    """The world model's features that it reads, in this order."""
    distribution: Kind = "bounded_normal"
    deployed: Deployed = "mode"
    """The action it takes outside of the search: the mode of its distribution, or a sample (as in DreamerV3's code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("actor.deployed", self.deployed, get_args(Deployed))

    def build(self, dream: Dream) -> "KeptCritic":  # type: ignore[override]
        """The policy for a world model. Raises `UserError` if the world model lacks a feature, or if categorical
        actions are needed but the task names none."""
        return KeptCritic(super().build(dream), self.deployed)


@dataclass(frozen=True)
class KeptCritic(WithCritic):
    """The actor described by `ActorCriticConfig`."""

    policy: NetworkPolicy
    deployed: Deployed

    @property
    def guide(self) -> NetworkPolicy:
        """The policy."""
        return self.policy

    @property
    def words(self) -> str:
        """Description of the actor and its inputs."""
        return f"{self.policy.words}, with its critic" + (", sampled" if self.deployed == "sample" else "")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it reads."""
        return self.policy.features

    def act(self, params: Params, world: World, state: State, carry: None, key: Key) -> tuple[Action, None]:
        """The policy's mode, or a sample."""
        if self.deployed == "sample":
            return self.policy.sample(params["policy"], world, state, key), carry
        return self.policy.act(params["policy"], world, state, carry, key)
