"""The rules for the reward of a dreamt step and the end of a dream: named functions of the world model's predictions.

To add a rule (docs/extending/), use `@REWARDS.register` or `@ENDS.register` on a function of an `Outcome` and the world
model that predicted it, for one dream; its name is the value of `dream.reward` or `dream.end`.
"""

from collections.abc import Callable

import jax.numpy as jnp

from wm_jax.errors import UserError
from wm_jax.registry import Registry
from wm_jax.types import Array, Outcome
from wm_jax.worlds import WorldModel

Rule = Callable[[Outcome, WorldModel], Array]

REWARDS: Registry[Rule] = Registry("dream.reward")
"""(Outcome, world model) → the step's reward []."""
ENDS: Registry[Rule] = Registry("dream.end")
"""(Outcome, world model) → the probability [] that the step ends the dream."""


@REWARDS.register
def survival(outcome: Outcome, model: WorldModel) -> Array:
    """1 per step, including the last."""
    return jnp.ones((), jnp.float32)


@REWARDS.register
def predicted(outcome: Outcome, model: WorldModel) -> Array:
    """The model's predicted reward."""
    return expected(outcome.reward, model, "reward", "dream.reward is 'predicted'")


@REWARDS.register
def surprise(outcome: Outcome, model: WorldModel) -> Array:
    """The model's prediction of its own loss: the paper's curiosity, the loss with its sign flipped (section 5)."""
    return expected(outcome.surprise, model, "surprise", "dream.reward is 'surprise'")


@REWARDS.register
def excess_surprise(outcome: Outcome, model: WorldModel) -> Array:
    """`surprise` minus the entropy of the model's prediction: inherent randomness earns nothing. Exact at temperature
    1."""
    setting = "dream.reward is 'excess_surprise'"
    found = expected(outcome.surprise, model, "surprise", setting)
    return found - expected(outcome.entropy, model, "entropy", setting)


@ENDS.register
def threshold(outcome: Outcome, model: WorldModel) -> Array:
    """1 if the probability of an end exceeds the model's `end_threshold`, else 0, as in the paper; less probable ends
    never happen."""
    if outcome.end is None:
        return jnp.zeros((), jnp.float32)
    return (outcome.end > model.end_threshold).astype(jnp.float32)


@ENDS.register
def drawn(outcome: Outcome, model: WorldModel) -> Array:
    """The model's probability of an end."""
    return expected(outcome.end, model, "end", "dream.end is 'drawn'")


def expected(field: Array | None, model: WorldModel, name: str, setting: str) -> Array:
    """A field of an outcome. Raises `UserError` while tracing if the model does not predict it."""
    if field is None:
        raise UserError(f"{setting} but the world model does not predict the {name} of a step; "
                        f"{model.missing.get(name, 'add it to its Outcome')}, or "
                        f"choose another rule than {setting.rsplit(' ', 1)[-1]}")  # fmt: skip
    return field
