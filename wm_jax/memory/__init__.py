"""M: what happens next. The LSTM with a mixture density head, its loss, its training and how good it is."""

from wm_jax.memory.evaluation import evaluate
from wm_jax.memory.mixture import MixtureNoise, draw_noise, sample_mixture
from wm_jax.memory.model import Memory, MemoryConfig
from wm_jax.memory.train import (
    Chunk,
    TrainState,
    chunks_from,
    chunks_per_epoch,
    continue_from,
    epoch_positions,
    init,
    locate,
    train_step,
)

__all__ = [
    "Chunk",
    "Memory",
    "MemoryConfig",
    "MixtureNoise",
    "TrainState",
    "chunks_from",
    "chunks_per_epoch",
    "continue_from",
    "draw_noise",
    "epoch_positions",
    "evaluate",
    "init",
    "locate",
    "sample_mixture",
    "train_step",
]
