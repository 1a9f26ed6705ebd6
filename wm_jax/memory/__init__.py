"""M: what happens next. The LSTM with a mixture density head; loss, training and evaluation are modules of their own."""

from wm_jax.memory.mixture import Mixture, MixtureNoise, draw, draw_noise, log_likelihood, sample_mixture
from wm_jax.memory.model import Memory, MemoryConfig, Prediction
from wm_jax.memory.recurrence import MemoryState

__all__ = [
    "Memory",
    "MemoryConfig",
    "MemoryState",
    "Mixture",
    "MixtureNoise",
    "Prediction",
    "draw",
    "draw_noise",
    "log_likelihood",
    "sample_mixture",
]
