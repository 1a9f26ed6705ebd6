"""The RSSM's loss, from frames to rewards, end to end (DreamerV3, equations 4 and 5).

At step t of a sequence the model has the state of frame t, from the posterior. It predicts the reward of the action
taken there, and whether it was the end, from the state of frame t + 1. After an episode's last action no frame is
recorded, so the prior's state is used.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from wm_jax.data.sequences import Steps, steps_at
from wm_jax.lanes import choose, many
from wm_jax.rssm import two_hot
from wm_jax.rssm.model import RSSM, RSSMState
from wm_jax.types import Array, Key, Observations, Params


@struct.dataclass
class Batch:
    """T steps of B sequences, time first."""

    obs: Any
    """[T, B, ...]: the stored observations."""
    steps: Steps


@struct.dataclass
class Followed:
    """The model's states along a batch, [T, B, ...]."""

    state: RSSMState
    """State on each frame, from the posterior."""
    posterior: Any
    """The posterior distributions."""
    next_deterministic: Array
    """h after each action."""


def gather(recorded: Observations, positions: Array) -> Batch:
    """The steps at `positions` [B, T] among the N frames, by `steps_at`."""
    positions = positions.T
    return Batch(jax.tree.map(lambda array: array[positions], recorded.encoded), steps_at(recorded, positions))


def follow(model: RSSM, params: Params, batch: Batch, key: Key) -> Followed:
    """The model's states along a batch; they start anew at each sequence's beginning and on each episode's first
    frame."""
    length, lanes = batch.steps.reward.shape
    embedded = model.embed(params, batch.obs)
    first = many(model.begin(params), lanes)
    noise = model.latent.noise(key, (length, lanes))

    def step(deterministic: Array, at: tuple[Array, Array, Array, Array]) -> tuple[Array, Followed]:
        embedded, action, restart, noise = at
        deterministic = choose(restart, first, deterministic)
        posterior = model.posterior(params, deterministic, embedded)
        state = RSSMState(deterministic, model.latent.draw(posterior, noise))
        following = model.follow(params, state, action)
        return following, Followed(state, posterior, following)

    return jax.lax.scan(step, first, (embedded, batch.steps.action, batch.steps.restart, noise))[1]


def loss(model: RSSM, params: Params, batch: Batch, key: Key) -> tuple[Array, dict[str, Array]]:
    """The training loss [] and its parts, each a mean over the steps that count:

    - image: the error of the observation, from the posterior's state;
    - reward, end: the losses of the heads;
    - kl: KL(posterior || prior) in nats, without `free_nats`.
    """
    config, latent, steps = model.config, model.latent, batch.steps
    follow_key, prior_key, image_key = jax.random.split(key, 3)
    followed = follow(model, params, batch, follow_key)
    prior = model.prior(params, followed.state.deterministic)
    fixed_prior, fixed_posterior = jax.lax.stop_gradient((prior, followed.posterior))
    # The same value with two different gradients.
    divergence = latent.divergence(fixed_posterior, prior)
    back = latent.divergence(followed.posterior, fixed_prior)
    after = _after(model, params, followed, steps, prior_key)
    reward = jnp.clip(steps.reward, *model.reward_range)
    outputs = model.reward_outputs(params, after)
    squared = config.reward_loss == "squared"
    error = 0.5 * (outputs[..., 0] - reward) ** 2 if squared else two_hot.cross_entropy(outputs, reward)
    means = {
        "image": _image_error(model, params, followed.state, batch, image_key),
        "reward": error.mean(),
        "kl": divergence.mean(),
    }
    total = (
        config.image_weight * means["image"]
        + config.reward_weight * means["reward"]
        + config.prior_weight * jnp.maximum(divergence, config.free_nats).mean()
        + config.posterior_weight * jnp.maximum(back, config.free_nats).mean()
    )
    if config.predict_end:
        entropy = optax.sigmoid_binary_cross_entropy(model.end_logit(params, after), steps.done)
        means["end"] = entropy.sum(where=steps.done_known) / jnp.maximum(steps.done_known.sum(), 1)
        total += config.end_weight * means["end"]
    return total, {"loss": total, **means}


def _image_error(model: RSSM, params: Params, state: RSSMState, batch: Batch, key: Key) -> Array:
    """[]: the mean error of observations, or an unbiased estimate from `config.reconstructed` of them."""
    seen = state, batch.obs, _before(batch)
    count = batch.steps.reward.size
    if chosen := model.config.reconstructed:
        which = jax.random.permutation(key, count)[:chosen]
        seen = jax.tree.map(lambda array: array.reshape(count, *array.shape[2:])[which], seen)
    state, obs, before = seen
    return model.sight.error(model.expect(params, state), obs, before).mean()


def _before(batch: Batch) -> Any:
    """The previous observations [T, B, ...]; the same observation where there is no previous one."""

    def shift(array: Array) -> Array:
        alone = batch.steps.restart[1:].reshape(*batch.steps.restart[1:].shape, *[1] * (array.ndim - 2))
        return jnp.concatenate([array[:1], jnp.where(alone, array[1:], array[:-1])])

    return jax.tree.map(shift, batch.obs)


def _after(model: RSSM, params: Params, followed: Followed, steps: Steps, key: Key) -> RSSMState:
    """The states [T, B] after the actions: the posterior's if there is a next frame, else the prior's."""
    prior = model.prior(params, followed.next_deterministic)
    imagined = model.latent.draw(prior, model.latent.noise(key, steps.reward.shape))
    seen = jnp.concatenate([followed.state.stochastic[1:], imagined[-1:]])
    is_seen = jnp.concatenate([steps.has_next[:-1], jnp.zeros_like(steps.has_next[-1:])])
    return RSSMState(followed.next_deterministic, jnp.where(is_seen[..., None], seen, imagined))
