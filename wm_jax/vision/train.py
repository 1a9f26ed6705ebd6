"""V's loss and training step, as pure functions.

Paper, appendix "Variational Autoencoder" (arXiv:1803.10122): squared reconstruction error plus the KL divergence of q(z
| frame) from N(0, 1), which costs nothing below a floor ("free bits", in the released code). Beyond the paper, errors
of moving parts may have extra weight.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from wm_jax import optimizers
from wm_jax.types import Array, Key, Params
from wm_jax.vision.model import Vision, sample


@struct.dataclass
class TrainState:
    """State of V's training; it resumes exactly from there."""

    params: Params
    opt_state: optax.OptState
    step: Array
    """[] int32: batches trained on so far."""


def loss(model: Vision, params: Params, frames: Array, key: Key) -> tuple[Array, dict[str, Array]]:
    """The loss of `frames` [B, 64, 64, 3] uint8 and its parts, all scalars, averaged over the batch. With a
    `motion_weight`, `frames` are pairs [B, 2, 64, 64, 3] of the previous frame and the frame itself.

    - reconstruction: squared error of pixels in [0, 1], summed over a frame's pixels and colours;
    - motion, with a `motion_weight` only: the same, each pixel multiplied by its largest change of a colour since the
      previous frame;
    - kl: KL(q(z | frame) || N(0, 1)) in nats, summed over z;
    - kl_floored: each frame's KL, but at least `kl_floor` * Z;
    - loss: reconstruction + motion_weight * motion + kl_floored.

    Raises ValueError for single frames instead of pairs, or pairs instead of single frames.
    """
    weight, pairs = model.config.motion_weight, frames.ndim == 5
    if pairs != (weight > 0):
        raise ValueError(f"with motion_weight {weight} frames must be [B, {'2, ' * (weight > 0)}64, 64, 3], "
                         f"found {frames.shape}")  # fmt: skip
    before, frames = (frames[:, 0], frames[:, 1]) if pairs else (frames, frames)
    stats = model.encode(params, frames)
    pixels = frames.astype(jnp.float32) / 255
    error = (pixels - model.decode(params, sample(stats, key))) ** 2
    kl = 0.5 * jnp.sum(stats.mean**2 + jnp.exp(stats.log_var) - 1 - stats.log_var, axis=-1)
    floored = jnp.maximum(kl, model.config.kl_floor * model.config.latent_size)
    reconstruction = _sum_of_pixels(error)
    parts = {"reconstruction": reconstruction, "kl": kl, "kl_floored": floored, "loss": reconstruction + floored}
    if pairs:
        change = jnp.max(jnp.abs(pixels - before.astype(jnp.float32) / 255), axis=-1, keepdims=True)
        parts["motion"] = _sum_of_pixels(change * error)
        parts["loss"] += weight * parts["motion"]
    metrics = {name: jnp.mean(part) for name, part in parts.items()}
    return metrics["loss"], metrics


def _sum_of_pixels(values: Array) -> Array:
    """[B] of [B, 64, 64, 3]."""
    return jnp.sum(values, axis=(-3, -2, -1))


def init(model: Vision, key: Key) -> TrainState:
    """The state before the first step, with fresh weights."""
    return continue_from(model, model.init(key))


def continue_from(model: Vision, params: Params) -> TrainState:
    """The state before the first step of a further training of `params`: new optimiser, schedule from its start.

    The weights are copied, because the first step reuses the memory of its state.
    """
    params = jax.tree.map(jnp.copy, params)
    return TrainState(params, _optimizer(model).init(params), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def train_step(model: Vision, state: TrainState, frames: Array, key: Key) -> tuple[TrainState, dict[str, Array]]:
    """One step of Adam on `frames` (as in `loss`): the next state, and the loss's parts before the step.

    `key` is that of the whole training: the step's own key is folded from it and `state.step`. `state` is donated.
    """
    step_key = jax.random.fold_in(key, state.step)
    gradient, metrics = jax.grad(loss, argnums=1, has_aux=True)(model, state.params, frames, step_key)
    updates, opt_state = _optimizer(model).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    return TrainState(params, opt_state, state.step + 1), metrics


@partial(jax.jit, static_argnames="model")
def evaluate(model: Vision, params: Params, frames: Array, key: Key) -> dict[str, Array]:
    """The loss's parts for held-out `frames` (as in `loss`)."""
    return loss(model, params, frames, key)[1]


def _optimizer(model: Vision) -> optax.GradientTransformation:
    return optimizers.make(model.config.optimizer, model.config.steps)
