"""Planning by Monte-Carlo tree search over the task's discrete actions, with mctx and with a prior and a value that the
search learned in dreams: Gumbel MuZero (Danihelka et al., 2022) and Stochastic MuZero (Antonoglou et al., 2022).

A node is a state of the world model; an edge is an action that is held for `hold` steps of the dream.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.actors.planning import Planner, PlannerConfig
from wm_jax.actors.policy import Head, Kind
from wm_jax.actors.protocol import ACTORS
from wm_jax.dream import Dream, DreamState
from wm_jax.errors import require_choice, require_range
from wm_jax.lanes import alone
from wm_jax.optimizers import jax_defaults
from wm_jax.types import Action, Array, Key, Params, State
from wm_jax.worlds import World


@ACTORS.register
@dataclass(frozen=True)
class MCTSConfig(PlannerConfig):
    """Planning by tree search."""

    distribution: ClassVar[Kind] = "categorical"

    kind: Literal["mcts"] = "mcts"
    horizon: int = 30
    """Maximum depth of the tree, in actions."""
    hold: int = 4
    """Steps that each action is held, in a plan and when executed."""
    discount: float = 0.99
    hidden_sizes: tuple[int, ...] = (64,)
    """Units of the hidden layers of the prior and the value, which the search learns in dreams (`search.kind` ppo or
    dreamer). Empty: nothing is learned or searched for, the prior is uniform and the value is 0."""
    simulations: int = 50
    """Nodes that a decision adds to its tree."""
    policy: Literal["gumbel", "stochastic"] = "gumbel"
    """gumbel: an action leads to a single sampled state; stochastic: to one of `outcomes` states."""
    outcomes: int = 4
    """With stochastic: sampled states per action, with equal probability."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("actor.simulations", self.simulations, 1, 2**16)
        require_range("actor.outcomes", self.outcomes, 1, 2**10)
        require_choice("actor.policy", self.policy, ("gumbel", "stochastic"))

    @classmethod
    def benchmarked(cls) -> dict[str, PlannerConfig]:
        """Both policies."""
        return {f"mcts, {config.policy}": config for config in (cls(policy="gumbel"), cls(policy="stochastic"))}

    def build(self, dream: Dream) -> "MCTS":
        """The planner for a dream. Raises `UserError` if the task names no discrete actions."""
        Head.of("categorical", dream)
        return MCTS(self, dream)


@struct.dataclass
class _After:
    """A state with a chosen action, before the noise is drawn."""

    state: DreamState
    action: Array
    """[] int32"""


@dataclass(frozen=True)
class MCTS(Planner):
    """The planner described by `MCTSConfig`; nothing is kept between decisions. A dream with numbers that are not
    finite earns nothing and is over."""

    @property
    def dream_steps(self) -> int:
        """Dream steps per decision."""
        config = self.config
        if config.policy == "gumbel":
            return config.simulations * config.hold
        # Each node computes all outcomes of an action and one of them again; the root computes all outcomes once.
        return (config.simulations * (config.outcomes + 1) + config.outcomes) * config.hold

    @property
    def planned_dreams(self) -> int:
        """Nodes of a tree."""
        return self.config.simulations + 1

    def first_plan(self) -> None:
        """None: there is no plan."""
        return

    def decide(self, params: Params, world: World, state: State, plan: None, key: Key) -> tuple[Action, None]:
        """The action that the tree search selects."""
        mctx, config = _mctx(), self.config
        rules = self.dream.without_full_return
        tree = _Tree(self, rules, params, replace(world, params=rules.prepare(world.params)))
        search_key, tree.key = jax.random.split(key)
        # Converted to raw data: the check for reused keys would reject a typed key where finished lanes wait for
        # others.
        search_key = jax.random.key_data(search_key)
        root = DreamState(state, jnp.int32(0), jnp.float32(0))
        logits, value = tree.judge(root)
        begin = mctx.RootFnOutput(prior_logits=logits[None], value=value[None], embedding=alone(root))
        # With outcomes an action takes two edges: the choice and the outcome.
        depth = config.horizon * (1 if config.policy == "gumbel" else 2)
        how = {"num_simulations": config.simulations, "max_depth": depth}
        with jax_defaults():
            if config.policy == "gumbel":
                # No noise at the root: the best action is to be executed. All actions are considered, not 16 at most.
                found = mctx.gumbel_muzero_policy(
                    (), search_key, begin, tree.step, gumbel_scale=0.0,
                    max_num_considered_actions=min(len(self.dream.actions), config.simulations), **how
                )  # fmt: skip
            else:
                found = mctx.stochastic_muzero_policy(
                    (), search_key, begin, tree.decide, tree.happen, dirichlet_fraction=0.0, temperature=0.0, **how
                )
        return jnp.asarray(self.dream.actions, jnp.float32)[found.action[0]], None


