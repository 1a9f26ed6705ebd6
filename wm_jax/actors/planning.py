"""What planners have in common: actors that look, at every decision, for what is best in the dream of a world model."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.custom_batching import custom_vmap

from wm_jax.actors.policy import Kind, PolicyConfig
from wm_jax.actors.protocol import ActorConfig, Policy, WithCritic
from wm_jax.dream import Dream
from wm_jax.dream.imagination import Imagination
from wm_jax.errors import require_range
from wm_jax.lanes import choose
from wm_jax.types import Action, Array, Key, Params, State
from wm_jax.worlds import World
from wm_jax.worlds.protocol import feature_sizes


@dataclass(frozen=True)
class PlannerConfig(ActorConfig):
    """Base of a planner's settings."""

    distribution: ClassVar[Kind] = "gaussian"
    """Of the learned policy."""

    horizon: int = 30
    """T: actions of a plan."""
    hold: int = 1
    """Steps that each action is kept, in a plan and when it is done."""
    discount: float = 1.0
    """gamma of a step, in the dream."""
    features: tuple[str, ...] = ()
    """The world model's features that a learned policy and value read; all of them unless some are named."""
    hidden_sizes: tuple[int, ...] = ()
    """Units of the hidden layers of a policy and a value, which the search finds in dreams (`search.kind` ppo); the value
    then stands for what comes after a plan. Empty: nothing is learned, and there is no search."""

    def __post_init__(self) -> None:
        for name in ("horizon", "hold"):
            require_range(f"actor.{name}", getattr(self, name), 1, 2**20)
        require_range("actor.discount", self.discount, 0.0, 1.0)

    def guide(self, dream: Dream) -> Policy | None:
        """The policy that is learned, if any. Raises `UserError` where its value would be of a sum without an end."""
        if not self.hidden_sizes:
            return None
        require_range("actor.discount", self.discount, 0.0, 0.9999)
        features = self.features or tuple(feature_sizes(dream.model))
        return PolicyConfig(features=features, hidden_sizes=self.hidden_sizes, distribution=self.distribution).build(
            dream
        )


@struct.dataclass
class PlanState:
    """What a planner carries from step to step."""

    plan: Any
    """What the next decision begins with: a pytree of the planner's own."""
    action: Action
    """[A]: what is being done."""
    left: Array
    """[] int32: steps for which it is still done, before the next decision."""


@dataclass(frozen=True)
class Planner(WithCritic):
    """An actor that decides anew every `hold` steps, and keeps the action in between."""

    config: Any
    """A `PlannerConfig`."""
    dream: Dream

    def __post_init__(self) -> None:
        # Raises where it cannot be had.
        self.config.guide(self.dream)

    @property
    def guide(self) -> Policy | None:
        """The policy that is learned with the value, if any."""
        return self.config.guide(self.dream)

    @property
    def discount(self) -> float:
        """gamma of its plans."""
        return self.config.discount

    @property
    @abstractmethod
    def dream_steps(self) -> int:
        """Dreamt steps of a decision."""

    @property
    def planned_steps(self) -> float:
        """A decision's, over the steps that its action is kept."""
        return self.dream_steps / self.config.hold

    @abstractmethod
    def first_plan(self) -> Any:
        """The plan that an episode begins with."""

    @abstractmethod
    def decide(self, params: Params, world: World, state: State, plan: Any, key: Key) -> tuple[Action, Any]:
        """The action [A], and the plan for the next decision."""

    @property
    def action_size(self) -> int:
        """A"""
        return self.dream.model.action_size

    @property
    def words(self) -> str:
        """What it is."""
        config, value = self.config, ", and a learned value" if self.guide else ""
        return (
            f"{config.kind} in plans of {config.horizon} actions × {config.hold} steps{value}, "
            f"{self.dream_steps:,} dreamt steps a decision"
        )

    def begin(self) -> PlanState:
        """Nothing decided yet."""
        return PlanState(self.first_plan(), jnp.zeros(self.action_size, jnp.float32), jnp.int32(0))

    def act(self, params: Params, world: World, state: State, carry: PlanState, key: Key) -> tuple[Action, PlanState]:
        """The action of the last decision, or of a new one where its time is over."""
        due = carry.left == 0
        kept = (carry.action, carry.plan)
        action, plan = _where_due(self.decide, due, (params, world, state, carry.plan, key), kept)
        return action, PlanState(plan, action, jnp.where(due, self.config.hold, carry.left) - 1)

    def value(self, params: Params, world: World, state: State) -> Array:
        """[]: the discounted sum of rewards that the critic expects from a state on."""
        assert self.guide is not None
        return self.guide.value(params["critic"], self.guide.inputs(world, state)) / (1 - self.config.discount)


@dataclass(frozen=True)
class SequencePlannerConfig(PlannerConfig):
    """Base of the settings of planners that compare sequences of actions."""

    particles: int = 1
    """P: dreams that a plan is judged in. All plans meet the same noise in the p-th."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("actor.particles", self.particles, 1, 2**20)


@dataclass(frozen=True)
class SequencePlanner(Planner):
    """A planner that compares sequences of actions, whatever is seen on the way."""

    def returns(self, params: Params, world: World, state: State, actions: Array, key: Key) -> Array:
        """[N]: what plans, their actions [N, T, A], are expected to bring, with the learned value of what comes after."""
        config, value = self.config, partial(self.value, params, world) if self.guide else None
        judge = Imagination(self.dream, config.hold, config.particles, config.discount)
        return judge.returns(world, state, actions, key, value)


def _where_due(function: Callable[..., Any], due: Array, arguments: tuple[Any, ...], otherwise: Any) -> Any:
    """`function` of the `arguments` where it is `due` [], or what it gives `otherwise`. Where no lane of a batch is due,
    nothing is computed: `jax.lax.cond` alone would compute it for all."""

    @custom_vmap
    def decided(due: Array, arguments: tuple[Any, ...], otherwise: Any) -> Any:
        return jax.lax.cond(due, lambda: function(*arguments), lambda: otherwise)

    @decided.def_vmap
    def _(size: int, batched: Any, due: Array, arguments: tuple[Any, ...], otherwise: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda there: 0 if there else None, batched[1])
        due, otherwise = (
            jax.tree.map(
                lambda leaf, there: leaf if there else jnp.broadcast_to(leaf, (size, *leaf.shape)), tree, there
            )
            for tree, there in ((due, batched[0]), (otherwise, batched[2]))
        )
        each = jax.vmap(function, axes, axis_size=size)
        found = jax.lax.cond(due.any(), lambda: choose(due, each(*arguments), otherwise), lambda: otherwise)
        return found, jax.tree.map(lambda _: True, found)

    return decided(due, arguments, otherwise)
