"""What a dreamt step earns, and when a dream is over: functions of what the world model expects, by name.

A rule of one's own is registered alike (docs/extending/): `@REWARDS.register` or `@ENDS.register` on a function of an
`Outcome` and the world model that expects it, for one dream; its name is what `dream.reward` or `dream.end` says.
"""

from collections.abc import Callable

import jax.numpy as jnp

from wm_jax.errors import UserError
from wm_jax.registry import Registry
from wm_jax.types import Array, Outcome
from wm_jax.worlds import WorldModel

Rule = Callable[[Outcome, WorldModel], Array]

REWARDS: Registry[Rule] = Registry("dream.reward")
"""Outcome → the step's reward []."""
ENDS: Registry[Rule] = Registry("dream.end")
"""Outcome → the probability [] that the step ends the dream."""


@REWARDS.register
def survival(outcome: Outcome, model: WorldModel) -> Array:
    """1 per step, the last included."""
    return jnp.ones((), jnp.float32)


@REWARDS.register
def predicted(outcome: Outcome, model: WorldModel) -> Array:
    """The reward that the model expects."""
    return expected(outcome.reward, model, "reward", "dream.reward is 'predicted'")


@REWARDS.register
def surprise(outcome: Outcome, model: WorldModel) -> Array:
    """How badly the model expects to predict: its loss with the sign flipped, the paper's curiosity (section 5)."""
    return expected(outcome.surprise, model, "surprise", "dream.reward is 'surprise'")


@REWARDS.register
def excess_surprise(outcome: Outcome, model: WorldModel) -> Array:
    """`surprise` less what of it the model foresees, the entropy of its prediction: chance that nobody can predict earns
    nothing. Exact at temperature 1."""
    setting = "dream.reward is 'excess_surprise'"
    found = expected(outcome.surprise, model, "surprise", setting)
    return found - expected(outcome.entropy, model, "surprise", setting)


@ENDS.register
def threshold(outcome: Outcome, model: WorldModel) -> Array:
    """1 where an end is more probable than the model's `end_threshold`: the paper's rule; what is only possible never
    happens."""
    if outcome.end is None:
        return jnp.zeros((), jnp.float32)
    return (outcome.end > model.end_threshold).astype(jnp.float32)


@ENDS.register
def drawn(outcome: Outcome, model: WorldModel) -> Array:
    """The probability that the model gives an end."""
    return expected(outcome.end, model, "end", "dream.end is 'drawn'")


def expected(field: Array | None, model: WorldModel, name: str, setting: str) -> Array:
    """A field of an outcome. Raises `UserError` while tracing where the model does not predict it."""
    if field is None:
        raise UserError(f"{setting} but the world model does not predict the {name} of a step; "
                        f"{model.missing.get(name, 'have its Outcome tell it')}, or "
                        f"choose another rule than {setting.rsplit(' ', 1)[-1]}")  # fmt: skip
    return field
