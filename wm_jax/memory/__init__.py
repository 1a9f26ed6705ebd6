"""M: the model that predicts the next step, an LSTM with a mixture density head; loss, training and evaluation are
separate modules."""

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
