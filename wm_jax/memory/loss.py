"""M's loss: the negative log-likelihood of the next z and, if enabled, the losses of the reward, the next action, M's
own surprise and the episode's end.

At step t of an episode of L steps M gets (z_t, action_t, restart_t = [t is 0]) and must predict z_{t+1}, reward_t and
whether the episode terminated with the step. The last step has no next frame, so its z is masked. If an episode was
truncated it is unknown whether it would have terminated, so the done of its last step is masked.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from wm_jax.data.sequences import steps_at
from wm_jax.memory.mixture import log_likelihood
from wm_jax.memory.model import Memory, Prediction
from wm_jax.memory.recurrence import MemoryState
from wm_jax.types import Array, Key, Observations, Params
from wm_jax.vision import sample

_CHUNK_BYTES = 4 * 2**20
"""Maximum size of a chunk of M's gates or outputs: it stays in a CPU's cache, in reused memory."""


@struct.dataclass
class Sequences:
    """T steps of B sequences, inputs and targets, time first."""

    z: Array
    """[T, B, Z]: sampled from V's posterior."""
    action: Array
    """[T, B, A]"""
    restart: Array
    """[T, B] bool: the step is its episode's first."""
    next_z: Array
    """[T, B, Z]; meaningless on an episode's last step."""
    next_action: Array
    """[T, B, A]; meaningless on an episode's last step."""
    has_next: Array
    """[T, B] bool: False on an episode's last step."""
    reward: Array
    """[T, B]"""
    done: Array
    """[T, B] bool: the episode terminated with this step."""
    done_known: Array
    """[T, B] bool: False on the last step of a truncated episode."""


def gather(recorded: Observations, positions: Array, key: Key) -> Sequences:
    """The steps at `positions` [B, T] among the N frames, with newly sampled z.

    Along T the positions increase by one within an episode and jump only from an episode's last frame to another's
    first.
    """
    positions = positions.T
    steps = steps_at(recorded, positions)
    after = jnp.minimum(positions[-1:] + 1, recorded.action.shape[0] - 1)
    frames = jnp.concatenate([positions, after])
    z = sample(jax.tree.map(lambda array: array[frames], recorded.encoded), key)
    return Sequences(
        z=z[:-1],
        action=steps.action,
        restart=steps.restart,
        next_z=z[1:],
        next_action=recorded.action[frames[1:]],
        has_next=steps.has_next,
        reward=steps.reward,
        done=steps.done,
        done_known=steps.done_known,
    )


def reward_loss(memory: Memory, predicted: Array, reward: Array) -> Array:
    """The loss [...] of expected rewards [...] for actual ones [...].

    In the squared error a few large rewards dominate, as it grows with their square. The alternative counts from the
    floor: with the prediction as the rate λ, a reward r costs λ - r log λ, Poisson's negative log-likelihood without
    its constant. Both are smallest at the reward's mean.
    """
    if memory.config.reward_loss == "squared":
        return (predicted - reward) ** 2
    floor = memory.reward_range[0]
    # A rate that rounds to 0 would make the first reward's loss infinite.
    rate = predicted - floor + 1e-6
    return rate - (reward - floor) * jnp.log(rate)


def step_losses(memory: Memory, prediction: Prediction, sequences: Sequences) -> dict[str, tuple[Array, Array]]:
    """Each part of the loss by step, and whether the step counts: two [T, B] for each predicted part.

    nll: -log p(next z), averaged over the latent dimensions; reward: `reward_loss` of the clipped reward;
    action: the squared error of the next action, averaged over its numbers; surprise: the squared error of the
    predicted nll;
    done: sigmoid cross-entropy, multiplied by `done_weight` where the episode ended.
    """
    nll = -log_likelihood(prediction.next_z, sequences.next_z).mean(axis=-1)
    parts = {"nll": (nll, sequences.has_next)}
    if prediction.reward is not None:
        reward = reward_loss(memory, prediction.reward, jnp.clip(sequences.reward, *memory.reward_range))
        parts["reward"] = (reward, jnp.ones_like(sequences.has_next))
    if prediction.action is not None:
        error = (prediction.action - sequences.next_action) ** 2
        parts["action"] = (error.mean(axis=-1), sequences.has_next)
    if prediction.surprise is not None:
        parts["surprise"] = ((prediction.surprise - jax.lax.stop_gradient(nll)) ** 2, sequences.has_next)
    if prediction.done_logit is not None:
        entropy = optax.sigmoid_binary_cross_entropy(prediction.done_logit, sequences.done)
        weight = jnp.where(sequences.done, jnp.float32(memory.config.done_weight), 1.0)
        parts["done"] = (entropy * weight, sequences.done_known)
    return parts


Sums = dict[str, tuple[Array, Array]]
"""For each part of the loss: its sum over the steps that count, and their number, both []."""


def _sums(memory: Memory, params: Params, state: MemoryState, sequences: Sequences) -> tuple[MemoryState, Sums]:
    """The state [B, H] after the sequences, and the sums over their steps."""
    state, h = memory.unroll(params, state, sequences.z, sequences.action, sequences.restart)
    prediction = memory.predict(params, h)
    if prediction.surprise is not None:
        # Without a gradient to h: predicting the surprise does not change the rest of M.
        prediction = replace(prediction, surprise=memory.surprise(params, jax.lax.stop_gradient(h)))
    parts = step_losses(memory, prediction, sequences)
    return state, {name: (jnp.sum(part, where=counts), counts.sum()) for name, (part, counts) in parts.items()}


def _sums_by_chunks(
    memory: Memory, params: Params, state: MemoryState, sequences: Sequences
) -> tuple[MemoryState, Sums]:
    """`_sums` for as many steps at a time as `_CHUNK_BYTES` allows, then for the rest.

    The gradient recomputes each chunk. On a CPU that is faster than storing the intermediate results of all steps.
    """
    steps, batch = sequences.restart.shape
    size = max(1, _CHUNK_BYTES // (4 * batch * max(memory.output_size, 4 * memory.config.hidden_size)))
    if steps <= size:
        return _sums(memory, params, state, sequences)
    sums = jax.checkpoint(partial(_sums, memory))
    whole = steps // size * size
    chunks = jax.tree.map(lambda array: array[:whole].reshape(-1, size, *array.shape[1:]), sequences)
    state, parts = jax.lax.scan(lambda state, chunk: sums(params, state, chunk), state, chunks)
    parts = jax.tree.map(lambda part: part.sum(axis=0), parts)
    if whole < steps:
        state, rest = sums(params, state, jax.tree.map(lambda array: array[whole:], sequences))
        parts = jax.tree.map(jnp.add, parts, rest)
    return state, parts


def loss(
    memory: Memory, params: Params, state: MemoryState, sequences: Sequences
) -> tuple[Array, tuple[MemoryState, dict[str, Array]]]:
    """The training loss nll + reward_weight * reward + action_weight * action + surprise + done, the state [B, H] after
    the sequences, and the parts.

    Each part is averaged over the steps that count.
    """
    state, sums = jax.lax.platform_dependent(
        params, state, sequences, cpu=partial(_sums_by_chunks, memory), default=partial(_sums, memory)
    )
    means = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
    config = memory.config
    weights = {"reward": config.reward_weight, "action": config.action_weight}
    total = sum((weights.get(name, 1.0) * mean for name, mean in means.items()), jnp.zeros((), jnp.float32))
    return total, (state, {"loss": total, **means})
