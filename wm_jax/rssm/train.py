"""The RSSM's training step."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from wm_jax import optimizers
from wm_jax.rssm.loss import gather, loss
from wm_jax.rssm.model import RSSM
from wm_jax.types import Array, Key, Observations, Params


@struct.dataclass
class TrainState:
    """State of the training."""

    params: Params
    opt_state: optax.OptState
    step: Array
    """[] int32: number of training steps so far."""


def continue_from(model: RSSM, params: Params) -> TrainState:
    """The state before the first step of a training that starts from a copy of `params`."""
    return TrainState(jax.tree.map(jnp.copy, params), _optimizer(model).init(params), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def train_step(
    model: RSSM, state: TrainState, recorded: Observations, positions: Array, key: Key
) -> tuple[TrainState, dict[str, Array]]:
    """One step of Adam on the sequences at `positions` [B, T]; the given state's buffers are donated.

    `key` is that of the whole training: the step's own key is folded from it. Metrics, all []: the loss and its parts.
    """
    batch, key = gather(recorded, positions), jax.random.fold_in(key, state.step)
    gradient, metrics = jax.grad(loss, argnums=1, has_aux=True)(model, state.params, batch, key)
    updates, opt_state = _optimizer(model).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    return TrainState(params, opt_state, state.step + 1), metrics


@partial(jax.jit, static_argnames="model")
def evaluate(model: RSSM, params: Params, recorded: Observations, positions: Array, key: Key) -> dict[str, Array]:
    """The loss's parts, without training on the sequences."""
    return loss(model, params, gather(recorded, positions), key)[1]


def _optimizer(model: RSSM) -> optax.GradientTransformation:
    return optimizers.make(model.config.optimizer, model.config.steps)
