"""M's training: truncated back-propagation through time over one stream of episodes.

Each epoch shuffles the episodes, joins them into one stream and cuts it into B lanes of equal length. They are read
side by side, T frames per step, and the LSTM's state is carried along. With T = 500 this is the paper's Take Cover. If
all episodes have length T and their number is a multiple of B, every sequence is a whole episode: the paper's Car
Racing.
"""

from collections.abc import Iterator
from functools import partial
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from wm_jax import optimizers
from wm_jax.errors import UserError
from wm_jax.memory.loss import gather, loss
from wm_jax.memory.model import Memory
from wm_jax.memory.recurrence import MemoryState
from wm_jax.types import Array, Key, Observations, Params


@struct.dataclass
class Chunk:
    """Input of one training step."""

    positions: Array
    """[B, T] int32: indices among the N frames."""
    first: Array
    """[] bool: the chunk begins an epoch, so that no state carries over to it."""


@struct.dataclass
class TrainState:
    """State of the training."""

    params: Params
    opt_state: optax.OptState
    step: Array
    """[] int32: number of training steps so far."""
    memory_state: MemoryState
    """[B, H]: state of the LSTM after the last chunk."""


def chunks_per_epoch(length: np.ndarray, batch_size: int, sequence_length: int) -> int:
    """Training steps per epoch over episodes of `length` [E] frames; raises `UserError` if there is not even one."""
    frames = int(np.sum(length, dtype=np.int64))
    chunks = frames // (batch_size * sequence_length)
    if chunks == 0:
        raise UserError(
            f"M trains on {batch_size} sequences of {sequence_length} frames at a time, more than the {frames} frames "
            "recorded; with --redo, lower world.memory.batch_size or world.memory.sequence_length, or collect more episodes"
        )
    return chunks


def locate(step: int, chunks: int) -> tuple[int, int]:
    """The epoch of training step `step` (from 0), and the step's place among the epoch's `chunks`."""
    return divmod(step, chunks)


def epoch_positions(
    start: np.ndarray, length: np.ndarray, batch_size: int, sequence_length: int, seed: int, epoch: int
) -> np.ndarray:
    """The frames of an epoch, as positions among the N: int32 [chunks, B, T].

    The episodes (`start` [E], `length` [E]) are shuffled by (seed, epoch). Every frame comes at most once; the stream's
    last frames, fewer than B * T, are left out.
    """
    chunks = chunks_per_epoch(length, batch_size, sequence_length)
    order = np.random.default_rng((seed, epoch)).permutation(len(length))
    start, length = np.asarray(start, np.int32)[order], np.asarray(length, np.int32)[order]
    # Position = place in the stream + (start of the episode - its start in the stream).
    shift = start - (np.cumsum(length, dtype=np.int32) - length)
    stream = np.repeat(shift, length) + np.arange(length.sum(), dtype=np.int32)
    lanes = stream[: batch_size * chunks * sequence_length].reshape(batch_size, chunks, sequence_length)
    return np.ascontiguousarray(lanes.swapaxes(0, 1))


def chunks_from(
    start: np.ndarray, length: np.ndarray, batch_size: int, sequence_length: int, seed: int, step: int
) -> Iterator[Chunk]:
    """The chunks of training steps `step`, `step` + 1, ... without end, epoch after epoch."""
    chunks = chunks_per_epoch(length, batch_size, sequence_length)
    first_epoch, skip = locate(step, chunks)
    for epoch in count(first_epoch):
        positions = epoch_positions(start, length, batch_size, sequence_length, seed, epoch)
        for index in range(skip, chunks):
            yield Chunk(positions=jnp.asarray(positions[index]), first=jnp.asarray(index == 0))
        skip = 0


def init(memory: Memory, key: Key) -> TrainState:
    """The state before the first step."""
    return continue_from(memory, memory.init(key))


def continue_from(memory: Memory, params: Params) -> TrainState:
    """The state before the first step of a training that starts from a copy of `params`: new optimiser, step 0."""
    return TrainState(
        params=jax.tree.map(jnp.copy, params),
        opt_state=_optimizer(memory).init(params),
        step=jnp.zeros((), jnp.int32),
        memory_state=memory.initial_state((memory.config.batch_size,)),
    )


@partial(jax.jit, static_argnames="memory", donate_argnames="state")
def train_step(
    memory: Memory, state: TrainState, recorded: Observations, chunk: Chunk, key: Key
) -> tuple[TrainState, dict[str, Array]]:
    """One step of Adam on one chunk; the given state's buffers are donated.

    `key` is that of the whole training: the step's own key is folded from it. Metrics, all []: loss and its parts
    (`wm_jax.memory.loss.loss`).
    """
    sequences = gather(recorded, chunk.positions, jax.random.fold_in(key, state.step))
    carried = jax.tree.map(lambda array: jnp.where(chunk.first, 0, array), state.memory_state)
    gradient = jax.grad(loss, argnums=1, has_aux=True)
    gradients, (memory_state, metrics) = gradient(memory, state.params, carried, sequences)
    updates, opt_state = _optimizer(memory).update(gradients, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    return TrainState(params, opt_state, state.step + 1, memory_state), metrics


def _optimizer(memory: Memory) -> optax.GradientTransformation:
    return optimizers.make(memory.config.optimizer, memory.config.steps)
