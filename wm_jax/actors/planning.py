"""Common parts of planners: actors that search for the best action in the world model's dream at every decision."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.custom_batching import custom_vmap

from wm_jax import parallel
from wm_jax.actors.policy import Kind, PolicyConfig
from wm_jax.actors.protocol import ActorConfig, Policy, WithCritic
from wm_jax.dream import Dream
from wm_jax.dream.imagination import Imagination
from wm_jax.errors import UserError, require_range
from wm_jax.lanes import PLANNING, choose
from wm_jax.types import Action, Array, Key, Params, State
from wm_jax.worlds import World
from wm_jax.worlds.protocol import feature_sizes


@dataclass(frozen=True)
class PlannerConfig(ActorConfig):
    """Base of a planner's settings."""

    distribution: ClassVar[Kind] = "gaussian"
    """Distribution of the learned policy."""

    horizon: int = 30
    """T: actions per plan."""
    hold: int = 1
    """Steps that each action is held, in a plan and when executed."""
    discount: float = 1.0
    """gamma: discount per step, in the dream."""
    features: tuple[str, ...] = ()
    """The world model's features that the learned policy and value read; empty: all of them."""
    hidden_sizes: tuple[int, ...] = ()
    """Units of the hidden layers of a policy and a value, which the search learns in dreams (`search.kind` ppo, dreamer or
    backprop). The value then estimates the return after the plan's last step. Empty: nothing is learned or searched for."""

    def __post_init__(self) -> None:
        for name in ("horizon", "hold"):
            require_range(f"actor.{name}", getattr(self, name), 1, 2**20)
        require_range("actor.discount", self.discount, 0.0, 1.0)
        if self.features and not self.hidden_sizes:
            raise UserError(f"actor.features is {list(self.features)}, but without actor.hidden_sizes nothing reads them; "
                            "set actor.hidden_sizes too, or leave actor.features empty")  # fmt: skip

    @classmethod
    def benchmarked(cls) -> "dict[str, PlannerConfig]":
        """The settings that `wm-jax bench plan` measures, by the names of their rows."""
        return {cls.kind: cls(kind=cls.kind)}

    def guide(self, dream: Dream) -> Policy | None:
        """The learned policy, if any. Raises `UserError` if the discount is so close to 1 that its value would
        diverge."""
        if not self.hidden_sizes:
            return None
        require_range("actor.discount", self.discount, 0.0, 0.9999)
        features = self.features or tuple(feature_sizes(dream.model))
        return PolicyConfig(features=features, hidden_sizes=self.hidden_sizes, distribution=self.distribution).build(
            dream
        )


@struct.dataclass
class PlanState:
    """State of a planner between steps."""

    plan: Any
    """The plan that the next decision starts from: a pytree."""
    action: Action
    """[A]: the current action."""
    left: Array
    """[] int32: steps left before the next decision."""


@dataclass(frozen=True)
class Planner(WithCritic):
    """An actor that decides every `hold` steps and holds its action in between."""

    config: Any
    """A `PlannerConfig`."""
    dream: Dream

    def __post_init__(self) -> None:
        # Raises an error if the policy cannot be made.
        self.config.guide(self.dream)

    @property
    def guide(self) -> Policy | None:
        """The policy that is learned together with the value, if any."""
        return self.config.guide(self.dream)

    @property
    def discount(self) -> float:
        """gamma: discount per step of its plans."""
        return self.config.discount

    @property
    @abstractmethod
    def dream_steps(self) -> int:
        """Dream steps per decision."""

    @property
    def planned_steps(self) -> float:
        """Dream steps of a decision, per step that its action is held."""
        return self.dream_steps / self.config.hold

    @abstractmethod
    def first_plan(self) -> Any:
        """The plan at the start of an episode."""

    @abstractmethod
    def decide(self, params: Params, world: World, state: State, plan: Any, key: Key) -> tuple[Action, Any]:
        """The action [A] and the plan for the next decision."""

    @property
    def action_size(self) -> int:
        """A: size of an action."""
        return self.dream.model.action_size

    @property
    def words(self) -> str:
        """Description of the planner."""
        config, value = self.config, ", and a learned value" if self.guide else ""
        return (
            f"{config.kind} in plans of {config.horizon} actions × {config.hold} steps{value}, "
            f"{self.dream_steps:,} dreamt steps a decision"
        )

    def begin(self) -> PlanState:
        """The state before the first decision."""
        return PlanState(self.first_plan(), jnp.zeros(self.action_size, jnp.float32), jnp.int32(0))

    def act(self, params: Params, world: World, state: State, carry: PlanState, key: Key) -> tuple[Action, PlanState]:
        """The current action, or a new decision when its time is over."""
        due = carry.left == 0
        kept = (carry.action, carry.plan)
        action, plan = _where_due(self.decide, due, (params, world, state, carry.plan, key), kept)
        return action, PlanState(plan, action, jnp.where(due, self.config.hold, carry.left) - 1)

    def value(self, params: Params, world: World, state: State) -> Array:
        """[]: the critic's expected discounted sum of rewards from a state."""
        assert self.guide is not None
        return self.guide.value(params["critic"], self.guide.inputs(world, state)) / (1 - self.config.discount)


@dataclass(frozen=True)
class SequencePlannerConfig(PlannerConfig):
    """Base of the settings of planners that compare sequences of actions."""

    particles: int = 1
    """P: dreams per plan. The p-th dreams of all plans share the same noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("actor.particles", self.particles, 1, 2**20)


@dataclass(frozen=True)
class SequencePlanner(Planner):
    """A planner that compares open-loop sequences of actions."""

    def returns(self, params: Params, world: World, state: State, actions: Array, key: Key) -> Array:
        """[N]: expected returns of plans with actions [N, T, A], including the learned value of the last state."""
        config, value = self.config, partial(self.value, params, world) if self.guide else None
        judge = Imagination(self.dream, config.hold, config.particles, config.discount)
        return judge.returns(world, state, actions, key, value)


def _where_due(function: Callable[..., Any], due: Array, arguments: tuple[Any, ...], otherwise: Any) -> Any:
    """`function(*arguments)` if `due` [], else `otherwise`. In a batch only the lanes that are due compute it, in
    blocks; a batched `jax.lax.cond` alone would compute it in all of them."""

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
        block = min(size, PLANNING) if parallel.platform(None) == "cpu" else size
        each, order = jax.vmap(function, axes, axis_size=block), jnp.argsort(~due)

        def plan(number: Array, found: Any) -> Any:
            # The last block begins earlier where it would not be full: some lanes then compute the same once more.
            chosen = jax.lax.dynamic_slice(order, (number * block,), (block,))
            parts = jax.tree.map(lambda leaf, there: _taken(leaf, chosen) if there else leaf, arguments, batched[1])
            new = choose(due[chosen], each(*parts), jax.tree.map(lambda leaf: leaf[chosen], found))
            return jax.tree.map(lambda leaf, part: leaf.at[chosen].set(part, unique_indices=True), found, new)

        found = jax.lax.fori_loop(0, (due.sum(dtype=jnp.int32) + block - 1) // block, plan, otherwise)
        return found, jax.tree.map(lambda _: True, found)

    return decided(due, arguments, otherwise)


def _taken(leaf: Array, chosen: Array) -> Array:
    """The rows `chosen` [B] of an array, or of keys; each lane's key is used once, though a loop takes them in parts."""
    return (jax.random.clone(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)[chosen]