def _mctx() -> Any:
    """The library, imported on first use: programs without tree search start faster."""
    return import_module("mctx")


class _Tree:
    """The functions that mctx needs, for one tree."""

    key: Key
    """Key of the random outcomes of actions."""

    def __init__(self, planner: MCTS, dream: Dream, params: Params, world: World):
        self.planner, self.dream, self.params, self.world = planner, dream, params, world
        self.actions = jnp.asarray(dream.actions, jnp.float32)

    def judge(self, state: DreamState) -> tuple[Array, Array]:
        """The prior's logits [N] and the value []."""
        guide = self.planner.guide
        if guide is None:
            return jnp.zeros(len(self.actions), jnp.float32), jnp.float32(0)
        inputs = guide.inputs(self.world, state.world)
        logits: Any = guide.distribution(self.params["policy"], inputs, 0.0)
        return logits.logits, self.planner.value(self.params, self.world, state.world)

    def follow(self, state: DreamState, action: Array, key: Key) -> tuple[DreamState, Array, Array]:
        """The state after an action [], its reward, and the weight of all later rewards."""
        config = self.planner.config

        def one(number: Array, carry: tuple[DreamState, Array, Array]) -> tuple[DreamState, Array, Array]:
            state, earned, weight = carry
            noise = self.dream.model.noise(jax.random.fold_in(key, number))
            state, reward, ending = self.dream.prospect(self.world.params, state, self.actions[action], noise)
            earned += jnp.where(weight > 0, weight * reward, 0)
            return state, earned, weight * jnp.float32(config.discount) * (1 - ending)

        state, earned, weight = jax.lax.fori_loop(0, config.hold, one, (state, jnp.float32(0), jnp.float32(1)))
        # All numbers in a tree must be finite.
        return state, jnp.where(jnp.isfinite(earned), earned, 0), weight

    def step(self, nothing: Any, key: Array, action: Array, states: DreamState) -> tuple[Any, DreamState]:
        """The recurrent function of `mctx`; its key is raw."""
        mctx = _mctx()
        keys = jax.random.split(jax.random.wrap_key_data(key), len(action))
        after, earned, weight = jax.vmap(self.follow)(states, action, keys)
        logits, value = jax.vmap(self.judge)(after)
        value = jnp.where(weight > 0, value, 0)
        return mctx.RecurrentFnOutput(reward=earned, discount=weight, prior_logits=logits, value=value), after

    def outcome(self, after: _After, number: Array) -> tuple[DreamState, Array, Array]:
        """`follow` to the outcome with this number []; deterministic for a state and number."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, after.state.steps), number)
        return self.follow(after.state, after.action, key)

    def decide(self, nothing: Any, key: Key, action: Array, states: DreamState) -> tuple[Any, _After]:
        """The recurrent function of `mctx` for decisions: the value of an action is the mean over its outcomes."""
        mctx = _mctx()
        config, chosen = self.planner.config, _After(states, action)
        numbers = jnp.arange(config.outcomes, dtype=jnp.int32)
        after, earned, weight = jax.vmap(jax.vmap(self.outcome, (None, 0)), (0, None))(chosen, numbers)
        _, value = jax.vmap(jax.vmap(self.judge))(after)
        value = (earned + weight * jnp.where(weight > 0, value, 0)).mean(axis=1)
        chance = jnp.zeros((len(action), config.outcomes), jnp.float32)
        return mctx.DecisionRecurrentFnOutput(chance_logits=chance, afterstate_value=value), chosen

    def happen(self, nothing: Any, key: Key, number: Array, chosen: _After) -> tuple[Any, DreamState]:
        """The recurrent function of `mctx` for chance."""
        mctx = _mctx()
        after, earned, weight = jax.vmap(self.outcome)(chosen, number)
        logits, value = jax.vmap(self.judge)(after)
        value = jnp.where(weight > 0, value, 0)
        found = mctx.ChanceRecurrentFnOutput(action_logits=logits, value=value, reward=earned, discount=weight)
        return found, after
